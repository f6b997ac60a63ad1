//! The privileged process: it puts the kernel side in force, hands the proxy its listeners, and tells it whose connections
//! arrive there. It parses nothing that a subagent or a server sends.
//!
//! [`run`] is the story; [`Warden`] is how the proxy asks.
//!
//! *Invariant:* only here is `aya` used, and only here are privileges.

mod access;
mod by_name;
mod capture;
mod child;
mod client;
mod destinations;
mod diag;
mod door;
mod examine;
mod features;
mod filters;
mod flow;
mod hash;
mod host;
mod interfaces;
mod ledger;
mod listen;
mod liveness;
mod namespaces;
mod netlink;
mod netns;
mod news;
mod older;
mod pins;
mod process;
mod scope;
mod selftest;
mod server;
mod sockets;
mod sys;
mod types;
mod units;
mod wire;

use std::{
    fs::File,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub use self::{
    access::AccessError,
    capture::CaptureError,
    client::{AskError, Handed, Listeners, Tidings, Warden},
    examine::{Check, examine},
    features::{Found as Feature, State as FeatureState},
    host::HostError,
    liveness::Liveness,
    pins::Removed,
    scope::ScopeError,
};
use self::{capture::Capture, child::Children, namespaces::Watch, process::Examiner, server::Server};
use crate::{
    config::Config,
    model::{Flow, Gone},
};

/// How often entries of ended processes are looked for that the kernel side could not see the end of, and the places of listed
/// sockets.
const SWEEP: Duration = Duration::from_secs(5);

/// Why the warden has ended, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// It was asked to, with `SIGTERM` or `SIGINT`.
    Asked,
}

/// How the warden starts the proxy as its child.
#[derive(Clone, Copy, Debug)]
pub struct Spawn {
    /// The proxy is to end unless every path is closed.
    pub must_enforce: bool,
}

/// Puts the kernel side in force and serves the proxy; with `proxy`, starts it as a child and ends with it.
///
/// Must be called on the main thread, before any other is started: it takes over `SIGTERM`, `SIGINT` and `SIGCHLD`, and a
/// child ends with the thread that started it. What is in force stays so when this returns: until `uninstall`, connections to
/// protected destinations are refused.
///
/// # Errors
/// The host is not as it must be, the kernel side cannot be put in force, or the proxy has ended.
pub fn run(config: &Config, proxy: Option<Spawn>) -> Result<ExitReason, WardenError> {
    // Before threads exist, so that all of them inherit it.
    let signals = take_signals().map_err(WardenError::Signals)?;
    host::check_kernel()?;
    host::check_namespaces()?;
    let user = host::agent_user(&config.agent.user)?;
    if proxy.is_some() && user.uid.is_root() {
        return Err(WardenError::RootProxy);
    }
    access::check_policies(&config.agent.policies, user)?;
    let cgroup_root = host::cgroup_root()?;
    let cgroup = File::open(&cgroup_root).map_err(|error| HostError::Path(cgroup_root.clone(), error))?;
    host::runtime_directory(&config.agent.runtime_dir, user)?;
    host::state_directory(&config.agent.state_dir, user)?;
    let pins = &config.agent.pin_dir;
    host::bpf_file_system(pins)?;
    host::pin_directory(pins)?;
    let _lock = host::lock_pins(pins)?;

    let netns = host::netns_cookie()?;
    let (capture, kernel_log, unserved) = Capture::start(config, (cgroup_root.as_path(), cgroup.as_fd()), netns)?;
    let capture = Arc::new(capture);
    thread::Builder::new().name("warden-log".into()).spawn(move || kernel_log.run()).map_err(WardenError::Thread)?;
    let examiner = Arc::new(Examiner::new(cgroup_root));
    let (watched, namespaces) =
        Watch::start(&config.intercept, Arc::clone(&capture), unserved, netns).map_err(WardenError::Namespaces)?;
    let server = Server::start(config, user, Arc::clone(&capture), Arc::clone(&examiner), namespaces, netns)
        .map_err(|error| WardenError::Socket(config.agent.runtime_dir.join(wire::SOCKET), error))?;
    let mut children = proxy.map(|spawn| Children::start(&config.path, user, spawn)).transpose()?;
    tell(NotifyState::Ready);

    let sweep = || {
        examiner.sweep(&capture);
        // Whoever asks for the status looks again, and is told.
        capture.open_sockets();
    };
    let outcome = watch(&signals, children.as_mut(), || server.serving(), sweep);
    tell(NotifyState::Stopping);
    // The proxies first, while they can still ask; then their socket.
    if let Some(mut children) = children {
        children.know(server.serving());
        children.end();
    }
    drop(server);
    drop(watched);
    if let Err(error) = capture.listen_nowhere() {
        warn!(%error, "the kernel side could not be told that nobody listens; it will find out");
    }
    info!("the warden ends; connections to protected destinations are refused until it is started again");
    outcome
}

/// Tells systemd. Where it has not started us, nobody listens.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        warn!(%error, "the service manager cannot be told");
    }
}

/// Waits for what ends the warden, and sweeps meanwhile.
fn watch(
    signals: &SignalFd,
    mut children: Option<&mut Children>,
    serving: impl Fn() -> Option<i32>,
    sweep: impl Fn(),
) -> Result<ExitReason, WardenError> {
    let mut swept = Instant::now();
    loop {
        let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(SWEEP).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(WardenError::Signals(error)),
        }
        if let Some(children) = &mut children {
            children.know(serving());
        }
        match signals.read_signal().map_err(WardenError::Signals)? {
            Some(signal) if signal.ssi_signo == Signal::SIGCHLD as u32 => {
                if let Some(status) = children.as_mut().and_then(|children| children.serving_ended()) {
                    return Err(WardenError::ProxyEnded(status));
                }
            }
            Some(_) => return Ok(ExitReason::Asked),
            None => {}
        }
        if swept.elapsed() >= SWEEP {
            sweep();
            swept = Instant::now();
        }
    }
}

/// Removes the kernel side: links, maps and their directory. What is not there is not an error.
///
/// # Errors
/// An agent is running, or something cannot be removed.
pub fn uninstall(pin_dir: &Path) -> Result<Removed, WardenError> {
    if !host::may_hold_pins(pin_dir)? {
        return Ok(Removed::default());
    }
    let _lock = host::lock_pins(pin_dir)?;
    Ok(pins::uninstall(pin_dir)?)
}

fn take_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// A connection whose owner could not be proven. It must be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Unidentified {
    /// What the kernel noted, if it noted anything.
    pub flow: Option<Box<Flow>>,
    /// Why it was not enough.
    pub reason: Reason,
}

/// Why the owner of a connection could not be proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The accepted socket has no flow: whoever connected was not redirected, or has gone already.
    #[error("the kernel noted no flow for this connection")]
    NoFlow,
    /// What was asked about is not an accepted TCP connection.
    #[error("this is not an accepted TCP connection")]
    NotAccepted,
    /// The destination belongs to no target of the configuration, or to a name that was not resolved yet.
    #[error("the destination belongs to no known target")]
    NoTarget,
    /// The process has ended, executed another program, or given its pid to another.
    #[error(transparent)]
    Gone(Gone),
    /// The process has another user than the one who connected.
    #[error("the process connected as user {noted} and is now of user {found}")]
    UserChanged {
        /// Noted at connect.
        noted: u32,
        /// Found now.
        found: u32,
    },
    /// More groups than are looked at.
    #[error("the process has {0} groups, more than Postern looks at")]
    TooManyGroups(usize),
    /// Something about the process cannot be read.
    #[error("/proc/PID/{what} of the process that opened this connection cannot be read: {error}")]
    Unreadable {
        /// Name in `/proc/PID`.
        what: String,
        /// Why.
        error: String,
    },
    /// The warden cannot be asked.
    #[error("{0}")]
    Warden(String),
}

/// The warden cannot begin, or has to end.
#[derive(Debug, thiserror::Error)]
pub enum WardenError {
    /// The host is not as it must be.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The proxy could not read its policies.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The kernel side cannot be put in force, or not removed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Its socket cannot be made.
    #[error("the socket {0}: {1}")]
    Socket(PathBuf, #[source] io::Error),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(#[source] nix::Error),
    /// Other network namespaces than the host's cannot be watched.
    #[error("network namespaces cannot be watched: {0}")]
    Namespaces(#[source] io::Error),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] io::Error),
    /// The proxy would be root.
    #[error("agent.user: the proxy parses what others send and must not run as root; name a system user of its own")]
    RootProxy,
    /// The proxy cannot be started.
    #[error("the proxy cannot be started: {0}")]
    Spawn(#[source] io::Error),
    /// The proxy has ended.
    #[error("the proxy has ended ({0}); connections to protected destinations are refused")]
    ProxyEnded(ExitStatus),
}
