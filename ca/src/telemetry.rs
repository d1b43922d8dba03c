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

/// Values of the label `phase`.
pub const PHASES: [&str; 3] = ["steady", "announced", "retiring"];

/// Upper bounds of the buckets of [`DURATION`].
pub const DURATION_BUCKETS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const TABLE: &[(&str, Kind, Unit, &str)] = &[
    (ISSUED, Kind::Counter, Unit::Count, "Certificates issued, by kind of key"),
    (REFUSED, Kind::Counter, Unit::Count, "Requests for certificates refused, by reason"),
    (DURATION, Kind::Histogram, Unit::Seconds, "How long a request for a certificate took"),
    (CALLS, Kind::Gauge, Unit::Count, "Requests for certificates that are being served or wait for it"),
    (WATCHERS, Kind::Gauge, Unit::Count, "Members that follow the trust bundle"),
    (ISSUER_EXPIRY, Kind::Gauge, Unit::Seconds, "When the signing issuer expires, in seconds since 1970"),
    (ROOT_EXPIRY, Kind::Gauge, Unit::Seconds, "When the earliest and the latest trusted root expire"),
    (SERVER_EXPIRY, Kind::Gauge, Unit::Seconds, "When the authority's own certificate expires"),
    (ROOTS, Kind::Gauge, Unit::Count, "Trusted roots"),
    (ROTATION_PHASE, Kind::Gauge, Unit::Count, "1 for the phase in which the change of roots is"),
    (ROTATIONS, Kind::Counter, Unit::Count, "Steps of rotation that were done, by kind"),
    (ROTATION_FAILURES, Kind::Counter, Unit::Count, "Renewals of the issuer and reloads of its files that failed"),
];

/// Tells the recorder what each metric means.
pub fn describe() {
    for (name, kind, unit, help) in TABLE {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *unit, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *unit, *help),
            Kind::Histogram => metrics::describe_histogram!(*name, *unit, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        for (name, kind, ..) in TABLE {
            assert!(name.starts_with(mesh_api::names::METRIC_PREFIX));
            assert_eq!(name.ends_with("_total"), matches!(kind, Kind::Counter), "{name}");
        }
    }
}
