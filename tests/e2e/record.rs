//! What the log holds, who may ask for it, and what it says.

use agent_tests::{Cmd, Outcome, Suite};
use serde_json::Value;

use crate::world::{ANALYST, PASSWORD, READER, STRANGER, WRITER, World, ensure, refused};

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite
        .case("a session's start says who, which file, which role, and which login", || start(world))
        .case("statements have their verdicts, rules, row counts and masked answers", || statements(world))
        .case("literals of a statement over masked columns are placeholders, others stay", || literals(world))
        .case("a statement that is an argument of the process is not recorded with its literals", || argument(world))
        .case("a refused statement is in the log with its policy", || denied(world))
        .case("a connection without a role is in the log", || {
            world.psql(STRANGER, "SELECT 1")?;
            let text = world.agent.json(&["sessions", "list"])?.to_string();
            let status = world.agent.json(&["status"])?;
            ensure(text.contains(&STRANGER.to_string()) || status.to_string().contains("refused"), || text.clone())
        })
        .case("replay shows statements and masked answers", || {
            world.psql(READER, "SELECT name, ssn FROM customers WHERE id = 1")?;
            let id = last_session(world, READER)?;
            let seen = world.agent.postern(&["sessions", "replay", &id, "--no-wait"])?;
            ensure(seen.success() && seen.stdout.contains("***1120") && !seen.stdout.contains("078-05"), || {
                seen.to_string()
            })
        })
        .case("control characters of a statement do not reach the terminal", || {
            world.psql(READER, "SELECT 'a\u{1b}[31mred\u{7}' AS hostile")?;
            let id = last_session(world, READER)?;
            for verb in [vec!["sessions", "show", &id], vec!["sessions", "replay", &id, "--no-wait"]] {
                let seen = world.agent.postern(&verb)?;
                ensure(seen.success() && seen.stdout.contains("hostile"), || seen.to_string())?;
                ensure(!seen.stdout.contains(['\u{1b}', '\u{7}']), || format!("{verb:?} lets escapes through"))?;
            }
            Ok(())
        })
        .case("the control socket answers root, and refuses a governed process", || control(world))
        .case("the chain verifies", || {
            let seen = world.agent.postern(&["audit", "verify"])?;
            ensure(seen.success() && seen.stdout.contains("verified"), || seen.to_string())
        })
        .case("the agent's password is in no output and no log", || {
            let mut all = world.agent.log();
            for words in [&["status"][..], &["sessions", "list"]] {
                all.push_str(&world.agent.json(words)?.to_string());
            }
            all.push_str(&world.agent.postern(&["check"])?.to_string());
            for file in
                std::fs::read_dir(world.agent.path("state/journal")).map_err(|error| error.to_string())?.flatten()
            {
                all.push_str(&String::from_utf8_lossy(&std::fs::read(file.path()).map_err(|error| error.to_string())?));
            }
            ensure(!all.contains(PASSWORD), || "it is".into())
        })
        .case("policies are reloaded, and a bad set is refused while the old one stays", || reload(world))
}

fn last_session(world: &World, uid: u32) -> Outcome<String> {
    let records = world.records(uid)?;
    records
        .first()
        .and_then(|record| record["session"].as_str())
        .map(str::to_owned)
        .ok_or_else(|| "records without a session".into())
}

fn find<'a>(records: &'a [Value], event: &str) -> Outcome<&'a Value> {
    records.iter().find(|record| record["event"] == event).ok_or_else(|| format!("no {event} in {records:?}"))
}

fn start(world: &World) -> Outcome {
    let psql = Cmd::psql(&world.dsn("sslmode=disable"), "SELECT 1").user(ANALYST, ANALYST).run()?;
    let records = world.records(ANALYST)?;
    let start = find(&records, "session-started")?;
    let process = &start["principal"]["process"];
    ensure(process["pid"] == psql.pid && process["uid"] == ANALYST, || start.to_string())?;
    ensure(process["exe"]["path"] == "/usr/lib/postgresql/15/bin/psql", || process.to_string())?;
    let hash = Cmd::new("/usr/bin/sha256sum").arg("/usr/lib/postgresql/15/bin/psql").ok()?;
    ensure(hash.starts_with(process["exe"]["sha256"].as_str().unwrap_or("none")), || process.to_string())?;
    ensure(process["argv"][0].as_str().is_some_and(|word| word.ends_with("psql")), || process.to_string())?;
    ensure(start["principal"]["roles"] == serde_json::json!(["analyst"]), || start.to_string())?;
    ensure(start["upstream_user"] == "app" && start["client_user"] == "whoever", || start.to_string())?;
    ensure(start["target"] == "shop" && start["rules"] == serde_json::json!(["read-unmasked"]), || start.to_string())
}

fn statements(world: &World) -> Outcome {
    world.psql(READER, "SELECT id, ssn FROM customers ORDER BY id")?;
    let records = world.records(READER)?;
    let decided = find(&records, "decided")?;
    ensure(decided["verdict"] == "permit" && decided["rules"] == serde_json::json!(["read"]), || decided.to_string())?;
    let finished = find(&records, "finished")?;
    let answer = &finished["answer"];
    ensure(answer["columns"] == serde_json::json!(["id", "ssn"]), || answer.to_string())?;
    let rows = serde_json::json!([["1", "***1120"], ["2", "***9999"], ["3", null]]);
    ensure(answer["rows"] == rows, || answer.to_string())?;
    ensure(finished["rows"] == 3 && finished["tag"] == "SELECT 3", || finished.to_string())?;
    let ended = find(&records, "session-ended")?;
    ensure(ended["bytes_out"].as_u64() > Some(0) && ended["operations"] == 1, || ended.to_string())
}

fn literals(world: &World) -> Outcome {
    let log = |sql: &str| {
        world.script(READER, sql)?;
        Ok::<_, String>(Value::from(world.records(READER)?).to_string())
    };
    let log_of_clear = log("SELECT id FROM orders WHERE 'Ann' <> id::text;\n")?;
    ensure(log_of_clear.contains("'Ann'"), || format!("a clear statement lost its literal: {log_of_clear}"))?;
    let log = log("SELECT ssn /* 078-05-1120 */ FROM customers WHERE name = 'Ann';\n")?;
    ensure(!log.contains("'Ann'") && !log.contains("078-05") && log.contains("name = ?"), || log.clone())
}

fn argument(world: &World) -> Outcome {
    world.psql(READER, "SELECT id FROM customers WHERE name = 'Ann'")?;
    let records = world.records(READER)?;
    let argv = find(&records, "session-started")?["principal"]["process"]["argv"].clone();
    let words: Vec<&str> = argv.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    // The control: the process has the statement among its arguments, and they are recorded.
    ensure(words.contains(&"-c") && words.contains(&"***"), || argv.to_string())?;
    let log = Value::from(records).to_string();
    ensure(!log.contains("'Ann'"), || log.clone())
}

fn denied(world: &World) -> Outcome {
    world.psql(WRITER, "UPDATE orders SET paid = true")?;
    let records = world.records(WRITER)?;
    let decided = find(&records, "decided")?;
    ensure(
        decided["verdict"] == "deny"
            && decided["rules"] == serde_json::json!(["no-unbounded-writes"])
            && decided["reason"] == "DELETE and UPDATE need a WHERE clause here.",
        || decided.to_string(),
    )
}

fn control(world: &World) -> Outcome {
    world.agent.json(&["status"])?;
    let binary = world.agent.program()?;
    for words in [&["status"][..], &["sessions", "list"], &["audit", "verify"]] {
        let seen =
            Cmd::new(&binary).args(words).arg("--config").arg(world.agent.config()).user(READER, READER).run()?;
        ensure(!seen.success() && seen.stdout.is_empty(), || format!("{words:?}: {seen}"))?;
    }
    Ok(())
}

fn reload(world: &World) -> Outcome {
    let file = world.agent.path("policies/shop.cedar");
    let old = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let write = |text: &str| std::fs::write(&file, text).map_err(|error| error.to_string());
    let outcome = (|| {
        write("permit (principal, action == Action::\"sql:nonsense\", resource);")?;
        let seen = world.agent.postern(&["policy", "reload"])?;
        ensure(seen.code() == Some(1) && seen.stderr.contains("shop.cedar"), || seen.to_string())?;
        crate::world::says(&world.psql(READER, "SELECT 1")?, "1")?;
        write(&old.replace("@id(\"read\")\npermit", "@id(\"read\")\n@reason(\"Closed for today.\")\nforbid"))?;
        let seen = world.agent.postern(&["policy", "reload"])?;
        ensure(seen.success(), || seen.to_string())?;
        refused(&world.psql(READER, "SELECT 1")?, "Closed for today.")
    })();
    write(&old)?;
    let restored = world.agent.postern(&["policy", "reload"])?;
    outcome.and_then(|()| ensure(restored.success(), || restored.to_string()))
}
