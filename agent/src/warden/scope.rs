//! Who is in scope, as the kernel side reads it: users by uid, cgroups by id, and what lockdown lets them reach.
//!
//! Cgroups come and go: a thread watches the hierarchy. Until it has looked at a new one, that counts as in scope.
//!
//! *Invariant:* the maps hold what the configuration says before the bits that make them count are set.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::Hash,
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
};

use agent_common::{DestinationKey, EXCLUDED, MEMBER, Membership, NEITHER, UNKNOWN, in_scope, scope as bits};
use aya::{
    Pod,
    maps::{HashMap, LpmTrie, Map, MapData, MapError},
};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tracing::{debug, warn};

use super::{
    destinations::Place,
    host::{self, AgentUser, HostError},
    pins::forget,
    sys::Plain,
    units,
};
use crate::config::{Intercept, Lockdown, Members};

/// Where the host's resolvers are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Port of the resolvers that lockdown lets one ask.
const DNS: u16 = 53;

/// Name of the self-test's cgroup, below the root of the hierarchy.
pub(super) const SELF_TEST: &str = "postern-selftest";
/// A user that is in scope where root is excluded: nobody.
const NOBODY: u32 = 65_534;

/// Map of the users in scope.
type Users = HashMap<MapData, u32, Membership>;
/// Map of the cgroups in scope.
type Cgroups = HashMap<MapData, u64, Membership>;
/// Destinations that lockdown allows, of one family.
type Allowed = LpmTrie<MapData, Plain<DestinationKey>, u32>;

/// Brings the pinned maps to what the configuration says, and returns the bits that make them count. If cgroups matter, a
/// thread keeps watch on them for as long as the process lives.
pub(super) fn establish(intercept: &Intercept, cgroup_root: &Path, pins: &Path) -> Result<u16, ScopeError> {
    let pinned = |name: &str| MapData::from_pin(pins.join(name));
    let lists = Lists { include: &intercept.include, exclude: &intercept.exclude };
    let mut users: Users = Map::HashMap(pinned("USERS")?).try_into()?;
    replace(&mut users, &lists.users()?)?;
    allow(
        Map::LpmTrie(pinned("ALLOWED4")?).try_into()?,
        Map::LpmTrie(pinned("ALLOWED6")?).try_into()?,
        intercept.lockdown.as_ref(),
    )?;
    let mut cgroups: Cgroups = Map::HashMap(pinned("CGROUPS")?).try_into()?;
    let mut scope = 0;
    if intercept.include != Members::default() {
        scope |= bits::LISTED | bits::PARTIAL;
    }
    if intercept.exclude != Members::default() {
        scope |= bits::PARTIAL;
    }
    if intercept.lockdown.is_some() {
        scope |= bits::LOCKDOWN;
    }
    if intercept.pass_forwarded {
        scope |= bits::FORWARD;
    }
    if lists.cgroups_matter() {
        scope |= bits::CGROUPS;
        let mut watch = Watch::new(intercept.clone(), cgroup_root, cgroups)?;
        watch.look_at_all()?;
        thread::Builder::new().name("warden-cgroups".into()).spawn(move || watch.run()).map_err(ScopeError::Thread)?;
    } else {
        replace(&mut cgroups, &BTreeMap::new())?;
    }
    Ok(scope)
}

/// The users in scope, if nobody is but by being one of them.
pub(super) fn only_users(intercept: &Intercept) -> Result<Option<Vec<AgentUser>>, ScopeError> {
    let Members { units, users, cgroups } = &intercept.include;
    if users.is_empty() || !units.is_empty() || !cgroups.is_empty() {
        return Ok(None);
    }
    Ok(Some(users.iter().map(|name| host::user(name, "intercept")).collect::<Result<_, _>>()?))
}

/// A user who is in scope, with the self-test's cgroup if users do not matter.
pub(super) fn somebody_in(intercept: &Intercept) -> Result<u32, ScopeError> {
    let users = Lists { include: &intercept.include, exclude: &intercept.exclude }.users()?;
    let listed = users.iter().find(|(_, membership)| **membership == MEMBER).map(|(uid, _)| *uid);
    Ok(listed.unwrap_or(if users.contains_key(&0) { NOBODY } else { 0 }))
}

/// Who is in scope, as the programs find it.
pub(super) struct Scope {
    bits: u16,
    users: Users,
    cgroups: Cgroups,
}

impl Scope {
    /// With the bits that [`establish`] gave.
    pub(super) fn open(bits: u16, pins: &Path) -> Result<Self, ScopeError> {
        let pinned = |name: &str| MapData::from_pin(pins.join(name));
        let (users, cgroups) = (Map::HashMap(pinned("USERS")?), Map::HashMap(pinned("CGROUPS")?));
        Ok(Self { bits, users: users.try_into()?, cgroups: cgroups.try_into()? })
    }

    /// Whether a socket of a user in a cgroup is in scope; without a known cgroup, as one that nobody has looked at.
    pub(super) fn concerns(&self, user: u32, cgroup: Option<u64>) -> Result<bool, MapError> {
        if self.bits & bits::PARTIAL == 0 {
            return Ok(true);
        }
        let found = |membership: Result<Membership, MapError>| match membership {
            Err(MapError::KeyNotFound) => Ok(UNKNOWN),
            found => found,
        };
        let user = found(self.users.get(&user, 0))?;
        let cgroup = match cgroup {
            Some(cgroup) => found(self.cgroups.get(&cgroup, 0))?,
            None => UNKNOWN,
        };
        Ok(in_scope(self.bits, user, cgroup))
    }
}

/// Who is listed and who is excluded.
#[derive(Clone, Copy)]
struct Lists<'a> {
    include: &'a Members,
    exclude: &'a Members,
}

impl Lists<'_> {
    fn users(&self) -> Result<BTreeMap<u32, Membership>, HostError> {
        let mut users = BTreeMap::new();
        for (members, membership) in [(self.include, MEMBER), (self.exclude, EXCLUDED)] {
            for name in &members.users {
                users.insert(host::user(name, "intercept")?.uid.as_raw(), membership);
            }
        }
        Ok(users)
    }

    fn cgroups_matter(&self) -> bool {
        [self.include, self.exclude].iter().any(|members| !members.units.is_empty() || !members.cgroups.is_empty())
    }

    /// Of a cgroup, by its path below the root of the hierarchy.
    fn membership(&self, root: &Path, path: &str) -> Membership {
        if path.strip_prefix('/') == Some(SELF_TEST) {
            return MEMBER;
        }
        let (unit, _) = units::units(root, path);
        let is_in = |members: &Members| {
            let named = unit.as_ref().is_some_and(|unit| members.units.contains(unit));
            named || members.cgroups.iter().any(|above| Path::new(path).starts_with(above))
        };
        if is_in(self.exclude) {
            EXCLUDED
        } else if is_in(self.include) {
            MEMBER
        } else {
            NEITHER
        }
    }
}

/// First what is new or different, then what is too much.
fn replace<K: Pod + Ord + Hash>(
    map: &mut HashMap<MapData, K, Membership>,
    wanted: &BTreeMap<K, Membership>,
) -> Result<(), MapError> {
    for (key, membership) in wanted {
        map.insert(key, membership, 0)?;
    }
    let present: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in present.iter().filter(|key| !wanted.contains_key(key)) {
        forget(map, key)?;
    }
    Ok(())
}

/// Writes what lockdown allows; nothing without it.
fn allow(v4: Allowed, v6: Allowed, lockdown: Option<&Lockdown>) -> Result<(), ScopeError> {
    let mut wanted: BTreeSet<Place> = BTreeSet::new();
    if let Some(lockdown) = lockdown {
        let resolvers = match &lockdown.dns {
            Some(named) => named.clone(),
            None => resolvers(&fs::read_to_string(RESOLV_CONF).map_err(ScopeError::Resolvers)?),
        };
        wanted.extend(resolvers.into_iter().map(|address| Place::host(address, DNS)));
        wanted.extend(lockdown.allow.iter().map(|named| Place {
            address: named.address,
            prefix: named.prefix,
            port: named.port.unwrap_or(0),
        }));
    }
    for (mut map, v4) in [(v4, true), (v6, false)] {
        for place in wanted.iter().filter(|place| place.address.is_ipv4() == v4) {
            map.insert(&place.key(), 1, 0)?;
        }
        for key in map.keys().collect::<Result<Vec<_>, _>>()? {
            if !Place::from_key(&key, v4).is_some_and(|place| wanted.contains(&place)) {
                map.remove(&key)?;
            }
        }
    }
    Ok(())
}

/// The resolvers of a `resolv.conf`.
fn resolvers(text: &str) -> Vec<IpAddr> {
    let named = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named.filter_map(|address| address.trim().parse().ok()).collect()
}

/// The watch on the hierarchy.
struct Watch {
    intercept: Intercept,
    root: PathBuf,
    map: Cgroups,
    inotify: Inotify,
    watched: BTreeMap<WatchDescriptor, Watched>,
}

struct Watched {
    path: PathBuf,
    id: u64,
}

impl Watch {
    fn new(intercept: Intercept, root: &Path, map: Cgroups) -> Result<Self, ScopeError> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(|error| ScopeError::Watch(error.into()))?;
        Ok(Self { intercept, root: root.to_owned(), map, inotify, watched: BTreeMap::new() })
    }

    /// Looks at every cgroup, and forgets those that are no more.
    fn look_at_all(&mut self) -> Result<(), ScopeError> {
        self.look_at(self.root.clone())?;
        let ids: BTreeSet<u64> = self.watched.values().map(|watched| watched.id).collect();
        let present: Vec<u64> = self.map.keys().collect::<Result<_, _>>()?;
        for id in present.iter().filter(|id| !ids.contains(id)) {
            forget(&mut self.map, id)?;
        }
        Ok(())
    }

    /// Looks at a cgroup and those below it. One that has gone meanwhile is none.
    fn look_at(&mut self, path: PathBuf) -> Result<(), ScopeError> {
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
        // Watched before it is read, so that nothing is made in between unseen.
        let descriptor = match self.inotify.add_watch(&path, flags) {
            Ok(descriptor) => descriptor,
            Err(nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(ScopeError::Watch(error.into())),
        };
        let Ok(found) = fs::metadata(&path) else { return Ok(()) };
        let below = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let lists = Lists { include: &self.intercept.include, exclude: &self.intercept.exclude };
        let membership = lists.membership(&self.root, &format!("/{}", below.display()));
        self.map.insert(found.ino(), membership, 0)?;
        self.watched.insert(descriptor, Watched { path: path.clone(), id: found.ino() });
        let Ok(entries) = fs::read_dir(&path) else { return Ok(()) };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.look_at(entry.path())?;
            }
        }
        Ok(())
    }

    fn run(mut self) {
        loop {
            if let Err(error) = self.events() {
                // What is not looked at is in scope: closed, and said.
                warn!(%error, "cgroups cannot be watched any more; new ones count as in scope");
                return;
            }
        }
    }

    fn events(&mut self) -> Result<(), ScopeError> {
        for event in self.inotify.read_events().map_err(|error| ScopeError::Watch(error.into()))? {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.look_at_all()?;
            } else if event.mask.contains(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR) {
                if let (Some(above), Some(name)) = (self.watched.get(&event.wd), event.name) {
                    let path = above.path.join(name);
                    debug!(path = %path.display(), "a new cgroup");
                    self.look_at(path)?;
                }
            } else if event.mask.intersects(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_IGNORED)
                && let Some(gone) = self.watched.remove(&event.wd)
            {
                forget(&mut self.map, &gone.id)?;
            }
        }
        Ok(())
    }
}

/// The scope cannot be established.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// A user of `[intercept]`.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A map cannot be written; it may be full.
    #[error("the maps of the scope cannot be written: {0}")]
    Map(#[from] MapError),
    /// The hierarchy cannot be watched.
    #[error("the cgroup hierarchy cannot be watched: {0}; fs.inotify.max_user_watches may be too small")]
    Watch(#[source] io::Error),
    /// The host's resolvers are not known.
    #[error("{RESOLV_CONF}: {0}; name the resolvers with dns in [intercept.lockdown]")]
    Resolvers(#[source] io::Error),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_in_by_its_unit_or_its_path_and_out_by_exclusion() {
        let root = tempfile::tempdir().expect("a directory");
        let all = ["/system.slice/orders-agent.service/inner", "/subagents/one", "/subagents/two", "/subagentsother"];
        for path in all {
            fs::create_dir_all(root.path().join(&path[1..])).expect("a cgroup");
        }
        let include = Members {
            units: vec!["orders-agent.service".into()],
            cgroups: vec!["/subagents".into()],
            ..Members::default()
        };
        let exclude = Members { cgroups: vec!["/subagents/two".into()], ..Members::default() };
        let lists = Lists { include: &include, exclude: &exclude };
        let found = all.map(|path| lists.membership(root.path(), path));
        // The unit of a cgroup that root does not own is nobody's.
        let unit = if fs::metadata(root.path()).expect("there").uid() == 0 { MEMBER } else { NEITHER };
        assert_eq!(found, [unit, MEMBER, EXCLUDED, NEITHER]);
        assert!(lists.cgroups_matter());
    }

    #[test]
    fn resolvers_are_read_as_the_resolver_library_reads_them() {
        let text = "# comment\nsearch example.test\nnameserver 192.0.2.53\n nameserver\t2001:db8::53\nnameserver x\n";
        let expected: [IpAddr; 2] = ["192.0.2.53".parse().expect("an address"), "2001:db8::53".parse().expect("one")];
        assert_eq!(resolvers(text), expected);
    }
}
