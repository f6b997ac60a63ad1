//! Facts about processes, and waiting.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::Outcome;

/// How long [`wait_until`] sleeps between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Resident memory of a process in KiB; `None` if it has gone.
#[must_use]
pub fn rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Number of open descriptors of a process; `None` if it has gone.
#[must_use]
pub fn fds(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// Pids of a process's children; empty if it has gone.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Whether a process has ended: with all its threads, so that nothing it had open is open any more. Nobody may have waited for
/// it yet.
#[must_use]
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // Behind the name: the state is the 3rd field of all, the number of threads the 20th.
    let fields: Vec<&str> =
        stat.rsplit_once(") ").map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    matches!(fields[..], ["Z" | "X", ..]) && matches!(fields.get(17), Some(&("0" | "1")))
}

/// Start of a process in clock ticks since boot, which tells it from a later one with the same pid; `None` if it has gone.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the 22nd field of all is the 20th after it.
    stat.rsplit_once(") ")?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Processor time that all threads of a process have used, in its and the kernel's code; `None` if it has gone.
///
/// The kernel counts it in hundredths of a second, whatever its own clock does.
#[must_use]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 14th and 15th field of all.
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(Duration::from_millis(10 * (fields.next()?.ok()? + fields.next()?.ok()?)))
}

/// Waits until `done` says so.
///
/// # Errors
/// It did not within `limit`; `what` is for the message.
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Outcome {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return Err(format!("waited {limit:?} in vain until {what}"));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
