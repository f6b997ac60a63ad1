//! `postern sessions show`: who a session was, and every statement with its verdict.

use std::collections::BTreeMap;

use clap::Args;

use super::story::{self, Decided, Event, Finished, Flow, Process, Reached, Refusal, Start};
use crate::{
    cli::{
        Failure, Global,
        output::{Colour, Out, bytes, clean, clean_lines, count, duration, local, micros_between},
    },
    model::Limit,
    recording::{State, Summary},
};

/// Options.
#[derive(Debug, Args)]
pub struct Options {
    /// The session's id, or the beginning of it.
    id: String,
}

/// A statement.
#[derive(Default)]
struct Operation {
    decided: Option<Decided>,
    finished: Option<Finished>,
    limit: Option<Limit>,
}

/// Asks and prints.
///
/// # Errors
/// The agent is not there or refuses, or there is no such session.
pub fn run(global: &Global, options: &Options, out: &mut Out) -> Result<(), Failure> {
    match global.json {
        true => json(global, &options.id, out),
        false => print(global, &options.id, out),
    }
}

/// One document, written as the records come.
fn json(global: &Global, id: &str, out: &mut Out) -> Result<(), Failure> {
    let out = std::cell::RefCell::new(out);
    let mut first = true;
    let head = |summary: &Summary| {
        let summary = serde_json::to_string(summary)?;
        Ok(out.borrow_mut().raw(format!("{{\"session\":{summary},\n\"records\":["))?)
    };
    let take = |record| {
        let record = serde_json::to_string(&record)?;
        out.borrow_mut().raw(format!("{}\n{record}", if std::mem::take(&mut first) { "" } else { "," }))?;
        Ok(())
    };
    story::records(global, id, head, take)?;
    Ok(out.borrow_mut().raw("\n]}\n")?)
}

fn print(global: &Global, id: &str, out: &mut Out) -> Result<(), Failure> {
    let mut summary = None;
    let mut operations: BTreeMap<u64, Operation> = BTreeMap::new();
    let (mut start, mut refusal, mut beyond) = (None, None, None);
    let head = |found: &Summary| {
        summary = Some(found.clone());
        Ok(())
    };
    let take = |record| {
        match story::event(record)?.1 {
            Event::SessionStarted(found) => start = Some(found),
            Event::ConnectionRefused(found) => refusal = Some(found),
            Event::Decided(decided) => {
                let operation = operations.entry(decided.operation).or_default();
                operation.decided = Some(decided);
            }
            Event::Finished(finished) => {
                let operation = operations.entry(finished.operation).or_default();
                operation.finished = Some(finished);
            }
            Event::LimitReached(Reached { operation: Some(operation), limit }) => {
                operations.entry(operation).or_default().limit = Some(limit);
            }
            Event::LimitReached(Reached { operation: None, limit }) => beyond = Some(limit),
            Event::Answer(_) | Event::SessionEnded(_) | Event::Other => {}
        }
        Ok(())
    };
    story::records(global, id, head, take)?;
    let summary = summary.ok_or_else(|| Failure::wrong("the agent answered something else than it was asked"))?;
    title(&summary, out)?;
    if let Some(start) = &start {
        header(start, out)?;
    }
    if let Some(refusal) = &refusal {
        refused(refusal, out)?;
    }
    if let Some(limit) = &beyond {
        field(out, "limit", &limit.to_string())?;
    }
    end(&summary, out)?;
    for (number, operation) in &operations {
        statement(*number, operation, out)?;
    }
    Ok(())
}

fn title(summary: &Summary, out: &mut Out) -> Result<(), Failure> {
    let state = match summary.state {
        State::Open => out.paint(Colour::Good, "open"),
        State::Ended => "ended".into(),
        State::Refused => out.paint(Colour::Bad, "refused"),
        State::Lost => out.paint(Colour::Warn, "lost: the agent ended before it did"),
    };
    Ok(out.line(format!("session    {}, {state}", clean(&summary.session)))?)
}

fn header(start: &Start, out: &mut Out) -> Result<(), Failure> {
    let Start { principal, target, protocol, mode, .. } = start;
    process(&principal.process, &principal.roles, out)?;
    let destination = &principal.flow.destination;
    field(out, "target", &format!("{target} ({protocol}, {mode}) at {destination}"))?;
    for (name, value) in &start.details {
        field(out, name, value)?;
    }
    let tls = |tls: &Option<String>| tls.clone().unwrap_or_else(|| "none".into());
    field(out, "tls", &format!("client {}, target {}", tls(&start.client_tls), tls(&start.server_tls)))?;
    field(out, "login", &format!("{} (the client asked for {})", start.upstream_user, start.client_user))?;
    let rules = if start.rules.is_empty() { "no policy".into() } else { start.rules.join(", ") };
    field(out, "admitted", &format!("by {rules}"))
}

fn refused(refusal: &Refusal, out: &mut Out) -> Result<(), Failure> {
    if let Some(principal) = &refusal.principal {
        process(&principal.process, &principal.roles, out)?;
    } else if let Some(noted) = &refusal.flow {
        let Flow { tgid, uid, destination } = noted;
        field(out, "noted", &format!("pid {tgid} of uid {uid} connected to {destination}"))?;
    }
    field(out, "target", refusal.target.as_deref().unwrap_or("unknown"))?;
    match &refusal.rule {
        Some(rule) => field(out, "refused", &format!("by {rule}")),
        None => Ok(()),
    }
}

fn process(process: &Process, roles: &[String], out: &mut Out) -> Result<(), Failure> {
    let user = process.user.as_deref().unwrap_or("-");
    field(out, "user", &format!("{user} (uid {})", process.uid))?;
    let verified = if process.exe.verified { "" } else { ", not the host's file at that path" };
    let hash = process.exe.sha256.as_deref().map(|hash| format!(", sha256 {hash}")).unwrap_or_default();
    field(out, "exe", &format!("{} (pid {}{verified}{hash})", process.exe.path, process.pid))?;
    field(out, "argv", &process.argv.join(" "))?;
    match (&process.unit, &process.user_unit) {
        (Some(unit), _) => field(out, "unit", unit)?,
        (None, Some(unit)) => field(out, "user unit", unit)?,
        (None, None) => field(out, "cgroup", &process.cgroup)?,
    }
    if let Some(container) = &process.container {
        field(out, "container", container)?;
    }
    field(out, "roles", &if roles.is_empty() { "none".into() } else { roles.join(", ") })
}

fn end(summary: &Summary, out: &mut Out) -> Result<(), Failure> {
    field(out, "began", &local(summary.started))?;
    if summary.state == State::Ended
        && let Some(ended) = summary.ended
    {
        field(out, "lasted", &duration(micros_between(summary.started, ended)))?;
        let (received, sent) = (bytes(summary.bytes_in), bytes(summary.bytes_out));
        field(out, "bytes", &format!("{received} from the client, {sent} to it"))?;
    }
    if let Some(reason) = &summary.reason {
        field(out, "reason", reason)?;
    }
    if summary.state != State::Refused {
        let operations = count(summary.operations, "operation", "operations");
        field(out, "decided", &format!("{operations}, {} denied", summary.denied))?;
    }
    Ok(())
}

fn statement(number: u64, operation: &Operation, out: &mut Out) -> Result<(), Failure> {
    let Some(decided) = &operation.decided else { return Ok(()) };
    let verdict = match decided.verdict.as_str() {
        "permit" => out.paint(Colour::Good, "permit"),
        "observe" => out.paint(Colour::Warn, "would be denied"),
        verdict => out.paint(Colour::Bad, &clean(verdict)),
    };
    let rules = if decided.rules.is_empty() { "no policy".into() } else { decided.rules.join(", ") };
    let mut facts = format!("by {}", clean(&rules));
    if let Some(finished) = &operation.finished {
        facts.push_str(&format!("; {}, {}", finished.size(), duration(finished.micros)));
    }
    out.line("")?;
    out.line(format!("{number:>4}  {verdict} {facts}"))?;
    for line in clean_lines(&decided.text) {
        out.line(format!("      {line}"))?;
    }
    for (position, parameter) in decided.parameters.iter().enumerate() {
        let value = parameter.as_deref().map_or_else(|| "NULL".into(), |value| format!("'{}'", clean(value)));
        out.line(out.paint(Colour::Dim, &format!("      ${} = {value}", position + 1)))?;
    }
    if let Some(reason) = &decided.reason {
        out.line(format!("      reason: {}", clean(reason)))?;
    }
    if let Some(limit) = &operation.limit {
        out.line(out.paint(Colour::Bad, &format!("      {}", clean(&limit.to_string()))))?;
    }
    if let Some(error) = operation.finished.as_ref().and_then(|finished| finished.error.as_ref()) {
        let error = out.paint(Colour::Bad, &format!("error {}: {}", clean(&error.code), clean(&error.message)));
        out.line(format!("      {error}"))?;
    }
    Ok(())
}

fn field(out: &mut Out, name: &str, value: &str) -> Result<(), Failure> {
    Ok(out.line(format!("{:<10} {}", clean(name), clean(value)))?)
}
