//! The nouns and the seams: what the parts of Postern say to each other.
//!
//! Nothing here does anything: values, and the traits by which services meet. *Invariant:* this module imports no other.

mod coverage;
mod limit;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

pub use self::{
    coverage::{Coverage, CoverageRow, KernelSide},
    limit::{Limit, Measure},
};

/// A boxed future, for traits that are used as objects.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the kernel noted when a process connected to a protected destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Socket cookie of the connecting socket.
    pub cookie: u64,
    /// Thread-group id of the process that called `connect`.
    pub tgid: u32,
    /// Generation of its process entry (boot-time nanoseconds).
    pub generation: u64,
    /// Its exec sequence at that moment.
    pub sequence: u64,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Cgroup id (v2).
    pub cgroup: u64,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Where the process wanted to go.
    pub destination: SocketAddr,
    /// Index of the target that the kernel matched.
    pub target: u32,
    /// The same target in the coverage ledger, where it keeps its place when the configuration changes.
    pub ledger: u32,
    /// When the process called `connect` (boot-time nanoseconds). With the cookie it tells this connect from all others.
    pub at: u64,
}

/// What tells one redirected connect from all others: cookie and time.
pub type FlowId = (u64, u64);

impl Flow {
    /// What would have been noted of a connect to there, by no process in particular.
    #[must_use]
    pub const fn imagined(destination: SocketAddr) -> Self {
        Self {
            cookie: 1,
            tgid: 1,
            generation: 1,
            sequence: 0,
            uid: 0,
            gid: 0,
            cgroup: 1,
            netns: 1,
            destination,
            target: 0,
            ledger: 1,
            at: 1,
        }
    }

    /// See [`FlowId`].
    #[must_use]
    pub const fn id(&self) -> FlowId {
        (self.cookie, self.at)
    }
}

/// The running file of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Executable {
    /// Path as the process's own mount namespace shows it. Evidence only, unless `verified`.
    pub path: PathBuf,
    /// Device of the running file.
    pub device: u64,
    /// Inode of the running file.
    pub inode: u64,
    /// SHA-256 of the running file, in hexadecimal; `None` if it could not be read, or if the process could have set which file
    /// that is, as it can in a user namespace of its own.
    pub sha256: Option<String>,
    /// The file at `path` in the agent's own mount namespace has this very device and inode, and the process could not have set
    /// which file that is.
    pub verified: bool,
}

/// Facts about the process that owns a flow, read by the warden between two equal readings of its process entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start, in nanoseconds of boot time, rounded down to the clock tick.
    pub started: u64,
    /// Real user id.
    pub uid: u32,
    /// Name of the user, if the host knows one.
    pub user: Option<String>,
    /// Real group id.
    pub gid: u32,
    /// Names and numbers of the process's groups, primary and supplementary.
    pub groups: BTreeSet<String>,
    /// The running file.
    pub exe: Executable,
    /// Arguments. Evidence only: the process can rewrite them.
    pub argv: Vec<String>,
    /// Working directory. Evidence only.
    pub directory: PathBuf,
    /// Path of the cgroup within the v2 hierarchy.
    pub cgroup: String,
    /// Unit of the system manager, from a cgroup that the system manager owns.
    pub unit: Option<String>,
    /// Unit of a user's own manager: named by that user, so never the same thing as `unit`.
    pub user_unit: Option<String>,
    /// Id of the container, from a cgroup that root owns.
    pub container: Option<String>,
}

/// A connection to a protected address that did not go through the agent: it is older than interception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Older {
    /// Index of the target.
    pub target: u32,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// User that made the socket.
    pub uid: u32,
    /// Processes that have it open, as far as they were found.
    pub holders: Vec<Holder>,
    /// What has become of it.
    pub fate: Fate,
}

/// A process that has a connection open. Evidence only: it may have ended by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Path of its running file, as its own mount namespace shows it, or the beginning of it.
    pub exe: Option<String>,
}

/// What becomes of a connection that is older than interception.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It was ended; the client has seen an error.
    Cut,
    /// It goes on, as configured.
    Left,
    /// It should have been ended, and could not be: why.
    NotCut(String),
}

/// How the agent is in the host's network namespaces, and what it cannot close there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// Network namespaces beside the host's own in which it listens.
    pub listening: usize,
    /// Some of those in which it should and cannot: connects to protected destinations are refused there.
    pub silent: Vec<Silent>,
    /// Number of namespaces beyond the most that it listens in: the same is true of them.
    pub beyond: usize,
    /// How often all connections were looked at since the start.
    pub looked: u64,
    /// Connections older than interception that were ended since the start.
    pub cut: u64,
    /// Number of those that go on.
    pub open: usize,
    /// Some of them.
    pub older: Vec<Older>,
    /// Why they could not be looked for.
    pub blind: Option<String>,
    /// Listed Unix sockets that somebody in scope can connect to: the target's index, and which and why.
    pub sockets: Vec<(u32, String)>,
}

/// A network namespace in which the agent cannot listen, or for IPv4 only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silent {
    /// A process in it.
    pub pid: u32,
    /// Why.
    pub reason: String,
}

/// Who acts: a process, and the roles that the configuration assigns to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Principal {
    /// The flow that proves which process it is.
    pub flow: Flow,
    /// What the warden read about it.
    pub process: Process,
    /// Roles assigned by the configuration, in the order of the configuration.
    pub roles: Vec<String>,
}

/// Whether a target's verdicts are carried out or only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Decide, record, block and mask.
    Enforce,
    /// Decide and record; block nothing, and mask only the log.
    Observe,
}

/// A level of a resource's path: its entity type in the policy schema, and its own name.
///
/// The first level is always `Target`; a protocol adds its own below, as its schema fragment declares them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level {
    /// Entity type: `Target`, `Database`, `Schema`, `Table`, `Column`, `Function`, …
    pub kind: String,
    /// Name at this level, as the server spells it.
    pub name: String,
}

/// What is acted upon: a path from the target down.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Resource(Vec<Level>);

impl Resource {
    /// The target itself.
    #[must_use]
    pub fn target(name: &str) -> Self {
        Self(vec![Level { kind: "Target".into(), name: name.into() }])
    }

    /// A resource one level further down.
    #[must_use]
    pub fn child(&self, kind: &str, name: &str) -> Self {
        let mut levels = self.0.clone();
        levels.push(Level { kind: kind.into(), name: name.into() });
        Self(levels)
    }

    /// The levels, target first. Never empty.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.0
    }

    /// Entity type of the resource itself.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.0.last().map_or("Target", |level| &level.kind)
    }

    /// Entity id of the first `depth` levels: names joined by `.`; a name that has a `.`, a `"` or nothing in it is put in
    /// double quotes (with `"` doubled), so that two resources never share an id.
    #[must_use]
    pub fn id(&self, depth: usize) -> String {
        let mut id = String::new();
        for (position, level) in self.0.iter().take(depth).enumerate() {
            if position > 0 {
                id.push('.');
            }
            if level.name.is_empty() || level.name.contains(['.', '"']) {
                id.push('"');
                id.push_str(&level.name.replace('"', "\"\""));
                id.push('"');
            } else {
                id.push_str(&level.name);
            }
        }
        id
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.id(self.0.len()))
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One thing that must be permitted: an action's name in the policy schema, on a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// `connect`, `unmask`, or a protocol's own: `sql:select`, …
    pub action: String,
    /// What it is done to.
    pub resource: Resource,
}

impl Request {
    /// A request.
    #[must_use]
    pub fn new(action: &str, resource: Resource) -> Self {
        Self { action: action.into(), resource }
    }
}

/// A fact about an operation, for the conditions of policies: an attribute of the context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// Yes or no.
    Bool(bool),
    /// A count.
    Long(i64),
    /// A text.
    Text(String),
    /// A set of texts.
    Set(BTreeSet<String>),
}

/// One operation as its protocol understood it. All its requests must be permitted, or nothing of it happens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Action {
    /// What must be permitted. Never empty: an operation that could not be classified asks for the most dangerous action
    /// that its protocol has.
    pub requests: BTreeSet<Request>,
    /// Context for the policies' conditions.
    pub facts: BTreeMap<&'static str, Fact>,
}

/// What a policy said.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every request is permitted, by these policies.
    Permit {
        /// Ids of the policies that permitted, sorted, without repetition.
        rules: Vec<String>,
    },
    /// At least one request is not.
    Deny(Denial),
}

/// Why something was refused, in words for the client and for the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// Id of the policy that forbade it; `None` if nothing permitted it, or if no policy was asked.
    pub rule: Option<String>,
    /// One sentence for the client. Holds no data of the target.
    pub reason: String,
    /// What the client can do about it.
    pub hint: Option<String>,
    /// The limit that was reached, if it is that.
    pub limit: Option<Limit>,
}

impl Denial {
    /// A refusal that no policy gave: something was missing, unknown or unproven.
    #[must_use]
    pub fn closed(reason: impl Into<String>) -> Self {
        Self { rule: None, reason: reason.into(), hint: None, limit: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<Limit> for Denial {
    fn from(limit: Limit) -> Self {
        Self { limit: Some(limit.clone()), ..Self::closed(limit.to_string()).with_hint(limit.remedy()) }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "denied by Postern policy \"{rule}\": {}", self.reason),
            None => write!(f, "denied by Postern: {}", self.reason),
        }
    }
}

/// How a column is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// Replaced whole.
    Redact,
    /// NULL.
    Null,
    /// Only the last four characters are shown.
    Last4,
    /// A keyed hash: equal values stay equal within a target.
    Hash,
    /// First character of the local part, and the top-level domain.
    Email,
    /// Only the year is shown.
    Year,
    /// A fixed value.
    Fixed,
}

/// A protocol's part of the schema of policies, in Cedar's schema syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Name of the protocol.
    pub name: &'static str,
    /// Its kinds of resources, its actions, and their facts.
    pub text: &'static str,
}

/// Decides, purely. The one implementation is `policy`; the trait is the seam for `gate`.
pub trait Decide: Send + Sync {
    /// The verdict on an action of a principal at `now`. Anything that is not permitted is denied.
    fn decide(&self, principal: &Principal, action: &Action, now: &jiff::Zoned) -> Verdict;

    /// Changes whenever the set of policies does; verdicts of different epochs do not mix.
    fn epoch(&self) -> u64;

    /// Whether any policy looks at the time, so that its verdicts must not be kept.
    fn depends_on_time(&self) -> bool;
}

/// Tells whether the process behind a flow is still the one that connected. The one implementation is in `warden`.
pub trait Liveness: Send + Sync {
    /// `Ok` if the process has neither gone nor exec'd (nor begun to) since the flow was noted.
    ///
    /// # Errors
    /// What has become of it.
    fn check(&self, flow: &Flow) -> Result<(), Gone>;
}

/// What has become of a process since it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Gone {
    /// The process has ended.
    #[error("the process that opened this connection has ended")]
    Ended,
    /// The process runs another program, or is about to.
    #[error("the process that opened this connection has executed another program since")]
    Executed,
    /// Another process was given its pid.
    #[error("the pid of the process that opened this connection now belongs to another process")]
    Replaced,
    /// It could not be found out.
    #[error("the process that opened this connection cannot be examined")]
    Unknown,
}

/// Shared parts of a session's identity, for whoever records or decides.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The session's id, unique on this host.
    pub session: String,
    /// Who.
    pub principal: Arc<Principal>,
    /// Name of the target.
    pub target: String,
    /// Whether the target's verdicts are carried out.
    pub mode: Mode,
}
