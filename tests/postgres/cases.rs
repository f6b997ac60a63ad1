//! The cases.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use agent::{
    config::TlsMode,
    model::{Action, Denial, Style},
};
use agent_tests::{Auth, Authority, Cmd, Outcome, Postgres, TempDir, fds, rss_kib, wait_until};
use tokio_postgres::{NoTls, SimpleQueryMessage, error::SqlState};

use crate::{
    proxy::{Builder, Proxy},
    server,
};

type Case<'a> = (&'static str, Box<dyn FnOnce() -> Outcome + 'a>);

/// All cases; most share one server.
pub fn all(server: &Postgres) -> Vec<Case<'_>> {
    fn case<'a>(server: &'a Postgres, name: &'static str, body: fn(&Postgres) -> Outcome) -> Case<'a> {
        (name, Box::new(move || body(server)))
    }
    vec![
        case(server, "a permitted query is answered as by the server", plain),
        case(server, "many statements, errors and a transaction in one psql", statements),
        case(server, "a denial is native and the session goes on", denial),
        case(server, "a denial within a transaction fails the transaction", denial_in_transaction),
        case(server, "masked columns are masked for the client and in the log", masking),
        case(server, "what cannot be proven is refused", unproven),
        case(server, "the extended protocol, text and binary, with parameters", extended),
        case(server, "SQL's PREPARE, EXECUTE, DECLARE and FETCH", sql_names),
        case(server, "tables made within a transaction are known there", made_in_transaction),
        case(server, "prepared statements outlive a change of the catalogue", outlive),
        case(server, "a role that may unmask sees all, and the log does not", unmasked),
        case(server, "a masked column that does not exist closes the target", missing_column),
        case(server, "observe mode blocks and masks nothing but the log", observe),
        case(server, "the client's own login in observe mode", own_login),
        case(server, "TLS to the client, with the agent's authority and with the operator's certificate", client_tls),
        case(server, "TLS to the target: modes, names and authorities", server_tls),
        case(server, "a statement is cancelled with the agent's key", cancel),
        case(server, "a changed policy counts at once", policy_change),
        case(server, "a process that has gone does nothing more", process_gone),
        case(server, "settings when connecting are decided as SET", settings),
        case(server, "what is not built is refused natively", not_built),
        case(server, "pgbench, simple, extended and prepared", pgbench),
        case(server, "the session's end is told to both sides", endings),
        case(server, "odd beginnings are answered or closed", odd_beginnings),
        case(server, "two databases that differ in masked values look the same", non_interference),
        case(server, "300 malformed inputs leave nothing behind", malformed),
        ("logins: trust, cleartext in TLS only, md5, SCRAM", Box::new(logins)),
    ]
}

fn psql(proxy: &Proxy, sql: &str) -> Outcome<String> {
    Cmd::psql(&proxy.dsn(""), sql).ok().map(|out| out.trim_end().to_owned())
}

fn fails(proxy: &Proxy, sql: &str) -> Outcome<String> {
    let finished = Cmd::psql(&proxy.dsn(""), sql).run()?;
    if finished.success() { Err(format!("{sql} succeeded: {finished}")) } else { Ok(finished.stderr) }
}

fn expect(found: &str, wanted: &str) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("wanted {wanted:?}\nfound  {found:?}")) }
}

fn holds(text: &str, part: &str) -> Outcome {
    if text.contains(part) { Ok(()) } else { Err(format!("{part:?} is not in {text}")) }
}

fn lacks(text: &str, part: &str) -> Outcome {
    if text.contains(part) { Err(format!("{part:?} is in {text}")) } else { Ok(()) }
}

/// Deletes are not permitted.
fn no_deletes(action: &Action) -> Option<Denial> {
    action.requests.iter().any(|request| request.action == "sql:delete").then(|| Denial {
        rule: Some("no-deletes".into()),
        reason: "Nothing is deleted here.".into(),
        hint: None,
    })
}

/// Nothing is unmasked.
fn no_unmask(action: &Action) -> Option<Denial> {
    action.requests.iter().any(|request| request.action == "unmask").then(|| Denial::closed("not permitted"))
}

fn masked(server: &Postgres) -> Builder {
    Builder::new(server)
        .policy(no_unmask)
        .mask("public", "customers", "ssn", Style::Last4)
        .mask("public", "customers", "email", Style::Email)
        .mask("public", "customers", "born", Style::Year)
}

fn plain(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    expect(&psql(&proxy, "SELECT name FROM products WHERE id = 7")?, "product 7")?;
    let log = proxy.log_text();
    for part in ["session-started", "\"upstream_user\":\"app\"", "\"client_user\":\"whoever\"", "SELECT 1", "product 7"]
    {
        holds(&log, part)?;
    }
    lacks(&log, "upstream secret")
}

fn statements(server: &Postgres) -> Outcome {
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

fn denial(server: &Postgres) -> Outcome {
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

fn denial_in_transaction(server: &Postgres) -> Outcome {
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

fn masking(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    expect(
        &psql(&proxy, "SELECT * FROM customers ORDER BY id")?,
        "1|Ada|***3333|a***@***.org|1815-01-01\n2|Grace|***6666|g***@***.com|1906-01-01",
    )?;
    let error = fails(&proxy, "INSERT INTO customers VALUES (3, 'x', '111-22-3333')")?;
    holds(&error, "duplicate key value violates unique constraint")?;
    lacks(&error, "111-22")?;
    let log = proxy.log_text();
    for value in ["111-22", "ada@example", "1815-12", "444-55"] {
        lacks(&log, value)?;
    }
    holds(&log, "***3333")
}

fn unproven(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    for sql in [
        "SELECT ssn || '' FROM customers",
        "SELECT customers FROM customers",
        "SELECT id FROM customers WHERE ssn LIKE '1%'",
        "SELECT row_to_json(c) FROM customers c",
    ] {
        holds(&fails(&proxy, sql)?, "denied by Postern")?;
    }
    Ok(())
}

fn logins() -> Outcome {
    for auth in [Auth::Trust, Auth::Md5, Auth::Scram, Auth::Cleartext] {
        let server = server(auth)?;
        let plain = Builder::new(&server).start()?;
        let tls = Builder::new(&server).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test")).start()?;
        expect(&psql(&tls, "SELECT 1")?, "1")?;
        holds(&tls.log_text(), "\"server_tls\":\"TLSv1_3")?;
        if auth == Auth::Cleartext {
            let error = fails(&plain, "SELECT 1")?;
            holds(&error, "asks for the password in plaintext without TLS")?;
        } else {
            expect(&psql(&plain, "SELECT 1")?, "1")?;
        }
        let wrong = Builder::new(&server).login("app", Some("wrong")).tls(TlsMode::Require, None, None).start()?;
        if auth != Auth::Trust {
            let error = fails(&wrong, "SELECT 1")?;
            holds(&error, "refused the agent's credential")?;
            lacks(&error, "wrong")?;
            lacks(&wrong.log_text(), "wrong")?;
        }
    }
    Ok(())
}

/// Runs a client of the Rust driver against a proxy.
fn client<T>(
    proxy: &Proxy,
    body: impl AsyncFnOnce(&mut tokio_postgres::Client) -> Result<T, tokio_postgres::Error>,
) -> Outcome<T> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let (mut client, connection) =
            tokio_postgres::connect(&proxy.dsn(""), NoTls).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let answer = body(&mut client).await.map_err(|error| format!("{error:?}"));
        drop(client);
        connection.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        answer
    })
}

fn extended(server: &Postgres) -> Outcome {
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

fn sql_names(server: &Postgres) -> Outcome {
    let proxy = masked(server).start()?;
    let script = "PREPARE p AS SELECT id, ssn FROM customers WHERE id = $1;\nEXECUTE p(2);\nBEGIN;\n\
                  DECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id;\nFETCH 1 FROM c;\nMOVE 1 FROM c;\nCLOSE c;\nCOMMIT;\n\
                  DEALLOCATE p;\nEXECUTE p(1);\n";
    let out = session(&proxy, script)?;
    expect(&out.0, "PREPARE\n2|***6666\nBEGIN\nDECLARE CURSOR\n***3333\nMOVE 1\nCLOSE CURSOR\nCOMMIT\nDEALLOCATE\n")?;
    holds(&out.1, "ERROR")
}

/// Standard output and standard error of psql with a script.
fn session(proxy: &Proxy, script: &str) -> Outcome<(String, String)> {
    let psql = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &proxy.dsn("")]);
    let out = psql.input(script).run()?;
    Ok((out.stdout, out.stderr))
}

fn made_in_transaction(server: &Postgres) -> Outcome {
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

fn outlive(server: &Postgres) -> Outcome {
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

fn unmasked(server: &Postgres) -> Outcome {
    let proxy = masked(server).policy(|_| None).start()?;
    expect(&psql(&proxy, "SELECT ssn FROM customers WHERE id = 1")?, "111-22-3333")?;
    expect(&psql(&proxy, "SELECT upper(ssn) FROM customers WHERE id = 1")?, "111-22-3333")?;
    lacks(&proxy.log_text(), "111-22")
}

fn missing_column(server: &Postgres) -> Outcome {
    let proxy = masked(server).mask("public", "customers", "nonsense", Style::Null).start()?;
    let error = fails(&proxy, "SELECT 1")?;
    holds(&error, "masked column public.customers.nonsense")?;
    holds(&proxy.log_text(), "connection-refused")
}

fn observe(server: &Postgres) -> Outcome {
    fn nothing(_: &Action) -> Option<Denial> {
        Some(Denial::closed("nothing is permitted"))
    }
    let proxy = masked(server).policy(nothing).observe().start()?;
    expect(&psql(&proxy, "SELECT ssn FROM customers WHERE id = 1")?, "111-22-3333")?;
    expect(&psql(&proxy, "SELECT 'x' || ssn FROM customers WHERE id = 1")?, "x111-22-3333")?;
    expect(&psql(&proxy, "COPY (SELECT name FROM products WHERE id < 3) TO STDOUT")?, "product 1\nproduct 2")?;
    let copy = "CREATE TEMP TABLE t (a int);\nCOPY t FROM STDIN;\n1\n2\n\\.\nSELECT sum(a) FROM t;\n";
    expect(&session(&proxy, copy)?.0, "CREATE TABLE\nCOPY 2\n3\n")?;
    let log = proxy.log_text();
    holds(&log, "\"verdict\":\"observe\"")?;
    lacks(&log, "111-22")
}

fn own_login(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).observe().clients_own_login().start()?;
    let with = |user: &str, password: &str| {
        Cmd::psql(&proxy.dsn(&format!("user={user}")), "SELECT current_user").env("PGPASSWORD", password)
    };
    expect(with("app", "upstream secret").ok()?.trim(), "app")?;
    let refused = with("app", "wrong").run()?;
    if refused.success() { Err("a wrong password was good".into()) } else { lacks(&proxy.log_text(), "secret") }
}

fn client_tls(server: &Postgres) -> Outcome {
    let select = "SELECT 1";
    let own = Builder::new(server).start()?;
    let dsn = own.dsn(&format!("sslmode=verify-full sslrootcert={}", own.ca().display()));
    expect(Cmd::psql(&dsn, select).ok()?.trim(), "1")?;
    holds(&own.log_text(), "\"client_tls\":\"TLSv1_3")?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let authority = Authority::new("The operator's own")?;
    let (cert, key) = authority.issue(&["127.0.0.1"])?;
    let write = |name, text: &str| dir.write(name, text, 0o600).map_err(|error| error.to_string());
    let (ca, cert, key) = (write("ca", authority.pem())?, write("cert", &cert)?, write("key", &key)?);
    let operators = Builder::new(server).serve(cert, key).start()?;
    let dsn = operators.dsn(&format!("sslmode=verify-full sslrootcert={}", ca.display()));
    expect(Cmd::psql(&dsn, select).ok()?.trim(), "1")?;
    // The agent's authority is another.
    let dsn = operators.dsn(&format!("sslmode=verify-full sslrootcert={}", own.ca().display()));
    if Cmd::psql(&dsn, select).run()?.success() { Err("any authority was good".into()) } else { Ok(()) }
}

fn server_tls(server: &Postgres) -> Outcome {
    let other = TempDir::new().map_err(|error| error.to_string())?;
    let other = other.write("ca", Authority::new("Another")?.pem(), 0o644).map_err(|error| error.to_string())?;
    let good = server.ca();
    let cases = [
        (TlsMode::Require, None, None, true),
        (TlsMode::VerifyCa, good.clone(), Some("elsewhere.test"), true),
        (TlsMode::VerifyCa, Some(other.clone()), Some("orders.test"), false),
        (TlsMode::VerifyFull, good.clone(), Some("orders.test"), true),
        (TlsMode::VerifyFull, good.clone(), None, true),
        (TlsMode::VerifyFull, good, Some("elsewhere.test"), false),
        (TlsMode::VerifyFull, Some(other), Some("orders.test"), false),
        (TlsMode::VerifyFull, None, Some("orders.test"), false),
    ];
    for (mode, ca, name, works) in cases {
        let what = format!("{mode:?} {ca:?} {name:?}");
        let proxy = Builder::new(server).tls(mode, ca, name).start()?;
        if psql(&proxy, "SELECT 1").is_ok() != works {
            return Err(format!("{what}: {}", proxy.log_text()));
        }
    }
    Ok(())
}

fn cancel(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let code = client(&proxy, async |client| {
        let token = client.cancel_token();
        let (slept, cancelled) = tokio::join!(client.simple_query("SELECT pg_sleep(20)"), async {
            // Only a statement that runs can be cancelled.
            for _ in 0..200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let running =
                    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
                if server.sql("shop", running).as_deref() == Ok("1") {
                    break;
                }
            }
            token.cancel_query(NoTls).await
        });
        cancelled?;
        Ok(slept.err().and_then(|error| error.code().cloned()))
    })?;
    if code != Some(SqlState::QUERY_CANCELED) {
        return Err(format!("{code:?}"));
    }
    Ok(())
}

fn policy_change(server: &Postgres) -> Outcome {
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

fn process_gone(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    client(&proxy, async |client| {
        client.simple_query("SELECT 1").await?;
        proxy.process_ends();
        Ok(client.simple_query("SELECT 2").await.err().map(|error| format!("{error:?}")))
    })
    .and_then(|error| holds(&error.unwrap_or_default(), "has ended"))?;
    holds(&fails(&proxy, "SELECT 1")?, "has ended")
}

fn settings(server: &Postgres) -> Outcome {
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

fn not_built(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    holds(&fails(&proxy, "COPY products TO STDOUT")?, "COPY is not supported")?;
    holds(&fails(&proxy, "COPY products FROM STDIN")?, "COPY is not supported")?;
    let mut stream = raw(&proxy)?;
    // FunctionCall of OID 1 without arguments.
    stream.write_all(b"F\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0").map_err(|error| error.to_string())?;
    let answer = until(&mut stream, b"Z\0\0\0\x05I")?;
    holds(&answer, "FunctionCall is not supported")
}

/// A connection of our own, ready for its first message.
fn raw(proxy: &Proxy) -> Outcome<TcpStream> {
    let error = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).map_err(error)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(error)?;
    stream.write_all(b"\0\0\0\x1f\0\x03\0\0user\0me\0database\0shop\0\0").map_err(error)?;
    until(&mut stream, b"Z\0\0\0\x05I")?;
    Ok(stream)
}

/// Reads until these bytes come last.
fn until(stream: &mut TcpStream, last: &[u8]) -> Outcome<String> {
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while !all.ends_with(last) {
        match stream.read(&mut piece).map_err(|error| error.to_string())? {
            0 => return Err(format!("closed after {:?}", String::from_utf8_lossy(&all))),
            count => all.extend_from_slice(&piece[..count]),
        }
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

fn pgbench(server: &Postgres) -> Outcome {
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
    // Without the load by COPY.
    bench(&["-i", "-I", "dtGp", "-q"])?;
    for mode in ["simple", "extended", "prepared"] {
        let out = bench(&["-n", "-M", mode, "-S", "-c", "4", "-t", "50"])?;
        holds(&out, "number of transactions actually processed: 200/200")?;
        let out = bench(&["-n", "-M", mode, "-c", "2", "-t", "20"])?;
        holds(&out, "number of transactions actually processed: 40/40")?;
    }
    server.sql("shop", "DROP TABLE pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers").map(drop)
}

fn endings(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let ended =
        |reason: &'static str| wait_until(reason, Duration::from_secs(20), || proxy.log_text().contains(reason));
    drop(raw(&proxy)?);
    ended("the client is gone")?;
    psql(&proxy, "SELECT 1")?;
    ended("the client ended the session")?;
    let mut stream = raw(&proxy)?;
    server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")?;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).map_err(|error| error.to_string())?;
    holds(&rest, "57P01")?;
    ended("the target ended the session (SQLSTATE 57P01)")?;
    wait_until("the server has no session left", Duration::from_secs(20), || {
        server.sql("shop", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'").as_deref() == Ok("0")
    })
}

fn odd_beginnings(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let cases: [(&[u8], &str); 7] = [
        (b"\0\0\0\x08\x04\xd2\x16\x30", "N"),
        (b"\0\0\0\x08\0\x02\0\0", "0A000"),
        (b"\0\0\0\x09\0\x03\0\0\0", "28000"),
        (b"\xff\xff\xff\xff", "08P01"),
        (b"GET / HTTP/1.1\r\n\r\n", "08P01"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f\x16\x03\x01", ""),
        (b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x01", ""),
    ];
    for (bytes, wanted) in cases {
        let error = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).map_err(error)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(error)?;
        stream.write_all(bytes).map_err(error)?;
        stream.shutdown(std::net::Shutdown::Write).map_err(error)?;
        let mut answer = Vec::new();
        // A connection that is reset has an end too.
        let _reset = stream.read_to_end(&mut answer);
        holds(&String::from_utf8_lossy(&answer), wanted)?;
    }
    // After all of that it serves.
    expect(&psql(&proxy, "SELECT 1")?, "1")?;
    let messages = client(&proxy, async |client| client.simple_query("SELECT 1; SELECT 2").await)?;
    let rows = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count();
    if rows == 2 { Ok(()) } else { Err(format!("{rows} rows")) }
}

/// Statements of which some are answered, some fail, and some are refused.
const CURIOUS: &[&str] = &[
    "SELECT * FROM customers ORDER BY id",
    "SELECT ssn FROM customers ORDER BY ssn",
    "SELECT max(ssn) FROM customers",
    "SELECT count(DISTINCT email) FROM customers",
    "SELECT id FROM customers WHERE ssn = '111-22-3333'",
    "SELECT id FROM customers WHERE ssn > '2'",
    "SELECT ssn::int FROM customers",
    "SELECT length(email) FROM customers",
    "SELECT CASE WHEN ssn LIKE '1%' THEN 1 ELSE 1/0 END FROM customers",
    "INSERT INTO customers VALUES (1, 'x', 'y')",
    "INSERT INTO customers VALUES (3, 'x', NULL)",
    "UPDATE customers SET name = ssn",
    "UPDATE customers SET name = 'x' WHERE ssn = '111-22-3333'",
    "UPDATE customers SET id = 2 WHERE id = 1",
    "DELETE FROM customers WHERE ssn LIKE '1%'",
    "SELECT c FROM customers c",
    "SELECT row_to_json(c) FROM customers c",
    "SELECT name FROM customers UNION SELECT ssn FROM customers",
    "WITH c AS (SELECT * FROM customers) SELECT ssn FROM c ORDER BY id",
    "SELECT (SELECT ssn FROM customers LIMIT 1)",
    "SELECT id FROM customers ORDER BY ssn",
    "SELECT DISTINCT email FROM customers",
    "SELECT a.ssn FROM customers a JOIN customers b ON a.ssn = b.ssn",
    "SELECT * FROM pg_stats WHERE tablename = 'customers'",
    "SELECT most_common_vals FROM pg_statistic_ext_data",
    "SELECT query_to_xml('SELECT * FROM customers', true, true, '')",
    "EXPLAIN SELECT ssn FROM customers WHERE id = 1",
    "EXPLAIN ANALYZE SELECT id FROM customers WHERE ssn = '111-22-3333'",
    "CREATE TABLE copied AS SELECT * FROM customers",
    "CREATE INDEX ON customers (ssn)",
    "DO $$ BEGIN RAISE NOTICE '%', (SELECT ssn FROM customers LIMIT 1); END $$",
    "SELECT id, born FROM customers ORDER BY id",
    "PREPARE p AS SELECT email FROM customers ORDER BY id; EXECUTE p",
    "BEGIN; DECLARE c CURSOR FOR SELECT ssn FROM customers ORDER BY id; FETCH ALL FROM c; COMMIT",
    "TABLE customers",
    "SELECT customers.* FROM customers ORDER BY id",
    "SELECT string_agg(ssn, ',') FROM customers",
    "SELECT ssn FROM customers GROUP BY ssn ORDER BY 1",
    "SELECT nonsense FROM customers",
];

fn non_interference(server: &Postgres) -> Outcome {
    let look = || -> Outcome<(Vec<(String, String)>, String)> {
        let proxy = masked(server).start()?;
        let seen = CURIOUS.iter().map(|sql| session(&proxy, &format!("{sql};\n"))).collect::<Outcome<_>>()?;
        let log = proxy.log();
        let mut shown = String::new();
        for record in &log {
            for field in ["text", "parameters", "rows", "columns", "error", "tag", "verdict", "reason"] {
                shown.push_str(&record[field].to_string());
            }
        }
        Ok((seen, shown))
    };
    let before = look()?;
    // What the styles show stays: the last four, first letter and top-level domain, the year.
    server.sql(
        "shop",
        "BEGIN; UPDATE customers SET ssn = '999-00-3333', email = 'alan@elsewhere.org', born = '1815-03-04' WHERE id = 1; \
         UPDATE customers SET ssn = '000-00-6666', email = 'gordon@x.com', born = '1906-01-02' WHERE id = 2; COMMIT",
    )?;
    let after = look();
    server.sql(
        "shop",
        "UPDATE customers SET ssn = '111-22-3333', email = 'ada@example.org', born = '1815-12-10' WHERE id = 1; \
         UPDATE customers SET ssn = '444-55-6666', email = 'grace@example.com', born = '1906-12-09' WHERE id = 2",
    )?;
    let after = after?;
    for ((sql, before), after) in CURIOUS.iter().zip(&before.0).zip(&after.0) {
        if before != after {
            return Err(format!("{sql}:\n{before:?}\n{after:?}"));
        }
    }
    expect(&before.1, &after.1)?;
    lacks(&before.1, "111-22")
}

fn malformed(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let error = |error: std::io::Error| error.to_string();
    // A small generator, so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut round = |count: usize| -> Outcome {
        for number in 0..count {
            let mut bytes: Vec<u8> = match number % 3 {
                0 => Vec::new(),
                1 => b"Q\0\0\0\x0eSELECT 1;\0".to_vec(),
                _ => b"P\0\0\0\x10\0SELECT 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0".to_vec(),
            };
            let length = usize::try_from(random() % 64).expect("small");
            bytes.truncate(bytes.len().saturating_sub(length % 8));
            bytes.extend((0..length).map(|_| random().to_be_bytes()[0]));
            if number % 5 == 0 {
                // Announces 64 MiB, and sends none of it.
                bytes.extend_from_slice(b"Q\x04\0\0\0");
            }
            let mut stream = if number % 2 == 0 {
                let stream = TcpStream::connect(("127.0.0.1", proxy.port())).map_err(error)?;
                stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(error)?;
                stream
            } else {
                raw(&proxy)?
            };
            // It may be closed before all is sent.
            let _reset = stream.write_all(&bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
            let mut rest = Vec::new();
            match stream.read_to_end(&mut rest) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    return Err(format!("input {number} was neither answered nor closed: {bytes:?}"));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    };
    let settled = || {
        wait_until("all sessions have ended", Duration::from_secs(20), || {
            let log = proxy.log();
            let count = |event: &str| log.iter().filter(|record| record["event"] == event).count();
            count("session-started") == count("session-ended")
        })
    };
    round(60)?;
    settled()?;
    let pid = std::process::id();
    let before = (fds(pid).unwrap_or(0), rss_kib(pid).unwrap_or(0));
    round(300)?;
    settled()?;
    wait_until("descriptors are closed", Duration::from_secs(20), || fds(pid).is_some_and(|now| now <= before.0))?;
    let grown = rss_kib(pid).unwrap_or(u64::MAX).saturating_sub(before.1);
    // The log of this test is in memory too.
    if grown > 8 << 10 { Err(format!("{grown} KiB more are in use")) } else { Ok(()) }
}
