//! A snapshot of a database's catalogue: relations, columns, inheritance, functions, operators, types that users made.

/// The snapshot.
#[derive(Debug, Default)]
pub struct Catalogue;
