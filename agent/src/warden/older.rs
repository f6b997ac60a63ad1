//! Connections to protected addresses that did not go through the agent, because they are older than interception: found in
//! every network namespace, and ended or left as configured.
//!
//! What tells them from the agent's own is the mark that only the warden sets; what tells them from redirected ones is that
//! those lead to the proxy. So whatever is found here is older than interception, or has got around it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use agent_common::{CANARY, DESTINATION_OBSERVE, MARK_APART, MARK_EXISTING, MARK_LISTENER, MARK_SCOPED, MARK_UPSTREAM};
use tracing::warn;

use super::{
    capture::Capture,
    diag::{Connection, Diag},
    netns,
    news::News,
    sys,
    wire::Answer,
};
use crate::{
    config,
    model::{Fate, Holder, Older, Surroundings},
};

/// Connections that `status` lists; the others are counted. With their holders they fit in one message to the proxy, however
/// their paths are spelt.
const MAX_LISTED: usize = 16;

/// Records that wait for a proxy to write them. Beyond it they are counted and logged only.
const MAX_UNTOLD: usize = 4096;

/// Processes that are named for one connection: children inherit it.
const MAX_HOLDERS: usize = 4;

/// Characters of a program's path that are shown.
const MAX_EXE: usize = 128;

/// Ends or lists old connections.
pub(super) struct Olders {
    capture: Arc<Capture>,
    news: Arc<News>,
    policy: config::Existing,
    /// Cookie of the host's own network namespace.
    host: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    looked: u64,
    cut: u64,
    /// Those that go on, by the cookies of namespace and socket.
    open: BTreeMap<(u64, u64), Older>,
    untold: Vec<Older>,
    blind: Option<String>,
}

/// What was found in one namespace, and the means to end it.
struct Found {
    diag: Diag,
    netns: u64,
    connections: Vec<(Connection, u32)>,
}

/// A descriptor of a process.
#[derive(Clone, Copy)]
struct Place {
    pid: u32,
    number: i32,
}

impl Olders {
    pub(super) fn new(capture: Arc<Capture>, news: Arc<News>, policy: config::Existing, host: u64) -> Self {
        Self { capture, news, policy, host, state: Mutex::default() }
    }

    /// Looks at all connections of all namespaces, and deals with those that are older than interception.
    pub(super) fn sweep(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, blind) = self.find();
        if let Some(error) = &blind {
            warn!(%error, "connections older than interception cannot be looked for everywhere");
        }
        state.blind = blind.map(|error| error.to_string());
        state.looked += 1;
        self.settle(&found, &mut state);
        let untold = std::mem::take(&mut state.untold);
        state.untold = untold.into_iter().filter(|older| !self.news.tell(Answer::Older(older.clone()), &[])).collect();
        state.untold.truncate(MAX_UNTOLD);
    }

    /// Puts what is known into a report. Looks first if it could be wrong.
    pub(super) fn report(&self, surroundings: &mut Surroundings) {
        let unsure = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.looked == 0 || !state.open.is_empty()
        };
        if unsure {
            self.sweep();
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        surroundings.looked = state.looked;
        surroundings.cut = state.cut;
        surroundings.open = state.open.len();
        surroundings.older = state.open.values().take(MAX_LISTED).cloned().collect();
        surroundings.blind.clone_from(&state.blind);
    }

    /// Old connections, by namespace, and why they may not be all.
    fn find(&self) -> (Vec<Found>, Option<io::Error>) {
        let (marks, namespaces) = match (self.capture.mark_map(), netns::all()) {
            (Ok(marks), Ok(namespaces)) => (marks, namespaces),
            (Err(error), _) | (_, Err(error)) => return (Vec::new(), Some(error)),
        };
        let (mut all, mut blind) = (Vec::new(), None);
        for process in namespaces.into_values() {
            match self.find_within(process, marks.as_fd()) {
                Ok(found) if found.connections.is_empty() => {}
                Ok(found) => all.push(found),
                // The process has ended. If its namespace has not, another process is in it next time.
                Err(_) if netns::of(process).is_err() => {}
                Err(error) => blind = Some(error),
            }
        }
        (all, blind)
    }

    /// Old connections in the namespace that a process is in.
    fn find_within(&self, process: u32, marks: BorrowedFd<'_>) -> io::Result<Found> {
        let (_, diag) = netns::within(process, Diag::open)?;
        let netns = diag.netns()?;
        let mut connections = Vec::new();
        for connection in diag.connections(marks)? {
            if let Some(target) = self.target(&connection, netns)? {
                connections.push((connection, target));
            }
        }
        Ok(Found { diag, netns, connections })
    }

    /// The target that a connection reaches past the agent, if it does and should not.
    fn target(&self, connection: &Connection, netns: u64) -> io::Result<Option<u32>> {
        if matches!(connection.mark, Some(MARK_LISTENER | MARK_UPSTREAM))
            || (connection.remote.ip().is_loopback() && netns != self.host)
        {
            return Ok(None);
        }
        let found = self.capture.destination(connection.remote).map_err(io::Error::other)?;
        // What gets to the self-test's own addresses is for the self-test to find.
        let meant = found.filter(|found| found.flags & DESTINATION_OBSERVE == 0 && found.target != CANARY);
        let Some(found) = meant else { return Ok(None) };
        let concerns = matches!(connection.mark, Some(MARK_SCOPED | MARK_APART))
            || self.capture.concerns(connection.uid, connection.cgroup).map_err(io::Error::other)?;
        Ok(concerns.then_some(found.target))
    }

    fn settle(&self, all: &[Found], state: &mut State) {
        let mut copies = Vec::new();
        let before = std::mem::take(&mut state.open);
        let inodes = all.iter().flat_map(|found| &found.connections).map(|(connection, _)| connection.inode).collect();
        let places = places(&inodes);
        for Found { diag, netns, connections } in all {
            for (connection, target) in connections {
                let held = places.get(&connection.inode).map_or(&[][..], Vec::as_slice);
                let Some(fate) = self.decide(diag, connection, held, &mut copies) else { continue };
                let older = Older {
                    target: *target,
                    source: connection.local,
                    destination: connection.remote,
                    netns: *netns,
                    uid: connection.uid,
                    holders: held.iter().take(MAX_HOLDERS).map(|place| holder(place.pid)).collect(),
                    fate,
                };
                let key = (*netns, connection.cookie);
                if !before.contains_key(&key) {
                    let Older { source, destination, uid, fate, .. } = &older;
                    warn!(%source, %destination, uid, ?fate, "a connection is older than interception");
                    state.untold.push(older.clone());
                }
                match older.fate {
                    Fate::Cut => state.cut += 1,
                    Fate::Left | Fate::NotCut(_) => drop(state.open.insert(key, older)),
                }
            }
        }
        // In a thread of its own, which their owners may hold up; see `sys::descriptor_of`.
        if !copies.is_empty() {
            thread::spawn(move || drop(copies));
        }
    }

    /// Ends or leaves a connection. `None`: it has ended by itself.
    fn decide(&self, diag: &Diag, connection: &Connection, held: &[Place], copies: &mut Vec<OwnedFd>) -> Option<Fate> {
        match self.policy {
            config::Existing::Leave => {
                if connection.mark != Some(MARK_EXISTING) {
                    self.mark(connection, held, copies);
                }
                Some(Fate::Left)
            }
            config::Existing::Cut => match diag.destroy(connection) {
                Ok(()) => Some(Fate::Cut),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => Some(Fate::NotCut(error.to_string())),
            },
        }
    }

    /// Marks a connection that is left, so that no other guard takes it for one that got around.
    fn mark(&self, connection: &Connection, held: &[Place], copies: &mut Vec<OwnedFd>) {
        for place in held {
            let copy = sys::pidfd(place.pid).and_then(|process| sys::descriptor_of(process.as_fd(), place.number));
            let Ok(copy) = copy else { continue };
            // The process may have opened something else under that number.
            let same = sys::socket_cookie(copy.as_fd()).is_ok_and(|cookie| cookie == connection.cookie);
            let marked = same && self.capture.mark_existing(copy.as_fd()).is_ok();
            copies.push(copy);
            if marked {
                return;
            }
        }
        warn!(source = %connection.local, "a connection that is left could not be marked as such");
    }
}

/// Who has sockets with these inodes open.
fn places(inodes: &BTreeSet<u32>) -> HashMap<u32, Vec<Place>> {
    let mut places: HashMap<u32, Vec<Place>> = HashMap::new();
    if inodes.is_empty() {
        return places;
    }
    let names = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    for pid in names(Path::new("/proc")).iter().filter_map(|name| name.parse().ok()) {
        let descriptors = format!("/proc/{pid}/fd");
        for name in names(Path::new(&descriptors)) {
            let inode = fs::read_link(format!("{descriptors}/{name}"))
                .ok()
                .and_then(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let (Some(inode), Ok(number)) = (inode, name.parse())
                && inodes.contains(&inode)
            {
                places.entry(inode).or_default().push(Place { pid, number });
            }
        }
    }
    places
}

fn holder(pid: u32) -> Holder {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok();
    Holder { pid, exe: exe.map(|exe| exe.to_string_lossy().chars().take(MAX_EXE).collect()) }
}
