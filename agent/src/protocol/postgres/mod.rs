//! PostgreSQL, protocol 3.0.

pub mod cancel;
pub mod error;
pub mod frame;
pub mod machine;
pub mod message;
pub mod sql;
pub mod startup;
pub mod upstream;
pub mod value;
pub mod view;
