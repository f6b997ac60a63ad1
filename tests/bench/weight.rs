//! What many policies and a long log weigh: the latency of one client's statements with them, and without.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use agent::{
    masking::without_values,
    model::{Action, Request, Resource},
    recording::{Append, Decision, Event, Log, Options},
};
use agent_tests::Outcome;

use crate::{
    ROUNDS,
    figures::{Figure, median},
    load::Load,
    world::{Way, World},
};

/// Name of the figures.
pub const NAME: &str = "weight";

/// Policies that concern somebody else, beside the one that permits.
const POLICIES: usize = 200;
/// Records of the long log.
const RECORDS: u64 = 10_000_000;
/// Records of one session of it.
const PER_SESSION: u64 = 1_000;

/// Measures one client's simple and prepared statements, each with few and with many.
///
/// # Errors
/// A load failed, or a policy or the log could not be written.
pub fn measure(world: &mut World) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    let few: Vec<f64> = loads().map(|load| latency(world, load)).collect::<Outcome<_>>()?;
    world.policies(&somebody_elses(POLICIES))?;
    for (load, few) in loads().zip(&few) {
        let name = format!("{NAME}/policies/{}", load.name());
        figures.push(Figure::new(&name, "us", latency(world, load)?, "few", *few));
    }
    world.policies("")?;
    eprintln!("{NAME}: writing {RECORDS} records");
    world.while_stopped(fill)?;
    for (load, few) in loads().zip(&few) {
        let name = format!("{NAME}/log/{}", load.name());
        figures.push(Figure::new(&name, "us", latency(world, load)?, "empty", *few));
    }
    Ok(figures)
}

fn loads() -> impl Iterator<Item = Load> {
    [Load::SIMPLE, Load::PREPARED].into_iter()
}

/// The median of the medians.
fn latency(world: &mut World, load: Load) -> Outcome<f64> {
    let mut medians = Vec::new();
    for round in 1..=ROUNDS {
        eprintln!("{NAME} {}: round {round} of {ROUNDS}", load.name());
        medians.push(load.run(&world.pgbench(Way::Postern)?)?.p50);
    }
    Ok(median(medians))
}

/// Policies for as many other roles, with conditions that must be looked at.
fn somebody_elses(count: usize) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let _ = write!(
            text,
            "@id(\"other-{number}\")\npermit (principal in Role::\"other-{number}\", action == Action::\"sql:select\", \
             resource in Target::\"bench\") when {{ context.has_where }};\n"
        );
        text
    })
}

/// Writes the long log.
fn fill(state: &std::path::Path) -> Outcome {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64);
    let options = Options { clock: Arc::new(clock), ..Options::new(state) };
    let log = Log::open(options).map_err(|error| error.to_string())?;
    let table = Resource::target("bench").child("Database", "bench").child("Schema", "public").child("Table", "t");
    let action = Arc::new(Action { requests: [Request::new("sql:select", table)].into(), facts: [].into() });
    let text = Arc::new(without_values("SELECT abalance FROM pgbench_accounts WHERE aid = $1".to_owned()));
    for number in 0..RECORDS {
        let decision = Decision {
            session: format!("filled-{}", number / PER_SESSION),
            operation: number % PER_SESSION + 1,
            text: Arc::clone(&text),
            parameters: vec![without_values(Some(number.to_string()))],
            action: Arc::clone(&action),
            verdict: "permit",
            rules: vec!["bench".into()],
            reason: None,
        };
        log.append(&Event::Decided(Box::new(decision))).map_err(|error| error.to_string())?;
    }
    log.close().map_err(|error| error.to_string())
}
