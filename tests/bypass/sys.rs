//! System calls that neither the standard library nor `nix` makes as an attack needs them: any socket, any address, any option,
//! ancillary data, io_uring, and ways to make a process.
#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_void},
    io::{self, Error},
    mem,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd},
    path::Path,
    ptr,
};

use io_uring::{IoUring, opcode, squeue, types};

/// A socket address as the kernel reads it.
#[derive(Clone, Debug)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// An IPv4 or IPv6 address, with the zone that it names.
    pub fn of(at: SocketAddr) -> Self {
        let mut bytes = Vec::new();
        match at {
            SocketAddr::V4(at) => {
                bytes.extend((libc::AF_INET as u16).to_ne_bytes());
                bytes.extend(at.port().to_be_bytes());
                bytes.extend(at.ip().octets());
                bytes.extend([0; 8]);
            }
            SocketAddr::V6(at) => {
                bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
                bytes.extend(at.port().to_be_bytes());
                bytes.extend([0; 4]);
                bytes.extend(at.ip().octets());
                bytes.extend(at.scope_id().to_ne_bytes());
            }
        }
        Self(bytes)
    }

    /// The same address under another family.
    pub fn with_family(mut self, family: c_int) -> Self {
        self.0[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        self
    }

    /// No address: what makes a socket unconnected.
    pub fn unspecified() -> Self {
        Self(vec![0; 16])
    }

    /// A path, with the zero behind it.
    pub fn unix(path: &Path) -> Self {
        let path = path.as_os_str().as_encoded_bytes();
        Self([&(libc::AF_UNIX as u16).to_ne_bytes()[..], path, &[0]].concat())
    }

    /// An address of a packet socket: an interface, an EtherType and a hardware address.
    pub fn link(interface: u32, ethertype: u16, hardware: [u8; 6]) -> Self {
        let mut bytes = Vec::new();
        bytes.extend((libc::AF_PACKET as u16).to_ne_bytes());
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(interface.to_ne_bytes());
        bytes.extend([0, 0, 0, 6]);
        bytes.extend(hardware);
        bytes.extend([0; 2]);
        Self(bytes)
    }

    fn pointer(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (self.0.as_ptr().cast(), self.0.len() as libc::socklen_t)
    }
}

fn done(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn moved(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// `socket`
pub fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let number = done(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `connect`
pub fn connect(socket: &impl AsRawFd, to: &Raw) -> io::Result<()> {
    let (address, length) = to.pointer();
    // SAFETY: the address lives until the call returns, and is as long as we say.
    done(unsafe { libc::connect(socket.as_raw_fd(), address, length) }).map(drop)
}

/// `bind`
pub fn bind(socket: &impl AsRawFd, to: &Raw) -> io::Result<()> {
    let (address, length) = to.pointer();
    // SAFETY: as for `connect`.
    done(unsafe { libc::bind(socket.as_raw_fd(), address, length) }).map(drop)
}

/// `listen`
pub fn listen(socket: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::listen(socket.as_raw_fd(), 8) }).map(drop)
}

/// `accept`
pub fn accept(socket: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: no address is asked for.
    let number = done(unsafe { libc::accept(socket.as_raw_fd(), ptr::null_mut(), ptr::null_mut()) })?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// `send`
pub fn send(socket: &impl AsRawFd, bytes: &[u8], flags: c_int) -> io::Result<usize> {
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the bytes live until the call returns.
    moved(unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// `sendto`
pub fn send_to(socket: &impl AsRawFd, bytes: &[u8], flags: c_int, to: &Raw) -> io::Result<usize> {
    let (address, length) = to.pointer();
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: bytes and address live until the call returns.
    moved(unsafe { libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags, address, length) })
}

/// The parts of a message, kept where `msghdr` points to.
struct Message {
    to: Option<Raw>,
    bytes: Vec<u8>,
    control: Vec<u64>,
    part: libc::iovec,
    header: libc::msghdr,
}

impl Message {
    /// With one piece of ancillary data, if any: level, type and value.
    fn new(bytes: &[u8], to: Option<&Raw>, control: Option<(c_int, c_int, &[u8])>) -> Box<Self> {
        // SAFETY: all-zero is a valid header: no address, no parts, no control data.
        let header: libc::msghdr = unsafe { mem::zeroed() };
        let mut message = Box::new(Self {
            to: to.cloned(),
            bytes: bytes.to_vec(),
            control: Vec::new(),
            part: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            header,
        });
        message.part = libc::iovec { iov_base: message.bytes.as_mut_ptr().cast(), iov_len: message.bytes.len() };
        message.header.msg_iov = &raw mut message.part;
        message.header.msg_iovlen = 1;
        if let Some(to) = &message.to {
            message.header.msg_name = to.0.as_ptr().cast_mut().cast();
            message.header.msg_namelen = to.0.len() as libc::socklen_t;
        }
        if let Some((level, kind, value)) = control {
            // struct cmsghdr: its length, the level and the type; then the value.
            let length = 16 + value.len();
            let mut data = length.to_ne_bytes().to_vec();
            data.extend(level.to_ne_bytes());
            data.extend(kind.to_ne_bytes());
            data.extend(value);
            data.resize(data.len().next_multiple_of(8), 0);
            message.control =
                data.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight"))).collect();
            message.header.msg_control = message.control.as_mut_ptr().cast();
            message.header.msg_controllen = length;
        }
        message
    }
}

/// `sendmsg`, with ancillary data if given: level, type and value.
pub fn send_message(
    socket: &impl AsRawFd,
    bytes: &[u8],
    flags: c_int,
    to: Option<&Raw>,
    control: Option<(c_int, c_int, &[u8])>,
) -> io::Result<usize> {
    let message = Message::new(bytes, to, control);
    // SAFETY: everything that the header points to lives in `message`.
    moved(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message.header, flags | libc::MSG_NOSIGNAL) })
}

/// `sendmmsg` of the same message, twice.
pub fn send_messages(socket: &impl AsRawFd, bytes: &[u8], to: &Raw) -> io::Result<()> {
    let message = Message::new(bytes, Some(to), None);
    let one = libc::mmsghdr { msg_hdr: message.header, msg_len: 0 };
    let mut both = [one, one];
    // SAFETY: as for `sendmsg`.
    done(unsafe { libc::sendmmsg(socket.as_raw_fd(), both.as_mut_ptr(), 2, 0) }).map(drop)
}

/// `setsockopt`
pub fn set(socket: &impl AsRawFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    let (pointer, length) = (value.as_ptr().cast::<c_void>(), value.len() as libc::socklen_t);
    // SAFETY: the value lives until the call returns.
    done(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) }).map(drop)
}

/// `setsockopt` of an integer.
pub fn set_int(socket: &impl AsRawFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(socket, level, name, &value.to_ne_bytes())
}

/// `sendfile` of a file from its beginning.
pub fn send_file(socket: &impl AsRawFd, file: &impl AsRawFd, length: usize) -> io::Result<usize> {
    let mut offset = 0;
    // SAFETY: the offset lives until the call returns.
    moved(unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, length) })
}

/// `splice` from a pipe.
pub fn splice(pipe: &impl AsRawFd, socket: &impl AsRawFd, length: usize) -> io::Result<usize> {
    let (from, to) = (pipe.as_raw_fd(), socket.as_raw_fd());
    // SAFETY: no offsets are given, as it must be for pipes and sockets.
    moved(unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), length, 0) })
}

/// Sends a descriptor over a Unix socket.
pub fn pass(over: &impl AsRawFd, descriptor: &impl AsRawFd) -> io::Result<()> {
    let value = descriptor.as_raw_fd().to_ne_bytes();
    send_message(over, b"x", 0, None, Some((libc::SOL_SOCKET, libc::SCM_RIGHTS, &value))).map(drop)
}

/// Receives a descriptor that was [`pass`]ed.
pub fn receive(over: &impl AsRawFd) -> io::Result<OwnedFd> {
    let mut message = Message::new(b"x", None, Some((0, 0, &[0; 4])));
    // SAFETY: the header points to one byte and to room for one descriptor, both ours.
    moved(unsafe { libc::recvmsg(over.as_raw_fd(), &raw mut message.header, libc::MSG_CMSG_CLOEXEC) })?;
    if message.header.msg_controllen < 20 {
        return Err(Error::other("no descriptor came"));
    }
    // SAFETY: the kernel has put a new descriptor there, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(message.control[2] as u32 as c_int) })
}

/// `pidfd_getfd`: another process's descriptor.
pub fn take_from(pid: u32, number: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved; a result that is not negative is a descriptor of ours.
    unsafe {
        let process = done(libc::syscall(libc::SYS_pidfd_open, pid, 0) as c_int)?;
        let process = OwnedFd::from_raw_fd(process);
        let taken = done(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) as c_int)?;
        Ok(OwnedFd::from_raw_fd(taken))
    }
}

/// Lets a descriptor outlive exec.
pub fn keep(descriptor: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no memory is involved.
    done(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0) }).map(drop)
}

/// A descriptor that this process was started with.
pub fn inherited(number: c_int) -> BorrowedFd<'static> {
    // SAFETY: whoever started this process keeps it open for us, and nothing here closes it.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Becomes another user and group, with all privileges or with none.
pub fn become_user(uid: u32, privileged: bool) -> io::Result<()> {
    // SAFETY: these calls read what they are given, which lives until they return.
    unsafe {
        done(libc::setgroups(0, ptr::null()))?;
        if privileged {
            done(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        }
        done(libc::setresgid(uid, uid, uid))?;
        done(libc::setresuid(uid, uid, uid))?;
        if privileged {
            // struct __user_cap_header_struct of version 3, and two __user_cap_data_struct.
            let header: [u32; 2] = [0x2008_0522, 0];
            let mut data = [0_u32; 6];
            done(libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) as c_int)?;
            (data[0], data[3]) = (data[1], data[4]);
            done(libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) as c_int)?;
        }
    }
    Ok(())
}

/// Runs something in a child made by `fork`, and returns its pid; the child ends with the errno, and lives until its parent
/// has let it go by closing the pipe.
///
/// The process must have one thread.
pub fn fork(body: impl FnOnce() -> io::Result<()>) -> io::Result<u32> {
    // SAFETY: the process has one thread, so that the child may do anything.
    match done(unsafe { libc::fork() })? {
        0 => {
            let code = match body() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(255),
            };
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Waits for a child of [`fork`] or [`share`].
pub fn wait(pid: u32) -> io::Result<()> {
    let mut status = 0;
    // SAFETY: the status lives until the call returns.
    done(unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, libc::__WALL) })?;
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        code => Err(Error::from_raw_os_error(code)),
    }
}

/// `clone` of a child that shares what the flags say. It connects, says who it is and how it went, and lives until its standard
/// input ends. Returns its pid.
pub fn share(flags: c_int, socket: &impl AsRawFd, to: &Raw) -> io::Result<u32> {
    struct Task {
        socket: c_int,
        to: Raw,
    }
    extern "C" fn child(task: *mut c_void) -> c_int {
        // SAFETY: the task is never freed. Nothing is called that needs more than the stack, or touches what the parent has
        // locked, for the memory may be the parent's.
        unsafe {
            let task = &*task.cast::<Task>();
            let (address, length) = task.to.pointer();
            let connected = libc::connect(task.socket, address, length) == 0;
            let words = if connected { c"pid %d\ndone\n" } else { c"pid %d\nerror in the child\n" };
            let mut line = [0_u8; 64];
            let length = libc::snprintf(line.as_mut_ptr().cast(), line.len(), words.as_ptr(), libc::getpid());
            libc::write(1, line.as_ptr().cast(), length as usize);
            libc::read(0, [0_u8; 1].as_mut_ptr().cast(), 1);
        }
        0
    }
    // Never freed: the child may share this memory.
    let stack = Box::leak(vec![0_u128; 8192].into_boxed_slice());
    let task = Box::leak(Box::new(Task { socket: socket.as_raw_fd(), to: to.clone() }));
    // SAFETY: the stack grows down from its end, and is not used by anybody else.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        done(libc::clone(child, top, flags | libc::SIGCHLD, ptr::from_mut(task).cast()))?
    };
    Ok(pid.cast_unsigned())
}

/// How the kernel is to take an operation of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// At once.
    Inline,
    /// By a worker.
    Async,
    /// By a kernel thread that polls the queue.
    Polled,
}

fn ring(how: Ring) -> io::Result<IoUring> {
    match how {
        Ring::Polled => IoUring::builder().setup_sqpoll(50).build(8),
        _ => IoUring::new(8),
    }
}

fn submit(ring: &mut IoUring, how: Ring, entry: squeue::Entry) -> io::Result<i32> {
    let entry = if how == Ring::Async { entry.flags(squeue::Flags::ASYNC) } else { entry };
    // SAFETY: the callers keep what the entry points to until its completion is here.
    unsafe { ring.submission().push(&entry).map_err(Error::other)? };
    let patience = types::Timespec::new().sec(2);
    ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&patience))?;
    let result = ring.completion().next().ok_or_else(|| Error::other("no completion"))?.result();
    if result < 0 { Err(Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// `connect` and, if it succeeds, `send` by io_uring.
pub fn ring_connect(how: Ring, socket: &impl AsRawFd, to: &Raw, bytes: &[u8]) -> io::Result<()> {
    let (address, length) = to.pointer();
    let mut ring = ring(how)?;
    let fd = types::Fd(socket.as_raw_fd());
    submit(&mut ring, how, opcode::Connect::new(fd, address.cast(), length).build())?;
    submit(&mut ring, how, opcode::Send::new(fd, bytes.as_ptr(), bytes.len() as u32).build()).map(drop)
}

/// `send` on a connected socket by io_uring.
pub fn ring_send(how: Ring, socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32);
    submit(&mut ring(how)?, how, entry.build()).map(drop)
}

/// `sendmsg` by io_uring.
pub fn ring_send_message(how: Ring, socket: &impl AsRawFd, bytes: &[u8], flags: c_int, to: &Raw) -> io::Result<()> {
    let message = Message::new(bytes, Some(to), None);
    let entry = opcode::SendMsg::new(types::Fd(socket.as_raw_fd()), &raw const message.header).flags(flags as u32);
    submit(&mut ring(how)?, how, entry.build()).map(drop)
}

/// `socket`, `connect` and `send` by io_uring on a descriptor that no table of the process has.
pub fn ring_direct(family: c_int, to: &Raw, bytes: &[u8]) -> io::Result<IoUring> {
    let (address, length) = to.pointer();
    let how = Ring::Inline;
    let mut ring = ring(how)?;
    ring.submitter().register_files_sparse(1)?;
    let slot = types::DestinationSlot::try_from_slot_target(0).map_err(|_| Error::other("slot"))?;
    submit(&mut ring, how, opcode::Socket::new(family, libc::SOCK_STREAM, 0).file_index(Some(slot)).build())?;
    submit(&mut ring, how, opcode::Connect::new(types::Fixed(0), address.cast(), length).build())?;
    submit(&mut ring, how, opcode::Send::new(types::Fixed(0), bytes.as_ptr(), bytes.len() as u32).build())?;
    Ok(ring)
}

/// Sends a frame by the transmit ring of a packet socket.
pub fn transmit_by_ring(socket: &impl AsRawFd, frame: &[u8], to: &Raw) -> io::Result<()> {
    const SIZE: u32 = 4096;
    const FRAME: u32 = 2048;
    /// `PACKET_TX_RING`
    const TX_RING: c_int = 13;
    /// Where a frame's bytes begin: behind `struct tpacket_hdr`, aligned, without `struct sockaddr_ll`.
    const DATA: usize = 32;
    const SEND_REQUEST: u64 = 1;
    let request: Vec<u8> = [SIZE, 1, FRAME, SIZE / FRAME].iter().flat_map(|word| word.to_ne_bytes()).collect();
    set(socket, libc::SOL_PACKET, TX_RING, &request)?;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping of the ring, of the size that was asked for; all that is written lies in its first frame.
    unsafe {
        let mapped = libc::mmap(ptr::null_mut(), SIZE as usize, access, libc::MAP_SHARED, socket.as_raw_fd(), 0);
        if mapped == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = mapped.cast::<u8>();
        ptr::copy_nonoverlapping(frame.as_ptr(), start.add(DATA), frame.len());
        // struct tpacket_hdr: the status, then the length.
        start.add(8).cast::<u32>().write_volatile(frame.len() as u32);
        start.cast::<u64>().write_volatile(SEND_REQUEST);
    }
    send_to(socket, &[], 0, to).map(drop)
}
