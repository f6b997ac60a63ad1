//! Limits of a role, as they are configured: what its processes see, and what the operator does.

use std::time::Duration;

use agent_tests::{Cmd, Outcome, Suite, wait_until};

use crate::world::{LIMITED, READER, World, ensure, refused, says};

/// How long something may take that happens at once on an idle host.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("limits: two processes of a role share its sessions, and one that is killed makes room", || {
            sessions(world)
        })
        .case("limits: rows and statements are bounded, recorded and shown; another role's are not", || {
            statements(world)
        })
        .case("limits: check lists them", || {
            let seen = world.agent.postern(&["check"])?;
            let listed = "role limited: at most rows 5, sessions 1, statements_per_minute 6";
            ensure(seen.stdout.contains(listed), || seen.to_string())?;
            let limits = &world.agent.json(&["check"])?["limits"];
            ensure(limits["limited"]["rows"] == 5 && limits["reader"].is_null(), || limits.to_string())
        })
}

fn sessions(world: &World) -> Outcome {
    let dsn = world.dsn("sslmode=disable");
    let holder = Cmd::new("/usr/lib/postgresql/15/bin/psql").args(["-X", "-At", "-d", &dsn]);
    let mut holder = holder.args(["-c", "SHOW DateStyle", "-c", "\\! sleep 60"]).user(LIMITED, LIMITED).spawn()?;
    ensure(holder.line(PATIENCE)?.starts_with("ISO"), || "the first has no session".into())?;
    let seen = world.psql(LIMITED, "SELECT 1")?;
    refused(&seen, "limit sessions of role \"limited\" is reached: at most 1 sessions are open at a time")?;
    says(&world.psql(READER, "SELECT 1")?, "1")?;
    let refusal = world.records(LIMITED)?;
    ensure(refusal[0]["limit"]["limit"] == "sessions" && refusal[0]["limit"]["most"] == 1, || refusal[0].to_string())?;
    drop(holder);
    wait_until("there is room", PATIENCE, || world.psql(LIMITED, "SHOW DateStyle").is_ok_and(|seen| seen.success()))
}

fn statements(world: &World) -> Outcome {
    let over = "limit rows of role \"limited\" is reached: a statement shows at most 5 rows";
    let few = world.psql(LIMITED, "SELECT id FROM orders LIMIT 5")?;
    ensure(few.success() && few.stdout.lines().count() == 5, || few.to_string())?;
    refused(&world.psql(LIMITED, "SELECT id FROM orders")?, over)?;
    let records = world.records(LIMITED)?;
    let reached = records.iter().find(|record| record["event"] == "limit-reached").ok_or("no record")?;
    let fits = reached["limit"] == "rows" && reached["role"] == "limited" && reached["operation"] == 1;
    ensure(fits, || reached.to_string())?;
    let id = reached["session"].as_str().unwrap_or_default();
    for verb in [&["sessions", "show", id][..], &["sessions", "replay", id, "--no-wait"]] {
        let seen = world.agent.postern(verb)?;
        ensure(seen.stdout.contains(over), || seen.to_string())?;
    }
    let seen = world.script(LIMITED, &"SELECT 1;\n".repeat(7))?;
    let minute = "limit statements_per_minute of role \"limited\" is reached";
    ensure(seen.stderr.contains(minute), || seen.to_string())?;
    says(&world.psql(READER, "SELECT count(*) FROM (SELECT id FROM orders) o")?, "10")
}
