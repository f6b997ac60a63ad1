//! What an attempt has at hand, and the process that it runs in.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
};

use nix::unistd::alarm;
use serde::{Deserialize, Serialize};

use crate::{
    Outcome,
    attempts::{self, Row},
    ground::{self, Both, LOCAL, NEIGHBOUR, OPEN, PORT, TARGET, pick},
    scope,
    sys::{self, Raw},
};

/// The user in scope. Nothing else on the host runs as it.
pub const INSIDE: u32 = 64_051;
/// A user out of scope.
pub const OUTSIDE: u32 = 64_052;

/// What a connected attempt sends.
pub const WORDS: &[u8] = b"attempt";
/// How long an attempt waits for an answer, in milliseconds: a packet that is dropped has none.
const WAIT: i64 = 400;
/// Seconds after which an attempt that hangs is ended.
const HANGS: u32 = 30;
/// The same for one that waits for the agent.
const PREPARED: u32 = 40 * 60;

/// When an attempt does what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All of it while the agent runs.
    Alive,
    /// It has prepared itself before the agent was there.
    Early,
    /// All of it while the agent is dead.
    Dead,
}

/// What an attempt has at hand.
pub struct Field {
    /// The family of the attempt.
    pub six: bool,
    /// Where the proxy listens; in a control, where somebody else does.
    pub proxy_port: u16,
    /// Who this is, once it has entered the scope.
    uid: u32,
    guest: i32,
    early: bool,
    kept: Vec<OwnedFd>,
}

impl Field {
    /// The target, where it is protected.
    pub fn target(&self) -> SocketAddr {
        self.of(TARGET, PORT)
    }

    /// The target on this host.
    pub fn local(&self) -> SocketAddr {
        (self.loopback(), LOCAL).into()
    }

    /// Loopback.
    pub fn loopback(&self) -> IpAddr {
        pick((Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST), self.six)
    }

    /// A place on the same machine that is not protected.
    pub fn open(&self) -> SocketAddr {
        self.of(NEIGHBOUR, OPEN)
    }

    /// An address and a port.
    pub fn of(&self, both: Both, port: u16) -> SocketAddr {
        (pick(both, self.six), port).into()
    }

    /// A port of the attempt's own.
    pub fn own_port(&self) -> u16 {
        20_000 + std::process::id() as u16 % 10_000
    }

    /// The address family.
    pub fn family(&self) -> i32 {
        if self.six { libc::AF_INET6 } else { libc::AF_INET }
    }

    /// The guest's network namespace.
    pub fn guest(&self) -> BorrowedFd<'static> {
        sys::inherited(self.guest)
    }

    /// A TCP socket.
    pub fn tcp(&self) -> io::Result<OwnedFd> {
        self.socket(libc::SOCK_STREAM, 0)
    }

    /// A UDP socket.
    pub fn udp(&self) -> io::Result<OwnedFd> {
        self.socket(libc::SOCK_DGRAM, 0)
    }

    /// A socket of the attempt's family that does not wait for long.
    pub fn socket(&self, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
        patient(sys::socket(self.family(), kind, protocol)?)
    }

    /// Connects and sends.
    pub fn go(&mut self, socket: OwnedFd, to: SocketAddr) -> io::Result<()> {
        sys::connect(&socket, &Raw::of(to))?;
        self.say(socket)
    }

    /// Sends on a connected socket, and keeps it.
    pub fn say(&mut self, socket: OwnedFd) -> io::Result<()> {
        sys::send(&socket, WORDS, 0)?;
        self.keep(socket);
        Ok(())
    }

    /// Keeps a descriptor open until all is judged.
    pub fn keep(&mut self, descriptor: OwnedFd) {
        self.kept.push(descriptor);
    }

    /// The moment before which everything may have happened without the agent.
    pub fn now(&self) -> io::Result<()> {
        if self.early {
            println!("ready");
            heard()?;
        }
        Ok(())
    }

    /// Another process acts in place of this one.
    pub fn acts(&self, pid: u32) {
        println!("pid {pid}");
    }

    /// Asks the target to connect back to a port of this attempt from its own protected port.
    pub fn call_me(&self, port: u16) {
        println!("call {port}");
    }

    /// Becomes the user of the attempt: the one in scope, unless another one is tried.
    pub fn enter_scope(&self, privileged: bool) -> io::Result<()> {
        sys::become_user(self.uid, privileged)
    }
}

/// A socket that does not wait for long.
pub fn patient(socket: OwnedFd) -> io::Result<OwnedFd> {
    sys::set(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &ground::timeout(WAIT))?;
    sys::set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &ground::timeout(WAIT))?;
    Ok(socket)
}

fn heard() -> io::Result<()> {
    match io::stdin().lock().read_line(&mut String::new())? {
        0 => Err(io::Error::other("nobody is there any more")),
        _ => Ok(()),
    }
}

/// What an attempt is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    pub row: String,
    pub six: bool,
    /// It waits before it does what the agent could prevent.
    pub early: bool,
    pub proxy_port: u16,
    /// The user that it becomes.
    pub uid: u32,
    /// The `cgroup.procs` of a cgroup that it enters.
    pub cgroup: Option<PathBuf>,
}

impl Start {
    /// By the user in scope, while the proxy listens on a port.
    pub fn new(row: &Row, six: bool, proxy_port: u16) -> Self {
        Self { row: row.name.into(), six, early: false, proxy_port, uid: INSIDE, cgroup: None }
    }
}

/// Role: an attempt.
pub fn run(start: &str, guest: &str) -> ExitCode {
    let start: Start = serde_json::from_str(start).expect("a start");
    alarm::set(if start.early { PREPARED } else { HANGS });
    let row = attempts::all().into_iter().chain(scope::rows()).find(|known| known.name == start.row);
    let row = row.expect("a known attempt");
    let mut field = Field {
        six: start.six,
        proxy_port: start.proxy_port,
        uid: start.uid,
        guest: guest.parse().expect("a descriptor"),
        early: start.early,
        kept: Vec::new(),
    };
    if let Some(processes) = &start.cgroup {
        std::fs::write(processes, "0").expect("a cgroup");
    }
    let begun = match row.rights {
        attempts::Rights::None => field.enter_scope(false),
        attempts::Rights::All => field.enter_scope(true),
        attempts::Rights::Later => Ok(()),
    };
    let outcome = begun.and_then(|()| (row.run)(&mut field));
    tell(&outcome);
    // Everything stays open until it is judged.
    let _ = heard();
    ExitCode::SUCCESS
}

/// Says how an attempt went.
pub fn tell(outcome: &io::Result<()>) {
    match outcome {
        Ok(()) => println!("done"),
        Err(error) => match error.raw_os_error() {
            Some(code) => println!("error {:?}", nix::Error::from_raw(code)),
            None => println!("error {error}"),
        },
    }
}

/// An attempt that runs.
pub struct Attempt {
    child: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
    /// The processes that may be named as whose it is.
    pub pids: Vec<u32>,
}

impl Attempt {
    /// Starts one; an early one is let go with [`Attempt::go`].
    pub fn start(start: &Start, guest: &OwnedFd) -> Outcome<Self> {
        let failed = |error: io::Error| format!("{}: {error}", start.row);
        sys::keep(guest).map_err(failed)?;
        let words = serde_json::to_string(start).map_err(|error| error.to_string())?;
        let mut child = Command::new("/proc/self/exe")
            .args(["attempt", &words, &guest.as_raw_fd().to_string()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let tell = child.stdin.take().ok_or("no pipe")?;
        let hear = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let pids = vec![child.id()];
        Ok(Self { child, tell, hear, pids })
    }

    /// What it says next. Processes that act for it are noted.
    pub fn line(&mut self) -> Outcome<String> {
        loop {
            let mut line = String::new();
            let size = self.hear.read_line(&mut line).map_err(|error| error.to_string())?;
            if size == 0 {
                return Ok("ended without an answer".into());
            }
            match line.trim_end().strip_prefix("pid ") {
                Some(pid) => self.pids.push(pid.parse().map_err(|_| format!("not a pid: {pid}"))?),
                None => return Ok(line.trim_end().to_owned()),
            }
        }
    }

    /// Lets an early attempt go on.
    pub fn go(&mut self) -> Outcome {
        writeln!(self.tell, "go").map_err(|error| format!("it has ended already: {error}"))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
