//! skeleton

pub mod normal;
