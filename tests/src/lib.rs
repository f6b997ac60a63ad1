//! Harness of Postern's tests, of its demo and of its bench: real processes, real servers, the real kernel.
//!
//! *Invariant:* nothing that is started or made here outlives the process that did it. Every such thing is a guard that
//! undoes itself on drop, and is registered in [`undo`], which does it even after SIGKILL.

pub mod agent;
pub mod bpf;
pub mod certs;
pub mod command;
pub mod control;
pub mod dir;
pub mod leftovers;
pub mod net;
pub mod pooled;
pub mod postgres;
pub mod proc;
pub mod python;
pub mod suite;
pub mod tools;
pub mod turn;
pub mod undo;
pub mod users;

pub use agent::{Agent, AgentBuilder, Target};
pub use certs::Authority;
pub use command::{Cmd, Finished, Running};
pub use control::Control;
pub use dir::TempDir;
pub use net::{Netns, free_port};
pub use postgres::{Auth, Postgres, PostgresBuilder};
pub use proc::{cpu_time, fds, has_ended, rss_kib, wait_until};
pub use python::Python;
pub use suite::{Suite, full, suite};
pub use tools::tool;
pub use users::SystemUser;

/// What a case or a helper answers: an error is a text for whoever reads the test's output.
pub type Outcome<T = ()> = Result<T, String>;

// For the cases of `compile-fail`, which must see the very crates that the agent was built with.
pub use {::agent as postern, bytes, serde_json};
