//! skeleton

pub mod authz;
pub mod balance;
pub mod detect;
pub mod normal;
pub mod routing;
