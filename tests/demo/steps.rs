//! The steps, in order. Each leaves the world as the next one needs it.

use std::{fs, path::PathBuf};

use agent_tests::Outcome;
use serde_json::Value;

use crate::{
    narrator::Narrator,
    world::{ANALYST, PASSWORD, READER, World},
};

/// A step of the story.
pub type Step = fn(&mut Narrator, &mut World) -> Outcome;

/// All of them.
pub const ALL: &[Step] = &[
    masked,
    unmasked,
    unbounded_delete,
    drop_table,
    driver,
    leaked_password,
    sessions,
    closed_when_dead,
    tampered,
    uninstalled,
];

const CUSTOMERS: &str = "SELECT id, name, email, ssn FROM customers ORDER BY id";

fn masked(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "A reader queries the database, and sees masked columns",
        "An unmodified psql, the usual host and port. The kernel hands the connection to Postern, which knows the process,\n\
         decides by policy, and logs in with a password that the process does not have: the one it sends is wrong.",
    );
    let seen = narrator.run(READER, &world.reader_psql(CUSTOMERS))?;
    narrator.check("the query is permitted", seen.success())?;
    narrator.check("names are shown", seen.stdout.contains("Customer One"))?;
    narrator.check("of each number only the last four digits are", seen.stdout.contains("1120"))?;
    let leaked = ["078-05-1120", "219-09", "457-55", "first@example.com", "second@", "third@"];
    narrator.check("no masked value has come through", !leaked.iter().any(|value| seen.stdout.contains(value)))
}

fn unmasked(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "An analyst, who may unmask, sends the very same query",
        "Another system user: another role by the configuration, and a policy that permits `unmask` for personal data.",
    );
    let seen = narrator.run(ANALYST, &world.analyst_psql(CUSTOMERS))?;
    narrator.check("the query is permitted", seen.success())?;
    let values = ["078-05-1120", "219-09-9999", "457-55-5462", "first@example.com"];
    narrator.check("every value is shown", values.iter().all(|value| seen.stdout.contains(value)))
}

fn unbounded_delete(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "A DELETE without WHERE is refused",
        "A native error of PostgreSQL, with the policy's id and its reason.",
    );
    refused(narrator, world, "DELETE FROM orders", "no-unbounded-writes")?;
    narrator.check("all 30 orders are still there", world.rows("orders")? == "30")
}

fn drop_table(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step("A DROP is refused", "Nothing permits it to this role, so it is denied: no rule has to forbid it.");
    refused(narrator, world, "DROP TABLE customers CASCADE", "denied by Postern")?;
    narrator.check("all 3 customers are still there", world.rows("customers")? == "3")
}

fn refused(narrator: &mut Narrator, world: &World, sql: &str, words: &str) -> Outcome {
    let seen = narrator.run(READER, &world.reader_psql(sql))?;
    narrator.check("psql reports an error", !seen.success())?;
    narrator.check("its SQLSTATE is 42501, insufficient_privilege", seen.stderr.contains("42501"))?;
    narrator.check(&format!("it names its cause: {words}"), seen.stderr.contains(words))
}

fn driver(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "A Python driver works as well, with parameters",
        "psycopg, unmodified, as the analyst and then as the reader.",
    );
    let script = "import os, psycopg\n\
                  with psycopg.connect(os.environ['URL'], user='anybody', password='anything') as connection:\n    \
                  print(connection.execute('SELECT name, ssn FROM customers WHERE id = %s', [2]).fetchone())\n";
    let script = world.python.script(script).env("URL", world.url());
    let seen = narrator.run(ANALYST, &script.clone().user(world.analyst.uid(), world.analyst.gid()))?;
    narrator.check("the analyst sees the number", seen.success() && seen.stdout.contains("219-09-9999"))?;
    let seen = narrator.run(READER, &script.user(world.reader.uid(), world.reader.gid()))?;
    narrator.check("the reader sees its last four digits", seen.success() && seen.stdout.contains("9999"))?;
    narrator.check("and no more of it", !seen.stdout.contains("219-09"))
}

fn leaked_password(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "The database's own password is of no use",
        "Suppose it had leaked. Whoever connects with it around Postern is not around Postern: the kernel redirects the\n\
         process, whatever it says that it is. And where the agent keeps the password, nobody else can read it.",
    );
    for (host, path) in [("127.0.0.1", "IPv4"), ("::1", "IPv6"), ("::ffff:127.0.0.1", "IPv4 inside IPv6")] {
        let seen = narrator.run(READER, &world.leaked_psql(host, "SELECT name, ssn FROM customers WHERE id = 1"))?;
        let masked = seen.stdout.contains("1120") && !seen.stdout.contains("078-05-1120");
        narrator.check(&format!("over {path}: masked as before"), seen.success() && masked)?;
    }
    let seen = narrator.run(READER, &world.leaked_psql("127.0.0.1", "TRUNCATE orders"))?;
    narrator.check("what was refused stays refused", seen.stderr.contains("denied by Postern"))?;
    let file = agent_tests::Cmd::new("cat").arg(world.agent.path("orders.password"));
    let seen = narrator.run(READER, &file.user(world.reader.uid(), world.reader.gid()))?;
    narrator.check("the file cannot be read", !seen.success() && !seen.stdout.contains(PASSWORD))
}

fn sessions(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "An auditor lists the sessions, and replays one",
        "Who ran what, what was decided by which rule, what came back.",
    );
    let seen = narrator.run("root", &world.agent.command(["sessions", "list"]))?;
    narrator.check(
        "the sessions of both users are listed",
        [READER, ANALYST].iter().all(|user| seen.stdout.contains(user)),
    )?;
    let list = world.agent.json(&["sessions", "list"])?;
    let session = list["sessions"].as_array().and_then(|all| all.iter().rfind(|one| is_of_reader(one)));
    let id = session.and_then(|session| session["session"].as_str()).ok_or("no session of the reader is listed")?;
    let seen = narrator.run("root", &world.agent.command(["sessions", "show", id]))?;
    narrator.check("its user is named", seen.success() && seen.stdout.contains(READER))?;
    let seen = narrator.run("root", &world.agent.command(["sessions", "replay", id]))?;
    narrator.check("the replay shows the statement", seen.success() && seen.stdout.contains("FROM customers"))?;
    narrator.check("and the answer as the reader saw it", seen.stdout.contains("Customer One"))?;
    narrator.check("and no masked value", !seen.stdout.contains("078-05-1120"))
}

/// Whether it is a session in which the reader has sent one query: the oldest is that of the first step.
fn is_of_reader(session: &Value) -> bool {
    session["user"] == READER && session["operations"] == 1 && session["denied"] == 0
}

fn closed_when_dead(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "When the agent dies, the way is closed, not open",
        "Its programs stay pinned in the kernel, and refuse what they cannot hand over. Killing it with SIGKILL …",
    );
    world.agent.kill9();
    let seen = narrator.run(READER, &world.leaked_psql("127.0.0.1", CUSTOMERS))?;
    narrator.check("psql fails at once, even with the right password", !seen.success() && seen.stdout.is_empty())?;
    narrator.say("… and starting it again, which adopts what is pinned:");
    world.agent.start()?;
    let seen = narrator.run(READER, &world.reader_psql("SELECT count(*) FROM orders"))?;
    narrator.check("psql works again", seen.success() && seen.stdout.contains("30"))
}

fn tampered(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "The log proves that nobody has changed it",
        "It is a chain of hashes. Verified as it is, and again after a refused DELETE has been made to look harmless on disk.",
    );
    let seen = narrator.run(READER, &world.reader_psql("DELETE FROM orders"))?;
    narrator.check("another DELETE is refused", !seen.success())?;
    let seen = narrator.run("root", &world.agent.command(["audit", "verify"]))?;
    narrator.check("the log is proven whole", seen.success())?;
    world.agent.stop()?;
    let (file, offset, text) = find(world, b"DELETE FROM orders")?;
    let sequence = sequence_before(&text, offset);
    let mut edited = text.clone();
    edited[offset..offset + 6].copy_from_slice(b"SELECT");
    fs::write(&file, &edited).map_err(|error| format!("{}: {error}", file.display()))?;
    narrator.say(&format!(
        "\nThe agent is stopped. Edited 6 bytes of {} at {offset}: DELETE is SELECT now.",
        file.display()
    ));
    let state = world.agent.path("state").display().to_string();
    let verify = world.agent.command(["audit", "verify", "--state-dir", &state]);
    let seen = narrator.run("root", &verify)?;
    narrator.check("the edit is found", seen.code() == Some(1))?;
    let said = format!("{}{}", seen.stdout, seen.stderr);
    let sequence = sequence.ok_or("the edited record has no header")?.to_string();
    narrator.check(&format!("the record is named: {sequence}"), said.contains(&format!("record {sequence} ")))?;
    fs::write(&file, &text).map_err(|error| format!("{}: {error}", file.display()))?;
    narrator.say("The bytes are put back.");
    world.agent.start()
}

/// The journal's file that holds `words`, where they are, and all of its bytes.
fn find(world: &World, words: &[u8]) -> Outcome<(PathBuf, usize, Vec<u8>)> {
    let mut folders = vec![world.agent.path("state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "journal")
                && let Ok(text) = fs::read(&path)
                && let Some(offset) = text.windows(words.len()).position(|window| window == words)
            {
                return Ok((path, offset, text));
            }
        }
    }
    Err("the refused DELETE is not in the journal".into())
}

/// The sequence number in the last frame header before `offset`: after the magic, two 16-bit numbers.
fn sequence_before(text: &[u8], offset: usize) -> Option<u64> {
    let header = text[..offset].windows(4).rposition(|window| window == b"PSTN")?;
    Some(u64::from_le_bytes(text.get(header + 8..header + 16)?.try_into().ok()?))
}

fn uninstalled(narrator: &mut Narrator, world: &mut World) -> Outcome {
    narrator.step(
        "Without Postern, the command of step 1 cannot even log in",
        "It has never had the password: that lives in the agent alone.",
    );
    world.agent.stop()?;
    let seen = narrator.run("root", &world.agent.command(["uninstall"]))?;
    narrator.check("nothing of it is left in the kernel", seen.success() && !world.agent.pins().exists())?;
    let seen = narrator.run(READER, &world.reader_psql(CUSTOMERS))?;
    narrator.check("psql cannot log in", !seen.success() && seen.stdout.is_empty())?;
    let log = world.server.log();
    let line = log.lines().rev().find(|line| line.contains("FATAL") && line.contains(READER)).unwrap_or_default();
    narrator.say(&format!("The server's log: {line}"));
    narrator.check("the server refused with SQLSTATE 28P01, invalid_password", line.contains("28P01"))
}
