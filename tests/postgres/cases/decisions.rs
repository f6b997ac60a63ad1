//! Decisions, and what becomes of what is refused.

use std::{io::Write, time::Duration};

use agent::model::{Action, Denial};
use agent_tests::{Cmd, Outcome, Postgres, TempDir};
use tokio_postgres::error::SqlState;

use super::{client, expect, fails, holds, lacks, masked, psql, raw, session, until};
use crate::proxy::Builder;

/// Deletes are not permitted.
fn no_deletes(action: &Action) -> Option<Denial> {
    action.requests.iter().any(|request| request.action == "sql:delete").then(|| Denial {
        rule: Some("no-deletes".into()),
        reason: "Nothing is deleted here.".into(),
        hint: None,
        limit: None,
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

/// Calls of functions are not permitted.
fn no_calls(action: &Action) -> Option<Denial> {
    let calls = |request: &agent::model::Request| request.action == "sql:call" || request.action == "sql:opaque";
    action.requests.iter().any(calls).then(|| Denial::closed("nothing is called here"))
}

pub fn functions(server: &Postgres) -> Outcome {
    // md5('ab'); pg_stat_get_numscans(1), which is not harmless; none.
    let calls: [&[u8]; 3] = [
        b"F\0\0\0\x14\0\0\x09\x07\0\0\0\x01\0\0\0\x02ab\0\0",
        b"F\0\0\0\x13\0\0\x07\x88\0\0\0\x01\0\0\0\x011\0\0",
        b"F\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0",
    ];
    let call = |proxy: &crate::proxy::Proxy| -> Outcome<Vec<String>> {
        let mut stream = raw(proxy)?;
        let mut answers = Vec::new();
        for call in calls {
            stream.write_all(call).map_err(|error| error.to_string())?;
            answers.push(until(&mut stream, b"Z\0\0\0\x05I")?);
        }
        Ok(answers)
    };
    let proxy = Builder::new(server).start()?;
    let answers = call(&proxy)?;
    for (answer, part) in
        answers.iter().zip(["V\0\0\0\x28\0\0\0\x20187ef4436122d1cc2f40dc2b92f0eba0", "V\0\0\0\t\0\0\0\x010", "42883"])
    {
        holds(answer, part)?;
    }
    holds(&proxy.log_text(), r#"SELECT \"pg_catalog\".\"md5\"($1)"#)?;
    holds(&proxy.log_text(), r#"[["187ef4436122d1cc2f40dc2b92f0eba0"]]"#)?;
    let answers = call(&Builder::new(server).policy(no_calls).start()?)?;
    for (answer, part) in answers.iter().zip(["187ef", "nothing is called", "nothing is called"]) {
        holds(answer, part)?;
    }
    // Where columns are masked, only what is harmless.
    let answers = call(&masked(server).start()?)?;
    for (answer, part) in
        answers.iter().zip(["187ef", "may show values of masked columns", "what this statement means"])
    {
        holds(answer, part)?;
    }
    // psql's large objects are calls by OID.
    let proxy = Builder::new(server).start()?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let file = dir.write("in", "a large object", 0o644).map_err(|error| error.to_string())?;
    let copy = dir.join("out");
    let script =
        format!("\\lo_import {}\n\\lo_export :LASTOID {}\n\\lo_unlink :LASTOID\n", file.display(), copy.display());
    let (_, errors) = session(&proxy, &script)?;
    expect(&errors, "")?;
    expect(&std::fs::read_to_string(copy).map_err(|error| error.to_string())?, "a large object")
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
