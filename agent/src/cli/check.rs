//! `postern check`: the configuration and the policies.

use super::{Failure, Global, output::Out};

/// Checks both and reports everything.
///
/// # Errors
/// Something is wrong.
pub fn run(_global: &Global, _out: &mut Out) -> Result<(), Failure> {
    Err(Failure::wrong("`postern check` is not part of this build"))
}
