//! `cargo xtask bench`: what Postern costs, with policy, masking catalogue and recording, against a direct connection and
//! against a plain TCP proxy (haproxy), and against a pooler in session mode (PgBouncer), with PostgreSQL's own pgbench.
//!
//! The four ways take turns, five times; each figure is the median. It also checks that every transaction was recorded. Beside
//! that: what a connect costs with the programs and without, what thousands of idle connections cost, what a stream costs, and
//! what many policies and a long log weigh.

mod connects;
mod copy;
mod figures;
mod idle;
mod load;
mod weight;
mod world;

use std::{collections::BTreeMap, process::ExitCode};

use agent_tests::{Outcome, rss_kib, turn::Turn, undo};
use figures::{Figure, median};
use load::{Load, Measured};
use world::{Way, World};

/// How often each way is measured.
const ROUNDS: usize = 5;

/// A part of what was measured.
type Part = fn(&Measured) -> f64;

/// What is compared of each load: name, unit and value.
const KINDS: [(&str, &str, Part); 4] = [
    ("tps", "1/s", |one| one.tps),
    ("p50", "us", |one| one.p50),
    ("p95", "us", |one| one.p95),
    ("p99", "us", |one| one.p99),
];

fn main() -> ExitCode {
    let (options, names): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let json = match options.as_slice() {
        [] => false,
        [option] if option == "--json" => true,
        _ => {
            eprintln!("usage: bench [NAME…] [--json]");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("bench: this needs root: it loads kernel programs");
        return ExitCode::FAILURE;
    }
    let outcome = Turn::take().and_then(|_turn| {
        undo::on_signals()?;
        bench(&names)
    });
    match outcome {
        Ok(figures) => {
            figures::print(&figures, json);
            if figures.iter().any(Figure::is_wrong) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(names: &[String]) -> Outcome<Vec<Figure>> {
    let loads: Vec<Load> = load::ALL.iter().copied().filter(|load| wanted(names, &load.name())).collect();
    let other = [connects::NAME, idle::NAME, copy::NAME, weight::NAME];
    let [connects, idle, copies, weighed] = other.map(|name| wanted(names, name));
    if loads.is_empty() && !connects && !idle && !copies && !weighed {
        let known = load::ALL.iter().map(Load::name).chain(other.map(str::to_owned));
        let known: Vec<String> = known.collect();
        return Err(format!("no figure has such a name; there are: {}", known.join(", ")));
    }
    let mut figures = Vec::new();
    if connects {
        figures.extend(connects::measure()?);
    }
    if idle {
        figures.extend(idle::measure()?);
    }
    if loads.is_empty() && !copies && !weighed {
        return Ok(figures);
    }
    let mut world = World::new()?;
    for load in loads {
        figures.extend(compare(&mut world, load)?);
    }
    if copies {
        figures.extend(copy::measure(&world)?);
    }
    let rss = |pid: Option<u32>| pid.and_then(rss_kib).ok_or("a proxy has gone");
    let (ours, peer) = (rss(world.agent.proxy())?, rss(Some(world.haproxy.pid()))?);
    figures.push(Figure::new("proxy/rss", "KiB", as_float(ours), "haproxy", as_float(peer)));
    if weighed {
        figures.extend(weight::measure(&mut world)?);
    }
    Ok(figures)
}

fn wanted(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|word| name.contains(word.as_str()))
}

/// Measures one load on every way, in turns.
fn compare(world: &mut World, load: Load) -> Outcome<Vec<Figure>> {
    let mut measured: BTreeMap<Way, Vec<Measured>> = BTreeMap::new();
    let mut cpu: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
    let mut asked = 0;
    let mut recorded = 0;
    for round in 1..=ROUNDS {
        for way in Way::ALL {
            eprintln!("{} {}: round {round} of {ROUNDS}", load.name(), way.name());
            let used = world.cpu_time(way)?;
            let one = load.run(&world.pgbench(way)?)?;
            let used = world.cpu_time(way)?.saturating_sub(used);
            cpu.entry(way).or_default().push(used.as_secs_f64() * 1e6 / as_float(one.transactions));
            if way == Way::Postern
                && let Some(statements) = load.statements()
            {
                asked += one.transactions * statements;
                recorded += world.recorded()?;
            }
            measured.entry(way).or_default().push(one);
        }
    }
    let mut figures = Vec::new();
    let of = |way: Way, what: Part| median(measured[&way].iter().map(what).collect());
    for (kind, unit, what) in KINDS {
        for peer in Way::PEERS {
            let name = format!("{}/{kind}", load.name());
            figures.push(Figure::new(&name, unit, of(Way::Postern, what), peer.name(), of(peer, what)));
        }
    }
    let mut used = |way: Way| median(cpu.remove(&way).unwrap_or_default());
    let ours = used(Way::Postern);
    for peer in [Way::Haproxy, Way::Pgbouncer] {
        figures.push(Figure::new(&format!("{}/proxy-cpu", load.name()), "us", ours, peer.name(), used(peer)));
    }
    if load.statements().is_some() {
        let name = format!("{}/recorded", load.name());
        figures.push(Figure::equal(&name, "statements", as_float(recorded), "pgbench", as_float(asked)));
    }
    Ok(figures)
}

/// Counts here are far below 2^53.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}
