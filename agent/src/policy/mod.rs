//! Policy: a principal's action at a moment in, a verdict out. Cedar lives here and nowhere else.
//!
//! Pure once loaded: no socket, no clock, no protocol's name. A protocol brings its vocabulary as a [`Fragment`] of the schema.
//! *Invariants:* what no policy permits is denied; a policy that cannot be evaluated denies; a set of policies with any fault
//! is refused whole.

mod check;
mod decide;
mod entities;
mod fault;
mod load;
mod reload;
mod rule;
mod validate;
mod verdicts;
mod vocabulary;

pub use check::{Checked, check};
pub use fault::{Fault, LoadErrors};
pub use load::Policies;
pub use reload::Reloadable;
pub use verdicts::{Case, Tested, test};

#[cfg(test)]
mod tests;
