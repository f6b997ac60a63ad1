//! Targets of fuzzing for PostgreSQL.

pub mod opening;
pub mod script;
pub mod session;
