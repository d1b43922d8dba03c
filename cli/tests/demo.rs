//! The demo proves itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

mod common;

#[tokio::test]
async fn the_demo_holds_what_it_promises() {
    let run = common::meshctl(&["demo", "--check", "-o", "json"]).await;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(run.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&run.stderr));
    let outcomes: Vec<serde_json::Value> = serde_json::from_str(&said).unwrap();
    assert!(outcomes.len() >= 10 && outcomes.iter().all(|outcome| outcome["good"] == true), "{said}");
}

#[tokio::test]
async fn without_a_terminal_it_prints_plain_lines() {
    let run = common::meshctl(&["demo", "--seconds", "12"]).await;
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert_eq!(run.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&run.stderr));
    assert!(!said.contains('\u{1b}'), "{said}");
    for wanted in ["demo/payments-v2", "spiffe://cluster.local/ns/demo/sa/cart", "/traces"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}
