//! Answers: how their rows are shown, what of them is recorded, and when an operation has ended.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    masking::{self, Cover, Covers, Masked, Unreadable},
    model::{Mode, Style},
    protocol::postgres::{message::Column, sql, value::Rows, view::View},
    recording::{self, Event, Failure},
};

/// Bytes of an operation's answer that are recorded; the rest is only counted.
pub const RECORDED: usize = 64 << 10;

/// Bytes of a value that are recorded.
const VALUE: usize = 4 << 10;

/// Bytes of rows that make one record.
const CHUNK: usize = 3 << 10;

/// Longest completion tag that is recorded: a text of many statements has one each.
const TAG: usize = 256;

/// How the rows of an answer are shown and recorded.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Covers towards the client; `None` while nothing proves any: such rows are not shown.
    pub shown: Option<Covers>,
    /// Covers towards the log; `None`: rows are only counted.
    pub logged: Option<Covers>,
    /// Types and formats.
    pub rows: Rows,
    /// Names of the columns, until they are recorded.
    pub columns: Option<Vec<String>>,
}

/// A described column comes from a table that the catalogue does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOrigin;

impl Answer {
    /// Before the server has described anything: rows are clear only where the statement's proof alone makes them so.
    pub fn undescribed(
        view: &dyn View,
        mode: Mode,
        statement: Option<&sql::Statement>,
        part: usize,
        rows: Rows,
    ) -> Self {
        let clear = proof(statement, part) == Some(&sql::Answer::Clear);
        let untouched = clear && statement.is_some_and(|statement| statement.parameters_clear);
        let open = mode == Mode::Observe || clear || !view.hides();
        Self {
            shown: open.then(Covers::default),
            logged: (untouched || !view.masks()).then(Covers::default),
            rows,
            columns: None,
        }
    }

    /// Once the server has described it. What it says of a column's origin may only add masking to what was proven.
    ///
    /// # Errors
    /// [`UnknownOrigin`], in enforce mode.
    pub fn described(
        view: &dyn View,
        mode: Mode,
        statement: Option<&sql::Statement>,
        part: usize,
        columns: &[Column],
    ) -> Result<Self, UnknownOrigin> {
        let rows = Rows::described(columns);
        let mut answer = Self::undescribed(view, mode, statement, part, rows);
        answer.columns = Some(columns.iter().map(|column| column.name.clone()).collect());
        let proven = matches!(proof(statement, part), Some(sql::Answer::Clear | sql::Answer::ByOrigin));
        if view.hides() && mode == Mode::Enforce {
            let cover = |column: &Column| match column.table {
                // An expression: clear, as proven.
                0 => Some(Cover::Clear),
                table => view.cover(table, column.attribute),
            };
            let covers = columns.iter().map(cover).collect::<Option<_>>().ok_or(UnknownOrigin)?;
            answer.shown = proven.then(|| Covers::new(covers));
        }
        if view.masks() {
            // The proof is about what is hidden: where this principal sees more, an expression may hold what is masked.
            let hidden_in_log = !view.hides() || statement.is_none_or(|statement| !statement.parameters_clear);
            let cover = |column: &Column| match column.table {
                0 if hidden_in_log => Some(Cover::Style(Style::Redact)),
                0 => Some(Cover::Clear),
                table => view.cover_in_log(table, column.attribute),
            };
            let covers: Option<Vec<_>> = columns.iter().map(cover).collect();
            answer.logged = covers.filter(|_| proven).map(Covers::new);
        }
        Ok(answer)
    }
}

/// What is proven of the answer of one of a text's statements.
fn proof(statement: Option<&sql::Statement>, part: usize) -> Option<&sql::Answer> {
    statement?.parts.get(part).map(|part| &part.answer)
}

/// A decided operation while it runs: its answer, and what is recorded of it.
#[derive(Debug)]
pub struct Operation {
    /// Session id.
    pub session: Arc<str>,
    /// Number within the session.
    pub number: u64,
    /// What it is understood to be; `None` only in observe mode.
    pub statement: Option<Arc<sql::Statement>>,
    /// How its rows are shown.
    pub answer: Answer,
    /// Position of the statement that is running within the text.
    part: usize,
    started: Instant,
    counted: u64,
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
        number: u64,
        statement: Option<Arc<sql::Statement>>,
        answer: Answer,
        now: Instant,
    ) -> Self {
        Self {
            session,
            number,
            statement,
            answer,
            part: 0,
            started: now,
            counted: 0,
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
    /// The row cannot be read, or nothing proves that it may be shown.
    pub fn row(&mut self, key: &[u8], frame: Bytes) -> Result<(Masked<Bytes>, Option<Event>), Unreadable> {
        self.counted += 1;
        let mut event = None;
        if let Some(logged) = &self.answer.logged
            && !self.truncated
        {
            let row = masking::row(logged, key, &self.answer.rows, &frame, VALUE)?;
            let size: usize = row.values.shown().iter().map(|value| value.as_ref().map_or(4, String::len) + 3).sum();
            self.truncated |= row.cut;
            if self.recorded + size > RECORDED {
                self.truncated = true;
            } else {
                self.recorded += size;
                self.chunk_bytes += size;
                self.chunk.push(row.values);
            }
            if self.chunk_bytes >= CHUNK {
                event = self.flush();
            }
        } else {
            self.truncated = true;
        }
        let shown = self.answer.shown.as_ref().ok_or(Unreadable)?;
        Ok((masking::frame(shown, key, &self.answer.rows, frame)?, event))
    }

    /// The rows that are not recorded yet.
    pub fn flush(&mut self) -> Option<Event> {
        let answer = self.unrecorded()?;
        Some(Event::Answer { session: self.session.to_string(), operation: self.number, answer })
    }

    fn unrecorded(&mut self) -> Option<recording::Answer> {
        if self.chunk.is_empty() {
            return None;
        }
        self.chunk_bytes = 0;
        Some(recording::Answer {
            columns: self.answer.columns.take(),
            rows: std::mem::take(&mut self.chunk),
            truncated: self.truncated,
        })
    }

    /// A statement of it has completed.
    pub fn completed(&mut self, tag: &[u8]) {
        if self.tag.len() + tag.len() <= TAG {
            if !self.tag.is_empty() {
                self.tag.push_str("; ");
            }
            self.tag.push_str(&String::from_utf8_lossy(tag));
        }
        self.part += 1;
    }

    /// It has failed.
    pub fn failed(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// It has ended: what is left to record. Nothing, if it had ended before.
    pub fn finish(&mut self, now: Instant) -> Option<Event> {
        if std::mem::replace(&mut self.finished, true) {
            return None;
        }
        Some(Event::Finished {
            session: self.session.to_string(),
            operation: self.number,
            rows: self.counted,
            micros: u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX),
            tag: Some(std::mem::take(&mut self.tag)).filter(|tag| !tag.is_empty()),
            error: self.failure.take(),
            answer: self.unrecorded(),
        })
    }
}
