//! `postern uninstall`: removes the redirection from the kernel.

use super::{Failure, Global, output::Out};

/// Removes programs, links and maps.
///
/// # Errors
/// Something could not be removed.
pub fn run(_global: &Global, _out: &mut Out) -> Result<(), Failure> {
    Err(Failure::wrong("`postern uninstall` is not part of this build"))
}
