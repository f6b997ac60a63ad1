//! `postern sessions list|show|replay`: who did what.

use clap::Subcommand;

use super::{Failure, Global, output::Out};

mod list;
mod psql;
mod replay;
mod show;
mod story;

pub(super) use self::list::since;

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List sessions, newest first.
    #[command(after_help = "Examples:\n  \
                            postern sessions list --since 1h\n  \
                            postern sessions list --verdict deny --target orders\n  \
                            postern sessions list --user svc-orders --since 2026-01-31 --json")]
    List(list::Options),
    /// Show who a session was, and every statement with its verdict.
    #[command(after_help = "The beginning of an id is enough as long as it means one session.\n\n\
                            Examples:\n  postern sessions show 1hd3q9x\n  postern sessions show 1hd3q9x --json")]
    Show(show::Options),
    /// Play a session: statements and masked answers as they came, in their own time.
    #[command(after_help = "Examples:\n  \
                            postern sessions replay 1hd3q9x --speed 4\n  \
                            postern sessions replay 1hd3q9x --no-wait | less")]
    Replay(replay::Options),
}

/// Does one of them.
///
/// # Errors
/// The agent is not there or refuses, or there is no such session.
pub fn run(global: &Global, command: &Command, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::List(options) => list::run(global, options, out),
        Command::Show(options) => show::run(global, options, out),
        Command::Replay(options) => replay::run(global, options, out),
    }
}
