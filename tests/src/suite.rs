//! Suites of cases, run one after the other.
//!
//! *Invariant:* nothing is skipped. What a case needs and does not find is a failure, and the last line says how many passed.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::{Duration, Instant},
};

use nix::unistd::Uid;

use crate::{Outcome, turn::Turn, undo};

/// How long a suite may take at full size before it is taken for hanging.
const FULL_DEADLINE: Duration = Duration::from_secs(3 * 3600);

/// A suite with this name.
#[must_use]
pub fn suite<'a>(name: &str) -> Suite<'a> {
    Suite { name: name.into(), cases: Vec::new() }
}

/// Whether suites run at full size (`cargo xtask test --all`) rather than at their everyday size.
#[must_use]
pub fn full() -> bool {
    std::env::var_os("POSTERN_TEST_FULL").is_some_and(|value| value == "1")
}

/// Runs the `main` of a suite that starts or changes anything on the host: waits for its turn, checks for root, takes the
/// signals, and turns a failed preparation into a failed case.
#[must_use]
pub fn root_main(name: &str, body: impl FnOnce() -> Outcome<ExitCode>) -> ExitCode {
    // Until the end of this process.
    let turn = Turn::take();
    root_part(name, || turn.and_then(|_turn| body()))
}

/// As [`root_main`], for a part of a suite that runs as a process of its own, within the suite's turn.
#[must_use]
pub fn root_part(name: &str, body: impl FnOnce() -> Outcome<ExitCode>) -> ExitCode {
    let prepared = if Uid::effective().is_root() {
        undo::on_signals()
    } else {
        // A failure, and not a reason to skip.
        Err("this needs root: it loads kernel programs and starts processes as other users".into())
    };
    if full() {
        undo::deadline(FULL_DEADLINE);
    }
    prepared.and_then(|()| body()).unwrap_or_else(|reason| {
        println!("{name}: preparation ... FAILED");
        println!("    {}", reason.replace('\n', "\n    "));
        println!("0 passed, 1 failed, 0 skipped");
        ExitCode::FAILURE
    })
}

type Body<'a> = Box<dyn FnOnce() -> Outcome + 'a>;

/// Named cases. They may borrow what the suite's `main` has set up.
pub struct Suite<'a> {
    name: String,
    cases: Vec<(String, Body<'a>)>,
}

impl<'a> Suite<'a> {
    /// Adds a case. It fails by an error or a panic.
    #[must_use]
    pub fn case(mut self, name: impl Into<String>, body: impl FnOnce() -> Outcome + 'a) -> Self {
        self.cases.push((name.into(), Box::new(body)));
        self
    }

    /// Runs the cases whose names hold any of the program's arguments, or all without arguments, and ends with the line
    /// `N passed, N failed, 0 skipped`.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
        let total = self.cases.len();
        let (mut passed, mut failed) = (0, 0);
        for (name, body) in self.cases {
            if !wanted.is_empty() && !wanted.iter().any(|word| name.contains(word.as_str())) {
                continue;
            }
            let start = Instant::now();
            let outcome =
                panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(words(panic.as_ref())));
            let millis = start.elapsed().as_millis();
            match outcome {
                Ok(()) => {
                    passed += 1;
                    println!("{}: {name} ... ok ({millis} ms)", self.name);
                }
                Err(detail) => {
                    failed += 1;
                    println!("{}: {name} ... FAILED ({millis} ms)", self.name);
                    for line in detail.lines() {
                        println!("    {line}");
                    }
                }
            }
        }
        if passed + failed < total {
            println!("{}: {} of {total} cases were not asked for", self.name, total - passed - failed);
        }
        println!("{passed} passed, {failed} failed, 0 skipped");
        if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_else(|| "with no text".into()))
}
