//! SIGKILL at random moments: whatever was acknowledged is there, and the chain is whole.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use agent::recording::{Append, Log, Options, session_id, verify::Evidence};
use agent_tests::{Outcome, TempDir, full};

use crate::fixture::{decided, started};

/// Argument with which this program appends to a log until it is killed.
pub const VICTIM: &str = "--append";

/// Small, so that segments begin and are dropped all the time.
const SEGMENT_BYTES: u64 = 64 << 10;
const THREADS: u64 = 3;

/// Appends without end, and says on standard output what was acknowledged: session, operation, sequence.
pub fn victim(dir: &Path) -> ExitCode {
    let log = match Log::open(Options { segment_bytes: SEGMENT_BYTES, ..Options::new(dir) }) {
        Ok(log) => Arc::new(log),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|number| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                let session = session_id();
                if log.append(&started(&session, "svc-orders", 1001, "/usr/bin/psql", &[])).is_err() {
                    return;
                }
                for operation in 1.. {
                    let text = format!("SELECT {operation} -- {}", "x".repeat((operation % 97) as usize * 40));
                    let event = decided(&session, operation, &text, "permit", None);
                    let appended = if number == 0 { log.append_durable(&event) } else { log.append(&event) };
                    let Ok(sequence) = appended else { return };
                    let line = format!("{session} {operation} {sequence}\n");
                    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
    ExitCode::FAILURE
}

/// Kills, looks at what is left, opens it again, and so on over the same log.
pub fn nothing_is_lost() -> Outcome {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let dir = TempDir::new().map_err(|error| said(&error))?;
    let state = dir.join("state");
    std::fs::create_dir(&state).map_err(|error| said(&error))?;
    let program = std::env::current_exe().map_err(|error| said(&error))?;
    let mut acknowledged: HashMap<String, Vec<(u64, u64)>> = HashMap::new();
    let mut random = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |now| now.subsec_nanos()) | 1;
    let rounds = if full() { 100 } else { 12 };
    let mut total = 0;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let mut child = Command::new(&program)
            .args([VICTIM.as_ref(), state.as_os_str()])
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| said(&error))?;
        let pid = child.id();
        let stdout = child.stdout.take().ok_or("no output")?;
        // Reading ends when the child does. What it was about to say when it was killed may be half a line.
        let reader =
            thread::spawn(move || BufReader::new(stdout).split(b'\n').map_while(Result::ok).collect::<Vec<Vec<u8>>>());
        thread::sleep(Duration::from_millis(u64::from(random % 400)));
        child.kill().map_err(|error| said(&error))?;
        child.wait().map_err(|error| said(&error))?;
        for line in reader.join().map_err(|_| "the reader panicked")? {
            let line = String::from_utf8_lossy(&line).into_owned();
            let fields: Vec<&str> = line.split(' ').collect();
            let [session, operation, sequence] = fields[..] else { continue };
            let (Ok(operation), Ok(sequence)) = (operation.parse(), sequence.parse()) else { continue };
            acknowledged.entry(session.to_owned()).or_default().push((operation, sequence));
            total += 1;
        }

        let report = Evidence::of_stopped(&state)
            .and_then(|evidence| evidence.verify(&mut |_, _| {}))
            .or_else(|error| if total == 0 { Ok(empty()) } else { Err(error.to_string()) })?;
        if let Some(broken) = report.broken {
            return Err(format!("round {round}, pid {pid}: {broken:?}"));
        }
        // Every other time the next victim itself recovers what this one left.
        if round % 2 == 1 {
            let log =
                Log::open(Options { segment_bytes: SEGMENT_BYTES, ..Options::new(&state) }).map_err(|e| said(&e))?;
            compare(&log, &acknowledged).map_err(|what| format!("round {round}: {what}"))?;
            log.close().map_err(|error| said(&error))?;
        }
    }
    println!("    {rounds} kills, {total} records acknowledged, all of them found");
    if total > rounds * 10 { Ok(()) } else { Err(format!("only {total} records were appended in {rounds} rounds")) }
}

/// Every record that was acknowledged is there, with its sequence and its text.
fn compare(log: &Log, acknowledged: &HashMap<String, Vec<(u64, u64)>>) -> Outcome {
    if !log.settle() {
        return Err("the records are not moved".into());
    }
    for (session, expected) in acknowledged {
        let records = log.records(session, 0, usize::MAX).map_err(|error| error.to_string())?;
        let found: HashMap<u64, (u64, &str)> = records
            .iter()
            .filter_map(|record| {
                Some((record.sequence, (record.event["operation"].as_u64()?, record.event["text"].as_str()?)))
            })
            .collect();
        for (operation, sequence) in expected {
            match found.get(sequence) {
                Some((number, text)) if number == operation && text.starts_with(&format!("SELECT {operation} ")) => {}
                other => return Err(format!("record {sequence}, operation {operation} of {session}: {other:?}")),
            }
        }
    }
    Ok(())
}

/// Of a log that was killed before there was any.
fn empty() -> agent::recording::verify::Report {
    agent::recording::verify::Report { verified: 0, head: String::new(), broken: None, notes: Vec::new() }
}
