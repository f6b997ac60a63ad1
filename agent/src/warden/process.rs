//! Facts about the process that opened a connection, and the proof that they are that process's.
//!
//! *Invariant:* facts are returned only if the process map says the same before and after they were read, and what it says is
//! what the flow carries: then no exec, no exit and no other process with the same pid lies between connect and reading.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, open, openat, readlinkat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
    unistd::{Gid, Group, SysconfVar, Uid, User, sysconf},
};

use super::{Reason, capture::Capture, hash::Hashes, liveness::compare, sys, units};
use crate::model::{Executable, Flow, Gone, Process};

/// Longest `/proc` file that is read whole: a status with 1024 groups has 12 KiB.
const MAX_FILE: u64 = 64 * 1024;
/// Longest `mountinfo` that is searched; a host with containers has thousands of mounts of 200 bytes.
const MAX_MOUNTS: u64 = 4 * 1024 * 1024;
/// Groups of a process beyond which it is refused: a part of them might hide the one that a policy forbids.
const MAX_GROUPS: usize = 1024;
/// Arguments are evidence only, and cut here, in bytes over all of them.
const MAX_ARGUMENTS: u64 = 4096;

/// The initial user namespace, as every kernel numbers it.
const INITIAL_USER_NAMESPACE: &str = "user:[4026531837]";

/// Reads facts.
pub(super) struct Examiner {
    cgroup_root: PathBuf,
    nanoseconds_per_tick: u64,
    hashes: Hashes,
}

impl Examiner {
    /// With the mount point of the cgroup hierarchy.
    pub(super) fn new(cgroup_root: PathBuf) -> Self {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        // Every kernel since 2.6 shows hundredths of a second.
        let nanoseconds_per_tick = 1_000_000_000 / ticks.filter(|ticks| *ticks > 0).unwrap_or(100);
        Self { cgroup_root, nanoseconds_per_tick, hashes: Hashes::default() }
    }

    /// Where the cgroup hierarchy is mounted.
    pub(super) fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// The process that opened the connection of `flow`.
    pub(super) fn examine(&self, capture: &Capture, flow: &Flow) -> Result<Process, Reason> {
        let unchanged = || compare(capture.process(flow.tgid), flow).map_err(Reason::Gone);
        let pidfd = sys::pidfd(flow.tgid).map_err(|_| Reason::Gone(Gone::Ended))?;
        // A directory of /proc stays that of the same process, and fails once it has ended.
        let proc = Proc::open(flow.tgid)?;
        unchanged()?;
        if self.start(&proc)? > flow.generation {
            return Err(Reason::Gone(Gone::Replaced));
        }
        let facts = self.read(&proc, flow);
        // If the process went or changed while it was read, that explains errors better than they do.
        if ended(&pidfd) {
            return Err(Reason::Gone(Gone::Ended));
        }
        unchanged()?;
        facts
    }

    /// Removes entries of processes that have ended without their leader's exit having been seen as the end.
    pub(super) fn sweep(&self, capture: &Capture) {
        for (tgid, entry) in capture.processes() {
            let stale = match Proc::open(tgid) {
                Err(reason) => reason == Reason::Gone(Gone::Ended),
                Ok(proc) => self.start(&proc).is_ok_and(|start| start > entry.generation),
            };
            if stale {
                capture.forget(tgid);
            }
        }
    }

    fn start(&self, proc: &Proc) -> Result<u64, Reason> {
        let stat = proc.text("stat", MAX_FILE)?;
        let ticks = start_ticks(&stat).ok_or_else(|| proc.unreadable("stat", "it has no start time"))?;
        Ok(ticks.saturating_mul(self.nanoseconds_per_tick))
    }

    fn read(&self, proc: &Proc, flow: &Flow) -> Result<Process, Reason> {
        let status = Status::parse(&proc.text("status", MAX_FILE)?)
            .ok_or_else(|| proc.unreadable("status", "it does not say the user and groups"))?;
        if status.uid != flow.uid {
            return Err(Reason::UserChanged { noted: flow.uid, found: status.uid });
        }
        if status.groups.len() > MAX_GROUPS {
            return Err(Reason::TooManyGroups(status.groups.len()));
        }
        let cgroup = units::own_cgroup(&proc.text("cgroup", MAX_FILE)?)
            .ok_or_else(|| proc.unreadable("cgroup", "it does not say the cgroup"))?;
        let (unit, user_unit) = units::units(&self.cgroup_root, &cgroup);
        Ok(Process {
            pid: flow.tgid,
            started: self.start(proc)?,
            uid: status.uid,
            user: User::from_uid(Uid::from_raw(status.uid)).ok().flatten().map(|user| user.name),
            gid: status.gid,
            groups: names(&status),
            exe: self.executable(proc)?,
            argv: arguments(&proc.bytes("cmdline", MAX_ARGUMENTS)?),
            directory: lossy(proc.link("cwd")?).0,
            container: units::container(&self.cgroup_root, &cgroup),
            cgroup,
            unit,
            user_unit,
        })
    }

    fn executable(&self, proc: &Proc) -> Result<Executable, Reason> {
        let running = sys::status(proc.directory.as_fd(), c"exe").map_err(|error| proc.unreadable("exe", error))?;
        let (path, exact) = lossy(proc.link("exe")?);
        // Elsewhere the process may have the capability to set this link to any file that it can execute: then neither the
        // path nor the content says what runs.
        let honest = proc.link("ns/user")? == INITIAL_USER_NAMESPACE;
        // The same file under the same name here: not another file mounted over that name in the process's own namespace.
        let verified = honest
            && exact
            && path.is_absolute()
            && sys::status_of(&path).is_ok_and(|found| (found.device, found.inode) == (running.device, running.inode));
        let local = || proc.text("mountinfo", MAX_MOUNTS).is_ok_and(|mounts| local(&mounts, running.mount));
        let sha256 = if honest { self.hashes.of(&running, local, || proc.file("exe")) } else { None };
        Ok(Executable { path, device: running.device, inode: running.inode, sha256, verified })
    }
}

/// A directory `/proc/PID`.
struct Proc {
    directory: OwnedFd,
}

impl Proc {
    fn open(pid: u32) -> Result<Self, Reason> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(format!("/proc/{pid}").as_str(), flags, Mode::empty()) {
            Ok(directory) => Ok(Self { directory }),
            Err(nix::Error::ENOENT | nix::Error::ESRCH) => Err(Reason::Gone(Gone::Ended)),
            Err(error) => Err(Reason::Unreadable { what: "directory".into(), error: error.to_string() }),
        }
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(openat(&self.directory, name, flags, Mode::empty())?.into())
    }

    /// The first `limit` bytes.
    fn bytes(&self, name: &str, limit: u64) -> Result<Vec<u8>, Reason> {
        let mut bytes = Vec::new();
        let read = self.file(name).and_then(|file| file.take(limit).read_to_end(&mut bytes));
        read.map_err(|error| self.unreadable(name, error))?;
        Ok(bytes)
    }

    /// The whole file, which must be shorter than `limit`.
    fn text(&self, name: &str, limit: u64) -> Result<String, Reason> {
        let bytes = self.bytes(name, limit)?;
        if bytes.len() as u64 == limit {
            return Err(self.unreadable(name, "it is too long"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn link(&self, name: &str) -> Result<OsString, Reason> {
        readlinkat(&self.directory, name).map_err(|error| self.unreadable(name, error))
    }

    fn unreadable(&self, what: &str, error: impl ToString) -> Reason {
        Reason::Unreadable { what: what.into(), error: error.to_string() }
    }
}

/// Whether the process of a pidfd has ended. An error counts as that.
fn ended(pidfd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
}

/// Field 22 of `stat`. The second field is a name in parentheses that may itself have spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What `status` says of user and groups.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Status {
    fn parse(status: &str) -> Option<Self> {
        let line =
            |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::split_ascii_whitespace);
        Some(Self {
            uid: line("Uid:")?.next()?.parse().ok()?,
            gid: line("Gid:")?.next()?.parse().ok()?,
            groups: line("Groups:")?.map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }
}

/// Names of all groups, and their numbers.
fn names(status: &Status) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for gid in status.groups.iter().chain([&status.gid]) {
        names.insert(gid.to_string());
        names.extend(Group::from_gid(Gid::from_raw(*gid)).ok().flatten().map(|group| group.name));
    }
    names
}

/// Arguments end with a zero byte each; the last one may have been cut.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let whole = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if whole.is_empty() {
        return Vec::new();
    }
    whole.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// A path in a form that can be sent and logged, and whether it is still the same.
fn lossy(path: OsString) -> (PathBuf, bool) {
    match String::from_utf8(path.into_vec()) {
        Ok(path) => (path.into(), true),
        Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned().into(), false),
    }
}

/// Whether a mount is of a file system on this host's own disks, whose times tell when a file was changed. Fields 1 and,
/// behind a lone dash, 1 again are the mount's id and its type.
fn local(mounts: &str, id: u64) -> bool {
    const LOCAL: [&str; 7] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs"];
    let id = id.to_string();
    mounts
        .lines()
        .filter(|line| line.split(' ').next() == Some(&id))
        .filter_map(|line| line.split_once(" - ")?.1.split(' ').next())
        .any(|kind| LOCAL.contains(&kind))
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
