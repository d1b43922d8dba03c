//! A decision, told.

use mesh_controller::inject::{Decision, Fault, Record};
use serde::Serialize;

use crate::io::{Out, Tone};

/// What becomes of one pod, or of the pods of one workload.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What it is about: kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `inject`, `leave` or `refuse`.
    pub decision: &'static str,
    /// Why.
    pub reasons: Vec<Fault>,
    /// What hardly is what was meant.
    pub warnings: Vec<String>,
    /// What the sidecar would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Record>,
    /// The sidecar that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has: Option<Record>,
    /// What else there is to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Explanation {
    /// Of a decision about something.
    #[must_use]
    pub fn new(kind: &str, namespace: &str, name: &str, decision: Decision) -> Self {
        let (word, reasons, warnings, sidecar) = match decision {
            Decision::Inject(injection) => {
                ("inject", vec![injection.because], injection.warnings, Some(injection.record))
            }
            Decision::Leave(fault) => ("leave", vec![fault], Vec::new(), None),
            Decision::Refuse(faults) => ("refuse", faults, Vec::new(), None),
        };
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            decision: word,
            reasons,
            warnings,
            sidecar,
            has: None,
            notes: Vec::new(),
        }
    }

    /// True where the pod could not start.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.decision == "refuse"
    }

    /// Shows it to people.
    ///
    /// # Errors
    /// As the system says.
    pub fn show(&self, out: &mut Out) -> std::io::Result<()> {
        let (tone, verdict) = match self.decision {
            "inject" => (Tone::Good, "gets a sidecar"),
            "leave" => (Tone::Plain, "gets no sidecar"),
            _ => (Tone::Bad, "is refused"),
        };
        out.toned(tone, &format!("{} {}/{}: {verdict}", self.kind, self.namespace, self.name))?;
        for fault in &self.reasons {
            out.line(format_args!("  {}: {}", fault.reason.as_str(), crate::io::printable(&fault.to_string())))?;
        }
        if let Some(record) = &self.sidecar {
            let form = if record.native { "a native sidecar" } else { "a plain container" };
            let by = if record.cni { "the CNI plugin" } else { "an init container" };
            out.line(format_args!("  {}, {form}, redirection by {by}", crate::io::printable(&record.image)))?;
        }
        for warning in &self.warnings {
            out.toned(Tone::Warn, &format!("  warning: {warning}"))?;
        }
        for note in &self.notes {
            out.toned(Tone::Warn, &format!("  {note}"))?;
        }
        Ok(())
    }
}
