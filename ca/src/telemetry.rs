//! The table of metrics. Floor 0: imports nothing of the crate.

use metrics::Unit;

/// Certificates issued, by kind of key.
pub const ISSUED: &str = "mesh_ca_certificates_issued_total";
/// Requests refused, by reason.
pub const REFUSED: &str = "mesh_ca_certificates_refused_total";
/// How long a call took, whatever came of it.
pub const DURATION: &str = "mesh_ca_certify_duration_seconds";
/// Calls that are being served or wait for it.
pub const CALLS: &str = "mesh_ca_certify_calls";
/// Members that follow the trust bundle.
pub const WATCHERS: &str = "mesh_ca_trust_watchers";
/// When the issuer expires.
pub const ISSUER_EXPIRY: &str = "mesh_ca_issuer_expiry_timestamp_seconds";
/// When roots expire: the earliest and the latest of those that are trusted.
pub const ROOT_EXPIRY: &str = "mesh_ca_root_expiry_timestamp_seconds";
/// When the authority's own certificate expires.
pub const SERVER_EXPIRY: &str = "mesh_ca_server_expiry_timestamp_seconds";
/// Trusted roots.
pub const ROOTS: &str = "mesh_ca_roots";
/// 1 for the phase in which the change of roots is.
pub const ROTATION_PHASE: &str = "mesh_ca_rotation_phase";
/// Steps of rotation that were done, by kind.
pub const ROTATIONS: &str = "mesh_ca_rotation_steps_total";
/// Renewals and reloads that failed.
pub const ROTATION_FAILURES: &str = "mesh_ca_rotation_failures_total";

/// 1 where this replica leads.
pub const LEADER: &str = "mesh_ca_leader";
/// Namespaces whose ConfigMap does not hold the present roots.
pub const TRUST_BEHIND: &str = "mesh_ca_trust_namespaces_behind";
/// Writes of the roots to namespaces, by outcome.
pub const TRUST_WRITES: &str = "mesh_ca_trust_writes_total";

/// Values of the label `phase`.
pub const PHASES: [&str; 3] = ["steady", "announced", "retiring"];

/// Upper bounds of the buckets of [`DURATION`].
pub const DURATION_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// As on the page of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric, for the page and for its reference.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Unit.
    pub unit: Unit,
    /// Labels, with their values where these are few.
    pub labels: &'static str,
    /// Meaning.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($name:ident $kind:ident $unit:ident [$labels:literal] $meaning:literal;)*) => {
        /// Every metric of the authority.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: $labels,
            meaning: $meaning,
        }),*];
    };
}

metrics! {
    ISSUED Counter Count ["key (p256, p384, ed25519, rsa)"] "Certificates issued, by kind of key.";
    REFUSED Counter Count ["reason"] "Requests for certificates refused, by reason: what is wrong with the token (`token_*`), with the signing request (`csr_*`), or `identity`, `not_signing`, `rate`, `busy`, `deadline`.";
    DURATION Histogram Seconds [""] "How long a request for a certificate took, whatever came of it.";
    CALLS Gauge Count [""] "Requests for certificates that are being served or wait for it.";
    WATCHERS Gauge Count [""] "Members that follow the trust bundle.";
    ISSUER_EXPIRY Gauge Seconds [""] "When the signing issuer expires, in seconds since 1970.";
    ROOT_EXPIRY Gauge Seconds ["which (earliest, latest)"] "When the earliest and the latest trusted root expire, in seconds since 1970.";
    SERVER_EXPIRY Gauge Seconds [""] "When the authority's own certificate expires, in seconds since 1970.";
    ROOTS Gauge Count [""] "Trusted roots.";
    ROTATION_PHASE Gauge Count ["phase (steady, announced, retiring)"] "1 for the phase in which the change of roots is.";
    ROTATIONS Counter Count ["step (announce, issue, retire, renew)"] "Steps of rotation that were done, by kind.";
    ROTATION_FAILURES Counter Count [""] "Renewals of the issuer and reloads of its files that failed.";
    LEADER Gauge Count [""] "1 where this replica holds the Lease: it rotates, and hands the roots out to namespaces.";
    TRUST_BEHIND Gauge Count [""] "Namespaces whose ConfigMap does not hold the present roots (at the leader).";
    TRUST_WRITES Counter Count ["outcome (written, gone, failed)"] "Writes of the roots to ConfigMaps of namespaces, by outcome; `gone`: the namespace was deleted meanwhile.";
}

/// Tells the recorder what each metric means.
pub fn describe() {
    for Metric { name, kind, unit, meaning, .. } in METRICS {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, *meaning),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, *meaning),
            Kind::Histogram => metrics::describe_histogram!(*name, *unit, *meaning),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for Metric { name, kind, .. } in METRICS {
            assert!(name.starts_with(mesh_api::names::METRIC_PREFIX));
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
    }
}
