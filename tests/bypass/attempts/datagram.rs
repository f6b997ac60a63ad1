//! UDP and the protocols like it.

use std::{io, net::IpAddr};

use super::{Ending::Refused, Families, Row};
use crate::{
    field::{Field, WORDS, patient},
    ground::HOST,
    sys::{self, Raw},
};

pub const ROWS: &[Row] = &[
    Row::new("UDP: connect, then send", Refused, connected),
    Row::new("UDP: sendto", Refused, send_to),
    Row::new("UDP: sendmsg", Refused, message),
    Row::new("UDP: sendmsg with a source address (PKTINFO)", Refused, source),
    Row::new("UDP: sendmmsg", Refused, messages),
    Row::new("UDP: sendto under AF_UNSPEC", Refused, unspecified_family).only(Families::V4),
    Row::new("UDP: connected elsewhere, then sendto", Refused, elsewhere),
    Row::new("UDP: AF_UNSPEC, then connect again", Refused, again),
    Row::new("UDP: corked", Refused, corked),
    Row::new("UDP: segmented (UDP_SEGMENT)", Refused, segmented),
    Row::new("UDP: sendto on loopback", Refused, local),
    Row::new("UDP: AF_INET address, connect on an IPv6 socket", Refused, inet_connect).only(Families::V4),
    Row::new("UDP: AF_INET address, sendto on an IPv6 socket", Refused, inet_send).only(Families::V4),
    Row::new("UDP: IPv4-mapped address, connect", Refused, mapped_connect).only(Families::V4),
    Row::new("UDP: IPv4-mapped address, sendto", Refused, mapped_send).only(Families::V4),
    Row::new("UDP-Lite", Refused, lite),
    Row::new("SCTP: connect", Refused, sctp),
    Row::new("SCTP: sendto", Refused, sctp_send),
    Row::new("DCCP", Refused, dccp),
];

fn connected(field: &mut Field) -> io::Result<()> {
    field.go(field.udp()?, field.target())
}

fn send_to(field: &mut Field) -> io::Result<()> {
    sys::send_to(&field.udp()?, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn message(field: &mut Field) -> io::Result<()> {
    sys::send_message(&field.udp()?, WORDS, 0, Some(&Raw::of(field.target())), None).map(drop)
}

fn source(field: &mut Field) -> io::Result<()> {
    let (level, kind, value) = match field.of(HOST, 0).ip() {
        // struct in_pktinfo: interface, source, destination.
        IpAddr::V4(v4) => (libc::IPPROTO_IP, libc::IP_PKTINFO, [&[0; 4][..], &v4.octets(), &[0; 4]].concat()),
        // struct in6_pktinfo: source, interface.
        IpAddr::V6(v6) => (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, [&v6.octets()[..], &[0; 4]].concat()),
    };
    sys::send_message(&field.udp()?, WORDS, 0, Some(&Raw::of(field.target())), Some((level, kind, &value))).map(drop)
}

fn messages(field: &mut Field) -> io::Result<()> {
    sys::send_messages(&field.udp()?, WORDS, &Raw::of(field.target()))
}

fn unspecified_family(field: &mut Field) -> io::Result<()> {
    let to = Raw::of(field.target()).with_family(libc::AF_UNSPEC);
    sys::send_to(&field.udp()?, WORDS, 0, &to).map(drop)
}

fn elsewhere(field: &mut Field) -> io::Result<()> {
    let socket = field.udp()?;
    sys::connect(&socket, &Raw::of(field.open()))?;
    sys::send(&socket, b"x", 0)?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn again(field: &mut Field) -> io::Result<()> {
    let socket = field.udp()?;
    sys::connect(&socket, &Raw::of(field.open()))?;
    sys::connect(&socket, &Raw::unspecified())?;
    field.go(socket, field.target())
}

/// The destination is given with the first part, the packet leaves with the last.
fn corked(field: &mut Field) -> io::Result<()> {
    let socket = field.udp()?;
    sys::send_to(&socket, WORDS, libc::MSG_MORE, &Raw::of(field.target()))?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn segmented(field: &mut Field) -> io::Result<()> {
    /// `UDP_SEGMENT`
    const SEGMENT: i32 = 103;
    let socket = field.udp()?;
    sys::set_int(&socket, libc::IPPROTO_UDP, SEGMENT, 200)?;
    sys::send_to(&socket, &[7; 1000], 0, &Raw::of(field.target())).map(drop)
}

fn local(field: &mut Field) -> io::Result<()> {
    sys::send_to(&field.udp()?, WORDS, 0, &Raw::of(field.local())).map(drop)
}

fn six() -> io::Result<std::os::fd::OwnedFd> {
    patient(sys::socket(libc::AF_INET6, libc::SOCK_DGRAM, 0)?)
}

fn mapped(field: &Field) -> Raw {
    let to = field.target();
    match to.ip() {
        IpAddr::V4(v4) => Raw::of((v4.to_ipv6_mapped(), to.port()).into()),
        IpAddr::V6(_) => Raw::of(to),
    }
}

fn inet_connect(field: &mut Field) -> io::Result<()> {
    field.go(six()?, field.target())
}

fn inet_send(field: &mut Field) -> io::Result<()> {
    sys::send_to(&six()?, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn mapped_connect(field: &mut Field) -> io::Result<()> {
    let socket = six()?;
    sys::connect(&socket, &mapped(field))?;
    field.say(socket)
}

fn mapped_send(field: &mut Field) -> io::Result<()> {
    sys::send_to(&six()?, WORDS, 0, &mapped(field)).map(drop)
}

fn lite(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn sctp(field: &mut Field) -> io::Result<()> {
    field.go(field.socket(libc::SOCK_STREAM, libc::IPPROTO_SCTP)?, field.target())
}

fn sctp_send(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP)?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn dccp(field: &mut Field) -> io::Result<()> {
    /// `SOCK_DCCP`
    const KIND: i32 = 6;
    let socket = field.socket(KIND, libc::IPPROTO_DCCP)?;
    // The service code, without which there is no connection.
    sys::set_int(&socket, 269, 2, 1)?;
    field.go(socket, field.target())
}
