//! `postern completions`: completions for a shell.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, output::Out};

/// Options.
#[derive(Debug, Args)]
pub struct Options {
    /// The shell.
    shell: Shell,
}

/// Prints them.
///
/// # Errors
/// They cannot be written.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "postern", &mut script);
    Ok(out.raw(script)?)
}
