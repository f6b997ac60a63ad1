//! The rows of the ledger, from the kernel's side and the log's. Pure.

use std::collections::BTreeMap;

use agent_common::LEDGER_OTHERS;

use crate::{
    model::{Coverage, CoverageRow},
    recording::Tallies,
};

/// The kernel's rows with what the log says of each. What the log says of a target and user that has no row of its own in the
/// kernel belongs to the row of the others.
pub(super) fn join(kernel: &[CoverageRow], tallies: &Tallies) -> Vec<CoverageRow> {
    let mut rows: BTreeMap<(u32, u32), Coverage> =
        kernel.iter().map(|row| ((row.target, row.uid), row.counts)).collect();
    for (key, tally) in &tallies.rows {
        let key = if rows.contains_key(key) { *key } else { (LEDGER_OTHERS.target, LEDGER_OTHERS.uid) };
        let row = rows.entry(key).or_default();
        row.proxied += tally.proxied;
        row.denied += tally.denied;
        row.lost_at_restart += tally.lost;
    }
    let rows = rows.into_iter().filter(|(_, counts)| *counts != Coverage::default());
    rows.map(|((target, uid), counts)| CoverageRow { target, uid, counts }).collect()
}

fn find(rows: &[CoverageRow], target: u32, uid: u32) -> Option<&CoverageRow> {
    rows.iter().find(|row| (row.target, row.uid) == (target, uid))
}

pub(super) fn is_same(row: &CoverageRow, before: &[CoverageRow], after: &[CoverageRow]) -> bool {
    find(before, row.target, row.uid) == find(after, row.target, row.uid)
}

/// Of rows that changed while they were read: what was redirected before all else was read, less all that is told of now, is
/// unexplained at least; and whatever came since is not.
pub(super) fn at_least(before: &[CoverageRow], mut rows: Vec<CoverageRow>) -> Vec<CoverageRow> {
    for row in &mut rows {
        let redirected = find(before, row.target, row.uid).map_or(0, |row| row.counts.redirected);
        let since = row.counts.redirected.saturating_sub(redirected);
        let beyond = row.counts.unexplained().clamp(0, since.cast_signed()).unsigned_abs();
        row.counts.redirected -= beyond;
        if row.counts.unexplained() < 0 {
            // Recorded since, and still open when that was read.
            row.counts.open = row.counts.open.saturating_sub(row.counts.unexplained().unsigned_abs());
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Tally;

    fn kernel(uid: u32, counts: Coverage) -> CoverageRow {
        CoverageRow { target: 1, uid, counts }
    }

    fn tallies(rows: &[(u32, Tally)]) -> Tallies {
        Tallies { epoch: None, rows: rows.iter().map(|(uid, tally)| ((1, *uid), *tally)).collect() }
    }

    #[test]
    fn what_the_log_knows_of_nobody_in_the_kernel_counts_as_the_others() {
        let others = CoverageRow {
            target: LEDGER_OTHERS.target,
            uid: LEDGER_OTHERS.uid,
            counts: Coverage { redirected: 3, ..Coverage::default() },
        };
        let rows = [kernel(7, Coverage { redirected: 2, open: 1, ..Coverage::default() }), others];
        let one = Tally { proxied: 1, ..Tally::default() };
        let joined = join(&rows, &tallies(&[(7, one), (8, Tally { denied: 2, ..one })]));
        assert_eq!(joined[0].counts.unexplained(), 0);
        assert_eq!((joined[1].uid, joined[1].counts.proxied, joined[1].counts.denied), (LEDGER_OTHERS.uid, 1, 2));
        assert_eq!(joined[1].counts.unexplained(), 0);
    }

    #[test]
    fn a_row_that_changes_counts_as_what_it_is_at_least() {
        let before = [kernel(7, Coverage { redirected: 10, ..Coverage::default() })];
        let now = |redirected, open, proxied| Coverage { redirected, open, proxied, ..Coverage::default() };
        let unexplained = |counts| at_least(&before, vec![kernel(7, counts)])[0].counts.unexplained();
        // Four came since, of which two are told of already.
        assert_eq!(unexplained(now(14, 0, 12)), 0);
        // One of those before is told of by nobody, however many came since.
        assert_eq!(unexplained(now(14, 0, 9)), 1);
        // One is both open and recorded.
        assert_eq!(unexplained(now(10, 1, 10)), 0);
        // More records than connects, and none open.
        assert_eq!(unexplained(now(10, 0, 12)), -2);
    }
}
