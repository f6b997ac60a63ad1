//! The cases, and what they share.

mod connections;
mod copies;
mod decisions;
mod ends;
mod limits;
mod masking;
mod names;
mod replication;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use agent::model::{Action, Denial, Style};
use agent_tests::{Cmd, Outcome, Postgres};
use tokio_postgres::NoTls;

use crate::proxy::{Builder, Proxy};

type Case<'a> = (&'static str, Box<dyn FnOnce() -> Outcome + 'a>);

/// All cases; most share one server.
pub fn all(server: &Postgres) -> Vec<Case<'_>> {
    fn case<'a>(server: &'a Postgres, name: &'static str, body: fn(&Postgres) -> Outcome) -> Case<'a> {
        (name, Box::new(move || body(server)))
    }
    vec![
        case(server, "a permitted query is answered as by the server", decisions::plain),
        case(server, "many statements, errors and a transaction in one psql", decisions::statements),
        case(server, "a denial is native and the session goes on", decisions::denial),
        case(server, "a denial within a transaction fails the transaction", decisions::denial_in_transaction),
        case(server, "masked columns are masked for the client and in the log", masking::masking),
        case(server, "what cannot be proven is refused", masking::unproven),
        case(server, "the extended protocol, text and binary, with parameters", names::extended),
        case(server, "SQL's PREPARE, EXECUTE, DECLARE and FETCH", names::sql_names),
        case(server, "tables made within a transaction are known there", names::made_in_transaction),
        case(server, "prepared statements outlive a change of the catalogue", names::outlive),
        case(server, "a name that stands for something else by now is not run", names::renamed),
        case(server, "names that SQL makes are bounded", names::many),
        case(server, "a role that may unmask sees all, and the log does not", masking::unmasked),
        case(server, "a masked column that does not exist closes the target", masking::missing_column),
        case(server, "observe mode blocks and masks nothing but the log", masking::observe),
        case(server, "the client's own login in observe mode", connections::own_login),
        case(
            server,
            "TLS to the client, with the agent's authority and with the operator's certificate",
            connections::client_tls,
        ),
        case(server, "TLS to the target: modes, names and authorities", connections::server_tls),
        case(server, "a statement is cancelled with the agent's key", connections::cancel),
        case(server, "a changed policy counts at once", decisions::policy_change),
        case(server, "a process that has gone does nothing more", decisions::process_gone),
        case(server, "settings when connecting are decided as SET", decisions::settings),
        case(server, "COPY goes both ways, in every form and protocol, and is recorded", copies::both_ways),
        case(server, "COPY of masked columns is refused, and nothing of them is recorded", copies::masked_columns),
        case(server, "errors in the middle of a COPY are the server's, and the session goes on", copies::errors),
        case(
            server,
            "a COPY that the server ends early, with data on its way and a Sync before and after",
            copies::early_end,
        ),
        case(server, "COPY needs what it needs", copies::permitted),
        case(server, "functions are called by their OID where that is permitted", decisions::functions),
        case(server, "a cursor of DECLARE is run by Execute, in parts, and masked", names::cursor),
        case(server, "a pipeline of 60,000 messages without a Sync", names::long_pipeline),
        case(server, "pgbench, simple, extended and prepared", decisions::pgbench),
        case(server, "limit sessions: shared by processes, freed at the end and after a kill", limits::sessions),
        case(server, "limit sessions where nothing is enforced: recorded", limits::sessions_observed),
        case(server, "limit statements_per_minute: simple, in a transaction", limits::statements_per_minute),
        case(server, "limit statements_per_minute: extended", limits::statements_per_minute_extended),
        case(server, "limits of several roles: each of them holds", limits::several_roles),
        case(server, "limit rows: simple, in a transaction, with a savepoint", limits::rows_simple),
        case(server, "limit rows: extended, in a transaction, in pipelines", limits::rows_extended),
        case(server, "limit rows: what has been written is not called failed", limits::written),
        case(server, "limit rows: portals add up, each FETCH is a statement", limits::portals),
        case(server, "limit bytes: simple, in a transaction, with a savepoint", limits::bytes_simple),
        case(server, "limit bytes: extended, in a transaction, in pipelines", limits::bytes_extended),
        case(server, "limits rows and bytes: COPY out and in", limits::copies),
        case(server, "limit statement_time: simple, in a transaction, with a savepoint", limits::time_simple),
        case(server, "limit statement_time: extended, in a transaction, in pipelines", limits::time_extended),
        case(server, "limit statement_time: a COPY whose client says nothing", limits::copy_of_a_silent_client),
        case(server, "limit statement_time: the request to cancel goes through TLS", limits::through_tls),
        case(server, "limits of statements of several roles: the lowest counts", limits::lowest),
        case(server, "limits of statements where nothing is enforced: recorded", limits::observed),
        case(server, "the session's end is told to both sides", connections::endings),
        case(server, "a client that sends nothing more gets all its answers, as from the server", ends::half_closed),
        case(server, "notifications come while nothing is asked", ends::unasked),
        case(server, "a server that is stopped and started again", ends::started_again),
        case(server, "a request to cancel is recorded before its target answers", ends::cancelled_in_vain),
        case(server, "odd beginnings are answered or closed", connections::odd_beginnings),
        case(server, "two databases that differ in masked values look the same", masking::non_interference),
        case(server, "300 malformed inputs leave nothing behind", connections::malformed),
        ("logical replication: pg_recvlogical, a subscription, refusals", Box::new(replication::logical)),
        ("physical replication: pg_basebackup, refusals", Box::new(replication::physical)),
        ("logins: trust, cleartext in TLS only, md5, SCRAM", Box::new(connections::logins)),
    ]
}

pub fn psql(proxy: &Proxy, sql: &str) -> Outcome<String> {
    Cmd::psql(&proxy.dsn(""), sql).ok().map(|out| out.trim_end().to_owned())
}

pub fn fails(proxy: &Proxy, sql: &str) -> Outcome<String> {
    let finished = Cmd::psql(&proxy.dsn(""), sql).run()?;
    if finished.success() { Err(format!("{sql} succeeded: {finished}")) } else { Ok(finished.stderr) }
}

pub fn expect(found: &str, wanted: &str) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("wanted {wanted:?}\nfound  {found:?}")) }
}

pub fn holds(text: &str, part: &str) -> Outcome {
    if text.contains(part) { Ok(()) } else { Err(format!("{part:?} is not in {text}")) }
}

pub fn lacks(text: &str, part: &str) -> Outcome {
    if text.contains(part) { Err(format!("{part:?} is in {text}")) } else { Ok(()) }
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

/// Standard output and standard error of psql with a script.
fn session(proxy: &Proxy, script: &str) -> Outcome<(String, String)> {
    let psql = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-A", "-t", "-d", &proxy.dsn("")]);
    let out = psql.input(script).run()?;
    Ok((out.stdout, out.stderr))
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
