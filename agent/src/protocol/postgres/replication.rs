//! Replication connections: whether there may be one. What it streams holds every column as it is.

use super::{
    database::Database,
    sql::{Reading, Replication, replicating},
    view::View as _,
};
use crate::{
    gate::Gate,
    model::{Denial, Mode, Verdict},
};

/// Decides, before anybody is asked for anything. `masks`: the target has masked columns.
///
/// # Errors
/// The denial.
pub fn permit_connection(gate: &mut Gate, reading: &Reading, masks: bool) -> Result<(), Denial> {
    let Some(replication) = reading.replication.filter(|_| gate.subject().mode == Mode::Enforce) else { return Ok(()) };
    if let Verdict::Deny(denial) = gate.verdict(&replicating(replication, reading)) {
        return Err(Denial { reason: format!("replication: {}", denial.reason), ..denial });
    }
    if replication == Replication::Physical && masks {
        let denial = Denial::closed("physical replication streams every table, and this target has masked columns");
        return Err(denial.with_hint("Use logical replication, as a role that may unmask them."));
    }
    Ok(())
}

/// Decides once it is known what is hidden, and again whenever that or the policies have changed.
///
/// # Errors
/// The denial.
pub fn permit(gate: &mut Gate, reading: &Reading, view: &Database) -> Result<(), Denial> {
    if reading.replication.is_none() || gate.subject().mode == Mode::Observe {
        return Ok(());
    }
    if view.hides() {
        let denial = Denial::closed("replication streams every table, and this database has columns that are masked");
        return Err(denial.with_hint("Replicate as a role that may unmask all of them."));
    }
    permit_connection(gate, reading, false)
}
