//! The proxy's listeners: a pair of them in the network namespace of the thread that makes them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket};

/// Connections that may wait to be accepted by the proxy.
const BACKLOG: i32 = 4096;

/// Tries to find a port that is free on 127.0.0.1 and on ::1.
const PORT_TRIES: usize = 32;

/// Listeners with the same port.
pub(super) struct Pair {
    /// On 127.0.0.1, and on ::1 if that could be had.
    pub listeners: Vec<TcpListener>,
    pub port: u16,
    /// Why there is none on ::1.
    pub missing: Option<io::Error>,
}

impl Pair {
    /// Makes listeners on 127.0.0.1 and ::1. Where ::1 is missing, IPv6 destinations stay refused.
    pub(super) fn new() -> io::Result<Self> {
        let v4: IpAddr = Ipv4Addr::LOCALHOST.into();
        let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
        for _ in 0..PORT_TRIES {
            let first = listener((v4, 0).into())?;
            let port = first.local_addr()?.port();
            match listener((v6, port).into()) {
                Ok(second) => return Ok(Self { listeners: vec![first, second], port, missing: None }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Ok(Self { listeners: vec![first], port, missing: Some(error) }),
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free on both 127.0.0.1 and ::1"))
    }
}

/// A listener that shares its address with no other socket.
fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(socket.into())
}
