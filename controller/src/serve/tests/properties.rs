//! For any history: what a proxy holds after it took the replies is what is true, and where nothing changed nothing is
//! sent.

use std::sync::Arc;

use mesh_api::{
    convert::{destination_to_proto, version_of},
    model::{Target, destination::Destination},
};
use proptest::prelude::*;

use crate::{
    fixtures::{client, settings, target},
    index::{
        Index,
        tests::{Step, steps},
    },
    resolve,
    serve::{Answer, Reply, Sent, Snapshot, decide},
};

fn answer(index: &Index, target: &Target) -> Answer {
    match resolve::destination(index, target, &client("one")) {
        Ok(value) => {
            let version = version_of(&destination_to_proto(&value)).into();
            Answer::Destination(Arc::new(Snapshot { version, value }))
        }
        Err(missing) => Answer::Missing(missing.to_string()),
    }
}

/// What a proxy does with a reply; true where it takes it over.
fn receive(held: &mut Option<Destination>, reply: &Reply) {
    match reply {
        Reply::Destination(now) => *held = Some(now.value.clone()),
        Reply::Delta { base, delta, version } => {
            let held = held.as_mut().expect("a change has a base");
            assert_eq!(**base, *version_of(&destination_to_proto(held)));
            held.apply(delta.clone()).unwrap();
            assert_eq!(**version, *version_of(&destination_to_proto(held)));
        }
        Reply::NotFound(_) => *held = None,
        Reply::Current(_) | Reply::Inbound(_) => panic!("{reply:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_sent_makes_what_is_true(steps in steps(40), looks in proptest::collection::vec(0..4u8, 40)) {
        let mut index = Index::new(settings());
        let watched = target("s1.one:80");
        let (mut held, mut sent) = (None, Sent::Claimed("".into()));
        for (step, look) in steps.iter().zip(looks) {
            match step {
                Step::Apply(object) => index.apply(object),
                Step::Delete(object) => index.delete(object),
            };
            // A slow reader looks now and then; one that refuses keeps what it had.
            if look == 0 {
                continue;
            }
            let now = answer(&index, &watched);
            if let Some(reply) = decide(&sent, &now) {
                sent = Sent::after(&now);
                if look == 1 && matches!(reply, Reply::Destination(_) | Reply::Delta { .. }) {
                    sent.refused();
                    continue;
                }
                receive(&mut held, &reply);
            }
            prop_assert!(decide(&sent, &now).is_none(), "no change, no message");
        }
        // At the end it reads on and takes everything.
        let touch = crate::fixtures::object(
            "apiVersion: v1\nkind: Service\nmetadata: {name: s1, namespace: one}\nspec: {ports: [{port: 80, targetPort: 9}]}",
        );
        index.apply(&touch);
        let now = answer(&index, &watched);
        if let Some(reply) = decide(&sent, &now) {
            receive(&mut held, &reply);
            let truth = resolve::destination(&index, &watched, &client("one")).ok();
            prop_assert_eq!(held, truth);
        }
    }
}
