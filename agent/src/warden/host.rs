//! What the warden needs of the host before it begins: the initial namespaces, the cgroup v2 hierarchy, a BPF file system,
//! the agent's user and directories.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::{Mode, fchmod},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::{Gid, Uid, User, fchown},
};

use super::sys;

/// Inode of the initial pid namespace, as every kernel numbers it.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
/// Inode of the initial cgroup namespace.
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;

/// Where a BPF file system is mounted by convention.
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The oldest kernel that the programs are tested on, and the first on which a program can say with which error it refuses.
const FLOOR: (u32, u32) = (6, 1);

/// The kernel's release. One that is too old is refused by number, before it refuses a program with words that tell nobody
/// why; what a newer one has is found by trial.
pub(super) fn check_kernel() -> Result<String, HostError> {
    let path = PathBuf::from("/proc/sys/kernel/osrelease");
    let release = fs::read_to_string(&path).map_err(|error| HostError::Path(path, error))?;
    let release = release.trim().to_owned();
    if is_too_old(&release) { Err(HostError::Kernel { release, major: FLOOR.0, minor: FLOOR.1 }) } else { Ok(release) }
}

/// A release that does not begin with two numbers is left to the trial.
fn is_too_old(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < FLOOR)
}

/// Refuses to run where process ids, or cgroup paths, are not the host's.
pub(super) fn check_namespaces() -> Result<(), HostError> {
    for (kind, initial) in [("pid", INITIAL_PID_NAMESPACE), ("cgroup", INITIAL_CGROUP_NAMESPACE)] {
        let path = PathBuf::from(format!("/proc/self/ns/{kind}"));
        let found = fs::metadata(&path).map_err(|error| HostError::Path(path, error))?.ino();
        if found != initial {
            return Err(HostError::Namespace(kind));
        }
    }
    Ok(())
}

/// Where the cgroup v2 hierarchy is mounted, found by its file-system type: it is not always the same place.
pub(super) fn cgroup_root() -> Result<PathBuf, HostError> {
    let path = PathBuf::from("/proc/self/mountinfo");
    let mounts = fs::read_to_string(&path).map_err(|error| HostError::Path(path, error))?;
    cgroup_root_in(&mounts).ok_or(HostError::NoCgroup)
}

/// The mount point of the whole hierarchy: lines of `mountinfo` have root and mount point in fields 4 and 5, and the type
/// behind a lone dash.
fn cgroup_root_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (source.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// `mountinfo` writes space, tab, newline and backslash as octal escapes.
pub(super) fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Makes sure that `pins` lies in a BPF file system, mounting one at the usual place if that is all that is missing.
pub(super) fn bpf_file_system(pins: &Path) -> Result<(), HostError> {
    if on_bpf_file_system(pins)? {
        return Ok(());
    }
    if !pins.starts_with(BPF_FILE_SYSTEM) {
        return Err(HostError::NotBpf(pins.into()));
    }
    // Two agents that start at once must not mount one over the other.
    let failed = |error: io::Error| HostError::Path(BPF_FILE_SYSTEM.into(), error);
    let point = File::open(BPF_FILE_SYSTEM).map_err(failed)?;
    let _lock = Flock::lock(point, FlockArg::LockExclusive).map_err(|(_, error)| failed(error.into()))?;
    if !on_bpf_file_system(pins)? {
        mount(
            Some("bpf"),
            BPF_FILE_SYSTEM,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Whether the nearest existing ancestor lies in a BPF file system.
fn on_bpf_file_system(path: &Path) -> Result<bool, HostError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let found = statfs(existing).map_err(|error| HostError::Path(existing.into(), error.into()))?;
    Ok(found.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether pins lie at `path`, or will once [`bpf_file_system`] has mounted what is missing.
pub(super) fn may_lie_on_bpf_file_system(path: &Path) -> Result<bool, HostError> {
    Ok(on_bpf_file_system(path)? || path.starts_with(BPF_FILE_SYSTEM))
}

/// Whether pins can lie at `path` at all: something else there must not be removed.
pub(super) fn may_hold_pins(path: &Path) -> Result<bool, HostError> {
    Ok(path.exists() && on_bpf_file_system(path)?)
}

/// Makes the pin directory, for root alone.
pub(super) fn pin_directory(pins: &Path) -> Result<(), HostError> {
    DirBuilder::new().recursive(true).mode(0o700).create(pins).map_err(|error| HostError::Path(pins.into(), error))
}

/// Locks the pin directory for as long as the result lives, so that there is one warden.
pub(super) fn lock_pins(pins: &Path) -> Result<Flock<File>, HostError> {
    let failed = |error: io::Error| HostError::Path(pins.into(), error);
    let directory = File::open(pins).map_err(failed)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => HostError::Running(pins.into()),
        error => failed(error.into()),
    })
}

/// Cookie of our own network namespace, as programs see it.
pub(super) fn netns_cookie() -> Result<u64, HostError> {
    let failed = |error: nix::Error| HostError::Netns(error.into());
    let any: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    sys::netns_cookie(any.as_fd()).map_err(HostError::Netns)
}

/// The user that the proxy runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AgentUser {
    pub uid: Uid,
    pub gid: Gid,
}

/// The user of `agent.user`.
pub(super) fn agent_user(name: &str) -> Result<AgentUser, HostError> {
    user(name, "agent.user")
}

/// Finds a user by name or number; `key` is where the configuration names it. A number that belongs to no user stands for
/// itself, as user and as group.
pub(super) fn user(name: &str, key: &'static str) -> Result<AgentUser, HostError> {
    let failed = |error: nix::Error| HostError::User(key, name.into(), error.into());
    let found = match name.parse::<u32>() {
        // The kernel takes it for "leave as it is".
        Ok(u32::MAX) => None,
        Ok(number) => match User::from_uid(Uid::from_raw(number)).map_err(failed)? {
            None => return Ok(AgentUser { uid: Uid::from_raw(number), gid: Gid::from_raw(number) }),
            found => found,
        },
        Err(_) => User::from_name(name).map_err(failed)?,
    };
    let User { uid, gid, .. } = found.ok_or_else(|| HostError::NoUser(key, name.into()))?;
    Ok(AgentUser { uid, gid })
}

/// Makes the runtime directory. The proxy can make its own socket in it, but cannot replace the warden's.
pub(super) fn runtime_directory(path: &Path, user: AgentUser) -> Result<(), HostError> {
    directory(path, Uid::from_raw(0), user.gid, 0o1771)
}

/// Makes the state directory, which is the proxy's own.
pub(super) fn state_directory(path: &Path, user: AgentUser) -> Result<(), HostError> {
    directory(path, user.uid, user.gid, 0o700)
}

/// Makes a directory with this very owner and mode, whoever made it.
fn directory(path: &Path, owner: Uid, group: Gid, mode: u32) -> Result<(), HostError> {
    let failed = |error: io::Error| HostError::Directory(path.into(), error);
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let opened =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path).map_err(failed)?;
    fchown(&opened, Some(owner), Some(group)).map_err(|error| failed(error.into()))?;
    fchmod(&opened, Mode::from_bits_truncate(mode)).map_err(|error| failed(error.into()))
}

/// The host is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A kernel that is too old.
    #[error("this is Linux {release}, and Postern needs {major}.{minor} or later; start a newer kernel, and try again")]
    Kernel {
        /// Its release.
        release: String,
        /// The oldest that will do.
        major: u32,
        /// The same.
        minor: u32,
    },
    /// A namespace that is not the host's.
    #[error("not in the host's {0} namespace; run Postern on the host itself, not in a container")]
    Namespace(&'static str),
    /// Something about a path.
    #[error("{0}: {1}")]
    Path(PathBuf, #[source] io::Error),
    /// A directory of the agent's own.
    #[error("the directory {0} of [agent] cannot be made, or not given its owner and mode: {1}")]
    Directory(PathBuf, #[source] io::Error),
    /// No cgroup v2 hierarchy.
    #[error("no cgroup v2 hierarchy is mounted; Postern needs one, beside v1 if need be")]
    NoCgroup,
    /// Pins would not be in a BPF file system.
    #[error("{0} is not in a BPF file system; agent.pin_dir must lie below {BPF_FILE_SYSTEM}")]
    NotBpf(PathBuf),
    /// Something else lies among the pins.
    #[error("{0} was left by another version of the agent; run `postern uninstall`, then start again")]
    Foreign(PathBuf),
    /// Another warden holds the pins.
    #[error("an agent is running with the pins in {0}; stop it first")]
    Running(PathBuf),
    /// The network namespace cannot be told.
    #[error("the network namespace cannot be examined: {0}")]
    Netns(#[source] io::Error),
    /// A user cannot be looked up.
    #[error("{0}: \"{1}\" cannot be looked up: {2}")]
    User(&'static str, String, #[source] io::Error),
    /// No such user.
    #[error("{0}: there is no user \"{1}\"; make one with `useradd --system {1}`")]
    NoUser(&'static str, String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_user_is_a_name_or_any_number() {
        let user = |name| agent_user(name).map(|user| (user.uid.as_raw(), user.gid.as_raw())).ok();
        assert_eq!(user("root"), Some((0, 0)));
        assert_eq!(user("0"), Some((0, 0)));
        assert_eq!(user("3999999999"), Some((3_999_999_999, 3_999_999_999)));
        assert_eq!(user("4294967295"), None);
        assert_eq!(user("no such user"), None);
    }

    #[test]
    fn a_kernel_below_the_floor_is_refused_and_one_with_a_strange_name_tried() {
        for old in ["5.15.0-91-generic", "6.0.19", "4.18.0-553.el8.x86_64", "6.0"] {
            assert!(is_too_old(old), "{old}");
        }
        for not in ["6.1.0-56-cloud-amd64", "6.12.117+deb12-cloud-amd64", "6.10", "7.0.0-rc1", "rolling", "6", ""] {
            assert!(!is_too_old(not), "{not}");
        }
    }

    #[test]
    fn the_cgroup_hierarchy_is_found_by_its_type_and_only_whole() {
        let mounts = "\
            30 22 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            32 30 0:27 /part /mnt/part rw - cgroup2 cgroup2 rw\n\
            33 30 0:27 / /mnt/all\\040of\\040it rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_root_in(mounts), Some(PathBuf::from("/mnt/all of it")));
        assert_eq!(cgroup_root_in(""), None);
    }
}
