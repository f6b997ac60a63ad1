//! The drivers' own tests: what passes directly passes through the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use agent_tests::{Outcome, Python, Suite, TempDir, full, tool};

use crate::{
    placed,
    world::{DATABASE, World},
};

/// How many tests may fail through the agent that pass directly. It only ever gets smaller.
const MOST: usize = 40;

/// How long a driver's tests may take.
const LIMIT: Duration = Duration::from_secs(1500);

/// A driver's tests.
struct Tests {
    /// Name of the package.
    package: &'static str,
    /// The folder of its tests.
    folder: &'static str,
    /// What of them is run everyday.
    everyday: &'static [&'static str],
    /// How many of those pass directly at the least.
    least: usize,
    /// The same of all.
    least_of_all: usize,
}

const SUITES: &[Tests] = &[
    Tests {
        package: "asyncpg",
        folder: "tests",
        everyday: &["test_cursor.py", "test_prepare.py", "test_copy.py", "test_transaction.py", "test_execute.py"],
        least: 80,
        least_of_all: 200,
    },
    Tests {
        package: "psycopg2",
        folder: "tests",
        everyday: &["test_copy.py", "test_cursor.py", "test_transaction.py", "test_notify.py", "test_replication.py"],
        least: 80,
        least_of_all: 300,
    },
    Tests {
        package: "pg8000",
        folder: "test",
        everyday: &["native/test_query.py", "native/test_copy.py", "dbapi/test_query.py", "legacy/test_query.py"],
        least: 50,
        least_of_all: 200,
    },
];

pub fn cases<'a>(mut suite: Suite<'a>, world: &'a World, python: &'a Python) -> Suite<'a> {
    for tests in SUITES {
        suite = suite.case(format!("the tests of {}", tests.package), move || compare(tests, world, python));
    }
    suite.case("what the drivers' tests may fail in is capped", || known().map(drop))
}

fn compare(tests: &Tests, world: &World, python: &Python) -> Outcome {
    let known = known()?;
    let (direct, through) = thread::scope(|scope| {
        let [direct, through] = world.ports();
        let direct = scope.spawn(move || run(tests, python, direct));
        let through = run(tests, python, through);
        (direct.join().map_err(|_| "the direct run panicked".to_owned()), through)
    });
    let (direct, through) = (direct??, through?);
    let passed: BTreeSet<&String> = direct.iter().filter(|(_, how)| *how == "passed").map(|(test, _)| test).collect();
    let (least, passing) = (if full() { tests.least_of_all } else { tests.least }, passed.len());
    println!("drivers: {passing} of {} tests of {} pass directly", direct.len(), tests.package);
    if passing < least {
        return Err(format!("only {passing} tests pass directly, of at least {least}: {direct:?}"));
    }
    let mut faults = Vec::new();
    for test in passed {
        let fails = through.get(test).is_none_or(|how| how != "passed");
        match (fails, known.get(&format!("{}:{test}", tests.package))) {
            (true, None) => faults.push(format!("fails through the agent: {test}")),
            (false, Some(Fails::Always)) => faults.push(format!("is listed and passes: {test}")),
            _ => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// What became of each test at this server.
fn run(tests: &Tests, python: &Python, port: u16) -> Outcome<BTreeMap<String, String>> {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let space = dir.dir("space", 0o777, 0, 0).map_err(|error| error.to_string())?;
    dir.write("outcomes.py", include_str!("outcomes.py"), 0o644).map_err(|error| error.to_string())?;
    // Only the tests: the package beside them is not built.
    let source = tool("python-sources")?.join(tests.package).join(tests.folder);
    agent_tests::Cmd::new("cp").args(["-r", "--no-preserve=ownership"]).arg(source).arg(dir.path()).ok()?;
    let folder = dir.join(tests.folder);
    let outcomes = space.join("outcomes");
    let mut pytest =
        python.command().args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "outcomes", "--tb=line"]);
    pytest = pytest.arg(format!("--rootdir={}", dir.path().display()));
    if full() {
        pytest = pytest.arg(&folder);
    } else {
        pytest = pytest.args(tests.everyday.iter().map(|file| folder.join(file)));
    }
    let pytest = placed(pytest, port)
        .env("OUTCOMES", &outcomes)
        .env("TMPDIR", &space)
        .env("PSYCOPG2_TESTDB", DATABASE)
        // Empty: at the same server.
        .env("PSYCOPG2_TEST_REPL_DSN", "")
        .env("PYTHONPATH", python.path_with(dir.path()))
        .limit(LIMIT);
    let finished = pytest.run()?;
    let text = fs::read_to_string(&outcomes).map_err(|error| format!("{error}: {finished}"))?;
    Ok(text.lines().filter_map(|line| line.split_once(' ')).map(|(how, test)| (test.into(), how.into())).collect())
}

/// How a test is known to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    /// In each run.
    Always,
    /// Where it is a matter of which of two comes first.
    AtTimes,
}

/// Tests that are known to fail, each below a comment that says why; `~` before those that fail at times.
fn known() -> Outcome<BTreeMap<String, Fails>> {
    let (mut known, mut reason) = (BTreeMap::new(), false);
    for line in include_str!("known.txt").lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            reason = !line.trim().is_empty();
        } else if !reason {
            return Err(format!("known.txt: no comment says why {line} fails"));
        } else {
            let fails = if line.starts_with('~') { Fails::AtTimes } else { Fails::Always };
            known.insert(line.trim_start_matches('~').to_owned(), fails);
        }
    }
    if known.len() > MOST {
        return Err(format!("known.txt: {} tests fail, and {MOST} may", known.len()));
    }
    Ok(known)
}
