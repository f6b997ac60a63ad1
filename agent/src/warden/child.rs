//! The proxy as a child of the warden.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tracing::{info, warn};

use super::{Spawn, WardenError, host::AgentUser, sys};

/// How long the proxy may take to end its sessions and its log.
const GRACE: Duration = Duration::from_secs(10);

/// The running proxy.
pub(super) struct Child(process::Child);

impl Child {
    /// Starts `postern proxy --config F` as the agent's user: without root's groups, without capabilities, and without a way
    /// to gain any.
    pub(super) fn start(config: &Path, user: AgentUser, spawn: Spawn) -> Result<Self, WardenError> {
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
        Ok(Self(child))
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Asks it to end, and makes it end.
    pub(super) fn end(mut self) {
        if self.ended().is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + GRACE;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                warn!("the proxy does not end when asked, and is killed");
                let _ = self.0.kill();
                let _ = self.0.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
