//! A subagent: this binary as another user, told on its standard input what to do, line by line.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername, send, sendto,
            setsockopt, socket, sockopt,
        },
    },
    unistd::execv,
};

/// More than the accept queue of the proxy's listener holds.
const FILL: usize = 6_000;

/// A capability that nothing here needs.
const CAP_SYS_TIME: u32 = 25;

/// The binary that runs.
pub fn binary() -> PathBuf {
    std::fs::read_link("/proc/self/exe").expect("a path")
}

/// A party in a process of its own.
pub struct Client {
    child: Child,
    tell: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

impl Client {
    /// A subagent of a user (and of the group with the same number).
    pub fn start(uid: u32) -> Self {
        let mut client = Self::spawn(uid, &["client"]);
        assert_eq!(client.line(), "ready");
        client
    }

    /// This binary in another role.
    pub fn spawn(uid: u32, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).uid(uid).gid(uid).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let tell = child.stdin.take();
        let hear = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, tell, hear }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.line()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.tell.as_mut().expect("not ended"), "{command}").expect("told");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.hear.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    /// Ends it and waits until it is gone.
    pub fn end(&mut self) {
        self.tell = None;
        let _ = self.child.kill();
        self.child.wait().expect("waited");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// The other end of [`Client`].
pub fn run() -> ExitCode {
    println!("ready");
    let mut sockets = Vec::new();
    let mut servers = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.expect("a line");
        let (command, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let address = argument.parse::<SocketAddr>();
        let answer = match (command, address) {
            ("connect4", Ok(to)) => connect_new(AddressFamily::Inet, None, to, &mut sockets),
            ("connect6", Ok(to)) => connect_new(AddressFamily::Inet6, None, to, &mut sockets),
            ("connect6-bound-to-v4", Ok(to)) => {
                let from = "[::ffff:127.0.0.1]:0".parse().expect("an address");
                connect_new(AddressFamily::Inet6, Some(from), to, &mut sockets)
            }
            ("again", Ok(to)) => {
                let socket = sockets.last().expect("a socket");
                disconnect(socket).and_then(|()| connect_to(socket, to))
            }
            ("fast-open-send", Ok(to)) => fast_open_send(to, &mut sockets),
            ("fast-open-connect", Ok(to)) => fast_open_connect(to, &mut sockets),
            ("multipath", Ok(to)) => multipath(to, &mut sockets),
            ("fill", Ok(to)) => fill(to, &mut sockets),
            ("udp-connect", Ok(to)) => udp(to).connect(to).map(|()| "connected".into()),
            ("udp-send", Ok(to)) => udp(to).send_to(b"x", to).map(|_| "sent".into()),
            ("serve", Ok(at)) => TcpListener::bind(at).map(|server| {
                servers.push(server);
                "ready".into()
            }),
            ("netns", _) => unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| loopback_up()),
            ("exec", _) => Err(exec(&binary())),
            ("exec-in-thread", _) => Err(std::thread::spawn(|| exec(&binary())).join().expect("not reached")),
            ("mount-and-exec", _) => mount_and_exec(argument),
            ("exec-without-capability", _) => exec_without_capability(argument.as_ref()),
            _ => panic!("unknown: {line}"),
        };
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(error) => println!("error {}", error.raw_os_error().unwrap_or(0)),
        }
    }
    ExitCode::SUCCESS
}

fn connect_new(
    family: AddressFamily,
    from: Option<SocketAddr>,
    to: SocketAddr,
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<String> {
    // Not closed by exec.
    let socket = socket(family, SockType::Stream, SockFlag::empty(), None)?;
    if let Some(from) = from {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    let answer = connect_to(&socket, to);
    sockets.push(socket);
    answer
}

fn connect_to(socket: &OwnedFd, to: SocketAddr) -> io::Result<String> {
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    let peer: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    Ok(format!("connected to {peer}"))
}

/// `connect` with `AF_UNSPEC` makes a socket unconnected again.
fn disconnect(socket: &OwnedFd) -> io::Result<()> {
    let unspecified = libc::sockaddr { sa_family: 0, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the address lives long enough and is as long as we say.
    match unsafe { libc::connect(socket.as_raw_fd(), &raw const unspecified, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Connects by sending.
fn fast_open_send(to: SocketAddr, sockets: &mut Vec<OwnedFd>) -> io::Result<String> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    let flags = MsgFlags::from_bits_retain(libc::MSG_FASTOPEN);
    sendto(socket.as_raw_fd(), b"x", &SockaddrStorage::from(to), flags)?;
    sockets.push(socket);
    Ok("sent".into())
}

/// Connects when the first bytes are sent.
fn fast_open_connect(to: SocketAddr, sockets: &mut Vec<OwnedFd>) -> io::Result<String> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    send(socket.as_raw_fd(), b"x", MsgFlags::empty())?;
    sockets.push(socket);
    Ok("sent".into())
}

fn multipath(to: SocketAddr, sockets: &mut Vec<OwnedFd>) -> io::Result<String> {
    // SAFETY: no memory is involved; a result that is not negative is a descriptor of ours.
    let socket = unsafe {
        match libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) {
            -1 => return Err(io::Error::last_os_error()),
            number => OwnedFd::from_raw_fd(number),
        }
    };
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    send(socket.as_raw_fd(), b"x", MsgFlags::empty())?;
    sockets.push(socket);
    Ok("sent".into())
}

fn fill(to: SocketAddr, sockets: &mut Vec<OwnedFd>) -> io::Result<String> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    for _ in 0..FILL {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(nix::Error::EINPROGRESS) => sockets.push(socket),
            Err(error) => return Err(error.into()),
        }
    }
    Ok("filled".into())
}

fn udp(to: SocketAddr) -> UdpSocket {
    UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).expect("a socket")
}

fn loopback_up() -> io::Result<String> {
    for command in [&["link", "set", "lo", "up"][..], &["route", "add", "default", "dev", "lo"][..]] {
        let done = Command::new("ip").args(command).status()?;
        if !done.success() {
            return Err(io::Error::other("ip"));
        }
    }
    Ok("ready".into())
}

/// In a mount namespace of its own, mounts the first program over the second and executes what is there then.
fn mount_and_exec(argument: &str) -> io::Result<String> {
    let (over, at) = argument.split_once(' ').expect("two paths");
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some(over), at, none, MsFlags::MS_BIND, none)?;
    Err(exec(at.as_ref()))
}

/// Executes a file that asks for a capability which this process gives up for ever, as few programs go on after.
fn exec_without_capability(file: &Path) -> io::Result<String> {
    // `struct vfs_cap_data`, revision 2 and "effective": permitted and inheritable, lower and upper half.
    let mut asked = [0_u8; 20];
    asked[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    asked[4..8].copy_from_slice(&(1_u32 << CAP_SYS_TIME).to_le_bytes());
    let path = CString::new(file.as_os_str().as_encoded_bytes()).expect("a path");
    let name = c"security.capability";
    // SAFETY: both names end with a zero byte, and the value is as long as we say.
    let set = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), asked.as_ptr().cast(), asked.len(), 0) };
    // SAFETY: no memory is involved.
    if set != 0 || unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0) } != 0 {
        panic!("{}", io::Error::last_os_error());
    }
    Err(exec(file))
}

/// Executes a copy of this binary as a client, with all descriptors.
fn exec(binary: &Path) -> io::Error {
    let binary = CString::new(binary.as_os_str().as_encoded_bytes()).expect("a path");
    match execv(&binary, &[binary.as_c_str(), c"client"]) {
        Err(error) => error.into(),
    }
}
