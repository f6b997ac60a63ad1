//! Questions about sessions, answered from the store.

use std::sync::PoisonError;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    frame::{Fault, timestamp},
    log::Log,
    store::StoreError,
    summary::{State, Summary},
};

/// Sessions on a page unless the caller says otherwise.
pub const PAGE: usize = 50;
/// The most sessions on a page: a reply has a bound.
pub const MAX_PAGE: usize = 1000;
/// Candidates that are named when an id is ambiguous or unknown.
const CANDIDATES: usize = 5;

/// Which sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Of this user: a name or a uid.
    pub user: Option<String>,
    /// Of processes with this role.
    pub role: Option<String>,
    /// To this target.
    pub target: Option<String>,
    /// By what was decided in them.
    pub verdict: Option<Verdicts>,
    /// Begun at or after this time.
    pub since: Option<Timestamp>,
    /// Before this session: the `next` of the page before.
    pub before: Option<String>,
    /// At most this many; default [`PAGE`], at most [`MAX_PAGE`].
    pub limit: Option<usize>,
}

/// By what was decided in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdicts {
    /// Nothing was denied.
    Permit,
    /// Something was denied, or in observe mode would have been.
    Deny,
    /// The connection itself was refused.
    Refused,
}

/// A page of sessions, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The sessions.
    pub sessions: Vec<Summary>,
    /// Set if there are more: the `before` of the next page.
    pub next: Option<String>,
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the log.
    pub sequence: u64,
    /// When it was appended, in UTC to the nanosecond.
    pub time: Timestamp,
    /// Hash of its header, in hexadecimal.
    pub hash: String,
    /// The event: see [`Event`](super::Event).
    pub event: Value,
}

/// What an id stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Exactly one session.
    One(Box<Summary>),
    /// None begins so; these are near, if any.
    None(Vec<String>),
    /// Several begin so; the newest of them.
    Several(Vec<String>),
}

/// A question cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in the store is not what was appended.
    #[error("record {sequence} is not what was appended ({fault}); `postern audit verify` examines the whole log")]
    Broken {
        /// The record.
        sequence: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// What was appended is not in the store yet.
    #[error("records are not moved into the store in time; `postern status` tells why")]
    Behind,
    /// A record is not in the store.
    #[error("record {0} is not in the store; `postern audit verify` examines the whole log")]
    Missing(u64),
}

impl Log {
    /// A page of sessions, newest first.
    ///
    /// # Errors
    /// The store does not work.
    pub fn sessions(&self, filter: &Filter) -> Result<Page, QueryError> {
        self.settle();
        let limit = filter.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
        let mut sessions: Vec<Summary> = Vec::new();
        for summary in self.store.sessions("", filter.before.as_deref()) {
            let summary = self.with_state(summary?);
            if filter.since.is_some_and(|since| summary.started < since) {
                // Ids are in the order of time, but a clock that was set back may hide some that match.
                continue;
            }
            if !filter.matches(&summary) {
                continue;
            }
            if sessions.len() == limit {
                let next = sessions.last().map(|last| last.session.clone());
                return Ok(Page { sessions, next });
            }
            sessions.push(summary);
        }
        Ok(Page { sessions, next: None })
    }

    /// The session that an id, or the beginning of one, stands for.
    ///
    /// # Errors
    /// The store does not work.
    pub fn find(&self, prefix: &str) -> Result<Found, QueryError> {
        self.settle();
        if let Some(summary) = self.store.session(prefix)? {
            return Ok(Found::One(Box::new(self.with_state(summary))));
        }
        let mut candidates = Vec::new();
        for summary in self.store.sessions(prefix, None).take(CANDIDATES) {
            candidates.push(summary?);
        }
        if candidates.len() > 1 {
            return Ok(Found::Several(candidates.into_iter().map(|candidate| candidate.session).collect()));
        }
        match candidates.pop() {
            Some(summary) if !prefix.is_empty() => Ok(Found::One(Box::new(self.with_state(summary)))),
            _ => Ok(Found::None(self.near(prefix)?)),
        }
    }

    /// Records of a session in order, after the record `after`, at most `limit`.
    ///
    /// # Errors
    /// The store does not work, or does not hold what was appended.
    pub fn records(&self, session: &str, after: u64, limit: usize) -> Result<Vec<Record>, QueryError> {
        let mut records = Vec::new();
        for sequence in self.store.sequences(session, after).take(limit) {
            records.push(self.record(sequence?)?);
        }
        Ok(records)
    }

    /// Records about the agent and the host: starts, what was in force in the kernel, losses, alarms. The newest `limit` of
    /// those at or after `since`, in order.
    ///
    /// # Errors
    /// The store does not work, or does not hold what was appended.
    pub fn agent_records(&self, since: Option<Timestamp>, limit: usize) -> Result<Vec<Record>, QueryError> {
        self.settle();
        let mut records = Vec::new();
        for sequence in self.store.of_the_agent().take(limit) {
            let record = self.record(sequence?)?;
            if since.is_some_and(|since| record.time < since) {
                break;
            }
            records.push(record);
        }
        records.reverse();
        Ok(records)
    }

    fn record(&self, sequence: u64) -> Result<Record, QueryError> {
        let frame = self.store.record(sequence)?.ok_or(QueryError::Missing(sequence))?;
        let frame = frame.map_err(|fault| QueryError::Broken { sequence, fault })?;
        let broken = |_| QueryError::Broken { sequence, fault: Fault::Body };
        let event = serde_json::from_slice(frame.body()).map_err(broken)?;
        let (time, hash) = (timestamp(frame.header.time), hex::encode(frame.header.hash));
        Ok(Record { sequence, time, hash, event })
    }

    /// Sessions whose ids share the longest beginning with `id`.
    fn near(&self, id: &str) -> Result<Vec<String>, QueryError> {
        let lengths = (1..id.len()).rev().filter(|length| id.is_char_boundary(*length));
        for length in lengths {
            let near: Result<Vec<_>, StoreError> =
                self.store.sessions(&id[..length], None).take(CANDIDATES).map(|near| Ok(near?.session)).collect();
            let near = near?;
            if !near.is_empty() {
                return Ok(near);
            }
        }
        Ok(Vec::new())
    }

    /// A session that is open in the store, but in no process, was lost.
    fn with_state(&self, mut summary: Summary) -> Summary {
        let elsewhere = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner);
        let before = summary.last < self.started() && !elsewhere.open.contains(&summary.session);
        if summary.state == State::Open && (before || elsewhere.lost.contains(&summary.session)) {
            summary.state = State::Lost;
        }
        summary
    }
}

impl Filter {
    fn matches(&self, summary: &Summary) -> bool {
        let user = |wanted: &String| {
            summary.user.as_ref() == Some(wanted) || summary.uid.is_some_and(|uid| uid.to_string() == *wanted)
        };
        self.user.as_ref().is_none_or(user)
            && self.role.as_ref().is_none_or(|role| summary.roles.contains(role))
            && self.target.as_ref().is_none_or(|target| summary.target.as_ref() == Some(target))
            && self.verdict.is_none_or(|verdict| match verdict {
                Verdicts::Permit => summary.denied == 0 && summary.state != State::Refused,
                Verdicts::Deny => summary.denied > 0,
                Verdicts::Refused => summary.state == State::Refused,
            })
    }
}
