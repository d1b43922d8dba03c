//! Problems: what is wrong with an object or a manifest, said so that its author can mend it. Floor 0.
//!
//! Every reason is a stable word. Reasons that Gateway API defines keep its spelling and belong to the condition that
//! Gateway API puts them in; a source that has a status to write turns a list of problems into conditions.

use std::{fmt, path::PathBuf, sync::Arc};

use mesh_api::model::ObjectRef;
use serde::{Deserialize, Serialize};

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Part of what the author wrote is not in force.
    Error,
    /// All is in force, but it hardly says what was meant.
    Warning,
}

/// The condition that a reason belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Condition {
    /// Whether the object itself can be obeyed.
    Accepted,
    /// Whether all that the object refers to is there and may be referred to.
    ResolvedRefs,
}

/// Why, as one stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A file or a folder cannot be read.
    Unreadable,
    /// A file, or the number of objects, exceeds a limit.
    TooLarge,
    /// A document is not YAML, or no object at all.
    Syntax,
    /// The same object stands in two places; the first one holds.
    Duplicate,
    /// A field has a value that it cannot have, or is unknown.
    Invalid,
    /// A value of the standard that the mesh does not carry out.
    UnsupportedValue,
    /// Some rules of a route are answered 500; the others hold.
    PartiallyInvalid,
    /// Another object says otherwise and is older.
    Conflicted,
    /// A reference to a kind that cannot stand there.
    InvalidKind,
    /// A route's backend, or its port, is not there.
    BackendNotFound,
    /// A reference into a namespace that does not allow it.
    RefNotPermitted,
    /// A policy's target is not there.
    TargetNotFound,
    /// A route's parent is not there.
    NoMatchingParent,
}

impl Reason {
    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "Unreadable",
            Self::TooLarge => "TooLarge",
            Self::Syntax => "Syntax",
            Self::Duplicate => "Duplicate",
            Self::Invalid => "Invalid",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::Conflicted => "Conflicted",
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::TargetNotFound => "TargetNotFound",
            Self::NoMatchingParent => "NoMatchingParent",
        }
    }

    /// The condition that it belongs to.
    #[must_use]
    pub fn condition(self) -> Condition {
        match self {
            Self::InvalidKind | Self::BackendNotFound | Self::RefNotPermitted | Self::TargetNotFound => {
                Condition::ResolvedRefs
            }
            _ => Condition::Accepted,
        }
    }
}

/// Where in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file.
    pub path: Arc<PathBuf>,
    /// Line, from 1; 0 where the whole file is meant.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.path.display()),
            line => write!(f, "{}:{line}", self.path.display()),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where in a manifest, where it came from one.
    pub place: Option<Place>,
    /// With which object, where that much could be read.
    pub object: Option<ObjectRef>,
    /// Path of the field, as in `spec.rules[0].matches[1].path`; empty for the whole object.
    pub field: String,
    /// Why, as one word.
    pub reason: Reason,
    /// How much it matters.
    pub severity: Severity,
    /// Why, for people: what is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    /// `path/file.yaml:LINE: Kind namespace/name: field.path: message`, each part where it is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if let Some(ObjectRef { kind, namespace, name }) = &self.object {
            let slash = if namespace.is_empty() { "" } else { "/" };
            write!(f, "{kind} {namespace}{slash}{name}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Most problems that are kept for one object: enough to mend it, and a bound.
pub const MAX_PER_OBJECT: usize = 32;

/// Gathers what is wrong with one object.
#[derive(Debug)]
pub struct Findings {
    object: ObjectRef,
    list: Vec<Problem>,
    refused: bool,
}

impl Findings {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new(object: ObjectRef) -> Self {
        Self { object, list: Vec::new(), refused: false }
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> &ObjectRef {
        &self.object
    }

    /// Wrong in a way that the whole object cannot be obeyed.
    pub fn refuse(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.refused = true;
        self.push(field.into(), reason, Severity::Error, message.into());
    }

    /// Wrong in a part that is replaced by something safe; the rest of the object holds.
    pub fn report(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.push(field.into(), reason, Severity::Error, message.into());
    }

    /// In force, but hardly what was meant.
    pub fn warn(&mut self, field: impl Into<String>, reason: Reason, message: impl Into<String>) {
        self.push(field.into(), reason, Severity::Warning, message.into());
    }

    /// True where the whole object cannot be obeyed.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused
    }

    /// The list.
    #[must_use]
    pub fn into_problems(self) -> Vec<Problem> {
        self.list
    }

    fn push(&mut self, field: String, reason: Reason, severity: Severity, message: String) {
        if self.list.len() < MAX_PER_OBJECT {
            let object = Some(self.object.clone());
            self.list.push(Problem { place: None, object, field, reason, severity, message });
        }
    }
}
