//! `COPY … TO STDOUT` of 100 MB: what a stream costs.

use std::{collections::BTreeMap, time::Instant};

use agent_tests::Outcome;

use crate::{
    ROUNDS,
    figures::{Figure, median},
    world::{Way, World},
};

/// Name of the figures.
pub const NAME: &str = "copy-out";

/// Rows of the table, of 100 bytes each as they are copied.
const ROWS: u64 = 1_000_000;
/// Megabytes of that.
const MEGABYTES: f64 = 100.0;

/// Copies on every way, in turns.
///
/// # Errors
/// A copy failed, or had another length.
pub fn measure(world: &World) -> Outcome<Vec<Figure>> {
    // Seven digits, a tab, 91 characters and the end of the line.
    let table = format!(
        "CREATE TABLE copied AS SELECT n, repeat('x', 91) AS filler FROM generate_series(1000001, {}) AS n",
        1_000_000 + ROWS
    );
    world.sql(&format!("{table}; GRANT SELECT ON copied TO PUBLIC"))?;
    let mut measured: BTreeMap<Way, Vec<f64>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for way in Way::ALL {
            eprintln!("{NAME} {}: round {round} of {ROUNDS}", way.name());
            let begun = Instant::now();
            let bytes = world.copy(way, "COPY copied TO STDOUT")?;
            if bytes != ROWS * 100 {
                return Err(format!("{} gave {bytes} bytes", way.name()));
            }
            measured.entry(way).or_default().push(MEGABYTES / begun.elapsed().as_secs_f64());
        }
    }
    let mut of = |way: Way| median(measured.remove(&way).unwrap_or_default());
    let ours = of(Way::Postern);
    Ok(Way::PEERS.map(|peer| Figure::new(NAME, "MB/s", ours, peer.name(), of(peer))).into())
}
