//! The PostgreSQL session after its first `ReadyForQuery`, without I/O: bytes of both sides and `now` in, [`Step`]s out.
//!
//! A message of the client that carries an operation becomes a [`Step::Decide`]; until its verdict comes back nothing more
//! of the client is read. Transaction state, names and skipped messages are always the server's own: what is refused within
//! a transaction or pipeline is replaced by a message that the server itself refuses.
//!
//! *Invariants:* bytes go upstream only as [`Released`], to the client only as [`Masked`]; memory is bounded by
//! [`frame`]'s limits, [`pending::PENDING`] and [`names::NAMES`].

mod answer;
mod client;
mod copying;
mod deciding;
mod freshness;
mod guard;
mod limiting;
mod names;
mod operation;
mod pending;
mod refusal;
#[cfg(any(test, fuzzing))]
pub mod rig;
mod server;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};

use self::{
    copying::{Copying, Rest},
    deciding::{Deciding, Rechecking},
    limiting::Strike,
    names::{Committed, Stamp},
    pending::{Expect, Pending, Queue},
};
use super::{
    error::{self, NativeError},
    frame::{self, Frame, client as from_client},
    message,
    sql::Statement,
    view::{Encoding, View},
};
use crate::{
    gate::{Admission, Held, Permit, Released},
    limits::PerStatement,
    masking::Masked,
    model::{Denial, Mode, Resource},
    recording::Event,
};

/// Places for steps and answers that are kept while there are none.
const KEPT: usize = 16;

/// What the machine wants done, in this order.
#[derive(Debug)]
pub enum Step {
    /// Decide, then call [`Machine::decided`].
    Decide(Question),
    /// Recheck an operation that was decided at this epoch of the policies, then call [`Machine::rechecked`].
    Recheck(u64),
    /// The catalogue may have changed. The server is quiet: read the catalogue over this connection, then call
    /// [`Machine::refreshed`].
    RefreshCatalogue {
        /// It is known to have changed, or looked for in vain: what others have read lately will not do.
        anew: bool,
    },
    /// The catalogue that other sessions use is stale too.
    Stale,
    /// Send to the server.
    ToServer(Released),
    /// Send to the client.
    ToClient(Masked<Bytes>),
    /// Ask the server to cancel what it does, then call [`Machine::cancelled`]. Other steps do not wait for that.
    Cancel,
    /// Record; if that fails, the session must end.
    Record(Event),
    /// Send what is outstanding, then end both connections. Nothing follows.
    Close(Close),
}

/// An operation that waits for its verdict.
#[derive(Debug)]
pub struct Question {
    /// The operation.
    pub held: Held,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked about an operation.
#[derive(Debug)]
pub enum Ask {
    /// May it be carried out? If the policies permit it, it is refused nevertheless with this: its answer is not proven.
    Decide(Option<Denial>),
    /// Will it be refused outright? The same.
    Foresee(Option<Denial>),
    /// It is refused, whatever the policies say.
    Refuse(Denial),
}

/// Why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Close {
    /// The client said `Terminate`.
    Terminated,
    /// The client has closed its side without a word.
    Left,
    /// The client broke the protocol.
    Client(&'static str),
    /// The server broke the protocol, or did what cannot be followed.
    Server(&'static str),
    /// The server ended the session.
    Ended(String),
    /// The agent cannot go on.
    Agent(&'static str),
}

/// What the machine starts with.
pub struct Start {
    /// Leave for messages that carry no operation.
    pub admission: Admission,
    /// Mode of the target.
    pub mode: Mode,
    /// Session id.
    pub session: Arc<str>,
    /// The database, as a resource of policies.
    pub database: Resource,
    /// The same, as a session sees it.
    pub view: Arc<dyn View>,
    /// Encoding of the client's texts, as the server reported it.
    pub encoding: Encoding,
    /// Whether `standard_conforming_strings` is on, as the server reported it: a backslash in a literal is one.
    pub conforming: bool,
    /// Whether the server's own encoding is UTF-8: else only ASCII is understood as the server does.
    pub server_is_utf8: bool,
    /// Key of the target for the style `hash`.
    pub key: Arc<[u8]>,
    /// What one statement may use.
    pub limits: Arc<PerStatement>,
}

/// What the client's side of the machine does.
enum Client {
    /// Reads messages.
    Reading,
    /// Waits for a verdict.
    Deciding(Box<Deciding>),
    /// Waits for a recheck.
    Rechecking(Rechecking),
    /// Waits for the catalogue.
    Refreshing,
    /// Drops everything up to `Sync`, after an error that was answered locally.
    Discarding,
    /// Has ended.
    Ended,
}

/// The machine.
pub struct Machine {
    start: Start,
    client: Client,
    from_client: BytesMut,
    from_server: BytesMut,
    /// A message that was read and must wait for the server.
    waiting: Option<Frame>,
    /// The client has closed its sending side.
    ended: bool,
    /// Too many answers are outstanding.
    crowded: bool,
    /// Nothing has happened since `waiting` was found to have to wait.
    stalled: bool,
    /// What comes of the client's that has begun to be passed on or dropped.
    rest: Rest,
    /// Type of the server's message that has begun to be passed on, and what of it is still to come.
    server_rest: (u8, usize),
    /// The same of one that has begun to be dropped.
    withheld: (u8, usize),
    /// The oldest statement has gone beyond a limit.
    strike: Option<Strike>,
    copying: Copying,
    steps: VecDeque<Step>,
    queue: Queue,
    committed: Committed,
    stamp: Stamp,
    /// Transaction status of the last `ReadyForQuery`.
    status: u8,
    /// Number of the current pipeline.
    pipeline: u64,
    /// A message of the current pipeline has gone upstream.
    open: bool,
    /// The server drops everything up to `Sync`.
    skipping: bool,
    /// A statement of the current pipeline may have changed the catalogue.
    changed: bool,
    /// The catalogue may have changed since it was read.
    stale: bool,
    /// It was read long ago.
    aged: bool,
    /// It was changed by a transaction that is still open.
    uncommitted: bool,
    /// When unknown names made the catalogue be read again last.
    looked_again: Option<Instant>,
}

impl Machine {
    /// A machine for a server that is idle.
    #[must_use]
    pub fn new(start: Start) -> Self {
        Self {
            start,
            client: Client::Reading,
            from_client: BytesMut::new(),
            from_server: BytesMut::new(),
            waiting: None,
            ended: false,
            crowded: false,
            stalled: false,
            rest: Rest::default(),
            server_rest: (0, 0),
            withheld: (0, 0),
            strike: None,
            copying: Copying::Nothing,
            steps: VecDeque::new(),
            queue: Queue::default(),
            committed: Committed::default(),
            stamp: Stamp::default(),
            status: b'I',
            pipeline: 0,
            open: false,
            skipping: false,
            changed: false,
            stale: false,
            aged: false,
            uncommitted: false,
            looked_again: None,
        }
    }

    /// Takes bytes of the client. Call it only while [`Machine::wants_client`].
    pub fn push_client(&mut self, bytes: &mut BytesMut) {
        append(&mut self.from_client, bytes);
    }

    /// Takes bytes of the server.
    pub fn push_server(&mut self, bytes: &mut BytesMut) {
        append(&mut self.from_server, bytes);
    }

    /// Whether more of the client can be used. While it cannot, its bytes stay in its socket.
    #[must_use]
    pub fn wants_client(&self) -> bool {
        self.waiting.is_none()
            && !self.stalled
            && !self.ended
            && self.hears_client()
            && matches!(self.client, Client::Reading | Client::Discarding)
    }

    /// Whether the server takes data of the client's, for which nothing is decided any more.
    #[must_use]
    pub fn takes_data(&self) -> bool {
        matches!(self.copying, Copying::From { .. })
    }

    /// The client sends nothing more. What it has sent is still carried out and answered, as the server would; a message
    /// that is not whole never will be.
    pub fn client_ended(&mut self) {
        self.ended = true;
    }

    /// Whether a transaction is open. A snapshot that is read within it may hold what will be rolled back, and must not be
    /// shared.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.status != b'I'
    }

    /// The next step; `None` until more bytes come.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Some(step);
            }
            self.watch(now);
            if matches!(self.client, Client::Ended) || !(self.server_turn(now) || self.client_turn(now)) {
                let step = self.steps.pop_front();
                if step.is_none() {
                    self.shrink();
                }
                return step;
            }
        }
    }

    /// Gives back what is not needed until more bytes come: an idle session shall take little.
    fn shrink(&mut self) {
        for buffer in [&mut self.from_client, &mut self.from_server] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
        }
        if self.steps.capacity() > KEPT {
            self.steps = VecDeque::new();
        }
        if self.queue.0.is_empty() && self.queue.0.capacity() > KEPT {
            self.queue = Queue::default();
        }
    }

    /// Uses this view from now on: the catalogue was read again, or other columns are hidden. The same view again changes
    /// nothing.
    pub fn look(&mut self, view: Arc<dyn View>) {
        if !std::ptr::addr_eq(Arc::as_ptr(&self.start.view), Arc::as_ptr(&view)) {
            self.start.view = view;
            self.stamp.view += 1;
        }
    }

    /// The catalogue was read long ago: it is to be read again before anything else is decided.
    pub fn outdated(&mut self) {
        self.aged = true;
    }

    /// The catalogue has been read, as [`Step::RefreshCatalogue`] asked.
    pub fn refreshed(&mut self, view: Arc<dyn View>) {
        self.look(view);
        self.stale = false;
        self.aged = false;
        self.uncommitted = self.status != b'I';
        if matches!(self.client, Client::Refreshing) {
            self.client = Client::Reading;
            self.stalled = false;
        }
    }

    /// The operation that [`Step::Decide`] asked about was decided, at this epoch of the policies.
    pub fn decided(&mut self, held: Held, verdict: Result<Permit, Denial>, epoch: u64, now: Instant) {
        let Client::Deciding(deciding) = std::mem::replace(&mut self.client, Client::Reading) else {
            return self.close(Close::Agent("a verdict came that was not asked for"));
        };
        match verdict {
            Ok(permit) => match held.release(permit) {
                Ok((released, ongoing)) => self.permitted(*deciding, released, ongoing, epoch, now),
                Err(_) => self.close(Close::Agent("a permit came for another operation")),
            },
            Err(denial) if self.after_change() => {
                let why = "It follows a change of the catalogue within the same pipeline, so it needs sql:opaque: send Sync first.";
                self.deny(&deciding, denial.with_hint(why));
            }
            Err(denial) => {
                let denial = deciding.explain(denial);
                self.deny(&deciding, denial);
            }
        }
    }

    /// The recheck that [`Step::Recheck`] asked for.
    pub fn rechecked(&mut self, verdict: Result<(), Denial>) {
        let Client::Rechecking(rechecking) = std::mem::replace(&mut self.client, Client::Reading) else {
            return self.close(Close::Agent("a recheck came that was not asked for"));
        };
        match verdict {
            Ok(()) => self.execute_now(rechecking),
            Err(denial) => self.deny_execute(rechecking, denial),
        }
    }

    /// Ends the session; the client is told `error`.
    fn end(&mut self, error: &NativeError, close: Close) {
        self.steps.extend(self.last_words(error).map(Step::ToClient));
        self.close(close);
    }

    /// What the client is told when the session ends. Nothing in the middle of a message, which it would be taken for the rest of.
    #[must_use]
    pub fn last_words(&self, error: &NativeError) -> Option<Masked<Bytes>> {
        (self.server_rest.1 == 0).then(|| error.encode())
    }

    /// Whether the server can be told so, for the same reason.
    #[must_use]
    pub fn may_terminate(&self) -> bool {
        !self.rest.is_passing()
    }

    fn close(&mut self, close: Close) {
        self.client = Client::Ended;
        self.from_client.clear();
        self.from_server.clear();
        self.waiting = None;
        self.steps.push_back(Step::Close(close));
    }

    fn observes(&self) -> bool {
        self.start.mode == Mode::Observe
    }

    /// Sends a message that carries no operation.
    fn housekeeping(&mut self, bytes: Bytes) {
        let released = self.start.admission.housekeeping(bytes);
        self.steps.push_back(Step::ToServer(released));
    }

    fn show(&mut self, message: Masked<Bytes>) {
        self.steps.push_back(Step::ToClient(message));
    }

    fn record(&mut self, events: impl IntoIterator<Item = Event>) {
        self.steps.extend(events.into_iter().map(Step::Record));
    }

    /// Notes that a message has gone upstream that is answered.
    fn expect(&mut self, expect: Expect, changes: Vec<Vec<names::Change>>, catalogue: bool) {
        if changes.iter().flatten().any(visible_to_sql) {
            self.stamp.names += 1;
        }
        self.changed |= catalogue;
        let ends = expect.ends();
        let copies_in = expect.will_copy_in();
        if copies_in {
            self.copying = Copying::Awaited;
        }
        let pending = Pending {
            expect,
            pipeline: self.pipeline,
            changes: changes.into(),
            catalogue,
            copies_in,
            since: None,
            late: false,
        };
        self.queue.0.push_back(pending);
        self.open = !ends;
        if ends {
            self.pipeline += 1;
            self.changed = false;
        }
    }

    /// Whether the server has answered everything, so that its state is known.
    fn quiet(&self) -> bool {
        self.queue.0.is_empty() && !self.open && !self.skipping
    }

    /// Why the answer of a statement cannot be shown, if it cannot.
    fn unproven(statement: &Statement) -> Option<Denial> {
        statement.parts.iter().find_map(|part| match &part.answer {
            super::sql::Answer::Unproven(denial) => Some(denial.clone()),
            _ => None,
        })
    }
}

/// Moves bytes behind others, without copying where there are none.
fn append(buffer: &mut BytesMut, bytes: &mut BytesMut) {
    if buffer.is_empty() {
        *buffer = std::mem::take(bytes);
    } else {
        buffer.extend_from_slice(bytes);
        bytes.clear();
    }
}

/// Whether a change concerns a name that SQL can use: the unnamed statement and portal cannot be named there.
fn visible_to_sql(change: &names::Change) -> bool {
    match change {
        names::Change::Statement(name, _)
        | names::Change::Portal(name, _)
        | names::Change::NoStatement(name)
        | names::Change::NoPortal(name) => !name.is_empty(),
        names::Change::NoStatements | names::Change::NoPortals => true,
    }
}
