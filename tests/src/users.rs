//! System users that exist for one test.

use std::{os::unix::process::CommandExt, process::Command};

use nix::unistd::User;

use crate::{Outcome, undo::Undo};

/// A system user with its own group, removed on drop.
#[derive(Debug)]
pub struct SystemUser {
    name: String,
    uid: u32,
    gid: u32,
    _undo: Undo,
}

impl SystemUser {
    /// Makes a user. Most tests need none: a [`crate::Cmd`] takes any number as uid.
    ///
    /// # Errors
    /// There is one of that name already, or `useradd` failed.
    pub fn new(name: &str) -> Outcome<Self> {
        if find(name)?.is_some() {
            return Err(format!("there is a user {name} already; if an earlier run left it: userdel {name}"));
        }
        let mut useradd = Command::new("useradd");
        useradd.args(["--system", "--user-group", "--no-create-home", "--home-dir", "/"]);
        useradd.args(["--shell", "/usr/sbin/nologin", name]).process_group(0);
        let removal = format!("userdel {name} 2>/dev/null; groupdel {name} 2>/dev/null");
        let (undo, made) = Undo::of(removal, || useradd.output()).map_err(|error| error.to_string())?;
        let made = made.map_err(|error| format!("useradd: {error}"))?;
        if !made.status.success() {
            return Err(format!("useradd {name}: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let user = find(name)?.ok_or_else(|| format!("useradd {name} made no such user"))?;
        Ok(Self { name: name.into(), uid: user.uid.as_raw(), gid: user.gid.as_raw(), _undo: undo })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Its gid.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }
}

/// The user that a name stands for.
///
/// # Errors
/// The user database cannot be read.
pub fn find(name: &str) -> Outcome<Option<User>> {
    User::from_name(name).map_err(|error| format!("user {name}: {error}"))
}
