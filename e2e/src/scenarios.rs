//! All scenarios of the suite on a cluster, in the order in which they are run. Floor 6: imports `suite`.

pub mod absence;
pub mod change;
pub mod cluster;
pub mod cni;
pub mod drain;
pub mod families;
pub mod helm;
pub mod identity;
pub mod install;
pub mod readme;
pub mod requests;
pub mod rights;
pub mod shop;
pub mod upgrade;
mod viz;
pub mod workloads;

use crate::suite::Scenario;

/// Every scenario there is.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        cluster::SCENARIOS,
        install::BEFORE,
        shop::SCENARIOS,
        workloads::SCENARIOS,
        families::SCENARIOS,
        change::SCENARIOS,
        drain::SCENARIOS,
        absence::SCENARIOS,
        requests::SCENARIOS,
        cni::SCENARIOS,
        identity::SCENARIOS,
        upgrade::SCENARIOS,
        rights::SCENARIOS,
        install::AFTER,
        helm::SCENARIOS,
        readme::SCENARIOS,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_fit_into_namespaces() {
        let mut seen = std::collections::HashSet::new();
        for scenario in all() {
            assert!(seen.insert(scenario.name), "{} is there twice", scenario.name);
            let good =
                scenario.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
            assert!(good && scenario.name.len() <= 48, "{}", scenario.name);
        }
    }
}
