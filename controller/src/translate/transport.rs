//! TransportPolicies.

use std::collections::BTreeMap;

use mesh_api::{
    model::policy::Transport,
    resources::{TransportMode, TransportPolicy},
};

use super::{Part, Rank, TransportRule, Verdict, target};
use crate::problem::{Findings, Reason};

/// Most exceptions of a policy.
const MAX_PORTS: usize = 256;

pub(super) fn translate(object: &TransportPolicy, findings: &mut Findings) -> Verdict {
    let spec = &object.spec;
    let targets = target::translate(&spec.target_refs, spec.selector.as_ref(), &object.metadata.namespace, findings);
    let mut ports = BTreeMap::new();
    if spec.ports.len() > MAX_PORTS {
        let message = format!("{} entries, at most {MAX_PORTS} are allowed", spec.ports.len());
        findings.refuse("spec.ports", Reason::TooLarge, message);
    }
    for (at, port) in spec.ports.iter().take(MAX_PORTS).enumerate() {
        let field = format!("spec.ports[{at}].port");
        if port.port == 0 {
            findings.refuse(&field, Reason::Invalid, "a port is a number from 1 to 65535");
        }
        if ports.insert(port.port, mode(port.mode)).is_some() {
            findings.refuse(&field, Reason::Invalid, format!("port {} is there twice", port.port));
        }
    }
    let origin = findings.object().clone();
    let rank = Rank::new(object.metadata.creation_timestamp.as_deref(), &origin);
    let policy = TransportRule { origin, rank, targets, mode: mode(spec.mode), ports };
    let stand_in = TransportRule { mode: Transport::Strict, ports: BTreeMap::new(), ..policy.clone() };
    Verdict::of(findings, Part::Transport(policy), Some(Part::Transport(stand_in)))
}

fn mode(mode: TransportMode) -> Transport {
    match mode {
        TransportMode::Permissive => Transport::Permissive,
        TransportMode::Strict => Transport::Strict,
    }
}
