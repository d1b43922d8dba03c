//! The reference pages of the certificate authority are made from its code; this holds them fresh. `make docs` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{fmt::Write, path::Path};

use mesh_ca::{
    config::{Config, KEYS},
    telemetry::METRICS,
};

/// Compares a page with what is in the repository, or writes it where `MESH_UPDATE_DOCS` is set.
fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/reference/{name} is not what the code says; run `make docs`");
}

#[test]
fn reference_configuration_of_the_ca() {
    let mut page = String::from(
        "# Configuration of the certificate authority\n\nDefaults, then the file of `--config` (TOML, or JSON), then the environment, \
         then `--set KEY=VALUE`. In the environment a key is written with the prefix `MESH_`, in capitals, `__` for `.`: \
         `log.level` is `MESH_LOG__LEVEL`. An unknown or wrong key is an error that names it and the nearest right one; \
         all mistakes are reported at once.\n\nMade from the code; `make docs` writes it anew.\n\n| key | default | \
         meaning |\n|---|---|---|\n",
    );
    let defaults = mesh_api::config::keys_of(&Config::default());
    for (key, meaning) in KEYS {
        let default = defaults.iter().find(|(known, _)| known == key).map(|(_, value)| value.to_string()).unwrap();
        writeln!(page, "| `{key}` | `{default}` | {meaning} |").unwrap();
    }
    check("ca-configuration.md", &page);
}

#[test]
fn reference_metrics_of_the_ca() {
    let mut page = String::from(
        "# Metrics of the certificate authority\n\nServed at `/metrics` of the admin server. Base units: seconds, bytes. No label \
         holds a value that a client chose.\n\nMade from the code; `make docs` writes it anew.\n\n| metric | kind | \
         labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        writeln!(page, "| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), metric.labels, metric.meaning)
            .unwrap();
    }
    check("ca-metrics.md", &page);
}
