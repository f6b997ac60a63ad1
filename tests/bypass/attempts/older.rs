//! What was prepared before the agent was there.

use std::{io, io::Write as _};

use super::{
    Ending::{Redirected, Refused},
    Rights, Row, raw, stream,
};
use crate::{
    field::{Field, Stage, WORDS},
    packet::Carried,
    sys::{self, Raw, Ring},
};

pub const ROWS: &[Row] = &[
    Row::new("older socket: connect", Redirected, socket).at(Stage::Early),
    Row::new("older connection: send", Refused, send).at(Stage::Early),
    Row::new("older connection: splice", Refused, splice).at(Stage::Early),
    Row::new("older connection: MSG_ZEROCOPY", Refused, zero_copy).at(Stage::Early),
    Row::new("older connection: io_uring", Refused, ring).at(Stage::Early),
    Row::new("older connection on loopback: send", Refused, local).at(Stage::Early),
    Row::new("older connect that waits for its first bytes (Fast Open)", Refused, deferred).at(Stage::Early),
    Row::new("older UDP connection: send", Refused, datagram).at(Stage::Early),
    Row::new("older Multipath TCP socket: connect", Redirected, multipath).at(Stage::Early),
    Row::new("older Multipath TCP connection: send", Refused, multipath_connected).at(Stage::Early),
    Row::new("older raw socket: sendto", Refused, raw_socket).at(Stage::Early).with(Rights::All),
    Row::new("older raw socket, connected: send", Refused, raw_connected).at(Stage::Early).with(Rights::All),
];

fn socket(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    field.now()?;
    field.go(socket, field.target())
}

fn connected(field: &Field, kind: i32, protocol: i32) -> io::Result<std::os::fd::OwnedFd> {
    let socket = field.socket(kind, protocol)?;
    sys::connect(&socket, &Raw::of(field.target()))?;
    field.now()?;
    Ok(socket)
}

fn send(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_STREAM, 0)?;
    field.say(socket)
}

fn splice(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_STREAM, 0)?;
    let (from, mut into) = io::pipe()?;
    into.write_all(WORDS)?;
    sys::splice(&from, &socket, WORDS.len())?;
    field.keep(socket);
    Ok(())
}

fn zero_copy(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_STREAM, 0)?;
    sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1)?;
    sys::send(&socket, &[7; 8192], libc::MSG_ZEROCOPY)?;
    field.keep(socket);
    Ok(())
}

fn ring(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_STREAM, 0)?;
    sys::ring_send(Ring::Inline, &socket, WORDS)?;
    field.keep(socket);
    Ok(())
}

fn local(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::connect(&socket, &Raw::of(field.local()))?;
    field.now()?;
    field.say(socket)
}

fn deferred(field: &mut Field) -> io::Result<()> {
    let socket = stream::deferred(field)?;
    field.now()?;
    field.say(socket)
}

fn datagram(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_DGRAM, 0)?;
    field.say(socket)
}

fn multipath(field: &mut Field) -> io::Result<()> {
    let socket = field.socket(libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    field.now()?;
    field.go(socket, field.target())
}

fn multipath_connected(field: &mut Field) -> io::Result<()> {
    let socket = connected(field, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    field.say(socket)
}

fn raw_socket(field: &mut Field) -> io::Result<()> {
    let socket = raw::made(field, Carried::Syn)?;
    field.now()?;
    raw::send(field, &socket, Carried::Syn)
}

fn raw_connected(field: &mut Field) -> io::Result<()> {
    let socket = raw::made(field, Carried::Udp)?;
    sys::connect(&socket, &raw::address(field))?;
    field.now()?;
    raw::say(field, &socket, Carried::Udp)
}
