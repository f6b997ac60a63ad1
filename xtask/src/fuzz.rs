//! Fuzzing with libFuzzer: each target runs until both so many seconds have gone and so many inputs were tried.
//!
//! *Invariant:* a run that libFuzzer did not end by itself, well, is a finding or an error, never a success.

use std::{
    fs,
    io::{IsTerminal as _, Write as _, stderr},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    build,
    run::{self, Outcome},
};

/// How long a target runs, unless it is said.
pub const SECONDS: u64 = 600;

/// How many inputs it tries, unless it is said.
pub const RUNS: u64 = 1_000_000;

/// Longest input: enough for a hundred messages.
const LONGEST: u32 = 4_096;

/// Seconds that one input may take. Most take less than a thousandth.
const TIMEOUT: u32 = 10;

/// Memory that the process may take, with all inputs that libFuzzer keeps.
const MEMORY_MIB: u32 = 1_024;

/// What libFuzzer last said is shown of a finding: that many lines.
const SHOWN: usize = 60;

/// How often progress is shown, on a terminal.
const PROGRESS: Duration = Duration::from_millis(500);

/// What to run, and how long.
pub struct Wanted<'a> {
    /// Names of targets; all if there are none.
    pub targets: &'a [String],
    /// At least so long.
    pub seconds: u64,
    /// At least so many inputs.
    pub runs: u64,
    /// One JSON object a line for each target.
    pub json: bool,
}

/// What a run of a target came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    executions: u64,
    seconds: u64,
    /// Places of the code that were reached, and how often they were, by powers of two.
    coverage: u64,
    features: u64,
    /// Files of what was found.
    findings: Vec<PathBuf>,
}

/// Builds, and runs targets one after the other.
///
/// # Errors
/// A target is unknown, the build failed, or libFuzzer could not run.
pub fn fuzz(wanted: &Wanted<'_>) -> Outcome<ExitCode> {
    let targets = select(wanted.targets)?;
    let program = build::fuzz()?;
    let mut found = false;
    for target in targets {
        let figures = run_target(&program, &target, wanted)?;
        found |= !figures.findings.is_empty();
        println!("{}", if wanted.json { figures.json(&target).to_string() } else { figures.text(&target) });
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds, and runs one input: of a finding.
///
/// # Errors
/// The target is unknown, there is no such file, or the build failed.
pub fn replay(target: &str, input: &Path) -> Outcome<ExitCode> {
    select(&[target.to_owned()])?;
    let input = fs::canonicalize(input).map_err(|error| format!("{}: {error}", input.display()))?;
    let program = build::fuzz()?;
    let status = run::status(target_command(&program, target, &findings(target)?).arg(&input))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all targets for a suite; for each, whether it found nothing.
///
/// # Errors
/// See [`fuzz`].
pub fn all(seconds: u64, runs: u64) -> Outcome<Vec<bool>> {
    let program = build::fuzz()?;
    let wanted = Wanted { targets: &[], seconds, runs, json: false };
    let one = |target: String| {
        let figures = run_target(&program, &target, &wanted)?;
        println!("{}", figures.text(&target));
        Ok(figures.findings.is_empty())
    };
    select(&[])?.into_iter().map(one).collect()
}

fn folder() -> PathBuf {
    run::root().join("tests/fuzz")
}

/// The targets are those that have kept inputs; the agent's own tests see to it that all have.
fn select(names: &[String]) -> Outcome<Vec<String>> {
    let corpus = folder().join("corpus");
    let entries = fs::read_dir(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    let mut known: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    known.sort();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(format!("there is no target {unknown}; there are: {}", known.join(", ")));
    }
    Ok(if names.is_empty() { known } else { names.to_vec() })
}

fn run_target(program: &Path, target: &str, wanted: &Wanted<'_>) -> Outcome<Figures> {
    let (inputs, findings) = (made("corpus", target)?, findings(target)?);
    let mut figures = Figures::default();
    let start = Instant::now();
    // libFuzzer ends with the first bound that is reached, so it is run until both are.
    loop {
        let seconds = wanted.seconds.saturating_sub(figures.seconds);
        let runs = wanted.runs.saturating_sub(figures.executions);
        let bound = match (seconds, runs) {
            (0, 0) => return Ok(figures),
            (0, runs) => format!("-runs={runs}"),
            (seconds, _) => format!("-max_total_time={seconds}"),
        };
        let mut command = target_command(program, target, &findings);
        command
            // Without what would weigh inputs by how rare they are: that costs half of the time.
            .args([&bound, "-print_final_stats=1", "-entropic=0"])
            .args([format!("-max_len={LONGEST}"), format!("-timeout={TIMEOUT}"), format!("-rss_limit_mb={MEMORY_MIB}")])
            .arg(format!("-dict={}", folder().join("dictionary").join(target).with_extension("txt").display()))
            .arg(&inputs)
            .arg(folder().join("corpus").join(target));
        let round = round(&mut command, |round| progress(target, start, figures.executions + round.executions))?;
        figures.executions += round.executions;
        figures.seconds = start.elapsed().as_secs();
        figures.coverage = round.coverage;
        figures.features = round.features;
        figures.findings = round.findings;
        if !figures.findings.is_empty() {
            return Ok(figures);
        }
    }
}

/// Where a target's findings are kept.
fn findings(target: &str) -> Outcome<PathBuf> {
    made("findings", target)
}

fn made(what: &str, target: &str) -> Outcome<PathBuf> {
    let dir = run::target().join("fuzz").join(what).join(target);
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    Ok(dir)
}

/// Also one input that is run again is a finding, and kept with the others rather than where the command was given.
fn target_command(program: &Path, target: &str, findings: &Path) -> Command {
    // Both of its outputs as one: what a panic says belongs to the finding.
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2>&1", "sh"]).arg(program);
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    command.env("POSTERN_FUZZ_TARGET", target).env("RUST_BACKTRACE", "1");
    command
}

/// One run of libFuzzer.
fn round(command: &mut Command, mut progress: impl FnMut(&Figures)) -> Outcome<Figures> {
    let mut figures = Figures::default();
    let mut last: Vec<String> = Vec::new();
    let mut shown = Instant::now();
    let status = run::lines(command, |line| {
        figures.note(line);
        if last.len() == SHOWN {
            last.remove(0);
        }
        last.push(line.to_owned());
        if shown.elapsed() > PROGRESS {
            shown = Instant::now();
            progress(&figures);
        }
    })?;
    if status.success() && figures.findings.is_empty() {
        return Ok(figures);
    }
    eprintln!("\n{}", last.join("\n"));
    if figures.findings.is_empty() {
        return Err(format!("the target could not be run: {status}"));
    }
    Ok(figures)
}

fn progress(target: &str, start: Instant, executions: u64) {
    if stderr().is_terminal() {
        eprint!("\r{target}: {} s, {executions} executions ", start.elapsed().as_secs());
        let _ = stderr().flush();
    }
}

impl Figures {
    /// Takes what a line of libFuzzer's says: `#8192 pulse  cov: 1200 ft: 5000 corp: …`, `stat::number_of_executed_units: 9000`,
    /// `artifact_prefix='…'; Test unit written to …`.
    fn note(&mut self, line: &str) {
        if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.findings.push(file.trim().into());
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        } else if let Some((count, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(char::is_whitespace))
        {
            let after = |word| rest.split_whitespace().skip_while(|it| *it != word).nth(1)?.parse().ok();
            self.executions = count.parse().unwrap_or(self.executions);
            self.coverage = after("cov:").unwrap_or(self.coverage);
            self.features = after("ft:").unwrap_or(self.features);
        }
    }

    fn text(&self, target: &str) -> String {
        let Self { executions, seconds, coverage, features, findings } = self;
        let mut text = format!(
            "{}{target}: {executions} executions in {seconds} s, coverage {coverage} ({features} features), {} findings",
            if stderr().is_terminal() { "\r" } else { "" },
            findings.len()
        );
        for file in findings {
            text.push_str(&format!("\n  {}\n  again: {}", file.display(), again(target, file)));
        }
        text
    }

    fn json(&self, target: &str) -> serde_json::Value {
        let findings = self.findings.iter().map(|file| json!({ "file": file, "again": again(target, file) }));
        json!({
            "target": target,
            "executions": self.executions,
            "seconds": self.seconds,
            "coverage": self.coverage,
            "features": self.features,
            "findings": findings.collect::<Vec<_>>(),
        })
    }
}

fn again(target: &str, file: &Path) -> String {
    format!("cargo xtask fuzz {target} --input {}", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let mut figures = Figures::default();
        for line in [
            "INFO: Seed: 3242",
            "#8192\tpulse  cov: 1200 ft: 5000 corp: 400/12Kb lim: 100 exec/s: 4096 rss: 61Mb",
            "#9000\tDONE   cov: 1201 ft: 5001 corp: 401/12Kb lim: 100 exec/s: 4096 rss: 61Mb",
            "stat::number_of_executed_units: 9001",
            "artifact_prefix='/f/'; Test unit written to /f/crash-1",
        ] {
            figures.note(line);
        }
        let findings = vec!["/f/crash-1".into()];
        assert_eq!(figures, Figures { executions: 9001, seconds: 0, coverage: 1201, features: 5001, findings });
        assert!(figures.text("client").ends_with("again: cargo xtask fuzz client --input /f/crash-1"));
    }

    #[test]
    fn an_unknown_target_is_refused_by_name() {
        assert!(
            select(&["nonsense".into()]).is_err_and(|error| error.contains("nonsense") && error.contains("client"))
        );
        assert!(select(&[]).is_ok_and(|targets| targets.len() > 1));
    }
}
