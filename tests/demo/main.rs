//! `cargo xtask demo`: the whole path on a throwaway PostgreSQL, narrated. Every step shows the real command and its real
//! output, and fails if that is not what it should be.

mod narrator;
mod steps;
mod world;

use std::{process::ExitCode, time::Duration};

use agent_tests::{Outcome, turn::Turn, undo};
use narrator::Narrator;
use world::World;

/// How long `--keep` keeps everything at most.
const KEPT: Duration = Duration::from_secs(24 * 3600);

fn main() -> ExitCode {
    let options: Vec<String> = std::env::args().skip(1).collect();
    let (keep, without_agent) = match options.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => (false, false),
        ["--keep"] => (true, false),
        ["--without-agent"] => (false, true),
        _ => {
            eprintln!("usage: demo [--keep | --without-agent]");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("demo: this needs root: it loads kernel programs and makes two system users");
        return ExitCode::FAILURE;
    }
    let mut narrator = Narrator::new();
    let outcome = Turn::take().and_then(|_turn| {
        undo::on_signals()?;
        demo(&mut narrator, keep, without_agent)
    });
    match outcome {
        Ok(()) => {
            narrator.end();
            ExitCode::SUCCESS
        }
        Err(reason) => {
            narrator.failed(&reason);
            ExitCode::FAILURE
        }
    }
}

fn demo(narrator: &mut Narrator, keep: bool, without_agent: bool) -> Outcome {
    let mut world = World::new(narrator, !without_agent)?;
    for step in steps::ALL {
        step(narrator, &mut world)?;
    }
    if keep {
        undo::deadline(KEPT);
        world.agent.start()?;
        world.invite();
        loop {
            std::thread::park();
        }
    }
    let traces = world.traces();
    drop(world);
    narrator.scene("Nothing is left of it", "");
    for (what, is_gone) in traces {
        narrator.check(&what, is_gone())?;
    }
    Ok(())
}
