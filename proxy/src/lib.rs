//! skeleton

pub mod authz;
pub mod balance;
pub mod normal;
pub mod routing;
