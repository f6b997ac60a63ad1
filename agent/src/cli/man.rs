//! `postern man`: manual pages.

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory};

use super::{Cli, Failure, output::Out};

/// Options.
#[derive(Debug, Args)]
pub struct Options {
    /// Write a page for each command into this directory.
    dir: Option<PathBuf>,
}

/// Prints one page or writes all.
///
/// # Errors
/// They cannot be written.
pub fn run(options: &Options, out: &mut Out) -> Result<(), Failure> {
    match &options.dir {
        Some(dir) => fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map_err(|error| Failure::wrong(format!("{}: {error}", dir.display()))),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            Ok(out.raw(page)?)
        }
    }
}
