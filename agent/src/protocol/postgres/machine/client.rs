//! The client's messages.

use std::{sync::Arc, time::Instant};

use super::{
    Ask, Client, Close, Expect, Frame, Machine, NativeError, Step,
    deciding::{Deciding, Rechecking, prepared},
    error, frame, from_client,
    names::{Change, Lookup, NAME_LENGTH, NAMES, Source, Understood},
    pending::PENDING,
    refusal::Refused,
};
use crate::{
    masking::{self, without_values},
    model::Denial,
    protocol::postgres::{
        frame::FrameError,
        message::{self, Bind, FunctionCall, Parse, format_of, ready_for_query},
        value,
    },
};

/// What becomes of a message.
pub(super) enum Outcome {
    /// It was dealt with.
    Done,
    /// It must wait for the server.
    Wait(Frame),
}

impl Machine {
    /// Deals with one message of the client; whether anything happened.
    pub(super) fn client_turn(&mut self, now: Instant) -> bool {
        if !matches!(self.client, Client::Reading | Client::Discarding) {
            return false;
        }
        if let Some(moved) = self.client_while_struck(now) {
            return moved;
        }
        if self.stalled {
            return false;
        }
        match self.client_data(now) {
            Ok(None) => {}
            Ok(Some(moved)) => return moved,
            Err(fault) => {
                self.broken(&fault.to_string());
                return true;
            }
        }
        let waited = self.waiting.is_some();
        let frame = match self.waiting.take() {
            Some(frame) => frame,
            None => match frame::take(&mut self.from_client, frame::client_limit) {
                Ok(Some(frame)) => frame,
                Ok(None) if self.ended => {
                    self.from_client.clear();
                    self.from_client.extend_from_slice(&message::write_bare(from_client::TERMINATE));
                    return true;
                }
                Ok(None) => return false,
                Err(FrameError::Length { length, .. })
                    if (frame::CLIENT_LARGE..=frame::DATA).contains(&(length as usize)) =>
                {
                    let limit = frame::CLIENT_LARGE >> 20;
                    let message = format!("a statement, or its parameters, of more than {limit} MiB is not taken");
                    let error = NativeError::fatal(error::TOO_LONG, message).hint("Send large values by COPY.");
                    self.end(&error, Close::Client("the client's message is too long"));
                    return true;
                }
                Err(fault) => {
                    self.broken(&fault.to_string());
                    return true;
                }
            },
        };
        // Once it is full it has to become half empty: a Flush for each message would cost the server a packet for each.
        let most = if self.crowded { PENDING / 2 } else { PENDING };
        self.crowded = self.queue.0.len() >= most;
        if (self.crowded || self.one_by_one()) && frame.kind != from_client::TERMINATE {
            if !waited && self.crowded {
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

    pub(super) fn broken(&mut self, what: &str) {
        self.end(&NativeError::fatal(error::PROTOCOL_VIOLATION, what), Close::Client("the client broke the protocol"));
    }

    fn client_message(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        let frame = match self.while_copying(frame) {
            Ok(outcome) => return Ok(outcome),
            Err(frame) => frame,
        };
        if frame.kind == from_client::TERMINATE {
            // The server reads it only once it has answered what came before.
            if self.queue.owes_ready() {
                return Ok(Outcome::Wait(frame));
            }
            self.housekeeping(frame.bytes);
            self.close(if self.ended { Close::Left } else { Close::Terminated });
            return Ok(Outcome::Done);
        }
        if matches!(self.client, Client::Discarding) {
            if frame.kind == from_client::SYNC {
                self.client = Client::Reading;
                self.show(without_values(ready_for_query(b'I')));
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
            from_client::FUNCTION_CALL => self.call(frame),
            _ => Err(frame::Malformed),
        }
    }

    /// What a text asks for, by a catalogue that is new enough; else what becomes of its message instead.
    fn comprehend(&mut self, frame: Frame, text: &str, now: Instant) -> Result<(Frame, Understood), Outcome> {
        if let Some(outcome) = self.fresh(&frame) {
            return Err(outcome);
        }
        let Some(understood) = self.understand(text) else { return Err(Outcome::Wait(frame)) };
        match self.look_again(&understood, &frame, now) {
            Some(outcome) => Err(outcome),
            None => Ok((frame, understood)),
        }
    }

    /// `Query`: all its statements are decided before any goes.
    fn query(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        let text = message::query(frame.body())?;
        let (frame, understood) = match self.text(text) {
            Ok(text) => match self.comprehend(frame, &text, now) {
                Ok(comprehended) => comprehended,
                Err(outcome) => return Ok(outcome),
            },
            Err(why) => {
                let understood = self.unreadable(text, why);
                (frame, understood)
            }
        };
        let statement = Arc::clone(&understood.statement);
        let ask = match self.objection(&statement) {
            Some(denial) => Ask::Refuse(denial),
            None => Ask::Decide(Self::unproven(&statement)),
        };
        let deciding = Deciding::Query { understood };
        Ok(self.ask(ask, (statement.action.clone(), statement.text.clone()), Vec::new(), frame.bytes, deciding))
    }

    /// `Parse`: nothing happens yet, so it is only refused outright.
    fn parse(&mut self, frame: Frame, now: Instant) -> Result<Outcome, frame::Malformed> {
        let parse = Parse::read(frame.body())?;
        let Some(name) = self.name(parse.name) else { return Ok(Outcome::Done) };
        if self.full() {
            return Ok(Outcome::Done);
        }
        let types = parse.types;
        let (frame, understood, source) = match self.text(parse.text) {
            Ok(text) => match self.comprehend(frame, &text, now) {
                Ok((frame, understood)) => {
                    let source = Source::Parse(Arc::clone(&understood.text));
                    (frame, understood, source)
                }
                Err(outcome) => return Ok(outcome),
            },
            Err(why) => {
                let understood = self.unreadable(parse.text, why);
                (frame, understood, Source::Unreadable(why))
            }
        };
        let statement = Arc::clone(&understood.statement);
        let ask = match self.objection(&statement) {
            Some(denial) => Ask::Refuse(denial),
            None => Ask::Foresee(Self::unproven(&statement)),
        };
        let prepared = prepared(source, types, understood);
        let subject = (statement.action.clone(), statement.text.clone());
        Ok(self.ask(ask, subject, Vec::new(), frame.bytes, Deciding::Parse { name, prepared }))
    }

    /// `Bind`: decided with its parameters; one recorded operation.
    fn bind(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let bind = Bind::read(frame.body())?;
        let Some(portal) = self.name(bind.portal) else { return Ok(Outcome::Done) };
        let Some(name) = self.name(bind.statement) else { return Ok(Outcome::Done) };
        if self.full() {
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
        let Some(understood) = self.meaning(&prepared) else { return Ok(Outcome::Wait(frame)) };
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
        let deciding = Deciding::Bind { portal, prepared, understood, results: bind.results };
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
            // A cursor of DECLARE: decided each time, as FETCH is.
            let understood = self.fetched(&portal);
            let statement = Arc::clone(&understood.statement);
            let subject = (statement.action.clone(), statement.text.clone());
            let ask = Ask::Decide(Self::unproven(&statement));
            return Ok(self.ask(ask, subject, Vec::new(), frame.bytes, Deciding::Fetch { name, understood }));
        };
        if !portal.understood.holds(self.stamp) && !self.observes() {
            // The server looks names up again when the portal runs, but shows what it finds in the columns of then.
            let renamed = portal.understood.statement.looks_up_names;
            let Some(now) = self.meaning(&bound.prepared) else { return Ok(Outcome::Wait(frame)) };
            if renamed || !now.same(&portal.understood) {
                let denial = Denial::closed("this statement may mean something else than when it was bound")
                    .with_hint("Bind it again.");
                self.deny_execute(Rechecking { portal, bytes: frame.bytes }, denial);
                return Ok(Outcome::Done);
            }
        }
        self.steps.push_back(Step::Recheck(bound.epoch));
        self.client = Client::Rechecking(Rechecking { portal, bytes: frame.bytes });
        Ok(Outcome::Done)
    }

    /// `FunctionCall`: what the function would ask for in a `SELECT`.
    fn call(&mut self, frame: Frame) -> Result<Outcome, frame::Malformed> {
        let call = FunctionCall::read(frame.body())?;
        if let Some(outcome) = self.fresh(&frame) {
            return Ok(outcome);
        }
        let text = self.start.view.call(call.function, call.arguments.len());
        let understood = match text {
            Some(text) => match self.understand(&text) {
                Some(understood) => understood,
                None => return Ok(Outcome::Wait(frame)),
            },
            None => self.unread("the catalogue has no such function"),
        };
        let statement = Arc::clone(&understood.statement);
        let parameters = call.arguments.iter().enumerate().map(|(position, argument)| {
            let text = argument.map(|argument| value::text(0, format_of(&call.formats, position), argument));
            masking::parameter(statement.parameters_clear, text)
        });
        let parameters = parameters.collect();
        let deciding = Deciding::Call { understood, result: call.result };
        let subject = (statement.action.clone(), statement.text.clone());
        let ask = Ask::Decide(Self::unproven(&statement));
        Ok(self.ask(ask, subject, parameters, frame.bytes.clone(), deciding))
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

    /// The SQL of these bytes, if the server reads it as we do; else why not.
    fn text(&self, bytes: &[u8]) -> Result<String, &'static str> {
        if !self.start.conforming && bytes.contains(&b'\\') {
            // Without one, a text means the same whatever the setting.
            return Err("it holds a backslash while standard_conforming_strings is off");
        }
        self.decode(bytes).ok_or("its characters cannot be read; use client_encoding UTF8")
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
            self.refuse(Refused::Other, false, &NativeError::error(error::NAME_TOO_LONG, message));
        }
        name.map(Arc::from)
    }

    /// Whether too much is kept under names; then the message is refused.
    fn full(&mut self) -> bool {
        let full = !self.queue.count(&self.committed).has_room();
        if full {
            let message = format!("a session has at most {NAMES} prepared statements here, and as many portals");
            let error = NativeError::error(error::LIMIT, message).hint("Close or deallocate some.");
            self.refuse(Refused::Other, false, &error);
        }
        full
    }

    /// A name that stands for nothing: the server would say the same. What is only observed passes.
    fn no_such(&mut self, what: &str, code: &'static str, name: &str, frame: Frame) -> Outcome {
        if !self.observes() {
            self.refuse(Refused::Other, false, &NativeError::error(code, format!("{what} \"{name}\" does not exist")));
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
}
