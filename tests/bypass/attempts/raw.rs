//! Raw sockets: packets whose transport header the attempt writes itself.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use super::{Ending::Refused, Families, Rights, Row};
use crate::{
    field::Field,
    packet::{Carried, Packet},
    sys::{self, Raw},
};

pub const ROWS: &[Row] = &[
    Row::new("raw: a whole packet (IPPROTO_RAW)", Refused, whole).with(Rights::All),
    Row::new("raw: a SYN (IPPROTO_TCP)", Refused, |field| part(field, Carried::Syn)).with(Rights::All),
    Row::new("raw: a datagram (IPPROTO_UDP)", Refused, |field| part(field, Carried::Udp)).with(Rights::All),
    Row::new("raw: connect, then send", Refused, connected).with(Rights::All),
    Row::new("raw: an IPv4 header by IP_HDRINCL", Refused, header).with(Rights::All).only(Families::V4),
];

/// Raw sockets take the protocol for the port.
pub fn address(field: &Field) -> Raw {
    let to = SocketAddr::new(field.target().ip(), 0);
    Raw::of(to)
}

fn packet(field: &Field, carried: Carried) -> Packet {
    let to = field.target();
    Packet::new(carried, (to.ip(), to.port()))
}

fn whole(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    sys::send_to(&socket, &packet(field, Carried::Syn).bytes(), 0, &address(field)).map(drop)
}

fn part(field: &mut Field, carried: Carried) -> io::Result<()> {
    let socket = made(field, carried)?;
    send(field, &socket, carried)
}

/// A raw socket for a transport protocol.
pub fn made(field: &Field, carried: Carried) -> io::Result<OwnedFd> {
    field.socket(libc::SOCK_RAW, i32::from(carried.protocol()))
}

/// Sends a segment by it.
pub fn send(field: &Field, socket: &OwnedFd, carried: Carried) -> io::Result<()> {
    let packet = packet(field, carried);
    sys::send_to(socket, &carried.segment(packet.from, packet.to), 0, &address(field)).map(drop)
}

fn connected(field: &mut Field) -> io::Result<()> {
    let socket = made(field, Carried::Syn)?;
    sys::connect(&socket, &address(field))?;
    say(field, &socket, Carried::Syn)
}

/// Sends a segment by one that is connected.
pub fn say(field: &Field, socket: &OwnedFd, carried: Carried) -> io::Result<()> {
    let packet = packet(field, carried);
    sys::send(socket, &carried.segment(packet.from, packet.to), 0).map(drop)
}

fn header(field: &mut Field) -> io::Result<()> {
    let socket = made(field, Carried::Udp)?;
    sys::set_int(&socket, libc::IPPROTO_IP, libc::IP_HDRINCL, 1)?;
    sys::send_to(&socket, &packet(field, Carried::Udp).bytes(), 0, &address(field)).map(drop)
}
