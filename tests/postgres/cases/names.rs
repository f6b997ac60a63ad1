//! The extended protocol, names, and the catalogue.

use std::io::{Read, Write};

use agent_tests::{Outcome, Postgres};

use super::{client, expect, holds, lacks, masked, raw, session, until};
use crate::proxy::Builder;

pub fn extended(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let rows = client(&proxy, async |client| {
        let rows = client.query("SELECT id, ssn, born, email FROM customers WHERE id = $1", &[&1i32]).await?;
        let row = &rows[0];
        // tokio-postgres asks for binary: the masked date must be a date.
        let born: Option<String> = client
            .query_one("SELECT born::text FROM customers WHERE id = 1", &[])
            .await
            .map_or_else(|error| error.code().map(|code| code.code().to_owned()), |row| row.get(0));
        Ok((row.get::<_, i32>(0), row.get::<_, String>(1), row.get::<_, Option<String>>(3), born))
    })?;
    let wanted = (1, "***3333".to_owned(), Some("a***@***.org".to_owned()), Some("42501".to_owned()));
    if rows != wanted {
        return Err(format!("{rows:?}"));
    }
    let prepared = client(&proxy, async |client| {
        let statement = client.prepare("SELECT name FROM products WHERE id = $1").await?;
        let mut names = Vec::new();
        for id in 1..=3i32 {
            names.push(client.query_one(&statement, &[&id]).await?.get::<_, String>(0));
        }
        // Pipelined: three at once.
        let (a, b, c) = tokio::try_join!(
            client.query_one(&statement, &[&4i32]),
            client.query_one("SELECT 'x'::text || $1", &[&"y"]),
            client.query_one(&statement, &[&6i32]),
        )?;
        names.extend([a, b, c].map(|row| row.get::<_, String>(0)));
        let transaction = client.transaction().await?;
        let portal = transaction.bind(&statement, &[&7i32]).await?;
        names.push(transaction.query_portal(&portal, 1).await?[0].get(0));
        transaction.commit().await?;
        Ok(names.join(","))
    })?;
    expect(&prepared, "product 1,product 2,product 3,product 4,xy,product 6,product 7")?;
    let log = proxy.log_text();
    holds(&log, "\"parameters\":[\"4\"]")?;
    lacks(&log, "111-22")
}

pub fn sql_names(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let script = "PREPARE p AS SELECT id, ssn FROM customers WHERE id = $1;\nEXECUTE p(2);\nBEGIN;\n\
                  DECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id;\nFETCH 1 FROM c;\nMOVE 1 FROM c;\nCLOSE c;\nCOMMIT;\n\
                  DEALLOCATE p;\nEXECUTE p(1);\n";
    let out = session(&proxy, script)?;
    expect(&out.0, "PREPARE\n2|***6666\nBEGIN\nDECLARE CURSOR\n***3333\nMOVE 1\nCLOSE CURSOR\nCOMMIT\nDEALLOCATE\n")?;
    holds(&out.1, "ERROR")
}

pub fn made_in_transaction(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let script = "BEGIN;\nCREATE TEMP TABLE t (a int);\nINSERT INTO t VALUES (5);\nSELECT a FROM t;\nROLLBACK;\nSELECT a FROM t;\n\
                  CREATE TABLE made (a int);\nSELECT count(*) FROM made;\nDROP TABLE made;\n";
    let out = session(&proxy, script)?;
    expect(&out.0, "BEGIN\nCREATE TABLE\nINSERT 0 1\n5\nROLLBACK\nCREATE TABLE\n0\nDROP TABLE\n")?;
    // By others: the session sees what was made after it began.
    client(&proxy, async |client| {
        client.simple_query("SELECT 1").await?;
        server.sql("shop", "CREATE TABLE later (a int); GRANT SELECT ON later TO app").expect("made");
        let answer = client.simple_query("SELECT count(*) FROM later").await;
        server.sql("shop", "DROP TABLE later").expect("dropped");
        answer
    })
    .map(drop)
}

pub fn outlive(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let script = "PREPARE p AS SELECT name FROM products WHERE id = 1;\nCREATE TABLE made2 (a int);\nEXECUTE p;\nDROP TABLE made2;\nEXECUTE p;\n";
    let out = session(&proxy, script)?;
    expect(&out.0, "PREPARE\nCREATE TABLE\nproduct 1\nDROP TABLE\nproduct 1\n")?;
    client(&proxy, async |client| {
        let statement = client.prepare("SELECT ssn FROM customers WHERE id = 1").await?;
        client.batch_execute("CREATE TABLE made3 (a int)").await?;
        client.batch_execute("DROP TABLE made3").await?;
        client.query_one(&statement, &[]).await.map(|row| row.get::<_, String>(0))
    })
    .and_then(|ssn| expect(&ssn, "***3333"))
}

/// A portal of FETCH or EXECUTE runs what its name stands for when it runs, in columns as they were when it was bound.
pub fn renamed(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    for (define, forget, run) in
        [("DECLARE n CURSOR FOR", "CLOSE n", "FETCH 2 FROM n"), ("PREPARE n AS", "DEALLOCATE n", "EXECUTE n")]
    {
        let seen = client(&proxy, async |client| {
            let transaction = client.transaction().await?;
            transaction.batch_execute(&format!("{define} SELECT name FROM customers")).await?;
            let statement = transaction.prepare(run).await?;
            let portal = transaction.bind(&statement, &[]).await?;
            transaction.batch_execute(&format!("{forget}; {define} SELECT ssn FROM customers")).await?;
            let rows = transaction.query_portal(&portal, 0).await;
            Ok(rows.map(|rows| rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()))
        })?;
        match seen {
            Err(error) if error.code().is_some_and(|code| code.code() == "42501") => {}
            seen => return Err(format!("{run}: {seen:?}")),
        }
    }
    lacks(&proxy.log_text(), "111-22")
}

/// Names that SQL makes are as few as those of the protocol, and so is what is kept of their texts.
pub fn many(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let prepare =
        |from: usize, to: usize| (from..to).map(|number| format!("PREPARE p{number} AS SELECT 1;")).collect::<String>();
    client(&proxy, async |client| {
        let refused = client.batch_execute(&prepare(0, 1_000)).await.err().map(|error| format!("{error:?}"));
        let mut failed = None;
        for batch in 0..50 {
            if let Err(error) = client.batch_execute(&prepare(batch * 100, batch * 100 + 100)).await {
                failed = Some((batch, format!("{error:?}")));
                break;
            }
        }
        Ok((refused, failed))
    })
    .and_then(|(refused, failed)| {
        holds(&refused.unwrap_or_default(), "at once")?;
        let (batch, error) = failed.unwrap_or_default();
        holds(&error, "at most")?;
        expect(&batch.to_string(), "41")
    })
}

pub fn cursor(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let error = |error: std::io::Error| error.to_string();
    let mut stream = raw(&proxy)?;
    let declare = b"BEGIN; DECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id\0";
    stream.write_all(&[b"Q", &(declare.len() as u32 + 4).to_be_bytes()[..], declare].concat()).map_err(error)?;
    until(&mut stream, b"Z\0\0\0\x05T")?;
    let execute = b"E\0\0\0\x0ac\0\0\0\0\x01";
    let mut seen = Vec::new();
    for _ in 0..3 {
        stream.write_all(&[&execute[..], b"S\0\0\0\x04"].concat()).map_err(error)?;
        seen.push(until(&mut stream, b"Z\0\0\0\x05T")?);
    }
    holds(&seen[0], "***3333")?;
    holds(&seen[1], "***6666")?;
    holds(&seen[2], "SELECT 0")?;
    lacks(&seen.concat(), "111-22")?;
    lacks(&proxy.log_text(), "111-22")
}

pub fn long_pipeline(server: &Postgres) -> Outcome {
    const STATEMENTS: usize = 20_000;
    let proxy = Builder::new(server).start()?;
    let error = |error: std::io::Error| error.to_string();
    let mut stream = raw(&proxy)?;
    let one = b"P\0\0\0\x10\0SELECT 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";
    let mut writer = stream.try_clone().map_err(error)?;
    let writing = std::thread::spawn(move || {
        writer.write_all(&one.repeat(STATEMENTS)).and_then(|()| writer.write_all(b"S\0\0\0\x04"))
    });
    let answer = b"1\0\0\0\x042\0\0\0\x04D\0\0\0\x0b\0\x01\0\0\0\x011C\0\0\0\x0dSELECT 1\0".len();
    let mut all = vec![0; answer * STATEMENTS + 6];
    stream.read_exact(&mut all).map_err(error)?;
    writing.join().map_err(|_| "the writer panicked".to_owned())?.map_err(error)?;
    if all.ends_with(b"Z\0\0\0\x05I") { Ok(()) } else { Err("the answers are others".into()) }
}
