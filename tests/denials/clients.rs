//! Situations in drivers, each of which has its own way of going on after an error.

use agent_tests::{Cmd, Outcome, Python, Suite, TempDir, tool};

use crate::{
    compare, placed,
    world::{Side, World},
};

const COMMON: &str = include_str!("clients/common.py");

/// A situation: its name in the script, what is special about it, and its proof.
type Situation = (&'static str, &'static str, &'static str);

/// Drivers for Python: name, script, and what of it is gone through.
const PYTHON: &[(&str, &str, &[Situation])] = &[
    (
        "psycopg",
        include_str!("clients/psycopg_all.py"),
        &[
            ("block", "the block of a connection", "vault|1|in"),
            ("goes_on", "without autocommit, until a rollback", ""),
            ("nested", "a transaction within a transaction", "vault|1|in"),
            ("pipeline", "a pipeline with a sync in its middle", "vault|1|in"),
            ("pipeline_aborted", "what a pipeline says of what follows", "vault|1|in"),
            ("pipeline_nested", "transactions within a pipeline", "vault|1|in"),
            ("many", "executemany", "vault|2|in"),
            ("server_cursor", "a cursor of the server", "shown"),
            ("copies", "COPY, whose data is written without waiting", ""),
            ("two_phases", "two phases", ""),
            ("prepares", "what it prepares by itself", "vault|3|in"),
        ],
    ),
    (
        "asyncpg",
        include_str!("clients/asyncpg_all.py"),
        &[
            ("executemany", "executemany", "vault|2|in"),
            ("nested", "a transaction within a transaction", "vault|1|in"),
            ("cursor", "between two portions of a cursor", "vault|1|in"),
            ("copies", "records that are copied", "vault|1|in"),
            ("script", "several statements in one text", "vault|1|in"),
        ],
    ),
    (
        "Python",
        include_str!("clients/others_all.py"),
        &[
            ("sqlalchemy_nested", "a unit of work of SQLAlchemy within a savepoint", "vault|1|in"),
            ("pg8000_transaction", "pg8000, without autocommit", ""),
            ("odbc_rollback", "ODBC, which rolls back to a savepoint of its own", "vault|1|in"),
        ],
    ),
];

/// For JDBC and node-pg.
const JAVA: &[Situation] = &[
    ("always", "autosave=always", "vault|1|in"),
    ("conservative", "autosave=conservative", "vault|1|in"),
    ("never", "without autosave", ""),
    ("batch", "a batch", "vault|1|in"),
    ("batch_in_transaction", "a batch in a transaction with a savepoint", ""),
    ("batch_prepared", "a batch of one statement, rewritten", "vault|7|in"),
    ("fetch_size", "between two portions of a result", ""),
    ("simple", "the simple protocol", "vault|1|in"),
];
const NODE: &[Situation] = &[
    ("queue", "queries that are not waited for", "vault|1|in"),
    ("transaction", "a named statement in a transaction", "vault|1|in"),
    ("cursor", "behind a cursor that was closed early", ""),
];

/// What the drivers need, where every user can read it.
pub struct Tools {
    python: Python,
    files: TempDir,
}

impl Tools {
    pub fn new() -> Outcome<Self> {
        let files = TempDir::new().map_err(|error| error.to_string())?;
        let put = |name: &str, text: &str| files.write(name, text, 0o644).map_err(|error| error.to_string());
        put("all.js", include_str!("clients/node_all.js"))?;
        let java = put("Denials.java", include_str!("clients/Denials.java"))?;
        let modules = tool("node")?.join("node_modules");
        Cmd::new("cp").args(["-r", "--no-preserve=ownership"]).arg(modules).arg(files.path()).ok()?;
        Cmd::new("ecj")
            .args(["-17", "-nowarn", "-proc:none", "-classpath", DRIVER, "-d"])
            .arg(files.path())
            .arg(java)
            .ok()?;
        Ok(Self { python: Python::new()?, files })
    }
}

/// The driver for Java.
const DRIVER: &str = "/usr/share/java/postgresql.jar";

/// The names of all situations.
pub fn names() -> impl Iterator<Item = String> {
    let python = PYTHON.iter().flat_map(|(driver, _, situations)| situations.iter().map(move |it| (*driver, it)));
    let others = [("JDBC", JAVA), ("node-pg", NODE)];
    let others = others.into_iter().flat_map(|(driver, situations)| situations.iter().map(move |it| (driver, it)));
    python.chain(others).map(|(driver, (_, about, _))| format!("{driver}: {about}"))
}

pub fn cases<'a>(mut suite: Suite<'a>, world: &'a World, tools: &'a Tools) -> Suite<'a> {
    for (driver, script, situations) in PYTHON {
        for (function, about, proof) in *situations {
            let client = move || tools.python.script(&format!("{COMMON}\n{script}")).arg(function);
            suite = suite.case(format!("{driver}: {about}"), move || through(world, proof, &client));
        }
    }
    for (word, about, proof) in JAVA {
        let classes = format!("{}:{DRIVER}", tools.files.path().display());
        let client =
            move || Cmd::new("java").args(["-XX:TieredStopAtLevel=1", "-classpath", &classes, "Denials", word]);
        suite = suite.case(format!("JDBC: {about}"), move || through(world, proof, &client));
    }
    for (word, about, proof) in NODE {
        let client = move || Cmd::new("node").arg(tools.files.join("all.js")).arg(word);
        suite = suite.case(format!("node-pg: {about}"), move || through(world, proof, &client));
    }
    suite
}

fn through(world: &World, proof: &str, client: &impl Fn() -> Cmd) -> Outcome {
    compare(world, proof, |side: Side| placed(client(), world, side).ok())
}
