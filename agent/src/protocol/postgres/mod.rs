//! PostgreSQL, protocol 3.0.

pub mod error;
pub mod frame;
pub mod machine;
pub mod message;
pub mod sql;
pub mod value;
pub mod view;
