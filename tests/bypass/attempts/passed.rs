//! Sockets, processes and namespaces in unusual combinations.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Error},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns, unshare};

use super::{
    Ending::{Redirected, Refused},
    Rights, Row,
};
use crate::{
    field::{Field, OUTSIDE, WORDS, patient},
    sys::{self, Raw},
};

pub const ROWS: &[Row] = &[
    Row::new("another cgroup before socket()", Redirected, moved_before).with(Rights::All),
    Row::new("another cgroup between socket() and connect()", Redirected, moved_after).with(Rights::All),
    Row::new("UDP: another cgroup between socket() and sendto()", Refused, moved_datagram).with(Rights::All),
    Row::new("a socket made outside, inherited", Redirected, inherited).with(Rights::Later),
    Row::new("a socket made outside, passed by SCM_RIGHTS", Redirected, passed).with(Rights::Later),
    Row::new("a socket made outside, taken by pidfd_getfd", Redirected, taken).with(Rights::Later),
    Row::new("UDP: a socket made outside, passed by SCM_RIGHTS", Refused, passed_datagram).with(Rights::Later),
    Row::new("a thread connects", Redirected, threaded),
    Row::new("a child connects (fork)", Redirected, forked),
    Row::new("a grandchild connects that has lost its parent", Redirected, orphaned),
    Row::new("a child that shares memory connects (CLONE_VM, CLONE_VFORK)", Redirected, |field| {
        shared(field, libc::CLONE_VM | libc::CLONE_VFORK)
    }),
    Row::new("a child that shares descriptors connects (CLONE_FILES)", Redirected, |field| {
        shared(field, libc::CLONE_FILES)
    }),
    Row::new("in a user namespace of its own", Redirected, user_namespace),
    Row::new("in another network namespace (setns)", Refused, other_namespace).with(Rights::All),
    Row::new("UDP: in another network namespace", Refused, other_namespace_datagram).with(Rights::All),
    Row::new("a socket made here, used in another network namespace", Redirected, carried_there).with(Rights::All),
    Row::new("a socket made in another network namespace, used here", Refused, carried_here).with(Rights::All),
    Row::new("in a new network namespace with a link of its own (unshare)", Refused, new_namespace).with(Rights::All),
];

/// How often a connection is tried over a new link.
const TRIES: usize = 10;

/// A cgroup of this process's own; it goes with this.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    /// Makes it.
    pub fn new() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (point, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then_some(point)
        });
        let root = Path::new(root.ok_or_else(|| Error::other("no cgroup v2"))?);
        let path = root.join(format!("postern-test-{}-bypass", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn enter(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(root) = self.0.parent() {
            let _ = fs::write(root.join("cgroup.procs"), "0");
        }
        let _ = fs::remove_dir(&self.0);
    }
}

fn moved_before(field: &mut Field) -> io::Result<()> {
    let cgroup = Cgroup::new()?;
    cgroup.enter()?;
    field.go(field.tcp()?, field.target())
}

fn moved_after(field: &mut Field) -> io::Result<()> {
    let cgroup = Cgroup::new()?;
    let socket = field.tcp()?;
    cgroup.enter()?;
    field.go(socket, field.target())
}

fn moved_datagram(field: &mut Field) -> io::Result<()> {
    let cgroup = Cgroup::new()?;
    let socket = field.udp()?;
    cgroup.enter()?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn inherited(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    field.enter_scope(false)?;
    field.go(socket, field.target())
}

/// A process of another user that makes a socket, sends it over its standard input, and keeps it.
pub struct Maker {
    child: Child,
    pub over: UnixStream,
    number: i32,
}

impl Maker {
    pub fn start(field: &Field, uid: u32, kind: i32) -> io::Result<Self> {
        let (over, theirs) = UnixStream::pair()?;
        let mut child = Command::new("/proc/self/exe")
            .args(["maker", &uid.to_string(), &field.family().to_string(), &kind.to_string()])
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let number = line.trim().parse().map_err(|_| Error::other("no maker"))?;
        Ok(Self { child, over, number })
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // It is another user's, and cannot be killed.
        let _ = self.over.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// Role: [`Maker`]'s other side.
pub fn run_maker(uid: &str, family: &str, kind: &str) -> ExitCode {
    let make = || {
        sys::become_user(uid.parse().map_err(Error::other)?, false)?;
        let socket =
            patient(sys::socket(family.parse().map_err(Error::other)?, kind.parse().map_err(Error::other)?, 0)?)?;
        println!("{}", socket.as_raw_fd());
        let over = sys::inherited(0);
        sys::pass(&over, &socket)?;
        // Until nobody needs it any more.
        sys::receive(&over)?;
        Ok::<(), Error>(())
    };
    if make().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn passed(field: &mut Field) -> io::Result<()> {
    let maker = Maker::start(field, OUTSIDE, libc::SOCK_STREAM)?;
    field.enter_scope(false)?;
    let socket = sys::receive(&maker.over)?;
    field.go(socket, field.target())
}

fn passed_datagram(field: &mut Field) -> io::Result<()> {
    let maker = Maker::start(field, OUTSIDE, libc::SOCK_DGRAM)?;
    field.enter_scope(false)?;
    let socket = sys::receive(&maker.over)?;
    sys::send_to(&socket, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn taken(field: &mut Field) -> io::Result<()> {
    let maker = Maker::start(field, OUTSIDE, libc::SOCK_STREAM)?;
    field.enter_scope(true)?;
    let socket = sys::take_from(maker.child.id(), maker.number)?;
    field.go(socket, field.target())
}

fn threaded(field: &mut Field) -> io::Result<()> {
    thread::scope(|scope| scope.spawn(|| field.go(field.tcp()?, field.target())).join())
        .unwrap_or_else(|_| Err(Error::other("panicked")))
}

/// In a child, which says who it is and how it went, and lives until the attempt ends.
fn child(field: &mut Field) -> io::Result<()> {
    field.acts(std::process::id());
    let outcome = field.tcp().and_then(|socket| field.go(socket, field.target()));
    crate::field::tell(&outcome);
    let mut line = String::new();
    io::stdin().read_line(&mut line).map(drop)
}

fn forked(field: &mut Field) -> io::Result<()> {
    sys::fork(|| child(field)).and_then(sys::wait)
}

fn orphaned(field: &mut Field) -> io::Result<()> {
    let pid = sys::fork(|| sys::fork(|| child(field)).map(drop))?;
    sys::wait(pid)?;
    // The grandchild answers.
    thread::park();
    Ok(())
}

fn shared(field: &mut Field, flags: i32) -> io::Result<()> {
    let socket = field.tcp()?;
    sys::wait(sys::share(flags, &socket, &Raw::of(field.target()))?)
}

fn user_namespace(field: &mut Field) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    field.go(field.tcp()?, field.target())
}

fn enter_guest(field: &Field) -> io::Result<()> {
    Ok(setns(field.guest(), CloneFlags::CLONE_NEWNET)?)
}

fn other_namespace(field: &mut Field) -> io::Result<()> {
    enter_guest(field)?;
    field.go(field.tcp()?, field.target())
}

fn other_namespace_datagram(field: &mut Field) -> io::Result<()> {
    enter_guest(field)?;
    sys::send_to(&field.udp()?, WORDS, 0, &Raw::of(field.target())).map(drop)
}

fn carried_there(field: &mut Field) -> io::Result<()> {
    let socket = field.tcp()?;
    enter_guest(field)?;
    field.go(socket, field.target())
}

fn carried_here(field: &mut Field) -> io::Result<()> {
    let home = fs::File::open("/proc/self/ns/net")?;
    enter_guest(field)?;
    let socket = field.tcp()?;
    setns(&home, CloneFlags::CLONE_NEWNET)?;
    field.go(socket, field.target())
}

/// The attempt makes its own namespace, and gives it a link to the host.
fn new_namespace(field: &mut Field) -> io::Result<()> {
    crate::ground::visit_own_namespace(field.six).map_err(Error::other)?;
    // A link that has just come up may lose the first packets.
    for _ in 0..TRIES {
        match field.go(field.tcp()?, field.target()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            outcome => return outcome,
        }
    }
    Err(Error::from_raw_os_error(libc::EINPROGRESS))
}
