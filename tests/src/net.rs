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

/// Moves this thread, and all that it starts from now on, into a network namespace of its own with these addresses on its
/// loopback. It goes when the last process in it ends.
///
/// # Errors
/// Not root, or `ip` failed.
pub fn enter_own_namespace(addresses: &[&str]) -> Outcome {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).map_err(|error| format!("network namespace: {error}"))?;
    ip(&["link", "set", "lo", "up"])?;
    for address in addresses.iter().filter(|address| !matches!(**address, "127.0.0.1" | "::1")) {
        let whole = format!("{address}/{}", if address.contains(':') { 128 } else { 32 });
        let mut words = vec!["address", "add", &whole, "dev", "lo"];
        // Usable at once.
        words.extend(address.contains(':').then_some("nodad"));
        ip(&words)?;
    }
    Ok(())
}

fn ip(words: &[&str]) -> Outcome {
    let done = Command::new("ip").args(words).process_group(0).output().map_err(|error| format!("ip: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim()))
    }
}
