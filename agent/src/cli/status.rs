//! `postern status`: how the agent, its targets and its log are.

use agent_common::COUNTER_NAMES;

use super::{
    Failure, Global,
    client::Client,
    output::{Colour, Out, bytes, clean, local},
};
use crate::{
    control::{Reply, Request, Status},
    model::Mode,
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
    out.line(format!("agent     {}, pid {}, since {}", status.version, status.pid, local(status.started)))?;
    out.line(format!("policies  {}, epoch {}", status.policies.count, status.policies.epoch))?;
    let log = &status.log;
    let synced = log.synced.map_or_else(|| "never".into(), local);
    out.line(format!(
        "log       {} records; {} on disk, {} in the store; last sync {synced}",
        log.records, log.durable, log.moved
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

    out.line("")?;
    out.line("connects, since the kernel side was installed")?;
    for (_, name) in COUNTER_NAMES {
        if let Some(count) = status.counters.get(name) {
            out.line(format!("  {:<27} {count}", name.replace('_', " ")))?;
        }
    }
    Ok(())
}
