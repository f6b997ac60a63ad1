//! How the agent logs in at the target: bound to the TLS connection, and with a certificate.

use agent::config::{ApplicationName, ChannelBinding, TlsMode};
use agent_tests::{Auth, Authority, Cmd, Outcome, Postgres, Suite, TempDir};

use super::middle::{Attack, stand_before};
use crate::{
    cases::{expect, fails, holds, lacks, psql},
    proxy::Builder,
    with_data,
};

pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres) -> Suite<'a> {
    suite
        .case("the login is bound to the TLS connection: who ends TLS on the way gets no session", move || {
            bound(server)
        })
        .case("where binding is required, nothing else will do", required)
        .case("a client certificate instead of a password, and rotated", certificate)
        .case("the identity is the application_name at the target", move || application_name(server))
}

fn bound(server: &Postgres) -> Outcome {
    let place = server.addresses()[0];
    // Any certificate will do for `require`: only the binding notices.
    let through = |attack: Option<Attack>| -> Outcome<_> {
        let destination = attack.map_or(Ok(place), |attack| stand_before(place, attack))?;
        Builder::new(server).tls(TlsMode::Require, None, None).destination(destination).start()
    };
    expect(&psql(&through(None)?, "SELECT 1")?, "1")?;
    for (attack, told) in [
        (Attack::Terminate, "channel binding check failed"),
        (Attack::TerminateAndStrip, "channel binding negotiation error"),
    ] {
        let proxy = through(Some(attack))?;
        let before = server.log().matches(told).count();
        holds(&fails(&proxy, "SELECT 1")?, "refused the agent's credential")?;
        lacks(&proxy.log_text(), "session-started")?;
        if server.log().matches(told).count() == before {
            return Err(format!("{attack:?}: the server does not say that {told}"));
        }
    }
    // And with the certificate verified, nobody comes so far.
    let proxy = Builder::new(server).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test"));
    let proxy = proxy.destination(stand_before(place, Attack::Terminate)?).start()?;
    holds(&fails(&proxy, "SELECT 1")?, "its certificate is not from a trusted authority")
}

fn required() -> Outcome {
    for (auth, works) in [(Auth::Scram, true), (Auth::Md5, false), (Auth::Trust, false), (Auth::Cleartext, false)] {
        let server = with_data(Postgres::builder().auth(auth))?;
        let proxy = |binding| {
            let builder = Builder::new(&server).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test"));
            builder.target(|target| target.tls.channel_binding = binding).start()
        };
        expect(&psql(&proxy(ChannelBinding::Prefer)?, "SELECT 1")?, "1")?;
        let requiring = proxy(ChannelBinding::Require)?;
        if works {
            expect(&psql(&requiring, "SELECT 1")?, "1")?;
        } else {
            let error = fails(&requiring, "SELECT 1")?;
            holds(&error, "does not bind the login to the TLS connection")?;
            holds(&error, "HINT:  Let the target ask for SCRAM-SHA-256 within TLS")?;
        }
    }
    Ok(())
}

fn certificate() -> Outcome {
    let (clients, strangers) = (Authority::new("Clients")?, Authority::new("Strangers")?);
    let server = with_data(Postgres::builder().auth(Auth::Certificate).clients_of(&clients))?;
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let put = |(cert, key): (String, String)| -> Outcome<_> {
        let write = |name, text| dir.write(name, text, 0o600).map_err(|error| error.to_string());
        Ok((write("client.crt", cert)?, write("client.key", key)?))
    };
    let (cert, key) = put(clients.issue(&["app"])?)?;
    let builder =
        || Builder::new(&server).login("app", None).tls(TlsMode::VerifyFull, server.ca(), Some("orders.test"));
    let with = builder().certificate(cert, key).start()?;
    expect(&psql(&with, "SELECT current_user")?, "app")?;
    let without = builder().start()?;
    let error = fails(&without, "SELECT 1")?;
    holds(&error, "asked for a client certificate, and got none")?;
    holds(&error, "HINT:  Give the target's credential a cert and key.")?;
    // The files are read at each login.
    put(strangers.issue(&["app"])?)?;
    let error = fails(&with, "SELECT 1")?;
    holds(&error, "it rejected the agent's certificate (UnknownCA)")?;
    holds(&error, "HINT:  Give the target's credential a cert and key that the target accepts.")?;
    put(clients.issue(&["somebody"])?)?;
    holds(&fails(&with, "SELECT 1")?, "refused the agent's credential")?;
    put(clients.issue(&["app"])?)?;
    expect(&psql(&with, "SELECT current_user")?, "app")
}

fn application_name(server: &Postgres) -> Outcome {
    const SEEN: &str = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    let proxy = |name| Builder::new(server).target(|target| target.application_name = name).start();
    let identity = proxy(ApplicationName::Identity)?;
    let seen = psql(&identity, SEEN)?;
    let session = identity.log().into_iter().find_map(|record| Some(record["session"].as_str()?.to_owned()));
    expect(&seen, &format!("postern:orders-reader:{}", session.ok_or("no session")?))?;
    expect(&psql(&identity, "SHOW application_name")?.replace("s2", "s1"), &seen)?;
    // What the client said is in the log.
    holds(&identity.log_text(), "\"application_name\":\"psql\"")?;
    let own = proxy(ApplicationName::Client)?;
    expect(&psql(&own, SEEN)?, "psql")?;
    let relayed = Builder::new(server).observe().clients_own_login().start()?;
    let dsn = relayed.dsn("user=app password='upstream secret' application_name=mine");
    expect(Cmd::psql(&dsn, SEEN).ok()?.trim(), "mine")
}
