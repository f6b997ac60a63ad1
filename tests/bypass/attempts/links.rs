//! Packet sockets: whole frames, past the whole of the Internet protocols.

use std::{
    io::{self, Error},
    os::fd::OwnedFd,
};

use nix::sched::{CloneFlags, setns};

use super::{Ending::Refused, Families, Rights, Row};
use crate::{
    field::Field,
    ground::{GATEWAY_HARDWARE, GUEST, GUEST_SIDE, NEIGHBOUR, TARGET, TARGET_HARDWARE, TO_TARGET, pick},
    netlink,
    packet::{self, Carried, Packet},
    sys::{self, Raw},
};

/// `PACKET_VNET_HDR`
const VNET_HEADER: i32 = 15;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;

pub const ROWS: &[Row] = &[
    Row::new("packet socket: a SYN", Refused, |field| framed(field, &[], Carried::Syn)).with(Rights::All),
    Row::new("packet socket: a datagram", Refused, |field| framed(field, &[], Carried::Udp)).with(Rights::All),
    Row::new("packet socket: cooked (SOCK_DGRAM)", Refused, cooked).with(Rights::All),
    Row::new("packet socket: the obsolete kind (SOCK_PACKET)", Refused, obsolete).with(Rights::All),
    Row::new("packet socket: bound, then send", Refused, bound).with(Rights::All),
    Row::new("packet socket: another EtherType than the frame's", Refused, mistyped).with(Rights::All),
    Row::new("packet socket: priority tag", Refused, |field| framed(field, &[VLAN], Carried::Syn)).with(Rights::All),
    Row::new("packet socket: two tags", Refused, |field| framed(field, &[QINQ, VLAN], Carried::Syn)).with(Rights::All),
    // Of IPv6 the kernel takes no first fragment without the whole header.
    Row::new("packet socket: tiny fragments, TCP", Refused, |f| fragments(f, Carried::Syn))
        .with(Rights::All)
        .only(Families::V4),
    Row::new("packet socket: tiny fragments, UDP", Refused, |f| fragments(f, Carried::Udp)).with(Rights::All),
    Row::new("packet socket: transmit ring", Refused, ring).with(Rights::All),
    Row::new("packet socket: with a virtual network header", Refused, virtual_header).with(Rights::All),
    Row::new("packet socket: IPv4 options before the ports", Refused, options).with(Rights::All).only(Families::V4),
    Row::new("packet socket: source route (LSRR)", Refused, source_route).with(Rights::All).only(Families::V4),
    Row::new("packet socket: extension headers before the ports", Refused, |field| extensions(field, 3))
        .with(Rights::All)
        .only(Families::V6),
    Row::new("packet socket: more extension headers than are walked", Refused, |field| extensions(field, 7))
        .with(Rights::All)
        .only(Families::V6),
    Row::new("packet socket: in another namespace, forwarded", Refused, forwarded).with(Rights::All),
];

fn failed(error: String) -> Error {
    Error::other(error)
}

fn interface() -> io::Result<u32> {
    netlink::index(TO_TARGET).map_err(failed)
}

fn socket(kind: i32) -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    sys::socket(libc::AF_PACKET, kind, 0)
}

fn packet(field: &Field, carried: Carried) -> Packet {
    let to = field.target();
    Packet::new(carried, (to.ip(), to.port()))
}

fn to(ethertype: u16) -> io::Result<Raw> {
    Ok(Raw::link(interface()?, ethertype, TARGET_HARDWARE))
}

fn framed(field: &mut Field, tags: &[u16], carried: Carried) -> io::Result<()> {
    let packet = packet(field, carried);
    let ethertype = *tags.first().unwrap_or(&packet.ethertype());
    sys::send_to(&socket(libc::SOCK_RAW)?, &packet.frame(tags), 0, &to(ethertype)?).map(drop)
}

fn cooked(field: &mut Field) -> io::Result<()> {
    let packet = packet(field, Carried::Syn);
    sys::send_to(&socket(libc::SOCK_DGRAM)?, &packet.bytes(), 0, &to(packet.ethertype())?).map(drop)
}

fn obsolete(field: &mut Field) -> io::Result<()> {
    /// `SOCK_PACKET`
    const KIND: i32 = 10;
    // struct sockaddr_pkt: family, name of the interface, EtherType.
    let packet = packet(field, Carried::Syn);
    let mut address = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    address.extend(TO_TARGET.as_bytes());
    address.resize(16, 0);
    address.extend(packet.ethertype().to_be_bytes());
    sys::send_to(&socket(KIND)?, &packet.frame(&[]), 0, &Raw(address)).map(drop)
}

fn bound(field: &mut Field) -> io::Result<()> {
    let packet = packet(field, Carried::Syn);
    let socket = socket(libc::SOCK_RAW)?;
    sys::bind(&socket, &to(packet.ethertype())?)?;
    sys::send(&socket, &packet.frame(&[]), 0).map(drop)
}

fn mistyped(field: &mut Field) -> io::Result<()> {
    /// ARP, which nobody minds.
    const ARP: u16 = 0x0806;
    let packet = packet(field, Carried::Syn);
    sys::send_to(&socket(libc::SOCK_RAW)?, &packet.frame(&[]), 0, &to(ARP)?).map(drop)
}

fn fragments(field: &mut Field, carried: Carried) -> io::Result<()> {
    let packet = packet(field, carried);
    let (socket, to) = (socket(libc::SOCK_DGRAM)?, to(packet.ethertype())?);
    packet.fragments().iter().try_for_each(|fragment| sys::send_to(&socket, fragment, 0, &to).map(drop))
}

fn ring(field: &mut Field) -> io::Result<()> {
    let packet = packet(field, Carried::Syn);
    sys::transmit_by_ring(&socket(libc::SOCK_RAW)?, &packet.frame(&[]), &to(packet.ethertype())?)
}

fn virtual_header(field: &mut Field) -> io::Result<()> {
    let packet = packet(field, Carried::Udp);
    let socket = socket(libc::SOCK_RAW)?;
    sys::set_int(&socket, libc::SOL_PACKET, VNET_HEADER, 1)?;
    // struct virtio_net_hdr: nothing to be done.
    let frame = [vec![0; 10], packet.frame(&[])].concat();
    sys::send_to(&socket, &frame, 0, &to(packet.ethertype())?).map(drop)
}

fn options(field: &mut Field) -> io::Result<()> {
    let mut packet = packet(field, Carried::Syn);
    packet.options = vec![1; 40];
    sys::send_to(&socket(libc::SOCK_DGRAM)?, &packet.bytes(), 0, &to(packet.ethertype())?).map(drop)
}

/// Destination options with nothing but padding.
fn extensions(field: &mut Field, count: usize) -> io::Result<()> {
    let mut packet = packet(field, Carried::Syn);
    packet.extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0]); count];
    sys::send_to(&socket(libc::SOCK_DGRAM)?, &packet.bytes(), 0, &to(packet.ethertype())?).map(drop)
}

/// From a machine behind the host, whose packets the host passes on.
fn forwarded(field: &mut Field) -> io::Result<()> {
    setns(field.guest(), CloneFlags::CLONE_NEWNET)?;
    let mut packet = packet(field, Carried::Syn);
    packet.from.0 = pick(GUEST, field.six);
    let to = Raw::link(netlink::index(GUEST_SIDE).map_err(failed)?, packet.ethertype(), GATEWAY_HARDWARE);
    let frame = packet::frame(GATEWAY_HARDWARE, &[], packet.ethertype(), &packet.bytes());
    sys::send_to(&socket(libc::SOCK_RAW)?, &frame, 0, &to).map(drop)
}

/// The header names another address of the same machine, the option the target's.
fn source_route(field: &mut Field) -> io::Result<()> {
    let mut packet = packet(field, Carried::Syn);
    packet.via = Some(pick(NEIGHBOUR, false));
    packet.options = vec![131, 7, 4];
    packet.options.extend(TARGET.0.octets());
    packet.options.push(0);
    sys::send_to(&socket(libc::SOCK_DGRAM)?, &packet.bytes(), 0, &to(packet.ethertype())?).map(drop)
}
