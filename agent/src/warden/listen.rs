//! The proxy's listeners: pairs of them in the network namespace of the thread that makes them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
};

use agent_common::{LANES, Ports};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};

/// Connections that may wait to be accepted by the proxy, on all pairs together, for each family.
const BACKLOG: usize = 4096;

/// Tries to find a port that is free on 127.0.0.1 and on ::1.
const PORT_TRIES: usize = 32;

/// Pairs of listeners. The two of a pair have the same port.
pub(super) struct Pairs {
    /// On 127.0.0.1 and those after it, and on ::1 if that could be had.
    pub listeners: Vec<TcpListener>,
    pub ports: Ports,
    /// Why there is none on ::1.
    pub missing: Option<io::Error>,
}

impl Pairs {
    /// Makes so many pairs, at most [`LANES`]. Where ::1 is missing, IPv6 destinations stay refused.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        Bound::new(count)?.listen()
    }
}

/// Pairs that do not listen yet: nobody else can have their ports, and nobody can connect to them.
pub(super) struct Bound {
    pairs: Pairs,
    backlog: i32,
}

impl Bound {
    /// Finds ports for so many pairs.
    pub(super) fn new(count: usize) -> io::Result<Self> {
        let mut pairs = Pairs { listeners: Vec::new(), ports: [0; LANES], missing: None };
        for (lane, port) in (1..).zip(&mut pairs.ports).take(count) {
            let (listeners, missing) = pair(Ipv4Addr::new(127, 0, 0, lane))?;
            *port = listeners.first().map_or(Ok(0), |first| first.local_addr().map(|address| address.port()))?;
            pairs.listeners.extend(listeners);
            pairs.missing = missing.or(pairs.missing);
        }
        Ok(Self { pairs, backlog: i32::try_from(BACKLOG / count).unwrap_or(i32::MAX) })
    }

    /// From here on they can be connected to.
    pub(super) fn listen(self) -> io::Result<Pairs> {
        for listener in &self.pairs.listeners {
            listen(listener, Backlog::new(self.backlog)?)?;
        }
        Ok(self.pairs)
    }
}

/// A socket at this address, and one at ::1 or why there is none.
fn pair(v4: Ipv4Addr) -> io::Result<(Vec<TcpListener>, Option<io::Error>)> {
    let (v4, v6): (IpAddr, IpAddr) = (v4.into(), Ipv6Addr::LOCALHOST.into());
    for _ in 0..PORT_TRIES {
        let first = bound((v4, 0).into())?;
        let port = first.local_addr()?.port();
        match bound((v6, port).into()) {
            Ok(second) => return Ok((vec![first, second], None)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Ok((vec![first], Some(error))),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no port is free on both {v4} and {v6}")))
}

/// A socket that shares its address with no other.
fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}
