//! skeleton

pub mod authz;
pub mod balance;
pub mod budget;
pub mod detect;
pub mod normal;
pub mod routing;
pub mod trace;
