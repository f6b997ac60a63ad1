//! Postern: least privilege for the subagents on this host. Read `session` first.

pub mod config;
pub mod gate;
pub mod identity;
pub mod masking;
pub mod model;
pub mod protocol;
pub mod recording;
pub mod warden;
