//! What the agent says about itself while it runs: to standard error, as text or as JSON.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use super::Failure;

/// Name of the variable that selects what is said, e.g. `debug` or `info,agent::warden=trace`.
const FILTER: &str = "POSTERN_LOG";

/// Form of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line of text each.
    #[default]
    Text,
    /// One JSON object each.
    Json,
}

/// Begins: from now on everything that is said through `tracing` or `log` is written.
///
/// # Errors
/// The filter in the environment is not one.
pub fn start(format: Format) -> Result<(), Failure> {
    let filter = match std::env::var(FILTER) {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error: ParseError| {
            Failure::usage(format!("{FILTER}={text}: {error}")).with_remedy("For example: POSTERN_LOG=info,agent=debug")
        })?,
        Err(_) => EnvFilter::new("info"),
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::wrong(format!("messages cannot be written: {error}")))
}
