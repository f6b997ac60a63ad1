//! System calls of the attempts. All `unsafe` of the self-test is in this file.
#![allow(unsafe_code)]

use std::{
    io, mem,
    net::{SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
};

const CAP_NET_RAW: u32 = 13;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: libc::c_int = 6;

/// Becomes a user for good, keeping nothing but the capability for raw and packet sockets. The process must have one thread.
pub(super) fn become_user(uid: u32) -> io::Result<()> {
    // SAFETY: numbers only.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setgroups(0, ptr::null()))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    let header = [CAPABILITY_VERSION_3, 0];
    // Effective, permitted and inheritable, of the first 32 capabilities and of the others.
    let sets = [1 << CAP_NET_RAW, 1 << CAP_NET_RAW, 0, 0, 0, 0_u32];
    // SAFETY: both arrays have the layout that this version of the call takes, and live long enough.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) } as libc::c_int)
}

/// A socket.
pub(super) fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; the kernel has just made the descriptor for us.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets an integer option.
pub(super) fn set(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value lives long enough and has this size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) })
}

/// Lets the kernel fill in the checksum of UDP in what a raw IPv6 socket sends.
pub(super) fn fill_in_checksum(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, UDP_CHECKSUM)
}

/// `connect`
pub(super) fn connect(socket: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    with_address(to, |address, size| {
        // SAFETY: the address has this size, and lives long enough.
        check(unsafe { libc::connect(socket.as_raw_fd(), address, size) })
    })
}

/// `sendto`
pub(super) fn send_to(socket: &OwnedFd, bytes: &[u8], flags: libc::c_int, to: SocketAddr) -> io::Result<()> {
    with_address(to, |address, size| {
        let flags = flags | libc::MSG_NOSIGNAL;
        // SAFETY: the bytes and the address have these sizes, and live long enough.
        let sent =
            unsafe { libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags, address, size) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    })
}

/// Sends a packet of this protocol (an Ethernet type) by the loopback interface, from a packet socket without headers.
pub(super) fn send_packet(socket: &OwnedFd, protocol: u16, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: all-zero is a value of this plain structure.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    // SAFETY: the name ends with a zero byte.
    address.sll_ifindex = unsafe { libc::if_nametoindex(c"lo".as_ptr()) } as i32;
    address.sll_halen = 6;
    let size = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the bytes and the address have these sizes, and live long enough.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const address).cast(), size)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `connect` by way of `io_uring`, in the kernel's own thread (`asynchronously`) or in this one.
pub(super) fn connect_by_ring(socket: &OwnedFd, to: SocketAddr, asynchronously: bool) -> io::Result<()> {
    let mut ring = io_uring::IoUring::new(2)?;
    let flags = if asynchronously { io_uring::squeue::Flags::ASYNC } else { io_uring::squeue::Flags::empty() };
    with_address(to, |address, size| {
        let entry = io_uring::opcode::Connect::new(io_uring::types::Fd(socket.as_raw_fd()), address, size).build();
        // SAFETY: the address lives until the call below has its answer.
        unsafe { ring.submission().push(&entry.flags(flags)) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        match ring.completion().next().map(|done| done.result()) {
            Some(0..) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    })
}

/// A socket address as the system calls take it.
fn with_address<T>(address: SocketAddr, call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> T) -> T {
    match address {
        SocketAddr::V4(v4) => {
            let address = v4_address(v4);
            call((&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let address = v6_address(v6);
            call((&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
        }
    }
}

fn v4_address(of: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn v6_address(of: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as u16,
        sin6_port: of.port().to_be(),
        sin6_flowinfo: of.flowinfo(),
        sin6_addr: libc::in6_addr { s6_addr: of.ip().octets() },
        sin6_scope_id: of.scope_id(),
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
