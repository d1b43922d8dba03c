//! What a change may have changed for those who watch.

use std::{collections::BTreeSet, net::IpAddr};

use mesh_api::model::{Target, WorkloadId};

use crate::translate::ServiceId;

/// Something that an answer can depend on. Who watches an answer watches its topics.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// The destination of a Service, by name, whether it exists or not.
    Service(ServiceId),
    /// Destinations of an address: a Service's virtual one, or a workload's.
    Address(IpAddr),
    /// The inbound policy of a workload.
    Workload(WorkloadId),
}

impl Topic {
    /// What the answer for a target depends on.
    #[must_use]
    pub fn of_target(target: &Target) -> Self {
        match target {
            Target::Service { namespace, name, .. } => {
                Self::Service(ServiceId { namespace: namespace.clone(), name: name.clone() })
            }
            Target::Address(address) => Self::Address(address.ip().to_canonical()),
        }
    }
}

/// Topics whose answers may differ from before. Answers of all other topics are the same as before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty(BTreeSet<Topic>);

impl Dirty {
    /// True where nothing can have changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The topics, each once.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.iter()
    }

    /// True where the topic is in it.
    #[must_use]
    pub fn contains(&self, topic: &Topic) -> bool {
        self.0.contains(topic)
    }

    /// Adds another change.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn mark(&mut self, topic: Topic) {
        self.0.insert(topic);
    }
}
