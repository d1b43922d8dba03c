//! Ordinary traffic through the server and client half.

#[path = "support/h1.rs"]
mod support;

use support::{Fixture, run};

#[test]
fn a_request_goes_there_and_back_and_the_connections_are_kept() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        for _ in 0..5 {
            t.good_on(&mut client).await;
        }
        assert_eq!(t.recorder.conns.borrow().len(), 1);
        assert_eq!(t.pool.borrow().len(), 1);
    });
}
