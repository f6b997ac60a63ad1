//! Decisions, and what becomes of what is refused.

use std::{io::Write, time::Duration};

use agent::model::{Action, Denial};
use agent_tests::{Cmd, Outcome, Postgres};
use tokio_postgres::error::SqlState;

use super::{client, expect, fails, holds, lacks, masked, psql, raw, session, until};
use crate::proxy::Builder;

/// Deletes are not permitted.
fn no_deletes(action: &Action) -> Option<Denial> {
    action.requests.iter().any(|request| request.action == "sql:delete").then(|| Denial {
        rule: Some("no-deletes".into()),
        reason: "Nothing is deleted here.".into(),
        hint: None,
    })
}

pub fn plain(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    expect(&psql(&proxy, "SELECT name FROM products WHERE id = 7")?, "product 7")?;
    let log = proxy.log_text();
    for part in ["session-started", "\"upstream_user\":\"app\"", "\"client_user\":\"whoever\"", "SELECT 1", "product 7"]
    {
        holds(&log, part)?;
    }
    lacks(&log, "upstream secret")
}

pub fn statements(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let script = "SELECT 1;\nSELECT nonsense;\nBEGIN;\nINSERT INTO products VALUES (1000, 'x', 1);\nROLLBACK;\n\
                  SELECT count(*) FROM products;\nSELECT 1 \\; SELECT 2;\n";
    let out = Cmd::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-X", "-A", "-t", "-d", &proxy.dsn("")])
        .input(script)
        .run()?;
    expect(&out.stdout, "1\nBEGIN\nINSERT 0 1\nROLLBACK\n100\n1\n2\n")?;
    holds(&out.stderr, "column \"nonsense\" does not exist")
}

pub fn denial(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).policy(no_deletes).start()?;
    let script = "DELETE FROM products;\nSELECT count(*) FROM products;\n";
    let out = Cmd::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-d", &proxy.dsn("")])
        .input(script)
        .run()?;
    expect(&out.stdout, "100\n")?;
    holds(&out.stderr, "ERROR:  42501: denied by Postern policy \"no-deletes\": Nothing is deleted here.")?;
    holds(&out.stderr, "HINT:")?;
    holds(&proxy.log_text(), "\"verdict\":\"deny\"")?;
    lacks(&server.log(), "statement: DELETE FROM products;")
}

pub fn denial_in_transaction(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).policy(no_deletes).start()?;
    let script = "BEGIN;\nDELETE FROM products;\nSELECT 1;\nCOMMIT;\nSELECT 2;\n";
    let out = Cmd::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-X", "-A", "-t", "-d", &proxy.dsn("")])
        .input(script)
        .run()?;
    expect(&out.stdout, "BEGIN\nROLLBACK\n2\n")?;
    holds(&out.stderr, "denied by Postern policy \"no-deletes\"")?;
    holds(&out.stderr, "current transaction is aborted")
}

pub fn policy_change(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    client(&proxy, async |client| {
        let statement = client.prepare("SELECT ssn FROM customers WHERE id = 1").await?;
        let transaction = client.transaction().await?;
        let portal = transaction.bind(&statement, &[]).await?;
        proxy.change_policies();
        let refused = transaction.query_portal(&portal, 1).await.map(drop);
        transaction.rollback().await?;
        Ok((refused.err().and_then(|error| error.code().cloned()), client.query_one(&statement, &[]).await?.get(0)))
    })
    .and_then(|(code, ssn): (_, String)| {
        if code != Some(SqlState::INSUFFICIENT_PRIVILEGE) {
            return Err(format!("{code:?}"));
        }
        expect(&ssn, "***3333")
    })
}

pub fn process_gone(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    client(&proxy, async |client| {
        client.simple_query("SELECT 1").await?;
        proxy.process_ends();
        Ok(client.simple_query("SELECT 2").await.err().map(|error| format!("{error:?}")))
    })
    .and_then(|error| holds(&error.unwrap_or_default(), "has ended"))?;
    holds(&fails(&proxy, "SELECT 1")?, "has ended")
}

pub fn settings(server: &Postgres) -> Outcome {
    fn basics(action: &Action) -> Option<Denial> {
        let harmless = |name: &str| matches!(name, "connect" | "sql:basics" | "sql:select");
        action.requests.iter().any(|request| !harmless(&request.action)).then(|| Denial::closed("not basics"))
    }
    let proxy = Builder::new(server).policy(basics).start()?;
    let with = |more: &str| Cmd::psql(&proxy.dsn(more), "SHOW statement_timeout").run();
    expect(with("options='-c statement_timeout=4567'")?.stdout.trim(), "4567ms")?;
    for refused in [
        "options='-c session_preload_libraries=x'",
        "options='-c role=postgres'",
        "options='-d 5'",
        "replication=database",
        "options='-c user=postgres'",
        "options='-c standard_conforming_strings=off'",
        "client_encoding=SJIS",
    ] {
        let out = with(refused)?;
        if out.success() {
            return Err(format!("{refused} was permitted: {out}"));
        }
    }
    // By SET, and in the midst of a session.
    let out = session(&proxy, "SET standard_conforming_strings = off;\nSET client_encoding = 'BIG5';\nSELECT 1;\n")?;
    expect(&out.0, "1\n")?;
    holds(&out.1, "denied by Postern")
}

pub fn not_built(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let mut stream = raw(&proxy)?;
    // FunctionCall of OID 1 without arguments.
    stream.write_all(b"F\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0").map_err(|error| error.to_string())?;
    let answer = until(&mut stream, b"Z\0\0\0\x05I")?;
    holds(&answer, "FunctionCall is not supported")
}

pub fn pgbench(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let bench = |args: &[&str]| {
        let port = proxy.port().to_string();
        Cmd::new("/usr/lib/postgresql/15/bin/pgbench")
            .args(args)
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "whoever", "shop"])
            .env("PGSSLMODE", "disable")
            .limit(Duration::from_secs(120))
            .ok()
    };
    bench(&["-i", "-q"])?;
    for mode in ["simple", "extended", "prepared"] {
        let out = bench(&["-n", "-M", mode, "-S", "-c", "4", "-t", "50"])?;
        holds(&out, "number of transactions actually processed: 200/200")?;
        let out = bench(&["-n", "-M", mode, "-c", "2", "-t", "20"])?;
        holds(&out, "number of transactions actually processed: 40/40")?;
    }
    server.sql("shop", "DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers").map(drop)
}
