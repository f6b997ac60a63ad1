//! Postern: least privilege for the subagents on this host. Read `session` first.

pub mod cli;
pub mod config;
pub mod control;
pub mod credential;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gate;
pub mod identity;
pub mod limits;
pub mod masking;
pub mod model;
pub mod policy;
pub mod protocol;
pub mod recording;
pub mod selftest;
pub mod session;
pub mod target;
pub mod warden;
