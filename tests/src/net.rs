//! Ports and network namespaces.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    process::Command,
};

use crate::{Cmd, Outcome, dir::unique_name, undo::Undo};

/// How often [`free_port`] looks for a port that is free at all addresses.
const TRIES: usize = 64;

/// A TCP port that was free a moment ago at all these addresses.
///
/// # Errors
/// There is none, or an address is not of this host.
pub fn free_port(addresses: &[IpAddr]) -> Outcome<u16> {
    let (first, others) = addresses.split_first().ok_or("no address")?;
    let mut failure = String::new();
    for _ in 0..TRIES {
        let listener = TcpListener::bind((*first, 0)).map_err(|error| format!("{first}: {error}"))?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        match others.iter().find_map(|address| TcpListener::bind((*address, port)).err().map(|error| (address, error)))
        {
            None => return Ok(port),
            Some((address, error)) => failure = format!("{}: {error}", SocketAddr::new(*address, port)),
        }
    }
    Err(format!("no port is free at all addresses: {failure}"))
}

/// A network namespace with its loopback up, removed on drop.
#[derive(Debug)]
pub struct Netns {
    name: String,
    _undo: Undo,
}

impl Netns {
    /// Makes one.
    ///
    /// # Errors
    /// `ip` failed.
    pub fn new() -> Outcome<Self> {
        let name = unique_name();
        let removal = format!("ip netns delete {name} 2>/dev/null");
        let (undo, made) = Undo::of(removal, || {
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])
        })
        .map_err(|error| error.to_string())?;
        made?;
        Ok(Self { name, _undo: undo })
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside it; add the program and its arguments with `args`.
    #[must_use]
    pub fn command(&self) -> Cmd {
        Cmd::new("ip").args(["netns", "exec", &self.name])
    }
}

fn ip(words: &[&str]) -> Outcome {
    let done = Command::new("ip").args(words).process_group(0).output().map_err(|error| format!("ip: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
    }
}
