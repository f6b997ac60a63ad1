//! The few system calls that change pinned maps from outside, and what of sockets `nix` does not offer.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::libc;

use crate::Outcome;

const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_GET: libc::c_int = 7;

/// The leading part of `union bpf_attr` for elements of maps.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// For `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Pinned {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Removes everything from a pinned map with keys of sixteen bytes. Returns how many entries it had.
///
/// # Errors
/// It cannot be opened or changed.
pub fn remove_all(path: &Path) -> Outcome<usize> {
    let map = open(path)?;
    let mut removed = 0;
    loop {
        let mut key = [0_u8; 16];
        let mut first = element(&map);
        first.value = key.as_mut_ptr() as u64;
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut first) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(removed),
            Err(error) => return Err(error.to_string()),
            Ok(_) => {}
        }
        let mut gone = element(&map);
        gone.key = key.as_ptr() as u64;
        bpf(BPF_MAP_DELETE_ELEM, &mut gone).map_err(|error| error.to_string())?;
        removed += 1;
    }
}

/// Sets a number of a pinned array.
///
/// # Errors
/// It cannot be opened or changed.
pub fn set(path: &Path, index: u32, number: u64) -> Outcome {
    let map = open(path)?;
    let mut changed = element(&map);
    changed.key = (&raw const index) as u64;
    changed.value = (&raw const number) as u64;
    bpf(BPF_MAP_UPDATE_ELEM, &mut changed).map(drop).map_err(|error| error.to_string())
}

/// Bytes of memory that the kernel accounts a pinned map for.
///
/// # Errors
/// It cannot be opened, or the kernel does not say.
pub fn memory(path: &Path) -> Outcome<u64> {
    let map = open(path)?;
    let info = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = std::fs::read_to_string(&info).map_err(|error| format!("{info}: {error}"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    bytes.ok_or_else(|| format!("{info} has no memlock: {text}"))
}

/// Cookie of a socket.
///
/// # Errors
/// The kernel does not say.
pub fn cookie(socket: &impl AsRawFd) -> Outcome<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both live long enough, and the kernel writes eight bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error().to_string()) } else { Ok(cookie) }
}

/// Ends a socket's connection, so that it can connect again: `connect` with `AF_UNSPEC`.
///
/// # Errors
/// The kernel refuses.
pub fn disconnect(socket: &OwnedFd) -> Outcome {
    // SAFETY: all-zero is a valid address, of no family.
    let nowhere: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address lives long enough.
    let result = unsafe { libc::connect(socket.as_raw_fd(), &raw const nowhere, length) };
    if result < 0 { Err(io::Error::last_os_error().to_string()) } else { Ok(()) }
}

fn element(map: &OwnedFd) -> Element {
    Element { map_fd: map.as_raw_fd().unsigned_abs(), ..Element::default() }
}

fn open(path: &Path) -> Outcome<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    let mut attr = Pinned { pathname: name.as_ptr() as u64, ..Pinned::default() };
    let fd = bpf(BPF_OBJ_GET, &mut attr).map_err(|error| format!("{}: {error}", path.display()))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the attributes are those of the commands, and what they point at outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
