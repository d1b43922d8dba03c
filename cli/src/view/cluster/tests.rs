//! From facts to tables.

use std::time::Instant;

use mesh_controller::status::KeyStatus;

use super::*;
use crate::{
    check::{
        facts::{Fault, Missing},
        judge::fixtures::{VERSION, healthy, meshed_pod, of, proxy as connection},
    },
    io::{Out, tests::Shared},
};

fn status(facts: &Facts) -> ClusterStatus {
    ClusterStatus::of(facts, &scrape(Instant::now(), &facts.proxies), None)
}

fn shown(status: &ClusterStatus) -> String {
    let shared = Shared::default();
    status.show(&mut Out::to(shared.clone())).unwrap();
    shared.text()
}

#[test]
fn all_is_well() {
    let status = status(&healthy());
    assert!(status.is_good());
    let wanted = format!(
        "CONTROL PLANE     POD                 STATE   VERSION   NODE     PROXIES   RESTARTS\n\
         mesh-ca           mesh-ca-1           ready   {VERSION}     node-1         -          0\n\
         mesh-controller   mesh-controller-1   ready   {VERSION}     node-1         1          0\n\n\
         POD          SIDECAR   VERSION   CONTROLLER          CONFIGURATION   ACKNOWLEDGED   CERTIFICATE\n\
         shop/web-1   ready     {VERSION}     mesh-controller-1   in sync         1/1            for 60min\n"
    );
    assert_eq!(shown(&status), wanted);
}

#[test]
fn a_sidecar_is_looked_for_at_every_controller_and_the_newest_connection_holds() {
    let mut facts = healthy();
    let mut other = facts.replicas[1].clone();
    other.pod = "mesh-controller-2".into();
    let mut moved = connection("shop", "web-1");
    moved.since_ms = 9;
    let behind = KeyStatus { sent: "v2".into(), acked: Some("v1".into()), ..KeyStatus::default() };
    moved.keys.insert("shop/cart:80".into(), behind);
    other.controller.as_mut().unwrap().proxies = Ok(vec![moved]);
    facts.replicas.push(other);
    let status = status(&facts);
    let proxy = &status.proxies[0];
    assert_eq!(proxy.controller.as_deref(), Some("mesh-controller-2"));
    assert!(!proxy.in_sync && !status.is_good());
    let text = shown(&status);
    assert!(text.contains("1 of 2 behind") && text.contains("1/2"), "{text}");
    assert!(text.contains("shop/web-1: shop/cart:80: runs v1, was sent v2"), "{text}");
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json.pointer("/proxies/0/keys/1/acknowledged").unwrap(), "v1");
    assert_eq!(json.pointer("/proxies/0/keys/1/current").unwrap(), "v2");
}

#[test]
fn what_is_not_connected_or_not_known_is_not_good() {
    let mut facts = healthy();
    facts.pods.as_mut().unwrap().push(of(meshed_pod("shop", "lost")));
    let with_lost = status(&facts);
    assert!(!with_lost.is_good());
    assert!(shown(&with_lost).contains("not connected"), "{}", shown(&with_lost));

    let mut facts = healthy();
    facts.pods = Err(Missing { what: "the pods".into(), fault: Fault::Rights, why: "you may not".into() });
    let without = status(&facts);
    assert!(!without.is_good());
    assert!(shown(&without).contains("not known: the pods: you may not"), "{}", shown(&without));
}

#[test]
fn without_a_control_plane_nothing_is_good() {
    let mut facts = healthy();
    facts.system_pods = Ok(Vec::new());
    facts.replicas.clear();
    facts.pods = Ok(Vec::new());
    let status = status(&facts);
    assert!(!status.is_good());
    assert!(shown(&status).contains("there is no control plane"));
}
