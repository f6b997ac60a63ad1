//! A database on the host, a container that reaches it, and agents in front of it.

use std::{net::IpAddr, time::Duration};

use agent_tests::{Agent, AgentBuilder, Auth, Cmd, Finished, Outcome, Postgres, Target, wait_until};
use serde_json::Value;

use crate::container::{Container, Link};

/// Has the role that may read.
pub const READER: u32 = 61_101;

/// The password of the database's user, which clients of the agent are not given.
pub const PASSWORD: &str = "staple-battery-horse";

/// How long anything may take that other processes do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Masked by the agent, so that its answer tells whether it was in between.
pub const QUERY: &str = "SELECT ssn FROM customers";
pub const MASKED: &str = "***1120";
pub const PLAIN: &str = "078-05-1120";

const FIXTURE: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, ssn text);
    INSERT INTO customers VALUES (1, '078-05-1120');
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
";

const POLICY: &str = r#"
@id("read")
permit (principal in Role::"reader", action in [Action::"connect", Action::"sql:select"], resource in Target::"shop");
"#;

/// The server, dropped before the link whose addresses it has.
pub struct World {
    pub server: Postgres,
    pub container: Container,
    pub link: Link,
}

impl World {
    pub fn new() -> Outcome<Self> {
        let link = Link::new()?;
        let container = Container::new(0)?;
        container.link(&link)?;
        let addresses = [link.host().as_slice(), &["127.0.0.1".parse().map_err(|_| "an address")?]].concat();
        let server = Postgres::builder().listen(&addresses).auth(Auth::Scram).login("app", PASSWORD).start()?;
        server.sql("postgres", "CREATE DATABASE shop")?;
        server.sql("shop", FIXTURE)?;
        Ok(Self { server, container, link })
    }

    /// An agent that protects the server at all its addresses.
    pub fn builder(&self) -> AgentBuilder {
        self.shaped(|target| target)
    }

    /// The same with a target of another shape.
    pub fn shaped(&self, shape: impl FnOnce(Target) -> Target) -> AgentBuilder {
        let target = Target::postgres("shop", self.server.addresses()).credential("app", Some(PASSWORD)).column(
            "*.public.customers.ssn",
            "pii",
            "last4",
        );
        Agent::builder()
            .target(shape(target))
            .role("reader", [format!("{{ user = \"{READER}\" }}")])
            .policy("shop.cedar", POLICY)
    }

    /// Words of a `psql` that logs in by itself if it meets the server, and needs no password if it meets the agent.
    pub fn psql(&self, address: impl Into<IpAddr>) -> Vec<String> {
        let (host, port) = (address.into(), self.server.port());
        let dsn = format!("host={host} port={port} dbname=shop user=app password={PASSWORD} sslmode=disable");
        ["/usr/lib/postgresql/15/bin/psql", "-X", "-A", "-t", "-q", "-d", &dsn].map(String::from).into()
    }

    /// The query, asked from the host.
    pub fn ask(&self, address: impl Into<IpAddr>) -> Outcome<Finished> {
        let words = self.psql(address);
        Cmd::new(&words[0]).args(&words[1..]).args(["-c", QUERY]).user(READER, READER).run()
    }

    /// The query, asked from a container.
    pub fn ask_in(&self, container: &Container, address: impl Into<IpAddr>) -> Outcome<Finished> {
        container.command(READER).args(self.psql(address)).args(["-c", QUERY]).run()
    }
}

/// Asks until somebody answers: the agent enters a namespace only when a process is in it.
pub fn answers(expected: &str, mut ask: impl FnMut() -> Outcome<Finished>) -> Outcome {
    let mut last = String::new();
    wait_until(expected, PATIENCE, || match ask() {
        Ok(finished) => {
            last = finished.to_string();
            finished.success() && finished.stdout.trim_end() == expected
        }
        Err(error) => {
            last = error;
            false
        }
    })
    .map_err(|error| format!("{error}: {last}"))
}

/// Fails unless the connection was refused by the kernel.
pub fn refused(finished: &Finished) -> Outcome {
    ensure(!finished.success() && finished.stderr.contains("Connection refused"), || {
        format!("expected a refusal, got: {finished}")
    })
}

/// What `postern status` says, also of an agent that is degraded.
pub fn status(agent: &Agent) -> Outcome<Value> {
    let finished = agent.postern(&["status", "--json"])?;
    serde_json::from_str(&finished.stdout).map_err(|error| format!("{error}: {finished}"))
}

/// The process of the last session.
pub fn last_session(agent: &Agent) -> Outcome<Value> {
    let list = agent.json(&["sessions", "list"])?;
    let id = list["sessions"][0]["session"].as_str().ok_or_else(|| format!("no session in {list}"))?.to_owned();
    let shown = agent.json(&["sessions", "show", &id])?;
    Ok(shown["records"][0]["event"].clone())
}

/// Fails with a text unless the condition holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
