//! The control socket: what the command line asks the running agent.
//!
//! A request is one line of JSON ([`Request`]); the answer is any number of lines ([`Reply`]), the last of which is
//! [`Reply::Done`] or [`Reply::Error`]. A connection may ask several things, one after the other.
//!
//! *Invariant:* who asks is known from the kernel (`SO_PEERCRED`), and anybody but root, the agent's own user and the
//! members of the configured group is told about itself and nothing else.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Coverage, Flow, Mode, Surroundings},
    recording::{Filter, Log, LogStatus, Page, Record, Summary, timestamp, verify::Report},
    selftest::Attempt,
};

mod access;
mod server;
#[cfg(test)]
mod tests;

pub use self::{
    access::{Access, Peer},
    server::{ControlError, bind, serve},
};

/// Name of the socket in the runtime directory.
pub const SOCKET: &str = "control.sock";

/// The longest request: all of them are small.
pub const MAX_REQUEST: usize = 16 << 10;

/// The longest line of a reply: a record, with its frame.
pub const MAX_REPLY: usize = crate::recording::MAX_BODY + (64 << 10);

/// Records about the agent in one answer.
pub const MAX_EVENTS: usize = 1000;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who am I, and which sessions do I have open? The only question that everybody may ask.
    Whoami {},
    /// How is the agent?
    Status {},
    /// Is every path to the targets closed?
    Selftest {},
    /// What has become of all connects to targets?
    Coverage {},
    /// Read the policies again.
    Reload {},
    /// Start the program anew, in the place of the process that runs and without refusing anybody.
    Restart {},
    /// Which sessions are there?
    Sessions {
        /// Which of them.
        filter: Filter,
    },
    /// A session, and with `records` all that was recorded of it.
    Session {
        /// Its id, or an unambiguous beginning of it.
        id: String,
        /// Whether the records are wanted too.
        records: bool,
    },
    /// Which records are about the agent and the host?
    Events {
        /// At or after this time.
        since: Option<Timestamp>,
        /// The newest so many of them, at most [`MAX_EVENTS`].
        limit: usize,
    },
    /// Is the log what was written?
    Verify {},
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Whoami`].
    Whoami(Whoami),
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Selftest`].
    Tested(Vec<Attempt>),
    /// To [`Request::Coverage`].
    Coverage(CoverageReport),
    /// To [`Request::Reload`].
    Reloaded(Policies),
    /// To [`Request::Restart`].
    Restarted(Restarted),
    /// To [`Request::Sessions`].
    Sessions(Page),
    /// To [`Request::Session`].
    Session(Box<Summary>),
    /// After [`Reply::Session`], as many as the session has; and to [`Request::Events`].
    Record(Record),
    /// While a long job goes on: steps done, and steps expected.
    Progress(u64, u64),
    /// To [`Request::Verify`].
    Verified(Report),
    /// The answer is complete.
    Done,
    /// There is no answer, or no more of it.
    Error {
        /// What happened, to what and why.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
}

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Process id of the proxy.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// `enforcing`, or `degraded: ` and why.
    pub enforcing: String,
    /// The targets, in the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// The kernel side's counters, by the names of [`agent_common::COUNTER_NAMES`].
    pub counters: BTreeMap<String, u64>,
    /// How it is in the host's network namespaces.
    pub surroundings: Surroundings,
    /// The policies in force.
    pub policies: Policies,
    /// The log.
    pub log: LogReport,
    /// Processes before this one that still have sessions, the oldest first.
    #[serde(default)]
    pub draining: Vec<Draining>,
}

/// A process that only keeps its sessions, since another has taken its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Its pid.
    pub pid: u32,
    /// How many sessions it has.
    pub sessions: u64,
    /// When it ends those that are still open; `None` until the process in its place serves.
    pub until: Option<Timestamp>,
}

/// The agent was restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarted {
    /// Pid of the process that serves now.
    pub pid: u32,
    /// Pid of the one before it, which keeps its sessions.
    pub before: u32,
}

/// The coverage ledger: what has become of all connects to targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageReport {
    /// Boot id of the host, and the epoch of the kernel side within it, with which the counts began.
    pub epoch: String,
    /// By target and user.
    pub rows: Vec<CoverageLine>,
    /// Connects that were taken long ago, have no record, and that no session has in hand; some of them, if they are many.
    pub waiting: Vec<Flow>,
    /// Redirected connects of which nobody can tell what has become, those that wait among them.
    pub unexplained: u64,
}

/// A row of the coverage ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageLine {
    /// Name of the target, or in brackets why it has none.
    pub target: String,
    /// Name of the user, if the host knows one.
    pub user: Option<String>,
    /// Real user id; `None`: all for whom there was no row.
    pub uid: Option<u32>,
    /// How the connects ended.
    #[serde(flatten)]
    pub counts: Coverage,
    /// Redirected connects that are not told of; below zero: more are told of than there were.
    pub unexplained: i64,
}

/// How a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: String,
    /// Its mode.
    pub mode: Mode,
    /// Its addresses, as they are protected at present.
    pub addresses: Vec<String>,
    /// Connections that are open.
    pub connections: u64,
    /// What keeps it from being protected.
    pub problems: Vec<String>,
    /// When the last session with it began, since the agent started.
    pub last_session: Option<Timestamp>,
    /// The last session that could not begin because of the target or of the agent's settings for it.
    pub last_trouble: Option<Trouble>,
}

/// Why a session could not begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// When.
    pub time: Timestamp,
    /// Why, as in the log.
    pub reason: String,
}

/// A set of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// How many there are.
    pub count: usize,
    /// Changes whenever they do.
    pub epoch: u64,
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// Records so far: the sequence of the last one.
    pub records: u64,
    /// The last one that is on disk for certain.
    pub durable: u64,
    /// The last one that is in the store.
    pub moved: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// When the journal was synced last.
    pub synced: Option<Timestamp>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// A process that asks, and what it has open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// Process id.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Name of the user.
    pub user: Option<String>,
    /// Group id.
    pub gid: u32,
    /// Sessions of this process that are open.
    pub sessions: Vec<OpenSession>,
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Its id.
    pub session: String,
    /// Its target.
    pub target: String,
    /// The roles of its principal.
    pub roles: Vec<String>,
}

/// The running agent, as the control socket needs it.
pub trait Daemon: Send + Sync {
    /// How it is.
    ///
    /// # Errors
    /// It is being restarted.
    fn status(&self) -> Result<Status, String>;

    /// Tries every path to the targets. Blocks for a second or so.
    ///
    /// # Errors
    /// The attempts could not be made, and why.
    fn self_test(&self) -> Result<Vec<Attempt>, String>;

    /// Reconciles the coverage ledger. Blocks for a moment.
    ///
    /// # Errors
    /// Why it could not be.
    fn coverage(&self) -> Result<CoverageReport, String>;

    /// Reads the policies again. May block. If they have faults the old ones stay in force.
    ///
    /// # Errors
    /// All faults, as text.
    fn reload(&self) -> Result<Policies, String>;

    /// Has the program take this process's place as it is installed now. Blocks for some seconds.
    ///
    /// # Errors
    /// It did not, and why.
    fn restart(&self) -> Result<Restarted, String>;

    /// The open sessions of a process.
    fn sessions_of(&self, peer: Peer) -> Vec<OpenSession>;

    /// The log.
    ///
    /// # Errors
    /// It is being handed over, or was.
    fn log(&self) -> Result<Arc<Log>, String>;
}

impl From<LogStatus> for LogReport {
    fn from(status: LogStatus) -> Self {
        Self {
            records: status.journal.head.sequence,
            durable: status.journal.durable,
            moved: status.moved.sequence,
            journal_bytes: status.journal.bytes,
            store_bytes: status.store_bytes,
            synced: status.journal.synced.map(timestamp),
            problems: status.journal.failure.into_iter().chain(status.problem).collect(),
        }
    }
}
