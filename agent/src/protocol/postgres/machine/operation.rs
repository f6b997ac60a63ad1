//! Operations while they run: what their rows and copied data become for the client, what of them is recorded, and when an
//! operation has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    answer::{Answer, UnknownOrigin},
    limiting::Meter,
};
use crate::{
    gate::Ongoing,
    masking::{self, Codec as _, Covers, Masked, Unreadable},
    model::{Limit, Mode},
    protocol::postgres::{
        frame::{self, FrameError, client, server},
        message::Column,
        sql::{self, Effect},
        value::Rows,
        view::View,
    },
    recording::{AnswerPart, Event, Failure},
};

/// Bytes of an operation's answer that are recorded; the rest is only counted.
pub const RECORDED: usize = 64 << 10;

/// Bytes of a value that are recorded.
const VALUE: usize = 4 << 10;

/// Bytes of rows that make one record.
const CHUNK: usize = 3 << 10;

/// Largest row of which something is recorded; a longer one is not held for that, it is only counted.
const HELD: usize = 256 << 10;

/// Longest completion tag that is recorded: a text of many statements has one each.
const TAG: usize = 256;

/// Which way a COPY goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    In,
    /// To the client.
    Out,
    /// In both at once: replication.
    Both,
}

impl Direction {
    /// Whether a statement of this effect copies in this direction.
    pub fn is_of(self, effect: &Effect) -> bool {
        match self {
            Self::In => matches!(effect, Effect::CopyIn | Effect::Replicates),
            Self::Out => matches!(effect, Effect::CopyOut | Effect::Replicates),
            Self::Both => matches!(effect, Effect::Replicates),
        }
    }
}

/// Why data cannot be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// What comes is no message.
    Malformed(FrameError),
    /// It is more than a limit lets through.
    Beyond(Limit),
    /// Nothing proves that it may be shown.
    Unproven,
}

impl From<FrameError> for Passed {
    fn from(fault: FrameError) -> Self {
        Self::Malformed(fault)
    }
}

impl From<Limit> for Passed {
    fn from(limit: Limit) -> Self {
        Self::Beyond(limit)
    }
}

impl From<Unreadable> for Passed {
    fn from(_: Unreadable) -> Self {
        Self::Unproven
    }
}

/// A decided operation while it runs: its answer, and what is recorded of it.
#[derive(Debug)]
pub struct Operation {
    /// Session id.
    pub session: Arc<str>,
    /// Leave for its data, with its number within the session.
    pub ongoing: Ongoing,
    /// What it is understood to be; `None` only in observe mode.
    pub statement: Option<Arc<sql::Statement>>,
    /// How its rows are shown.
    pub answer: Answer,
    /// What it has used of what it may.
    pub meter: Meter,
    /// How long the server was at it before its portal was suspended.
    pub spent: Duration,
    /// Position of the statement that is running within the text.
    part: usize,
    started: Instant,
    counted: u64,
    /// The running statement copies, in this direction.
    copying: Option<Direction>,
    /// Bytes of data that it has copied.
    copied: Option<u64>,
    /// The line that is being copied, if lines are recorded.
    line: Option<Vec<u8>>,
    tag: String,
    failure: Option<Failure>,
    chunk: Vec<Masked<Vec<Option<String>>>>,
    chunk_bytes: usize,
    recorded: usize,
    truncated: bool,
    finished: bool,
}

impl Operation {
    /// An operation that is let go at `now`.
    pub fn new(
        session: Arc<str>,
        ongoing: Ongoing,
        statement: Option<Arc<sql::Statement>>,
        answer: Answer,
        meter: Meter,
        now: Instant,
    ) -> Self {
        Self {
            meter,
            spent: Duration::ZERO,
            session,
            ongoing,
            statement,
            answer,
            part: 0,
            started: now,
            counted: 0,
            copying: None,
            copied: None,
            line: None,
            tag: String::new(),
            failure: None,
            chunk: Vec::new(),
            chunk_bytes: 0,
            recorded: 0,
            truncated: false,
            finished: false,
        }
    }

    /// The server has described the running statement's answer.
    ///
    /// # Errors
    /// [`UnknownOrigin`], in enforce mode.
    pub fn describe(&mut self, view: &dyn View, mode: Mode, columns: &[Column]) -> Result<(), UnknownOrigin> {
        self.answer = Answer::described(view, mode, self.statement.as_deref(), self.part, columns)?;
        Ok(())
    }

    /// A row: what the client gets, and a record if enough have come together.
    ///
    /// # Errors
    /// The row cannot be read, or nothing proves that it may be shown; or it is beyond a limit.
    pub fn row(&mut self, key: &[u8], frame: Bytes) -> Result<(Masked<Bytes>, Option<Event>), Passed> {
        let shown = self.answer.shown.as_ref().ok_or(Unreadable)?;
        let shown = masking::frame(shown, key, &self.answer.rows, frame.clone())?;
        self.meter.spend(1, shown.shown().len())?;
        self.counted += 1;
        let mut event = None;
        if let Some(logged) = &self.answer.logged
            && !self.truncated
        {
            let row = masking::row(logged, key, &self.answer.rows, &frame, VALUE)?;
            let size: usize = row.values.shown().iter().map(|value| value.as_ref().map_or(4, String::len) + 3).sum();
            self.truncated |= row.cut;
            self.keep(row.values, size);
            event = self.due();
        } else {
            self.truncated = true;
        }
        Ok((shown, event))
    }

    /// Keeps a row of this size for the record, if there is room for it.
    fn keep(&mut self, values: Masked<Vec<Option<String>>>, size: usize) {
        if self.recorded + size > RECORDED {
            self.truncated = true;
        } else {
            self.recorded += size;
            self.chunk_bytes += size;
            self.chunk.push(values);
        }
    }

    /// A record, if enough rows have come together.
    fn due(&mut self) -> Option<Event> {
        if self.chunk_bytes >= CHUNK { self.flush() } else { None }
    }

    /// Takes rows off the buffer that the client sees as they are and of which nothing more is recorded: `None` if the first
    /// is not one of those. `left`: so many bytes of an earlier one come first, and then, of the last one.
    ///
    /// # Errors
    /// The next message is none, or beyond a limit.
    pub fn rows(&mut self, buffer: &mut BytesMut, left: &mut usize) -> Result<Option<Masked<Bytes>>, Passed> {
        let Some(shown) = self.answer.shown.as_ref().filter(|shown| shown.all_clear()) else { return Ok(None) };
        if *left == 0 && self.answer.logged.is_some() && !self.truncated {
            let long = frame::head(buffer, |_| Some(frame::DATA))?.is_some_and(|(_, size)| size > HELD);
            if !long {
                return Ok(None);
            }
        }
        self.truncated = true;
        let mut beyond = None;
        let meter = &mut self.meter;
        let begins = |size| meter.spend(1, size).map_err(|limit| beyond = Some(limit)).is_ok();
        let run = frame::run(buffer, server::DATA_ROW, *left, |_| (), begins)?;
        if let Some(limit) = beyond.filter(|_| run.bytes == 0) {
            return Err(limit.into());
        }
        *left = run.left;
        self.counted += run.messages;
        Ok(Some(masking::verbatim(shown, buffer.split_to(run.bytes).freeze())?))
    }

    /// The result of a function.
    ///
    /// # Errors
    /// Nothing proves that it may be shown, or it is beyond a limit.
    pub fn result(&mut self, value: Option<&[u8]>, frame: &Bytes) -> Result<Masked<Bytes>, Passed> {
        self.meter.spend(1, frame.len())?;
        self.counted += 1;
        let logged = self.answer.logged.take();
        let size = value.map_or(0, <[u8]>::len);
        match logged.filter(|_| size <= VALUE) {
            Some(logged) => {
                let text = value.map(|value| self.answer.rows.text(0, value));
                self.keep(masking::verbatim(&logged, vec![text])?, size + 3);
            }
            None => self.truncated = true,
        }
        Ok(masking::verbatim(self.answer.shown.as_ref().ok_or(Unreadable)?, frame.clone())?)
    }

    /// Whether the running statement is one that copies in this direction.
    pub fn may_copy(&self, direction: Direction) -> bool {
        let parts = self.statement.as_ref().map_or(&[][..], |statement| &statement.parts);
        let of = |part: &sql::Part| direction.is_of(&part.effect);
        // What could not be read may be anything, and one command of replication has several answers.
        let unread = direction != Direction::Both && self.statement.as_ref().is_some_and(|it| it.unread.is_some());
        parts.get(self.part).is_some_and(of) || unread || direction != Direction::In && self.replicates()
    }

    fn replicates(&self) -> bool {
        let parts = self.statement.as_ref().map_or(&[][..], |statement| &statement.parts);
        parts.iter().any(|part| matches!(part.effect, Effect::Replicates))
    }

    /// Whether a statement of it that has not completed yet copies from the client, after the next so many.
    pub fn will_copy_in(&self, after: usize) -> bool {
        let parts = self.statement.as_ref().map_or(&[][..], |statement| &statement.parts);
        let parts = parts.get(self.part + after..).unwrap_or_default();
        parts.iter().any(|part| Direction::In.is_of(&part.effect))
    }

    /// The running statement copies: `text`, in lines and not in the binary form.
    pub fn copies(&mut self, view: &dyn View, mode: Mode, direction: Direction, text: bool) {
        // What an earlier statement's description allowed is none of this one's.
        self.answer = Answer::undescribed(view, mode, self.statement.as_deref(), self.part, Rows::default());
        self.answer.columns = Some(vec!["copied".to_owned()]);
        self.copying = Some(direction);
        self.copied.get_or_insert(0);
        self.line = (text && !self.replicates() && self.answer.logged.is_some()).then(Vec::new);
        self.truncated |= self.line.is_none();
    }

    /// The direction in which the running statement copies, if it does.
    pub fn copying(&self) -> Option<Direction> {
        self.copying
    }

    /// Takes copied data off the buffer; see [`Operation::rows`]. With it, what is to be recorded of it.
    ///
    /// # Errors
    /// The next message is none, or beyond a limit, or nothing proves that it may be shown.
    pub fn data(&mut self, buffer: &mut BytesMut, left: &mut usize) -> Result<(Masked<Bytes>, Vec<Event>), Passed> {
        // Nothing is taken off the buffer that is not shown then.
        let shown = self.answer.shown.clone().filter(Covers::all_clear).ok_or(Unreadable)?;
        let (bytes, events) = self.take(buffer, left, 1)?;
        Ok((masking::verbatim(&shown, bytes)?, events))
    }

    /// The same for data of the client.
    ///
    /// # Errors
    /// The next message is none, or beyond a limit.
    pub fn copied(&mut self, buffer: &mut BytesMut, left: &mut usize) -> Result<(Bytes, Vec<Event>), Passed> {
        self.take(buffer, left, 0)
    }

    /// The same, where each message counts as so many rows.
    fn take(&mut self, buffer: &mut BytesMut, left: &mut usize, rows: u64) -> Result<(Bytes, Vec<Event>), Passed> {
        let (mut events, mut beyond) = (Vec::new(), None);
        let mut meter = std::mem::take(&mut self.meter);
        let begins = |size| meter.spend(rows, size).map_err(|limit| beyond = Some(limit)).is_ok();
        let piece = |piece: &[u8]| {
            *self.copied.get_or_insert(0) += piece.len() as u64;
            let mut rest = piece;
            while !rest.is_empty() && self.line.is_some() {
                let end = rest.iter().position(|&byte| byte == b'\n');
                let (part, more) = rest.split_at(end.unwrap_or(rest.len()));
                self.lengthen(part);
                if end.is_some() {
                    self.end_line();
                    events.extend(self.due());
                }
                rest = more.get(1..).unwrap_or_default();
            }
        };
        let run = frame::run(buffer, client::COPY_DATA, *left, piece, begins);
        self.meter = meter;
        let run = run?;
        if let Some(limit) = beyond.filter(|_| run.bytes == 0) {
            return Err(limit.into());
        }
        *left = run.left;
        Ok((buffer.split_to(run.bytes).freeze(), events))
    }

    /// More of the line that is copied.
    fn lengthen(&mut self, part: &[u8]) {
        if let Some(line) = &mut self.line {
            let kept = part.len().min(VALUE - line.len());
            line.extend_from_slice(&part[..kept]);
            self.truncated |= kept < part.len();
        }
    }

    /// The line that is copied has ended.
    fn end_line(&mut self) {
        let (Some(line), Some(covers)) = (self.line.as_mut().map(std::mem::take), &self.answer.logged) else { return };
        let text = String::from_utf8_lossy(&line).into_owned();
        let size = text.len() + 3;
        if let Ok(values) = masking::verbatim(covers, vec![Some(text)]) {
            self.keep(values, size);
        }
        if self.recorded + VALUE > RECORDED {
            self.truncated = true;
            self.line = None;
        }
    }

    /// The server has copied everything; `false` if it copied nothing.
    pub fn copy_done(&mut self) -> bool {
        let copied = matches!(self.copying, Some(Direction::Out | Direction::Both));
        if self.copying == Some(Direction::Out) && self.replicates() {
            // A base backup of servers before 15 goes on with the next tablespace, without an end of the command between.
            self.copy_ended();
        }
        copied
    }

    /// The running statement copies no more.
    fn copy_ended(&mut self) {
        if self.line.as_ref().is_some_and(|line| !line.is_empty()) {
            self.end_line();
        }
        self.line = None;
        self.copying = None;
    }

    /// The rows that are not recorded yet.
    pub fn flush(&mut self) -> Option<Event> {
        let (session, operation) = (self.session.to_string(), self.ongoing.operation());
        self.unrecorded().map(|answer| Event::Answer { session, operation, answer })
    }

    fn unrecorded(&mut self) -> Option<AnswerPart> {
        if self.chunk.is_empty() {
            return None;
        }
        self.chunk_bytes = 0;
        Some(AnswerPart {
            columns: self.answer.columns.take(),
            rows: std::mem::take(&mut self.chunk),
            truncated: self.truncated,
        })
    }

    /// A statement of it has completed.
    pub fn completed(&mut self, tag: &[u8]) {
        if self.copying.is_some() {
            let rows = tag.strip_prefix(b"COPY ").and_then(|rows| std::str::from_utf8(rows).ok());
            self.counted += rows.and_then(|rows| rows.parse::<u64>().ok()).unwrap_or(0);
        }
        self.copy_ended();
        if self.tag.len() + tag.len() <= TAG {
            if !self.tag.is_empty() {
                self.tag.push_str("; ");
            }
            self.tag.push_str(&String::from_utf8_lossy(tag));
        }
        self.part += 1;
        self.meter.begin_again();
    }

    /// Whether more statements of its text may follow, whose answers have columns of their own.
    pub fn goes_on(&self) -> bool {
        self.statement.as_ref().is_none_or(|statement| statement.parts.len() > self.part)
    }

    /// It has failed.
    pub fn failed(&mut self, failure: Failure) {
        self.copy_ended();
        self.failure.get_or_insert(failure);
    }

    /// It has ended: what is left to record. Nothing, if it had ended before.
    pub fn finish(&mut self, now: Instant) -> Option<Event> {
        if std::mem::replace(&mut self.finished, true) {
            return None;
        }
        let mut answer = self.unrecorded();
        if answer.is_none() && self.truncated && self.recorded > 0 {
            answer = Some(AnswerPart { columns: None, rows: Vec::new(), truncated: true });
        }
        Some(Event::Finished {
            session: self.session.to_string(),
            operation: self.ongoing.operation(),
            rows: self.counted,
            copied: self.copied,
            micros: u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX),
            tag: Some(std::mem::take(&mut self.tag)).filter(|tag| !tag.is_empty()),
            error: self.failure.take(),
            answer,
        })
    }
}
