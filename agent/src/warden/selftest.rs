//! The warden's part of the self-test: the canary, and the child that tries to reach it.

use std::{
    fs,
    io::{self, Read as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    capture::Capture,
    scope,
    sockets::{Known, Momentary},
};
use crate::{
    config::Intercept,
    selftest::{Attempt, Canary, Outcome, place},
};

/// An address of 127.0.0.0/8 that nothing else uses.
const CANARY: Ipv4Addr = Ipv4Addr::new(127, 80, 83, 84);
/// Tries to find a port that is free for TCP and UDP.
const PORT_TRIES: usize = 32;
/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long what was sent may take to arrive.
const ARRIVAL: Duration = Duration::from_millis(200);

/// Tries every path as somebody in scope.
pub(super) fn run(
    capture: &Capture,
    intercept: &Intercept,
    (cgroup_root, runtime_dir): (&Path, &Path),
) -> Result<Vec<Attempt>, SelfTestError> {
    let v4 = Listener::bind(CANARY.into()).map_err(SelfTestError::Canary)?;
    // A host without IPv6 has no path by it.
    let v6 = Listener::bind(Ipv6Addr::LOCALHOST.into()).ok();
    let socket = Momentary::bind(runtime_dir).map_err(SelfTestError::Canary)?;
    let cgroup = Cgroup::make(cgroup_root.join(scope::SELF_TEST)).map_err(SelfTestError::Cgroup)?;
    let uid = scope::somebody_in(intercept)?;

    let (v4_at, v6_at) = (v4.address, v6.as_ref().map(|v6| v6.address));
    let addresses: Vec<SocketAddr> = [Some(v4_at), v6_at].into_iter().flatten().collect();
    let _protected = Protected::new(capture, &addresses)?;
    let known = capture.protect_canary_socket(Some(socket.path().to_owned()));
    let canary = Canary {
        v4: v4_at,
        v6: v6_at,
        socket: (known != Known::Not).then(|| socket.path().to_owned()),
        by_any_name: known == Known::ByPlace,
    };
    let mut attempts = attempt(&canary, uid, &cgroup)?;
    thread::sleep(ARRIVAL);
    let arrived = [Some(v4), v6].into_iter().flatten().flat_map(|listener| listener.arrived());
    // Who is not in scope may connect to the socket, and says nothing that the child does.
    let named = arrived_by(&socket).into_iter().filter(Option::is_some);
    for place in arrived.chain(named) {
        match place.and_then(|place| attempts.get_mut(place)) {
            Some(attempt) => attempt.outcome = Outcome::Reached,
            None => attempts.push(Attempt { path: "a connection without a name".into(), outcome: Outcome::Reached }),
        }
    }
    Ok(attempts)
}

/// Runs the child, and takes what it says.
fn attempt(canary: &Canary, uid: u32, cgroup: &Cgroup) -> Result<Vec<Attempt>, SelfTestError> {
    let binary = std::env::current_exe().map_err(SelfTestError::Child)?;
    let mut command = Command::new(binary);
    command.args(["attempts", "--uid", &uid.to_string(), "--cgroup"]).arg(&cgroup.0);
    command.args(["--v4", &canary.v4.to_string()]);
    if let Some(v6) = canary.v6 {
        command.args(["--v6", &v6.to_string()]);
    }
    if let Some(socket) = &canary.socket {
        command.arg("--socket").arg(socket);
    }
    if canary.by_any_name {
        command.arg("--by-any-name");
    }
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(SelfTestError::Child)?;
    let said = finish(&mut child);
    // Nothing of it may stay in the cgroup, which could not be removed.
    let _ = child.kill();
    let deadline = Instant::now() + PATIENCE;
    // Not for ever: it may be another's to end.
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    serde_json::from_str(&said.map_err(SelfTestError::Child)?).map_err(|error| SelfTestError::Child(error.into()))
}

/// What the child prints until it ends; an error if it does not end in time.
fn finish(child: &mut Child) -> io::Result<String> {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        // Less than a pipe holds, so that the child never waits for us.
        stdout.read_to_string(&mut said)?;
    }
    Ok(said)
}

/// The canary on one address.
struct Listener {
    address: SocketAddr,
    streams: TcpListener,
    datagrams: UdpSocket,
}

impl Listener {
    fn bind(address: std::net::IpAddr) -> io::Result<Self> {
        for _ in 0..PORT_TRIES {
            let streams = TcpListener::bind((address, 0))?;
            let address = streams.local_addr()?;
            match UdpSocket::bind(address) {
                Ok(datagrams) => {
                    streams.set_nonblocking(true)?;
                    datagrams.set_nonblocking(true)?;
                    return Ok(Self { address, streams, datagrams });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    /// The places of the attempts that arrived; `None` for what cannot be told.
    fn arrived(&self) -> Vec<Option<usize>> {
        let mut arrived = Vec::new();
        let mut buffer = [0; 64];
        while let Ok((mut stream, _)) = self.streams.accept() {
            let _ = stream.set_read_timeout(Some(ARRIVAL));
            arrived.push(stream.read(&mut buffer).ok().and_then(|length| place(&buffer[..length])));
        }
        while let Ok(length) = self.datagrams.recv(&mut buffer) {
            arrived.push(place(&buffer[..length]));
        }
        arrived
    }
}

/// What has arrived at a Unix socket, as at a [`Listener`].
fn arrived_by(socket: &Momentary) -> Vec<Option<usize>> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 64];
    while let Ok((mut stream, _)) = socket.listener.accept() {
        let _ = stream.set_read_timeout(Some(ARRIVAL));
        arrived.push(stream.read(&mut buffer).ok().and_then(|length| place(&buffer[..length])));
    }
    arrived
}

/// What the canary listens at among what is protected, until this is dropped.
struct Protected<'a>(&'a Capture);

impl<'a> Protected<'a> {
    fn new(capture: &'a Capture, addresses: &[SocketAddr]) -> Result<Self, SelfTestError> {
        let protected = Self(capture);
        capture.protect_canary(addresses).map_err(|error| SelfTestError::Protect(error.to_string()))?;
        Ok(protected)
    }
}

impl Drop for Protected<'_> {
    fn drop(&mut self) {
        self.0.protect_canary_socket(None);
        if let Err(error) = self.0.protect_canary(&[]) {
            tracing::warn!(%error, "the canary's addresses stay protected");
        }
    }
}

/// A cgroup for the child, in scope whatever the scope is.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(path: PathBuf) -> io::Result<Self> {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(path)),
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::debug!(%error, "the self-test's cgroup stays");
        }
    }
}

/// The self-test could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SelfTestError {
    /// The canary cannot listen.
    #[error("the canary of the self-test cannot listen: {0}")]
    Canary(#[source] io::Error),
    /// The canary cannot be protected.
    #[error("the canary of the self-test cannot be protected: {0}")]
    Protect(String),
    /// The cgroup of the child cannot be made.
    #[error("the cgroup of the self-test cannot be made: {0}")]
    Cgroup(#[source] io::Error),
    /// Nobody is in scope.
    #[error(transparent)]
    Scope(#[from] scope::ScopeError),
    /// The child.
    #[error("the child of the self-test: {0}")]
    Child(#[source] io::Error),
}
