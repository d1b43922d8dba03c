//! Each judge against a cluster on which one thing is broken. A table a floor: what is broken, which check says so, how it
//! ends, and words that its reader needs.

mod certificates;
mod control;
mod members;
mod platform;

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use mesh_api::names::{API_VERSION, GATEWAY_API_VERSION};
use mesh_controller::{
    problem::{Condition as Of, Severity},
    status::{KeyStatus, ProblemView, Refusal},
};
use serde_json::json;

use super::fixtures::*;
use crate::check::{
    catalog::{CHECKS, Stage},
    facts::{Clock, Condition, Facts, Fault, Missing, Right, Trial},
    report::Report,
    verdict::{Outcome, Verdict},
};

type Case = (&'static str, fn(&mut Facts), &'static str, Outcome, &'static [&'static str]);

fn verdict_of(facts: &Facts, name: &str) -> Verdict {
    let check = CHECKS.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}"));
    (check.judge)(facts)
}

fn hold(cases: &[Case]) {
    for (what, change, check, outcome, words) in cases {
        let mut facts = healthy();
        change(&mut facts);
        let verdict = verdict_of(&facts, check);
        assert_eq!(verdict.outcome, *outcome, "{what}: {verdict:?}");
        let text = format!("{} | {} | {}", verdict.summary, verdict.details.join(" | "), verdict.hint);
        for word in *words {
            assert!(text.contains(word), "{what}: no `{word}` in: {text}");
        }
        let judged = *outcome >= Outcome::Warning;
        assert_eq!(
            judged,
            !verdict.hint.is_empty(),
            "{what}: what is wrong has a hint, else there is none: {verdict:?}"
        );
    }
}

const OK: Outcome = Outcome::Ok;
const SKIP: Outcome = Outcome::Skipped;
const WARN: Outcome = Outcome::Warning;
const ERR: Outcome = Outcome::Error;

#[test]
fn where_all_is_well_every_check_says_so() {
    let facts = healthy();
    for stage in [Stage::Installed, Stage::Proxies] {
        let report = Report::judge(&facts, stage);
        let other: Vec<_> =
            report.checks.iter().filter(|line| line.verdict.outcome != OK).map(|line| line.name).collect();
        // The plugin is not used there.
        assert_eq!(other, ["cni-nodes"], "{report:#?}");
        assert!(report.is_good());
    }
}

#[test]
fn a_cluster_without_the_mesh_is_blamed_once() {
    let mut facts = healthy();
    facts.deployments = Ok(Vec::new());
    facts.system_pods = Ok(Vec::new());
    facts.replicas.clear();
    facts.groups.as_mut().unwrap().remove("mesh.dev");
    let report = Report::judge(&facts, Stage::Installed);
    let bad: Vec<_> = report.checks.iter().filter(|line| line.verdict.outcome >= WARN).map(|line| line.name).collect();
    assert_eq!(bad, ["control-plane-deployments"]);
}

#[test]
fn what_could_not_be_looked_at_is_never_well() {
    let with = |fault| Missing { what: "the pods".into(), fault, why: "no".into() };
    let outcomes =
        [Fault::Unasked, Fault::Rights, Fault::Server, Fault::Mesh].map(|fault| with(fault).verdict().outcome);
    assert_eq!(outcomes, [SKIP, WARN, ERR, ERR]);
    let mut facts = healthy();
    facts.pods = Err(with(Fault::Rights));
    facts.namespaces = Err(with(Fault::Server));
    for name in
        ["pods-injected", "pods-excluded", "pods-admitted", "proxies-running", "proxies-connected", "trust-bundles"]
    {
        assert!(verdict_of(&facts, name).outcome >= WARN, "{name}");
    }
}
