//! Limits of roles: what the client is told, where its transaction stands then, and what the log says.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use agent::config::{Limits, TlsMode};
use agent_tests::{Cmd, Outcome, Postgres, wait_until};
use serde_json::Value;
use tokio_postgres::{error::SqlState, types::ToSql};

use super::{client, expect, fails, holds, lacks, psql, raw, session, until};
use crate::proxy::{Builder, Proxy};

/// How long something may take that happens at once on an idle host.
const PATIENCE: Duration = Duration::from_secs(20);

/// A proxy whose clients have one role, with these limits.
fn limited(server: &Postgres, limits: Limits) -> Outcome<Proxy> {
    Builder::new(server).role("limited", limits).start()
}

/// The records of limits that were reached.
fn reached(proxy: &Proxy) -> Vec<Value> {
    proxy.log().into_iter().filter(|record| record["event"] == "limit-reached").collect()
}

/// Each of them was this one, of the role `limited`, so often.
fn recorded(proxy: &Proxy, limit: &str, most: u64, times: usize) -> Outcome {
    let all = reached(proxy);
    let fits = |record: &Value| record["limit"] == limit && record["role"] == "limited" && record["most"] == most;
    match all.len() == times && all.iter().all(fits) {
        true => Ok(()),
        false => Err(format!("not {times} times {limit}: {all:?}")),
    }
}

/// Sessions of the agent at the server.
fn backends(server: &Postgres) -> Outcome<String> {
    server.sql("shop", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'")
}

fn sessions_limit(most: u64) -> Limits {
    Limits { sessions: Some(most), ..Limits::default() }
}

pub fn sessions(server: &Postgres) -> Outcome {
    let proxy = limited(server, sessions_limit(2))?;
    let first = raw(&proxy)?;
    let mut other = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-At", "-d", &proxy.dsn("")]);
    other = other.args(["-c", "SELECT 'there'", "-c", "\\! sleep 60"]);
    let mut other = other.spawn()?;
    expect(&other.line(PATIENCE)?, "there")?;
    // Another process has one of the two places.
    let open = backends(server)?;
    let error = fails(&proxy, "SELECT 1")?;
    holds(&error, "FATAL:")?;
    holds(&error, "limit sessions of role \"limited\" is reached: at most 2 sessions are open at a time")?;
    let code = native_code(&proxy)?;
    expect(&code, "53300")?;
    expect(&backends(server)?, &open)?;
    let refused = |record: &Value| record["event"] == "connection-refused" && record["limit"]["limit"] == "sessions";
    let refusals: Vec<Value> =
        proxy.log().into_iter().filter(|record| record["event"] == "connection-refused").collect();
    if refusals.len() != 2 || !refusals.iter().all(|record| record["limit"]["most"] == 2 && refused(record)) {
        return Err(format!("{refusals:?}"));
    }
    // One that ends without a word makes room, and so does one that is killed.
    drop(first);
    wait_until("there is room", PATIENCE, || psql(&proxy, "SELECT 1").as_deref() == Ok("1"))?;
    let _second = raw(&proxy)?;
    fails(&proxy, "SELECT 1")?;
    drop(other);
    wait_until("there is room again", PATIENCE, || psql(&proxy, "SELECT 1").as_deref() == Ok("1"))
}

/// SQLSTATE of what a new connection is told first.
fn native_code(proxy: &Proxy) -> Outcome<String> {
    let error = |error: std::io::Error| error.to_string();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", proxy.port())).map_err(error)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    stream.write_all(b"\0\0\0\x1f\0\x03\0\0user\0me\0database\0shop\0\0").map_err(error)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(error)?;
    let fields = answer.split(|&byte| byte == 0).find(|field| field.first() == Some(&b'C'));
    Ok(String::from_utf8_lossy(fields.and_then(|field| field.get(1..)).unwrap_or_default()).into_owned())
}

pub fn sessions_observed(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).observe().role("limited", sessions_limit(1)).start()?;
    let _first = raw(&proxy)?;
    expect(&psql(&proxy, "SELECT 1")?, "1")?;
    recorded(&proxy, "sessions", 1, 1)
}

fn minute_limit(most: u64) -> Limits {
    Limits { statements_per_minute: Some(most), ..Limits::default() }
}

pub fn statements_per_minute(server: &Postgres) -> Outcome {
    let proxy = limited(server, minute_limit(6))?;
    let told = "limit statements_per_minute of role \"limited\" is reached: at most 6 statements run in a minute";
    // A text of three that would be the fifth to seventh does not run at all.
    let script = "BEGIN;\nSELECT 1;\nSELECT 2;\nSELECT 3;\nSELECT 4 \\; SELECT 4 \\; SELECT 4;\nSELECT 6;\nCOMMIT;\n";
    let (out, error) = session(&proxy, script)?;
    expect(&out, "BEGIN\n1\n2\n3\nROLLBACK\n")?;
    holds(&error, told)?;
    holds(&error, "current transaction is aborted")?;
    // The one that is left, and then none: for another session neither.
    expect(&psql(&proxy, "SELECT 7")?, "7")?;
    holds(&fails(&proxy, "SELECT 8")?, told)?;
    let (out, error) = session(&proxy, "COMMIT;\nROLLBACK;\n")?;
    expect(&out, "COMMIT\nROLLBACK\n")?;
    holds(&error, "there is no transaction in progress")?;
    lacks(&server.log(), "statement: SELECT 8")?;
    let denied = proxy.log().into_iter().filter(|record| record["verdict"] == "deny").count();
    if denied == reached(&proxy).len() { Ok(()) } else { Err(format!("{denied} denied: {:?}", reached(&proxy))) }
}

pub fn statements_per_minute_extended(server: &Postgres) -> Outcome {
    let proxy = limited(server, minute_limit(3))?;
    let codes = client(&proxy, async |client| {
        let statement = client.prepare("SELECT $1::int4").await?;
        let transaction = client.transaction().await?;
        for number in [1, 2] {
            assert_eq!(transaction.query_one(&statement, &[&number]).await?.get::<_, i32>(0), number);
        }
        let parameters: [&(dyn ToSql + Sync); 1] = [&3];
        let beyond = transaction.query(&statement, &parameters).await.err();
        let after = transaction.query(&statement, &parameters).await.err();
        transaction.rollback().await?;
        Ok([beyond, after].map(|error| error.and_then(|error| error.code().cloned())))
    })?;
    // BEGIN is the first. What follows is beyond the limit, too, but the client is told that the transaction has failed.
    if codes != [Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED), Some(SqlState::IN_FAILED_SQL_TRANSACTION)] {
        return Err(format!("{codes:?}"));
    }
    recorded(&proxy, "statements_per_minute", 3, 2)
}

pub fn several_roles(server: &Postgres) -> Outcome {
    let wide = Limits { statements_per_minute: Some(100), sessions: Some(1), ..Limits::default() };
    let proxy = Builder::new(server).role("wide", wide).role("limited", minute_limit(1)).start()?;
    let kept = raw(&proxy)?;
    holds(&fails(&proxy, "SELECT 1")?, "limit sessions of role \"wide\"")?;
    drop(kept);
    wait_until("there is room", PATIENCE, || psql(&proxy, "SELECT 1").as_deref() == Ok("1"))?;
    holds(&fails(&proxy, "SELECT 2")?, "limit statements_per_minute of role \"limited\"")?;
    recorded(&proxy, "statements_per_minute", 1, 1)
}

fn rows_limit(most: u64) -> Limits {
    Limits { rows: Some(most), ..Limits::default() }
}

fn bytes_limit(most: u64) -> Limits {
    Limits { bytes: Some(most), ..Limits::default() }
}

fn time_limit(millis: u64) -> Limits {
    Limits { statement_time: Some(Duration::from_millis(millis)), ..Limits::default() }
}

/// What the client, the server and the log say after simple statements of this text beyond a limit: alone, within a transaction
/// whose insert must not stay, and with the session going on.
fn simple(server: &Postgres, limits: Limits, (name, most): (&str, u64), beyond: &str, within: &str) -> Outcome {
    let proxy = limited(server, limits)?;
    let told = format!("ERROR:  denied by Postern: limit {name} of role \"limited\" is reached");
    let count = "SELECT count(*) FROM products WHERE id = 7000";
    let script = format!(
        "{beyond};\nSELECT 'goes on';\n{within};\nBEGIN;\nINSERT INTO products VALUES (7000, 'x', 1);\n{beyond};\n\
         SELECT 'not now';\nCOMMIT;\nBEGIN;\nSAVEPOINT s;\n{beyond};\nROLLBACK TO s;\nSELECT 'saved';\nCOMMIT;\n{count};\n"
    );
    let (out, error) = session(&proxy, &script)?;
    let marks = |line: &&str| {
        ["goes on", "not now", "saved", "BEGIN", "COMMIT", "ROLLBACK", "INSERT 0 1", "SAVEPOINT", "0"].contains(line)
    };
    let lines: Vec<&str> = out.lines().filter(marks).collect();
    let wanted = "goes on BEGIN INSERT 0 1 ROLLBACK BEGIN SAVEPOINT ROLLBACK saved COMMIT 0";
    expect(&lines.join(" "), wanted).map_err(|why| format!("{why}\n{out}\n{error}"))?;
    let times = error.matches(&told).count();
    holds(&error, "current transaction is aborted")?;
    if times != 3 || error.contains("canceling statement") {
        return Err(format!("told {times} times: {error}"));
    }
    recorded(&proxy, name, most, 3)?;
    idle(server)
}

/// The same with the extended protocol, by the Rust driver; with pipelines.
fn extended(server: &Postgres, limits: Limits, (name, most): (&str, u64), beyond: &str, within: &str) -> Outcome {
    let proxy = limited(server, limits)?;
    let codes = client(&proxy, async |client| {
        let code = |error: tokio_postgres::Error| error.code().cloned();
        let (before, beyond_it, after) =
            tokio::join!(client.query(within, &[]), client.query(beyond, &[]), client.query("SELECT 'after'", &[]));
        let mut codes = vec![before.err().and_then(code), beyond_it.err().and_then(code), after.err().and_then(code)];
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO products VALUES (7001, 'x', 1)", &[]).await?;
        codes.push(transaction.query(beyond, &[]).await.err().and_then(code));
        codes.push(transaction.query("SELECT 1", &[]).await.err().and_then(code));
        transaction.commit().await?;
        codes.push(client.query(within, &[]).await.err().and_then(code));
        Ok(codes)
    })
    .map_err(|why| format!("{why}\n{}", proxy.log_text()))?;
    let reached = || Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED);
    if codes != [None, reached(), None, reached(), Some(SqlState::IN_FAILED_SQL_TRANSACTION), None] {
        return Err(format!("{codes:?}"));
    }
    expect(&server.sql("shop", "SELECT count(*) FROM products WHERE id = 7001")?, "0")?;
    recorded(&proxy, name, most, 2)?;
    pipeline(&proxy, beyond)?;
    expect(&server.sql("shop", "SELECT count(*) FROM products WHERE id = 7002")?, "0")?;
    recorded(&proxy, name, most, 3)?;
    idle(server)
}

/// One pipeline: an insert, what is beyond the limit, and another insert; it fails whole, and the session goes on.
fn pipeline(proxy: &Proxy, beyond: &str) -> Outcome {
    let mut stream = raw(proxy)?;
    let insert = "INSERT INTO products VALUES (7002, 'x', 1)";
    let mut bytes: Vec<u8> = [insert, beyond, insert].iter().flat_map(|text| run(text)).collect();
    bytes.extend_from_slice(b"S\0\0\0\x04");
    stream.write_all(&bytes).map_err(|error| error.to_string())?;
    let answer = until(&mut stream, b"Z\0\0\0\x05I")?;
    holds(&answer, "53400")?;
    expect(&answer.matches("INSERT 0 1").count().to_string(), "1")?;
    stream.write_all(&[&run("SELECT 'on'")[..], b"S\0\0\0\x04"].concat()).map_err(|error| error.to_string())?;
    holds(&until(&mut stream, b"Z\0\0\0\x05I")?, "SELECT 1")
}

/// `Parse`, `Bind` and `Execute` of a text.
fn run(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() + 8).unwrap_or_default().to_be_bytes();
    let parse = [b"P", &length[..], b"\0", text.as_bytes(), b"\0\0\0"].concat();
    [&parse[..], b"B\0\0\0\x0c\0\0\0\0\0\0\0\0", b"E\0\0\0\x09\0\0\0\0\0"].concat()
}

/// Nothing runs at the server on the agent's behalf, and no transaction is open.
fn idle(server: &Postgres) -> Outcome {
    wait_until("the server does nothing for the agent", PATIENCE, || {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state <> 'idle'";
        server.sql("shop", busy).as_deref() == Ok("0")
    })
}

const MANY: &str = "SELECT a.id FROM products a, products b, products c, products d";
const FEW: &str = "SELECT id FROM products ORDER BY id LIMIT 10";

pub fn rows_simple(server: &Postgres) -> Outcome {
    simple(server, rows_limit(10), ("rows", 10), MANY, FEW)?;
    // So few that the server has sent them all before it can be asked to stop.
    simple(server, rows_limit(10), ("rows", 10), "SELECT id FROM products LIMIT 11", FEW)
}

pub fn rows_extended(server: &Postgres) -> Outcome {
    extended(server, rows_limit(10), ("rows", 10), MANY, FEW)?;
    extended(server, rows_limit(10), ("rows", 10), "SELECT id FROM products LIMIT 11", FEW)
}

pub fn bytes_simple(server: &Postgres) -> Outcome {
    let one = "SELECT repeat('x', 100000000)";
    simple(server, bytes_limit(2_000), ("bytes", 2_000), one, "SELECT repeat('x', 1000)")?;
    simple(server, bytes_limit(2_000), ("bytes", 2_000), "SELECT name FROM products", "SELECT 1")
}

pub fn bytes_extended(server: &Postgres) -> Outcome {
    let many = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
    extended(server, bytes_limit(2_000), ("bytes", 2_000), many, "SELECT repeat('x', 1000)")
}

pub fn time_simple(server: &Postgres) -> Outcome {
    simple(server, time_limit(300), ("statement_time", 300), "SELECT pg_sleep(600)", "SELECT pg_sleep(0)")
}

pub fn time_extended(server: &Postgres) -> Outcome {
    extended(server, time_limit(300), ("statement_time", 300), "SELECT pg_sleep(600)", "SELECT pg_sleep(0)")
}

pub fn written(server: &Postgres) -> Outcome {
    // What the client is told and what the server has done agree, whichever of the two is first.
    let proxy = limited(server, rows_limit(10))?;
    for round in 0..10 {
        let count = |wanted: &str| {
            let found = server.sql("shop", "SELECT count(*) FROM products WHERE id >= 8000")?;
            server.sql("shop", "DELETE FROM products WHERE id >= 8000")?;
            expect(&found, wanted)
        };
        let size = 11 + round * 400;
        let insert =
            format!("INSERT INTO products SELECT 8000 + n, 'x', 1 FROM generate_series(1, {size}) n RETURNING id");
        let (_, error) = session(&proxy, &format!("{insert};\n"))?;
        holds(&error, "limit rows of role")?;
        if error.contains("FATAL") {
            server.sql("shop", "DELETE FROM products WHERE id >= 8000")?;
            idle(server)?;
        } else {
            count("0")?;
        }
        let (out, error) = session(&proxy, &format!("BEGIN;\n{insert};\nCOMMIT;\n"))?;
        holds(&error, "limit rows of role")?;
        holds(&out, "ROLLBACK")?;
        lacks(&error, "FATAL")?;
        count("0")?;
    }
    recorded(&proxy, "rows", 10, 20)
}

pub fn portals(server: &Postgres) -> Outcome {
    let proxy = limited(server, rows_limit(10))?;
    let found = client(&proxy, async |client| {
        let transaction = client.transaction().await?;
        let portal = transaction.bind("SELECT id FROM products", &[]).await?;
        let mut counts = Vec::new();
        for most in [4, 6] {
            counts.push(transaction.query_portal(&portal, most).await?.len());
        }
        let beyond = transaction.query_portal(&portal, 1).await.err();
        transaction.rollback().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute("DECLARE c CURSOR FOR SELECT id FROM products").await?;
        for _ in 0..3 {
            // A FETCH is a statement of its own.
            counts.push(transaction.query("FETCH 10 FROM c", &[]).await?.len());
        }
        let fetched = transaction.query("FETCH 11 FROM c", &[]).await.err();
        transaction.rollback().await?;
        Ok((counts, [beyond, fetched].map(|error| error.and_then(|error| error.code().cloned()))))
    })?;
    let reached = || Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED);
    if found != (vec![4, 6, 10, 10, 10], [reached(), reached()]) {
        return Err(format!("{found:?}"));
    }
    recorded(&proxy, "rows", 10, 2)?;
    idle(server)
}

pub fn copies(server: &Postgres) -> Outcome {
    let many = "COPY (SELECT n FROM generate_series(1, 5000000) n) TO STDOUT";
    for (limits, name, most) in [(rows_limit(10), "rows", 10), (bytes_limit(100), "bytes", 100)] {
        let proxy = limited(server, limits)?;
        let copied = "COPY (SELECT id FROM products WHERE id <= 10) TO STDOUT";
        let script = format!("{copied};\n{many};\nSELECT 'on';\nBEGIN;\n{many};\nCOMMIT;\n");
        let (out, error) = session(&proxy, &script)?;
        expect(&error.matches(&format!("ERROR:  denied by Postern: limit {name} of role")).count().to_string(), "2")?;
        let shown = out.lines().filter(|line| line.parse::<u64>().is_ok()).count();
        if !(20..=40).contains(&shown) || !out.ends_with("ROLLBACK\n") || !out.contains("on\n") {
            return Err(format!("{shown} lines: {out}"));
        }
        recorded(&proxy, name, most, 2)?;
    }
    let proxy = limited(server, bytes_limit(1_000))?;
    let data: String = (0..500).map(|number| format!("{}\tcopied\t1\n", 9_000 + number)).collect();
    let some: String = data.lines().take(20).map(|line| format!("{line}\n")).collect();
    let copy = "COPY products FROM STDIN";
    let script = format!("{copy};\n{data}\\.\nSELECT 'on';\nBEGIN;\n{copy};\n{data}\\.\nCOMMIT;\n{copy};\n{some}\\.\n");
    let (out, error) = session(&proxy, &script)?;
    expect(&error.matches("ERROR:  denied by Postern: limit bytes of role \"limited\"").count().to_string(), "2")?;
    expect(&out, "on\nBEGIN\nROLLBACK\nCOPY 20\n")?;
    expect(&server.sql("shop", "SELECT count(*) FROM products WHERE name = 'copied'")?, "20")?;
    server.sql("shop", "DELETE FROM products WHERE name = 'copied'")?;
    recorded(&proxy, "bytes", 1_000, 2)?;
    idle(server)
}

pub fn copy_of_a_silent_client(server: &Postgres) -> Outcome {
    let proxy = limited(server, time_limit(300))?;
    let mut stream = raw(&proxy)?;
    let text = b"COPY products FROM STDIN\0";
    let length = u32::try_from(text.len() + 4).unwrap_or_default().to_be_bytes();
    stream.write_all(&[b"Q", &length[..], text].concat()).map_err(|error| error.to_string())?;
    holds(&until(&mut stream, b"Z\0\0\0\x05I")?, "53400")?;
    stream.write_all(b"d\0\0\0\x06x\nc\0\0\0\x04").map_err(|error| error.to_string())?;
    stream.write_all(&[&run("SELECT 'on'")[..], b"S\0\0\0\x04"].concat()).map_err(|error| error.to_string())?;
    holds(&until(&mut stream, b"Z\0\0\0\x05I")?, "SELECT 1")?;
    recorded(&proxy, "statement_time", 300, 1)?;
    idle(server)
}

pub fn through_tls(server: &Postgres) -> Outcome {
    // The request to cancel goes the way of the session.
    let builder = Builder::new(server).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test"));
    let proxy = builder.role("limited", time_limit(300)).start()?;
    let (out, error) = session(&proxy, "SELECT pg_sleep(600);\nSELECT 'on';\n")?;
    expect(&out, "on\n")?;
    holds(&error, "limit statement_time of role \"limited\" is reached: a statement takes at most 300ms")?;
    idle(server)
}

pub fn lowest(server: &Postgres) -> Outcome {
    let builder = Builder::new(server).role("wide", rows_limit(1_000)).role("limited", rows_limit(10));
    let proxy = builder.role("free", Limits::default()).start()?;
    expect(&psql(&proxy, FEW)?.lines().count().to_string(), "10")?;
    holds(&fails(&proxy, "SELECT id FROM products")?, "limit rows of role \"limited\"")?;
    recorded(&proxy, "rows", 10, 1)?;
    // Who has none sees all.
    let proxy = Builder::new(server).role("free", Limits::default()).start()?;
    expect(&psql(&proxy, "SELECT id FROM products")?.lines().count().to_string(), "100")?;
    recorded(&proxy, "rows", 0, 0)
}

pub fn observed(server: &Postgres) -> Outcome {
    let all = Limits { statements_per_minute: Some(1), ..rows_limit(10) };
    let proxy = Builder::new(server).observe().role("limited", all).start()?;
    let (out, error) = session(&proxy, "SELECT id FROM products;\nSELECT 1;\n")?;
    expect(&error, "")?;
    expect(&out.lines().count().to_string(), "101")?;
    let limits: Vec<Value> = reached(&proxy).into_iter().map(|record| record["limit"].clone()).collect();
    if limits == ["rows", "statements_per_minute"] { Ok(()) } else { Err(format!("{limits:?}")) }
}
