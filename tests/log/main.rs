//! The log, with real crashes and full disks, and the command line that reads it, with a real control socket.

use std::{path::Path, process::ExitCode};

use agent_tests::suite;

mod cli;
mod crash;
mod disk;
mod fixture;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(crash::VICTIM) {
        return match args.next() {
            Some(dir) => crash::victim(Path::new(&dir)),
            None => ExitCode::FAILURE,
        };
    }
    agent_tests::suite::root_main("log", || {
        let running = fixture::Running::start()?;
        Ok(suite("log")
            .case("SIGKILL at any moment loses no record that was acknowledged", crash::nothing_is_lost)
            .case("a full journal refuses, and goes on once there is room", disk::full_journal)
            .case("a full store leaves the records in the journal", disk::full_store)
            .case("status, as text", || cli::text(&running, "status", &["status"], 1))
            .case("status, as JSON", || cli::json(&running, "status", &["status"], 1))
            .case("sessions list, as text", || cli::text(&running, "list", &["sessions", "list"], 0))
            .case("sessions list, on a narrow terminal", || cli::narrow(&running))
            .case("sessions list, as JSON", || cli::json(&running, "list", &["sessions", "list"], 0))
            .case("sessions list, filtered and in pages", || cli::filters(&running))
            .case("sessions show, as text", || cli::text(&running, "show", &["sessions", "show", "s1"], 0))
            .case("sessions show, as JSON", || cli::json(&running, "show", &["sessions", "show", "s1"], 0))
            .case("sessions show, of a refused connection", || cli::refused(&running))
            .case("sessions replay", || cli::text(&running, "replay", &["sessions", "replay", "s1", "--no-wait"], 0))
            .case("sessions replay keeps the time", || cli::replay_takes_its_time(&running))
            .case("recorded text cannot reach the terminal", || cli::hostile_text(&running))
            .case("an id that is ambiguous, or not there", || cli::ids(&running))
            .case("a reader that goes away is no failure", || cli::broken_pipe(&running))
            .case("exit codes and remedies", || cli::exit_codes(&running))
            .case("audit verify names the record that was edited on disk", cli::audit)
            .run())
    })
}
