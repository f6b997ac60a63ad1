//! The cases.

use agent::model::{Action, Denial, Style};
use agent_tests::{Auth, Cmd, Outcome, Postgres};

use crate::{
    proxy::{Builder, Proxy},
    server,
};

type Case<'a> = (&'static str, Box<dyn FnOnce() -> Outcome + 'a>);

/// All cases; most share one server.
pub fn all(server: &Postgres) -> Vec<Case<'_>> {
    fn case<'a>(
        server: &'a Postgres,
        name: &'static str,
        body: fn(&Postgres) -> Outcome,
    ) -> Case<'a> {
        (name, Box::new(move || body(server)))
    }
    vec![
        case(server, "a permitted query is answered as by the server", plain),
        case(server, "many statements, errors and a transaction in one psql", statements),
        case(server, "a denial is native and the session goes on", denial),
        case(server, "a denial within a transaction fails the transaction", denial_in_transaction),
        case(server, "masked columns are masked for the client and in the log", masking),
        case(server, "what cannot be proven is refused", unproven),
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
    for part in ["session-started", "\"upstream_user\":\"app\"", "\"client_user\":\"whoever\"", "SELECT 1", "product 7"] {
        holds(&log, part)?;
    }
    lacks(&log, "upstream secret")
}

fn statements(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let script = "SELECT 1;\nSELECT nonsense;\nBEGIN;\nINSERT INTO products VALUES (1000, 'x', 1);\nROLLBACK;\n\
                  SELECT count(*) FROM products;\nSELECT 1 \\; SELECT 2;\n";
    let out = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &proxy.dsn("")]).input(script).run()?;
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
    let out = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &proxy.dsn("")]).input(script).run()?;
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
        let tls = Builder::new(&server).tls(agent::config::TlsMode::VerifyFull, server.ca(), Some("orders.test")).start()?;
        expect(&psql(&tls, "SELECT 1")?, "1")?;
        holds(&tls.log_text(), "\"server_tls\":\"TLSv1_3")?;
        if auth == Auth::Cleartext {
            let error = fails(&plain, "SELECT 1")?;
            holds(&error, "asks for the password in plaintext without TLS")?;
        } else {
            expect(&psql(&plain, "SELECT 1")?, "1")?;
        }
        let wrong = Builder::new(&server).login("app", Some("wrong")).tls(agent::config::TlsMode::Require, None, None).start()?;
        if auth != Auth::Trust {
            let error = fails(&wrong, "SELECT 1")?;
            holds(&error, "refused the agent's credential")?;
            lacks(&error, "wrong")?;
            lacks(&wrong.log_text(), "wrong")?;
        }
    }
    Ok(())
}
