//! `postern ca show`: the agent's own certificate authority.

use clap::Subcommand;

use super::{Failure, Global, output::Out};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the authority's certificate (PEM), for clients that verify the server.
    #[command(after_help = "Example:\n  postern ca show > /etc/ssl/postern-ca.pem\n  \
                            psql 'host=orders.db.internal sslmode=verify-full sslrootcert=/etc/ssl/postern-ca.pem'")]
    Show,
}

/// Does it.
///
/// # Errors
/// There is no authority yet.
pub fn run(_global: &Global, command: &Command, _out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Show => Err(Failure::wrong("`postern ca show` is not part of this build")),
    }
}
