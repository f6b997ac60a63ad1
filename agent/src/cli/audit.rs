//! `postern audit`: whether the log is what was written, and what it says of the agent itself.

use std::{
    io,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Failure, Global,
    client::Client,
    failure::Code,
    output::{Colour, Out, clean, count, local},
    sessions,
};
use crate::{
    control::{Reply, Request},
    recording::{
        Record,
        verify::{Evidence, Report, VerifyError},
    },
};

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prove the chain from the first record on, or name the first record that is removed, changed, reordered or forged.
    #[command(after_help = "Examples:\n  \
                            postern audit verify                              ask the running agent\n  \
                            postern audit verify --state-dir /var/lib/postern examine the log of a stopped agent\n\n\
                            Exit code 0: the chain is intact; 1: it is broken. It cannot tell whether somebody rewrote \
                            everything from some record to the end, as root can.")]
    Verify {
        /// Examine the log in this directory, which no agent may have open, without asking an agent.
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// List what the log says of the agent and the host: starts and stops, what was in force in the kernel, losses, alarms,
    /// set clocks.
    #[command(after_help = "Examples:\n  \
                            postern audit events --since 1d\n  \
                            postern audit events --json | jq '.[] | select(.event.event == \"unexplained\")'")]
    Events {
        /// Only those since: 2h, 3d, 2026-01-31, 2026-01-31T10:00, 2026-01-31T10:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = sessions::since)]
        since: Option<Timestamp>,
        /// The newest so many.
        #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
}

/// Does it.
///
/// # Errors
/// The chain is broken, or cannot be examined; or the agent is not there.
pub fn run(global: &Global, command: &Command, out: &mut Out) -> Result<(), Failure> {
    match command {
        Command::Verify { state_dir } => verify(global, state_dir.as_deref(), out),
        Command::Events { since, limit } => events(global, *since, (*limit).into(), out),
    }
}

fn events(global: &Global, since: Option<Timestamp>, limit: usize, out: &mut Out) -> Result<(), Failure> {
    let mut records = Vec::new();
    Client::connect(global)?.ask(&Request::Events { since, limit }, |reply| {
        if let Reply::Record(record) = reply {
            records.push(record);
        }
        Ok(())
    })?;
    if global.json {
        return Ok(out.json(&records)?);
    }
    for Record { time, event, .. } in &records {
        let name = event.get("event").and_then(Value::as_str).unwrap_or("?");
        let facts = event.as_object().into_iter().flatten().filter(|(key, _)| *key != "event");
        let facts: Vec<String> = facts.map(|(key, value)| format!("{key}={value}")).collect();
        let colour = if ALARMS.contains(&name) { Colour::Bad } else { Colour::Good };
        let name = out.paint(colour, &clean(name));
        out.line(format!("{}  {name}  {}", local(*time), clean(&facts.join(" "))))?;
    }
    Ok(())
}

/// Events that somebody should look into.
const ALARMS: &[&str] = &[
    "unexplained",
    "programs-missing",
    "kernel-side-removed",
    "kernel-losses",
    "lost-at-restart",
    "proxy-overstepped",
    "clock-step",
    "name-failed",
    "log-repaired",
];

fn verify(global: &Global, state_dir: Option<&Path>, out: &mut Out) -> Result<(), Failure> {
    // Drawn on standard error, and only if that is a terminal.
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("verifying {wide_bar} {human_pos} of {human_len} records") {
        bar.set_style(style);
    }
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let report = match state_dir {
        Some(dir) => Evidence::of_stopped(dir).and_then(|evidence| evidence.verify(&mut progress)).map_err(unexamined),
        None => ask(global, &mut progress),
    };
    bar.finish_and_clear();
    let report = report?;
    match global.json {
        true => out.json(&report)?,
        false => print(&report, out)?,
    }
    out.flush()?;
    match report.broken {
        None => Ok(()),
        Some(_) => Err(Failure::wrong("the log is not what was written")),
    }
}

fn ask(global: &Global, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, Failure> {
    let mut client = Client::connect(global).map_err(|failure| match failure {
        Failure::Told { code: Code::Absent, message, .. } => {
            let dir = global.places().map_or_else(|_| "DIR".into(), |places| places.state_dir.display().to_string());
            Failure::absent(message).with_remedy(format!(
                "Start the agent, or examine the log without it: `postern audit verify --state-dir {dir}`."
            ))
        }
        other => other,
    })?;
    let mut verified = None;
    client.ask(&Request::Verify {}, |reply| {
        match reply {
            Reply::Progress(done, total) => progress(done, total),
            Reply::Verified(report) => verified = Some(report),
            _ => {}
        }
        Ok(())
    })?;
    verified.ok_or_else(|| Failure::wrong("the agent answered something else than it was asked"))
}

fn print(report: &Report, out: &mut Out) -> Result<(), Failure> {
    let records = count(report.verified, "record", "records");
    match &report.broken {
        None => {
            let intact = out.paint(Colour::Good, "chain intact");
            out.line(format!("{records} verified, {intact} up to record {}", report.verified))?;
        }
        Some(broken) => {
            let session = broken.session.as_deref().map(|id| format!("session {}, ", clean(id)));
            let time = broken.time.map_or_else(|| "time unknown".into(), |time| format!("time {}", local(time)));
            let what = out.paint(Colour::Bad, &format!("{:?}", broken.what).to_lowercase());
            let offset = broken.offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
            out.line(format!(
                "record {} ({}{time}): {what}: {} in {}{offset}",
                broken.sequence,
                session.unwrap_or_default(),
                clean(&broken.detail),
                broken.file.display(),
            ))?;
            out.line(format!("{records} before it verified"))?;
        }
    }
    for note in &report.notes {
        out.line(format!("note: {}", clean(note)))?;
    }
    Ok(())
}

fn unexamined(error: VerifyError) -> Failure {
    match error {
        VerifyError::Nothing(_) => {
            Failure::usage(error.to_string()).with_remedy("Name the state_dir of [agent] in the configuration.")
        }
        VerifyError::Io { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Failure::wrong(error.to_string())
                .with_remedy("Run it as root, or ask the agent as who may: without --state-dir.")
        }
        _ => Failure::wrong(error.to_string()),
    }
}
