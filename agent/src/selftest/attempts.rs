//! The child's part: every path, one after the other.

use std::{
    fs::OpenOptions,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    path::Path,
};

use super::{Attempt, Canary, Outcome, nonce, packets, sys};

const ETHERTYPE_IP: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A way to reach an address: it has to bring the payload there.
type Way = fn(SocketAddr, &[u8]) -> io::Result<()>;

/// A way to reach a Unix socket.
type SocketWay = fn(&Path, &[u8]) -> io::Result<()>;

/// The ways. Those that make no connection cannot be led to the proxy.
const WAYS: &[(&str, Way)] = &[
    ("connect", plain),
    ("connect by io_uring", by_ring),
    ("connect by io_uring, asynchronous", by_ring_asynchronously),
    ("Fast Open by sendto", fast_open_send),
    ("Fast Open by connect", fast_open_connect),
    ("Multipath TCP", multipath),
    ("UDP connect", udp_connect),
    ("UDP sendto", udp_send),
    ("raw socket", raw),
    ("packet socket", packet),
];

/// Tries every path as `uid`, and tells how it seems from here: only the canary knows what has arrived.
#[must_use]
pub fn all(canary: &Canary, uid: u32) -> Vec<Attempt> {
    if uid != 0
        && let Err(error) = sys::become_user(uid)
    {
        return vec![Attempt { path: format!("as user {uid}"), outcome: Outcome::Untried(error.to_string()) }];
    }
    let mut attempts = Vec::new();
    for (family, to) in targets(canary) {
        for (way, try_it) in WAYS {
            // An IPv4-mapped address is another way to connect or send; the others do not take one.
            if family == "v4-mapped" && !matches!(*way, "connect" | "UDP connect" | "UDP sendto") {
                continue;
            }
            let outcome = match try_it(to, &nonce(attempts.len())) {
                Ok(()) if makes_connection(way) => Outcome::Redirected,
                Ok(()) => Outcome::Untried("it was sent, and did not arrive".into()),
                Err(error) => failure(&error, way),
            };
            attempts.push(Attempt { path: format!("{way} {family}"), outcome });
        }
    }
    if let Some(path) = &canary.socket {
        let ways = [("Unix socket", unix as SocketWay), ("Unix socket by a descriptor", unix_by_descriptor)];
        for (way, try_it) in ways.into_iter().take(if canary.by_any_name { 2 } else { 1 }) {
            let outcome = match try_it(path, &nonce(attempts.len())) {
                Ok(()) => Outcome::Untried("it was sent, and did not arrive".into()),
                // Only the kernel side refuses with this one.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => Outcome::Refused(error.to_string()),
                Err(error) => Outcome::Untried(error.to_string()),
            };
            attempts.push(Attempt { path: way.into(), outcome });
        }
    }
    attempts
}

fn makes_connection(way: &str) -> bool {
    !way.starts_with("UDP") && !way.ends_with("socket")
}

fn targets(canary: &Canary) -> Vec<(&'static str, SocketAddr)> {
    let mut targets = vec![("v4", canary.v4)];
    if let SocketAddr::V4(v4) = canary.v4 {
        targets.push(("v4-mapped", SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()));
    }
    targets.extend(canary.v6.map(|v6| ("v6", v6)));
    targets
}

fn failure(error: &io::Error, way: &str) -> Outcome {
    let absent: &[i32] = match way {
        // Refused on purpose with the error of a kernel that has none: both are closed.
        "Multipath TCP" => &[libc::EPROTONOSUPPORT, libc::ENOPROTOOPT, libc::EINVAL],
        _ if way.contains("io_uring") => &[libc::ENOSYS, libc::EPERM, libc::EINVAL],
        _ => &[libc::EAFNOSUPPORT],
    };
    match error.raw_os_error() {
        Some(code) if absent.contains(&code) => Outcome::Absent(error.to_string()),
        // Nothing that the kernel side does, and no answer to the question.
        Some(libc::EBADF | libc::EFAULT | libc::ENOMEM | libc::EMFILE) | None => Outcome::Untried(error.to_string()),
        Some(_) => Outcome::Refused(error.to_string()),
    }
}

fn family(of: SocketAddr) -> libc::c_int {
    if of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

fn stream(to: SocketAddr) -> io::Result<OwnedFd> {
    sys::socket(family(to), libc::SOCK_STREAM, 0)
}

fn plain(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = stream(to)?;
    sys::connect(&socket, to)?;
    deliver(socket, payload)
}

fn by_ring(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = stream(to)?;
    sys::connect_by_ring(&socket, to, false)?;
    deliver(socket, payload)
}

fn by_ring_asynchronously(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = stream(to)?;
    sys::connect_by_ring(&socket, to, true)?;
    deliver(socket, payload)
}

fn fast_open_send(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = stream(to)?;
    arrived(sys::send_to(&socket, payload, libc::MSG_FASTOPEN, to))
}

fn fast_open_connect(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = stream(to)?;
    sys::set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    sys::connect(&socket, to)?;
    deliver(socket, payload)
}

fn multipath(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = sys::socket(family(to), libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sys::connect(&socket, to)?;
    deliver(socket, payload)
}

fn udp_connect(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let socket = sys::socket(family(to), libc::SOCK_DGRAM, 0)?;
    sys::connect(&socket, to)?;
    deliver(socket, payload)
}

fn udp_send(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    sys::send_to(&sys::socket(family(to), libc::SOCK_DGRAM, 0)?, payload, 0, to)
}

fn raw(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    if to.is_ipv4() {
        let socket = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        return sys::send_to(&socket, &packets::datagram(Ipv4Addr::LOCALHOST.into(), to, payload), 0, to);
    }
    let socket = sys::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
    sys::fill_in_checksum(&socket)?;
    let mut address = to;
    // A raw socket takes a port for a protocol.
    address.set_port(0);
    sys::send_to(&socket, &packets::udp(Ipv6Addr::LOCALHOST.into(), to, payload), 0, address)
}

fn packet(to: SocketAddr, payload: &[u8]) -> io::Result<()> {
    let (protocol, source): (u16, IpAddr) = match to.is_ipv4() {
        true => (ETHERTYPE_IP, Ipv4Addr::LOCALHOST.into()),
        false => (ETHERTYPE_IPV6, Ipv6Addr::LOCALHOST.into()),
    };
    let socket = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(protocol.to_be()))?;
    sys::send_packet(&socket, protocol, &packets::datagram(source, to, payload))
}

fn unix(path: &Path, payload: &[u8]) -> io::Result<()> {
    UnixStream::connect(path)?.write_all(payload)
}

/// The path as it is spelt has nothing in common with the one that is listed.
fn unix_by_descriptor(path: &Path, payload: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    unix(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())), payload)
}

/// Writes into a connected socket and closes it in order.
fn deliver(socket: OwnedFd, payload: &[u8]) -> io::Result<()> {
    let mut stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(std::time::Duration::from_millis(500)))?;
    arrived(stream.write_all(payload))?;
    if stream.peer_addr().is_ok() {
        // The proxy resets what is meant for the canary; whoever else answers, the canary tells.
        let _ = stream.read(&mut [0; 1]);
    }
    Ok(())
}

/// A reset or a closed pipe is the proxy's: the connection was made.
fn arrived(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ok(()),
        other => other,
    }
}
