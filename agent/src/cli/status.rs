//! `postern status`: how the agent, its targets and its log are.

use agent_common::COUNTER_NAMES;

use super::{
    Failure, Global,
    client::Client,
    output::{Colour, Out, bytes, clean, count, local},
};
use crate::{
    control::{Draining, Reply, Request, Status, TargetStatus},
    model::{Fate, Holder, Mode, Older, Silent, Surroundings},
};

/// Asks and prints.
///
/// # Errors
/// The agent is not there, or it is and is not enforcing.
pub fn run(global: &Global, out: &mut Out) -> Result<(), Failure> {
    let status = Client::connect(global)?.one(&Request::Status {}, |reply| match reply {
        Reply::Status(status) => Some(*status),
        _ => None,
    })?;
    match global.json {
        true => out.json(&status)?,
        false => print(&status, out)?,
    }
    out.flush()?;
    match status.enforcing == "enforcing" {
        true => Ok(()),
        false => Err(Failure::wrong(format!("the agent is {}", status.enforcing))),
    }
}

fn print(status: &Status, out: &mut Out) -> Result<(), Failure> {
    let good = status.enforcing == "enforcing";
    let state = out.paint(if good { Colour::Good } else { Colour::Bad }, &clean(&status.enforcing));
    out.line(format!("state     {state}"))?;
    let observed =
        status.targets.iter().filter(|target| target.mode == Mode::Observe).map(|target| target.name.as_str());
    let observed: Vec<&str> = observed.collect();
    if !observed.is_empty() {
        let note = format!("in observe mode, nothing is blocked or masked: {}", clean(&observed.join(", ")));
        out.line(format!("          {}", out.paint(Colour::Warn, &note)))?;
    }
    out.line(format!("agent     {}, pid {}, since {}", status.version, status.pid, local(status.started)))?;
    for Draining { pid, sessions, until } in &status.draining {
        let until = until.map_or_else(String::new, |until| format!(", until {} at the latest", local(until)));
        let sessions = count(*sessions, "session", "sessions");
        out.line(format!("          before it: pid {pid}, which still has {sessions}{until}"))?;
    }
    out.line(format!("policies  {}, epoch {}", status.policies.count, status.policies.epoch))?;
    let log = &status.log;
    let synced = log.synced.map_or_else(|| "never".into(), local);
    out.line(format!(
        "log       {}; {} on disk, {} in the store; last sync {synced}",
        count(log.records, "record", "records"),
        log.durable,
        log.moved
    ))?;
    out.line(format!("          journal {}, store {}", bytes(log.journal_bytes), bytes(log.store_bytes)))?;
    for problem in &log.problems {
        out.line(format!("          {}", out.paint(Colour::Bad, &clean(problem))))?;
    }

    out.line("")?;
    let rows: Vec<Vec<String>> = status
        .targets
        .iter()
        .map(|target| {
            let mode = if target.mode == Mode::Enforce { "enforce" } else { "observe" };
            vec![
                target.name.clone(),
                target.protocol.clone(),
                mode.into(),
                target.addresses.join(", "),
                target.connections.to_string(),
                target.problems.join("; "),
            ]
        })
        .collect();
    out.table(&["TARGET", "PROTOCOL", "MODE", "ADDRESSES", "OPEN", "PROBLEMS"], &rows)?;

    for target in &status.targets {
        trouble(target, out)?;
    }
    namespaces(&status.surroundings, out)?;
    older(status, out)?;

    out.line("")?;
    out.line("connects, since the kernel side was installed")?;
    for (_, name) in COUNTER_NAMES {
        if let Some(count) = status.counters.get(name) {
            out.line(format!("  {:<27} {count}", name.replace('_', " ")))?;
        }
    }
    Ok(())
}

/// The network namespaces beside the host's own.
fn namespaces(surroundings: &Surroundings, out: &mut Out) -> Result<(), Failure> {
    let Surroundings { listening, silent, beyond, .. } = surroundings;
    if *listening == 0 && silent.is_empty() && *beyond == 0 {
        return Ok(());
    }
    out.line("")?;
    out.line(format!(
        "listening in {} beside the host's own",
        count(*listening as u64, "network namespace", "network namespaces")
    ))?;
    for Silent { pid, reason } in silent {
        let line = format!("  refused in that of pid {pid}: no listener: {}", clean(reason));
        out.line(out.paint(Colour::Warn, &line))?;
    }
    if *beyond > 0 {
        let most = agent_common::MAX_NAMESPACES;
        let line = format!("  refused in {beyond} more: Postern listens in {most} namespaces at most");
        out.line(out.paint(Colour::Bad, &line))?;
    }
    Ok(())
}

/// Connections older than interception.
fn older(status: &Status, out: &mut Out) -> Result<(), Failure> {
    let Surroundings { cut, open, older, .. } = &status.surroundings;
    if *cut == 0 && *open == 0 {
        return Ok(());
    }
    out.line("")?;
    out.line(format!("connections older than interception: {cut} cut, {open} go on"))?;
    for Older { target, source, destination, uid, holders, fate, .. } in older {
        let name = status.targets.get(*target as usize).map_or("?", |target| &target.name);
        let holders: Vec<String> = holders
            .iter()
            .map(|Holder { pid, exe }| format!("pid {pid} ({})", exe.as_deref().unwrap_or("?")))
            .collect();
        let why = match fate {
            Fate::NotCut(error) => format!(", cannot be cut: {error}"),
            Fate::Left | Fate::Cut => String::new(),
        };
        let line = format!("  {name}: {source} to {destination}, uid {uid}, {}{why}", holders.join(", "));
        out.line(out.paint(Colour::Bad, &clean(&line)))?;
    }
    if *open > older.len() {
        out.line(format!("  and {} more", open - older.len()))?;
    }
    Ok(())
}

/// The last session that could not begin with a target, and whether one did since.
fn trouble(target: &TargetStatus, out: &mut Out) -> Result<(), Failure> {
    let Some(trouble) = &target.last_trouble else { return Ok(()) };
    let (name, time, reason) = (clean(&target.name), local(trouble.time), clean(&trouble.reason));
    let line = match target.last_session {
        Some(began) if began > trouble.time => {
            let text =
                format!("{name}: a session could not begin at {time}: {reason}; the last began at {}", local(began));
            out.paint(Colour::Dim, &text)
        }
        _ => out.paint(Colour::Bad, &format!("{name}: the last session could not begin, at {time}: {reason}")),
    };
    Ok(out.line(line)?)
}
