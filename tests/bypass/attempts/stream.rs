//! TCP: every way to begin a connection.

use std::{
    fs::File,
    io::{self, Error, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Ending::{Redirected, Refused},
    Families, Rights, Row,
};
use crate::{
    field::{Field, Stage, WORDS, patient},
    ground,
    ground::{HOST, LINK_LOCAL, LOCAL, MARK, NAT64, NEIGHBOUR, NOBODY, POLICY, PORT, SIX_TO_FOUR, TO_TARGET},
    netlink,
    sys::{self, Raw},
};

pub const ROWS: &[Row] = &[
    Row::new("plain connect", Redirected, plain),
    Row::new("non-blocking connect", Redirected, non_blocking),
    Row::new("IPv4-mapped address", Redirected, mapped).only(Families::V4),
    Row::new("bound to an explicit source port", Redirected, source_port),
    Row::new("bound to an explicit source address", Redirected, source_address),
    Row::new("bound to an address of nobody (IP_TRANSPARENT)", Refused, transparent).with(Rights::All),
    Row::new("SO_BINDTODEVICE", Refused, device).with(Rights::All),
    Row::new("SO_MARK", Redirected, mark).with(Rights::All),
    Row::new("an address that only a policy route leads to", Redirected, policy).with(Rights::All),
    Row::new("SO_DONTROUTE", Redirected, no_route),
    Row::new("source route (LSRR)", Refused, loose).only(Families::V4).with(Rights::All),
    Row::new("strict source route (SSRR)", Refused, strict).only(Families::V4).with(Rights::All),
    Row::new("routing header (IPV6_RTHDR)", Refused, routing_header).only(Families::V6).with(Rights::All),
    Row::new("AF_UNSPEC, then connect again", Redirected, again),
    Row::new("listen, AF_UNSPEC, then connect", Redirected, listened),
    Row::new("Fast Open: sendto", Redirected, fast_open),
    Row::new("Fast Open: sendmsg", Redirected, fast_open_message),
    Row::new("Fast Open: MSG_ZEROCOPY", Redirected, fast_open_zero_copy),
    Row::new("Fast Open: connect, then send", Redirected, fast_open_connect),
    Row::new("Fast Open: connect, then sendfile", Redirected, fast_open_sendfile),
    Row::new("Fast Open: connect, then splice", Redirected, fast_open_splice),
    Row::new("Multipath TCP", Refused, multipath),
    Row::new("TCP_REPAIR", Refused, repair).with(Rights::All),
    Row::new("simultaneous open", Redirected, simultaneous),
    Row::new("a connection that the target opens", Refused, passive),
    Row::new("the target on loopback", Redirected, local),
    Row::new("the unspecified address", Redirected, unspecified),
    Row::new("the unspecified address, IPv4-mapped", Redirected, unspecified_mapped).only(Families::V4),
    Row::new("loopback, IPv4-mapped", Redirected, local_mapped).only(Families::V4),
    Row::new("an address with a zone", Redirected, zone).only(Families::V6),
    Row::new("a link-local address with a zone", Redirected, link_local).only(Families::V6),
    Row::new("NAT64's form of the IPv4 address", Redirected, nat64).only(Families::V6),
    Row::new("6to4's form of the IPv4 address", Redirected, six_to_four).only(Families::V6),
    Row::new("IPv4-compatible form of the IPv4 address", Redirected, compatible).only(Families::V6),
    Row::new("the proxy's own port", Refused, proxy),
    Row::new("plain connect while the agent is dead", Refused, plain).at(Stage::Dead),
    Row::new("a squatter on the proxy's port", Refused, squatter).at(Stage::Dead),
    Row::new("Fast Open while the agent is dead", Refused, fast_open).at(Stage::Dead),
    Row::new("loopback while the agent is dead", Refused, local).at(Stage::Dead),
];

fn plain(field: &mut Field) -> io::Result<()> {
    field.go(field.tcp()?, field.target())
}

fn non_blocking(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match sys::connect(&socket, &Raw::of(field.target())) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    writable(&socket)?;
    field.say(socket)
}

fn writable(socket: &OwnedFd) -> io::Result<()> {
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::from(400_u16))?;
    Ok(())
}

/// On an IPv6 socket, to the IPv4 address.
fn mapped(field: &mut Field) -> io::Result<()> {
    six(field, as_mapped(field.target()))
}

fn as_mapped(of: SocketAddr) -> SocketAddr {
    match of.ip() {
        IpAddr::V4(v4) => (v4.to_ipv6_mapped(), of.port()).into(),
        IpAddr::V6(_) => of,
    }
}

fn six(field: &mut Field, to: SocketAddr) -> io::Result<()> {
    let socket = patient(sys::socket(libc::AF_INET6, libc::SOCK_STREAM, 0)?)?;
    field.go(socket, to)
}

fn source_port(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    let any = if field.six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    sys::bind(&socket, &Raw::of((any, field.own_port()).into()))?;
    field.go(socket, field.target())
}

fn source_address(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::bind(&socket, &Raw::of(field.of(HOST, 0)))?;
    field.go(socket, field.target())
}

fn transparent(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    if field.six {
        sys::set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    } else {
        sys::set_int(&socket, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)?;
    }
    sys::bind(&socket, &Raw::of(field.of(NOBODY, field.own_port())))?;
    field.go(socket, field.target())
}

fn device(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::set(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, TO_TARGET.as_bytes())?;
    field.go(socket, field.target())
}

fn marked(field: &Field) -> io::Result<OwnedFd> {
    let socket = field.tcp()?;
    sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_MARK, MARK.cast_signed())?;
    Ok(socket)
}

fn mark(field: &mut Field) -> io::Result<()> {
    field.go(marked(field)?, field.target())
}

fn policy(field: &mut Field) -> io::Result<()> {
    field.go(marked(field)?, field.of(POLICY, PORT))
}

fn no_route(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_DONTROUTE, 1)?;
    field.go(socket, field.target())
}

fn loose(field: &mut Field) -> io::Result<()> {
    routed(field, 131)
}

fn strict(field: &mut Field) -> io::Result<()> {
    routed(field, 137)
}

/// By another address of the same machine.
fn routed(field: &mut Field, option: u8) -> io::Result<()> {
    let socket = field.tcp()?;
    let mut options = vec![option, 7, 4];
    options.extend(NEIGHBOUR.0.octets());
    options.push(0);
    sys::set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &options)?;
    field.go(socket, field.target())
}

/// Segment routing by another address of the same machine.
fn routing_header(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    // Type 4: two segments, the last first; the kernel puts the destination into it.
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(NEIGHBOUR.1.octets());
    sys::set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    field.go(socket, field.target())
}

fn again(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::connect(&socket, &Raw::of(field.open()))?;
    sys::send(&socket, b"x", 0)?;
    sys::connect(&socket, &Raw::unspecified())?;
    field.go(socket, field.target())
}

fn listened(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::bind(&socket, &Raw::of((field.loopback(), 0).into()))?;
    sys::listen(&socket)?;
    sys::connect(&socket, &Raw::unspecified())?;
    // Without the address that it was bound to.
    let any = if field.six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let _ = sys::bind(&socket, &Raw::of((any, 0).into()));
    field.go(socket, field.target())
}

/// Twice: the first gets the cookie, the second sends with it.
fn fast_open(field: &mut Field) -> io::Result<()> {
    for _ in 0..2 {
        let socket = field.tcp()?;
        sys::send_to(&socket, WORDS, libc::MSG_FASTOPEN, &Raw::of(field.target()))?;
        field.keep(socket);
    }
    Ok(())
}

fn fast_open_message(field: &mut Field) -> io::Result<()> {
    for _ in 0..2 {
        let socket = field.tcp()?;
        sys::send_message(&socket, WORDS, libc::MSG_FASTOPEN, Some(&Raw::of(field.target())), None)?;
        field.keep(socket);
    }
    Ok(())
}

fn fast_open_zero_copy(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
    let flags = libc::MSG_FASTOPEN | libc::MSG_ZEROCOPY;
    sys::send_message(&socket, &[7; 8192], flags, Some(&Raw::of(field.target())), None)?;
    field.keep(socket);
    Ok(())
}

/// A socket whose `connect` waits for the first bytes, if the cookie is warm.
pub fn deferred(field: &Field) -> io::Result<OwnedFd> {
    // So that it is.
    let _ = sys::send_to(&field.tcp()?, WORDS, libc::MSG_FASTOPEN, &Raw::of(field.target()));
    std::thread::sleep(Duration::from_millis(20));
    let socket = field.tcp()?;
    sys::set_int(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)?;
    sys::connect(&socket, &Raw::of(field.target()))?;
    Ok(socket)
}

fn fast_open_connect(field: &mut Field) -> io::Result<()> {
    let socket = deferred(field)?;
    field.say(socket)
}

fn fast_open_sendfile(field: &mut Field) -> io::Result<()> {
    let socket = deferred(field)?;
    sys::send_file(&socket, &File::open("/proc/self/exe")?, 1000)?;
    field.keep(socket);
    Ok(())
}

fn fast_open_splice(field: &mut Field) -> io::Result<()> {
    let socket = deferred(field)?;
    let (from, mut into) = io::pipe()?;
    into.write_all(WORDS)?;
    sys::splice(&from, &socket, WORDS.len())?;
    field.keep(socket);
    Ok(())
}

fn multipath(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    field.go(socket, field.target())
}

/// A connection that exists without a handshake.
fn repair(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::set_int(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, 1)?;
    sys::bind(&socket, &Raw::of(field.of(HOST, field.own_port())))?;
    sys::connect(&socket, &Raw::of(field.target()))?;
    // struct tcp_repair_window: a window to send into.
    let window: Vec<u8> = [0_u32, 65_535, 65_535, 65_535, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    sys::set(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_WINDOW, &window)?;
    // Without a probe, which the target would answer with a reset.
    sys::set_int(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, -1)?;
    field.say(socket)
}

/// While the target connects to the very port that this comes from.
fn simultaneous(field: &mut Field) -> io::Result<()> {
    let port = field.own_port();
    field.call_me(port);
    let mut last = Ok(());
    for _ in 0..10 {
        let socket = field.tcp()?;
        sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        let any = if field.six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        last = sys::bind(&socket, &Raw::of((any, port).into())).and_then(|()| field.go(socket, field.target()));
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    last
}

/// The attempt listens, and the target comes to it from its protected port.
fn passive(field: &mut Field) -> io::Result<()> {
    let port = field.own_port();
    let listener = field.tcp()?;
    sys::bind(&listener, &Raw::of(field.of(HOST, port)))?;
    sys::listen(&listener)?;
    field.call_me(port);
    let socket = sys::accept(&listener)?;
    field.keep(listener);
    field.say(socket)
}

fn local(field: &mut Field) -> io::Result<()> {
    field.go(field.tcp()?, field.local())
}

fn unspecified(field: &mut Field) -> io::Result<()> {
    let any = if field.six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    field.go(field.tcp()?, (any, LOCAL).into())
}

fn unspecified_mapped(field: &mut Field) -> io::Result<()> {
    six(field, (Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), LOCAL).into())
}

fn local_mapped(field: &mut Field) -> io::Result<()> {
    six(field, as_mapped(field.local()))
}

fn zoned(address: Ipv6Addr) -> io::Result<SocketAddr> {
    let zone = netlink::index(TO_TARGET).map_err(Error::other)?;
    Ok(SocketAddrV6::new(address, PORT, 0, zone).into())
}

fn zone(field: &mut Field) -> io::Result<()> {
    six(field, zoned(ground::TARGET.1)?)
}

fn link_local(field: &mut Field) -> io::Result<()> {
    six(field, zoned(LINK_LOCAL)?)
}

fn nat64(field: &mut Field) -> io::Result<()> {
    six(field, (NAT64, PORT).into())
}

fn six_to_four(field: &mut Field) -> io::Result<()> {
    six(field, (SIX_TO_FOUR, PORT).into())
}

fn compatible(field: &mut Field) -> io::Result<()> {
    six(field, (ground::COMPATIBLE, PORT).into())
}

fn proxy(field: &mut Field) -> io::Result<()> {
    field.go(field.tcp()?, (field.loopback(), field.proxy_port).into())
}

/// Takes the port that the redirection leads to.
fn squatter(field: &mut Field) -> io::Result<()> {
    let squatter = field.tcp()?;
    sys::set_int(&squatter, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let any = if field.six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    sys::bind(&squatter, &Raw::of((any, field.proxy_port).into()))?;
    sys::listen(&squatter)?;
    let connected = field.go(field.tcp()?, field.target());
    if sys::accept(&squatter).is_ok() {
        // Worse than the target: whoever listens there is taken for it.
        println!("squatted");
    }
    connected
}
