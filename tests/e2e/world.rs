//! A shop's database with an agent in front of it, and the people who use it.

use agent_tests::{Agent, AgentBuilder, Auth, Cmd, Finished, Outcome, Postgres, PostgresBuilder, Target};

/// Reads; sees masked columns.
pub const READER: u32 = 61_001;
/// Reads, and may unmask.
pub const ANALYST: u32 = 61_002;
/// Reads and writes.
pub const WRITER: u32 = 61_003;
/// Reads, within limits.
pub const LIMITED: u32 = 61_005;
/// Has no role at all.
pub const STRANGER: u32 = 61_004;

/// The password of the database's user, which no client is given.
pub const PASSWORD: &str = "correct-horse-battery";

/// Fixture of the database `shop`.
const SHOP: &str = "
    CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, ssn text, email varchar(80), born date, since timestamptz DEFAULT '2020-02-02 02:02:02Z');
    INSERT INTO customers VALUES
        (1, 'Ann', '078-05-1120', 'ann@example.com', '1980-05-06'),
        (2, 'Ben', '219-09-9999', 'ben@example.org', '1991-10-11'),
        (3, 'Cat', NULL, NULL, NULL);
    CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, amount numeric(10,2), paid boolean DEFAULT false);
    INSERT INTO orders SELECT n, 1 + n % 3, n * 10.5, n % 2 = 0 FROM generate_series(1, 10) n;
    CREATE TABLE badges (id int PRIMARY KEY, code text UNIQUE);
    INSERT INTO badges VALUES (1, 'B-7731');
    CREATE FUNCTION wipe() RETURNS void LANGUAGE sql AS 'DELETE FROM orders';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
";

/// What the roles may do.
pub const POLICY: &str = r#"
@id("read")
permit (principal in Role::"reader", action in [Action::"connect", Action::"sql:select"], resource in Target::"shop");

@id("read-unmasked")
permit (principal in Role::"analyst", action in [Action::"connect", Action::"sql:select", Action::"unmask"], resource in Target::"shop");

@id("write")
permit (
    principal in Role::"writer",
    action in [
        Action::"connect", Action::"sql:select", Action::"sql:insert", Action::"sql:update", Action::"sql:delete",
        Action::"sql:copy_in", Action::"sql:copy_out"
    ],
    resource in Target::"shop"
);

@id("no-unbounded-writes")
@reason("DELETE and UPDATE need a WHERE clause here.")
forbid (principal, action in [Action::"sql:delete", Action::"sql:update"], resource in Target::"shop")
when { !context.has_where };
"#;

/// A server and its agent. The agent is dropped first.
pub struct World {
    pub agent: Agent,
    pub server: Postgres,
}

/// A server with the shop's database.
pub fn server(auth: Auth, shape: impl FnOnce(PostgresBuilder) -> Outcome<PostgresBuilder>) -> Outcome<Postgres> {
    let server = shape(Postgres::builder().auth(auth).login("app", PASSWORD))?.start()?;
    server.sql("postgres", "CREATE DATABASE shop")?;
    server.sql("shop", SHOP)?;
    Ok(server)
}

/// The shop as a target, with the masked columns that the cases expect.
pub fn target(server: &Postgres) -> Target {
    Target::postgres("shop", server.addresses())
        .credential("app", Some(PASSWORD))
        .column("*.public.customers.ssn", "pii", "last4")
        .column("*.public.customers.email", "pii", "email")
        .column("*.public.customers.born", "pii", "year")
        .column("*.public.badges.code", "pii", "redact")
}

/// An agent's builder with the roles and the policy.
pub fn roles() -> AgentBuilder {
    Agent::builder()
        .role(
            "reader",
            [
                format!("{{ user = \"{READER}\" }}"),
                "{ user = \"root\" }".to_owned(),
                format!("{{ user = \"{LIMITED}\" }}"),
            ],
        )
        .role("analyst", [format!("{{ user = \"{ANALYST}\", exe = \"/usr/lib/postgresql/15/bin/psql\" }}")])
        .role("writer", [format!("{{ user = \"{WRITER}\" }}")])
        .role("limited", [format!("{{ user = \"{LIMITED}\" }}")])
        .limits("{ rows = 5, sessions = 1, statements_per_minute = 6 }")
        .policy("shop.cedar", POLICY)
}

impl World {
    /// A server that asks for SCRAM, in front of it an agent in enforce mode.
    pub fn new() -> Outcome<Self> {
        let server = server(Auth::Scram, Ok)?;
        let agent = roles().target(target(&server)).start()?;
        Ok(Self { agent, server })
    }

    /// An agent with a target of another shape.
    pub fn with(server: Postgres, shape: impl FnOnce(Target) -> Target) -> Outcome<Self> {
        let agent = roles().target(shape(target(&server))).start()?;
        Ok(Self { agent, server })
    }

    /// A connection string with no password in it.
    pub fn dsn(&self, more: &str) -> String {
        format!("host=127.0.0.1 port={} dbname=shop user=whoever {more}", self.server.port())
    }

    /// Runs SQL with an unmodified psql as a user.
    pub fn psql(&self, uid: u32, sql: &str) -> Outcome<Finished> {
        Cmd::psql(&self.dsn("sslmode=disable"), sql).user(uid, uid).run()
    }

    /// Runs a script of psql from its standard input, going on after errors, and gives stdout and stderr.
    pub fn script(&self, uid: u32, script: &str) -> Outcome<Finished> {
        Cmd::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-X", "-A", "-t", "-q", "-d", &self.dsn("sslmode=disable")])
            .env("PGOPTIONS", "")
            .input(script)
            .user(uid, uid)
            .run()
    }

    /// A value from the server itself, past the agent, over its Unix socket.
    pub fn truth(&self, sql: &str) -> Outcome<String> {
        self.server.sql("shop", sql)
    }

    /// All records of the last session of a user, in order.
    pub fn records(&self, uid: u32) -> Outcome<Vec<serde_json::Value>> {
        let list = self.agent.json(&["sessions", "list"])?;
        let sessions = list["sessions"].as_array().ok_or("sessions list is no list")?;
        let last = sessions
            .iter()
            .filter(|session| session["uid"] == uid)
            .max_by_key(|session| session["started"].as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| format!("no session of uid {uid} in {list}"))?;
        let id = last["session"].as_str().ok_or("a session without an id")?;
        let shown = self.agent.json(&["sessions", "show", id])?;
        let records = shown["records"].as_array().ok_or_else(|| format!("no records in {shown}"))?;
        Ok(records.iter().map(|record| record["event"].clone()).collect())
    }
}

/// Fails unless the command exited with 0 and wrote exactly this.
pub fn says(finished: &Finished, expected: &str) -> Outcome {
    if finished.success() && finished.stdout.trim_end() == expected {
        Ok(())
    } else {
        Err(format!("expected:\n{expected}\ngot: {finished}"))
    }
}

/// Fails unless the command failed with a text like this on its standard error.
pub fn refused(finished: &Finished, text: &str) -> Outcome {
    if !finished.success() && finished.stderr.contains(text) {
        Ok(())
    } else {
        Err(format!("expected a refusal with {text:?}, got: {finished}"))
    }
}

/// Fails with a text unless the condition holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}
