//! A log with fixed contents and times, served by a real control socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use agent::{
    control::{
        self, Access, CoverageReport, Daemon, Draining, OpenSession, Peer, Policies, Restarted, Status, TargetStatus,
        Trouble,
    },
    masking::without_values,
    model::{
        Action, Executable, Fate, Flow, Holder, Limit, Measure, Mode, Older, Principal, Process, Request, Resource,
        Silent, Surroundings,
    },
    recording::{AnswerPart, Append, Decision, Event, Failure, Log, Options, SessionStart, timestamp},
};
use agent_tests::{Outcome, TempDir};

/// 2026-01-02 03:04:05 UTC.
const EPOCH: i64 = 1_767_323_045_000_000_000;
/// Between two records.
const STEP: i64 = 50_000_000;

/// A statement that would clear the screen, set the title and hide text, if it reached a terminal.
pub const HOSTILE: &str = "SELECT 1 -- \x1b[2J\x1b]0;owned\x07 \u{202e}txet neddih\u{9b}31m\r";

/// A served log.
pub struct Running {
    pub dir: TempDir,
    pub log: Arc<Log>,
    _runtime: tokio::runtime::Runtime,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nothing is asked of it after the suite.
        let _ = self.log.close();
    }
}

impl Running {
    /// Fills a new log and serves it.
    pub fn start() -> Outcome<Self> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let dir = TempDir::new().map_err(|error| said(&error))?;
        let state = dir.join("state");
        let log = Arc::new(open(&state)?);
        fill(&*log)?;
        if !log.settle() {
            return Err("the records are not moved".into());
        }
        let runtime = tokio::runtime::Runtime::new().map_err(|error| said(&error))?;
        let config = format!("[agent]\nruntime_dir = {:?}\nstate_dir = {state:?}\n", dir.path());
        dir.write("postern.toml", config, 0o644).map_err(|error| said(&error))?;
        let access = Access::new(None).map_err(|error| said(&error))?;
        let listener = {
            let _in = runtime.enter();
            control::bind(dir.path(), false).map_err(|error| said(&error))?
        };
        runtime.spawn(control::serve(listener, access, Arc::new(Fixed(Arc::clone(&log)))));
        Ok(Self { dir, log, _runtime: runtime })
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("postern.toml")
    }
}

/// Opens a log with a clock that goes on by [`STEP`] at each reading.
pub fn open(state: &Path) -> Outcome<Log> {
    std::fs::create_dir_all(state).map_err(|error| error.to_string())?;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700)).map_err(|error| error.to_string())?;
    let time = AtomicI64::new(EPOCH);
    let clock = Arc::new(move || {
        // Whoever syncs reads the clock too, at moments that are not fixed.
        match std::thread::current().name() {
            Some("journal-sync") => time.load(Ordering::Relaxed),
            _ => time.fetch_add(STEP, Ordering::Relaxed),
        }
    });
    Log::open(Options { clock, ..Options::new(state) }).map_err(|error| error.to_string())
}

/// Appends the fixed records.
pub fn fill(log: &dyn Append) -> Outcome {
    let add = |event: &Event| log.append(event).map(drop).map_err(|error| error.to_string());
    add(&started("s1", "svc-orders", 1001, "/usr/bin/psql", &["orders-reader", "night-shift"]))?;
    add(&decided("s1", 1, "SELECT id, name, ssn\n  FROM customers\n WHERE id < $1", "permit", None))?;
    add(&Event::Answer {
        session: "s1".into(),
        operation: 1,
        answer: AnswerPart {
            columns: Some(vec!["id".into(), "name".into(), "ssn".into()]),
            rows: vec![without_values(vec![Some("1".into()), Some("First".into()), Some("*******6789".into())])],
            truncated: false,
        },
    })?;
    let rows = vec![without_values(vec![Some("2".into()), None, Some("*******4321".into())])];
    let rest = AnswerPart { columns: None, rows, truncated: false };
    add(&finished("s1", 1, 2, Some("SELECT 2"), None, Some(rest)))?;
    let reason = "DELETE and UPDATE need a WHERE clause here.";
    add(&decided("s1", 2, "DELETE FROM orders", "deny", Some(reason)))?;
    add(&decided("s1", 3, HOSTILE, "permit", None))?;
    let failure =
        Failure { code: "42P01".into(), message: without_values("relation \"x\x1b[31m\" does not exist".into()) };
    add(&finished("s1", 3, 0, None, Some(failure), None))?;
    add(&ended("s1", 3, 1))?;

    add(&started("s2a", "svc-reports", 1002, "/usr/bin/python3.11", &[]))?;
    add(&decided("s2a", 1, "SELECT count(*) FROM orders", "permit", None))?;
    let limit = Limit { measure: Measure::Rows, role: "orders-reader".into(), most: 1 };
    add(&Event::LimitReached { session: "s2a".into(), operation: Some(1), limit: limit.clone() })?;
    let failure = Failure { code: "53400".into(), message: without_values(limit.to_string()) };
    add(&finished("s2a", 1, 1, None, Some(failure), None))?;
    add(&started("s2b", "svc-orders", 1001, "/usr/bin/psql", &["orders-reader"]))?;
    add(&decided("s2b", 1, "UPDATE orders SET total = 0", "observe", Some(reason)))?;
    add(&ended("s2b", 1, 1))?;
    add(&Event::ConnectionRefused {
        limit: None,
        target: Some("orders".into()),
        principal: Some(Arc::new(principal("games", 5, "/usr/bin/nc.openbsd", &[]))),
        flow: None,
        reason: "no policy permits connect here".into(),
        rule: None,
    })
}

/// A statement of a session.
pub fn decided(session: &str, operation: u64, text: &str, verdict: &'static str, reason: Option<&str>) -> Event {
    let table = Resource::target("orders").child("Database", "shop").child("Schema", "public").child("Table", "orders");
    Event::Decided(Box::new(Decision {
        session: session.into(),
        operation,
        text: Arc::new(without_values(text.into())),
        parameters: if text.contains("$1") { vec![without_values(Some("3".into()))] } else { vec![] },
        action: Arc::new(Action { requests: [Request::new("sql:select", table)].into(), facts: BTreeMap::new() }),
        verdict,
        rules: vec![if verdict == "permit" { "orders-reader-select" } else { "no-unbounded-writes" }.into()],
        reason: reason.map(str::to_owned),
    }))
}

fn finished(
    session: &str,
    operation: u64,
    rows: u64,
    tag: Option<&str>,
    error: Option<Failure>,
    answer: Option<AnswerPart>,
) -> Event {
    let (session, tag) = (session.into(), tag.map(str::to_owned));
    Event::Finished { session, operation, rows, copied: None, micros: 1_234, tag, error, answer }
}

fn ended(session: &str, operations: u64, denied: u64) -> Event {
    Event::SessionEnded {
        session: session.into(),
        bytes_in: 512,
        bytes_out: 2_048,
        operations,
        denied,
        micros: 350_000,
        reason: "the client closed the connection".into(),
    }
}

/// The start of a session.
pub fn started(session: &str, user: &str, uid: u32, exe: &str, roles: &[&str]) -> Event {
    Event::SessionStarted(Box::new(SessionStart {
        session: session.into(),
        principal: Arc::new(principal(user, uid, exe, roles)),
        target: "orders".into(),
        protocol: "postgres".into(),
        mode: if session == "s2b" { Mode::Observe } else { Mode::Enforce },
        rules: vec!["orders-reader-select".into()],
        client_tls: None,
        server_tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384".into()),
        upstream_user: "orders_app".into(),
        client_user: "postgres".into(),
        details: BTreeMap::from([("database".into(), "shop".into())]),
    }))
}

fn principal(user: &str, uid: u32, exe: &str, roles: &[&str]) -> Principal {
    Principal {
        flow: Flow { tgid: 4242, uid, gid: uid, ..Flow::imagined(([10, 20, 0, 5], 5432).into()) },
        process: Process {
            pid: 4242,
            started: 6,
            uid,
            user: Some(user.into()),
            gid: uid,
            groups: BTreeSet::from([user.to_owned()]),
            exe: Executable {
                path: exe.into(),
                device: 1,
                inode: 2,
                sha256: Some("0123456789abcdef".repeat(4)),
                verified: true,
            },
            argv: vec![exe.rsplit('/').next().unwrap_or(exe).into(), "shop".into()],
            directory: "/".into(),
            cgroup: "/system.slice/orders-agent.service".into(),
            unit: Some("orders-agent.service".into()),
            user_unit: None,
            container: None,
        },
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

/// Network namespaces of every kind, and a connection that is older than the agent.
fn surroundings() -> Surroundings {
    Surroundings {
        listening: 12,
        silent: vec![Silent { pid: 815, reason: "not on ::1: Cannot assign requested address (os error 99)".into() }],
        beyond: 3,
        looked: 1,
        cut: 4,
        open: 2,
        older: vec![Older {
            target: 0,
            source: ([10, 20, 0, 9], 40_000).into(),
            destination: ([10, 20, 0, 5], 5432).into(),
            netns: 1,
            uid: 1000,
            holders: vec![Holder { pid: 4712, exe: Some("/usr/bin/psql".into()) }, Holder { pid: 4713, exe: None }],
            fate: Fate::NotCut("Operation not supported (os error 95)".into()),
        }],
        blind: None,
        sockets: Vec::new(),
    }
}

/// An agent with a fixed status.
struct Fixed(Arc<Log>);

impl Daemon for Fixed {
    fn status(&self) -> Result<Status, String> {
        let mut status = Status {
            version: "0.1.0".into(),
            pid: 4711,
            started: timestamp(EPOCH),
            enforcing: "degraded: unix".into(),
            targets: vec![TargetStatus {
                name: "orders".into(),
                protocol: "postgres".into(),
                mode: Mode::Enforce,
                addresses: vec!["10.20.0.5:5432".into(), "10.20.0.6:5432".into()],
                connections: 2,
                problems: vec!["orders.db.internal does not resolve".into()],
                last_session: Some(timestamp(EPOCH)),
                last_trouble: Some(Trouble {
                    time: timestamp(EPOCH + 60_000_000_000),
                    reason: "the target cannot be reached: Connection refused (os error 111)".into(),
                }),
            }],
            counters: agent_common::COUNTER_NAMES.iter().zip(100..).map(|((_, name), n)| ((*name).into(), n)).collect(),
            surroundings: surroundings(),
            policies: Policies { count: 4, epoch: 2 },
            log: self.0.status().into(),
            draining: vec![Draining { pid: 4242, sessions: 2, until: Some(timestamp(EPOCH + 3_600_000_000_000)) }],
        };
        // What depends on the moment and on the store's layout is not part of the snapshots.
        status.log.synced = Some(timestamp(EPOCH));
        (status.log.durable, status.log.store_bytes, status.log.journal_bytes) =
            (status.log.records, 9_000_000, 12_345);
        Ok(status)
    }

    fn self_test(&self) -> Result<Vec<agent::selftest::Attempt>, String> {
        Ok(Vec::new())
    }

    fn coverage(&self) -> Result<CoverageReport, String> {
        Err("nothing is redirected here".into())
    }

    fn reload(&self) -> Result<Policies, String> {
        Ok(Policies { count: 4, epoch: 3 })
    }

    fn restart(&self) -> Result<Restarted, String> {
        Ok(Restarted { pid: 4712, before: 4711 })
    }

    fn sessions_of(&self, _: Peer) -> Vec<OpenSession> {
        Vec::new()
    }

    fn log(&self) -> Result<Arc<Log>, String> {
        Ok(Arc::clone(&self.0))
    }
}
