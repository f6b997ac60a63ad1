//! TLS on both sides, and every way in which the agent logs in.

use agent_tests::{Auth, Cmd, Outcome, Suite};

use crate::world::{PASSWORD, READER, World, ensure, refused, roles, says, server, target};

const QUERY: &str = "SELECT ssn FROM customers WHERE id = 1";

pub fn cases(suite: Suite<'_>) -> Suite<'_> {
    suite
        .case("sslmode=verify-full with the server's own certificate through serve", serve_own)
        .case("sslmode=verify-full with the agent's own authority", own_authority)
        .case("verify-full upstream accepts the right server and no other", upstream_verified)
        .case("trust upstream", || login(Auth::Trust, None))
        .case("md5 upstream", || login(Auth::Md5, Some(PASSWORD)))
        .case("cleartext upstream inside TLS", cleartext_in_tls)
        .case("a client certificate upstream, and a placeholder for clients, from files of root's", files)
        .case("cleartext upstream without TLS is refused", || {
            let world = World::with(server(Auth::Cleartext, Ok)?, |target| target)?;
            let seen = world.psql(READER, QUERY)?;
            refused(&seen, "TLS")?;
            ensure(!seen.stderr.contains(PASSWORD), || seen.to_string())
        })
        .case("a wrong password of the agent is named, and not shown", || {
            let server = server(Auth::Scram, Ok)?;
            let agent = roles().target(target(&server).credential("app", Some("wrong-password"))).start()?;
            let world = World { agent, server };
            let seen = world.psql(READER, QUERY)?;
            refused(&seen, "credential")?;
            ensure(!seen.stderr.contains("wrong-password"), || seen.to_string())
        })
}

fn with_tls() -> Outcome<agent_tests::Postgres> {
    server(Auth::Scram, |builder| Ok(builder.tls(&["localhost", "127.0.0.1"])?.tls_only()))
}

fn ca(server: &agent_tests::Postgres) -> Outcome<String> {
    Ok(server.ca().ok_or("a server without an authority")?.to_string_lossy().into_owned())
}

fn verified(world: &World, ca: &str) -> Outcome {
    let dsn = format!(
        "host=localhost hostaddr=127.0.0.1 port={} dbname=shop user=x sslmode=verify-full sslrootcert={ca}",
        world.server.port()
    );
    let sql = format!("{QUERY};");
    let seen = Cmd::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-X", "-A", "-t", "-d", &dsn])
        .input(format!("{sql}\n\\conninfo\n"))
        .user(READER, READER)
        .run()?;
    ensure(seen.success() && seen.stdout.starts_with("***1120\n") && seen.stdout.contains("SSL"), || seen.to_string())
}

fn serve_own() -> Outcome {
    let server = with_tls()?;
    let (cert, key) = server.certificate().ok_or("a server without a certificate")?;
    // The operator gives the agent a copy that only root can read.
    let dir = agent_tests::TempDir::new().map_err(|error| error.to_string())?;
    let bytes = std::fs::read(key).map_err(|error| error.to_string())?;
    let key = dir.write("server.key", bytes, 0o600).map_err(|error| error.to_string())?;
    let serve = format!("serve = {{ cert = \"{}\", key = \"{}\" }}", cert.display(), key.display());
    let ca = ca(&server)?;
    let tls = format!("tls = {{ mode = \"verify-full\", ca = \"{ca}\" }}");
    let world = World::with(server, |target| target.line(serve).line(tls))?;
    verified(&world, &ca)
}

fn own_authority() -> Outcome {
    let server = with_tls()?;
    let port = server.port();
    let agent = roles()
        .target(
            agent_tests::Target::postgres("shop", [format!("localhost:{port}"), format!("127.0.0.1:{port}")])
                .credential("app", Some(PASSWORD))
                .column("*.public.customers.ssn", "pii", "last4")
                .line("tls = { mode = \"require\" }"),
        )
        .start()?;
    let world = World { agent, server };
    let shown = world.agent.postern(&["ca", "show"])?;
    ensure(shown.stdout.starts_with("-----BEGIN CERTIFICATE-----"), || shown.to_string())?;
    let path = format!("/tmp/postern-test-{}-ca.pem", std::process::id());
    std::fs::write(&path, &shown.stdout).map_err(|error| error.to_string())?;
    let outcome = verified(&world, &path);
    let _ = std::fs::remove_file(&path);
    outcome
}

fn upstream_verified() -> Outcome {
    let server = with_tls()?;
    let right = ca(&server)?;
    let other = agent_tests::Authority::new("Somebody else")?;
    let wrong = format!("/tmp/postern-test-{}-wrong.pem", std::process::id());
    std::fs::write(&wrong, other.pem()).map_err(|error| error.to_string())?;
    let mut world =
        World::with(server, |target| target.line(format!("tls = {{ mode = \"verify-full\", ca = \"{right}\" }}")))?;
    says(&world.psql(READER, QUERY)?, "***1120")?;
    let config = std::fs::read_to_string(world.agent.config()).map_err(|error| error.to_string())?;
    std::fs::write(world.agent.config(), config.replace(&right, &wrong)).map_err(|error| error.to_string())?;
    let outcome = world.agent.restart().and_then(|()| refused(&world.psql(READER, QUERY)?, "certificate"));
    let _ = std::fs::remove_file(&wrong);
    outcome
}

fn login(auth: Auth, password: Option<&str>) -> Outcome {
    let server = server(auth, Ok)?;
    let agent = roles().target(target(&server).credential("app", password)).start()?;
    let world = World { agent, server };
    says(&world.psql(READER, QUERY)?, "***1120")
}

fn cleartext_in_tls() -> Outcome {
    let server = server(Auth::Cleartext, |builder| builder.tls(&["localhost", "127.0.0.1"]))?;
    let ca = ca(&server)?;
    let world =
        World::with(server, |target| target.line(format!("tls = {{ mode = \"verify-full\", ca = \"{ca}\" }}")))?;
    says(&world.psql(READER, QUERY)?, "***1120")
}

/// The proxy, which may not read them, gets certificate, key and placeholder from the warden, and as they are at each login.
fn files() -> Outcome {
    let clients = agent_tests::Authority::new("Clients")?;
    let server = server(Auth::Certificate, |builder| Ok(builder.tls(&["127.0.0.1"])?.clients_of(&clients)))?;
    let dir = agent_tests::TempDir::new().map_err(|error| error.to_string())?;
    let put = |name: &str, text: &str| dir.write(name, text, 0o600).map_err(|error| error.to_string());
    let (cert, key) = clients.issue(&["app"])?;
    let (cert, key, word) = (put("app.crt", &cert)?, put("app.key", &key)?, put("word", "placeholder\n")?);
    let agent = roles()
        .target(
            agent_tests::Target::postgres("shop", server.addresses())
                .column("*.public.customers.ssn", "pii", "last4")
                .line(format!("tls = {{ mode = \"verify-full\", ca = \"{}\" }}", ca(&server)?))
                .line(format!("serve = {{ password.file = \"{}\" }}", word.display()))
                .line(format!(
                    "credential = {{ user = \"app\", cert = \"{}\", key = \"{}\" }}",
                    cert.display(),
                    key.display()
                )),
        )
        .start()?;
    let world = World { agent, server };
    let with = |word: &str| {
        let dsn = world.dsn("sslmode=require channel_binding=require");
        Cmd::psql(&dsn, QUERY).env("PGPASSWORD", word).user(READER, READER).run()
    };
    says(&with("placeholder")?, "***1120")?;
    refused(&with("another")?, "password authentication failed for user \"whoever\"")?;
    put("word", "another\n")?;
    says(&with("another")?, "***1120")?;
    put("app.crt", "")?;
    let seen = with("another")?;
    refused(&seen, "the agent's certificate cannot be used: it holds no certificate")
}
