//! Why a pod gets a sidecar or not, as stable words.

use std::fmt;

use serde::{Serialize, Serializer};

/// Why. The words are stable; what may be done about it stands in the sentence beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Injected: the pod or its namespace asks for it.
    Enabled,
    /// Left alone: nobody asks for it.
    NotEnabled,
    /// Left alone: the pod or its namespace asks for none.
    Disabled,
    /// Left alone: the namespace belongs to the cluster or to the mesh itself.
    SystemNamespace,
    /// Left alone: the pod uses its node's network.
    HostNetwork,
    /// Left alone: the pod runs on Windows.
    Windows,
    /// Left alone: the pod only mirrors a static one.
    StaticPod,
    /// Refused: it is no pod.
    NotAPod,
    /// Refused: a label or an annotation has a value that it cannot have.
    InvalidValue,
    /// Refused: a container has the user id that tells the proxy from the application.
    ReservedUser,
    /// Refused: a container or a volume has a name of the mesh's, and is not the mesh's.
    ReservedName,
    /// Refused: a container says that it listens on a port of the sidecar's.
    ReservedPort,
    /// Refused: a plain sidecar would keep the Job from ending.
    JobNeedsNativeSidecar,
    /// Refused: native sidecars are asked for where the cluster has none.
    NoNativeSidecars,
}

impl Reason {
    /// Every reason, for the reference page.
    pub const ALL: [Self; 14] = [
        Self::Enabled,
        Self::NotEnabled,
        Self::Disabled,
        Self::SystemNamespace,
        Self::HostNetwork,
        Self::Windows,
        Self::StaticPod,
        Self::NotAPod,
        Self::InvalidValue,
        Self::ReservedUser,
        Self::ReservedName,
        Self::ReservedPort,
        Self::JobNeedsNativeSidecar,
        Self::NoNativeSidecars,
    ];

    /// The stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::NotEnabled => "NotEnabled",
            Self::Disabled => "Disabled",
            Self::SystemNamespace => "SystemNamespace",
            Self::HostNetwork => "HostNetwork",
            Self::Windows => "Windows",
            Self::StaticPod => "StaticPod",
            Self::NotAPod => "NotAPod",
            Self::InvalidValue => "InvalidValue",
            Self::ReservedUser => "ReservedUser",
            Self::ReservedName => "ReservedName",
            Self::ReservedPort => "ReservedPort",
            Self::JobNeedsNativeSidecar => "JobNeedsNativeSidecar",
            Self::NoNativeSidecars => "NoNativeSidecars",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A reason with the field that it is about and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The stable word.
    pub reason: Reason,
    /// Path of the field, as in `metadata.annotations[mesh.dev/inject]`.
    pub field: String,
    /// Why, and where it helps what to do.
    pub message: String,
}

impl Fault {
    pub(super) fn new(reason: Reason, field: impl Into<String>, message: String) -> Self {
        Self { reason, field: field.into(), message }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// As much of somebody's text as a message can carry, in one line.
pub(super) fn shown(text: &str) -> String {
    let line: String = text.chars().take(64).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(64).is_some() { line + "…" } else { line }
}
