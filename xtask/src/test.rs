//! Running suites. *Invariant:* a suite that ends without its closing line, or below its declared size, has failed.

use std::{
    fmt::Display,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use nix::unistd::Uid;

use crate::{
    build::{self, Built, What},
    fuzz,
    older::{self, Program, Release, Said},
    run::{self, Outcome},
    suites::{FUZZ, OLDER, SUITES, Suite, UNIT},
    tidy,
};

/// Set for suites that shall run at full size.
const FULL: &str = "POSTERN_TEST_FULL";

/// Crates whose library tests make up the suite `unit`.
const UNIT_PACKAGES: &[&str] = &["agent", "agent-common", "xtask"];

/// Their tests that make up the suite `fuzz` instead.
const FUZZ_TESTS: &str = "fuzz::tests::";

/// How long each target of fuzzing runs at its full size, and how many inputs it tries.
const FUZZED: (u64, u64) = (60, 100_000);

/// Runs the named suites, on the running kernel or on these; without names all of them, and on the running kernel the checks.
///
/// # Errors
/// The process is not root, a name is unknown, or the build failed.
pub fn test(names: &[String], all: bool, kernels: &[Release]) -> Outcome<ExitCode> {
    if !Uid::effective().is_root() {
        return Err("the tests need root: they load kernel programs and start processes as other users".into());
    }
    let whole = names.is_empty() && kernels.is_empty();
    let here = if kernels.is_empty() { select(names, SUITES)? } else { Vec::new() };
    let kernels = if whole && all { &Release::ALL[..] } else { kernels };
    let older = if kernels.is_empty() { Vec::new() } else { select(names, OLDER)? };
    older::setup(kernels)?;
    build::kernel_side()?;
    let built = build::workspace(What::All)?;
    let mut rows = Vec::new();
    if whole {
        rows.push(row("checks", 4, |_| checks())?);
    }
    for suite in here {
        rows.push(row(suite.name, suite.least(all), |name| match name {
            UNIT => unit(&built, UNIT_PACKAGES, &["--skip", FUZZ_TESTS], all),
            FUZZ => fuzzing(&built, all),
            _ => folder(&built, name, all),
        })?);
    }
    for kernel in kernels {
        rows.extend(on_older(*kernel, &older, &built, all)?);
    }
    Ok(report(&rows))
}

fn select(names: &[String], table: &[Suite]) -> Outcome<Vec<Suite>> {
    if names.is_empty() {
        return Ok(table.to_vec());
    }
    let one = |name: &String| {
        table.iter().find(|suite| suite.name == name).copied().ok_or_else(|| {
            let known: Vec<_> = table.iter().map(|suite| suite.name).collect();
            format!("there is no suite {name}; there are: {}", known.join(", "))
        })
    };
    names.iter().map(one).collect()
}

/// How many cases of a suite passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

struct Row {
    name: String,
    count: Count,
    least: usize,
    seconds: u64,
    /// Why the suite as a whole failed, if it did.
    fault: Option<String>,
}

fn row(name: &str, least: usize, body: impl FnOnce(&str) -> Outcome<(Count, Option<String>)>) -> Outcome<Row> {
    println!("\n=== {name}");
    let start = Instant::now();
    let (count, fault) = body(name)?;
    let fault = fault.or_else(|| verdict(count, least));
    Ok(Row { name: name.into(), count, least, seconds: start.elapsed().as_secs(), fault })
}

fn verdict(count: Count, least: usize) -> Option<String> {
    if count.failed > 0 {
        Some(format!("{} failed", count.failed))
    } else if count.skipped > 0 {
        Some(format!("{} skipped", count.skipped))
    } else if count.passed < least {
        Some(format!("fewer than its {least} cases"))
    } else {
        None
    }
}

/// Formatting, lints and layout.
fn checks() -> Outcome<(Count, Option<String>)> {
    let mut count = Count::default();
    let mut note = |name: &str, passed: bool| {
        println!("checks: {name} ... {}", if passed { "ok" } else { "FAILED" });
        if passed { count.passed += 1 } else { count.failed += 1 }
    };
    note("cargo fmt --check", run::status(build::cargo("fmt")?.args(["--all", "--check"]))?.success());
    let kernel_side = run::root().join("agent-ebpf/Cargo.toml");
    let mut format = build::cargo("fmt")?;
    format.args(["--check", "--manifest-path"]).arg(kernel_side);
    note("cargo fmt --check of the kernel side", run::status(&mut format)?.success());
    let mut lints = build::cargo("clippy")?;
    lints.args(["--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]);
    note("cargo clippy", run::status(&mut lints)?.success());
    note("cargo xtask tidy", tidy::tidy()? == 0);
    Ok((count, None))
}

/// The inputs that are kept and, at full size, a short run of each target.
fn fuzzing(built: &Built, all: bool) -> Outcome<(Count, Option<String>)> {
    let (mut count, fault) = unit(built, UNIT_PACKAGES, &[FUZZ_TESTS], all)?;
    if all {
        for passed in fuzz::all(FUZZED.0, FUZZED.1)? {
            if passed { count.passed += 1 } else { count.failed += 1 }
        }
    }
    Ok((count, fault))
}

/// Library tests of these packages.
fn unit(built: &Built, packages: &[&str], which: &[&str], all: bool) -> Outcome<(Count, Option<String>)> {
    let mut total = Count::default();
    let mut fault = None;
    for (_, name, file) in built.tests.iter().filter(|(package, ..)| packages.contains(&package.as_str())) {
        println!("--- {name}");
        let mut last = None;
        let mut command = Command::new(file);
        let command = sized(&mut command, all).args(which).current_dir(run::root().join("agent"));
        let status = run::lines(command, |line| {
            println!("{line}");
            last = libtest_line(line).or(last);
        })?;
        match last {
            Some(count) => {
                total.passed += count.passed;
                total.failed += count.failed;
                total.skipped += count.skipped;
            }
            None => fault = Some(format!("{name} ended without its closing line: {status}")),
        }
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok((total, fault))
}

fn folder(built: &Built, name: &str, all: bool) -> Outcome<(Count, Option<String>)> {
    let mut last = None;
    let mut command = Command::new(test_program(built, name)?);
    let status = run::lines(sized(&mut command, all).current_dir(run::root().join("tests")), |line| {
        println!("{line}");
        if !line.trim().is_empty() {
            last = closing_line(line);
        }
    })?;
    Ok(outcome(last, status.success(), &status))
}

fn test_program<'a>(built: &'a Built, name: &str) -> Outcome<&'a Path> {
    let file = built.tests.iter().find(|(package, target, _)| package == "agent-tests" && target == name);
    file.map(|(.., file)| file.as_path()).ok_or_else(|| format!("tests/Cargo.toml has no test {name}"))
}

/// What became of a suite that has ended, by the closing line that it ended with, if any.
fn outcome(last: Option<Count>, success: bool, status: &impl Display) -> (Count, Option<String>) {
    let fault = match last {
        None => Some(format!("it ended without its closing line: {status}")),
        Some(count) if count.failed == 0 && !success => Some(format!("it ended with {status}")),
        Some(_) => None,
    };
    (last.unwrap_or_default(), fault)
}

/// Suites on an older kernel. One that the machine did not get to has failed.
fn on_older(kernel: Release, suites: &[Suite], built: &Built, all: bool) -> Outcome<Vec<Row>> {
    println!("\n=== kernel {kernel}");
    let program = |suite: &Suite| Ok(Program { name: suite.name, file: test_program(built, suite.name)?.into() });
    let programs = suites.iter().map(program).collect::<Outcome<Vec<_>>>()?;
    let mut rows: Vec<Row> = Vec::new();
    let (mut start, mut last) = (Instant::now(), None);
    let ran = older::run(kernel, &built.program("postern")?, &programs, all.then_some(FULL), |said| match said {
        Said::Begins(name) => {
            println!("--- {name} on {kernel}");
            (start, last) = (Instant::now(), None);
        }
        Said::Line(line) => {
            println!("{line}");
            if !line.trim().is_empty() {
                last = closing_line(line);
            }
        }
        Said::Ends(name, status) => {
            let least = suites.iter().find(|suite| suite.name == name).map_or(0, |suite| suite.least(all));
            let (count, fault) = outcome(last, status == 0, &format!("exit code {status}"));
            let fault = fault.or_else(|| verdict(count, least));
            let seconds = start.elapsed().as_secs();
            rows.push(Row { name: format!("{name} on {kernel}"), count, least, seconds, fault });
        }
    });
    if let Some(why) = ran? {
        println!("the machine did not get to its end: {why}");
        let lost = suites[rows.len().min(suites.len())..].iter().map(|suite| Row {
            name: format!("{} on {kernel}", suite.name),
            count: Count::default(),
            least: suite.least(all),
            seconds: start.elapsed().as_secs(),
            fault: Some("the machine did not get to its end".into()),
        });
        rows.extend(lost.collect::<Vec<_>>());
    }
    Ok(rows)
}

fn sized(command: &mut Command, all: bool) -> &mut Command {
    if all { command.env(FULL, "1") } else { command.env_remove(FULL) }
}

/// `12 passed, 0 failed, 0 skipped`
fn closing_line(line: &str) -> Option<Count> {
    let mut parts = line.trim().split(", ");
    let mut number = |word: &str| parts.next()?.strip_suffix(word)?.strip_suffix(' ')?.parse().ok();
    let count = Count { passed: number("passed")?, failed: number("failed")?, skipped: number("skipped")? };
    parts.next().is_none().then_some(count)
}

/// `test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s`
fn libtest_line(line: &str) -> Option<Count> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut parts = counts.split("; ");
    let mut number = |word: &str| parts.next()?.strip_suffix(word)?.strip_suffix(' ')?.parse().ok();
    Some(Count { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

fn report(rows: &[Row]) -> ExitCode {
    println!("\n{:<16} {:>7} {:>7} {:>8} {:>8}", "suite", "passed", "failed", "least", "seconds");
    let mut total = Count::default();
    for row in rows {
        // A suite that failed as a whole counts as one failed case, so that the last line never looks green.
        let failed = if row.fault.is_some() { row.count.failed.max(1) } else { 0 };
        total.passed += row.count.passed;
        total.failed += failed;
        total.skipped += row.count.skipped;
        let fault = row.fault.as_deref().map(|fault| format!("  {fault}")).unwrap_or_default();
        println!("{:<16} {:>7} {failed:>7} {:>8} {:>8}{fault}", row.name, row.count.passed, row.least, row.seconds);
    }
    println!("\n{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    if total.failed == 0 && total.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read() {
        assert_eq!(closing_line("12 passed, 1 failed, 0 skipped"), Some(Count { passed: 12, failed: 1, skipped: 0 }));
        for wrong in [
            "",
            "12 passed",
            "12 passed, 1 failed",
            "12 passed, 1 failed, 0 skipped, 1 lost",
            "x passed, 1 failed, 0 skipped",
        ] {
            assert_eq!(closing_line(wrong), None, "{wrong}");
        }
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(libtest_line(line), Some(Count { passed: 3, failed: 1, skipped: 2 }));
        assert_eq!(libtest_line("test a ... ok"), None);
    }

    #[test]
    fn a_suite_that_skips_or_shrinks_fails() {
        assert!(verdict(Count { passed: 5, failed: 0, skipped: 0 }, 5).is_none());
        assert!(verdict(Count { passed: 5, failed: 1, skipped: 0 }, 5).is_some());
        assert!(verdict(Count { passed: 5, failed: 0, skipped: 1 }, 5).is_some());
        assert!(verdict(Count { passed: 4, failed: 0, skipped: 0 }, 5).is_some());
    }

    #[test]
    fn an_unknown_suite_is_refused_by_name() {
        let nonsense = select(&["nonsense".into()], SUITES);
        assert!(nonsense.is_err_and(|error| error.contains("nonsense") && error.contains(UNIT)));
        assert_eq!(select(&[], SUITES).map(|suites| suites.len()), Ok(SUITES.len()));
        assert!(select(&[UNIT.into()], OLDER).is_err());
    }
}
