//! Process facts -> roles, as the configuration assigns them.
//!
//! *Invariant:* pure; and a role is never assigned by something that a process says of itself.

mod evidence;

use std::path::Path;

use crate::{
    config::{Match, Role},
    model::Process,
};

pub use evidence::{without_literals, without_secrets};

/// Names of the roles that a process has, in the order of the configuration.
#[must_use]
pub fn roles(roles: &[Role], process: &Process) -> Vec<String> {
    roles
        .iter()
        .filter(|role| role.matches.iter().any(|entry| matches(entry, process)))
        .map(|role| role.name.clone())
        .collect()
}

/// Whether all keys of an entry match. An entry without keys matches nothing.
fn matches(entry: &Match, process: &Process) -> bool {
    let Match { unit, user_unit, user, group, exe, exe_sha256, cgroup, container } = entry;
    let verdicts = [
        unit.as_ref().map(|unit| process.unit.as_ref() == Some(unit)),
        user_unit.as_ref().map(|unit| process.user_unit.as_ref() == Some(unit)),
        user.as_deref().map(|user| is_user(user, process)),
        group.as_ref().map(|group| process.groups.contains(group)),
        exe.as_deref().map(|exe| is_executable(exe, process)),
        exe_sha256.as_deref().map(|hash| is_hash(hash, process)),
        cgroup.as_deref().map(|cgroup| is_within(cgroup, process)),
        container.as_deref().map(|id| is_in(id, process)),
    ];
    verdicts.iter().any(Option::is_some) && verdicts.iter().all(|verdict| verdict.unwrap_or(true))
}

/// A number is a uid, never a name.
fn is_user(user: &str, process: &Process) -> bool {
    match user.parse::<u32>() {
        Ok(uid) => process.uid == uid,
        Err(_) => process.user.as_deref() == Some(user),
    }
}

/// A path counts only if the file that runs is the one that has this path on the host.
fn is_executable(exe: &Path, process: &Process) -> bool {
    process.exe.verified && process.exe.path == exe
}

fn is_hash(hash: &str, process: &Process) -> bool {
    process.exe.sha256.as_deref().is_some_and(|found| found.eq_ignore_ascii_case(hash))
}

/// The cgroup itself, and all below it.
fn is_within(cgroup: &str, process: &Process) -> bool {
    let cgroup = cgroup.trim_end_matches('/');
    process.cgroup.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An id, or the beginning of it. An empty one is none.
fn is_in(id: &str, process: &Process) -> bool {
    !id.is_empty() && process.container.as_deref().is_some_and(|found| found.starts_with(id))
}

#[cfg(test)]
mod tests;
