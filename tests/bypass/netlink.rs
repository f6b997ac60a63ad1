//! Interfaces, addresses, routes and rules by rtnetlink, which every kernel has, whatever tools its host has.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket},
};

use crate::Outcome;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const NEW_RULE: u16 = 32;

/// `NLM_F_REQUEST | NLM_F_ACK`
const ASK: u16 = 5;
/// `NLM_F_CREATE | NLM_F_EXCL`
const CREATE: u16 = 0x600;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VETH_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Usable at once, without looking for a duplicate: `IFA_F_NODAD`.
const NO_DETECTION: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const FRA_FWMARK: u16 = 10;

/// `IFF_UP`
const UP: u32 = 1;
const MAIN_TABLE: u8 = 254;

/// A pair of interfaces: one end here, the other in another network namespace.
pub fn pair(here: (&str, [u8; 6]), there: (&str, [u8; 6]), namespace: &OwnedFd) -> Outcome {
    let named =
        |(name, hardware): (&str, [u8; 6])| [text(IFLA_IFNAME, name), attribute(IFLA_ADDRESS, &hardware)].concat();
    let mut peer = link(0, 0);
    peer.extend(named(there));
    peer.extend(attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes()));
    let data = attribute(VETH_PEER, &peer);
    let info = [text(INFO_KIND, "veth"), attribute(INFO_DATA, &data)].concat();
    let body = [link(0, 0), named(here), attribute(IFLA_LINKINFO, &info)].concat();
    ask(&format!("the pair {} and {}", here.0, there.0), NEW_LINK, CREATE, &body)
}

/// Brings an interface up.
pub fn up(interface: &str) -> Outcome {
    ask(&format!("{interface} up"), NEW_LINK, 0, &link(index(interface)?, UP))
}

/// Gives an interface an address.
pub fn address(interface: &str, address: IpAddr, prefix: u8) -> Outcome {
    let mut body = vec![family(address), prefix, NO_DETECTION, 0];
    body.extend(index(interface)?.to_ne_bytes());
    body.extend(attribute(IFA_LOCAL, &octets(address)));
    body.extend(attribute(IFA_ADDRESS, &octets(address)));
    ask(&format!("{address} on {interface}"), NEW_ADDRESS, CREATE, &body)
}

/// Routes a network (all of the family, with a prefix of 0) to an interface, by a gateway if there is one.
pub fn route(to: IpAddr, prefix: u8, interface: &str, gateway: Option<IpAddr>, table: Option<u8>) -> Outcome {
    /// `RTPROT_STATIC`
    const STATIC: u8 = 4;
    /// `RTN_UNICAST`
    const UNICAST: u8 = 1;
    /// `RT_SCOPE_LINK`
    const ON_LINK: u8 = 253;
    let scope = if gateway.is_none() && to.is_ipv4() { ON_LINK } else { 0 };
    let mut body = vec![family(to), prefix, 0, 0, table.unwrap_or(MAIN_TABLE), STATIC, scope, UNICAST, 0, 0, 0, 0];
    if prefix != 0 {
        body.extend(attribute(RTA_DST, &octets(to)));
    }
    body.extend(attribute(RTA_OIF, &index(interface)?.to_ne_bytes()));
    if let Some(gateway) = gateway {
        body.extend(attribute(RTA_GATEWAY, &octets(gateway)));
    }
    ask(&format!("the route to {to}/{prefix}"), NEW_ROUTE, CREATE, &body)
}

/// Packets with a mark look into a table first.
pub fn rule(v6: bool, mark: u32, table: u8) -> Outcome {
    /// `FR_ACT_TO_TBL`
    const TO_TABLE: u8 = 1;
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
    let mut body = vec![family, 0, 0, 0, table, 0, 0, TO_TABLE, 0, 0, 0, 0];
    body.extend(attribute(FRA_FWMARK, &mark.to_ne_bytes()));
    ask("a rule", NEW_RULE, CREATE, &body)
}

fn link(index: u32, flags: u32) -> Vec<u8> {
    let words = [0, index, flags, flags];
    words.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("short");
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn octets(of: IpAddr) -> Vec<u8> {
    match of {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(of: IpAddr) -> u8 {
    (if of.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

/// The index of an interface.
pub fn index(interface: &str) -> Outcome<u32> {
    if_nametoindex(interface).map_err(|error| format!("{interface}: {error}"))
}

fn ask(what: &str, kind: u16, flags: u16, body: &[u8]) -> Outcome {
    exchange(kind, flags, body).map_err(|error| format!("{what}: {error}"))
}

fn exchange(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let length = u32::try_from(16 + body.len()).expect("short");
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((ASK | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    send(netlink.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let size = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // A header of sixteen bytes, then the error, negative; zero is success.
    match answer[..size].get(16..20) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(io::Error::other("no answer")),
    }
}
