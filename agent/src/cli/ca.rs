//! `postern ca show`: the agent's own certificate authority.

use std::{fs, io};

use clap::Subcommand;
use serde_json::json;

use super::{Failure, Global, output::Out};
use crate::protocol::ca;

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
pub fn run(global: &Global, command: &Command, out: &mut Out) -> Result<(), Failure> {
    let Command::Show = command;
    let path = ca::certificate_file(&global.places()?.state_dir);
    let pem = fs::read_to_string(&path).map_err(|error| {
        let failure = Failure::wrong(format!("{}: {error}", path.display()));
        match error.kind() {
            io::ErrorKind::NotFound => failure.with_remedy("The agent makes its authority when it first starts."),
            io::ErrorKind::PermissionDenied => failure.with_remedy("Run it as root, and give the output to clients."),
            _ => failure,
        }
    })?;
    match global.json {
        true => out.json(&json!({ "path": path, "certificate": pem }))?,
        false => out.raw(pem)?,
    }
    Ok(())
}
