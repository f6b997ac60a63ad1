//! Full disks: small file systems of their own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use agent::recording::{Append, Filter, Log, Options, verify::Evidence};
use agent_tests::{Cmd, Outcome, TempDir, undo::Undo, wait_until};

use crate::fixture::{decided, started};

/// A tmpfs that goes when this is dropped.
struct Small {
    path: PathBuf,
    _undo: Undo,
}

impl Small {
    fn mount(path: &Path, size: &str) -> Outcome<Self> {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
        let undo = Undo::new(format!("umount -l '{}'", path.display())).map_err(|error| error.to_string())?;
        let options = format!("size={size},mode=0700");
        Cmd::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).ok()?;
        Ok(Self { path: path.to_owned(), _undo: undo })
    }

    fn resize(&self, size: &str) -> Outcome {
        let options = format!("remount,size={size}");
        Cmd::new("mount").args(["-o", &options]).arg(&self.path).ok().map(drop)
    }
}

fn append_until_refused(log: &Log, from: u64, most: u64) -> Outcome<(u64, String)> {
    for operation in from..from + most {
        let event = decided("s1", operation, &format!("SELECT {operation} -- {}", "x".repeat(700)), "permit", None);
        if let Err(error) = log.append(&event) {
            return Ok((operation - 1, error.to_string()));
        }
    }
    Err(format!("{most} records were taken, though there is no room for them"))
}

/// The journal's disk is full: nothing is taken, what was taken is whole, and once there is room it goes on by itself.
pub fn full_journal() -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let state = dir.join("state");
    let disk = Small::mount(&state.join("journal"), "256k")?;
    let log = Log::open(Options::new(&state)).map_err(|error| error.to_string())?;
    log.append(&started("s1", "svc-orders", 1001, "/usr/bin/psql", &[])).map_err(|error| error.to_string())?;
    let (taken, refusal) = append_until_refused(&log, 1, 2_000)?;
    if !refusal.contains("No space left on device") {
        return Err(format!("refused with: {refusal}"));
    }
    for _ in 0..100 {
        if log.append(&decided("s1", taken + 1, &"y".repeat(4_000), "permit", None)).is_ok() {
            return Err("a long record was taken, though a shorter one was not".into());
        }
    }
    let verified = log.verify(&mut |_, _| {}).map_err(|error| error.to_string())?;
    if verified.broken.is_some() || verified.verified != taken + 2 {
        return Err(format!("{taken} taken, and {verified:?}"));
    }
    disk.resize("1m")?;
    let (more, _) = append_until_refused(&log, taken + 1, 2_000)?;
    if more <= taken + 100 {
        return Err(format!("{} more were taken after there was room", more - taken));
    }
    disk.resize("2m")?;
    // 1 is the start of the agent, 2 that of the session.
    let expected: Vec<u64> = (2..more + 3).collect();
    if !log.settle() {
        return Err("the records are not moved".into());
    }
    let records = log.records("s1", 0, usize::MAX).map_err(|error| error.to_string())?;
    if records.iter().map(|record| record.sequence).ne(expected) {
        return Err(format!("{} records of {}", records.len(), more + 1));
    }
    log.close().map_err(|error| error.to_string())?;
    drop(log);
    let report = Evidence::of_stopped(&state).and_then(|evidence| evidence.verify(&mut |_, _| {}));
    let report = report.map_err(|error| error.to_string())?;
    if report.broken.is_none() && report.verified == more + 3 { Ok(()) } else { Err(format!("{report:?}")) }
}

/// The store's disk is full: records are taken and stay in the journal, the status says so, and after a start with room
/// everything is found.
pub fn full_store() -> Outcome {
    let dir = TempDir::new().map_err(|error| error.to_string())?;
    let state = dir.join("state");
    let disk = Small::mount(&state.join("store"), "9m")?;
    let options = || Options { segment_bytes: 256 << 10, ..Options::new(&state) };
    let log = Log::open(options()).map_err(|error| error.to_string())?;
    log.append(&started("s1", "svc-orders", 1001, "/usr/bin/psql", &[])).map_err(|error| error.to_string())?;
    let append = |operation| {
        let text = format!("SELECT {operation} -- {}", "x".repeat(4_000));
        log.append(&decided("s1", operation, &text, "permit", None)).map_err(|error| error.to_string())
    };
    let mut operation = 0;
    wait_until("the store is full", Duration::from_secs(60), || {
        for _ in 0..200 {
            operation += 1;
            if append(operation).is_err() {
                return true;
            }
        }
        log.status().problem.is_some()
    })?;
    let problem = log.status().problem.ok_or("the journal refused a record because the store was full")?;
    // The journal has room, so nothing is refused.
    for _ in 0..100 {
        operation += 1;
        append(operation)?;
    }
    if log.close().is_ok() {
        return Err("the log was closed in order, though the store lacks records".into());
    }
    drop(log);

    disk.resize("256m")?;
    let report = Evidence::of_stopped(&state).and_then(|evidence| evidence.verify(&mut |_, _| {}));
    let report = report.map_err(|error| error.to_string())?;
    if report.broken.is_some() {
        return Err(format!("{problem}; {report:?}"));
    }
    let log = Log::open(options()).map_err(|error| error.to_string())?;
    wait_until("the records are moved", Duration::from_secs(60), || log.settle())?;
    let page = log.sessions(&Filter::default()).map_err(|error| error.to_string())?;
    let found = page.sessions.first().map(|session| session.operations);
    if found != Some(operation) {
        return Err(format!("{found:?} operations of {operation}"));
    }
    log.close().map_err(|error| error.to_string())
}
