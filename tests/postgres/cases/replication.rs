//! Replication connections, with the programs that come with the server.

use std::time::Duration;

use agent::model::{Action, Denial, Style};
use agent_tests::{Auth, Cmd, Outcome, Postgres, TempDir, wait_until};

use super::{expect, holds, lacks, no_unmask};
use crate::proxy::{Builder, Proxy};

const BIN: &str = "/usr/lib/postgresql/15/bin";

fn no_replication(action: &Action) -> Option<Denial> {
    let replicates = |request: &agent::model::Request| request.action == "sql:replication";
    action.requests.iter().any(replicates).then(|| Denial::closed("nothing is streamed"))
}

fn publisher() -> Outcome<Postgres> {
    let builder =
        Postgres::builder().auth(Auth::Trust).setting("wal_level = logical").setting("wal_sender_timeout = 5s");
    let server = builder.login("app", "unused").start()?;
    server.sql("postgres", "CREATE DATABASE shop; ALTER ROLE app REPLICATION")?;
    server.sql(
        "shop",
        "CREATE TABLE people (id int PRIMARY KEY, name text); INSERT INTO people VALUES (1, 'Ada'); \
         GRANT ALL ON people TO app; CREATE PUBLICATION p FOR TABLE people",
    )?;
    Ok(server)
}

fn receive(proxy: &Proxy, words: &[&str]) -> Cmd {
    Cmd::new(format!("{BIN}/pg_recvlogical")).args(["--slot", "s", "-d", &proxy.dsn("")]).args(words.iter().copied())
}

/// All changes up to now.
fn stream(server: &Postgres, proxy: &Proxy) -> Outcome<String> {
    let end = server.sql("shop", "SELECT pg_current_wal_insert_lsn()")?;
    receive(proxy, &["--start", "--endpos", end.trim(), "-f", "-"]).limit(Duration::from_secs(30)).ok()
}

pub fn logical() -> Outcome {
    let server = publisher()?;
    let proxy = Builder::new(&server).start()?;
    receive(&proxy, &["--create-slot", "-P", "test_decoding"]).ok()?;
    server.sql("shop", "INSERT INTO people VALUES (2, 'Grace')")?;
    let streamed = stream(&server, &proxy)?;
    holds(&streamed, "'Grace'")?;
    let log = proxy.log_text();
    holds(&log, "START_REPLICATION SLOT")?;
    holds(&log, "\"copied\":")?;
    holds(&log, "\"replication\":\"database\"")?;
    lacks(&log, "'Grace'")?;
    // A subscription copies the tables first, over a replication connection too, and then follows.
    let subscriber = Postgres::builder().auth(Auth::Trust).start()?;
    subscriber.sql("postgres", "CREATE TABLE people (id int PRIMARY KEY, name text)")?;
    let subscribe = format!("CREATE SUBSCRIPTION s2 CONNECTION '{}' PUBLICATION p", proxy.dsn(""));
    subscriber.sql("postgres", &subscribe)?;
    let has = |names: &str| {
        let found = subscriber.sql("postgres", "SELECT string_agg(name, ',' ORDER BY id) FROM people");
        found.is_ok_and(|found| found.trim() == names)
    };
    wait_until("the table is copied", Duration::from_secs(30), || has("Ada,Grace"))?;
    server.sql("shop", "INSERT INTO people VALUES (3, 'Edsger')")?;
    wait_until("a change has come", Duration::from_secs(30), || has("Ada,Grace,Edsger"))?;
    subscriber.sql(
        "postgres",
        "ALTER SUBSCRIPTION s2 DISABLE; ALTER SUBSCRIPTION s2 SET (slot_name = NONE); DROP SUBSCRIPTION s2",
    )?;
    // Refused: as such, and where a column is masked.
    let refused = receive(&Builder::new(&server).policy(no_replication).start()?, &["--drop-slot"]).run()?;
    holds(&refused.stderr, "nothing is streamed")?;
    let masked = |policy| Builder::new(&server).mask("public", "people", "name", Style::Redact).policy(policy).start();
    let proxy = masked(no_unmask)?;
    holds(&receive(&proxy, &["--drop-slot"]).run()?.stderr, "columns that are masked")?;
    holds(&proxy.log_text(), "connection-refused")?;
    let proxy = masked(|_| None)?;
    let streamed = stream(&server, &proxy)?;
    holds(&streamed, "'Edsger'")?;
    lacks(&proxy.log_text(), "Edsger")?;
    receive(&proxy, &["--drop-slot"]).ok().map(drop)
}

pub fn physical() -> Outcome {
    let server = publisher()?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let backup = |proxy: &Proxy, name: &str| {
        let dsn = format!("host=127.0.0.1 port={} user=whoever sslmode=disable", proxy.port());
        let to = dir.join(name);
        Cmd::new(format!("{BIN}/pg_basebackup")).args(["-X", "stream", "-c", "fast", "-d", &dsn, "-D"]).arg(&to).run()
    };
    let proxy = Builder::new(&server).start()?;
    let done = backup(&proxy, "good")?;
    if !done.success() {
        return Err(format!("{done}{}", proxy.log_text()));
    }
    let version = std::fs::read_to_string(dir.join("good/PG_VERSION")).map_err(|error| error.to_string())?;
    expect(version.trim(), "15")?;
    holds(&proxy.log_text(), "BASE_BACKUP")?;
    let refused = backup(&Builder::new(&server).policy(no_replication).start()?, "refused")?;
    holds(&refused.stderr, "nothing is streamed")?;
    let masked = Builder::new(&server).mask("public", "people", "name", Style::Redact).start()?;
    holds(&backup(&masked, "masked")?.stderr, "physical replication streams every table")
}
