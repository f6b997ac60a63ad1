//! TLS as it begins: after a request or directly, with a name for the protocol or without.

use std::io::{Read, Write};

use agent::config::{TlsMode, TlsNegotiation};
use agent_tests::{Outcome, Postgres, Python, Suite};

use super::{SESSION, middle, script, versions::direct};
use crate::{
    cases::{expect, fails, holds, psql},
    proxy::Builder,
};

pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, newest: &'a Postgres, python: &'a Python) -> Suite<'a> {
    suite
        .case("sessions and cancels within TLS, asked for and direct, on both sides", move || sessions(newest, python))
        .case("TLS without a name for the protocol, or with another, ends as at the server", move || names(newest))
        .case("direct TLS to a server that has none", move || {
            let proxy = Builder::new(server).tls(TlsMode::Require, None, None);
            let proxy = proxy.target(|target| target.tls.negotiation = TlsNegotiation::Direct).start()?;
            let error = fails(&proxy, "SELECT 1")?;
            holds(&error, "no TLS with the target: it closed the connection during the handshake")
        })
}

fn sessions(server: &Postgres, python: &Python) -> Outcome {
    let plain = script(python, SESSION, &format!("{} max_protocol_version=latest", direct(server)))?;
    for upstream in [TlsNegotiation::Request, TlsNegotiation::Direct] {
        let proxy = Builder::new(server)
            .tls(TlsMode::VerifyFull, server.ca(), Some("orders.test"))
            .target(|target| target.tls.negotiation = upstream)
            .start()?;
        for client in ["postgres", "direct"] {
            let more = format!("sslmode=verify-full sslnegotiation={client} sslrootcert={}", proxy.ca().display());
            let dsn = proxy.dsn(&format!("{more} max_protocol_version=latest"));
            expect(&script(python, SESSION, &dsn)?, &plain)?;
        }
        let log = proxy.log_text();
        for side in ["client_tls", "server_tls"] {
            holds(&log, &format!("\"{side}\":\"TLSv1_3"))?;
        }
    }
    Ok(())
}

/// How far a client comes that begins TLS in some way.
fn far(port: u16, ask: bool, alpn: Option<&str>) -> String {
    let mut tls = match middle::connect(([127, 0, 0, 1], port).into(), ask, alpn) {
        Ok(tls) => tls,
        Err(error) => return error,
    };
    let startup = b"\0\0\0\x20\0\x03\0\0user\0app\0database\0shop\0\0";
    let mut answer = [0];
    match tls.write_all(startup).and_then(|()| tls.read(&mut answer)) {
        Ok(1) => "is answered".into(),
        Ok(_) | Err(_) => "closed".into(),
    }
}

fn names(server: &Postgres) -> Outcome {
    let proxy = Builder::new(server).start()?;
    for ask in [true, false] {
        for alpn in [None, Some("postgresql"), Some("http/1.1")] {
            let (without, through) = (far(server.port(), ask, alpn), far(proxy.port(), ask, alpn));
            expect(&through, &without).map_err(|error| format!("asked: {ask}, {alpn:?}: {error}"))?;
        }
    }
    expect(&far(proxy.port(), true, None), "is answered")?;
    expect(&far(proxy.port(), false, Some("postgresql")), "is answered")?;
    expect(&far(proxy.port(), false, None), "closed")?;
    holds(&far(proxy.port(), false, Some("http/1.1")), "NoApplicationProtocol")?;
    holds(&proxy.log_text(), "TLS began without a request, and without the protocol's name (ALPN)")?;
    expect(&psql(&proxy, "SELECT 1")?, "1")?;
    Ok(())
}
