//! `cargo xtask …`: what a developer of Postern, and its continuous integration, run.

mod build;
mod fuzz;
mod older;
mod run;
mod servers;
mod setup;
mod sources;
mod suites;
mod test;
mod tidy;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use build::What;
use clap::{Parser, Subcommand};

/// Setting up, building, showing and testing Postern.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs whatever is missing. Every other command does that first.
    Setup,
    /// Builds the kernel side and the agent: target/debug/postern.
    Build {
        /// Optimised: target/release/postern.
        #[arg(long)]
        release: bool,
    },
    /// Shows the whole path on a throwaway PostgreSQL, narrated. Needs root; cleans up.
    Demo {
        /// Leaves everything running until Ctrl-C, and prints what to try.
        #[arg(long)]
        keep: bool,
        /// Leaves the agent stopped, to show that every step is tested: the first fails then.
        #[arg(long, conflicts_with = "keep")]
        without_agent: bool,
    },
    /// Runs suites, and without any named also the checks of formatting, lints and layout. Needs root.
    Test {
        /// Names of suites; all if none is given.
        suites: Vec<String>,
        /// At full size instead of the everyday one; without any suite named also on all older kernels.
        #[arg(long)]
        all: bool,
        /// On this kernel instead of the running one, in software emulation. Can be repeated.
        #[arg(long = "kernel", value_enum, value_name = "RELEASE")]
        kernels: Vec<older::Release>,
    },
    /// Measures against direct connections and against haproxy. Needs root.
    Bench {
        /// Words that the names of wanted figures hold; all if none is given.
        names: Vec<String>,
        /// One JSON object a line for each figure.
        #[arg(long)]
        json: bool,
    },
    /// Looks for bytes that break a law: each target until both bounds are reached.
    Fuzz {
        /// Names of targets; all if none is given.
        targets: Vec<String>,
        /// Runs each for at least so long.
        #[arg(long, default_value_t = fuzz::SECONDS)]
        seconds: u64,
        /// Tries at least so many inputs of each.
        #[arg(long, default_value_t = fuzz::RUNS)]
        runs: u64,
        /// One JSON object a line for each target.
        #[arg(long)]
        json: bool,
        /// Runs this one input instead, as a finding names it.
        #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "runs", "json"])]
        input: Option<PathBuf>,
    },
    /// Checks the layout of the sources: imports, dependencies, sizes, unsafe, suites.
    Tidy,
}

fn main() -> ExitCode {
    let task = Arguments::parse().command;
    match run::prepare().and_then(|()| dispatch(task)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> run::Outcome<ExitCode> {
    setup::setup()?;
    match task {
        Task::Setup => Ok(ExitCode::SUCCESS),
        Task::Build { release } => {
            build::kernel_side()?;
            build::agent(release)?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Demo { keep, without_agent } => {
            build::kernel_side()?;
            let built = build::workspace(What::Programs)?;
            let mut demo = Command::new(built.program("demo")?);
            demo.args(keep.then_some("--keep")).args(without_agent.then_some("--without-agent"));
            run::program(&mut demo)
        }
        Task::Test { suites, all, kernels } => test::test(&suites, all, &kernels),
        Task::Bench { names, json } => {
            build::kernel_side()?;
            build::agent(true)?;
            let built = build::workspace(What::Programs)?;
            let mut bench = Command::new(built.program("bench")?);
            bench.args(names).args(json.then_some("--json"));
            run::program(bench.env("POSTERN_BIN", run::target().join("release/postern")))
        }
        Task::Fuzz { targets, input: Some(input), .. } => match targets.as_slice() {
            [target] => fuzz::replay(target, &input),
            _ => Err("--input needs exactly one target".into()),
        },
        Task::Fuzz { targets, seconds, runs, json, input: None } => {
            fuzz::fuzz(&fuzz::Wanted { targets: &targets, seconds, runs, json })
        }
        Task::Tidy => {
            let found = tidy::tidy()?;
            Ok(if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
