//! The last line: packets, whatever way they were made, that are about to leave for a protected destination.
//!
//! `connect` decides; what is dropped here has come past it: a connection older than the agent, or the packets of a raw or
//! packet socket. Of TCP a packet with payload or SYN is dropped: the kernel's own answers without payload have sockets of the
//! kernel, and pass.
//!
//! *Invariant:* a packet whose destination cannot be read is dropped if somebody in scope sent it, by whatever socket, or if it
//! is forwarded and forwarded packets are not let through.

use core::mem;

use agent_common::{
    Counter, DESTINATION_OBSERVE, Destination, MARK_APART, MARK_EXISTING, MARK_SCOPED, MARK_UPSTREAM, Mark, Settings,
    scope as bits,
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_listener_sock, bpf_get_netns_cookie, bpf_get_socket_uid, bpf_skb_cgroup_id,
        bpf_skb_load_bytes_relative, bpf_skb_pull_data,
    },
};

use crate::{
    address::{self, Words},
    maps::{MARKS, SETTINGS, count, stored},
    scope,
};

/// Return value of a cgroup program that lets a packet go.
const PASS: i32 = 1;
/// Return value of a cgroup program that drops a packet.
const DROP: i32 = 0;
/// `TCX_NEXT`, and `TC_ACT_UNSPEC`: what other programs say.
const NEXT: i32 = -1;
/// `TC_ACT_SHOT`
const SHOT: i32 = 2;

/// `BPF_HDR_START_MAC`
const FRAME: u32 = 0;
/// `BPF_HDR_START_NET`
const NETWORK: u32 = 1;

const AF_PACKET: u32 = 17;
/// `TCP_NEW_SYN_RECV`
const SYN_RECEIVED: u32 = 12;
const ETHERNET: u32 = 14;
const VLAN_TAG: u32 = 4;
const ETHERTYPE_IP: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
/// Extension headers that are walked. More than real packets have.
const MAX_EXTENSIONS: usize = 6;

/// Bytes from the beginning of a packet that [`load`] can be asked for: more than the headers of real packets have.
const READABLE: u32 = 512;
/// Length of an IPv4 header without options.
const PLAIN_HEADER: u32 = 20;

const SYN: u8 = 0x02;
/// Bits of the fragment offset in IPv4's field of flags and offset.
const FRAGMENT_OFFSET: u16 = 0x1fff;
/// The same in IPv6's fragment header.
const FRAGMENT_OFFSET6: u16 = 0xfff8;

/// What a packet is about.
enum Packet {
    /// Nothing that has a protected destination's port, or an answer without payload.
    Harmless,
    /// To an address without a port that counts.
    Elsewhere(Words),
    /// To an address and port.
    To(Words, u16),
    /// Headers that cannot be followed.
    Unreadable,
}

/// A packet leaves a socket of any cgroup and network namespace; nothing lies before its network header.
///
/// With `COOKIE`, the kernel says of which namespace it is; without, `connect` and `sendto` have noted it on the socket.
pub fn egress<const COOKIE: bool>(skb: *mut __sk_buff) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return PASS };
    // SAFETY: the kernel passes a valid context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    // SAFETY: the context's socket.
    let mark = unsafe { stored(&MARKS).get(sk) };
    if matches!(mark, Some(&MARK_UPSTREAM | &MARK_EXISTING)) {
        return PASS;
    }
    match judge::<COOKIE>(skb, mark, settings) {
        Some(why) => {
            count(why);
            DROP
        }
        None => PASS,
    }
}

/// Why a packet of a socket is dropped, if it is.
#[inline(always)]
fn judge<const COOKIE: bool>(skb: *mut __sk_buff, mark: Option<&Mark>, settings: &Settings) -> Option<Counter> {
    let locked = settings.scope & bits::LOCKDOWN != 0;
    let why = match network(skb, NETWORK, 0) {
        Packet::Harmless => return None,
        Packet::Unreadable => Counter::Guarded,
        Packet::To(address, port) => match protected::<COOKIE>(skb, mark, settings, &address, port) {
            Some(destination) if destination.flags & DESTINATION_OBSERVE != 0 => return None,
            Some(_) => Counter::Guarded,
            None if locked && !scope::allowed(&address, port) => Counter::Lockdown,
            None => return None,
        },
        Packet::Elsewhere(address) if locked && !scope::allowed(&address, 0) => Counter::Lockdown,
        Packet::Elsewhere(_) => return None,
    };
    let marked = matches!(mark, Some(&MARK_SCOPED | &MARK_APART));
    if marked || scope::somebody(settings, user(skb), cgroup(skb)) { Some(why) } else { None }
}

/// A packet leaves by an interface of the host: one of a packet socket, or one that is forwarded, has come by no cgroup; nor, before
/// 6.5, has a listening socket's answer to a SYN.
pub fn interface(skb: *mut __sk_buff) -> i32 {
    let Some(settings) = SETTINGS.get(0) else { return NEXT };
    // SAFETY: the kernel passes a valid context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    let why = if sk.is_null() {
        if settings.scope & bits::FORWARD != 0 || lay_open(skb) && !reaches(network(skb, NETWORK, 0)) {
            return NEXT;
        }
        Counter::Forwarded
    } else if is_packet_socket(sk) {
        if !scope::somebody(settings, user(skb), cgroup(skb)) {
            return NEXT;
        }
        if settings.scope & bits::LOCKDOWN != 0 {
            Counter::Lockdown
        } else if !lay_open(skb) || reaches(frame(skb)) || bare(skb) {
            Counter::Guarded
        } else {
            return NEXT;
        }
    } else if is_request(sk) {
        // The mark, like the user and the cgroup, is that of the listening socket.
        // SAFETY: there is a socket; of one that does not listen the helper gives none.
        let mark = unsafe { stored(&MARKS).get(bpf_get_listener_sock(sk)) };
        // Of this host's namespace, whose loopback is meant.
        let Some(why) = judge::<false>(skb, mark, settings) else { return NEXT };
        why
    } else {
        return NEXT;
    };
    count(why);
    SHOT
}

fn is_packet_socket(sk: *mut bpf_sock) -> bool {
    // SAFETY: the caller has looked whether there is one; this field every kind of socket has.
    unsafe { core::ptr::read_volatile(&raw const (*sk).family) == AF_PACKET }
}

/// Whether it stands for a connection whose handshake is under way, in place of the listening socket that answers.
fn is_request(sk: *mut bpf_sock) -> bool {
    // SAFETY: as in `is_packet_socket`.
    unsafe { core::ptr::read_volatile(&raw const (*sk).state) == SYN_RECEIVED }
}

/// Whether a packet reaches an enforced destination, or may.
fn reaches(packet: Packet) -> bool {
    match packet {
        Packet::To(address, port) => {
            address::destination(&address, port).is_some_and(|destination| destination.flags & DESTINATION_OBSERVE == 0)
        }
        Packet::Unreadable => true,
        Packet::Harmless | Packet::Elsewhere(_) => false,
    }
}

/// Whether a frame, read as what a packet socket makes for an interface without frames, reaches an enforced destination.
fn bare(skb: *mut __sk_buff) -> bool {
    match network(skb, FRAME, 0) {
        Packet::Unreadable => fits(skb),
        packet => reaches(packet),
    }
}

/// Whether what begins like an IP packet says no more of its length than is there. Few frames look like one by chance.
fn fits(skb: *mut __sk_buff) -> bool {
    let Some([first, _, high4, low4, high6, low6]) = load::<[u8; 6]>(skb, FRAME, 0) else { return false };
    let said = if first >> 4 == 4 {
        u32::from(u16::from_be_bytes([high4, low4]))
    } else {
        u32::from(u16::from_be_bytes([high6, low6])) + 40
    };
    // SAFETY: the kernel passes a valid context.
    said <= unsafe { (*skb).len }
}

/// The protected destination of a packet. Another network namespace's loopback is never meant.
fn protected<const COOKIE: bool>(
    skb: *mut __sk_buff,
    mark: Option<&Mark>,
    settings: &Settings,
    address: &Words,
    port: u16,
) -> Option<Destination> {
    let destination = address::destination(address, port)?;
    if !address.is_loopback() {
        return Some(destination);
    }
    let apart = if COOKIE {
        // SAFETY: the helper takes the program's context.
        unsafe { bpf_get_netns_cookie(skb.cast()) != settings.netns }
    } else {
        mark == Some(&MARK_APART)
    };
    if apart { None } else { Some(destination) }
}

/// A frame as a packet socket makes it: the type in it decides where it goes, not what the socket calls it.
fn frame(skb: *mut __sk_buff) -> Packet {
    let mut at = ETHERNET;
    let Some(mut kind) = load::<[u8; 2]>(skb, FRAME, ETHERNET - 2).map(u16::from_be_bytes) else {
        return Packet::Harmless;
    };
    for _ in 0..2 {
        if kind == ETHERTYPE_VLAN || kind == ETHERTYPE_QINQ {
            let Some(inner) = load::<[u8; 2]>(skb, FRAME, at + 2) else { return Packet::Unreadable };
            kind = u16::from_be_bytes(inner);
            at += VLAN_TAG;
        }
    }
    match kind {
        ETHERTYPE_IP | ETHERTYPE_IPV6 => network(skb, FRAME, at),
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Packet::Unreadable,
        _ => Packet::Harmless,
    }
}

/// A packet whose network header is at `at` from `base`.
#[inline(always)]
fn network(skb: *mut __sk_buff, base: u32, at: u32) -> Packet {
    match load::<u8>(skb, base, at).map(|first| first >> 4) {
        Some(4) => ipv4(skb, base, at),
        Some(6) => ipv6(skb, base, at),
        Some(_) => Packet::Harmless,
        None => Packet::Unreadable,
    }
}

#[inline(always)]
fn ipv4(skb: *mut __sk_buff, base: u32, at: u32) -> Packet {
    let Some(header) = load::<[u8; 20]>(skb, base, at) else { return Packet::Unreadable };
    let length = u32::from(header[0] & 15) * 4;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let address = Words::mapped(u32::from_ne_bytes([header[16], header[17], header[18], header[19]]));
    // What follows the first fragment is of no use without it.
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0 {
        return Packet::Harmless;
    }
    // An option may name another destination than the header; `connect` saw it, a packet socket has no `connect`.
    if base == FRAME && length != PLAIN_HEADER {
        return Packet::Unreadable;
    }
    transport(skb, base, at + length, header[9], address, total.checked_sub(length))
}

#[inline(always)]
fn ipv6(skb: *mut __sk_buff, base: u32, at: u32) -> Packet {
    let Some(header) = load::<[u32; 10]>(skb, base, at) else { return Packet::Unreadable };
    let [_, length, _, _, _, _, a, b, c, d] = header;
    let [high, low, mut next, _] = length.to_ne_bytes();
    let mut left = u32::from(u16::from_be_bytes([high, low]));
    let address = Words([a, b, c, d]);
    let mut at = at + 40;
    for _ in 0..MAX_EXTENSIONS {
        let unit = match next {
            HOP_BY_HOP | DESTINATION_OPTIONS => 8,
            // The last hop is another address than the header's; `connect` saw it, a packet socket has no `connect`.
            ROUTING if base == FRAME => return Packet::Unreadable,
            ROUTING => 8,
            AUTHENTICATION => 4,
            FRAGMENT => match load::<[u8; 4]>(skb, base, at) {
                Some([_, _, high, low]) if u16::from_be_bytes([high, low]) & FRAGMENT_OFFSET6 == 0 => 0,
                Some(_) => return Packet::Harmless,
                None => return Packet::Unreadable,
            },
            _ => return transport(skb, base, at, next, address, Some(left)),
        };
        let Some([following, size]) = load::<[u8; 2]>(skb, base, at) else { return Packet::Unreadable };
        let size = match unit {
            0 => 8,
            4 => (u32::from(size) + 2) * 4,
            _ => (u32::from(size) + 1) * 8,
        };
        next = following;
        at += size;
        left = left.saturating_sub(size);
    }
    Packet::Unreadable
}

/// `left` is the length of the transport header and its payload, 0 if the packet does not say.
#[inline(always)]
fn transport(skb: *mut __sk_buff, base: u32, at: u32, protocol: u8, address: Words, left: Option<u32>) -> Packet {
    if !matches!(protocol, TCP | UDP | UDPLITE | SCTP | DCCP) {
        return Packet::Elsewhere(address);
    }
    let Some([_, _, high, low]) = load::<[u8; 4]>(skb, base, at) else { return Packet::Unreadable };
    let port = u16::from_be_bytes([high, low]);
    if protocol == TCP {
        let Some([offset, flags]) = load::<[u8; 2]>(skb, base, at + 12) else { return Packet::Unreadable };
        let header = u32::from(offset >> 4) * 4;
        // A length of zero is a packet that is larger than the field can say.
        if flags & SYN == 0 && left.is_some_and(|left| left != 0 && left <= header) {
            return Packet::Harmless;
        }
    }
    Packet::To(address, port)
}

/// Makes the beginning of a packet readable: a packet socket can have it in pages that [`load`] does not look into. False if
/// that is not possible.
fn lay_open(skb: *mut __sk_buff) -> bool {
    // SAFETY: the kernel passes a valid context, which the helper takes.
    unsafe { bpf_skb_pull_data(skb, (*skb).len.min(READABLE)) == 0 }
}

fn load<T: Copy>(skb: *mut __sk_buff, base: u32, at: u32) -> Option<T> {
    // SAFETY: all-zero is a value of the arrays of integers that this is used for.
    let mut value: T = unsafe { mem::zeroed() };
    let size = mem::size_of::<T>() as u32;
    // SAFETY: the helper writes `size` bytes or fails; any bytes are a value.
    let result = unsafe { bpf_skb_load_bytes_relative(skb.cast(), at, (&raw mut value).cast(), size, base) };
    if result == 0 { Some(value) } else { None }
}

fn user(skb: *mut __sk_buff) -> u32 {
    // SAFETY: the helper takes the program's context.
    unsafe { bpf_get_socket_uid(skb) }
}

fn cgroup(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the helper takes the program's context.
    unsafe { bpf_skb_cgroup_id(skb) }
}
