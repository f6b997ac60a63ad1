//! Logins, TLS, cancelling, and how sessions begin and end.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use agent::config::TlsMode;
use agent_tests::{Auth, Authority, Cmd, Outcome, Postgres, TempDir, fds, rss_kib, wait_until};
use tokio_postgres::{NoTls, SimpleQueryMessage, error::SqlState};

use super::{client, expect, fails, holds, lacks, psql, raw};
use crate::{proxy::Builder, server};

pub fn logins() -> Outcome {
    for auth in [Auth::Trust, Auth::Md5, Auth::Scram, Auth::Cleartext] {
        let server = server(auth)?;
        let plain = Builder::new(&server).start()?;
        let tls = Builder::new(&server).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test")).start()?;
        expect(&psql(&tls, "SELECT 1")?, "1")?;
        holds(&tls.log_text(), "\"server_tls\":\"TLSv1_3")?;
        if auth == Auth::Cleartext {
            let error = fails(&plain, "SELECT 1")?;
            holds(&error, "asks for the password in plaintext")?;
            let unverified = Builder::new(&server).tls(TlsMode::Require, None, None).start()?;
            holds(&fails(&unverified, "SELECT 1")?, "only within TLS that verifies it")?;
        } else {
            expect(&psql(&plain, "SELECT 1")?, "1")?;
        }
        let wrong = Builder::new(&server).login("app", Some("wrong"));
        let wrong = wrong.tls(TlsMode::VerifyFull, server.ca(), Some("orders.test")).start()?;
        if auth != Auth::Trust {
            let error = fails(&wrong, "SELECT 1")?;
            holds(&error, "refused the agent's credential")?;
            lacks(&error, "wrong")?;
            lacks(&wrong.log_text(), "wrong")?;
        }
    }
    Ok(())
}

pub fn own_login(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).observe().clients_own_login().start()?;
    let with = |user: &str, password: &str| {
        Cmd::psql(&proxy.dsn(&format!("user={user}")), "SELECT current_user").env("PGPASSWORD", password)
    };
    expect(with("app", "upstream secret").ok()?.trim(), "app")?;
    let refused = with("app", "wrong").run()?;
    if refused.success() { Err("a wrong password was good".into()) } else { lacks(&proxy.log_text(), "secret") }
}

pub fn client_tls(server: &Postgres) -> Outcome {
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

pub fn server_tls(server: &Postgres) -> Outcome {
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

pub fn cancel(server: &Postgres) -> Outcome {
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

pub fn endings(server: &Postgres) -> Outcome {
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

pub fn odd_beginnings(server: &Postgres) -> Outcome {
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

pub fn malformed(server: &Postgres) -> Outcome {
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
