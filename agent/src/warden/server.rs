//! The warden's side of its socket: the proxy that listens, and those in whose place it does and that still have sessions. A few
//! threads answer each.
//!
//! *Invariant:* whatever the other side sends, it gets no file but those that the configuration names, no mark on a socket
//! that is connected, nothing but what its sessions need once another listens in its place, and it holds up nobody but itself:
//! messages, descriptors, threads and waiting times are bounded.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io,
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use agent_common::{LANES, LedgerKey};
use nix::sys::{
    socket::{Shutdown, SockFlag, accept4, setsockopt, shutdown, sockopt},
    time::TimeVal,
};
use tracing::{debug, info, warn};

use super::{
    Reason, Unidentified,
    capture::Capture,
    door, flow,
    host::AgentUser,
    listen::{Bound, Pairs},
    namespaces::Namespaces,
    process::Examiner,
    selftest, sys,
    wire::{self, Answer, Call, MAX_MESSAGE, Request, Response, SOCKET},
};
use crate::{
    config::{Config, Intercept},
    model::{Flow, Process, Surroundings},
};

/// Threads that answer a proxy. Reading a process takes some tenths of a millisecond; hashing a new program longer.
const WORKERS: usize = 4;

/// Proxies at once: one that listens, one that is about to, and those that only keep their sessions. Each costs four threads.
const MAX_PROXIES: usize = 8;

/// How long the proxy may leave answers unread before its connection is closed.
const SEND_TIMEOUT: TimeVal = TimeVal::new(5, 0);

/// `TCP_CLOSE`: neither connected, nor connecting, nor listening.
const TCP_CLOSE: u8 = 7;

/// What the threads share.
struct Shared {
    capture: Arc<Capture>,
    examiner: Arc<Examiner>,
    namespaces: Arc<Namespaces>,
    /// Cookie of the host's own network namespace.
    netns: u64,
    /// Files that the proxy may have.
    files: BTreeSet<PathBuf>,
    targets: usize,
    user: AgentUser,
    intercept: Intercept,
    cgroup_root: PathBuf,
    runtime_dir: PathBuf,
    /// Held by the one self-test at a time.
    testing: Mutex<()>,
    stopping: AtomicBool,
    proxies: Mutex<Proxies>,
}

/// The proxies that are connected.
#[derive(Default)]
struct Proxies {
    /// Their connections, to end them from outside.
    connections: Vec<Arc<OwnedFd>>,
    /// The one that listens.
    listening: Option<Arc<OwnedFd>>,
    /// The one in whose place it does, until that has let go of its listeners.
    before: Option<Arc<OwnedFd>>,
    /// Those in whose place another listens.
    succeeded: Vec<Arc<OwnedFd>>,
    /// Process id of the one that listened last, whether or not it is still there.
    serving: Option<i32>,
}

/// The socket, served by a thread until this is dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    listener: Arc<OwnedFd>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in the runtime directory, which must be root's own.
    pub(super) fn start(
        config: &Config,
        user: AgentUser,
        capture: Arc<Capture>,
        examiner: Arc<Examiner>,
        namespaces: Arc<Namespaces>,
        netns: u64,
    ) -> io::Result<Self> {
        let path = config.agent.runtime_dir.join(SOCKET);
        let listener = Arc::new(door::listen(&path, user)?);
        let shared = Arc::new(Shared {
            capture,
            namespaces,
            netns,
            files: door::files(config),
            targets: config.targets.len(),
            user,
            intercept: config.intercept.clone(),
            cgroup_root: examiner.cgroup_root().to_owned(),
            runtime_dir: config.agent.runtime_dir.clone(),
            testing: Mutex::new(()),
            examiner,
            stopping: AtomicBool::new(false),
            proxies: Mutex::default(),
        });
        let thread = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::Builder::new().name("warden-accept".into()).spawn(move || shared.accept(&listener))?
        };
        Ok(Self { shared, listener, path, thread: Some(thread) })
    }

    /// Process id of the proxy that listens, or that did so last.
    pub(super) fn serving(&self) -> Option<i32> {
        self.shared.proxies().serving
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Each wakes the thread that waits there; an error says that nobody does.
        let _ = shutdown(raw(&*self.listener), Shutdown::Both);
        self.shared.hang_up();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that serves the proxy has panicked");
        }
        let _ = fs::remove_file(&self.path);
    }
}

impl Shared {
    /// Serves each connection in a thread of its own, until all have ended.
    fn accept(self: &Arc<Self>, listener: &OwnedFd) {
        thread::scope(|scope| self.accept_in(scope, listener));
    }

    fn accept_in<'scope>(self: &'scope Arc<Self>, scope: &'scope thread::Scope<'scope, '_>, listener: &OwnedFd) {
        while !self.stopping.load(Ordering::SeqCst) {
            let connection = match accept4(listener, SockFlag::SOCK_CLOEXEC) {
                Ok(connection) => Arc::new(connection),
                Err(nix::Error::EINTR | nix::Error::ECONNABORTED) => continue,
                Err(error) => {
                    if !self.stopping.load(Ordering::SeqCst) {
                        warn!(%error, "no proxy can connect any more");
                    }
                    return;
                }
            };
            let serving = thread::Builder::new().name("warden-serve".into()).spawn_scoped(scope, move || {
                if let Err(error) = self.serve(&connection) {
                    warn!(%error, "a connection to the warden was refused");
                }
            });
            if let Err(error) = serving {
                warn!(%error, "a connection to the warden cannot be served");
            }
        }
    }

    fn serve(self: &Arc<Self>, connection: &Arc<OwnedFd>) -> io::Result<()> {
        let peer = nix::sys::socket::getsockopt(connection, sockopt::PeerCredentials)?;
        if peer.uid() != 0 && peer.uid() != self.user.uid.as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it is of user {}", peer.uid())));
        }
        setsockopt(connection, sockopt::SendTimeout, &SEND_TIMEOUT)?;
        {
            let mut proxies = self.proxies();
            if proxies.connections.len() >= MAX_PROXIES {
                return Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("{MAX_PROXIES} are there already")));
            }
            proxies.connections.push(Arc::clone(connection));
        }
        if self.stopping.load(Ordering::SeqCst) {
            self.hang_up();
        }
        info!(pid = peer.pid(), "a proxy has connected");
        let session = Session {
            shared: self,
            connection,
            pid: peer.pid(),
            greeted: AtomicBool::new(false),
            listened: AtomicBool::new(false),
            bound: Mutex::new(None),
            overstepped: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| session.work());
            }
        });
        let listened = {
            let mut proxies = self.proxies();
            proxies.connections.retain(|other| !Arc::ptr_eq(other, connection));
            proxies.succeeded.retain(|other| !Arc::ptr_eq(other, connection));
            proxies.before.take_if(|before| Arc::ptr_eq(before, connection));
            let listened = proxies.listening.take_if(|listening| Arc::ptr_eq(listening, connection)).is_some();
            // Held meanwhile: what another is given to listen at from now on must stay.
            if proxies.listening.is_none() {
                self.namespaces.proxy_gone(connection);
            }
            listened
        };
        match listened {
            true => info!(pid = peer.pid(), "the proxy has gone; connections to protected destinations are refused"),
            false => info!(pid = peer.pid(), "a proxy that did not listen any more, or not yet, has gone"),
        }
        Ok(())
    }

    fn hang_up(&self) {
        for connection in &self.proxies().connections {
            let _ = shutdown(raw(&**connection), Shutdown::Both);
        }
    }

    fn proxies(&self) -> MutexGuard<'_, Proxies> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One proxy's connection.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    connection: &'a Arc<OwnedFd>,
    pid: i32,
    greeted: AtomicBool,
    /// It has asked for listeners: once another has taken its place, it cannot take it back.
    listened: AtomicBool,
    /// What it is going to listen at. Not marked, nor known to the kernel side, and gone with the connection.
    bound: Mutex<Option<Bound>>,
    /// It has asked for what is not its own any more.
    overstepped: AtomicBool,
}

impl Session<'_> {
    /// Answers until the connection ends, and ends it on the first thing that makes no sense.
    fn work(&self) {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            match wire::receive::<Request>(self.connection.as_fd(), &mut buffer) {
                Ok(Some((request, descriptors))) => {
                    if let Err(error) = self.answer(request, &descriptors) {
                        warn!(%error, "the proxy does not take its answers");
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(%error, "the proxy does not speak the warden's language");
                    break;
                }
            }
        }
        // For the other threads.
        let _ = shutdown(raw(self.connection), Shutdown::Both);
    }

    fn answer(&self, request: Request, descriptors: &[OwnedFd]) -> io::Result<()> {
        let send = |answer, descriptors: &[BorrowedFd<'_>]| {
            wire::send(self.connection.as_fd(), &Response { id: request.id, answer }, descriptors)
        };
        // What a process calls itself and its files can be long, which must not end the connection.
        let send_or = |answer, instead| match send(answer, &[]) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => send(instead, &[]),
            sent => sent,
        };
        let capture = &self.shared.capture;
        let done = |result: Result<(), String>| match result {
            Ok(()) => Answer::Done,
            Err(reason) => Answer::Refused(reason),
        };
        if !request.call.is_for_sessions() && self.is_succeeded() {
            return send(self.overstep(&request.call), &[]);
        }
        match request.call {
            Call::Hello => match self.greet() {
                Ok(process_map) => send(Answer::Hello(capture.kernel_side()), &[process_map.as_fd()]),
                Err(error) => send(Answer::Refused(error.to_string()), &[]),
            },
            Call::Prepare => send(done(self.prepare().map_err(|error| error.to_string())), &[]),
            Call::Listen => match self.listen() {
                Ok(listeners) => {
                    let handed: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
                    send(Answer::Listening { netns: self.shared.netns }, &handed)?;
                    self.shared.namespaces.proxy_came(Arc::clone(self.connection));
                    Ok(())
                }
                Err(error) => send(Answer::Refused(error.to_string()), &[]),
            },
            Call::LetGo => {
                self.shared.proxies().before.take_if(|before| Arc::ptr_eq(before, self.connection));
                send(Answer::Done, &[])
            }
            Call::Identify => match self.identify(descriptors) {
                Ok((flow, process)) => {
                    let (what, error) = ("exe, cwd and cmdline".into(), "together they are too long".into());
                    let reason = Reason::Unreadable { what, error };
                    let instead = Unidentified { flow: Some(Box::new(flow.clone())), reason };
                    send_or(Answer::Identified { flow, process }, Answer::Unidentified(instead))
                }
                Err(unidentified) => send(Answer::Unidentified(unidentified), &[]),
            },
            Call::Mark => send(done(self.mark(descriptors)), &[]),
            Call::Open { path } => match self.open(&path) {
                Ok(file) => send(Answer::Opened, &[file.as_fd()]),
                Err(reason) => send(Answer::Refused(reason), &[]),
            },
            Call::Protect { target, entry, addresses } => {
                let protected = capture.protect(target, entry, &addresses).map_err(|error| error.to_string());
                self.shared.namespaces.look_at_connections();
                send(done(protected), &[])
            }
            Call::Counters => send(or_refused(capture.counters(), Answer::Counters), &[]),
            Call::Missing => send(Answer::Missing(capture.missing()), &[]),
            Call::Surroundings => {
                let surroundings = Surroundings { sockets: capture.open_sockets(), ..self.shared.namespaces.report() };
                send(Answer::Surroundings(Box::new(surroundings)), &[])
            }
            Call::Coverage { after } => {
                let after = after.map(|(target, uid)| LedgerKey { target, uid });
                send(or_refused(capture.coverage(after), Answer::Coverage), &[])
            }
            Call::Waiting { before, after } => send(or_refused(capture.waiting(before, after), Answer::Flows), &[]),
            Call::Abandoned => send(Answer::Flows(capture.abandoned()), &[]),
            Call::Settle { flows } => send(done(capture.settle(&flows).map_err(|error| error.to_string())), &[]),
            Call::SelfTest => {
                let shared = self.shared;
                let _turn = shared.testing.lock().unwrap_or_else(PoisonError::into_inner);
                let places = (shared.cgroup_root.as_path(), shared.runtime_dir.as_path());
                send(or_refused(selftest::run(capture, &shared.intercept, places), Answer::SelfTest), &[])
            }
        }
    }

    fn greet(&self) -> io::Result<OwnedFd> {
        self.greeted.store(true, Ordering::SeqCst);
        self.shared.capture.process_map()
    }

    /// Whether another proxy listens in this one's place.
    fn is_succeeded(&self) -> bool {
        self.shared.proxies().succeeded.iter().any(|succeeded| Arc::ptr_eq(succeeded, self.connection))
    }

    /// Refuses what a proxy needs no more. The one that listens records it, once: what was only asked may have been under way.
    fn overstep(&self, call: &Call) -> Answer {
        let asked = call.name();
        if !call.only_asks() && !self.overstepped.swap(true, Ordering::SeqCst) {
            warn!(
                pid = self.pid,
                asked, "a proxy in whose place another listens asks for what is not its own any more"
            );
            self.shared.namespaces.tell(Answer::Overstepped { pid: self.pid, asked: asked.into() });
        }
        Answer::Refused(format!("another proxy listens in this one's place: no {asked} for it"))
    }

    /// Finds ports for the listeners.
    fn prepare(&self) -> io::Result<()> {
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(Bound::new(LANES)?);
        Ok(())
    }

    /// Makes the listeners. The warden's own descriptors of them are closed with the answer: should the proxy die, they are
    /// gone, and the kernel side refuses.
    ///
    /// The kernel side is told of them in one step: a connect is led to those of the proxy before, or to these. What was on its
    /// way to those is still accepted there, for a while that this waits for, so that the ports of only two are to be kept from
    /// direct connects.
    fn listen(&self) -> io::Result<Vec<TcpListener>> {
        if !self.greeted.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this proxy has not greeted"));
        }
        if self.listened.swap(true, Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "this proxy has had its listeners"));
        }
        let mut proxies = self.shared.proxies();
        if proxies.before.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "a proxy before has not let go of its listeners yet",
            ));
        }
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Pairs { listeners, ports, missing } = bound.map_or_else(|| Bound::new(LANES), Ok)?.listen()?;
        if let Some(error) = missing {
            warn!(%error, "no listener on ::1; connections to protected IPv6 destinations are refused");
        }
        for listener in &listeners {
            self.shared.capture.mark_listener(listener.as_fd()).map_err(io::Error::other)?;
        }
        // From here on connections wait for the proxy to accept them.
        self.shared.capture.listen_at(self.shared.netns, ports).map_err(io::Error::other)?;
        info!(pid = self.pid, ?ports, listeners = listeners.len(), "the proxy listens");
        proxies.before = proxies.listening.replace(Arc::clone(self.connection));
        let before = proxies.before.clone();
        proxies.succeeded.extend(before);
        proxies.serving = Some(self.pid);
        Ok(listeners)
    }

    fn identify(&self, descriptors: &[OwnedFd]) -> Result<(Flow, Box<Process>), Unidentified> {
        let none = |reason| Unidentified { flow: None, reason };
        let socket = only(descriptors).map_err(|_| none(Reason::NotAccepted))?;
        let cookie = sys::socket_cookie(socket).map_err(|_| none(Reason::NotAccepted))?;
        let record = match self.shared.capture.flow(socket) {
            // A connecting socket has a flow too: its own. Only the accepted side of it is asked for.
            Ok(Some(record)) if record.cookie == cookie => return Err(none(Reason::NotAccepted)),
            Ok(Some(record)) => record,
            Ok(None) => return Err(none(Reason::NoFlow)),
            Err(_) => return Err(none(Reason::NotAccepted)),
        };
        let flow = flow::from_record(&record);
        let known = usize::try_from(flow.target).is_ok_and(|target| target < self.shared.targets);
        let examined =
            if known { self.shared.examiner.examine(&self.shared.capture, &flow) } else { Err(Reason::NoTarget) };
        match examined {
            Ok(process) => Ok((flow, Box::new(process))),
            Err(reason) => {
                debug!(%reason, tgid = flow.tgid, "a connection was not identified");
                Err(Unidentified { flow: Some(Box::new(flow)), reason })
            }
        }
    }

    fn mark(&self, descriptors: &[OwnedFd]) -> Result<(), String> {
        let socket = only(descriptors)?;
        match sys::tcp_state(socket) {
            Ok(TCP_CLOSE) => {}
            Ok(_) => return Err("only a socket that is not connected can be marked".into()),
            Err(_) => return Err("only a TCP socket can be marked".into()),
        }
        self.shared.capture.mark_upstream(socket).map_err(|error| error.to_string())
    }

    fn open(&self, path: &Path) -> Result<OwnedFd, String> {
        if !self.shared.files.contains(path) {
            return Err(format!("the configuration does not name {}", path.display()));
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        match file.metadata() {
            Ok(found) if found.is_file() => Ok(file.into()),
            Ok(_) => Err(format!("{} is not a file", path.display())),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }
}

/// An answer, or why there is none.
fn or_refused<T>(result: Result<T, impl std::fmt::Display>, answer: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(value) => answer(value),
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// The one descriptor that a question needs.
fn only(descriptors: &[OwnedFd]) -> Result<BorrowedFd<'_>, String> {
    match descriptors {
        [one] => Ok(one.as_fd()),
        others => Err(format!("{} descriptors came with the question; it needs one", others.len())),
    }
}

fn raw(socket: &impl std::os::fd::AsRawFd) -> std::os::fd::RawFd {
    socket.as_raw_fd()
}
