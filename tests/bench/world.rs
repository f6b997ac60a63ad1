//! What is measured: one server, and four ways to it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use agent_tests::{
    Agent, Cmd, Outcome, Postgres, Running, Target, TempDir, cpu_time, free_port, pooled::Pool, postgres, wait_until,
};
use serde_json::Value;

use crate::load::Pgbench;

const USER: &str = "bench";
const PASSWORD: &str = "bench-password";
const DATABASE: &str = "bench";

/// pgbench runs as this user, which no passwd entry needs to know.
const UID: u32 = 64_321;

/// Accounts are this many times 100,000; it all fits into the server's memory.
const SCALE: &str = "10";

/// The server's address that the agent protects.
const PROTECTED: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Its other one, to which connections go as if there were no agent.
const UNPROTECTED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

const PATIENCE: Duration = Duration::from_secs(60);

/// Permits what pgbench does.
const POLICY: &str = r#"
@id("bench")
permit (
  principal in Role::"bench",
  action in [Action::"connect", Action::"sql:select", Action::"sql:insert", Action::"sql:update", Action::"sql:basics",
    Action::"sql:copy_out"],
  resource in Target::"bench"
);
"#;

/// A way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Nothing between.
    Direct,
    /// A TCP proxy that understands nothing.
    Haproxy,
    /// A proxy that understands logins, and gives each client a connection of its own (`pool_mode = session`).
    Pgbouncer,
    /// The agent.
    Postern,
}

impl Way {
    /// All of them, in the order in which they take turns.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Haproxy, Self::Pgbouncer, Self::Postern];
    /// What the agent is compared with.
    pub const PEERS: [Self; 3] = [Self::Direct, Self::Haproxy, Self::Pgbouncer];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Pgbouncer => "pgbouncer",
            Self::Postern => "postern",
        }
    }
}

/// Everything that runs.
pub struct World {
    /// The agent.
    pub agent: Agent,
    /// The other proxy.
    pub haproxy: Running,
    haproxy_port: u16,
    pgbouncer: Pool,
    server: Postgres,
    logs: TempDir,
    runs: u32,
    counted: BTreeSet<String>,
}

impl World {
    /// Starts everything.
    ///
    /// # Errors
    /// A part of it did not start.
    pub fn new() -> Outcome<Self> {
        let server = Postgres::builder()
            .listen(&[PROTECTED, UNPROTECTED])
            .login(USER, PASSWORD)
            .setting("log_statement = 'none'")
            .setting("log_connections = off")
            .setting("shared_buffers = '512MB'")
            .start()?;
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {USER}"))?;
        client(UNPROTECTED, server.port()).args(["-i", "-q", "-s", SCALE]).limit(PATIENCE * 5).ok()?;
        let logs = TempDir::new().map_err(|error| format!("temporary directory: {error}"))?;
        let (haproxy, haproxy_port) = haproxy(&logs, server.port(), 256)?;
        let pgbouncer = Pool::sessions(UNPROTECTED, server.port(), USER, PASSWORD, PROTECTED)?;
        let agent = agent(&server)?;
        Ok(Self { agent, haproxy, haproxy_port, pgbouncer, server, logs, runs: 0, counted: BTreeSet::new() })
    }

    /// A pgbench that goes this way.
    ///
    /// # Errors
    /// No directory could be made for its logs.
    pub fn pgbench(&mut self, way: Way) -> Outcome<Pgbench> {
        let (address, port) = self.way(way);
        let _ = fs::remove_dir_all(self.logs.join(format!("run-{}", self.runs)));
        self.runs += 1;
        let logs = self.logs.dir(&format!("run-{}", self.runs), 0o755, UID, UID).map_err(|error| error.to_string())?;
        Ok(Pgbench { command: client(address, port), logs })
    }

    fn way(&self, way: Way) -> (IpAddr, u16) {
        match way {
            Way::Direct => (UNPROTECTED, self.server.port()),
            Way::Haproxy => (PROTECTED, self.haproxy_port),
            Way::Pgbouncer => (PROTECTED, self.pgbouncer.port()),
            Way::Postern => (PROTECTED, self.server.port()),
        }
    }

    /// Has the server do something, as its owner.
    ///
    /// # Errors
    /// It refused.
    pub fn sql(&self, text: &str) -> Outcome {
        self.server.sql(DATABASE, text).map(drop)
    }

    /// How many bytes psql is given for this COPY.
    ///
    /// # Errors
    /// It was refused.
    pub fn copy(&self, way: Way, copy: &str) -> Outcome<u64> {
        let (address, port) = self.way(way);
        let psql = format!("{}/psql -X -q -c '{copy}' | wc -c", postgres::BIN);
        let counted = login(Cmd::new("/bin/sh"), address, port).args(["-c", &psql]).limit(PATIENCE * 5).ok()?;
        counted.trim().parse().map_err(|_| counted.clone())
    }

    /// Has the agent use these policies beside its own.
    ///
    /// # Errors
    /// It did not take them.
    pub fn policies(&self, text: &str) -> Outcome {
        let file = self.agent.path("policies/others.cedar");
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        self.agent.postern(&["policy", "reload"]).map(drop)
    }

    /// Does something to the agent's state directory while the agent does not run.
    ///
    /// # Errors
    /// It failed, or the agent did not stop or start.
    pub fn while_stopped(&mut self, act: impl FnOnce(&Path) -> Outcome) -> Outcome {
        self.agent.stop()?;
        act(&self.agent.path("state"))?;
        self.agent.start()
    }

    /// Processor time that what stands between has used so far; none if nothing does.
    ///
    /// # Errors
    /// It has gone.
    pub fn cpu_time(&self, way: Way) -> Outcome<Duration> {
        let pid = match way {
            Way::Direct => return Ok(Duration::ZERO),
            Way::Haproxy => Some(self.haproxy.pid()),
            Way::Pgbouncer => Some(self.pgbouncer.pid()),
            Way::Postern => self.agent.proxy(),
        };
        pid.and_then(cpu_time).ok_or_else(|| format!("{} has gone", way.name()))
    }

    /// How many statements of pgbench's clients were recorded since the last call.
    ///
    /// pgbench looks at its tables first, in a session of its own, which is not counted.
    ///
    /// # Errors
    /// The agent does not answer, or a statement was denied.
    pub fn recorded(&mut self) -> Outcome<u64> {
        let mut fresh: Vec<Value> = Vec::new();
        wait_until("the sessions have ended", PATIENCE, || {
            let Ok(list) = self.agent.json(&["sessions", "list", "--limit", "100"]) else { return false };
            let list = list["sessions"].as_array().cloned().unwrap_or_default();
            fresh = list.into_iter().filter(|session| !self.counted.contains(&id(session))).collect();
            fresh.len() > 1 && fresh.iter().all(|session| session["state"] == "ended")
        })?;
        if let Some(denied) = fresh.iter().find(|session| session["denied"] != 0) {
            return Err(format!("a statement was denied: {denied}"));
        }
        self.counted.extend(fresh.iter().map(id));
        fresh.sort_by_key(|session| session["first"].as_u64());
        Ok(fresh.iter().skip(1).filter_map(|session| session["operations"].as_u64()).sum())
    }
}

fn id(session: &Value) -> String {
    session["session"].as_str().unwrap_or_default().to_owned()
}

fn client(address: IpAddr, port: u16) -> Cmd {
    login(Cmd::new(format!("{}/pgbench", postgres::BIN)), address, port)
}

/// A client of the server's library that knows where to connect.
fn login(client: Cmd, address: IpAddr, port: u16) -> Cmd {
    client
        .env("PGHOST", address.to_string())
        .env("PGPORT", port.to_string())
        .env("PGUSER", USER)
        .env("PGPASSWORD", PASSWORD)
        .env("PGSSLMODE", "disable")
        .env("PGDATABASE", DATABASE)
        .user(UID, UID)
}

fn agent(server: &Postgres) -> Outcome<Agent> {
    let target = Target::postgres("bench", [format!("{PROTECTED}:{}", server.port())])
        .credential(USER, Some(PASSWORD))
        // The very table that is read has a masked column, so that every statement must be proven.
        .column("*.public.pgbench_accounts.filler", "pii", "redact");
    Agent::builder()
        .target(target)
        .role("bench", [format!("{{ user = \"{UID}\" }}")])
        .policy("bench.cedar", POLICY)
        .start()
}

/// Starts haproxy before a server, for so many connections.
///
/// # Errors
/// It did not start.
pub fn haproxy(dir: &TempDir, server: u16, connections: usize) -> Outcome<(Running, u16)> {
    let port = free_port(&[PROTECTED])?;
    let config = format!(
        "global\n    maxconn {connections}\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 10m\n    timeout server 10m\n\
         listen postgres\n    bind {PROTECTED}:{port}\n    server one {UNPROTECTED}:{server}\n"
    );
    let config = dir.write("haproxy.cfg", config, 0o644).map_err(|error| error.to_string())?;
    let haproxy = Cmd::new("haproxy").arg("-db").arg("-f").arg(config).spawn()?;
    wait_until("haproxy listens", PATIENCE, || std::net::TcpStream::connect((PROTECTED, port)).is_ok())?;
    Ok((haproxy, port))
}
