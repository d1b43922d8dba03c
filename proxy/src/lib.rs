//! skeleton

pub mod authz;
pub mod normal;
pub mod routing;
