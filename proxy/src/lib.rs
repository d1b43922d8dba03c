//! skeleton

pub mod normal;
pub mod routing;
