//! `postern sessions replay`: statements and masked answers as they came, in their own time.

use std::{collections::BTreeMap, thread, time::Duration};

use clap::Args;
use jiff::Timestamp;

use super::{
    psql,
    story::{self, Answer, Decided, Event, Finished},
};
use crate::cli::{
    Failure, Global,
    output::{Colour, Out, clean, clean_lines, micros_between},
};

/// Options.
#[derive(Debug, Args)]
pub struct Options {
    /// The session's id, or the beginning of it.
    id: String,
    /// So many times as fast.
    #[arg(long, value_name = "N", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Without pauses.
    #[arg(long, conflicts_with = "speed")]
    no_wait: bool,
}

/// The answers that are not complete yet, by operation.
type Pending = BTreeMap<u64, (Vec<String>, Vec<Vec<Option<String>>>, bool)>;

/// Asks and plays.
///
/// # Errors
/// The agent is not there or refuses, or there is no such session.
pub fn run(global: &Global, options: &Options, out: &mut Out) -> Result<(), Failure> {
    if global.json {
        return Err(Failure::usage("a replay has no JSON form")
            .with_remedy(format!("`postern sessions show {} --json` prints the records.", options.id)));
    }
    // The agent does not wait for a slow reader forever, so everything is read before the first pause.
    let mut records = Vec::new();
    let take = |record| {
        records.push(story::event(record)?);
        Ok(())
    };
    story::records(global, &options.id, |_| Ok(()), take)?;
    let mut before: Option<Timestamp> = None;
    let (mut prompt, mut pending) = ("=> ".to_owned(), Pending::new());
    for (time, event) in records {
        if !options.no_wait
            && let Some(before) = before
        {
            out.flush()?;
            thread::sleep(Duration::from_micros(micros_between(before, time)).div_f64(options.speed));
        }
        before = Some(time);
        match event {
            Event::SessionStarted(start) => {
                let database = start.details.get("database").unwrap_or(&start.target);
                prompt = format!("{}=> ", clean(database));
            }
            Event::ConnectionRefused(refusal) => error(out, &format!("FATAL:  {}", clean(&refusal.reason)))?,
            Event::Decided(decided) => statement(&prompt, &decided, out)?,
            Event::Answer(part) => keep(&mut pending, part.operation, part.answer),
            Event::Finished(mut finished) => {
                if let Some(answer) = finished.answer.take() {
                    keep(&mut pending, finished.operation, answer);
                }
                answer(&finished, &mut pending, out)?;
            }
            Event::LimitReached(reached) => {
                out.line(out.paint(Colour::Bad, &format!("-- {}", clean(&reached.limit.to_string()))))?;
            }
            Event::SessionEnded(end) => {
                out.line(out.paint(Colour::Dim, &format!("-- ended: {}", clean(&end.reason))))?;
            }
            Event::Other => {}
        }
    }
    Ok(())
}

fn keep(pending: &mut Pending, operation: u64, Answer { columns, rows, truncated }: Answer) {
    let (names, all, cut) = pending.entry(operation).or_default();
    names.extend(columns.into_iter().flatten());
    all.extend(rows);
    *cut |= truncated;
}

fn statement(prompt: &str, decided: &Decided, out: &mut Out) -> Result<(), Failure> {
    for (position, line) in clean_lines(&decided.text).enumerate() {
        let prompt = if position == 0 { prompt.to_owned() } else { " ".repeat(prompt.chars().count()) };
        out.line(format!("{}{line}", out.paint(Colour::Dim, &prompt)))?;
    }
    for (position, parameter) in decided.parameters.iter().enumerate() {
        let value = parameter.as_deref().map_or_else(|| "NULL".into(), |value| format!("'{}'", clean(value)));
        out.line(out.paint(Colour::Dim, &format!("-- ${} = {value}", position + 1)))?;
    }
    let (reason, rule) = (decided.reason.as_deref().unwrap_or_default(), decided.rules.first());
    match (decided.verdict.as_str(), rule) {
        ("permit", _) => Ok(()),
        ("observe", _) => {
            Ok(out.line(out.paint(Colour::Warn, &format!("-- would have been denied: {}", clean(reason))))?)
        }
        (_, Some(rule)) => {
            error(out, &format!("ERROR:  denied by Postern policy \"{}\": {}", clean(rule), clean(reason)))
        }
        (_, None) => error(out, &format!("ERROR:  denied by Postern: {}", clean(reason))),
    }
}

fn answer(finished: &Finished, pending: &mut Pending, out: &mut Out) -> Result<(), Failure> {
    if let Some((columns, rows, truncated)) = pending.remove(&finished.operation) {
        out.raw(psql::table(&columns, &rows))?;
        if truncated {
            out.line(out.paint(Colour::Dim, "-- the rest of the answer was not recorded"))?;
        }
        out.line(format!("({})", finished.size()))?;
    } else if let Some(tag) = &finished.tag {
        out.line(clean(tag))?;
        if finished.copied.is_some() {
            out.line(format!("({})", finished.size()))?;
        }
    }
    if let Some(failure) = &finished.error {
        error(out, &format!("ERROR:  {}: {}", clean(&failure.code), clean(&failure.message)))?;
    }
    Ok(out.line("")?)
}

fn error(out: &mut Out, text: &str) -> Result<(), Failure> {
    Ok(out.line(out.paint(Colour::Bad, text))?)
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.01..=10_000.0).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.01 to 10000".into()),
    }
}
