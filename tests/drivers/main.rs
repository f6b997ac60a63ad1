//! Unmodified clients through the agent, under a policy that permits everything: each must see what it sees when it talks to
//! the server directly.
//!
//! Every driver has a script in its own language, which goes through the same scenarios and prints what it got, one JSON line
//! each. It is run against two new servers with the same content, one of them a target.

mod programs;
mod rust;
mod suites;
mod world;

use std::process::ExitCode;

use agent_tests::{Cmd, Outcome, Python, TempDir, suite, suite::root_main, tool};
use world::{CLIENT, World};

/// What every script in Python begins with.
const COMMON: &str = include_str!("common.py");

/// What every driver is asked to do.
const SCENARIOS: &[&str] = &["types", "nulls", "arrays", "transaction", "error", "prepared", "portion"];

/// Drivers for Python: name, script, and what their scripts do beyond [`SCENARIOS`].
const PYTHON: &[(&str, &str, &[&str])] = &[
    ("psycopg", include_str!("psycopg_sync.py"), &["savepoint", "copy", "notice", "notify", "cancel", "pipeline"]),
    (
        "psycopg, async",
        include_str!("psycopg_async.py"),
        &["savepoint", "copy", "notice", "notify", "cancel", "pipeline"],
    ),
    ("asyncpg", include_str!("asyncpg_all.py"), &["savepoint", "copy", "notice", "notify", "cancel", "pipeline"]),
    ("pg8000", include_str!("pg8000_all.py"), &["savepoint", "copy", "notice", "notify"]),
    ("SQLAlchemy", include_str!("sqlalchemy_all.py"), &["savepoint", "reflect"]),
    ("ODBC", include_str!("odbc_all.py"), &["cancel", "pipeline", "reflect"]),
];

fn main() -> ExitCode {
    root_main("drivers", || {
        let world = World::new()?;
        let world = &world;
        let python = Python::new()?;
        let python = &python;
        let mut suite = suite("drivers");
        for (name, script, more) in PYTHON {
            suite = suite.case(*name, move || {
                world.same(&[SCENARIOS, more].concat(), |_| python.script(&format!("{COMMON}\n{script}")))
            });
        }
        suite = suite
            .case("node-pg", || node(world))
            .case("JDBC", || jdbc(world))
            .case("tokio-postgres", || rust::tokio_postgres(world))
            .case("sqlx", || rust::sqlx(world));
        suite = programs::cases(suite, world);
        suite = suites::cases(suite, world, python);
        Ok(suite.run())
    })
}

fn node(world: &World) -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let script = dir.write("all.js", include_str!("node_all.js"), 0o644).map_err(|error| error.to_string())?;
    // Packages are looked for beside the script.
    let modules = tool("node")?.join("node_modules");
    Cmd::new("cp").args(["-r", "--no-preserve=ownership"]).arg(modules).arg(dir.path()).ok()?;
    let more = ["savepoint", "copy", "notice", "notify", "cancel", "pipeline", "pool"];
    world.same(&[SCENARIOS, &more].concat(), |_| Cmd::new("node").arg(&script))
}

fn jdbc(world: &World) -> Outcome {
    let driver = "/usr/share/java/postgresql.jar";
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let source = dir.write("Jdbc.java", include_str!("Jdbc.java"), 0o644).map_err(|error| error.to_string())?;
    Cmd::new("ecj")
        .args(["-17", "-nowarn", "-proc:none", "-classpath", driver, "-d"])
        .arg(dir.path())
        .arg(source)
        .ok()?;
    let classes = format!("{}:{driver}", dir.path().display());
    let more = ["savepoint", "copy", "notice", "notify", "cancel", "pipeline", "returning", "reflect"];
    world.same(&[SCENARIOS, &more].concat(), |_| Cmd::new("java").args(["-classpath", &classes, "Jdbc"]))
}

/// As every client runs: as its own user, told where the server is by its environment.
fn placed(cmd: Cmd, port: u16) -> Cmd {
    cmd.env("PGHOST", "127.0.0.1")
        .env("PGPORT", port.to_string())
        .env("PGDATABASE", world::DATABASE)
        .env("PGUSER", "postgres")
        .env("PGSSLMODE", "disable")
        .env("HOME", "/nonexistent")
        .user(CLIENT, CLIENT)
}
