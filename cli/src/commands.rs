//! The commands, one file each. Floor 4: they read arguments, call the floors below, and print.

pub mod check;
pub mod check_inject;
pub mod completion;
pub mod dashboard;
pub mod demo;
pub mod demo_app;
pub mod exec;
pub mod inject;
pub mod install;
pub mod part;
pub mod prune;
pub mod run;
pub mod status;
pub mod uninject;
pub mod uninstall;
pub mod up;
pub mod upgrade;
pub mod version;
pub mod viz;
