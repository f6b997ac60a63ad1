//! Reading and writing the destination in the context of a `connect`.
//!
//! Fields of a context are read and written one by one and volatile: two neighbouring accesses that the compiler merged into
//! a wider one are refused by the verifier.

use core::{mem, ptr};

use agent_common::{DESTINATION_PREFIX, Destination, DestinationKey};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    btf_maps::lpm_trie::Key,
    programs::SockAddrContext,
};

use crate::maps::{PROTECTED4, PROTECTED6};

/// Third word of an IPv4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();
/// 127.0.0.1
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
/// First word of 64:ff9b::/96
const NAT64: u32 = 0x0064_ff9b_u32.to_be();
/// First half word of 2002::/16, host byte order.
const SIX_TO_FOUR: u32 = 0x2002;
/// Last word of ::1
const LAST6: u32 = 1_u32.to_be();

/// An address as four words in network byte order, IPv4 as mapped.
#[derive(Clone, Copy)]
pub struct Words(pub [u32; 4]);

impl Words {
    /// An IPv4 address.
    pub const fn mapped(v4: u32) -> Self {
        Self([0, 0, MAPPED, v4])
    }

    /// From bytes in network order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        // SAFETY: the same size, and any bits are a value of either.
        Self(unsafe { mem::transmute::<[u8; 16], [u32; 4]>(bytes) })
    }

    /// The IPv4 address in an IPv4-mapped one.
    pub fn as_v4(&self) -> Option<u32> {
        let [a, b, c, v4] = self.0;
        if a == 0 && b == 0 && c == MAPPED { Some(v4) } else { None }
    }

    /// The IPv4 address in one that names a translator: NAT64's well-known prefix (RFC 6052, section 2.1), 6to4 (RFC 3056,
    /// section 2), and the deprecated IPv4-compatible form (RFC 4291, section 2.5.5.1).
    pub fn translated(&self) -> Option<u32> {
        let [a, b, c, d] = self.0;
        if a == NAT64 && b == 0 && c == 0 || a == 0 && b == 0 && c == 0 && d != LAST6 && d != 0 {
            return Some(d);
        }
        let [high, low] = [u32::from_be(a), u32::from_be(b)];
        if high >> 16 == SIX_TO_FOUR { Some(((high << 16) | (low >> 16)).to_be()) } else { None }
    }

    /// 127.0.0.0/8, ::1, and the former as mapped.
    pub fn is_loopback(&self) -> bool {
        match self.as_v4() {
            Some(v4) => v4.to_ne_bytes()[0] == 127,
            None => self.0 == [0, 0, 0, LAST6],
        }
    }

    /// The loopback address of the same kind at which one of the proxy's pairs of listeners is: 127.0.0.1 and those after it, or
    /// ::1.
    pub fn loopback(&self, lane: u32) -> Self {
        let v4 = u32::from_be(LOOPBACK4) + lane;
        if self.as_v4().is_some() { Self::mapped(v4.to_be()) } else { Self([0, 0, 0, LAST6]) }
    }

    /// The bytes, in network order.
    pub fn bytes(&self) -> [u8; 16] {
        // SAFETY: the same size, and any bits are a value of either.
        unsafe { mem::transmute::<[u32; 4], [u8; 16]>(self.0) }
    }
}

/// Where a process wants to go.
pub struct Asked {
    /// Address, with the unspecified address already replaced by what the kernel takes it for.
    pub address: Words,
    /// Port, host byte order.
    pub port: u16,
}

impl Asked {
    /// From the context of a program on IPv4 sockets.
    pub fn v4(ctx: &SockAddrContext) -> Self {
        let raw = ctx.sock_addr;
        // SAFETY: the kernel passes a valid context; see the module's comment for `volatile`.
        let v4 = unsafe { ptr::read_volatile(&raw const (*raw).user_ip4) };
        // The kernel takes 0.0.0.0 for this host's loopback.
        let v4 = if v4 == 0 { LOOPBACK4 } else { v4 };
        Self { address: Words::mapped(v4), port: port(raw) }
    }

    /// From the context of a program on IPv6 sockets.
    pub fn v6(ctx: &SockAddrContext) -> Self {
        let raw = ctx.sock_addr;
        // SAFETY: as above.
        let words = Words(unsafe {
            [
                ptr::read_volatile(&raw const (*raw).user_ip6[0]),
                ptr::read_volatile(&raw const (*raw).user_ip6[1]),
                ptr::read_volatile(&raw const (*raw).user_ip6[2]),
                ptr::read_volatile(&raw const (*raw).user_ip6[3]),
            ]
        });
        let address = if words.0 == [0, 0, 0, 0] {
            // ::, which the kernel takes for loopback: for 127.0.0.1 if the socket is bound to an IPv4-mapped address.
            if bound_to_v4(ctx) { Words::mapped(LOOPBACK4) } else { Words([0, 0, 0, LAST6]) }
        } else if words.as_v4() == Some(0) {
            Words::mapped(LOOPBACK4)
        } else {
            words
        };
        Self { address, port: port(raw) }
    }
}

/// The protected destination at an address and port (host byte order), if there is one.
///
/// An IPv6 address that a translator on the way turns into an IPv4 one stands for that one.
pub fn destination(address: &Words, port: u16) -> Option<Destination> {
    let port = port.to_be_bytes();
    if let Some(v4) = address.as_v4() {
        return of_v4(v4, port);
    }
    let key = DestinationKey { port, pad: [0; 2], address: address.bytes() };
    if let Some(found) = PROTECTED6.get(&Key::new(DESTINATION_PREFIX + 128, key)) {
        return Some(*found);
    }
    of_v4(address.translated()?, port)
}

fn of_v4(v4: u32, port: [u8; 2]) -> Option<Destination> {
    let [a, b, c, d] = v4.to_ne_bytes();
    let address = [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    PROTECTED4.get(&Key::new(DESTINATION_PREFIX + 32, DestinationKey { port, pad: [0; 2], address })).copied()
}

/// Puts an address and a port into the context of a program on IPv6 sockets (`V6`), or on IPv4 ones.
#[inline(always)]
pub fn write<const V6: bool>(ctx: &SockAddrContext, address: &Words, port: u16) {
    let raw = ctx.sock_addr;
    let [a, b, c, d] = address.0;
    // SAFETY: as for reading.
    unsafe {
        if V6 {
            ptr::write_volatile(&raw mut (*raw).user_ip6[0], a);
            ptr::write_volatile(&raw mut (*raw).user_ip6[1], b);
            ptr::write_volatile(&raw mut (*raw).user_ip6[2], c);
            ptr::write_volatile(&raw mut (*raw).user_ip6[3], d);
        } else {
            ptr::write_volatile(&raw mut (*raw).user_ip4, d);
        }
        ptr::write_volatile(&raw mut (*raw).user_port, u32::from(port.to_be()));
    }
}

/// The socket of a context.
pub fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the kernel passes a valid context, in which this member of the union is the one in use.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).__bindgen_anon_1.sk) }
}

/// Transport protocol of the socket.
pub fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the kernel passes a valid context.
    unsafe { ptr::read_volatile(&raw const (*ctx.sock_addr).protocol) }
}

fn port(raw: *const bpf_sock_addr) -> u16 {
    // SAFETY: the kernel passes a valid context. The port is in network byte order in the lower half.
    u16::from_be(unsafe { ptr::read_volatile(&raw const (*raw).user_port) } as u16)
}

fn bound_to_v4(ctx: &SockAddrContext) -> bool {
    let sk = socket(ctx);
    // SAFETY: the context's socket, whose fields the verifier lets a program read.
    let source = Words(unsafe {
        [
            ptr::read_volatile(&raw const (*sk).src_ip6[0]),
            ptr::read_volatile(&raw const (*sk).src_ip6[1]),
            ptr::read_volatile(&raw const (*sk).src_ip6[2]),
            ptr::read_volatile(&raw const (*sk).src_ip6[3]),
        ]
    });
    source.as_v4().is_some()
}
