//! Limits of what one statement may use, and what becomes of one that goes beyond.
//!
//! What comes beyond is withheld, and the server is asked to cancel the statement (or told that the data of a COPY has
//! failed); its error is replaced by ours. If it completes the statement instead, what it has done is undone by a message that
//! it refuses; where that is not possible any more the session ends, unless there is nothing to undo. Nothing goes upstream until
//! the request to cancel has ended, so that it cannot hit a later statement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Close, Expect, Frame, Machine, NativeError, Step,
    copying::Copying,
    error, from_client, message,
    operation::{Direction, Operation},
    refusal::{Refused, stand_in},
    server::Fault,
};
use crate::{
    limits::PerStatement,
    masking::without_values,
    model::{Denial, Limit},
    recording::{Event, Failure},
};

/// How long the server may take to end a statement that it was asked to cancel.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What asks for nothing else changes nothing that could be undone.
const READING: [&str; 5] = ["connect", "sql:basics", "sql:copy_out", "sql:select", "unmask"];

/// What one statement has used.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    limits: Arc<PerStatement>,
    /// It is only noted what goes beyond.
    observes: bool,
    rows: u64,
    bytes: u64,
    /// Nothing more passes.
    closed: Option<Limit>,
    /// A limit was reached that is only noted, and nobody was told yet.
    notice: Option<Limit>,
    noticed: bool,
}

impl Meter {
    pub fn new(limits: Arc<PerStatement>, observes: bool) -> Self {
        Self { limits, observes, ..Self::default() }
    }

    /// Counts these.
    ///
    /// # Errors
    /// The limit that they are beyond. From then on everything is.
    pub fn spend(&mut self, rows: u64, bytes: usize) -> Result<(), Limit> {
        if let Some(limit) = &self.closed {
            return Err(limit.clone());
        }
        self.rows += rows;
        self.bytes += bytes as u64;
        let beyond = |used: u64, limit: &Option<Limit>| limit.clone().filter(|limit| used > limit.most);
        match beyond(self.rows, &self.limits.rows).or_else(|| beyond(self.bytes, &self.limits.bytes)) {
            None => Ok(()),
            Some(limit) if self.observes => {
                if !std::mem::replace(&mut self.noticed, true) {
                    self.notice = Some(limit);
                }
                Ok(())
            }
            Some(limit) => {
                self.closed = Some(limit.clone());
                Err(limit)
            }
        }
    }

    /// The next statement of the text begins.
    pub fn begin_again(&mut self) {
        *self = Self::new(Arc::clone(&self.limits), self.observes);
    }
}

/// A statement that has gone beyond a limit: the oldest that the server has not answered, while it is running.
#[derive(Debug)]
pub(super) struct Strike {
    limit: Limit,
    /// When the session ends, if this is not over by then.
    until: Instant,
    /// The request to cancel has not ended.
    cancelling: bool,
    /// The copy is to fail once the client's message is whole.
    fails_copy: bool,
    state: State,
    /// What the server has said of its state, if that has to wait.
    ready: Option<Frame>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The server is at it.
    Running,
    /// The server has completed it.
    Completed,
    /// The server has said that it failed.
    Failed,
}

impl Strike {
    fn native(&self) -> NativeError {
        NativeError::denied(&Denial::from(self.limit.clone()))
    }

    fn failure(&self) -> Failure {
        Failure { code: error::LIMIT.into(), message: without_values(self.limit.to_string()) }
    }
}

impl Machine {
    /// When [`Machine::next`] is to be called, even if no bytes come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.strike {
            Some(strike) => Some(strike.until),
            None => self.late(),
        }
    }

    /// The request to cancel that [`Step::Cancel`] asked for has ended: `done`, or it could not be made.
    pub fn cancelled(&mut self, done: bool, now: Instant) {
        let Some(strike) = &mut self.strike else { return };
        strike.cancelling = false;
        match strike.state {
            State::Running if !done => self.give_up("the target could not be asked to cancel it"),
            State::Running => {}
            State::Failed => self.over(),
            State::Completed => match strike.ready.take() {
                Some(ready) => self.completed_and_ready(ready, now),
                None if self.queue.0.is_empty() => self.stand_in(Refused::Other),
                None => {}
            },
        }
    }

    /// When the oldest statement will have taken too long.
    fn late(&self) -> Option<Instant> {
        let time = self.start.limits.time.as_ref()?;
        let pending = self.queue.0.front()?;
        if pending.late || matches!(pending.expect, Expect::Refused { .. }) {
            return None;
        }
        let left = Duration::from_millis(time.most).saturating_sub(pending.spent());
        pending.since?.checked_add(left)
    }

    /// Looks at the clock, and at what was only noted.
    pub(super) fn watch(&mut self, now: Instant) {
        if !self.start.limits.is_any() {
            return;
        }
        if self.strike.as_ref().is_some_and(|strike| now >= strike.until) {
            return self.give_up("the target did not end it in time");
        }
        // Before that the server may have answered, and keep it to itself.
        let timed = self.queue.0.iter().any(|pending| pending.expect.is_answered_at_once());
        let Some(pending) = self.queue.0.front_mut() else { return };
        if timed {
            pending.since.get_or_insert(now);
        }
        let noted = pending.operation(|operation| (operation.meter.notice.take(), operation.ongoing.operation()));
        if let Some((Some(limit), operation)) = noted {
            self.record([self.reached(limit, Some(operation))]);
        }
        if self.strike.is_none()
            && self.late().is_some_and(|late| now >= late)
            && let Some(limit) = self.start.limits.time.clone()
        {
            self.strike(limit, now);
        }
    }

    fn reached(&self, limit: Limit, operation: Option<u64>) -> Event {
        Event::LimitReached { session: self.start.session.to_string(), operation, limit }
    }

    /// The oldest statement has gone beyond a limit.
    pub(super) fn strike(&mut self, limit: Limit, now: Instant) {
        if self.strike.is_some() {
            return;
        }
        let Some(pending) = self.queue.0.front_mut() else { return };
        pending.late = true;
        // What prepares a statement may have been answered, and the answer come with the statement's own.
        let observes = self.observes();
        let copy = self.queue.0.iter_mut().find_map(|pending| {
            pending.operation(|operation| {
                if !observes {
                    operation.meter.closed = Some(limit.clone());
                }
                (operation.ongoing, operation.copying())
            })
        });
        let event = self.reached(limit.clone(), copy.map(|(ongoing, _)| ongoing.operation()));
        self.record([event]);
        if observes {
            return;
        }
        // Whoever waits for data of the client's does not look up when it is asked to cancel.
        let fails_copy = copy.is_some_and(|(_, direction)| direction == Some(Direction::In))
            && matches!(self.copying, Copying::From { .. });
        let strike = Strike {
            limit,
            until: now + PATIENCE,
            cancelling: !fails_copy,
            fails_copy,
            state: State::Running,
            ready: None,
        };
        self.strike = Some(strike);
        if !fails_copy {
            self.steps.push_back(Step::Cancel);
        }
        self.fail_copy();
    }

    /// Tells the server that the data has failed, if that is due and no message of the client's is on its way in part.
    fn fail_copy(&mut self) {
        if self.rest_of_data() {
            return;
        }
        let Some(strike) = self.strike.as_mut().filter(|strike| strike.fails_copy) else { return };
        strike.fails_copy = false;
        let reason = strike.limit.to_string();
        let ongoing = self.queue.0.front_mut().and_then(|pending| pending.operation(|operation| operation.ongoing));
        if let Some(ongoing) = ongoing {
            let message = message::write(from_client::COPY_FAIL, |body| message::put_string(body, reason.as_bytes()));
            self.steps.push_back(Step::ToServer(ongoing.data(message)));
        }
    }

    /// Whether the client may be read: while the server is asked to cancel, only to the end of a message.
    pub(super) fn hears_client(&self) -> bool {
        self.strike.as_ref().is_none_or(|strike| strike.fails_copy)
    }

    /// The server asks for data, though it was to end.
    pub(super) fn copies_while_struck(&mut self) {
        if let Some(strike) = self.strike.as_mut().filter(|strike| strike.state == State::Running) {
            strike.fails_copy = true;
            self.fail_copy();
        }
    }

    /// The same for what becomes of its bytes; whether anything happened, if there is nothing else to be done.
    pub(super) fn client_while_struck(&mut self, now: Instant) -> Option<bool> {
        let strike = self.strike.as_ref()?;
        if !strike.fails_copy {
            return Some(false);
        }
        let moved = match self.client_data(now) {
            Ok(moved) => moved.unwrap_or(false),
            Err(fault) => {
                self.broken(&fault.to_string());
                true
            }
        };
        self.fail_copy();
        Some(moved)
    }

    /// Whether the client's next message has to wait: what goes upstream while a statement runs could be hit in its stead, or
    /// could not be undone with it.
    pub(super) fn one_by_one(&self) -> bool {
        self.start.limits.is_any()
            && !matches!(self.copying, Copying::From { .. })
            && self.queue.0.iter().any(|pending| pending.expect.is_answered_at_once())
    }

    /// What follows an `Execute` may be waiting for the answer, which without it the server could keep to itself.
    pub(super) fn ask_for_answer(&mut self) {
        if self.start.limits.is_any() {
            self.housekeeping(message::write_bare(from_client::FLUSH));
        }
    }

    /// Whether the oldest statement has gone beyond a limit, and still runs.
    pub(super) fn is_struck(&self) -> bool {
        self.strike.as_ref().is_some_and(|strike| strike.state == State::Running)
    }

    /// The server has completed what it was to cancel: what comes is withheld.
    pub(super) fn completed_anyway(&mut self, tag: &[u8], now: Instant) -> Result<(), Fault> {
        let Some(strike) = &mut self.strike else { return Err(Fault::Unexpected) };
        strike.state = State::Completed;
        let (failure, cancelling) = (strike.failure(), strike.cancelling);
        let alone = self.queue.0.len() == 1;
        let pending = self.queue.0.front_mut().ok_or(Fault::Unexpected)?;
        let goes_on = pending.operation(|operation| {
            operation.completed(tag);
            operation.failed(failure);
            operation.goes_on()
        });
        match &pending.expect {
            Expect::Query(_) if goes_on == Some(false) => self.settle_statement(now),
            Expect::Call(_) => {}
            Expect::Execute(portal) if alone => {
                let finished = portal.bound.as_ref().and_then(|bound| bound.operation().finish(now));
                self.record(finished);
                self.settle(now);
                if !cancelling {
                    self.stand_in(Refused::Other);
                }
            }
            _ => self.give_up("the target had completed it before it could be cancelled"),
        }
        Ok(())
    }

    /// What the client is told of an error of the server's, if that is about what was to be cancelled; with the failure for the
    /// record.
    pub(super) fn struck_by_error(&mut self) -> Option<(NativeError, Failure)> {
        let nothing_left = self.queue.0.is_empty();
        let strike = self.strike.as_mut().filter(|strike| strike.state != State::Failed)?;
        let (native, failure) = (strike.native(), strike.failure());
        match strike.state {
            State::Completed if nothing_left => {
                // The server drops all up to Sync.
                self.skipping = true;
                self.open = true;
            }
            State::Completed => {
                self.give_up("the target had completed it before it could be cancelled");
                return None;
            }
            State::Running | State::Failed => {}
        }
        strike.state = State::Failed;
        if !strike.cancelling {
            self.over();
        }
        Some((native, failure))
    }

    /// The server is ready after what it was to cancel and has completed; if that is so.
    pub(super) fn ready_anyway(&mut self, frame: Frame, now: Instant) -> Option<Frame> {
        let front_is_call = matches!(self.queue.0.front().map(|pending| &pending.expect), Some(Expect::Call(_)));
        match &mut self.strike {
            Some(strike) if strike.state == State::Completed || front_is_call && strike.state == State::Running => {
                strike.state = State::Completed;
                if strike.cancelling {
                    strike.ready = Some(frame);
                } else {
                    self.completed_and_ready(frame, now);
                }
                None
            }
            Some(strike) if strike.state == State::Running => {
                self.give_up("the target had completed it before it could be cancelled");
                None
            }
            _ => Some(frame),
        }
    }

    fn completed_and_ready(&mut self, frame: Frame, now: Instant) {
        let Some(strike) = &self.strike else { return };
        let (native, failure) = (strike.native(), strike.failure());
        let reads = |operation: &mut Operation| {
            operation.failed(failure);
            operation.statement.as_ref().is_some_and(|statement| {
                statement.action.requests.iter().all(|request| READING.contains(&request.action.as_str()))
            })
        };
        let reads = self.queue.0.front_mut().and_then(|pending| pending.operation(reads));
        match frame.body() {
            b"T" if self.settle_ready(b'T', now).is_ok() => self.stand_in(Refused::Query),
            b"I" if reads == Some(true) && self.settle_ready(b'I', now).is_ok() => {
                self.over();
                self.show(native.encode());
                self.show(without_values(frame.bytes));
            }
            _ => self.give_up("the target had completed it before it could be cancelled"),
        }
    }

    /// Has the server fail, since what it has completed must not count.
    fn stand_in(&mut self, refused: Refused) {
        let Some(strike) = self.strike.take() else { return };
        let error = strike.native().encode();
        self.stalled = false;
        self.housekeeping(stand_in(refused, false));
        self.expect(Expect::Refused { error, refused }, Vec::new(), false);
    }

    fn over(&mut self) {
        self.strike = None;
        self.stalled = false;
    }

    /// The session ends: nothing that the client could be told of the statement would be true.
    fn give_up(&mut self, why: &'static str) {
        let Some(strike) = self.strike.take() else { return };
        let Denial { reason, hint, .. } = Denial::from(strike.limit);
        let native = NativeError::fatal(error::LIMIT, format!("terminating connection: {reason}; {why}"));
        self.end(
            &native.hint(hint.unwrap_or_default()),
            Close::Agent("a statement went beyond a limit, and could not be undone"),
        );
    }
}
