//! The network namespaces in which the proxy listens: the host's own is the server's business, all others are found, entered
//! and left here.
//!
//! A namespace is entered as soon as a process is found in it: by looking at all processes now and then, and at once when the
//! kernel side says that a process uses the network where nobody listens. It is left when no process is in it any more: a
//! listener would keep it alive for ever.
//!
//! *Invariant:* the kernel side is told of a listener only after it was marked and handed to the proxy.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use agent_common::{MAX_NAMESPACES, UNSERVED_REFUSED};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tracing::{debug, info, warn};

use super::{
    capture::{Capture, Unserved},
    listen::Pairs,
    netns::{self, Inode},
    news::{News, tell},
    older::Olders,
    sys,
    wire::Answer,
};
use crate::{
    config::{Intercept, Reach},
    model::{Silent, Surroundings},
};

/// Time between two looks at all processes. A namespace whose processes use the network is found at once; this finds the
/// others, and those that may go.
const SCAN: Duration = Duration::from_secs(2);

/// Time between two looks at all connections, beside those for a reason. Only what has got around is found then.
const SWEEP: Duration = Duration::from_secs(60);

/// When old connections are looked for if no proxy has come by then: a client that is cut off should find one.
const FIRST_SWEEP: Duration = Duration::from_secs(5);

/// Shortest time between two sweeps: names can change often.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// Time between two tries in a namespace where something is missing. It doubles with each try, up to [`SLOWEST`], unless
/// somebody wants to connect.
const RETRY: Duration = Duration::from_millis(250);
/// See [`RETRY`].
const SLOWEST: Duration = Duration::from_secs(60);

/// Namespaces without a listener that `status` names; the others are counted.
const MAX_NAMED: usize = 32;

/// Words of the kernel side that are taken at once, so that whoever makes many does not keep the thread from its other work.
const MAX_WORDS: usize = 4096;

/// The namespaces, watched by a thread until this is dropped.
pub(super) struct Watch {
    namespaces: Arc<Namespaces>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch.
    pub(super) fn start(
        intercept: &Intercept,
        capture: Arc<Capture>,
        unserved: Unserved,
        host: u64,
    ) -> io::Result<(Self, Arc<Namespaces>)> {
        let news = Arc::new(News::default());
        let namespaces = Arc::new(Namespaces {
            olders: Olders::new(Arc::clone(&capture), Arc::clone(&news), intercept.existing, host),
            everywhere: intercept.namespaces == Reach::All,
            host: netns::of(std::process::id())?,
            capture,
            news,
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            changed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let thread = {
            let namespaces = Arc::clone(&namespaces);
            thread::Builder::new().name("warden-watch".into()).spawn(move || namespaces.watch(unserved))?
        };
        Ok((Self { namespaces: Arc::clone(&namespaces), thread: Some(thread) }, namespaces))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.namespaces.stopping.store(true, Ordering::SeqCst);
        self.namespaces.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that watches the network namespaces has panicked");
        }
    }
}

/// What is known of the namespaces.
pub(super) struct Namespaces {
    capture: Arc<Capture>,
    news: Arc<News>,
    olders: Olders,
    everywhere: bool,
    host: Inode,
    wake: EventFd,
    /// Connections have to be looked at: a proxy has come, or there are new addresses.
    changed: AtomicBool,
    stopping: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: BTreeMap<Inode, Known>,
    /// Namespaces beyond the bound when last looked.
    beyond: usize,
}

/// A namespace that processes are in.
struct Known {
    /// A thread in it.
    thread: u32,
    /// Its cookie, and the number of listeners there.
    listening: Option<(u64, usize)>,
    /// What is missing there.
    missing: Option<String>,
    /// Somebody was refused for it.
    wanted: bool,
    tries: u32,
    tried: Instant,
}

impl State {
    /// Whether no other namespace can be listened in. The host's own counts too.
    fn is_full(&self) -> bool {
        self.known.len() + 1 >= MAX_NAMESPACES as usize
    }
}

impl Known {
    /// Whether to try again: after a while, or soon if somebody is `wanting` to connect.
    fn due(&self, wanting: bool) -> bool {
        let pause = if wanting { RETRY } else { RETRY.saturating_mul(1 << self.tries.min(16)).min(SLOWEST) };
        self.missing.is_some() && self.tried.elapsed() >= pause
    }
}

impl Namespaces {
    /// A proxy listens in the host's own namespace, and is told over this connection where else. If it takes the place of
    /// another, it first gets listeners wherever that one has them; then the other is told.
    pub(super) fn proxy_came(&self, proxy: Arc<OwnedFd>) {
        let mut state = self.state();
        if let Some(before) = self.news.set(Some(proxy)) {
            self.move_over(&mut state);
            tell(&before, Answer::Succeeded, &[]);
        }
        drop(state);
        self.look_at_connections();
    }

    /// Makes new listeners in every namespace that has some.
    fn move_over(&self, state: &mut State) {
        let alive = netns::all().unwrap_or_else(|error| {
            warn!(%error, "the processes cannot be listed");
            BTreeMap::new()
        });
        for (inode, known) in std::mem::take(&mut state.known) {
            let Some((netns, _)) = known.listening else { continue };
            self.enter(state, inode, alive.get(&inode).copied().unwrap_or(known.thread));
            if state.known.get(&inode).is_none_or(|known| known.listening.is_none())
                && let Err(error) = self.capture.stop_listening(netns)
            {
                warn!(%error, "the kernel side could not be told that nobody listens; it will find out");
            }
        }
    }

    /// The proxy of this connection has gone, and its listeners with it. Of one in whose place another listens, nothing was
    /// left to go.
    pub(super) fn proxy_gone(&self, proxy: &Arc<OwnedFd>) {
        let mut state = self.state();
        if !self.news.is(proxy) {
            return;
        }
        self.news.set(None);
        *state = State::default();
        if let Err(error) = self.capture.listen_nowhere() {
            warn!(%error, "the kernel side could not be told that nobody listens; it will find out");
        }
    }

    /// Tells the proxy that listens, if there is one.
    pub(super) fn tell(&self, answer: Answer) {
        self.news.tell(answer, &[]);
    }

    /// There are new protected addresses, to which there may be connections.
    pub(super) fn look_at_connections(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// How it is.
    pub(super) fn report(&self) -> Surroundings {
        let mut surroundings = Surroundings::default();
        {
            let state = self.state();
            surroundings.listening = state.known.values().filter(|known| known.listening.is_some()).count();
            // Many containers have no IPv6, and need no listener for it.
            let silent = |known: &Known| {
                let reason = known.missing.as_ref().filter(|_| known.listening.is_none() || known.wanted)?;
                Some(Silent { pid: known.thread, reason: reason.clone() })
            };
            surroundings.silent = state.known.values().filter_map(silent).take(MAX_NAMED).collect();
            surroundings.beyond = state.beyond;
        }
        self.olders.report(&mut surroundings);
        surroundings
    }

    fn wake(&self) {
        // Fails only where it is set already.
        let _ = self.wake.write(1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what there is to do, and does it.
    fn watch(&self, mut unserved: Unserved) {
        let started = Instant::now();
        let (mut scanned, mut swept) = (None::<Instant>, None::<Instant>);
        // Connections have to be looked at; a thread that was named has ended, and left its namespace to be found.
        let (mut pending, mut missed) = (false, false);
        while !self.stopping.load(Ordering::SeqCst) {
            let changed = self.changed.swap(false, Ordering::SeqCst);
            pending |= changed;
            let pause = if missed { RETRY } else { SCAN };
            if changed || scanned.is_none_or(|scanned| scanned.elapsed() >= pause) {
                self.scan();
                scanned = Some(Instant::now());
                missed = false;
            }
            let due = match swept {
                Some(swept) => swept.elapsed() >= if pending { SWEEP_PAUSE } else { SWEEP },
                None => self.news.anybody() || started.elapsed() >= FIRST_SWEEP,
            };
            if due {
                pending = false;
                self.olders.sweep();
                swept = Some(Instant::now());
            }
            let pause = match (missed, pending) {
                (true, _) => RETRY,
                (false, true) => SWEEP_PAUSE,
                (false, false) => SCAN,
            };
            if !self.wait(&unserved, pause) {
                return;
            }
            let _ = self.wake.read();
            for (thread, refused) in words(&mut unserved) {
                missed |= !self.told(thread, refused);
            }
        }
    }

    /// Waits for a word of the kernel side or of another thread, or a while. False if there is no waiting.
    fn wait(&self, unserved: &Unserved, pause: Duration) -> bool {
        let mut ready =
            [PollFd::new(unserved.as_fd(), PollFlags::POLLIN), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => true,
            Err(error) => {
                warn!(%error, "network namespaces cannot be watched any more");
                false
            }
        }
    }

    /// A thread may be where a listener is missing, and may have been refused for it. False if it has ended since.
    fn told(&self, thread: u32, refused: bool) -> bool {
        // What it uses may be a socket of another namespace than its own; nothing comes of it then.
        let Ok(inode) = netns::of(thread) else { return false };
        let mut state = self.state();
        if state.known.get(&inode).is_none_or(|known| known.due(true)) {
            self.enter(&mut state, inode, thread);
        }
        if refused && let Some(known) = state.known.get_mut(&inode) {
            known.wanted = true;
        }
        true
    }

    /// Enters the namespaces that have processes, and leaves those that have none any more.
    fn scan(&self) {
        if !self.everywhere || !self.news.anybody() {
            return;
        }
        let alive = match netns::all() {
            Ok(alive) => alive,
            Err(error) => {
                warn!(%error, "the processes cannot be listed");
                return;
            }
        };
        let mut state = self.state();
        // A thread can be in another namespace than its process.
        let gone = |inode: &Inode, known: &Known| {
            !alive.contains_key(inode) && netns::of(known.thread).ok().as_ref() != Some(inode)
        };
        let gone: Vec<Inode> =
            state.known.iter().filter(|(inode, known)| gone(inode, known)).map(|(inode, _)| *inode).collect();
        for inode in gone {
            self.leave(&mut state, inode);
        }
        let mut beyond = 0;
        for (inode, process) in alive {
            let full = state.is_full();
            match state.known.get_mut(&inode) {
                None if full && inode != self.host => beyond += 1,
                None => self.enter(&mut state, inode, process),
                Some(known) => {
                    known.thread = process;
                    if known.due(false) {
                        self.enter(&mut state, inode, process);
                    }
                }
            }
        }
        if beyond > 0 && state.beyond == 0 {
            warn!("more than {MAX_NAMESPACES} network namespaces; in the others protected targets are refused");
        }
        state.beyond = beyond;
    }

    /// Makes listeners in the namespace that a thread is in, if there are none or not all, and hands them to the proxy.
    fn enter(&self, state: &mut State, inode: Inode, thread: u32) {
        if inode == self.host || !self.everywhere || !self.news.anybody() {
            return;
        }
        let known = state.known.get(&inode);
        if known.is_none() && state.is_full() {
            return;
        }
        let before = known.and_then(|known| known.listening);
        let tries = known.map_or(0, |known| known.tries.saturating_add(1));
        let wanted = known.is_some_and(|known| known.wanted);
        let (listening, missing) = match netns::within(thread, || Pairs::new(1)) {
            // The thread has gone elsewhere in this very moment.
            Ok((entered, _)) if entered != inode => return,
            Ok((_, pair)) => {
                let missing = pair.missing.as_ref().map(|error| format!("not on ::1: {error}"));
                let more = pair.listeners.len() > before.map_or(0, |(_, listeners)| listeners);
                match if more { self.hand_over(&pair).map(Some) } else { Ok(before) } {
                    Ok(listening) => (listening, missing),
                    Err(error) => (before, Some(error.to_string())),
                }
            }
            Err(_) if netns::of(thread).ok() != Some(inode) => return,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                (before, Some("its loopback interface is down".to_owned()))
            }
            Err(error) => (before, Some(error.to_string())),
        };
        if tries == 0 || missing.is_none() {
            match &missing {
                Some(reason) if listening.is_none() => {
                    info!(thread, inode, reason, "no listener in a network namespace")
                }
                _ => debug!(thread, inode, missing, "the proxy listens in a network namespace"),
            }
        }
        state.known.insert(inode, Known { thread, listening, missing, wanted, tries, tried: Instant::now() });
    }

    /// Marks listeners, hands them to the proxy, and tells the kernel side of them.
    fn hand_over(&self, pair: &Pairs) -> io::Result<(u64, usize)> {
        let mut descriptors = Vec::new();
        for listener in &pair.listeners {
            self.capture.mark_listener(listener.as_fd()).map_err(io::Error::other)?;
            descriptors.push(listener.as_fd());
        }
        let first = descriptors.first().ok_or(io::ErrorKind::NotFound)?;
        let netns = sys::netns_cookie(*first)?;
        if !self.news.tell(Answer::Entered { netns }, &descriptors) {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the proxy does not take the listeners"));
        }
        self.capture.listen_at(netns, pair.ports).map_err(io::Error::other)?;
        Ok((netns, descriptors.len()))
    }

    /// Gives up the listeners of a namespace that no process is in.
    fn leave(&self, state: &mut State, inode: Inode) {
        let Some(Known { listening: Some((netns, _)), .. }) = state.known.remove(&inode) else { return };
        if let Err(error) = self.capture.stop_listening(netns) {
            warn!(%error, "the kernel side could not be told that nobody listens; it will find out");
        }
        self.news.tell(Answer::Left { netns }, &[]);
        debug!(inode, "left a network namespace");
    }
}

/// The threads that the kernel side has named, each once, and whether they were refused.
fn words(unserved: &mut Unserved) -> BTreeMap<u32, bool> {
    let mut threads = BTreeMap::new();
    for _ in 0..MAX_WORDS {
        let Some(word) = unserved.next() else { break };
        // `agent_common::Unserved`
        let Some([thread @ .., a, b, c, d]) = word.first_chunk::<8>() else { continue };
        let flags = u32::from_ne_bytes([*a, *b, *c, *d]);
        *threads.entry(u32::from_ne_bytes(*thread)).or_default() |= flags & UNSERVED_REFUSED != 0;
    }
    threads
}
