//! `postern policy check` and `postern policy test`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{Failure, Global, output::Out};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a directory of policies against the schema.
    #[command(after_help = "Examples:\n  postern policy check                 those of the configuration\n  \
                            postern policy check ./policies      those that are about to be installed")]
    Check {
        /// Directory of *.cedar; default: that of the configuration.
        dir: Option<PathBuf>,
    },
    /// Test a directory of policies against the verdict tables beside them.
    #[command(after_help = "Example:\n  postern policy test ./policies")]
    Test {
        /// Directory of *.cedar and verdict tables; default: that of the configuration.
        dir: Option<PathBuf>,
    },
}

/// Does one of them.
///
/// # Errors
/// The policies have faults, or a verdict is not the expected one.
pub fn run(_global: &Global, command: &Command, _out: &mut Out) -> Result<(), Failure> {
    let (verb, dir) = match command {
        Command::Check { dir } => ("check", dir),
        Command::Test { dir } => ("test", dir),
    };
    let of = dir.as_ref().map(|dir| format!(" of {}", dir.display())).unwrap_or_default();
    Err(Failure::wrong(format!("`postern policy {verb}`{of} is not part of this build")))
}
