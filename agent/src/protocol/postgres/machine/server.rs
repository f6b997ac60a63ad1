//! The server's messages, matched with what they answer.

use std::time::{Duration, Instant};

use super::{
    Client, Close, Expect, Frame, Machine, NativeError, Step,
    answer::UnknownOrigin,
    error, frame, from_client, guard,
    names::{Change, Described, Portal},
    operation::{Direction, Operation},
    pending::Pending,
    refusal::TRANSACTION_FAILED,
};
use crate::{
    masking::{nothing_hidden, without_values},
    model::Limit,
    protocol::postgres::{
        frame::{FrameError, Malformed, server},
        message::{self, Column},
        view::Encoding,
    },
    recording::{Event, Failure},
};

/// Why the server cannot be followed any more.
pub(super) enum Fault {
    /// It broke the protocol.
    Malformed,
    /// A message came that nothing asked for.
    Unexpected,
    /// It wants to copy, and nothing asked for it.
    Copy,
    /// It is more than a limit lets through.
    Beyond(Limit),
    /// A row in which something is masked is longer than what is held.
    TooLong,
    /// A row came whose columns nothing describes.
    Undescribed,
    /// A column comes from a table that the catalogue does not know.
    Unknown,
    /// A setting of the session has changed such that texts are read differently.
    Setting(&'static str),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<UnknownOrigin> for Fault {
    fn from(_: UnknownOrigin) -> Self {
        Self::Unknown
    }
}

/// The record of an operation whose pipeline failed before the server came to it.
pub(super) fn not_run() -> Failure {
    Failure {
        code: TRANSACTION_FAILED.into(),
        message: without_values("not run: an earlier message of its pipeline failed".into()),
    }
}

impl Machine {
    /// Deals with one message of the server; whether anything happened.
    pub(super) fn server_turn(&mut self, now: Instant) -> bool {
        match self.server_data() {
            Ok(false) => {}
            Ok(true) => return true,
            Err(Fault::Beyond(limit)) => {
                self.strike(limit, now);
                if let Err(fault) = self.withhold() {
                    self.fault(&fault, now);
                }
                return true;
            }
            Err(fault) => {
                self.fault(&fault, now);
                return true;
            }
        }
        let frame = match frame::take(&mut self.from_server, frame::server_limit) {
            Ok(Some(frame)) => frame,
            Ok(None) => return false,
            Err(FrameError::Length { kind: server::DATA_ROW, length }) if length as usize <= frame::DATA => {
                self.fault(&Fault::TooLong, now);
                return true;
            }
            Err(_) => {
                self.fault(&Fault::Malformed, now);
                return true;
            }
        };
        self.stalled = false;
        if let Err(fault) = self.server_message(frame, now) {
            self.fault(&fault, now);
        }
        true
    }

    fn fault(&mut self, fault: &Fault, now: Instant) {
        let (message, close) = match fault {
            Fault::Beyond(limit) => return self.strike(limit.clone(), now),
            Fault::Malformed => ("the target broke the protocol", "malformed message"),
            Fault::Unexpected => ("the target answered what was not asked", "unexpected message"),
            Fault::Copy => ("the target began to copy, which no statement asked for", "copy"),
            Fault::TooLong => ("a row with masked columns is longer than 64 MiB", "row too long"),
            Fault::Undescribed => ("rows came that cannot be proven free of masked columns", "undescribed rows"),
            Fault::Unknown => {
                ("a column comes from a table that Postern does not know yet: connect again", "unknown table")
            }
            Fault::Setting(what) => (*what, "unsafe setting"),
        };
        if matches!(fault, Fault::Unknown) {
            self.steps.push_back(Step::Stale);
        }
        let code = if matches!(fault, Fault::TooLong) { error::TOO_LONG } else { error::CONNECTION_FAILURE };
        self.end(&NativeError::fatal(code, message), Close::Server(close));
    }

    fn server_message(&mut self, frame: Frame, now: Instant) -> Result<(), Fault> {
        match frame.kind {
            server::NOTICE_RESPONSE => {
                let report = self.report(&frame)?;
                self.show(report.client);
                Ok(())
            }
            server::NOTIFICATION_RESPONSE => {
                let hidden = self.start.view.hides() && !self.observes();
                let shown = if hidden { guard::notification(&frame)? } else { nothing_hidden(frame.bytes) };
                self.show(shown);
                Ok(())
            }
            server::PARAMETER_STATUS => self.parameter(frame),
            server::ERROR_RESPONSE => self.error(&frame, now),
            server::READY_FOR_QUERY => self.ready(frame, now),
            server::COPY_IN_RESPONSE => self.copy_begins(frame, Direction::In),
            server::COPY_OUT_RESPONSE => self.copy_begins(frame, Direction::Out),
            server::COPY_BOTH_RESPONSE => self.copy_begins(frame, Direction::Both),
            from_client::COPY_DONE => self.copy_done(frame),
            _ => self.answer(frame, now),
        }
    }

    /// An answer to the oldest message.
    fn answer(&mut self, frame: Frame, now: Instant) -> Result<(), Fault> {
        if self.is_struck() && self.completes(frame.kind) {
            return self.completed_anyway(tag(&frame), now);
        }
        let Some(Pending { expect, since, .. }) = self.queue.0.front_mut() else { return Err(Fault::Unexpected) };
        match (expect, frame.kind) {
            (Expect::Parse, server::PARSE_COMPLETE)
            | (Expect::Bind, server::BIND_COMPLETE)
            | (Expect::Close, server::CLOSE_COMPLETE) => self.settle(now),
            (Expect::DescribeStatement(_, types), server::PARAMETER_DESCRIPTION) => {
                *types = message::parameter_description(frame.body())?;
            }
            (Expect::DescribeStatement(prepared, types), server::ROW_DESCRIPTION | server::NO_DATA) => {
                if let Some(prepared) = prepared {
                    let columns = columns(&frame)?;
                    // A second description says the same, or the statement was replaced and this one is gone.
                    let _ = prepared.described.set(Described { types: std::mem::take(types), columns });
                }
                self.settle(now);
            }
            (Expect::DescribePortal { portal, ours }, server::ROW_DESCRIPTION | server::NO_DATA) => {
                let ours = *ours;
                if let Some(bound) = portal.as_ref().and_then(|portal| portal.bound.as_ref()) {
                    let columns = columns(&frame)?;
                    bound.operation().describe(&*self.start.view, self.start.mode, &columns)?;
                }
                self.settle(now);
                if ours {
                    return Ok(());
                }
            }
            (Expect::Query(operation), server::ROW_DESCRIPTION) => {
                let columns = columns(&frame)?;
                let flushed = operation.flush();
                operation.describe(&*self.start.view, self.start.mode, &columns)?;
                self.record(flushed);
            }
            (Expect::Query(operation), server::DATA_ROW) => {
                let (shown, event) = operation.row(&self.start.key, frame.bytes)?;
                self.record(event);
                self.show(shown);
                return Ok(());
            }
            (Expect::Execute(portal), server::DATA_ROW) => {
                let bound = portal.bound.as_ref().ok_or(Fault::Unexpected)?;
                let (shown, event) = bound.operation().row(&self.start.key, frame.bytes)?;
                self.record(event);
                self.show(shown);
                return Ok(());
            }
            (Expect::Query(operation), server::COMMAND_COMPLETE | server::EMPTY_QUERY_RESPONSE) => {
                let tag = tag(&frame);
                operation.completed(tag);
                let flushed = if operation.goes_on() { operation.flush() } else { None };
                self.record(flushed);
                self.rolled_back(tag == b"ROLLBACK");
                self.settle_statement(now);
            }
            (Expect::Execute(portal), server::COMMAND_COMPLETE | server::EMPTY_QUERY_RESPONSE) => {
                let bound = portal.bound.as_ref().ok_or(Fault::Unexpected)?;
                let tag = tag(&frame);
                let finished = {
                    let mut operation = bound.operation();
                    operation.completed(tag);
                    operation.finish(now)
                };
                self.record(finished);
                self.rolled_back(tag == b"ROLLBACK");
                self.settle(now);
            }
            (Expect::Execute(portal), server::PORTAL_SUSPENDED) => {
                let bound = portal.bound.as_ref().ok_or(Fault::Unexpected)?;
                bound.operation().spent += since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                let event = if bound.once { bound.operation().finish(now) } else { bound.operation().flush() };
                self.record(event);
                self.settle(now);
            }
            (Expect::Call(operation), server::FUNCTION_CALL_RESPONSE) => {
                let result = message::function_result(frame.body())?;
                let shown = operation.result(result, &frame.bytes)?;
                self.show(shown);
                return Ok(());
            }
            _ => return Err(Fault::Unexpected),
        }
        self.show(without_values(frame.bytes));
        Ok(())
    }

    /// The oldest message was answered: what it does to the names is done.
    pub(super) fn settle(&mut self, now: Instant) {
        self.copy_over(false);
        if let Some(pending) = self.queue.0.pop_front() {
            self.stale |= pending.catalogue;
            self.uncommitted |= pending.catalogue;
            pending.changes.into_iter().flatten().for_each(|change| self.commit(change, now));
        }
    }

    /// The running statement of a `Query` is done.
    pub(super) fn settle_statement(&mut self, now: Instant) {
        self.copy_over(false);
        let done = self.queue.0.front_mut().and_then(|pending| {
            (pending.since, pending.late) = (None, false);
            pending.changes.pop_front()
        });
        done.into_iter().flatten().for_each(|change| self.commit(change, now));
    }

    /// A change of the names has happened.
    fn commit(&mut self, change: Change, now: Instant) {
        let Self { committed, steps, .. } = self;
        committed.commit(change, |portal| steps.extend(portal.ended(now).map(Step::Record)));
    }

    /// The oldest message failed or was dropped: its changes do not happen.
    fn drop_oldest(&mut self, failure: &Failure, now: Instant) {
        self.copy_over(true);
        let Some(pending) = self.queue.0.pop_front() else { return };
        if !pending.changes.is_empty() {
            self.stamp.names += 1;
        }
        let fail = |operation: &mut Operation| {
            operation.failed(failure.clone());
            operation.finish(now)
        };
        let events = match pending.expect {
            Expect::Query(mut operation) | Expect::Call(mut operation) => fail(&mut operation).into_iter().collect(),
            Expect::Execute(portal) => portal.bound.iter().filter_map(|bound| fail(&mut bound.operation())).collect(),
            // The operation began here, and ends here.
            Expect::Bind => {
                let portals = pending.changes.iter().flatten().filter_map(|change| match change {
                    Change::Portal(_, portal) => portal.bound.as_ref(),
                    _ => None,
                });
                portals.filter_map(|bound| fail(&mut bound.operation())).collect()
            }
            _ => Vec::new(),
        };
        self.record(events);
    }

    /// The session has ended: what is to be recorded of operations that had not. The client may have seen a part of their answers.
    pub fn abandon(&mut self, now: Instant) -> Vec<Event> {
        let failure = Failure {
            code: error::CONNECTION_FAILURE.into(),
            message: without_values("the session ended before the answer did".into()),
        };
        while !self.queue.0.is_empty() {
            self.drop_oldest(&failure, now);
        }
        let Self { committed, steps, .. } = self;
        committed.transaction_ended(|portal| steps.extend(portal.ended(now).map(Step::Record)));
        let recorded = self.steps.drain(..).filter_map(|step| match step {
            Step::Record(event) => Some(event),
            _ => None,
        });
        recorded.collect()
    }

    fn report(&self, frame: &Frame) -> Result<guard::Report, Malformed> {
        guard::report(frame, self.start.view.masks(), self.start.view.hides() && !self.observes())
    }

    /// An error: of the oldest message, or of the session.
    fn error(&mut self, frame: &Frame, now: Instant) -> Result<(), Fault> {
        let report = self.report(frame)?;
        if report.fatal {
            while !self.queue.0.is_empty() {
                self.drop_oldest(&report.failure, now);
            }
            self.show(report.client);
            self.close(Close::Ended(report.failure.code));
            return Ok(());
        }
        let (client, failure) = match self.struck_by_error() {
            Some((ours, failure)) => (ours.encode(), failure),
            None => (report.client, report.failure),
        };
        if matches!(self.client, Client::Ended) {
            return Ok(());
        }
        let shown = match self.queue.0.front_mut().map(|pending| &mut pending.expect) {
            Some(Expect::Refused { error, refused }) => {
                // That the transaction has failed goes before a denial, as it goes before whatever else the server would say.
                let failed = failure.code == TRANSACTION_FAILED;
                let (shown, goes_on) = (if failed { client } else { error.clone() }, refused.ends());
                if !goes_on {
                    // What follows is dropped by the server up to Sync, and so is what the client still sends.
                    self.skip(&failure, now);
                }
                shown
            }
            Some(Expect::Query(operation) | Expect::Call(operation)) => {
                operation.failed(failure);
                self.copy_over(true);
                client
            }
            // Committing failed, or it comes from without: ReadyForQuery follows, or nothing.
            None | Some(Expect::Sync) => client,
            Some(_) => {
                self.skip(&failure, now);
                client
            }
        };
        self.show(shown);
        Ok(())
    }

    /// The oldest message, one of the extended protocol, has failed: the server drops everything up to `Sync`.
    fn skip(&mut self, failure: &Failure, now: Instant) {
        // What has failed may have run in part.
        self.stale |= self.queue.0.front().is_some_and(|pending| pending.catalogue);
        if self.queue.0.front().is_some_and(Pending::replaces_unnamed) {
            self.commit(Change::NoStatement("".into()), now);
        }
        self.drop_oldest(failure, now);
        let not_run = not_run();
        while self.queue.0.front().is_some_and(|pending| !matches!(pending.expect, Expect::Sync)) {
            self.drop_oldest(&not_run, now);
        }
        self.skipping = self.queue.0.is_empty();
        self.open |= self.skipping;
    }

    fn ready(&mut self, frame: Frame, now: Instant) -> Result<(), Fault> {
        let [status @ (b'I' | b'T' | b'E')] = *frame.body() else { return Err(Fault::Malformed) };
        if let Some(frame) = self.ready_anyway(frame, now) {
            self.settle_ready(status, now)?;
            self.show(without_values(frame.bytes));
        }
        Ok(())
    }

    /// The server's answers up to `ReadyForQuery` are complete.
    pub(super) fn settle_ready(&mut self, status: u8, now: Instant) -> Result<(), Fault> {
        let front = self.queue.0.pop_front();
        let Self { committed, steps, .. } = self;
        let mut gone = |portal: &Portal| steps.extend(portal.ended(now).map(Step::Record));
        if front.as_ref().is_some_and(Pending::forgets_unnamed) {
            committed.forget_unnamed(&mut gone);
        }
        if status == b'I' {
            committed.transaction_ended(&mut gone);
        }
        match front {
            Some(Pending {
                expect: Expect::Query(mut operation) | Expect::Call(mut operation),
                catalogue,
                changes,
                ..
            }) => {
                if changes.iter().any(|changes| !changes.is_empty()) {
                    self.stamp.names += 1;
                }
                self.stale |= catalogue;
                self.uncommitted |= catalogue;
                self.record(operation.finish(now));
            }
            Some(Pending { expect, .. }) if expect.ends() => {}
            _ => return Err(Fault::Unexpected),
        }
        if self.uncommitted && status != self.status {
            // The transaction that changed the catalogue has ended or failed, or goes on from a savepoint.
            self.stale = true;
        }
        if status == b'I' {
            self.uncommitted = false;
        }
        self.status = status;
        Ok(())
    }

    fn parameter(&mut self, frame: Frame) -> Result<(), Fault> {
        match message::parameter_status(frame.body())? {
            (b"standard_conforming_strings", value) => {
                let conforming = value == b"on";
                self.reads_otherwise(conforming != self.start.conforming)?;
                self.start.conforming = conforming;
            }
            (b"client_encoding", value) => {
                let encoding = Encoding::named(value).ok_or(Fault::Setting(
                    "client_encoding must not be one whose characters hold bytes of ASCII: use UTF8",
                ))?;
                self.reads_otherwise(encoding != self.start.encoding)?;
                self.start.encoding = encoding;
            }
            _ => {}
        }
        self.show(without_values(frame.bytes));
        Ok(())
    }

    /// From now on the server reads texts otherwise: none may be under way that was understood as before.
    fn reads_otherwise(&self, changes: bool) -> Result<(), Fault> {
        let text = |pending: &Pending| matches!(pending.expect, Expect::Query(_) | Expect::Parse);
        let under_way = matches!(self.client, Client::Deciding(_)) || self.queue.0.iter().skip(1).any(text);
        if changes && under_way {
            return Err(Fault::Setting(
                "a setting changed how a statement that was under way is read: wait for its answer",
            ));
        }
        Ok(())
    }

    /// Whether a message of this type says that a statement is done, or a part of a portal.
    fn completes(&self, kind: u8) -> bool {
        let ends = matches!(
            kind,
            server::COMMAND_COMPLETE
                | server::EMPTY_QUERY_RESPONSE
                | server::PORTAL_SUSPENDED
                | server::FUNCTION_CALL_RESPONSE
        );
        ends && self.queue.0.front().is_some_and(|pending| pending.expect.runs_statement())
    }

    /// A transaction or part of it was rolled back, which may have changed the catalogue back.
    fn rolled_back(&mut self, yes: bool) {
        self.stale |= yes && self.uncommitted;
    }
}

fn columns(frame: &Frame) -> Result<Vec<Column>, Malformed> {
    if frame.kind == server::NO_DATA { Ok(Vec::new()) } else { message::row_description(frame.body()) }
}

/// The tag of `CommandComplete`; nothing for `EmptyQueryResponse`.
fn tag(frame: &Frame) -> &[u8] {
    frame.body().split(|&byte| byte == 0).next().unwrap_or_default()
}
