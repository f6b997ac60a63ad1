//! A machine with a driver, a gate, a toy server, and the messages of a client: for tests and for fuzzing.

mod messages;
mod server;
pub mod toy;
mod watch;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

pub use self::messages::*;
use self::{server::Server, toy::Toy, watch::Watch};
use super::*;
use crate::{
    gate::{Gate, Services},
    model::{Action, Decide, Executable, Flow, Gone, Liveness, Principal, Process, Request, Subject, Verdict},
    recording::{Append, AppendError},
};

/// Nothing that asks for `forbidden` is permitted.
pub struct Rules;

impl Decide for Rules {
    fn decide(&self, _: &Principal, action: &Action, _: &jiff::Zoned) -> Verdict {
        if action.requests.iter().any(|request| matches!(request.action.as_str(), "forbidden" | "sql:opaque")) {
            Verdict::Deny(Denial { rule: Some("law".into()), reason: "Forbidden.".into(), hint: None, limit: None })
        } else {
            Verdict::Permit { rules: Vec::new() }
        }
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn depends_on_time(&self) -> bool {
        false
    }
}

/// Everything is permitted.
pub struct Anything;

impl Decide for Anything {
    fn decide(&self, _: &Principal, _: &Action, _: &jiff::Zoned) -> Verdict {
        Verdict::Permit { rules: Vec::new() }
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn depends_on_time(&self) -> bool {
        false
    }
}

pub struct Alive;

impl Liveness for Alive {
    fn check(&self, _: &Flow) -> Result<(), Gone> {
        Ok(())
    }
}

#[derive(Default)]
pub struct Log(Mutex<Vec<Event>>, AtomicU64);

impl Append for Log {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        self.0.lock().map_err(|error| AppendError(error.to_string()))?.push(event.clone());
        Ok(self.1.fetch_add(1, Ordering::Relaxed))
    }
}

pub fn gate(policy: Arc<dyn Decide>, mode: Mode) -> (Gate, Admission) {
    let destination = ([127, 0, 0, 1], 5432).into();
    let flow = Flow { uid: 1, gid: 1, ..Flow::imagined(destination) };
    let exe = Executable { path: "/bin/x".into(), device: 1, inode: 1, sha256: None, verified: true };
    let process = Process {
        pid: 1,
        started: 1,
        uid: 1,
        user: None,
        gid: 1,
        groups: [].into(),
        exe,
        argv: Vec::new(),
        directory: "/".into(),
        cgroup: "/".into(),
        unit: None,
        user_unit: None,
        container: None,
    };
    let principal = Arc::new(Principal { flow, process, roles: Vec::new() });
    let services =
        Services { policy, liveness: Arc::new(Alive), log: Arc::new(Log::default()), limits: Default::default() };
    let subject = Subject { session: "s".into(), principal, target: "toy".into(), mode };
    let connect = Action { requests: [Request::new("connect", Resource::target("toy"))].into(), facts: [].into() };
    Gate::admit(services, subject, &connect).expect("admitted")
}

/// What a machine did, in order, without what differs between two runs by its nature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    ToServer(Bytes),
    ToClient(Bytes),
    Asked(Action),
    Recorded(&'static str),
    Refreshed,
    Cancel,
    Closed(Close),
}

/// A machine with its driver, a gate, and a server.
pub struct Rig {
    pub machine: Machine,
    gate: Gate,
    /// Permits announcements: so that the laws about names do not hold only because nothing forbidden is ever prepared.
    lenient: Gate,
    pub server: Server,
    pub did: Vec<Did>,
    /// What was recorded of answers and of ends.
    pub recorded: Vec<Event>,
    /// The server says what the test says, and is not asked.
    pub scripted: bool,
    watch: Watch,
    pub masks: bool,
    /// Policies have changed between Bind and Execute.
    pub changed: bool,
    /// Questions that are answered before the driver falls silent.
    pub patience: usize,
    now: Instant,
}

impl Rig {
    #[cfg(test)]
    pub fn new(masks: bool) -> Self {
        Self::in_mode(masks, Mode::Enforce)
    }

    pub fn in_mode(masks: bool, mode: Mode) -> Self {
        Self::limited(masks, mode, PerStatement::default())
    }

    pub fn limited(masks: bool, mode: Mode, limits: PerStatement) -> Self {
        let (decisive, admission) = gate(Arc::new(Rules), mode);
        let machine = Machine::new(Start {
            admission,
            mode,
            session: "s".into(),
            database: Resource::target("toy").child("Database", "toy"),
            view: Arc::new(Toy { masks }),
            encoding: Encoding::Utf8,
            conforming: true,
            server_is_utf8: true,
            key: Arc::from([1; 32]),
            limits: Arc::new(limits),
        });
        Self {
            machine,
            gate: decisive,
            lenient: gate(Arc::new(Anything), mode).0,
            server: Server::new(),
            did: Vec::new(),
            recorded: Vec::new(),
            scripted: false,
            watch: Watch::new(mode),
            masks,
            changed: false,
            patience: usize::MAX,
            now: Instant::now(),
        }
    }

    /// Bytes of the client come.
    pub fn client(&mut self, bytes: &[u8]) {
        self.machine.push_client(&mut BytesMut::from(bytes));
    }

    /// Bytes of the server come.
    pub fn server(&mut self, bytes: &[u8]) {
        self.machine.push_server(&mut BytesMut::from(bytes));
    }

    /// Carries out every step; the server's answers stay with the server.
    pub fn steps(&mut self) {
        while let Some(step) = self.machine.next(self.now) {
            match step {
                Step::Decide(Question { held, ask }) => {
                    self.did.push(Did::Asked(held.action().clone()));
                    if self.patience == 0 {
                        return;
                    }
                    self.patience -= 1;
                    let before = self.gate.counts().0;
                    let verdict = match ask {
                        Ask::Foresee(None) => self.lenient.foresee(&held),
                        Ask::Decide(None) => self.gate.decide(&held),
                        Ask::Foresee(Some(denial)) | Ask::Decide(Some(denial)) | Ask::Refuse(denial) => {
                            self.gate.refuse(&held, denial)
                        }
                    };
                    if verdict.is_ok() && self.gate.counts().0 > before {
                        self.watch.permitted();
                    }
                    self.machine.decided(held, verdict, 1, self.now);
                }
                Step::Recheck(_) if self.changed => self.machine.rechecked(Err(Denial::closed("changed"))),
                Step::Recheck(_) => self.machine.rechecked(Ok(())),
                Step::RefreshCatalogue { .. } => {
                    self.did.push(Did::Refreshed);
                    let masks = self.masks;
                    self.machine.refreshed(Arc::new(Toy { masks }));
                }
                Step::ToServer(released) => {
                    self.watch.upstream(released.bytes());
                    if !self.scripted {
                        self.server.take(released.bytes());
                        // Where all is only observed, what cannot be read may copy, too.
                        assert!(!self.server.misled || self.watch.observes(), "something else than data was sent");
                    }
                    match self.did.last_mut() {
                        // Where messages are cut into pieces is nobody's business.
                        Some(Did::ToServer(before)) => *before = [&before[..], released.bytes()].concat().into(),
                        _ => self.did.push(Did::ToServer(released.bytes().clone())),
                    }
                }
                Step::ToClient(message) => {
                    self.watch.downstream(message.shown());
                    match self.did.last_mut() {
                        Some(Did::ToClient(before)) => *before = [&before[..], message.shown()].concat().into(),
                        _ => self.did.push(Did::ToClient(message.into_shown())),
                    }
                }
                Step::Record(event) => {
                    self.watch.recorded(&event);
                    match event {
                        Event::Answer { .. } => self.did.push(Did::Recorded("answer")),
                        Event::Finished { .. } => self.did.push(Did::Recorded("finished")),
                        _ => {}
                    }
                    self.recorded.push(event);
                }
                Step::Stale => {}
                Step::Cancel => self.did.push(Did::Cancel),
                Step::Close(close) => {
                    self.watch.closed();
                    self.did.push(Did::Closed(close));
                }
            }
        }
    }

    /// The request to cancel has ended.
    #[cfg(test)]
    pub fn cancelled(&mut self, done: bool) {
        self.machine.cancelled(done, self.now);
        self.settle();
    }

    /// Time passes, and nothing else happens.
    #[cfg(test)]
    pub fn wait(&mut self, time: std::time::Duration) {
        self.now += time;
        self.steps();
    }

    /// Lets the server's answers in, and carries on until nothing moves.
    pub fn settle(&mut self) {
        self.steps();
        while !self.server.outgoing.is_empty() {
            let bytes = std::mem::take(&mut self.server.outgoing);
            self.server(&bytes);
            self.steps();
        }
    }

    /// Takes so many bytes of what the server has to say.
    pub fn answers(&mut self, count: usize) -> BytesMut {
        let count = count.min(self.server.outgoing.len());
        self.server.outgoing.split_to(count)
    }

    /// Whether the session is over.
    pub fn has_closed(&self) -> bool {
        matches!(self.machine.client, Client::Ended)
    }

    /// Whether something of the client's waits for the server.
    pub fn waits(&self) -> bool {
        self.machine.waiting.is_some() || !self.machine.from_client.is_empty()
    }

    /// Bytes that the machine has room for.
    pub fn kept(&self) -> usize {
        self.machine.from_client.capacity() + self.machine.from_server.capacity()
    }

    /// The session ends, whatever state it is in.
    pub fn abandon(&mut self) {
        for event in self.machine.abandon(self.now) {
            self.watch.recorded(&event);
        }
    }

    pub fn send(&mut self, messages: &[Bytes]) -> &mut Self {
        for message in messages {
            self.client(message);
        }
        self.settle();
        self
    }

    /// Types of the messages that the client has got, and the texts in them.
    pub fn heard(&self) -> (String, String) {
        let all: Vec<u8> = self
            .did
            .iter()
            .filter_map(|did| if let Did::ToClient(bytes) = did { Some(bytes.as_ref()) } else { None })
            .flatten()
            .copied()
            .collect();
        let mut buffer = BytesMut::from(&all[..]);
        let mut kinds = String::new();
        while let Some(frame) = frame::take(&mut buffer, frame::server_limit).expect("messages") {
            kinds.push(char::from(frame.kind));
        }
        (kinds, String::from_utf8_lossy(&all).into_owned())
    }

    #[cfg(test)]
    pub fn upstream(&self) -> String {
        let sent = self.did.iter().filter_map(|did| if let Did::ToServer(bytes) = did { Some(bytes) } else { None });
        sent.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}
