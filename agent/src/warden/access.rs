//! What permissions let a user do. The proxy must be able to read what it reads by itself, the policies: one that ends at once for
//! want of a permission would leave the host closed, and its operator with a puzzle. Nobody in scope should be able to connect to
//! a listed Unix socket, where the kernel side cannot refuse all that lead there.
//!
//! *Invariant:* nothing is allowed here: the kernel decides, when a file is opened. What is said to be closed is closed by each
//! of the user's groups, and by no access list.

use std::{
    ffi::CString,
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::{host::AgentUser, sys};

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const SEARCH: u32 = 0o1;

/// Refuses a directory of policies that the agent's user could not read, with all `*.cedar` in it.
pub(super) fn check_policies(directory: &Path, user: AgentUser) -> Result<(), AccessError> {
    let failed = |error| AccessError::Unknown(directory.into(), error);
    let user = Reader::new(user);
    let real = directory.canonicalize().map_err(failed)?;
    for ancestor in real.ancestors().skip(1) {
        check(ancestor, SEARCH, &user)?;
    }
    check(&real, READ | SEARCH, &user)?;
    for entry in fs::read_dir(&real).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "cedar") {
            check(&path, READ, &user)?;
        }
    }
    Ok(())
}

/// Whether the permissions of a socket, or of a directory that leads to it, keep all of these users from connecting to it. One
/// that is not there may be made with any, so that only the directories count.
pub(super) fn is_closed_to(socket: &Path, users: &[AgentUser]) -> bool {
    let Ok(directory) = socket.parent().unwrap_or(Path::new("/")).canonicalize() else { return false };
    let closed = |path: &Path, needed: u32, user: &Reader| {
        // Not followed: a link in the socket's place would be somebody else's file.
        fs::symlink_metadata(path).is_ok_and(|found| {
            // Whoever owns it can change it.
            found.uid() != user.uid.as_raw() && !permits(&found, needed, user) && !sys::has_access_list(path)
        })
    };
    users.iter().map(|user| Reader::new(*user)).all(|user| {
        let is_socket = fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket());
        is_socket && closed(socket, WRITE, &user) || directory.ancestors().any(|above| closed(above, SEARCH, &user))
    })
}

/// A user with all groups that a service manager would give it.
struct Reader {
    uid: Uid,
    groups: Vec<Gid>,
}

impl Reader {
    fn new(user: AgentUser) -> Self {
        let name = User::from_uid(user.uid).ok().flatten().and_then(|user| CString::new(user.name).ok());
        let groups = name.and_then(|name| getgrouplist(&name, user.gid).ok()).unwrap_or_else(|| vec![user.gid]);
        Self { uid: user.uid, groups }
    }
}

fn check(path: &Path, needed: u32, user: &Reader) -> Result<(), AccessError> {
    let found = fs::metadata(path).map_err(|error| AccessError::Unknown(path.into(), error))?;
    // An access control list may say more than the mode does.
    if permits(&found, needed, user) || sys::has_access_list(path) {
        return Ok(());
    }
    let remedy = if needed & SEARCH == 0 {
        "o+r"
    } else if needed & READ == 0 {
        "o+x"
    } else {
        "o+rx"
    };
    Err(AccessError::Denied { path: path.into(), uid: user.uid.as_raw(), remedy })
}

/// As the kernel does: the first class that the user is in decides.
fn permits(found: &Metadata, needed: u32, user: &Reader) -> bool {
    let class = if user.uid.is_root() {
        return true;
    } else if found.uid() == user.uid.as_raw() {
        6
    } else if user.groups.contains(&Gid::from_raw(found.gid())) {
        3
    } else {
        0
    };
    (found.mode() >> class) & needed == needed
}

/// The proxy could not read its policies.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A directory or file is closed to it.
    #[error(
        "agent.policies: {path} cannot be read by the proxy, which runs as uid {uid} (agent.user); \
         allow it with `chmod {remedy} {path}`",
        path = path.display()
    )]
    Denied {
        /// The directory or file.
        path: PathBuf,
        /// Who needs it.
        uid: u32,
        /// What would help.
        remedy: &'static str,
    },
    /// It cannot be looked at.
    #[error("agent.policies: {0}: {1}")]
    Unknown(PathBuf, #[source] io::Error),
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Owns nothing, and is in no group.
    const STRANGER: AgentUser = AgentUser { uid: Uid::from_raw(3_999_999), gid: Gid::from_raw(3_999_999) };

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_the_proxy_cannot_read_is_named_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let policies = dir.path().join("policies");
        let file = policies.join("all.cedar");
        fs::create_dir(&policies).unwrap();
        fs::write(&file, "").unwrap();
        fs::write(policies.join("notes.txt"), "").unwrap();
        mode(&policies.join("notes.txt"), 0o600);
        let denied = || match check_policies(&policies, STRANGER) {
            Ok(()) => None,
            Err(AccessError::Denied { path, remedy, .. }) => Some((path, remedy)),
            Err(other) => panic!("{other}"),
        };
        for (dir_mode, policies_mode, file_mode, expected) in [
            (0o711, 0o755, 0o644, None),
            (0o700, 0o755, 0o644, Some((dir.path(), "o+x"))),
            (0o755, 0o711, 0o644, Some((policies.as_path(), "o+rx"))),
            (0o755, 0o750, 0o644, Some((policies.as_path(), "o+rx"))),
            (0o755, 0o755, 0o640, Some((file.as_path(), "o+r"))),
        ] {
            mode(dir.path(), dir_mode);
            mode(&policies, policies_mode);
            mode(&file, file_mode);
            let expected = expected.map(|(path, remedy)| (path.canonicalize().unwrap(), remedy));
            assert_eq!(denied(), expected, "{dir_mode:o} {policies_mode:o} {file_mode:o}");
        }
    }

    #[test]
    fn a_socket_is_closed_to_those_whom_it_or_a_directory_keeps_out() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let path = inner.join("socket");
        let group = AgentUser { gid: Gid::from_raw(fs::metadata(dir.path()).unwrap().gid()), ..STRANGER };
        let owner = AgentUser { uid: Uid::from_raw(fs::metadata(dir.path()).unwrap().uid()), ..STRANGER };
        let closed = |modes: [u32; 2], users: &[AgentUser]| {
            mode(dir.path(), modes[0]);
            let _ = path.exists().then(|| mode(&path, modes[1]));
            is_closed_to(&path, users)
        };
        mode(&inner, 0o755);
        // It is not there yet.
        assert!(!closed([0o755, 0], &[STRANGER]) && closed([0o750, 0], &[STRANGER]));
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        for (modes, stranger, of_the_group) in [
            ([0o755, 0o777], false, false),
            ([0o755, 0o775], true, false),
            ([0o755, 0o755], true, true),
            ([0o750, 0o777], true, false),
            ([0o700, 0o777], true, true),
            ([0o750, 0o770], true, false),
        ] {
            assert_eq!(closed(modes, &[STRANGER]), stranger, "{modes:?}");
            assert_eq!(closed(modes, &[group]), of_the_group, "{modes:?}");
            assert_eq!(closed(modes, &[STRANGER, group]), of_the_group, "{modes:?}");
            assert!(!closed(modes, &[owner]) && !closed(modes, &[STRANGER, owner]), "{modes:?}");
        }
    }

    #[test]
    fn the_first_class_that_the_user_is_in_decides() {
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o077);
        let found = fs::metadata(dir.path()).unwrap();
        let (owner, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
        let permits = |uid, gid| permits(&found, READ, &Reader { uid, groups: vec![gid] });
        assert!(permits(STRANGER.uid, STRANGER.gid));
        assert!(permits(STRANGER.uid, group));
        assert_eq!(permits(owner, group), owner.is_root());
    }
}
