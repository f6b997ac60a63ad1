//! The agent with targets by name, by network and by range of ports, and what it says about them.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use agent_tests::{
    Agent, Auth, Cmd, Control, Finished, Outcome, Postgres, Running, Target, net::enter_own_namespace, wait_until,
};
use serde_json::{Value, json};

use crate::{
    dns::{DOMAIN, Dns},
    judge::Judge,
};

/// Port of the targets that are names.
pub const PORT: u16 = 6430;
/// First and last port of the targets that are ranges.
pub const RANGE: (u16, u16) = (6432, 6435);
/// A port behind the range.
pub const BEYOND: u16 = 6436;

/// How long addresses stay for nobody's sake, in seconds: longer than one round of the rotating names.
const GRACE: u32 = 20;

/// How long the agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the database listens.
pub const DATABASE: [&str; 4] = ["127.60.0.1", "127.60.0.2", "127.60.0.3", "127.60.0.4"];
/// Addresses of IPv6 that this network namespace has.
const V6: [&str; 5] = ["fd00:60::1", "fd00:50::1", "fd00:50::2", "fd00:50::3", "fd00:51::1"];

const PASSWORD: &str = "correct-horse-battery";

const POLICY: &str = r#"
@id("read")
permit (principal in Role::"reader", action in [Action::"connect", Action::"sql:select"], resource in Target::"ledger");
"#;

/// Everything.
pub struct World {
    pub agent: RefCell<Agent>,
    pub server: Postgres,
    pub judge: Judge,
    pub dns: Dns,
}

impl World {
    /// Prepares all and starts nothing of the agent, so that controls can show what it is without.
    pub fn prepare() -> Outcome<Self> {
        enter_own_namespace(&V6)?;
        let dns = Dns::start(("alias", "dual"))?;
        let judge = Judge::start((PORT..=BEYOND).filter(|port| *port != PORT + 1))?;
        let listen: Vec<IpAddr> = DATABASE.iter().filter_map(|address| address.parse().ok()).collect();
        let server = Postgres::builder().auth(Auth::Scram).login("app", PASSWORD).listen(&listen).start()?;
        for (name, addresses) in [
            ("closed", &["127.50.1.1"][..]),
            ("open", &["127.50.2.1"]),
            ("dual", &["127.50.4.1", "fd00:60::1"]),
            ("lost", &["127.50.5.1", "127.50.5.2"]),
            ("short", &["127.50.6.1"]),
            ("many", &["127.50.7.1"]),
            ("ledger", &["127.60.0.1", "127.60.0.2"]),
        ] {
            dns.set(name, addresses)?;
        }
        dns.hosts("127.50.8.1 written.example")?;
        let named = |name: &str| format!("{name}.{DOMAIN}:{PORT}");
        let range = format!("{}-{}", RANGE.0, RANGE.1);
        let target =
            |name: &str, addresses: &[String]| Target::postgres(name, addresses).credential("app", Some(PASSWORD));
        let agent = Agent::builder()
            .line(&format!("name_grace = {GRACE}"))
            .target(target("closed", &[named("closed"), format!("127.50.1.0/24:{PORT}")]))
            .target(target("open", &[named("open")]))
            .target(target("alias", &[named("alias")]))
            .target(target("lost", &[named("lost")]))
            .target(target("short", &[format!("short:{PORT}")]))
            .target(target("many", &[named("many")]))
            .target(target("written", &[format!("written.example:{PORT}")]))
            .target(target("range", &[format!("127.50.3.0/28:{range}"), format!("[fd00:50::/64]:{range}")]))
            .target(target("inner", &[format!("127.50.3.7:{}", RANGE.0)]))
            .target(target("ledger", &[format!("ledger.{DOMAIN}:{}", server.port())]))
            .role("reader", ["{ user = \"root\" }"])
            .policy("ledger.cedar", POLICY)
            .prepare()?;
        Ok(Self { agent: RefCell::new(agent), server, judge, dns })
    }

    /// What the agent says about itself.
    pub fn status(&self) -> Outcome<Value> {
        let answer = Control::connect(&self.agent.borrow())?.ask(&json!({ "ask": "status" }))?;
        answer.into_iter().next().map(|mut reply| reply["status"].take()).ok_or_else(|| "no status".into())
    }

    /// What it says about a target.
    pub fn target(&self, name: &str) -> Outcome<Value> {
        let mut status = self.status()?;
        let targets = status["targets"].as_array_mut().ok_or("no targets")?;
        let found = targets.iter_mut().find(|target| target["name"] == name);
        found.map(Value::take).ok_or_else(|| format!("no target {name}"))
    }

    /// The addresses of a target that are protected.
    pub fn protected(&self, name: &str) -> BTreeSet<String> {
        let target = self.target(name).unwrap_or_default();
        let addresses = target["addresses"].as_array().cloned().unwrap_or_default();
        addresses.into_iter().filter_map(|address| address.as_str().map(Into::into)).collect()
    }

    /// Waits until all these addresses of a target are protected.
    pub fn await_protected(&self, name: &str, goals: &[SocketAddr]) -> Outcome {
        let wanted: BTreeSet<String> = goals.iter().map(ToString::to_string).collect();
        wait_until(&format!("{name} has {wanted:?}"), PATIENCE, || self.protected(name).is_superset(&wanted))
    }

    /// Waits until this address of a target is no longer protected.
    pub fn await_gone(&self, name: &str, goal: &str) -> Outcome {
        wait_until(&format!("{name} no longer has {goal}"), PATIENCE, || !self.protected(name).contains(goal))
    }

    /// Waits until the problems of a target have this in them, or have it no longer.
    pub fn await_problem(&self, name: &str, words: &str, there: bool) -> Outcome {
        wait_until(&format!("{name} has the problem {words:?}: {there}"), PATIENCE, || {
            self.target(name).is_ok_and(|target| target["problems"].to_string().contains(words) == there)
        })
    }

    /// How often a record with this event about this name is in the journal.
    pub fn records(&self, event: &str, name: &str) -> Outcome<usize> {
        let words = format!("\"event\":\"{event}\",\"name\":\"{name}.{DOMAIN}\"");
        let mut count = 0;
        let journal = self.agent.borrow().path("state/journal");
        for entry in fs::read_dir(&journal).map_err(|error| error.to_string())?.flatten() {
            let bytes = fs::read(entry.path()).map_err(|error| error.to_string())?;
            count += bytes.windows(words.len()).filter(|window| *window == words.as_bytes()).count();
        }
        Ok(count)
    }

    /// Runs SQL as root, who is given no password, at an address of the database.
    pub fn psql(&self, at: &str) -> Outcome<Finished> {
        Cmd::psql(&self.dsn(at), "SELECT 40 + 2").run()
    }

    /// A session that stays open.
    pub fn session(&self, at: &str) -> Outcome<Running> {
        let psql = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &self.dsn(at)]);
        let mut session = psql.spawn()?;
        session.send("SELECT 40 + 2;")?;
        match session.line(PATIENCE)?.as_str() {
            "42" => Ok(session),
            other => Err(format!("the session begins with {other:?}")),
        }
    }

    /// The agent's refusal of a client that has no role, at this address: it says which target it is.
    pub fn refusal(&self, at: SocketAddr) -> Outcome<String> {
        let dsn = format!("host={} port={} dbname=postgres user=app sslmode=disable", at.ip(), at.port());
        let seen = Cmd::psql(&dsn, "SELECT 1").user(64_123, 64_123).run()?;
        Ok(seen.stderr)
    }

    fn dsn(&self, at: &str) -> String {
        format!("host={at} port={} dbname=postgres user=app sslmode=disable", self.server.port())
    }
}

/// Addresses with a port.
pub fn at<A: AsRef<str>>(addresses: &[A], port: u16) -> Outcome<Vec<SocketAddr>> {
    let parse = |address: &A| address.as_ref().parse::<IpAddr>().map_err(|error| error.to_string());
    addresses.iter().map(|address| Ok(SocketAddr::new(parse(address)?, port))).collect()
}

/// Fails with a text unless the condition holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
