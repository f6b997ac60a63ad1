//! Non-interference: two databases that differ only in masked values give identical client bytes and an identical log.
//!
//! The values differ only in what their styles hide. Both databases are copies of one template, so that object ids are the
//! same; each in turn is the database `shop`. Bytes are compared as they come over the socket.

mod queries;
mod wire;

use std::{net::SocketAddr, process::ExitCode};

use agent_tests::{Agent, Auth, Outcome, Postgres, Target, suite, suite::root_main};
use serde_json::Value;

use queries::{How, QUERIES};

const SCHEMA: &str = "
    CREATE TABLE people (
        id int PRIMARY KEY, name text NOT NULL, ssn text, email varchar(60), born date, token text, pay numeric(10,2),
        seen timestamptz, note text, level int
    );
    CREATE TABLE orders (id int PRIMARY KEY, person int REFERENCES people, amount numeric(10,2), what text);
    CREATE TABLE archive (CHECK (level >= 0)) INHERITS (people);
    CREATE VIEW contacts AS SELECT id, name, email FROM people;
    CREATE FUNCTION leak(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT ssn FROM people WHERE id = $1';
    CREATE TYPE mood AS ENUM ('sad', 'happy');
    INSERT INTO orders SELECT n, NULL, n * 3, 'thing ' || n FROM generate_series(1, 20) n;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
";

/// People, with a hole for what is hidden of each value.
fn people(ssn: &str, email: &str, day: &str, token: &str, pay: &str, note: &str) -> String {
    let mut sql = String::from("TRUNCATE people, orders CASCADE; ");
    for n in 1..=8 {
        sql += &format!(
            "INSERT INTO people VALUES ({n}, 'p{n}', '{ssn}{n}-45{n}7', 'a{email}{n}@{email}{n}.org', '19{n}0-{day}', '{token}{n}', {pay}{n}.5, '20{n}0-{day} 01:02:03Z', '{note}{n}', {n});\n"
        );
    }
    sql += "INSERT INTO people (id, name) VALUES (9, 'p9');\n";
    sql += &format!(
        "INSERT INTO archive VALUES (10, 'p10', '{ssn}0-4507', 'a{email}@{email}.org', '1970-{day}', '{token}', {pay}1, NULL, '{note}', 3);\n"
    );
    sql += "INSERT INTO orders SELECT n, 1 + n % 8, n * 3, 'thing ' || n FROM generate_series(1, 20) n;";
    sql
}

const POLICY: &str = r#"
@id("all")
permit (
    principal in Role::"client",
    action in [
        Action::"connect", Action::"sql:read", Action::"sql:insert", Action::"sql:update", Action::"sql:delete", Action::"sql:lock"
    ],
    resource in Target::"shop"
);
"#;

fn main() -> ExitCode {
    root_main("noninterference", || {
        let server = Postgres::builder().auth(Auth::Trust).login("app", "unused").start()?;
        server.sql("postgres", "CREATE DATABASE first")?;
        server.sql("first", SCHEMA)?;
        server.sql("postgres", "CREATE DATABASE second TEMPLATE first")?;
        server.sql("first", &people("078-0", "nn", "05-06", "tok-a", "10", "private"))?;
        server.sql("second", &people("219-9", "xyzzy", "11-12", "another-token", "9999", "something else"))?;
        let agent = Agent::builder()
            .target(
                Target::postgres("shop", server.addresses())
                    .credential("app", None)
                    // Else the session's id is in what the server reports.
                    .line("application_name = \"client\"")
                    .column("*.public.people.ssn", "pii", "last4")
                    .column("*.public.people.email", "pii", "email")
                    .column("*.public.people.born", "pii", "year")
                    .column("*.public.people.token", "secret", "redact")
                    .column("*.public.people.pay", "pii", "null")
                    .column("*.public.people.seen", "pii", "year")
                    .column("*.public.people.note", "pii", "fixed"),
            )
            .role("client", ["{ user = \"root\" }"])
            .policy("all.cedar", POLICY)
            .start()?;
        let world = World { agent, server };
        let first = world.run("first")?;
        let second = world.run("second")?;
        let mut cases = suite("noninterference");
        for (query, (first, second)) in QUERIES.iter().zip(first.iter().zip(&second)) {
            cases = cases.case(format!("{}: {}", query.about, query.sql), move || {
                same("client bytes", &wire::shown(&first.bytes), &wire::shown(&second.bytes))?;
                same("log", &first.log, &second.log)?;
                // The other failure: hiding everything, or refusing what should be answered.
                let answered = !wire::denied(&first.bytes);
                if answered == query.answers {
                    Ok(())
                } else {
                    Err(format!("answered: {answered}\n{}", wire::shown(&first.bytes)))
                }
            });
        }
        Ok(cases
            .case("the two databases do differ", || {
                let direct = |name: &str| world.server.sql(name, "SELECT * FROM people ORDER BY id");
                if direct("first")? == direct("second")? { Err("they are the same".into()) } else { Ok(()) }
            })
            .case("without masking the same comparison finds the difference", || {
                // The control: past the agent, the bytes of a plain answer differ.
                let sql = "SELECT ssn FROM people WHERE id = 1";
                let direct = |name: &str| world.server.sql(name, sql);
                if direct("first")? == direct("second")? { Err("the comparison is blind".into()) } else { Ok(()) }
            })
            .run())
    })
}

/// What one query gave.
struct Seen {
    bytes: Vec<u8>,
    log: String,
}

struct World {
    agent: Agent,
    server: Postgres,
}

impl World {
    /// Makes a copy of a template the database `shop`, and runs every query in a session of its own.
    fn run(&self, template: &str) -> Outcome<Vec<Seen>> {
        self.server.sql("postgres", "DROP DATABASE IF EXISTS shop WITH (FORCE)")?;
        self.server.sql("postgres", &format!("CREATE DATABASE shop TEMPLATE {template}"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], self.server.port()));
        let mut bytes = Vec::new();
        for query in QUERIES {
            bytes.push(match query.how {
                How::Simple => wire::simple(address, query.sql),
                How::Extended(parameters) => wire::extended(address, query.sql, parameters, false),
                How::Binary(parameters) => wire::extended(address, query.sql, parameters, true),
            }?);
        }
        let sessions = self.sessions(bytes.len())?;
        bytes.into_iter().zip(sessions).map(|(bytes, id)| Ok(Seen { bytes, log: self.log(&id)? })).collect()
    }

    /// Ids of the last sessions, oldest first.
    fn sessions(&self, count: usize) -> Outcome<Vec<String>> {
        let listed = self.agent.json(&["sessions", "list", "--limit", &count.to_string()])?;
        let list = listed["sessions"].as_array().ok_or_else(|| listed.to_string())?;
        let mut found: Vec<(String, String)> = list
            .iter()
            .map(|session| {
                let text = |key: &str| session[key].as_str().unwrap_or_default().to_owned();
                (text("started"), text("session"))
            })
            .collect();
        found.sort();
        if found.len() == count {
            Ok(found.into_iter().map(|(_, id)| id).collect())
        } else {
            Err(format!("{} sessions instead of {count}", found.len()))
        }
    }

    /// The records of a session without what differs between any two sessions: ids, times, process.
    fn log(&self, id: &str) -> Outcome<String> {
        let shown = self.agent.json(&["sessions", "show", id])?;
        let records = shown["records"].as_array().ok_or_else(|| shown.to_string())?;
        let kept: Vec<String> = records
            .iter()
            .map(|record| record["event"].clone())
            .filter(|event| event["event"] != "session-started")
            .map(|mut event| {
                if let Value::Object(fields) = &mut event {
                    for key in ["session", "micros"] {
                        fields.remove(key);
                    }
                }
                event.to_string()
            })
            .collect();
        Ok(kept.join("\n"))
    }
}

fn same(what: &str, first: &str, second: &str) -> Outcome {
    if first == second { Ok(()) } else { Err(format!("{what} differ:\n{first}\n--- and ---\n{second}")) }
}
