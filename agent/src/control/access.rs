//! Who may ask what.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::{ControlError, OpenSession, Request, Whoami};

/// Who asks, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 if the process is in a pid namespace that cannot be seen from here.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Peer {
    /// What a process is told about itself.
    #[must_use]
    pub fn whoami(self, sessions: Vec<OpenSession>) -> Whoami {
        let user = User::from_uid(Uid::from_raw(self.uid)).ok().flatten().map(|user| user.name);
        Whoami { pid: self.pid, uid: self.uid, user, gid: self.gid, sessions }
    }
}

/// Who may ask everything.
#[derive(Clone, Debug)]
pub struct Access {
    own: Uid,
    /// The group's id, and its name as it was configured.
    group: Option<(Gid, String)>,
}

impl Access {
    /// Root, the user of this process, and the members of a group (name or number), if one is given.
    ///
    /// # Errors
    /// There is no such group.
    pub fn new(group: Option<&str>) -> Result<Self, ControlError> {
        let group = group.map(|name| {
            let gid = match name.parse() {
                Ok(number) => Some(Gid::from_raw(number)),
                Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
            };
            gid.map(|gid| (gid, name.to_owned())).ok_or_else(|| ControlError::NoGroup(name.into()))
        });
        Ok(Self { own: Uid::effective(), group: group.transpose()? })
    }

    /// Whether a peer may ask everything. Asks the host's user database, so it may block.
    #[must_use]
    pub fn is_full(&self, peer: Peer) -> bool {
        let uid = Uid::from_raw(peer.uid);
        uid.is_root() || uid == self.own || self.group.as_ref().is_some_and(|(group, _)| is_member(peer, *group))
    }

    /// Whether a request is open to everybody.
    #[must_use]
    pub fn is_open(request: &Request) -> bool {
        matches!(request, Request::Whoami {})
    }

    /// The refusal of a peer that may not ask.
    #[must_use]
    pub fn refusal(&self, peer: Peer) -> (String, String) {
        let remedy = match &self.group {
            Some((_, name)) => format!("Ask as root or as a member of the group {name}."),
            None => "Ask as root, or name a group in the configuration: group = … in [agent].".into(),
        };
        (format!("uid {} may ask the agent nothing but what it has open itself", peer.uid), remedy)
    }
}

fn is_member(peer: Peer, group: Gid) -> bool {
    if peer.gid == group.as_raw() {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid)) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}
