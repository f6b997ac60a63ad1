//! The log: a hash-chained journal that is the durable truth, and sled as the store that answers questions.
//!
//! *Invariant:* what is written here is [`Masked`], and nothing is removed from the journal before sled holds it durably.

mod blocks;
mod coverage;
mod frame;
mod ids;
mod journal;
mod log;
mod mover;
mod query;
mod recorder;
mod recovery;
mod scan;
mod segment;
mod sources;
mod store;
mod summary;
pub mod verify;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::{
    masking::Masked,
    model::{Action, CoverageRow, Flow, KernelSide, Limit, Mode, Older, Principal},
};

pub use self::{
    coverage::{Tallies, Tally},
    frame::{Kind, MAX_BODY, timestamp},
    ids::session_id,
    journal::{Clock, Condition, Head, SEGMENT_BYTES, SYNC_EVERY},
    log::{Log, LogStatus, OpenError, Options, boot, in_use},
    query::{Filter, Found, Page, QueryError, Record, Verdicts},
    recorder::{HandOverError, Keeper, Recorder},
    recovery::RecoveryError,
    scan::ScanError,
    store::StoreError,
    summary::{State, Summary},
};

/// One record of the log. Serialised as JSON with `"event"` as the tag; readers treat it as JSON, since a [`Masked`] cannot
/// be read back into being.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The agent began to record.
    AgentStarted {
        /// Version of the agent.
        version: String,
        /// Boot id of the host.
        boot: String,
    },
    /// The agent stopped in order.
    AgentStopped {},
    /// The agent's process goes on with its open sessions, and hands the log over to the process that takes its place.
    LogHandedOver {
        /// Pid of that process, which records its start next.
        to: u32,
    },
    /// A process that had handed the log over has ended.
    ProcessEnded {
        /// Its pid.
        pid: u32,
        /// Sessions that ended with it, and could not be recorded as ended.
        lost: Vec<String>,
    },
    /// A crash had left an unfinished record at the end of the journal; it was cut off.
    LogRepaired {
        /// Name of the segment.
        file: String,
        /// Where the unfinished record began.
        offset: u64,
        /// How many bytes of it were there.
        bytes: u64,
    },
    /// The name of a target does not resolve any more, or what it stands for cannot be protected. Recorded once, when it begins.
    NameFailed {
        /// The name.
        name: String,
        /// The targets that have it.
        targets: Vec<String>,
        /// Why.
        reason: String,
        /// How many addresses it had; they stay protected.
        kept: usize,
    },
    /// All is well again with a name that had failed.
    NameRestored {
        /// The name.
        name: String,
        /// The targets that have it.
        targets: Vec<String>,
        /// How many addresses are protected for it now.
        addresses: usize,
    },
    /// A connection to a target was found that did not go through the agent: it is older than interception.
    OlderConnection {
        /// Name of the target.
        target: Option<String>,
        /// What is known of it.
        connection: Box<Older>,
    },
    /// The agent has begun to serve with the kernel side as it was put in force.
    KernelSide {
        /// Boot id of the host, and the epoch of the kernel side within it. Its counts began with it.
        epoch: String,
        /// What is in force.
        #[serde(flatten)]
        kernel_side: KernelSide,
    },
    /// Programs of the kernel side are no longer in force, or are again: somebody with the right to do so has changed that.
    ProgramsMissing {
        /// Their names. None: all are in force again.
        programs: Vec<String>,
    },
    /// The kernel side was removed by `postern uninstall`.
    KernelSideRemoved {
        /// Links that were removed.
        links: usize,
        /// Maps that were removed.
        maps: usize,
    },
    /// Something was lost in the kernel, since the epoch began.
    KernelLosses {
        /// How often a map was full; whatever needed a place in it was refused.
        map_full: u64,
        /// How often a word to the warden found no room.
        ring_buffer_lost: u64,
    },
    /// A process that has handed its place over asked the warden for more than its open sessions need, for the first time. It was
    /// refused.
    ProxyOverstepped {
        /// Its pid.
        pid: i32,
        /// What it asked for.
        asked: String,
    },
    /// The host's clock was set. Times of records before and after do not compare.
    ClockStep {
        /// By how much, in microseconds; below zero: backwards.
        micros: i64,
    },
    /// Connects that a proxy had taken when it ended, and that are in no record: what became of them is not known.
    LostAtRestart {
        /// As the kernel noted them.
        flows: Vec<Flow>,
    },
    /// Connects that were redirected, and given up by the client before the proxy had them.
    ConnectsAbandoned {
        /// As the kernel noted them.
        flows: Vec<Flow>,
    },
    /// How all connects to targets ended, since the epoch began.
    Coverage {
        /// The epoch of the kernel side.
        epoch: String,
        /// The ledger.
        rows: Vec<CoverageRow>,
        /// Redirected connects of which nobody can tell what has become.
        unexplained: u64,
    },
    /// An alarm: connects were redirected of which nobody can tell what has become.
    Unexplained {
        /// The rows of the ledger that do not add up.
        rows: Vec<CoverageRow>,
        /// Connects that were taken long ago, have no record, and that no session has in hand.
        flows: Vec<Flow>,
    },
    /// A client asked to cancel what another session does, over a connection of its own.
    CancelRequested {
        /// Name of the target.
        target: String,
        /// Who.
        principal: Arc<Principal>,
    },
    /// A session was admitted.
    SessionStarted(Box<SessionStart>),
    /// A connection was refused before there was a session.
    ConnectionRefused {
        /// Name of the target, if that far.
        target: Option<String>,
        /// Who, if that far.
        principal: Option<Arc<Principal>>,
        /// What the kernel noted at connect, if that is all that is known of who it was.
        #[serde(skip_serializing_if = "Option::is_none")]
        flow: Option<Box<Flow>>,
        /// Why.
        reason: String,
        /// Id of the policy, if one refused it.
        rule: Option<String>,
        /// The limit that was reached, if it was that.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<Limit>,
    },
    /// An operation was decided. Appended before any byte of it goes upstream.
    Decided(Box<Decision>),
    /// Part of the answer, as the client saw it (in observe mode: as a client in enforce mode would have).
    Answer {
        /// Session id.
        session: String,
        /// Number of the operation within the session.
        operation: u64,
        /// The part.
        #[serde(flatten)]
        answer: AnswerPart,
    },
    /// An operation ended.
    Finished {
        /// Session id.
        session: String,
        /// Number of the operation within the session.
        operation: u64,
        /// Rows sent to the client, or copied in either direction.
        rows: u64,
        /// Bytes of data that it copied, if it was a COPY.
        #[serde(skip_serializing_if = "Option::is_none")]
        copied: Option<u64>,
        /// From release to end, in microseconds.
        micros: u64,
        /// The protocol's completion tag, e.g. `SELECT 3`.
        tag: Option<String>,
        /// The target's error.
        error: Option<Failure>,
        /// What of the answer no [`Event::Answer`] has, as there: most answers are short, and need no record of their own.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<AnswerPart>,
    },
    /// A limit of a role was reached. What was to be done beyond it was not, unless the target is only observed.
    LimitReached {
        /// Session id.
        session: String,
        /// Number of the operation within the session; `None` if it is about the session itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        operation: Option<u64>,
        /// Which, of which role, and how much it is.
        #[serde(flatten)]
        limit: Limit,
    },
    /// A session ended.
    SessionEnded {
        /// Session id.
        session: String,
        /// Bytes received from the client.
        bytes_in: u64,
        /// Bytes sent to the client.
        bytes_out: u64,
        /// Operations decided.
        operations: u64,
        /// Operations denied.
        denied: u64,
        /// Duration in microseconds.
        micros: u64,
        /// Why it ended.
        reason: String,
    },
}

/// How a session began.
#[derive(Clone, Debug, Serialize)]
pub struct SessionStart {
    /// Session id.
    pub session: String,
    /// Who.
    pub principal: Arc<Principal>,
    /// Name of the target.
    pub target: String,
    /// Protocol of the target.
    pub protocol: String,
    /// Mode of the target.
    pub mode: Mode,
    /// Id of the policies that admitted it.
    pub rules: Vec<String>,
    /// TLS towards the client (version and cipher), if any.
    pub client_tls: Option<String>,
    /// TLS towards the target, if any.
    pub server_tls: Option<String>,
    /// The user that the agent logged in as.
    pub upstream_user: String,
    /// The user that the client asked for.
    pub client_user: String,
    /// Protocol-specific facts, such as the database's name.
    pub details: BTreeMap<String, String>,
}

/// A decided operation.
#[derive(Clone, Debug, Serialize)]
pub struct Decision {
    /// Session id.
    pub session: String,
    /// Number of the operation within the session, from 1.
    pub operation: u64,
    /// What the client asked for, masked.
    pub text: Arc<Masked<String>>,
    /// Its parameters in text form, masked; `None` is NULL.
    pub parameters: Vec<Masked<Option<String>>>,
    /// What had to be permitted.
    #[serde(rename = "requests", serialize_with = "requests")]
    pub action: Arc<Action>,
    /// `permit`, `deny`, or `observe` (would have been denied).
    pub verdict: &'static str,
    /// Ids of the policies that decided.
    pub rules: Vec<String>,
    /// Reason of a denial.
    pub reason: Option<String>,
}

fn requests<S: Serializer>(action: &Action, serializer: S) -> Result<S::Ok, S::Error> {
    action.requests.serialize(serializer)
}

/// Part of an answer.
#[derive(Clone, Debug, Serialize)]
pub struct AnswerPart {
    /// Names of the columns; only in the first part of an answer.
    pub columns: Option<Vec<String>>,
    /// Rows of values in text form; `None` is NULL.
    pub rows: Vec<Masked<Vec<Option<String>>>>,
    /// Set where the answer went on beyond the cap.
    pub truncated: bool,
}

/// An error of the target.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The protocol's code, e.g. an SQLSTATE.
    pub code: String,
    /// Its text, masked.
    pub message: Masked<String>,
}

/// Where records go: the seam between `gate` and the log, so that tests can listen.
pub trait Append: Send + Sync {
    /// Appends a record and returns its sequence number. When this returns, the record is in the journal; it is durable
    /// within the target's bound.
    ///
    /// # Errors
    /// The record could not be written. The caller must then refuse what it was about to do.
    fn append(&self, event: &Event) -> Result<u64, AppendError>;
}

/// A record could not be appended.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be written: {0}")]
pub struct AppendError(pub String);

#[cfg(test)]
mod tests;
