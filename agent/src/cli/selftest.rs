//! `postern selftest`: is every path to the targets closed?

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use clap::Args;

use super::{
    Failure, Global,
    client::Client,
    output::{Colour, Out, clean},
};
use crate::{
    control::{Reply, Request},
    selftest::{Attempt, Canary, attempts},
};

/// Asks the agent to try every path, and prints how each went.
///
/// # Errors
/// A path is open or could not be tried, or the agent is not there.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let attempts = Client::connect(global)?.one(&Request::Selftest {}, |reply| match reply {
        Reply::Tested(attempts) => Some(attempts),
        _ => None,
    })?;
    if global.json {
        out.json(&attempts)?;
    } else {
        for Attempt { path, outcome } in &attempts {
            let colour = if outcome.is_closed() { Colour::Good } else { Colour::Bad };
            out.line(format!("{path:<42} {}", out.paint(colour, &clean(&outcome.to_string()))))?;
        }
    }
    out.flush()?;
    let open: Vec<&str> =
        attempts.iter().filter(|attempt| !attempt.outcome.is_closed()).map(|attempt| attempt.path.as_str()).collect();
    match open.is_empty() {
        true => Ok(()),
        false => Err(Failure::wrong(format!("not closed: {}", open.join(", ")))
            .with_remedy("`postern status` tells which part of the kernel side is not in force.")),
    }
}

/// What the warden starts: tries to reach the canary.
#[derive(Debug, Args)]
pub struct Options {
    /// User to become.
    #[arg(long)]
    uid: u32,
    /// Cgroup to join.
    #[arg(long)]
    cgroup: PathBuf,
    /// The canary on IPv4.
    #[arg(long)]
    v4: SocketAddr,
    /// The canary on IPv6.
    #[arg(long)]
    v6: Option<SocketAddr>,
    /// Its Unix socket.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// It is to be tried by other names, too.
    #[arg(long)]
    by_any_name: bool,
}

/// Makes the attempts, and prints them as JSON for the warden.
///
/// # Errors
/// The cgroup cannot be joined.
pub fn attempt(options: &Options, out: &mut Out) -> Result<(), Failure> {
    let joined = std::fs::OpenOptions::new()
        .write(true)
        .open(options.cgroup.join("cgroup.procs"))
        .and_then(|mut procs| procs.write_all(b"0"));
    joined.map_err(|error| Failure::wrong(format!("{}: {error}", options.cgroup.display())))?;
    let Options { v4, v6, by_any_name, .. } = *options;
    let canary = Canary { v4, v6, socket: options.socket.clone(), by_any_name };
    Ok(out.json(&attempts::all(&canary, options.uid))?)
}
