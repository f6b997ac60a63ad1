//! The client's messages.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Ask, Client, Close, Expect, Frame, Machine, NativeError, Question, Step,
    answer::{Answer, Operation},
    error, frame, from_client,
    names::{Bound, Change, Lookup, NAME_LENGTH, NAMES, Portal, Prepared, Understood},
    pending::PENDING,
};
use crate::{
    gate::{Held, Released},
    masking::{self, without_values},
    model::{Action, Denial, Request, Resource},
    protocol::postgres::{
        message::{self, Bind, Parse, format_of, ready_for_query},
        sql::{self, Effect, Statement},
        value::{self, Rows},
    },
};

/// How often, at most, unknown names make the catalogue be read again: a client that invents names must not make the server
/// busy.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A message whose verdict is outstanding.
pub(super) enum Deciding {
    Query { understood: Option<Understood> },
    Parse { name: Arc<str>, prepared: Arc<Prepared> },
    Bind { portal: Arc<str>, bound: Option<(Arc<Prepared>, Understood)>, results: Vec<i16> },
    Call,
}

impl Deciding {
    /// Whether it is answered up to `ReadyForQuery`.
    pub(super) fn simple(&self) -> bool {
        matches!(self, Self::Query { .. } | Self::Call)
    }
}

/// An `Execute` whose recheck is outstanding.
pub(super) struct Rechecking {
    portal: Arc<Portal>,
    bytes: Bytes,
}

/// What becomes of a message.
enum Outcome {
    /// It was dealt with.
    Done,
    /// It must wait for the server.
    Wait(Frame),
}

impl Machine {
    /// Deals with one message of the client; whether anything happened.
    pub(super) fn client_turn(&mut self, now: Instant) -> bool {
        if !matches!(self.client, Client::Reading | Client::Discarding) || self.stalled {
            return false;
        }
        let waited = self.waiting.is_some();
        let frame = match self.waiting.take() {
            Some(frame) => frame,
            None => match frame::take(&mut self.from_client, frame::client_limit) {
                Ok(Some(frame)) => frame,
                Ok(None) => return false,
                Err(fault) => {
                    self.broken(&fault.to_string());
                    return true;
                }
            },
        };
        if self.queue.0.len() >= PENDING && frame.kind != from_client::TERMINATE {
            if !waited {
                // Without a Sync the server may keep its answers to itself.
                self.housekeeping(message::write_bare(from_client::FLUSH));
            }
            self.wait(frame);
            return true;
        }
        match self.client_message(frame, now) {
            Ok(Outcome::Done) => {}
            Ok(Outcome::Wait(frame)) => self.wait(frame),
            Err(frame::Malformed) => self.broken("malformed message"),
        }
        true
    }

    fn wait(&mut self, frame: Frame) {
        self.waiting = Some(frame);
        self.stalled = true;
    }

    fn broken(&mut self, what: &str) {
        self.end(&NativeError::fatal(error::PROTOCOL_VIOLATION, what), Close::Client("the client broke the protocol"));
    }

    fn client_message(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        if frame.kind == from_client::TERMINATE {
            self.housekeeping(frame.bytes);
            self.close(Close::Terminated);
            return Ok(Outcome::Done);
        }
        if matches!(self.client, Client::Discarding) {
            if frame.kind == from_client::SYNC {
                self.client = Client::Reading;
                self.to_client(without_values(ready_for_query(b'I')));
            }
            return Ok(Outcome::Done);
        }
        if self.skipping && frame.kind != from_client::SYNC {
            return Ok(Outcome::Done);
        }
        match frame.kind {
            from_client::QUERY => self.query(frame, now),
            from_client::PARSE => self.parse(frame, now),
            from_client::BIND => self.bind(frame),
            from_client::EXECUTE => self.execute(frame),
            from_client::DESCRIBE => self.describe(frame),
            from_client::CLOSE => self.close_name(frame),
            from_client::SYNC => {
                self.skipping = false;
                self.housekeeping(frame.bytes);
                self.expect(Expect::Sync, Vec::new(), false);
                Ok(Outcome::Done)
            }
            from_client::FLUSH => {
                self.housekeeping(frame.bytes);
                Ok(Outcome::Done)
            }
            from_client::FUNCTION_CALL => {
                let refusal =
                    Denial::closed("FunctionCall is not supported").with_hint("Call the function with SELECT.");
                Ok(self.ask(
                    Ask::Refuse(refusal),
                    opaque(&self.start.database, "FunctionCall"),
                    Vec::new(),
                    frame.bytes,
                    Deciding::Call,
                ))
            }
            // Copying is refused, so these are left over from it; the server drops them too. What is only observed passes.
            _ => {
                if self.observes() {
                    self.housekeeping(frame.bytes);
                }
                Ok(Outcome::Done)
            }
        }
    }

    /// `Query`: all its statements are decided before any goes.
    fn query(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        let Some(text) = self.decode(message::query(frame.body())?) else {
            return Ok(self.unreadable(frame, Deciding::Query { understood: None }));
        };
        if let Some(outcome) = self.fresh(&frame) {
            return Ok(outcome);
        }
        let Some(understood) = self.understand(&text) else { return Ok(Outcome::Wait(frame)) };
        if let Some(outcome) = self.look_again(&understood, &frame, now) {
            return Ok(outcome);
        }
        let statement = Arc::clone(&understood.statement);
        let ask = match self.objection(&statement) {
            Some(denial) => Ask::Refuse(denial),
            None => Ask::Decide(Self::unproven(&statement)),
        };
        let deciding = Deciding::Query { understood: Some(understood) };
        Ok(self.ask(ask, (statement.action.clone(), statement.text.clone()), Vec::new(), frame.bytes, deciding))
    }

    /// `Parse`: nothing happens yet, so it is only refused outright.
    fn parse(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        let parse = Parse::read(frame.body())?;
        let Some(name) = self.name(parse.name) else { return Ok(Outcome::Done) };
        if self.full(|(statements, _)| statements) {
            return Ok(Outcome::Done);
        }
        let types = parse.types;
        let Some(text) = self.decode(parse.text) else {
            let statement = Arc::new(incomprehensible(&self.start.database));
            let understood = Understood { statement, stamp: self.stamp };
            let prepared = prepared(None, types, understood);
            return Ok(self.unreadable(frame, Deciding::Parse { name, prepared }));
        };
        if let Some(outcome) = self.fresh(&frame) {
            return Ok(outcome);
        }
        let Some(understood) = self.understand(&text) else { return Ok(Outcome::Wait(frame)) };
        if let Some(outcome) = self.look_again(&understood, &frame, now) {
            return Ok(outcome);
        }
        let statement = Arc::clone(&understood.statement);
        let ask = match self.objection(&statement) {
            Some(denial) => Ask::Refuse(denial),
            None => Ask::Foresee(Self::unproven(&statement)),
        };
        let prepared = prepared(Some(text.into()), types, understood);
        let subject = (statement.action.clone(), statement.text.clone());
        Ok(self.ask(ask, subject, Vec::new(), frame.bytes, Deciding::Parse { name, prepared }))
    }

    /// `Bind`: decided with its parameters; one recorded operation.
    fn bind(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let bind = Bind::read(frame.body())?;
        let Some(portal) = self.name(bind.portal) else { return Ok(Outcome::Done) };
        let Some(name) = self.name(bind.statement) else { return Ok(Outcome::Done) };
        if self.full(|(_, portals)| portals) {
            return Ok(Outcome::Done);
        }
        if let Some(outcome) = self.fresh(&frame) {
            return Ok(outcome);
        }
        let prepared = match self.queue.statement(&name, self.pipeline, &self.committed) {
            Lookup::Found(prepared) => prepared,
            Lookup::Unsettled => return Ok(Outcome::Wait(frame)),
            Lookup::Missing => return Ok(self.no_such("prepared statement", error::NO_STATEMENT, &name, frame)),
        };
        let understood = prepared.understood();
        let understood = if understood.holds(self.stamp) {
            understood
        } else {
            match &prepared.text {
                Some(text) => {
                    let Some(understood) = self.understand(text) else { return Ok(Outcome::Wait(frame)) };
                    prepared.understand(understood.clone());
                    understood
                }
                None => Understood { statement: Arc::new(incomprehensible(&self.start.database)), stamp: self.stamp },
            }
        };
        let statement = Arc::clone(&understood.statement);
        let ask = match self.objection(&statement) {
            Some(denial) => Ask::Refuse(denial),
            None => Ask::Decide(Self::unproven(&statement)),
        };
        let parameters = bind
            .parameters
            .iter()
            .enumerate()
            .map(|(position, parameter)| {
                let oid = prepared.parameter_type(position);
                let format = format_of(&bind.formats, position);
                let text = parameter.map(|parameter| value::text(oid, format, parameter));
                masking::parameter(statement.parameters_clear, text)
            })
            .collect();
        let deciding = Deciding::Bind { portal, bound: Some((prepared, understood)), results: bind.results };
        let subject = (statement.action.clone(), statement.text.clone());
        Ok(self.ask(ask, subject, parameters, frame.bytes, deciding))
    }

    /// `Execute`: what Bind decided, rechecked.
    fn execute(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let Some(name) = self.name(message::execute(frame.body())?) else { return Ok(Outcome::Done) };
        if let Some(outcome) = self.fresh_to_open(&frame) {
            return Ok(outcome);
        }
        let portal = match self.queue.portal(&name, self.pipeline, &self.committed) {
            Lookup::Found(portal) => portal,
            Lookup::Unsettled => return Ok(Outcome::Wait(frame)),
            Lookup::Missing => return Ok(self.no_such("portal", error::NO_PORTAL, &name, frame)),
        };
        let Some(bound) = &portal.bound else {
            let error = NativeError::error(error::NOT_SUPPORTED, "a cursor of DECLARE cannot be run by Execute here")
                .hint("Use FETCH.");
            return Ok(self.refuse_or_pass(&error, frame));
        };
        if !portal.understood.holds(self.stamp) {
            let again = match &bound.prepared.text {
                Some(text) => self.understand(text),
                None => {
                    Some(Understood { statement: Arc::new(incomprehensible(&self.start.database)), stamp: self.stamp })
                }
            };
            let Some(again) = again else { return Ok(Outcome::Wait(frame)) };
            if !same(&again.statement, &portal.understood.statement) && !self.observes() {
                let denial = Denial::closed("this statement means something else than when it was bound")
                    .with_hint("Bind it again.");
                self.refuse(false, &NativeError::denied(&denial));
                return Ok(Outcome::Done);
            }
        }
        self.steps.push_back(Step::Recheck(bound.epoch));
        self.client = Client::Rechecking(Rechecking { portal, bytes: frame.bytes });
        Ok(Outcome::Done)
    }

    pub(super) fn execute_now(&mut self, Rechecking { portal, bytes }: Rechecking) {
        if self.skipping {
            return;
        }
        let (changes, catalogue) = self.changes(&portal.understood);
        self.housekeeping(bytes);
        self.expect(Expect::Execute(portal), changes, catalogue);
    }

    fn describe(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let (kind, name) = message::named(frame.body())?;
        let Some(name) = self.name(name) else { return Ok(Outcome::Done) };
        if let Some(outcome) = self.fresh_to_open(&frame) {
            return Ok(outcome);
        }
        let expect = if kind == b'S' {
            match self.queue.statement(&name, self.pipeline, &self.committed) {
                Lookup::Found(prepared) => Expect::DescribeStatement(Some(prepared), Vec::new()),
                Lookup::Unsettled => return Ok(Outcome::Wait(frame)),
                Lookup::Missing => return Ok(self.no_such("prepared statement", error::NO_STATEMENT, &name, frame)),
            }
        } else {
            match self.queue.portal(&name, self.pipeline, &self.committed) {
                Lookup::Found(portal) => Expect::DescribePortal { portal: Some(portal), ours: false },
                Lookup::Unsettled => return Ok(Outcome::Wait(frame)),
                Lookup::Missing => return Ok(self.no_such("portal", error::NO_PORTAL, &name, frame)),
            }
        };
        self.housekeeping(frame.bytes);
        self.expect(expect, Vec::new(), false);
        Ok(Outcome::Done)
    }

    fn close_name(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let (kind, name) = message::named(frame.body())?;
        let Some(name) = self.name(name) else { return Ok(Outcome::Done) };
        if let Some(outcome) = self.fresh_to_open(&frame) {
            return Ok(outcome);
        }
        let change = if kind == b'S' { Change::NoStatement(name) } else { Change::NoPortal(name) };
        self.housekeeping(frame.bytes);
        self.expect(Expect::Close, vec![vec![change]], false);
        Ok(Outcome::Done)
    }

    /// Carries out what was permitted.
    pub(super) fn permitted(&mut self, deciding: Deciding, released: Released, number: u64, epoch: u64, now: Instant) {
        let session = Arc::clone(&self.start.session);
        let (view, mode) = (Arc::clone(&self.start.view), self.start.mode);
        let undescribed = |statement: Option<&Statement>, rows| Answer::undescribed(&*view, mode, statement, 0, rows);
        if self.skipping {
            // Its pipeline failed while it was decided: the server would drop it.
            if !matches!(deciding, Deciding::Parse { .. }) {
                let mut operation = Operation::new(session, number, None, undescribed(None, Rows::default()), now);
                operation.failed(super::server::not_run());
                self.record(operation.finish(now));
            }
            return;
        }
        self.steps.push_back(Step::ToServer(released));
        match deciding {
            Deciding::Query { understood } => {
                let (changes, catalogue) = understood.as_ref().map_or((Vec::new(), true), |it| self.changes(it));
                let statement = understood.map(|understood| understood.statement);
                let answer = undescribed(statement.as_deref(), Rows::default());
                let operation = Operation::new(session, number, statement, answer, now);
                self.expect(Expect::Query(Box::new(operation)), changes, catalogue);
            }
            Deciding::Call => self.expect(Expect::Anything, Vec::new(), false),
            Deciding::Parse { name, prepared } => {
                self.expect(Expect::Parse, vec![vec![Change::Statement(name, prepared)]], false);
            }
            Deciding::Bind { portal: name, bound, results } => {
                let Some((prepared, understood)) = bound else {
                    return self.expect(Expect::Bind, Vec::new(), false);
                };
                let mut answer =
                    undescribed(Some(&understood.statement), Rows::bound(prepared.column_types(), results));
                answer.columns = prepared.column_names();
                let by_origin = answer.shown.is_none() || answer.logged.is_none();
                let statement = Some(Arc::clone(&understood.statement));
                let operation = Mutex::new(Operation::new(session, number, statement, answer, now));
                let portal = Arc::new(Portal { understood, bound: Some(Bound { prepared, epoch, operation }) });
                self.expect(Expect::Bind, vec![vec![Change::Portal(Arc::clone(&name), Arc::clone(&portal))]], false);
                if by_origin {
                    // A description of the statement would do for its columns, but not for where they come from: the server
                    // may have analysed it again since. That of the portal is what will run.
                    self.housekeeping(message::write_named(from_client::DESCRIBE, b'P', name.as_bytes()));
                    self.expect(Expect::DescribePortal { portal: Some(portal), ours: true }, Vec::new(), false);
                }
            }
        }
    }

    /// Asks about an operation.
    fn ask(
        &mut self,
        ask: Ask,
        (action, text): (Action, masking::Masked<String>),
        parameters: Vec<masking::Masked<Option<String>>>,
        bytes: Bytes,
        deciding: Deciding,
    ) -> Outcome {
        let held = Held::new(action, text, parameters, bytes);
        self.client = Client::Deciding(Box::new(deciding));
        self.steps.push_back(Step::Decide(Question { held, ask }));
        Outcome::Done
    }

    /// A text that cannot be read in the client's encoding, or not as the server would.
    fn unreadable(&mut self, frame: Frame, deciding: Deciding) -> Outcome {
        let denial =
            Denial::closed("the text cannot be read in the client's encoding").with_hint("Use client_encoding UTF8.");
        self.ask(
            Ask::Refuse(denial),
            opaque(&self.start.database, "(unreadable text)"),
            Vec::new(),
            frame.bytes,
            deciding,
        )
    }

    /// The text of these bytes, if the server understands them as we do.
    fn decode(&self, bytes: &[u8]) -> Option<String> {
        if !self.start.server_is_utf8 && !bytes.is_ascii() {
            return None;
        }
        self.start.encoding.decode(bytes)
    }

    /// A name of a statement or portal; if it cannot be one, the message is refused.
    fn name(&mut self, bytes: &[u8]) -> Option<Arc<str>> {
        let name = self.decode(bytes).filter(|_| bytes.len() <= NAME_LENGTH);
        if name.is_none() {
            let message = format!("names of statements and portals have at most {NAME_LENGTH} bytes, in readable text");
            self.refuse(false, &NativeError::error(error::NAME_TOO_LONG, message));
        }
        name.map(Arc::from)
    }

    /// Whether there are too many names; then the message is refused.
    fn full(&mut self, which: fn((usize, usize)) -> usize) -> bool {
        let full = which(self.committed.count()) + which(self.queue.announced()) >= NAMES;
        if full {
            let message = format!("a session has at most {NAMES} prepared statements, and as many portals, here");
            self.refuse(false, &NativeError::error(error::LIMIT, message).hint("Close or deallocate some."));
        }
        full
    }

    /// A name that stands for nothing: the server would say the same. What is only observed passes.
    fn no_such(&mut self, what: &str, code: &'static str, name: &str, frame: Frame) -> Outcome {
        let error = NativeError::error(code, format!("{what} \"{name}\" does not exist"));
        self.refuse_or_pass(&error, frame)
    }

    fn refuse_or_pass(&mut self, error: &NativeError, frame: Frame) -> Outcome {
        if !self.observes() {
            self.refuse(false, error);
            return Outcome::Done;
        }
        let expect = match frame.kind {
            from_client::BIND => Expect::Bind,
            from_client::DESCRIBE if frame.body().first() == Some(&b'S') => Expect::DescribeStatement(None, Vec::new()),
            from_client::DESCRIBE => Expect::DescribePortal { portal: None, ours: false },
            _ => Expect::Parse,
        };
        self.housekeeping(frame.bytes);
        self.expect(expect, Vec::new(), false);
        Outcome::Done
    }

    /// What we hold against a statement ourselves.
    fn objection(&self, statement: &Statement) -> Option<Denial> {
        let long = |name: &str| name.len() > NAME_LENGTH;
        let odd = statement.parts.iter().any(|part| match &part.effect {
            Effect::Prepare { name, .. } | Effect::Declare { name, .. } => long(name),
            Effect::Deallocate(Some(name)) | Effect::Close(Some(name)) => long(name),
            _ => false,
        });
        if statement.parts.iter().any(|part| matches!(part.effect, Effect::CopyIn | Effect::CopyOut)) {
            return Some(Denial::closed("COPY is not supported").with_hint("Use INSERT or SELECT."));
        }
        if odd {
            return Some(Denial::closed("the name of a prepared statement or cursor is too long"));
        }
        // In a failed transaction the catalogue cannot be read; one ROLLBACK may be followed by anything.
        (self.stale && statement.parts.len() > 1)
            .then(|| Denial::closed("the catalogue has changed").with_hint("Send ROLLBACK on its own."))
    }

    /// For a message that is decided: the catalogue must be as it will be when the statement runs. `None`: it is.
    fn fresh(&mut self, frame: &Frame) -> Option<Outcome> {
        if self.open && self.changed {
            let denial = Denial::closed("it follows a change of the catalogue within the same pipeline")
                .with_hint("Send Sync after statements that change the catalogue.");
            if self.observes() {
                return None;
            }
            self.refuse(frame.kind == from_client::QUERY, &NativeError::denied(&denial));
            return Some(Outcome::Done);
        }
        self.fresh_to_open(frame)
    }

    /// For a message that opens a pipeline: within it the catalogue could not be read any more.
    fn fresh_to_open(&mut self, frame: &Frame) -> Option<Outcome> {
        if self.open || !(self.stale || self.queue.0.iter().any(|pending| pending.catalogue)) {
            return None;
        }
        if !self.quiet() {
            return Some(Outcome::Wait(frame.clone()));
        }
        if self.status == b'E' {
            return None;
        }
        self.client = Client::Refreshing;
        self.steps.push_back(Step::RefreshCatalogue);
        Some(Outcome::Wait(frame.clone()))
    }

    /// For a text that names what the snapshot does not have: others may have made it since, so the catalogue is read again
    /// where that is possible, and not too often.
    fn look_again(&mut self, understood: &Understood, frame: &Frame, now: Instant) -> Option<Outcome> {
        let lately = self.looked_again.is_some_and(|then| now.saturating_duration_since(then) < LOOK_AGAIN);
        if !understood.statement.unknown_names || lately || !self.quiet() || self.status == b'E' {
            return None;
        }
        self.looked_again = Some(now);
        self.client = Client::Refreshing;
        self.steps.push_back(Step::RefreshCatalogue);
        Some(Outcome::Wait(frame.clone()))
    }

    /// What a statement does to names, for each of its statements, and whether it changes the catalogue.
    fn changes(&self, understood: &Understood) -> (Vec<Vec<Change>>, bool) {
        let changing = |part: &sql::Part| matches!(part.effect, Effect::ChangesCatalogue | Effect::Discard);
        let catalogue = understood.statement.parts.iter().any(changing);
        let of = |statement: &Arc<Statement>| Understood { statement: Arc::clone(statement), stamp: understood.stamp };
        let changes = understood.statement.parts.iter().map(|part| match &part.effect {
            Effect::None | Effect::ChangesCatalogue | Effect::CopyIn | Effect::CopyOut => Vec::new(),
            Effect::Prepare { name, statement } => {
                vec![Change::Statement(name.as_str().into(), prepared(None, Vec::new(), of(statement)))]
            }
            Effect::Declare { name, statement } => {
                vec![Change::Portal(name.as_str().into(), Arc::new(Portal { understood: of(statement), bound: None }))]
            }
            Effect::Deallocate(Some(name)) => vec![Change::NoStatement(name.as_str().into())],
            Effect::Deallocate(None) => vec![Change::NoStatements],
            Effect::Close(Some(name)) => vec![Change::NoPortal(name.as_str().into())],
            Effect::Close(None) => vec![Change::NoPortals],
            Effect::Discard => vec![Change::NoStatements, Change::NoPortals],
        });
        (changes.collect(), catalogue)
    }
}

fn prepared(text: Option<Arc<str>>, types: Vec<u32>, understood: Understood) -> Arc<Prepared> {
    Arc::new(Prepared { text, types, understood: Mutex::new(understood), described: OnceLock::new() })
}

/// Whether two readings of a text ask for the same and prove the same.
fn same(one: &Statement, other: &Statement) -> bool {
    let answers = |statement: &Statement| -> Vec<sql::Answer> {
        statement.parts.iter().map(|part| part.answer.clone()).collect()
    };
    one.action == other.action && answers(one) == answers(other)
}

/// The most dangerous action, for what is not understood.
fn opaque(database: &Resource, shown: &str) -> (Action, masking::Masked<String>) {
    let request = Request::new("sql:opaque", database.clone());
    let action = Action { requests: [request].into(), facts: std::collections::BTreeMap::new() };
    (action, without_values(shown.to_owned()))
}

/// A statement that is not understood.
fn incomprehensible(database: &Resource) -> Statement {
    let (action, text) = opaque(database, "(not understood)");
    let denial = Denial::closed("it cannot be told what this statement means now").with_hint("Prepare it again.");
    let part = sql::Part { answer: sql::Answer::Unproven(denial), effect: Effect::ChangesCatalogue };
    Statement { action, text, parameters_clear: false, parts: vec![part], unknown_names: false, looks_up_names: false }
}
