//! Observe mode: decides and records, blocks nothing, masks nothing for the client.

use agent_tests::{Auth, Cmd, Outcome, Suite};

use crate::world::{PASSWORD, READER, STRANGER, World, ensure, refused, roles, says, server};

pub fn cases(suite: Suite<'_>) -> Suite<'_> {
    suite
        .case("observe: nothing is blocked or masked, the log says what would have been", watched)
        .case("observe: without an agent the connect goes through directly, and is counted", direct)
        .case("observe: the client's own login is relayed", own_login)
}

fn watched() -> Outcome {
    let world = World::with(server(Auth::Scram, Ok)?, |target| target.observe())?;
    says(&world.psql(READER, "SELECT ssn FROM customers WHERE id = 1")?, "078-05-1120")?;
    says(&world.psql(READER, "DELETE FROM orders WHERE id = 1")?, "DELETE 1")?;
    let records = world.records(READER)?;
    let decided = records.iter().find(|record| record["event"] == "decided").ok_or("nothing was decided")?;
    ensure(decided["verdict"] == "observe" && decided["reason"].is_string(), || decided.to_string())?;
    says(&world.psql(READER, "SELECT ssn FROM customers WHERE id = 2")?, "219-09-9999")?;
    let log = serde_json::Value::from(world.records(READER)?).to_string();
    ensure(log.contains("***9999") && !log.contains("219-09"), || log.clone())?;
    // A user without any role is observed too.
    says(&world.psql(STRANGER, "SELECT 1")?, "1")
}

fn direct() -> Outcome {
    let mut world = World::with(server(Auth::Trust, Ok)?, |target| target.observe())?;
    world.agent.kill9();
    let dsn = format!("host=127.0.0.1 port={} dbname=shop user=app sslmode=disable", world.server.port());
    says(&Cmd::psql(&dsn, "SELECT ssn FROM customers WHERE id = 1").user(READER, READER).run()?, "078-05-1120")?;
    world.agent.start()?;
    let status = world.agent.json(&["status"])?;
    let counted = status["counters"]["observed_direct"].as_u64();
    ensure(counted >= Some(1), || status.to_string())
}

fn own_login() -> Outcome {
    let server = server(Auth::Scram, Ok)?;
    let agent = roles()
        .target(
            agent_tests::Target::postgres("shop", server.addresses()).observe().line("credential = \"client\"").column(
                "*.public.customers.ssn",
                "pii",
                "last4",
            ),
        )
        .start()?;
    let world = World { agent, server };
    let dsn = format!("host=127.0.0.1 port={} dbname=shop user=app sslmode=disable", world.server.port());
    let sql = "SELECT current_user, ssn FROM customers WHERE id = 1";
    let query = |password: &str| Cmd::psql(&dsn, sql).env("PGPASSWORD", password).user(READER, READER).run();
    says(&query(PASSWORD)?, "app|078-05-1120")?;
    refused(&query("wrong")?, "password authentication failed")?;
    let log = serde_json::Value::from(world.records(READER)?).to_string();
    ensure(!log.contains(PASSWORD) && !log.contains("078-05"), || log.clone())
}
