//! Clients that insist on authentication, and what the placeholder password gives: nothing.

use agent::{
    config::{Placeholder, PlaceholderPassword, TlsMode},
    model::{Action, Denial},
};
use agent_tests::{Cmd, Outcome, Postgres, Python, Suite, TempDir};

use super::{
    middle::{Attack, stand_before},
    run, script,
};
use crate::{
    cases::{expect, holds, lacks},
    proxy::{Builder, Proxy},
};

const ONE: &str = "import os, psycopg\nprint(psycopg.connect(os.environ['DSN']).execute('SELECT 1').fetchone()[0])";

pub fn cases<'a>(suite: Suite<'a>, server: &'a Postgres, python: &'a Python) -> Suite<'a> {
    suite
        .case("clients that insist on SCRAM, and on binding it to the connection", move || insisting(server, python))
        .case("a wrong password and an unknown user are told as by the server", move || refused(server, python))
        .case("the placeholder password permits nothing", move || permits_nothing(server))
        .case("a placeholder in a file is read at each login", move || in_a_file(server, python))
        .case("who ends TLS before the agent gets no login of a client that binds it", move || middle(server, python))
        .case("asyncpg and tokio-postgres log in with the placeholder", move || drivers(server, python))
}

fn asking(server: &Postgres, user: Option<&str>) -> Builder {
    let password = PlaceholderPassword::Plain("placeholder".into());
    let placeholder = Placeholder { user: user.map(Into::into), password };
    Builder::new(server).target(|target| target.serve.password = Some(placeholder))
}

fn with(proxy: &Proxy, more: &str) -> String {
    proxy.dsn(&format!("password=placeholder {more}"))
}

fn insisting(server: &Postgres, python: &Python) -> Outcome {
    let (asking, open) = (asking(server, None).start()?, Builder::new(server).start()?);
    let tls = "sslmode=require channel_binding=require";
    for more in [
        "require_auth=scram-sha-256",
        "require_auth=scram-sha-256 sslmode=require",
        "require_auth=scram-sha-256 sslmode=require channel_binding=disable",
        tls,
        "require_auth=scram-sha-256 sslmode=require sslnegotiation=direct channel_binding=require max_protocol_version=latest",
    ] {
        expect(script(python, ONE, &with(&asking, more))?.trim(), "1").map_err(|error| format!("{more}: {error}"))?;
    }
    // Without a placeholder they are not served.
    for more in ["require_auth=scram-sha-256", tls] {
        let refused = run(python, ONE, &with(&open, more))?;
        if refused.success() {
            return Err(format!("{more} is served without authentication"));
        }
    }
    // A client that has no password is told by its own library.
    holds(&run(python, ONE, &asking.dsn(""))?.stderr, "no password supplied")
}

fn refused(server: &Postgres, python: &Python) -> Outcome {
    let app = asking(server, Some("app")).start()?;
    let direct = format!("host=127.0.0.1 port={} dbname=shop sslmode=disable", server.port());
    for (user, password) in [("app", "wrong"), ("nobody", "placeholder"), ("nobody", "wrong")] {
        let without = run(python, ONE, &format!("{direct} user={user} password={password}"))?;
        let through = run(python, ONE, &app.dsn(&format!("user={user} password={password}")))?;
        let told = format!("FATAL:  password authentication failed for user \"{user}\"");
        holds(&without.stderr, &told)?;
        holds(&through.stderr, &told)?;
    }
    let code = Cmd::psql(&app.dsn("user=app password=wrong"), "SELECT 1").run()?;
    holds(&code.stderr, "password authentication failed")?;
    expect(script(python, ONE, &with(&app, "user=app"))?.trim(), "1")?;
    let log = app.log_text();
    holds(&log, "the client could not log in: password authentication failed")?;
    // Nothing was opened at the target for those who were refused.
    expect(&log.matches("session-started").count().to_string(), "1")
}

fn permits_nothing(server: &Postgres) -> Outcome {
    fn nothing(action: &Action) -> Option<Denial> {
        action.requests.iter().any(|request| request.action == "connect").then(|| Denial::closed("not permitted"))
    }
    let proxy = asking(server, None).policy(nothing).start()?;
    let refused = Cmd::psql(&with(&proxy, ""), "SELECT 1").run()?;
    holds(&refused.stderr, "not permitted")?;
    lacks(&proxy.log_text(), "session-started")
}

fn in_a_file(server: &Postgres, python: &Python) -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let put = |text| dir.write("placeholder", text, 0o600).map_err(|error| error.to_string());
    let placeholder = Placeholder { user: None, password: PlaceholderPassword::File(put("placeholder\n")?) };
    let proxy = Builder::new(server).target(|target| target.serve.password = Some(placeholder)).start()?;
    expect(script(python, ONE, &with(&proxy, ""))?.trim(), "1")?;
    put("another\n")?;
    holds(&run(python, ONE, &with(&proxy, ""))?.stderr, "password authentication failed")?;
    expect(script(python, ONE, &proxy.dsn("password=another"))?.trim(), "1")
}

fn middle(server: &Postgres, python: &Python) -> Outcome {
    let proxy = asking(server, None).tls(TlsMode::Disable, None, None).start()?;
    let own = ([127, 0, 0, 1], proxy.port()).into();
    for attack in [Attack::Terminate, Attack::TerminateAndStrip] {
        let place = stand_before(own, attack)?;
        for binding in ["prefer", "require"] {
            let more = format!("port={} sslmode=require channel_binding={binding}", place.port());
            let refused = run(python, ONE, &with(&proxy, &more))?;
            if refused.success() {
                return Err(format!("{attack:?} is not noticed with channel_binding={binding}"));
            }
        }
    }
    let log = proxy.log_text();
    holds(&log, "SCRAM channel binding check failed")?;
    holds(&log, "SCRAM channel binding negotiation error")?;
    lacks(&log, "session-started")
}

fn drivers(server: &Postgres, python: &Python) -> Outcome {
    let proxy = asking(server, None).start()?;
    let text = format!(
        "import asyncio, asyncpg\nasync def main():\n    connection = await asyncpg.connect(host='127.0.0.1', port={}, \
         user='app', database='shop', password='placeholder', ssl='require')\n    \
         print(await connection.fetchval('SELECT 1'))\n    await connection.close()\nasyncio.run(main())",
        proxy.port()
    );
    expect(script(python, &text, "")?.trim(), "1")?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let dsn = with(&proxy, "");
        let connecting = tokio_postgres::connect(&dsn, tokio_postgres::NoTls);
        let (client, connection) = connecting.await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.map(drop).map_err(|error| error.to_string())
    })
}
