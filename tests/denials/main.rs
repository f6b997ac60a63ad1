//! What a denial leaves: in the client, in the server, and in the log.
//!
//! Every situation is gone through three times on the same content: at a server whose login lacks a right, through the agent at
//! one whose policy withholds that right, and through the agent where everything is permitted. The first two must leave the same;
//! the third must show the statement's effect, or the situation would prove nothing.

mod clients;
mod psql;
mod raw;
mod story;
mod wire;
mod world;

use std::process::ExitCode;

use agent_tests::{Cmd, Outcome, suite, suite::root_main};
use clients::Tools;
use psql::Psql;
use raw::{DENIED, Raw, Refusal};
use story::{Fate, Line};
use wire::Wire;
use world::{CLIENT, DATABASE, LOGIN, Left, Side, World};

/// A fault for a server that reads a text whole.
const FAULT: &str = "INSERT INTO closed.vault VALUES (1 fault, 'in')";

fn main() -> ExitCode {
    root_main("denials", || {
        let world = World::new()?;
        let world = &world;
        let tools = Tools::new()?;
        let mut suite = suite("denials");
        for situation in raw::SITUATIONS {
            suite = suite
                .case(situation.name, move || compare(world, situation.proof, |side| exchange(world, situation, side)));
        }
        for situation in psql::SITUATIONS {
            suite = suite
                .case(situation.name, move || compare(world, situation.proof, |side| typed(world, situation, side)));
        }
        suite = clients::cases(suite, world, &tools).case("the manual lists every situation", listed);
        Ok(suite.run())
    })
}

/// Fails with the situations that the manual does not have, one a line.
fn listed() -> Outcome {
    let manual = include_str!("../../agent/docs/denials.md");
    let names = raw::SITUATIONS.iter().map(|situation| situation.name);
    let names = names.chain(psql::SITUATIONS.iter().filter_map(|situation| situation.name.strip_prefix("psql: ")));
    let names: Vec<String> = names.map(str::to_owned).chain(clients::names()).collect();
    let lacking = names.iter().filter(|name| !manual.contains(&format!("\n- {name}\n")));
    let lacking: Vec<&str> = lacking.map(String::as_str).collect();
    if lacking.is_empty() { Ok(()) } else { Err(lacking.join("\n")) }
}

/// Goes through a situation three times.
fn compare(world: &World, proof: &str, client: impl Fn(Side) -> Outcome<String>) -> Outcome {
    let run = |side| world.run(side, || client(side)).map_err(|error| format!("{side:?}: {error}"));
    let (mut direct, denied, permitted) = (run(Side::Direct)?, run(Side::Denied)?, run(Side::Permitted)?);
    for line in &mut direct.story {
        // The fault of a text stands for a right that is lacking.
        if line.text.contains(FAULT) {
            *line = Line { text: line.text.replace(FAULT, DENIED), fate: Fate::Failed("42501".into()) };
        }
    }
    alike("the client", &direct.client, &denied.client)?;
    alike("the server", &direct.server, &denied.server)?;
    story::same(&direct.story, &denied.story)?;
    refused(&denied)?;
    let ran = story::of_server(&permitted.log);
    let shows = |left: &Left| left.client.contains(proof) || left.server.contains(proof);
    if proof.is_empty() {
        let refused = |line: &Line| denied.story.iter().any(|it| it.fate == Fate::Refused && it.text == line.text);
        if !ran.iter().any(|line| line.fate == Fate::Ran && refused(line)) {
            return Err(format!("the server of the control has not run it: {ran:?}"));
        }
    } else if shows(&denied) {
        return Err(format!("{proof} is there although it was refused:\n{}\n{}", denied.client, denied.server));
    } else if !shows(&permitted) {
        return Err(format!(
            "{proof} is nowhere although it was permitted:\n{}\n{}",
            permitted.client, permitted.server
        ));
    }
    match permitted.story.iter().find(|line| line.fate == Fate::Refused) {
        Some(line) => Err(format!("this was refused to the control: {}", line.text)),
        None => Ok(()),
    }
}

/// Something was refused, and the target's server has not heard of it, unless it had run the same before.
fn refused(denied: &Left) -> Outcome {
    let mut any = false;
    for line in denied.story.iter().filter(|line| line.fate == Fate::Refused) {
        any = true;
        let before = line.text.contains("flips") || line.text.contains("EXECUTE");
        if !before && denied.log.contains(&line.text) {
            return Err(format!("the target's server has heard of this: {}", line.text));
        }
    }
    if any { Ok(()) } else { Err("nothing was refused".into()) }
}

/// Fails with both if they differ.
fn alike(what: &str, direct: &str, through: &str) -> Outcome {
    if direct == through { Ok(()) } else { Err(format!("{what}, directly:\n{direct}\nthrough the agent:\n{through}")) }
}

/// Plays a script, and asks others and the session itself what is left of it.
fn exchange(world: &World, situation: &Raw, side: Side) -> Outcome<String> {
    let broken = situation.refusal == Refusal::Fault && side == Side::Direct;
    let script = situation.script.replace("{D}", if broken { FAULT } else { DENIED });
    let port = world.server(side).port();
    let mut wire = Wire::connect(port, LOGIN, DATABASE)?;
    let function = |name: &str| {
        let oid = world.server(side).sql(DATABASE, &format!("SELECT '{name}'::regproc::oid"))?;
        oid.parse().map_err(|_| format!("{name} has no OID: {oid}"))
    };
    for line in script.lines().map(str::trim_start) {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["hear", ..] if side == Side::Permitted => wire.drain()?,
            ["wait" | "hear", kind, count] => {
                let count = count.parse().map_err(|_| format!("no number: {line}"))?;
                wire.until(kind.as_bytes()[0], count)?;
            }
            ["flip"] => world.flip(side)?,
            _ => wire.add(line, function)?,
        }
    }
    let held = world.held(side)?;
    for query in [
        "ROLLBACK",
        "SELECT name, statement FROM pg_prepared_statements ORDER BY name",
        "SELECT name FROM pg_cursors ORDER BY name",
    ] {
        wire.add(&format!("Q {query}"), function)?;
        wire.until(b'Z', 1)?;
    }
    let mut seen = format!("{}{held}\n", wire.end(side == Side::Permitted)?);
    if situation.refusal == Refusal::Late {
        seen =
            seen.lines().filter(|line| !matches!(*line, "1 " | "2 " | "n ")).map(|line| format!("{line}\n")).collect();
    }
    if broken {
        seen = seen.replace("E ERROR 42601", "E ERROR 42501");
    }
    Ok(seen)
}

/// Has psql go through a situation.
fn typed(world: &World, situation: &Psql, side: Side) -> Outcome<String> {
    let broken = side == Side::Direct && situation.input.contains("\\;");
    let denied = if broken { FAULT } else { DENIED };
    let seen = placed(psql::command(situation, denied), world, side).run()?.to_string();
    Ok(if broken { seen.replace("ERROR:  42601", "ERROR:  42501") } else { seen })
}

/// As every client runs: as its own user, told where the server is by its environment.
fn placed(cmd: Cmd, world: &World, side: Side) -> Cmd {
    cmd.env("PGHOST", "127.0.0.1")
        .env("PGPORT", world.server(side).port().to_string())
        .env("PGDATABASE", DATABASE)
        .env("PGUSER", LOGIN)
        .env("PGSSLMODE", "disable")
        .env("HOME", "/nonexistent")
        .user(CLIENT, CLIENT)
}
