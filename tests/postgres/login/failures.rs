//! The table of `agent/docs/login.md`: each way in which TLS fails, what the client is told, and what is recorded.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use agent::config::{TlsMode, TlsNegotiation};
use agent_tests::{Auth, Authority, Outcome, Postgres, Python, Suite, TempDir, wait_until};

use super::{
    middle::{self, Attack, stand_before},
    run,
};
use crate::{
    cases::{expect, fails, holds, lacks, psql},
    proxy::{Builder, Proxy},
    with_data,
};

const DAY: Duration = Duration::from_secs(86_400);

pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, python: &'a Python) -> Suite<'a> {
    suite
        .case("TLS fails: the target's certificate, in every way", certificates)
        .case("TLS fails: a target without it, and somebody who says so", move || plaintext(server))
        .case("TLS fails: a target that speaks only what is too old", too_old)
        .case("TLS fails: no name for the protocol in direct TLS", move || unnamed(server))
        .case("TLS fails: a client that does not trust the agent's certificate", move || distrusted(server, python))
        .case("TLS fails: a client that speaks something else", move || odd_clients(server))
}

/// What a client is told of a proxy that cannot reach its target, and what is recorded of it.
fn told(proxy: &Proxy, what: &str, hint: &str) -> Outcome {
    let error = fails(proxy, "SELECT 1")?;
    holds(&error, &format!("FATAL:  Postern: no TLS with the target: {what}"))?;
    holds(&error, "DETAIL:  The target is \"orders\", at ")?;
    holds(&error, &format!("HINT:  {hint}"))?;
    let log = proxy.log_text();
    lacks(&log, "session-started")?;
    holds(&log, &format!("no TLS with the target: {what}"))?;
    holds(&log, hint)
}

fn certificates() -> Outcome {
    let server = with_data(Postgres::builder())?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let put = |name: &str, pem: &str| dir.write(name, pem, 0o644).map_err(|error| error.to_string());
    let authority = Authority::new("Tests of certificates")?;
    let ca = put("ca.pem", authority.pem())?;
    let verified =
        |ca: &PathBuf| Builder::new(&server).tls(TlsMode::VerifyFull, Some(ca.clone()), Some("orders.test")).start();
    let now = SystemTime::now();
    let issue = |from: SystemTime, to: SystemTime| {
        authority.issue_with(&["orders.test"], |parameters| {
            parameters.not_before = from.into();
            parameters.not_after = to.into();
        })
    };
    let present = |(cert, key): (String, String)| server.present(&cert, &key);

    present(issue(now - DAY, now + DAY)?)?;
    expect(&psql(&verified(&ca)?, "SELECT 1")?, "1")?;
    present(issue(now - 2 * DAY, now - DAY)?)?;
    told(
        &verified(&ca)?,
        "its certificate has expired (20",
        "Renew the target's certificate, or set this host's clock.",
    )?;
    present(issue(now + DAY, now + 2 * DAY)?)?;
    told(&verified(&ca)?, "its certificate is not valid yet (20", "Set the clock of this host,")?;
    present(authority.issue(&["ledger.test", "10.0.0.1"])?)?;
    let hint = "Give the target a certificate for that name,";
    told(&verified(&ca)?, "its certificate is not for the name orders.test, but for ", hint)?;
    let nameless = authority.issue_with(&["orders.test"], |parameters| parameters.subject_alt_names.clear())?;
    present(nameless)?;
    told(&verified(&ca)?, "its certificate is not for the name orders.test: it has no name in subjectAltName", hint)?;
    present(Authority::new("Another")?.issue(&["orders.test"])?)?;
    let hint = "Put the authority that issued the target's certificate into the file ca of its tls.";
    told(&verified(&ca)?, "its certificate is not from a trusted authority", hint)?;

    // A certificate that the operator names itself needs no authority, but its time counts.
    for (from, to, works) in [(now - DAY, now + DAY, true), (now - 2 * DAY, now - DAY, false)] {
        let (cert, key) = issue(from, to)?;
        let pinned = put("pinned.pem", &cert)?;
        server.present(&cert, &key)?;
        if works {
            expect(&psql(&verified(&pinned)?, "SELECT 1")?, "1")?;
        } else {
            told(&verified(&pinned)?, "its certificate has expired (20", "Renew the target's certificate,")?;
        }
    }
    Ok(())
}

fn plaintext(server: &Postgres) -> Outcome {
    let bare = Postgres::builder().auth(Auth::Scram).login("app", "upstream secret").start()?;
    let none = "the target does not offer TLS, which the configuration asks for";
    for mode in [TlsMode::Require, TlsMode::VerifyFull] {
        let ca = server.ca().filter(|_| mode == TlsMode::VerifyFull);
        let downgraded = stand_before(server.addresses()[0], Attack::NoTls)?;
        for builder in [Builder::new(&bare), Builder::new(server).destination(downgraded)] {
            let proxy = builder.tls(mode, ca.clone(), None).start()?;
            let error = fails(&proxy, "SELECT 1")?;
            holds(&error, none)?;
            holds(&error, "HINT:  Let the target offer TLS. If it does, somebody between it and this host pretends")?;
            holds(&proxy.log_text(), none)?;
        }
    }
    Ok(())
}

fn too_old() -> Outcome {
    // The newer ones that are here come with a TLS library that cannot do it either.
    let old = Postgres::builder().version(12).setting("ssl_min_protocol_version = 'TLSv1.1'");
    let server = with_data(old.setting("ssl_max_protocol_version = 'TLSv1.1'"))?;
    let proxy = Builder::new(&server).tls(TlsMode::Require, None, None).start()?;
    told(&proxy, "it speaks no version of TLS that is safe (1.2 or 1.3)", "Let the target speak TLS 1.2 or 1.3.")
}

fn unnamed(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).tls(TlsMode::Require, None, None).destination(middle::without_alpn()?);
    let proxy = proxy.target(|target| target.tls.negotiation = TlsNegotiation::Direct).start()?;
    told(
        &proxy,
        "TLS began without a request, and without the protocol's name",
        "The target does not speak TLS directly: ",
    )
}

fn distrusted(server: &Postgres, python: &Python) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let ca = server.ca().ok_or("no authority")?;
    let text = "import os, psycopg\npsycopg.connect(os.environ['DSN'])";
    let dsn = proxy.dsn(&format!("sslmode=verify-full sslrootcert={}", ca.display()));
    holds(&run(python, text, &dsn)?.stderr, "certificate verify failed")?;
    let recorded =
        "no TLS with the client: it rejected the agent's certificate (UnknownCA). Give the client the authority";
    wait_until("it is recorded", Duration::from_secs(10), || proxy.log_text().contains(recorded))
        .map_err(|error| format!("{error}: {}", proxy.log_text()))
}

fn odd_clients(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    let place = SocketAddr::from(([127, 0, 0, 1], proxy.port()));
    let recorded = |what: &str| {
        wait_until(what, Duration::from_secs(10), || proxy.log_text().contains(what))
            .map_err(|error| format!("{error}: {}", proxy.log_text()))
    };
    let say = |bytes: &[u8]| -> Outcome {
        let io = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(place).map_err(io)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(io)?;
        stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").map_err(io)?;
        stream.read_exact(&mut [0]).map_err(io)?;
        stream.write_all(bytes).map_err(io)?;
        let _closed = stream.read_to_end(&mut Vec::new());
        Ok(())
    };
    say(b"GET / HTTP/1.1\r\n\r\n")?;
    recorded("no TLS with the client: it does not speak TLS.")?;
    // A ClientHello of TLS 1.1.
    let mut hello = vec![0x03, 0x02];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x13, 1, 0]);
    let length = u16::try_from(hello.len()).map_err(|error| error.to_string())?;
    let mut record = vec![0x16, 0x03, 0x01];
    record.extend_from_slice(&(length + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&hello);
    say(&record)?;
    recorded("it speaks no version of TLS that is safe (1.2 or 1.3). Let the client speak TLS 1.2 or 1.3.")?;
    let refused = middle::connect(place, true, Some("http/1.1"));
    if refused.is_ok() {
        return Err("another protocol's name is accepted".into());
    }
    recorded("it does not accept the protocol's name (ALPN)")
}
