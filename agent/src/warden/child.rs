//! The proxy as a child of the warden, and those that take its place.

use std::{
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::Path,
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tracing::{info, warn};

use super::{Spawn, WardenError, host::AgentUser, sys};

/// How long the proxies may take to end their sessions and the log.
const GRACE: Duration = Duration::from_secs(10);

/// The running proxies. The first is started here; each further one by the one before it, whose child it is until that ends.
pub(super) struct Children {
    /// All that may still run.
    alive: Vec<Pid>,
    /// The one that listens.
    serving: Pid,
}

impl Children {
    /// Starts `postern proxy --config F` as the agent's user: without root's groups, without capabilities, and without a way
    /// to gain any.
    pub(super) fn start(config: &Path, user: AgentUser, spawn: Spawn) -> Result<Self, WardenError> {
        // Those that the first one starts become children of this process when it ends.
        prctl::set_child_subreaper(true).map_err(|error| WardenError::Spawn(error.into()))?;
        let binary = std::env::current_exe().map_err(WardenError::Spawn)?;
        let mut command = Command::new(binary);
        command.arg("proxy").arg("--config").arg(config);
        if spawn.must_enforce {
            command.args(["--require", "enforcing"]);
        }
        // It is the warden's to say, and under this name the proxy could claim to be the service.
        command.env_remove("NOTIFY_SOCKET");
        // Changing from root to another user drops the supplementary groups and all capabilities.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        sys::confine(&mut command);
        let child = command.spawn().map_err(WardenError::Spawn)?;
        info!(pid = child.id(), uid = user.uid.as_raw(), "the proxy was started");
        let serving = Pid::from_raw(child.id().cast_signed());
        Ok(Self { alive: vec![serving], serving })
    }

    /// Takes note of the proxy that listens now, if there is one.
    pub(super) fn know(&mut self, serving: Option<i32>) {
        let Some(serving) = serving.map(Pid::from_raw).filter(|serving| *serving != self.serving) else { return };
        self.serving = serving;
        self.alive.push(serving);
    }

    /// How the proxy that listens has ended, if it has.
    pub(super) fn serving_ended(&mut self) -> Option<ExitStatus> {
        let (mut ended, serving) = (None, self.serving);
        self.alive.retain(|pid| match look(*pid) {
            State::Running | State::Foreign => true,
            State::Ended(status) => {
                info!(%pid, %status, "a proxy has ended");
                if *pid == serving {
                    ended = Some(status);
                }
                false
            }
        });
        ended
    }

    /// Asks them to end, and makes them end: each before the one that has its place, to which its last records go.
    pub(super) fn end(mut self) {
        let deadline = Instant::now() + GRACE;
        let mut asked = Vec::new();
        loop {
            self.serving_ended();
            // One that is no child of this process may be any process by now. It ends when it cannot ask any more.
            let children: Vec<Pid> =
                self.alive.iter().copied().filter(|pid| matches!(look(*pid), State::Running)).collect();
            if children.is_empty() {
                return;
            }
            let late = Instant::now() > deadline;
            for pid in children {
                if late {
                    warn!(%pid, "the proxy does not end when asked, and is killed");
                    let _ = kill(pid, Signal::SIGKILL);
                    let _ = waitpid(pid, None);
                } else if !asked.contains(&pid) {
                    let _ = kill(pid, Signal::SIGTERM);
                    asked.push(pid);
                }
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How it stands with a process.
enum State {
    /// A child of this process, which runs: nobody else has its number.
    Running,
    /// No child of this process: it may still be that of the proxy before it.
    Foreign,
    /// It was a child of this process.
    Ended(ExitStatus),
}

fn look(pid: Pid) -> State {
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, code)) => State::Ended(ExitStatus::from_raw(code << 8)),
        Ok(WaitStatus::Signaled(_, signal, _)) => State::Ended(ExitStatus::from_raw(signal as i32)),
        Ok(_) => State::Running,
        Err(_) => State::Foreign,
    }
}
