//! `postern restart`: another process in the proxy's place.

use super::{Failure, Global, client::Client, output::Out};
use crate::control::{Reply, Request};

/// Asks for it, and waits until it is done.
///
/// # Errors
/// The agent is not there, or goes on as it was.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let restarted = Client::connect(global)?.one(&Request::Restart {}, |reply| match reply {
        Reply::Restarted(restarted) => Some(restarted),
        _ => None,
    })?;
    match global.json {
        true => out.json(&restarted)?,
        false => {
            let (pid, before) = (restarted.pid, restarted.before);
            out.line(format!("pid {pid} serves; pid {before} goes on with its sessions until they end"))?;
        }
    }
    Ok(())
}
