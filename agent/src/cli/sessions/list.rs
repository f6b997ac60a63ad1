//! `postern sessions list`.

use clap::{Args, ValueEnum};
use jiff::{Span, Timestamp, Zoned, civil, tz::TimeZone};

use crate::{
    cli::{
        Failure, Global,
        client::Client,
        output::{Colour, Out, duration, local, local_short, micros_between},
    },
    control::{Reply, Request},
    recording::{Filter, Page, State, Summary, Verdicts},
};

/// Columns where there is room for them.
const HEADER: &[&str] = &["ID", "BEGAN", "LASTED", "STATE", "USER", "EXE", "ROLES", "TARGET", "OPERATIONS", "DENIED"];
/// Columns of a narrow terminal.
const NARROW_HEADER: &[&str] = &["ID", "BEGAN", "STATE", "USER", "EXE", "TARGET", "DENIED"];

/// Options.
#[derive(Debug, Args)]
pub struct Options {
    /// Only sessions of this user (name or uid).
    #[arg(long)]
    user: Option<String>,
    /// Only sessions of processes with this role.
    #[arg(long)]
    role: Option<String>,
    /// Only sessions with this target.
    #[arg(long)]
    target: Option<String>,
    /// Only sessions in which this was decided.
    #[arg(long, value_enum)]
    verdict: Option<Verdict>,
    /// Only sessions begun since: 2h, 3d, 2026-01-31, 2026-01-31T10:00, 2026-01-31T10:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// Only sessions before this one: the next page.
    #[arg(long, value_name = "ID")]
    before: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value = "50", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

/// What was decided in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Verdict {
    /// Nothing was denied.
    Permit,
    /// Something was denied, or would have been in observe mode.
    Deny,
    /// The connection itself was refused.
    Refused,
}

/// Asks and prints.
///
/// # Errors
/// The agent is not there or refuses.
pub fn run(global: &Global, options: &Options, out: &mut Out) -> Result<(), Failure> {
    let filter = Filter {
        user: options.user.clone(),
        role: options.role.clone(),
        target: options.target.clone(),
        verdict: options.verdict.map(|verdict| match verdict {
            Verdict::Permit => Verdicts::Permit,
            Verdict::Deny => Verdicts::Deny,
            Verdict::Refused => Verdicts::Refused,
        }),
        since: options.since,
        before: options.before.clone(),
        limit: Some(options.limit.into()),
    };
    let page = Client::connect(global)?.one(&Request::Sessions { filter }, |reply| match reply {
        Reply::Sessions(page) => Some(page),
        _ => None,
    })?;
    match global.json {
        true => Ok(out.json(&page)?),
        false => print(&page, out),
    }
}

fn print(page: &Page, out: &mut Out) -> Result<(), Failure> {
    if page.sessions.is_empty() {
        return Ok(out.line("no sessions")?);
    }
    let rows: Vec<Vec<String>> = page.sessions.iter().map(row).collect();
    match out.fits(HEADER, &rows) {
        true => out.table(HEADER, &rows)?,
        false => out.table(NARROW_HEADER, &page.sessions.iter().map(narrow_row).collect::<Vec<_>>())?,
    }
    if let Some(next) = &page.next {
        out.line(out.paint(Colour::Dim, &format!("more: --before {next}")))?;
    }
    Ok(())
}

fn row(session: &Summary) -> Vec<String> {
    vec![
        session.session.clone(),
        local(session.started),
        session.ended.map_or_else(nothing, |ended| duration(micros_between(session.started, ended))),
        state(session).into(),
        user(session),
        session.exe.clone().unwrap_or_else(nothing),
        if session.roles.is_empty() { nothing() } else { session.roles.join(" ") },
        session.target.clone().unwrap_or_else(nothing),
        session.operations.to_string(),
        session.denied.to_string(),
    ]
}

/// For a narrow terminal: `sessions show` tells the rest. A program is shown by the name of its file.
fn narrow_row(session: &Summary) -> Vec<String> {
    let exe = session.exe.as_deref().map(|exe| exe.rsplit('/').next().unwrap_or(exe).to_owned());
    vec![
        session.session.clone(),
        local_short(session.started),
        state(session).into(),
        user(session),
        exe.unwrap_or_else(nothing),
        session.target.clone().unwrap_or_else(nothing),
        format!("{} of {}", session.denied, session.operations.max(session.denied)),
    ]
}

fn nothing() -> String {
    "-".into()
}

fn state(session: &Summary) -> &'static str {
    match session.state {
        State::Open => "open",
        State::Ended => "ended",
        State::Refused => "refused",
        State::Lost => "lost",
    }
}

fn user(session: &Summary) -> String {
    match (&session.user, session.uid) {
        (Some(user), _) => user.clone(),
        (None, Some(uid)) => uid.to_string(),
        (None, None) => nothing(),
    }
}

/// A time, or how long ago.
pub fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local = |time: civil::DateTime| time.to_zoned(TimeZone::system()).map(|time| time.timestamp());
    if let Ok(time) = text.parse::<civil::DateTime>() {
        return local(time).map_err(|error| error.to_string());
    }
    if let Ok(span) = text.parse::<Span>() {
        let before = Zoned::now().checked_sub(span.abs()).map_err(|error| error.to_string())?;
        return Ok(before.timestamp());
    }
    Err("neither a time (2026-01-31, 2026-01-31T10:00:00Z) nor how long ago (30m, 2h, 3d)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_how_long_ago() {
        assert_eq!(since("2026-01-31T10:00:00Z").unwrap().to_string(), "2026-01-31T10:00:00Z");
        for good in ["2026-01-31", "2026-01-31T10:00", "30m", "2h", "3d", "1w"] {
            assert!(since(good).unwrap() < Timestamp::now(), "{good}");
        }
        for bad in ["", "yesterday", "2026-13-01", "h"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
