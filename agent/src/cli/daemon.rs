//! `postern run`, `postern warden`, `postern proxy`: the agent itself.

use clap::Args;

use super::{Failure, Global, logging};

/// Options of the agent itself.
#[derive(Debug, Args)]
pub struct Options {
    /// Form of the messages on standard error. POSTERN_LOG selects which: `debug`, `info,agent::warden=trace`, …
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: logging::Format,
}

/// Warden and proxy together.
///
/// # Errors
/// Why it ended.
pub fn run(_global: &Global, options: &Options) -> Result<(), Failure> {
    logging::start(options.log_format)?;
    Err(missing("run"))
}

/// The privileged half.
///
/// # Errors
/// Why it ended.
pub fn warden(_global: &Global, options: &Options) -> Result<(), Failure> {
    logging::start(options.log_format)?;
    Err(missing("warden"))
}

/// The half that speaks the protocols.
///
/// # Errors
/// Why it ended.
pub fn proxy(_global: &Global, options: &Options) -> Result<(), Failure> {
    logging::start(options.log_format)?;
    Err(missing("proxy"))
}

fn missing(what: &str) -> Failure {
    Failure::wrong(format!("`postern {what}` is not part of this build"))
}
