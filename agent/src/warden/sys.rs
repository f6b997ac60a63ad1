//! What neither `aya` nor `nix` offers safely: a few `bpf` commands, `pidfd_open`, `pidfd_getfd`, `statx`, receiving
//! descriptors, and the declaration that the shared records are plain bytes. All `unsafe` of the warden is in this file.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    io::{self, IoSliceMut},
    mem,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
};

use aya_obj::generated::bpf_insn;
use tokio::io::unix::AsyncFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, getsockopt, recvmsg, setsockopt, sockopt};

use agent_common::{
    Destination, DestinationKey, FlowKey, FlowRecord, LANES, LedgerKey, Listeners, Offsets, ProcessEntry, Settings,
    SocketPlace,
};

/// A shared record as a value or key of a map.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<T>(pub T);

// SAFETY: `repr(C)`, integers only, explicit padding: any bytes are a value, and there are no uninitialised ones.
unsafe impl aya::Pod for Plain<FlowRecord> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<ProcessEntry> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<DestinationKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Destination> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<LedgerKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Listeners> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<SocketPlace> {}
// SAFETY: as above.
unsafe impl aya::Pod for Plain<Offsets> {}

/// The shared record that these bytes begin with; `None`: there are too few.
pub(super) fn record<T>(bytes: &[u8]) -> Option<T>
where
    Plain<T>: aya::Pod,
{
    // SAFETY: there are enough bytes, which need not be aligned, and any of them are a value.
    (bytes.len() >= mem::size_of::<T>()).then(|| unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// An attach type of cgroup programs, as `enum bpf_attach_type` numbers them.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttachType {
    Egress = 1,
    SockCreate = 2,
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SockRelease = 34,
    /// Kernel 6.7 and later.
    ConnectUnix = 49,
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
const BPF_F_RDONLY: u32 = 1 << 3;
const BPF_TCX_EGRESS: u32 = 47;

/// Bytes of what the verifier says that are kept.
const VERIFIER_LOG: usize = 256 * 1024;

/// Descriptors in one message: the listeners of a network namespace.
const MAX_DESCRIPTORS: usize = 2 * LANES;

/// Programs of one attach type that [`effective_programs`] asks for. More than 64 cannot be attached to a cgroup.
const MAX_PROGRAMS: usize = 64;

/// For `BPF_OBJ_GET` and `BPF_OBJ_PIN`.
#[repr(C)]
#[derive(Default)]
struct PinnedObject {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// For an interface: the place among other programs follows, and zero is the last one.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    /// Of a cgroup a descriptor, of an interface its index.
    target: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkDetach {
    link_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_count: u32,
    pad: u32,
}

/// Opens a pinned object.
pub(super) fn pinned(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinnedObject {
        pathname: path.as_ptr() as u64,
        file_flags: if read_only { BPF_F_RDONLY } else { 0 },
        ..PinnedObject::default()
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins an object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = PinnedObject { pathname: path.as_ptr() as u64, bpf_fd: number(object), ..PinnedObject::default() };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Loads a program; an error also says what the kernel's verifier said last.
pub(super) fn load_program(
    kind: u32,
    attach_type: AttachType,
    instructions: &[bpf_insn],
    license: &CStr,
) -> io::Result<OwnedFd> {
    let mut log = vec![0_u8; VERIFIER_LOG];
    let mut attr = ProgLoad {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: attach_type as u32,
        ..ProgLoad::default()
    };
    let fd = bpf(BPF_PROG_LOAD, &mut attr).or_else(|_| {
        // Once more, to be told why: with a log that has no room for all, a good program is refused too.
        attr = ProgLoad { log_level: 1, log_size: VERIFIER_LOG as u32, log_buf: log.as_mut_ptr() as u64, ..attr };
        bpf(BPF_PROG_LOAD, &mut attr)
    });
    let fd = fd.map_err(|error| {
        let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
        match said.trim().lines().rev().find(|line| !line.starts_with("processed ")) {
            Some(last) => io::Error::other(format!("{error}: {last}")),
            None => error,
        }
    })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program at a cgroup, for as long as the link lives.
pub(super) fn link_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: number(program),
        target: number(cgroup),
        attach_type: attach_type as u32,
        ..LinkCreate::default()
    };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts a program on what leaves by an interface (kernel 6.6 and later). It goes with the link or the interface.
pub(super) fn link_interface(program: BorrowedFd<'_>, index: u32) -> io::Result<OwnedFd> {
    let mut attr =
        LinkCreate { prog_fd: number(program), target: index, attach_type: BPF_TCX_EGRESS, ..LinkCreate::default() };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program behind a link, without a moment in which none is attached.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate { link_fd: number(link), new_prog_fd: number(program), ..LinkUpdate::default() };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once, although its pin or a descriptor may still hold it. Cgroup links only.
pub(super) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: number(link) }).map(drop)
}

/// Ids of the programs that run for sockets of a cgroup, its ancestors' included.
pub(super) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: AttachType) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut attr = ProgQuery {
        target_fd: number(cgroup),
        attach_type: attach_type as u32,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_count: MAX_PROGRAMS as u32,
        ..ProgQuery::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_count as usize);
    Ok(ids)
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: every attribute type above is the leading part of `union bpf_attr` for its command, and the kernel takes what
    // lies beyond the given size for zero. Pointers in them outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

/// Cookie of the network namespace of a socket.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option::<u64>(socket, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
}

/// Cookie of a socket, as programs see it.
pub(super) fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option::<u64>(socket, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// State of a TCP socket, as `TCP_INFO` numbers it; an error if it is not a TCP socket.
pub(super) fn tcp_state(socket: BorrowedFd<'_>) -> io::Result<u8> {
    if option::<libc::c_int>(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)? != libc::IPPROTO_TCP {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // The kernel writes as much of the structure as there is room for; the state comes first.
    option::<[u8; 8]>(socket, libc::IPPROTO_TCP, libc::TCP_INFO).map(|[state, ..]| state)
}

fn option<T: aya::Pod>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: `Pod` types may be all zero.
    let mut value: T = unsafe { mem::zeroed() };
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: value and length live long enough, and the kernel writes no more than the length says; any bytes are a value.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// A descriptor that becomes readable when the process has ended.
pub(super) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A copy of another process's descriptor. Of a socket that lingers it may be the last one when it is closed, which then takes
/// as long as the other process likes.
pub(super) fn descriptor_of(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What `statx` says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileStatus {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Seconds and nanoseconds.
    pub changed: (i64, u32),
    /// Id of the mount, as in `mountinfo`.
    pub mount: u64,
    /// Type and permissions.
    pub mode: u16,
}

/// Looks at a file, following links, without asking the file system's server: one that hangs cannot hang us, and nothing is
/// mounted for it.
pub(super) fn status(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<FileStatus> {
    statx(directory.as_raw_fd(), name)
}

/// The same for a path in our own mount namespace.
pub(super) fn status_of(path: &Path) -> io::Result<FileStatus> {
    statx(libc::AT_FDCWD, &CString::new(path.as_os_str().as_bytes())?)
}

fn statx(directory: RawFd, name: &CStr) -> io::Result<FileStatus> {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut found: libc::statx = unsafe { mem::zeroed() };
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
    // SAFETY: the name ends with a zero byte, and the result lives long enough.
    if unsafe { libc::statx(directory, name.as_ptr(), flags, mask, &raw mut found) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(FileStatus {
        device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        mount: found.stx_mnt_id,
        mode: found.stx_mode,
    })
}

/// Whether a file has an access control list beside its mode.
pub(super) fn has_access_list(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let name = c"system.posix_acl_access";
    // SAFETY: both names end with a zero byte, and without room for it no value is written.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// Registers a non-blocking descriptor with the current Tokio runtime.
pub(super) fn register(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open, and stays the same, for as long as it is owned.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Receives one message into `buffer`, with the descriptors that came with it. The length is 0 at the end of the connection.
///
/// # Errors
/// As `recvmsg`; `InvalidData` if the message was longer than the buffer.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows them.
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            descriptors.iter().for_each(do_not_linger);
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, descriptors))
}

/// Closing the last descriptor of a socket that lingers would wait as long as its sender likes.
fn do_not_linger(descriptor: &OwnedFd) {
    if getsockopt(descriptor, sockopt::Linger).is_ok_and(|linger| linger.l_onoff != 0 && linger.l_linger > 0) {
        // Cannot fail where reading has succeeded.
        let _ = setsockopt(descriptor, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
    }
}

/// Makes a command end with the thread that starts it, and never gain privileges.
pub(super) fn confine(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: the closure runs in the child between fork and exec and makes nothing but system calls.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0))?;
            // The parent may have ended before the line above.
            if libc::getppid().unsigned_abs() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            // The warden takes its signals by descriptor and has blocked them, which a child would inherit.
            let mut none: libc::sigset_t = mem::zeroed();
            check(libc::sigemptyset(&raw mut none))?;
            check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))
        });
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
