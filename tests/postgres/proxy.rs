//! The protocol without the kernel: a listener whose connections are handed to it as the session would, with services that
//! answer what the test says.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use agent::{
    config::{self, Certificate, ColumnRule, CredentialSource, Limits, Role, TlsMode, UpstreamTls},
    gate::Services,
    limits::Counts,
    model::{
        Action, Boxed, Decide, Denial, Executable, Flow, Gone, Liveness, Mode, Principal, Process, Style, Subject,
        Verdict,
    },
    protocol::{Connection, Host, HostError, KeyPair, Login, ca::Authority, protocol},
    recording::{Append, AppendError, Event},
};
use agent_tests::{Outcome, Postgres, TempDir};
use tokio::{net::TcpListener, runtime::Runtime};

/// What the policy says: a denial, or nothing.
pub type Policy = fn(&Action) -> Option<Denial>;

/// What a proxy shall be like.
pub struct Builder {
    target: config::Target,
    destination: SocketAddr,
    login: (String, Option<String>),
    certificate: Option<Certificate>,
    policy: Policy,
    roles: Vec<Role>,
}

impl Builder {
    pub fn new(server: &Postgres) -> Self {
        let destination = server.addresses()[0];
        let target = config::Target {
            credential: CredentialSource::Agent(Vec::new()),
            ..config::Target::simple("orders", vec![destination.into()])
        };
        let login = ("app".into(), Some("upstream secret".into()));
        Self { target, destination, login, certificate: None, policy: |_| None, roles: Vec::new() }
    }

    pub fn login(mut self, user: &str, password: Option<&str>) -> Self {
        self.login = (user.into(), password.map(Into::into));
        self
    }

    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// One more role of every client, with these limits.
    pub fn role(mut self, name: &str, limits: Limits) -> Self {
        self.roles.push(Role { name: name.into(), matches: Vec::new(), limits });
        self
    }

    pub fn mask(mut self, schema: &str, table: &str, column: &str, style: Style) -> Self {
        self.target.columns.push(ColumnRule {
            database: None,
            schema: schema.into(),
            table: table.into(),
            column: column.into(),
            class: "pii".into(),
            style,
            line: 1,
        });
        self
    }

    pub fn observe(mut self) -> Self {
        self.target.mode = Mode::Observe;
        self
    }

    pub fn clients_own_login(mut self) -> Self {
        self.target.credential = CredentialSource::Client;
        self
    }

    /// What the agent shows to a target that asks for a client's certificate; the files are read at each login.
    pub fn certificate(mut self, cert: PathBuf, key: PathBuf) -> Self {
        self.certificate = Some(Certificate { cert, key });
        self
    }

    /// Settings of the target for which there is nothing shorter.
    pub fn target(mut self, change: impl FnOnce(&mut config::Target)) -> Self {
        change(&mut self.target);
        self
    }

    /// Another place that stands for the server.
    pub fn destination(mut self, destination: SocketAddr) -> Self {
        self.target.addresses = vec![destination.into()];
        self.destination = destination;
        self
    }

    pub fn tls(mut self, mode: TlsMode, ca: Option<PathBuf>, name: Option<&str>) -> Self {
        self.target.tls = UpstreamTls { ca, name: name.map(Into::into), ..UpstreamTls::new(mode) };
        self
    }

    pub fn serve(mut self, cert: PathBuf, key: PathBuf) -> Self {
        self.target.serve.certificate = Some(Certificate { cert, key });
        self
    }

    pub fn start(self) -> Outcome<Proxy> {
        Proxy::start(self)
    }
}

/// A listener in this process.
pub struct Proxy {
    runtime: Option<Runtime>,
    port: u16,
    log: Arc<Log>,
    rules: Arc<Rules>,
    state: TempDir,
}

impl Proxy {
    fn start(builder: Builder) -> Outcome<Self> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let state = TempDir::new().map_err(|error| error.to_string())?;
        let authority = Authority::open(state.path(), std::slice::from_ref(&builder.target));
        let authority = authority.map_err(|error| error.to_string())?;
        let log = Arc::new(Log::default());
        let rules = Arc::new(Rules { policy: builder.policy, epoch: AtomicU64::new(1), gone: AtomicBool::new(false) });
        let host = Arc::new(Stand { login: builder.login, certificate: builder.certificate, authority });
        let target = Arc::new(builder.target);
        let (shared_log, shared_rules) = (Arc::clone(&log), Arc::clone(&rules));
        let sessions = AtomicU64::new(1);
        let counts = Arc::new(Counts::new(&builder.roles, Box::new(|_| 0)));
        let roles: Vec<String> = builder.roles.into_iter().map(|role| role.name).collect();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let principal = Arc::new(principal(builder.destination, &roles));
                let connection = Connection {
                    subject: Subject {
                        session: format!("s{}", sessions.fetch_add(1, Ordering::Relaxed)),
                        principal: Arc::clone(&principal),
                        target: target.name.clone(),
                        mode: target.mode,
                    },
                    principal,
                    destination: builder.destination,
                    named: None,
                    target: Arc::clone(&target),
                    masking_key: Arc::from([7; 32]),
                    services: Services {
                        policy: shared_rules.clone(),
                        liveness: shared_rules.clone(),
                        log: shared_log.clone(),
                        limits: counts.of(&roles),
                    },
                    host: host.clone(),
                };
                if let Some(serve) = protocol("postgres") {
                    tokio::spawn(serve(socket, connection));
                }
            }
        });
        Ok(Self { runtime: Some(runtime), port, log, rules, state })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection string of libpq; the user is the client's word and proves nothing.
    pub fn dsn(&self, more: &str) -> String {
        format!("host=127.0.0.1 port={} dbname=shop user=whoever sslmode=disable {more}", self.port)
    }

    /// The certificate of the agent's own authority.
    pub fn ca(&self) -> PathBuf {
        self.state.join("ca/ca.pem")
    }

    /// The records so far, as JSON.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.log.0.lock().expect("log").clone()
    }

    /// All records as one text.
    pub fn log_text(&self) -> String {
        self.log().iter().map(|record| record.to_string() + "\n").collect()
    }

    /// The policies change.
    pub fn change_policies(&self) {
        self.rules.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// The process behind every connection has gone.
    pub fn process_ends(&self) {
        self.rules.gone.store(true, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Default)]
struct Log(Mutex<Vec<serde_json::Value>>);

impl Append for Log {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        let mut log = self.0.lock().map_err(|error| AppendError(error.to_string()))?;
        log.push(serde_json::to_value(event).map_err(|error| AppendError(error.to_string()))?);
        Ok(log.len() as u64)
    }
}

struct Rules {
    policy: Policy,
    epoch: AtomicU64,
    gone: AtomicBool,
}

impl Decide for Rules {
    fn decide(&self, _: &Principal, action: &Action, _: &jiff::Zoned) -> Verdict {
        match (self.policy)(action) {
            Some(denial) => Verdict::Deny(denial),
            None => Verdict::Permit { rules: vec!["test".into()] },
        }
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn depends_on_time(&self) -> bool {
        false
    }
}

impl Liveness for Rules {
    fn check(&self, _: &Flow) -> Result<(), Gone> {
        if self.gone.load(Ordering::SeqCst) { Err(Gone::Ended) } else { Ok(()) }
    }
}

struct Stand {
    login: (String, Option<String>),
    certificate: Option<Certificate>,
    authority: Authority,
}

impl Host for Stand {
    fn mark<'a>(&'a self, _: BorrowedFd<'a>) -> Boxed<'a, Result<(), HostError>> {
        Box::pin(async { Ok(()) })
    }

    fn read<'a>(&'a self, file: &'a Path) -> Boxed<'a, Result<zeroize::Zeroizing<Vec<u8>>, HostError>> {
        Box::pin(async move { std::fs::read(file).map(Into::into).map_err(|error| HostError(error.to_string())) })
    }

    fn login<'a>(&'a self, _: &'a config::Target, _: &'a Principal) -> Boxed<'a, Result<Login, HostError>> {
        let (user, password) = self.login.clone();
        let password = password.map(|password| password.into_bytes().into());
        Box::pin(async move {
            let certificate = match &self.certificate {
                Some(files) => {
                    Some(KeyPair { chain: self.read(&files.cert).await?, key: self.read(&files.key).await? })
                }
                None => None,
            };
            Ok(Login { user, password, certificate })
        })
    }

    fn certificate<'a>(
        &'a self,
        target: &'a config::Target,
        destination: IpAddr,
    ) -> Boxed<'a, Result<(String, zeroize::Zeroizing<String>), HostError>> {
        Box::pin(async move { self.authority.issue(target, destination).map_err(|error| HostError(error.to_string())) })
    }

    fn attempted(&self, _: &str, _: Option<&str>) {}

    fn elsewhere(&self, _: agent::protocol::Request) {}

    fn ending(&self) -> Boxed<'_, &'static str> {
        Box::pin(std::future::pending())
    }
}

fn principal(destination: SocketAddr, roles: &[String]) -> Principal {
    let (uid, gid, pid) = (0, 0, std::process::id());
    Principal {
        flow: Flow { tgid: pid, uid, gid, ..Flow::imagined(destination) },
        process: Process {
            pid,
            started: 1,
            uid,
            user: Some("root".into()),
            gid,
            groups: BTreeSet::new(),
            exe: Executable { path: "/usr/bin/psql".into(), device: 1, inode: 1, sha256: None, verified: true },
            argv: Vec::new(),
            directory: "/".into(),
            cgroup: "/".into(),
            unit: None,
            user_unit: None,
            container: None,
        },
        roles: [&["orders-reader".to_owned()], roles].concat(),
    }
}
