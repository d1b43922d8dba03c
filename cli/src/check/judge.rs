//! The judges: facts in, verdict out. Floor 1 of `check`: imports `facts`, `verdict`, `pods`. They ask for nothing and
//! wait for nothing, so that every one can be tried with a table of facts.

pub mod certificates;
pub mod cluster;
pub mod cni;
pub mod configuration;
pub mod control;
pub mod injection;
pub mod install;
pub mod proxies;
pub mod webhook;

/// The fact, or the verdict of a check that cannot be held without it.
macro_rules! known {
    ($fact:expr) => {
        match $fact {
            Ok(fact) => fact,
            Err(missing) => return missing.verdict(),
        }
    };
}

pub(crate) use known;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
