//! COPY.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use agent::model::{Action, Denial};
use agent_tests::{Outcome, Postgres};
use bytes::Bytes;
use futures_util::{SinkExt as _, TryStreamExt as _};

use super::{client, expect, fails, holds, lacks, masked, psql, raw, session, until};
use crate::proxy::Builder;

/// A message with its length.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

pub fn both_ways(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let script = "CREATE TEMP TABLE t (a int, b text);\nCOPY t FROM STDIN;\n1\tone\n2\ttwo\n\\.\n\
                  COPY t (b, a) FROM STDIN WITH (FORMAT csv, HEADER);\nb,a\n\"a,b\",3\n\\.\nCOPY t TO STDOUT;\n\
                  COPY (SELECT b FROM t WHERE a = 3) TO STDOUT WITH (FORMAT csv);\n\
                  SELECT 1 \\; COPY t TO STDOUT \\; SELECT 2;\n";
    let (out, errors) = session(&proxy, script)?;
    expect(&errors, "")?;
    expect(&out, "CREATE TABLE\nCOPY 2\nCOPY 1\n1\tone\n2\ttwo\n3\ta,b\n\"a,b\"\n1\n1\tone\n2\ttwo\n3\ta,b\n2\n")?;
    // The extended protocol, which tokio-postgres uses, and the binary form.
    let seen = client(&proxy, async |client| {
        client.batch_execute("CREATE TEMP TABLE t (a int, b text)").await?;
        let sink = client.copy_in::<_, Bytes>("COPY t FROM STDIN").await?;
        let mut sink = std::pin::pin!(sink);
        for number in 0..10_000 {
            sink.send(Bytes::from(format!("{number}\t{}\n", "x".repeat(100)))).await?;
        }
        let rows = sink.finish().await?;
        let out: Vec<Bytes> = client.copy_out("COPY t TO STDOUT (FORMAT binary)").await?.try_collect().await?;
        let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await?.get(0);
        Ok((rows, out.iter().map(Bytes::len).sum::<usize>(), count))
    })?;
    if seen != (10_000, 19 + 2 + 10_000 * (2 + 4 + 4 + 4 + 100), 10_000) {
        return Err(format!("{seen:?}"));
    }
    let log = proxy.log();
    let copies: Vec<String> = log
        .iter()
        .filter(|record| record["event"] == "finished" && record["copied"].is_number())
        .map(|record| format!("{} {}", record["copied"], record["rows"]))
        .collect();
    // psql sends the `\.` with the data.
    let wanted = ["15 2", "15 1", "18 3", "6 1", "18 5", "1058890 10000", "1140021 10000"];
    expect(&copies.join(", "), &wanted.join(", "))?;
    let text = proxy.log_text();
    holds(&text, r#"["1\tone"],["2\ttwo"]"#)?;
    holds(&text, r#"["\"a,b\",3"]"#)
}

pub fn masked_columns(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    for sql in [
        "COPY customers TO STDOUT",
        "COPY customers (id, ssn) TO STDOUT",
        "COPY (SELECT * FROM customers) TO STDOUT",
        "COPY (SELECT upper(email) FROM customers) TO STDOUT",
        "COPY (SELECT name FROM customers ORDER BY born) TO STDOUT",
    ] {
        holds(&fails(&proxy, sql)?, "denied by Postern")?;
    }
    expect(&psql(&proxy, "COPY customers (id, name) TO STDOUT")?, "1\tAda\n2\tGrace")?;
    expect(&psql(&proxy, "COPY (SELECT name FROM customers ORDER BY id) TO STDOUT")?, "Ada\nGrace")?;
    // What is copied in is not recorded either, and not quoted by the server's errors.
    let out = session(&proxy, "COPY customers (id, name, email) FROM STDIN;\nx\ty\tmallory@example.net\n\\.\n")?;
    holds(&out.1, "22P02")?;
    lacks(&out.1, "example.net")?;
    lacks(&proxy.log_text(), "example.net")?;
    // Whoever may see them may copy them; the log stays without.
    let proxy = masked(server).policy(|_| None).start()?;
    holds(&psql(&proxy, "COPY customers TO STDOUT")?, "111-22-3333")?;
    let all = client(&proxy, async |client| {
        let all: Vec<Bytes> = client.copy_out("COPY customers TO STDOUT").await?.try_collect().await?;
        Ok(String::from_utf8_lossy(&all.concat()).into_owned())
    })?;
    holds(&all, "111-22-3333")?;
    lacks(&proxy.log_text(), "111-22")
}

pub fn errors(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let script = "CREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\n1\nbad\n3\n\\.\nSELECT count(*) FROM t;\n\
                  BEGIN;\nCOPY t FROM STDIN;\nworse\n\\.\nSELECT 1;\nROLLBACK;\nCOPY nowhere FROM STDIN;\nCOPY nowhere TO STDOUT;\n\
                  COPY (SELECT 1 / (2 - n) FROM generate_series(1, 3) n) TO STDOUT;\nCOPY t FROM STDIN;\n5\n\\.\nTABLE t;\n";
    let (out, errors) = session(&proxy, script)?;
    expect(&out, "CREATE TABLE\n0\nBEGIN\nROLLBACK\n1\nCOPY 1\n5\n")?;
    for part in ["\"bad\"", "COPY t, line 2", "\"worse\"", "aborted", "\"nowhere\"", "\"nowhere\"", "division by zero"]
    {
        holds(&errors, part)?;
    }
    // CopyFail, by a client that drops its sink.
    let after = client(&proxy, async |client| {
        client.batch_execute("CREATE TEMP TABLE t (a int)").await?;
        let mut sink = Box::pin(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await?);
        sink.send(Bytes::from_static(b"1\n")).await?;
        drop(sink);
        client.query_one("SELECT count(*) FROM t", &[]).await.map(|row| row.get::<_, i64>(0))
    })?;
    if after == 0 { holds(&proxy.log_text(), "57014") } else { Err(format!("{after} rows")) }
}

pub fn early_end(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let error = |error: std::io::Error| error.to_string();
    let mut stream = raw(&proxy)?;
    stream.write_all(&message(b'Q', b"CREATE TEMP TABLE t (a int)\0")).map_err(error)?;
    until(&mut stream, b"Z\0\0\0\x05I")?;
    let begin = [
        message(b'P', b"\0COPY t FROM STDIN\0\0\0"),
        message(b'B', b"\0\0\0\0\0\0\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat();
    // The Sync comes before the data: it is ignored, and the one after the data is answered.
    let data =
        [begin.clone(), message(b'd', b"1\n"), message(b'H', b""), message(b'c', b""), message(b'S', b"")].concat();
    stream.write_all(&data).map_err(error)?;
    let answer = until(&mut stream, b"Z\0\0\0\x05I")?;
    holds(&answer, "COPY 1")?;
    // A first row that is no number, and then 64 MiB that nobody wants.
    stream.write_all(&begin).map_err(error)?;
    stream.write_all(&message(b'd', b"none\n")).map_err(error)?;
    let row = message(b'd', &[b"2\n".repeat(500_000), Vec::new()].concat());
    let started = Instant::now();
    for _ in 0..64 {
        stream.write_all(&row).map_err(error)?;
    }
    stream.write_all(&[message(b'c', b""), message(b'S', b"")].concat()).map_err(error)?;
    let answer = until(&mut stream, b"Z\0\0\0\x05I")?;
    holds(&answer, "22P02")?;
    if started.elapsed() > Duration::from_secs(20) {
        return Err(format!("it took {:?}", started.elapsed()));
    }
    // None of it has gone into the next.
    stream.write_all(&message(b'Q', b"COPY t FROM STDIN; SELECT 'rows ' || count(*) FROM t\0")).map_err(error)?;
    stream.write_all(&[message(b'd', b"3\n"), message(b'c', b"")].concat()).map_err(error)?;
    holds(&until(&mut stream, b"Z\0\0\0\x05I")?, "rows 2")?;
    // A query where data is due ends the session, as with the server.
    stream.write_all(&message(b'Q', b"COPY t FROM STDIN\0")).map_err(error)?;
    stream.write_all(&message(b'Q', b"SELECT 1\0")).map_err(error)?;
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream, &mut rest).map_err(error)?;
    holds(&rest, "unexpected message type 0x51 during COPY from stdin")
}

pub fn permitted(server: &Postgres) -> Outcome {
    fn nothing_out(action: &Action) -> Option<Denial> {
        let out = |request: &agent::model::Request| request.action == "sql:copy_out";
        action.requests.iter().any(out).then(|| Denial::closed("nothing leaves"))
    }
    fn no_inserts(action: &Action) -> Option<Denial> {
        let inserts = |request: &agent::model::Request| request.action == "sql:insert";
        action.requests.iter().any(inserts).then(|| Denial::closed("nothing is added"))
    }
    let proxy = Builder::new(server).policy(nothing_out).start()?;
    for sql in ["COPY products TO STDOUT", "COPY (SELECT 1) TO STDOUT", "SELECT 1; COPY products TO STDOUT"] {
        holds(&fails(&proxy, sql)?, "nothing leaves")?;
    }
    let proxy = Builder::new(server).policy(no_inserts).start()?;
    let script =
        "COPY products FROM STDIN;\nSELECT count(*) FROM products WHERE id > 100;\nCOPY (SELECT 1) TO STDOUT;\n";
    let (out, errors) = session(&proxy, script)?;
    holds(&errors, "nothing is added")?;
    expect(&out, "0\n1\n")
}
