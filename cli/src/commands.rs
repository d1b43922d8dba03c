//! The commands, one file each. Floor 4: they read arguments, call the floors below, and print.

pub mod check;
pub mod completion;
pub mod demo;
pub mod demo_app;
pub mod exec;
pub mod part;
pub mod run;
pub mod status;
pub mod up;
pub mod version;
