//! What comes unasked, and what ends.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use agent_tests::{Auth, Outcome, Postgres, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio_postgres::NoTls;

use super::{client, expect, holds, psql, raw, until};
use crate::{proxy::Builder, server as start};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client's last words, after which it only reads.
const LAST_WORDS: [(&str, &[u8]); 4] = [
    ("a statement", b"Q\0\0\0\x23SELECT pg_sleep(0.2), 'answer'\0"),
    ("statements", b"Q\0\0\0\x0dSELECT 1\0Q\0\0\0\x0dSELECT 2\0"),
    ("a pipeline without its Sync", b"P\0\0\0\x10\0SELECT 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0"),
    ("half a message", b"Q\0\0\0\x0dSELECT 1\0Q\0\0\0\x0dSEL"),
];

pub fn half_closed(_: &Postgres) -> Outcome {
    let server = start(Auth::Trust)?;
    let proxy = Builder::new(&server).start()?;
    for (name, words) in LAST_WORDS {
        let answers = |port: u16| -> Outcome<String> {
            let mut stream = logged_in(port)?;
            stream.write_all(words).map_err(|error| error.to_string())?;
            stream.shutdown(Shutdown::Write).map_err(|error| error.to_string())?;
            to_the_end(&mut stream).map_err(|error| format!("{name}: {error}"))
        };
        let (direct, ours) = (answers(server.port())?, answers(proxy.port())?);
        expect(&ours, &direct).map_err(|error| format!("{name}: {error}"))?;
    }
    wait_until("all sessions have ended", PATIENCE, || {
        proxy.log_text().matches("\"the client is gone\"").count() == LAST_WORDS.len()
    })
}

/// A session of the login `app`, which the server lets in without a password, ready for its first message.
fn logged_in(port: u16) -> Outcome<TcpStream> {
    let error = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(error)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(error)?;
    stream.write_all(b"\0\0\0\x20\0\x03\0\0user\0app\0database\0shop\0\0").map_err(error)?;
    until(&mut stream, b"Z\0\0\0\x05I")?;
    Ok(stream)
}

fn to_the_end(stream: &mut TcpStream) -> Outcome<String> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&rest).into_owned())
}

pub fn unasked(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let mut stream = raw(&proxy)?;
    stream.write_all(b"Q\0\0\0\x10LISTEN news\0").map_err(|error| error.to_string())?;
    until(&mut stream, b"Z\0\0\0\x05I")?;
    for word in ["first", "second"] {
        server.sql("shop", &format!("NOTIFY news, '{word}'"))?;
        // The client has said nothing since.
        let seen = until(&mut stream, format!("news\0{word}\0").as_bytes())?;
        holds(&seen[..1], "A")?;
    }
    Ok(())
}

pub fn cancelled_in_vain(_: &Postgres) -> Outcome {
    let server = start(Auth::Scram)?;
    let proxy = Builder::new(&server).start()?;
    let stopped = Pid::from_raw(i32::try_from(server.pid()).map_err(|error| error.to_string())?);
    client(&proxy, async |client| {
        let token = client.cancel_token();
        // It takes no connection any more, so it does not answer the request.
        let stop = kill(stopped, Signal::SIGSTOP);
        let request = tokio::spawn(async move { token.cancel_query(NoTls).await });
        let recorded = wait_until("it is recorded", PATIENCE, || proxy.log_text().contains("cancel-requested"));
        let go_on = kill(stopped, Signal::SIGCONT);
        let _answered = request.await;
        Ok(recorded.and(stop.and(go_on).map_err(|error| error.to_string())))
    })?
}

pub fn started_again(_: &Postgres) -> Outcome {
    let mut server = start(Auth::Scram)?;
    let proxy = Builder::new(&server).start()?;
    let (mut idle, mut busy) = (raw(&proxy)?, raw(&proxy)?);
    busy.write_all(b"Q\0\0\0\x19SELECT pg_sleep(600)\0").map_err(|error| error.to_string())?;
    wait_until("it runs", PATIENCE, || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND state = 'active'";
        server.sql("shop", running).as_deref() == Ok("1")
    })?;
    server.stop();
    for stream in [&mut idle, &mut busy] {
        let rest = to_the_end(stream)?;
        holds(&rest, "57P01")?;
        holds(&rest, "terminating connection due to administrator command")?;
    }
    wait_until("both ends are recorded", PATIENCE, || {
        proxy.log_text().matches("the target ended the session (SQLSTATE 57P01)").count() == 2
    })?;
    // Meanwhile the client is told why it gets no session.
    let mut refused = TcpStream::connect(("127.0.0.1", proxy.port())).map_err(|error| error.to_string())?;
    refused.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let asks = b"\0\0\0\x1f\0\x03\0\0user\0me\0database\0shop\0\0";
    refused.write_all(asks).map_err(|error| error.to_string())?;
    holds(&to_the_end(&mut refused)?, "08001")?;
    server.start_again()?;
    expect(&psql(&proxy, "SELECT 7")?, "7")
}
