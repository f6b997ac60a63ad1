//! What `run` would find on this host, looked at without changing anything: for `postern doctor`.

use std::{
    fmt::Display,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
};

use agent_common::LAYOUT;
use nix::sys::statvfs::{FsFlags, statvfs};
use serde::Serialize;

use super::{
    access::{self, AccessError},
    capture::{self, CaptureError},
    features::{self, Found, State},
    host::{self, AgentUser, HostError},
};
use crate::config::{Agent, Config};

/// Name of the feature by which connections to Unix sockets are refused in the kernel.
const UNIX: &str = "connect_unix";

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is as the agent needs it.
    pub passed: bool,
    /// What was found; if it is wrong, with what to do.
    pub found: String,
}

impl Check {
    /// A check by its outcome.
    #[must_use]
    pub fn of<E: Display>(name: impl Into<String>, outcome: Result<String, E>) -> Self {
        let (passed, found) = match outcome {
            Ok(found) => (true, found),
            Err(error) => (false, error.to_string()),
        };
        Self { name: name.into(), passed, found }
    }
}

/// What this kernel has, and whether the host is as `run` needs it; `config` if there is one that could be read.
#[must_use]
pub fn examine(config: Option<&Config>) -> (Vec<Found>, Vec<Check>) {
    let mut checks = vec![
        Check::of("kernel", host::check_kernel().map(|release| format!("Linux {release}"))),
        Check::of("namespaces", host::check_namespaces().map(|()| "those of the host".into())),
        Check::of("cgroup v2", host::cgroup_root().map(|root| root.display().to_string())),
    ];
    let features = match capture::features() {
        Ok(features) => {
            checks.push(Check::of("programs", features::demand(&features).map(|()| "the kernel takes them".into())));
            features
        }
        Err(error) => {
            checks.push(Check::of("programs", Err::<String, CaptureError>(error)));
            Vec::new()
        }
    };
    if let Some(Config { agent, targets, .. }) = config {
        checks.push(Check::of("pins", pins(&agent.pin_dir)));
        let user = user(agent);
        if let Ok(user) = user {
            checks.push(Check::of("policies", policies(agent, user)));
        }
        let shown = |user: AgentUser| format!("{} (uid {}, gid {})", agent.user, user.uid, user.gid);
        checks.push(Check::of("user", user.map(shown)));
        for (name, path) in [("runtime_dir", &agent.runtime_dir), ("state_dir", &agent.state_dir)] {
            checks.push(Check::of(name, directory(path)));
        }
        let refused = features.iter().any(|found| found.name == UNIX && found.state == State::Present);
        for (target, path) in targets.iter().flat_map(|target| target.sockets.iter().map(move |path| (target, path))) {
            checks.push(Check::of(format!("socket of {}", target.name), socket(path, refused)));
        }
    }
    (features, checks)
}

fn pins(path: &Path) -> Result<String, HostError> {
    let shown = path.display();
    if !host::may_lie_on_bpf_file_system(path)? {
        return Err(HostError::NotBpf(path.into()));
    }
    if !host::may_hold_pins(path)? {
        return Ok(format!("{shown}: nothing is installed"));
    }
    let failed = |error: io::Error| HostError::Path(path.into(), error);
    let layout = format!("v{LAYOUT}");
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name() != *layout {
            return Err(HostError::Foreign(entry.path()));
        }
    }
    match host::lock_pins(path) {
        Ok(_) => Ok(format!("{shown}: installed, and no agent is running: protected targets are refused")),
        Err(HostError::Running(_)) => Ok(format!("{shown}: installed, and an agent is running")),
        Err(error) => Err(error),
    }
}

fn user(agent: &Agent) -> Result<AgentUser, String> {
    match host::agent_user(&agent.user) {
        Ok(user) if user.uid.is_root() => {
            Err("the proxy must not run as root; name a system user of its own in agent.user".into())
        }
        found => found.map_err(|error| error.to_string()),
    }
}

fn policies(agent: &Agent, user: AgentUser) -> Result<String, AccessError> {
    access::check_policies(&agent.policies, user)?;
    Ok(format!("{}: readable for {}", agent.policies.display(), agent.user))
}

/// A directory that the agent makes where it is missing, and gives its owner and mode.
fn directory(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let state = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => "is there",
        Ok(_) => return Err(format!("{shown} is not a directory; move it away, or name another one in [agent]")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "the agent will make it",
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let mount = statvfs(existing).map_err(|error| format!("{}: {error}", existing.display()))?;
    if mount.flags().contains(FsFlags::ST_RDONLY) {
        return Err(format!("{shown} is on a read-only file system; name another one in [agent]"));
    }
    Ok(format!("{shown}: {state}"))
}

/// A target's Unix socket. Where the kernel side cannot refuse connections to it, its permissions must.
fn socket(path: &Path, refused: bool) -> Result<String, String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) if found.file_type().is_socket() => found,
        Ok(_) => return Err(format!("{shown} is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(format!("{shown}: is not there")),
        Err(error) => return Err(format!("{shown}: {error}")),
    };
    if refused {
        return Ok(format!("{shown}: connections to it are refused"));
    }
    let real = path.canonicalize().map_err(|error| format!("{shown}: {error}"))?;
    let open = |mode: u32, permission: u32| mode & permission == permission;
    let searchable = |dir: &Path| fs::metadata(dir).is_ok_and(|dir| open(dir.permissions().mode(), 0o001));
    if open(found.permissions().mode(), 0o002) && real.ancestors().skip(1).all(searchable) {
        return Err(format!(
            "every user of this host can connect to {shown} past Postern; give the socket or its directory to a group \
             that no subagent is in (PostgreSQL: unix_socket_permissions = 0770 and unix_socket_group)"
        ));
    }
    Ok(format!("{shown}: not for every user"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_socket_that_everybody_can_connect_to_is_found() {
        let top = tempfile::tempdir().unwrap();
        set(top.path(), 0o755);
        let path = top.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        set(&path, 0o777);
        assert!(socket(&path, false).is_err_and(|why| why.contains("past Postern")));
        assert!(socket(&path, true).is_ok());
        set(&path, 0o770);
        assert!(socket(&path, false).is_ok());
        set(&path, 0o777);
        set(top.path(), 0o750);
        assert!(socket(&path, false).is_ok());
        assert!(socket(top.path(), false).is_err());
        assert!(socket(&top.path().join("none"), false).is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_the_agents_is_found() {
        let top = tempfile::tempdir().unwrap();
        assert!(directory(top.path()).is_ok_and(|found| found.ends_with("is there")));
        assert!(directory(&top.path().join("a/b")).is_ok_and(|found| found.ends_with("will make it")));
        let link = top.path().join("link");
        symlink(top.path(), &link).unwrap();
        assert!(directory(&link).is_err());
        assert!(directory(Path::new("/proc/sys/none")).is_ok());
    }
}
