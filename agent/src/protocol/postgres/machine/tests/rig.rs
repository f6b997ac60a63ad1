//! A machine with a driver, a gate, a toy server, and the messages of a client.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use super::{super::*, server::Server, toy::Toy};
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
    masks: bool,
    /// Policies have changed between Bind and Execute.
    pub changed: bool,
    /// Questions that are answered before the driver falls silent.
    pub patience: usize,
    now: Instant,
}

impl Rig {
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
                    let verdict = match ask {
                        Ask::Foresee(None) => self.lenient.foresee(&held),
                        Ask::Decide(None) => self.gate.decide(&held),
                        Ask::Foresee(Some(denial)) | Ask::Decide(Some(denial)) | Ask::Refuse(denial) => {
                            self.gate.refuse(&held, denial)
                        }
                    };
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
                    self.server.take(released.bytes());
                    match self.did.last_mut() {
                        // Where messages are cut into pieces is nobody's business.
                        Some(Did::ToServer(before)) => *before = [&before[..], released.bytes()].concat().into(),
                        _ => self.did.push(Did::ToServer(released.bytes().clone())),
                    }
                }
                Step::ToClient(message) => match self.did.last_mut() {
                    Some(Did::ToClient(before)) => *before = [&before[..], message.shown()].concat().into(),
                    _ => self.did.push(Did::ToClient(message.into_shown())),
                },
                Step::Record(event) => {
                    match event {
                        Event::Answer { .. } => self.did.push(Did::Recorded("answer")),
                        Event::Finished { .. } => self.did.push(Did::Recorded("finished")),
                        _ => {}
                    }
                    self.recorded.push(event);
                }
                Step::Stale => {}
                Step::Cancel => self.did.push(Did::Cancel),
                Step::Close(close) => self.did.push(Did::Closed(close)),
            }
        }
    }

    /// The request to cancel has ended.
    pub fn cancelled(&mut self, done: bool) {
        self.machine.cancelled(done, self.now);
        self.settle();
    }

    /// Time passes, and nothing else happens.
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

    pub fn upstream(&self) -> String {
        let sent = self.did.iter().filter_map(|did| if let Did::ToServer(bytes) = did { Some(bytes) } else { None });
        sent.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

pub fn query(text: &str) -> Bytes {
    message::write_query(text)
}

pub fn parse(name: &str, text: &str) -> Bytes {
    message::write_parse(name, text)
}

pub fn bind(portal: &str, statement: &str) -> Bytes {
    message::write(from_client::BIND, |body| {
        message::put_string(body, portal.as_bytes());
        message::put_string(body, statement.as_bytes());
        body.extend_from_slice(&[0; 6]);
    })
}

pub fn execute(portal: &str) -> Bytes {
    message::write(from_client::EXECUTE, |body| {
        message::put_string(body, portal.as_bytes());
        body.extend_from_slice(&[0; 4]);
    })
}

pub fn describe(kind: u8, name: &str) -> Bytes {
    message::write_named(from_client::DESCRIBE, kind, name.as_bytes())
}

pub fn close(kind: u8, name: &str) -> Bytes {
    message::write_named(from_client::CLOSE, kind, name.as_bytes())
}

pub fn copy_data(data: &str) -> Bytes {
    message::write(from_client::COPY_DATA, |body| body.extend_from_slice(data.as_bytes()))
}

pub fn copy_done() -> Bytes {
    message::write_bare(from_client::COPY_DONE)
}

pub fn copy_fail() -> Bytes {
    message::write(from_client::COPY_FAIL, |body| message::put_string(body, b"enough"))
}

pub fn function_call(function: u32) -> Bytes {
    message::write(from_client::FUNCTION_CALL, |body| {
        body.extend_from_slice(&function.to_be_bytes());
        body.extend_from_slice(b"\0\0\0\x01\0\0\0\x017\0\0");
    })
}

pub fn sync() -> Bytes {
    message::write_bare(from_client::SYNC)
}
