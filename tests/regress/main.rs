//! PostgreSQL's own regression tests through the agent, under a policy that permits everything: what each of them prints must be
//! what it prints when psql talks to the server directly, byte for byte.
//!
//! Two new servers, one of them a target, are given the same files in the same order. The tests' own expected output plays no
//! part: what the direct server says is right.

mod known;
mod normal;
mod peer;
mod schedule;

use std::{fs, path::Path, process::ExitCode, thread};

use agent_tests::{Agent, Outcome, TempDir, full, suite, suite::root_main, tool};
use known::Known;
use peer::{CLIENT, Peer, Printed};

/// Everything is permitted, also what cannot be understood.
const POLICY: &str = r#"
@id("everything")
permit (principal in Role::"tester", action, resource in Target::"regress");
"#;

fn main() -> ExitCode {
    root_main("regress", || {
        let source = tool("regress")?;
        let tests = schedule::read(&source, full())?;
        let world = TempDir::new().map_err(|error| error.to_string())?;
        let (direct, target) = (Peer::new(&world, "direct", &source)?, Peer::new(&world, "through", &source)?);
        let agent = Agent::builder()
            .target(target.target())
            .role("tester", [format!("{{ user = \"{CLIENT}\" }}")])
            .policy("all.cedar", POLICY)
            .start()?;
        let (right, seen) = thread::scope(|scope| {
            let right = scope.spawn(|| direct.run(&tests));
            let seen = target.run(&tests);
            (right.join().map_err(|_| "the direct run panicked".to_owned()), seen)
        });
        let (right, seen) = (right??, seen?);
        keep(&right, &seen)?;
        let known = Known::read()?;
        let mut suite = suite("regress");
        for ((test, right), seen) in tests.iter().zip(&right).zip(&seen) {
            let known = &known;
            suite = suite.case(test, move || compare(test, right, seen, known));
        }
        suite = suite
            .case("what is known to differ is about tests that there are", || known.are_among(&source))
            .case("every statement is in the log, and none was refused", || recorded(&agent, &target));
        Ok(suite.run())
    })
}

/// Fails unless both printed the same, or differ exactly as is known.
fn compare(test: &str, right: &Printed, seen: &Printed, known: &Known) -> Outcome {
    let changed = normal::changed_lines(right, seen)?;
    let expected = known.lines(test);
    match (changed.as_str() == expected, expected.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => Err(format!("it differs (-: direct, +: through):\n{}", shortened(&changed))),
        (false, false) => Err(format!(
            "it differs in another way than known.txt says (-: direct, +: through):\n{}",
            if changed.is_empty() { "not at all" } else { &changed }
        )),
    }
}

fn shortened(text: &str) -> String {
    text.lines().take(60).collect::<Vec<_>>().join("\n")
}

/// Leaves what was printed beside the tools, for whoever looks for a cause.
fn keep(right: &[Printed], seen: &[Printed]) -> Outcome {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = this.ancestors().nth(3).unwrap_or(Path::new("/tmp")).join("regress");
    for (side, printed) in [("direct", right), ("through", seen)] {
        let dir = target.join(side);
        fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        for one in printed {
            let file = dir.join(format!("{}.out", one.test));
            fs::write(&file, &one.bytes).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        let seconds: Vec<String> =
            printed.iter().map(|one| format!("{:.2} {}", one.took.as_secs_f64(), one.test)).collect();
        fs::write(dir.join("seconds"), seconds.join("\n")).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The log has at least the statements that the server has begun to run, and says how many could not be understood.
fn recorded(agent: &Agent, target: &Peer) -> Outcome {
    let sessions = agent.json(&["sessions", "list", "--limit", "1000"])?;
    let (mut operations, mut opaque, mut denied) = (0, 0, Vec::new());
    for session in sessions["sessions"].as_array().ok_or("sessions list is no list")? {
        let shown = agent.json(&["sessions", "show", session["session"].as_str().unwrap_or_default()])?;
        let records = shown["records"].as_array().ok_or("sessions show has no records")?;
        for decided in records.iter().map(|record| &record["event"]).filter(|event| event["event"] == "decided") {
            operations += 1;
            opaque += usize::from(decided["requests"].to_string().contains("sql:opaque"));
            if decided["verdict"] != "permit" {
                denied.push(decided.to_string());
            }
        }
    }
    let statements = target.statements();
    println!(
        "regress: {operations} operations are in the log, of which {opaque} are opaque; the server ran {statements}"
    );
    if !denied.is_empty() {
        return Err(format!("{} were refused:\n{}", denied.len(), denied.join("\n")));
    }
    if operations < statements { Err("statements have run that are not in the log".into()) } else { Ok(()) }
}
