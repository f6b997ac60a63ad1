//! The configuration: raw TOML in, a validated [`Config`] out, in which invalid states do not exist.
//!
//! *Invariant:* a configuration with any fault is refused whole, and all its faults are reported at once, each with file,
//! line and remedy.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest as _, Sha256};

use crate::model::{Measure, Mode, Style};

mod address;
mod agent;
mod columns;
mod credential;
mod fault;
mod files;
mod intercept;
mod load;
mod network;
mod overlap;
mod role;
mod section;
mod serve;
mod target;

pub use address::AddressError;
pub(crate) use fault::nearest;
pub use fault::{ConfigErrors, Fault};
pub use files::Files;
pub use network::{Network, Ports};
pub use overlap::nested;

#[cfg(test)]
mod tests;

/// Everything that the operator said.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it was read.
    pub path: PathBuf,
    /// Settings of the agent itself.
    pub agent: Agent,
    /// Whose connections are intercepted, and how.
    pub intercept: Intercept,
    /// Targets, in the order of the file; a target's index is its position here.
    pub targets: Vec<Target>,
    /// Roles, in the order of the file.
    pub roles: Vec<Role>,
}

impl Config {
    /// A digest of all that the kernel side is told: targets with their places and modes, in order, and who is in scope. Two
    /// processes with different ones must not work together.
    #[must_use]
    pub fn enforced(&self) -> String {
        let of = |target: &Target| format!("{:?}", (&target.name, target.mode, &target.addresses, &target.sockets));
        let told = (self.targets.iter().map(of).collect::<Vec<_>>(), &self.intercept);
        hex::encode(Sha256::digest(format!("{told:?}")))
    }
}

/// `[agent]`
#[derive(Clone, Debug)]
pub struct Agent {
    /// The log lives here. Default `/var/lib/postern`.
    pub state_dir: PathBuf,
    /// Sockets live here. Default `/run/postern`.
    pub runtime_dir: PathBuf,
    /// Directory of `*.cedar`. Default `/etc/postern/policies`.
    pub policies: PathBuf,
    /// Directory in a BPF file system for the pins, made with mode 0700. Default `/sys/fs/bpf/postern`.
    pub pin_dir: PathBuf,
    /// System user (name or number) that the proxy runs as. Default `postern`.
    pub user: String,
    /// Members of this group may use the control socket beside root. Default: nobody else.
    pub group: Option<String>,
    /// How long an address stays protected that a name no longer stands for, once no connection to it is open. Default
    /// [`NAME_GRACE`].
    pub name_grace: Duration,
    /// How long sessions from before a restart may go on. Default [`DRAIN`].
    pub drain: Duration,
}

/// The default of `drain`: most sessions of jobs and agents are over by then, and pools connect anew.
pub const DRAIN: Duration = Duration::from_secs(3600);

/// The default of `name_grace`: clients go on with an answer that they have long after it was one, and none of the usual ones
/// for longer than some minutes.
pub const NAME_GRACE: Duration = Duration::from_secs(600);

/// Addresses that one name can stand for at a time, old ones among them. A name with more is not one that anybody serves a
/// database under, and each takes an entry of the kernel's map for each port.
pub const MAX_NAME_ADDRESSES: usize = 256;

/// `[intercept]`: who is in scope, and how they are intercepted. The default is the whole host.
#[derive(Clone, Debug, Default)]
pub struct Intercept {
    /// Only these are in scope; if it is empty, everybody is.
    pub include: Members,
    /// These are not, whatever else is true.
    pub exclude: Members,
    /// Whether forwarded packets to targets pass. Default: they are dropped.
    pub pass_forwarded: bool,
    /// Whoever is in scope reaches nothing but the targets and this.
    pub lockdown: Option<Lockdown>,
    /// In which network namespaces the agent listens. Default [`Reach::All`].
    pub namespaces: Reach,
    /// What becomes of connections that are older than interception. Default [`Existing::Cut`].
    pub existing: Existing,
}

/// In which network namespaces the agent listens. In the others, connects to protected destinations are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// In all that processes of this host are in.
    #[default]
    All,
    /// In the host's own.
    Host,
}

/// What becomes of connections that are older than interception.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They are ended, so that the client connects again.
    #[default]
    Cut,
    /// They go on, and are listed.
    Leave,
}

/// Processes, by any of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Units of the system manager.
    pub units: Vec<String>,
    /// User names, or uids.
    pub users: Vec<String>,
    /// Cgroup paths: themselves and all below them.
    pub cgroups: Vec<String>,
}

/// `[intercept.lockdown]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lockdown {
    /// Resolvers that may be asked (port 53); `None`: those of the host's `resolv.conf`.
    pub dns: Option<Vec<std::net::IpAddr>>,
    /// What else may be reached.
    pub allow: Vec<Allowed>,
}

/// A network that lockdown allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Why, in the operator's words.
    pub name: String,
    /// First address of the network.
    pub address: std::net::IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// Only this port; `None`: any, and protocols without ports.
    pub port: Option<u16>,
}

/// `[[target]]`
#[derive(Clone, Debug)]
pub struct Target {
    /// Unique name.
    pub name: String,
    /// Name of a protocol in the registry.
    pub protocol: String,
    /// Default `enforce`.
    pub mode: Mode,
    /// At least one.
    pub addresses: Vec<Address>,
    /// Unix sockets of the target on this host.
    pub sockets: Vec<PathBuf>,
    /// How the agent reaches the target.
    pub tls: UpstreamTls,
    /// What the agent presents to clients, and asks them for.
    pub serve: Serve,
    /// How the agent logs in.
    pub credential: CredentialSource,
    /// Columns that are masked.
    pub columns: Vec<ColumnRule>,
    /// When a record counts as kept. Default [`Durability::Batched`].
    pub durability: Durability,
    /// What the target sees as the session's `application_name`. Default [`ApplicationName::Identity`], and
    /// [`ApplicationName::Client`] where the client's own login is relayed.
    pub application_name: ApplicationName,
}

impl Target {
    /// A target of the simplest kind: PostgreSQL, enforced, without TLS, with the client's own login, nothing masked.
    #[must_use]
    pub fn simple(name: impl Into<String>, addresses: Vec<Address>) -> Self {
        Self {
            name: name.into(),
            protocol: "postgres".into(),
            mode: Mode::Enforce,
            addresses,
            sockets: Vec::new(),
            tls: UpstreamTls::new(TlsMode::Disable),
            serve: Serve::default(),
            credential: CredentialSource::Client,
            columns: Vec::new(),
            durability: Durability::Batched,
            application_name: ApplicationName::Client,
        }
    }

    /// Its number in the coverage ledger: of its name, so that it stays when others come and go. Two names may share one; then
    /// their connects are counted together.
    #[must_use]
    pub fn ledger(&self) -> u32 {
        let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(self.name.as_bytes()));
        // Neither of the numbers that stand for something else.
        u32::from_be_bytes([a, b, c, d]).clamp(1, u32::MAX - 1)
    }
}

/// An address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `10.20.0.5:5432`, `[fd00::5]:5432`, `10.20.0.0/24:5432-5439`
    Network {
        /// One host, or many.
        network: Network,
        /// The ports there.
        ports: Ports,
    },
    /// `orders.db.internal:5432`
    Name {
        /// Host name.
        host: String,
        /// The ports there.
        ports: Ports,
    },
}

/// `tls = { mode = …, ca = … }`
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// How far the server's certificate is checked. Default [`TlsMode::VerifyFull`].
    pub mode: TlsMode,
    /// Authorities (PEM) for `verify-ca` and `verify-full`.
    pub ca: Option<PathBuf>,
    /// Name expected in the server's certificate; default: the host name of the address, or the address.
    pub name: Option<String>,
    /// How TLS begins. Default [`TlsNegotiation::Request`].
    pub negotiation: TlsNegotiation,
    /// Whether the login must be bound to the TLS connection. Default: it is where the server offers that.
    pub channel_binding: ChannelBinding,
}

impl UpstreamTls {
    /// A mode, and all else by default.
    #[must_use]
    pub fn new(mode: TlsMode) -> Self {
        let (negotiation, channel_binding) = (TlsNegotiation::Request, ChannelBinding::Prefer);
        Self { mode, ca: None, name: None, negotiation, channel_binding }
    }
}

/// As `sslnegotiation` of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsNegotiation {
    /// The server is asked in plaintext whether it offers TLS.
    Request,
    /// The first byte is TLS: PostgreSQL 17 and later.
    Direct,
}

/// As `channel_binding` of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Where the server offers it.
    Prefer,
    /// There is no login without it.
    Require,
}

/// What the target sees as a session's `application_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationName {
    /// `postern:ROLE:SESSION`
    Identity,
    /// What the client says.
    Client,
}

/// As `sslmode` of libpq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain TCP.
    Disable,
    /// TLS, any certificate.
    Require,
    /// TLS, a certificate of a known authority.
    VerifyCa,
    /// TLS, a certificate of a known authority for this name.
    VerifyFull,
}

/// `serve = { cert = …, key = …, user = …, password = … }`
#[derive(Clone, Debug, Default)]
pub struct Serve {
    /// What the agent presents to clients that ask for TLS; `None`: a certificate from its own authority.
    pub certificate: Option<Certificate>,
    /// Clients are asked for this; `None`: they are asked for nothing.
    pub password: Option<Placeholder>,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Certificate chain (PEM).
    pub cert: PathBuf,
    /// Private key (PEM), readable by root (or the agent's user) only.
    pub key: PathBuf,
}

/// What clients prove that insist on authentication. It is no secret: who knows it and is not permitted gains nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placeholder {
    /// The only user that there is; `None`: whichever the client names.
    pub user: Option<String>,
    /// The password.
    pub password: PlaceholderPassword,
}

/// Where a placeholder password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceholderPassword {
    /// In the configuration.
    Plain(String),
    /// In a file (one trailing newline is dropped).
    File(PathBuf),
}

/// `credential = …`
#[derive(Clone, Debug)]
pub enum CredentialSource {
    /// The agent logs in; the first entry whose role the principal has (or that names none) is used.
    Agent(Vec<Credential>),
    /// `"client"`: the client's own login is relayed. Only in observe mode.
    Client,
}

/// One upstream login.
#[derive(Clone, Debug)]
pub struct Credential {
    /// For principals of this role only.
    pub role: Option<String>,
    /// User at the target.
    pub user: String,
    /// File with the password (one trailing newline is dropped); `None`: the target asks for none.
    pub password_file: Option<PathBuf>,
    /// What the agent shows a target that asks for a client's certificate.
    pub certificate: Option<Certificate>,
}

/// An entry of `[target.columns]`: `"database.schema.table.column" = { class = …, mask = … }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnRule {
    /// `None` for `*`.
    pub database: Option<String>,
    /// Schema.
    pub schema: String,
    /// Table.
    pub table: String,
    /// Column.
    pub column: String,
    /// Class for policies: `pii`, `secret`, …
    pub class: String,
    /// How it is hidden.
    pub style: Style,
    /// Line in the configuration, for messages.
    pub line: usize,
}

/// When a record counts as kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// An intent is fsynced before its bytes go upstream.
    Strict,
    /// Records are fsynced at least every 20 ms.
    Batched,
}

/// `[[role]]`
#[derive(Clone, Debug)]
pub struct Role {
    /// Unique name.
    pub name: String,
    /// The role is assigned if any entry matches. At least one.
    pub matches: Vec<Match>,
    /// What its processes may use at most.
    pub limits: Limits,
}

/// `limits` of a role: what is not given is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Rows that one statement shows.
    pub rows: Option<u64>,
    /// Bytes of rows and of copied data that one statement moves.
    pub bytes: Option<u64>,
    /// How long one statement takes.
    pub statement_time: Option<Duration>,
    /// Sessions that are open at a time, of all its processes together.
    pub sessions: Option<u64>,
    /// Statements that begin within a minute, of all its processes together.
    pub statements_per_minute: Option<u64>,
}

impl Limits {
    /// Those that are given, as in the file.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { rows, bytes, statement_time, sessions, statements_per_minute } = self;
        let all = [
            (Measure::Rows, *rows),
            (Measure::Bytes, *bytes),
            (Measure::StatementTime, statement_time.map(|time| time.as_secs())),
            (Measure::Sessions, *sessions),
            (Measure::StatementsPerMinute, *statements_per_minute),
        ];
        all.into_iter().filter_map(|(measure, most)| Some((measure.name(), most?)))
    }
}

/// An entry of `match`: all keys that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Unit of the system manager.
    pub unit: Option<String>,
    /// Unit of a user's own manager.
    pub user_unit: Option<String>,
    /// User name, or a uid.
    pub user: Option<String>,
    /// Name (or gid) of any group.
    pub group: Option<String>,
    /// Path of the executable; matches only a verified one.
    pub exe: Option<PathBuf>,
    /// SHA-256 of the executable.
    pub exe_sha256: Option<String>,
    /// Cgroup path: itself and all below it.
    pub cgroup: Option<String>,
    /// Id of a container, or the beginning of it.
    pub container: Option<String>,
}
