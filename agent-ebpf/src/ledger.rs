//! The coverage ledger: every connect to a target counts in a row, and every redirected one lies open until its record is
//! durable.
//!
//! *Invariant:* a redirected connect is in the map of open flows from before its address is rewritten, and leaves it once: by
//! whoever removes it there, who counts how it ended.

use core::ptr;

use agent_common::{
    CANARY, Column, Counter, FLOW_ACCEPTED, FLOW_CONNECTING, FlowRecord, LEDGER_OTHERS, LedgerKey, LedgerRow,
};
use aya_ebpf::bindings::BPF_NOEXIST;

use crate::maps::{ABANDONED, LEDGER, OPEN, add_one, count};

/// A new row. Not on the stack, of which a chain of functions has 512 bytes.
static EMPTY: LedgerRow = [0; _];

/// Notes a connect that is about to be redirected. False if there is no room.
pub fn open(flow: &FlowRecord) -> bool {
    if flow.target == CANARY {
        return true;
    }
    if OPEN.insert(flow.key(), flow, u64::from(BPF_NOEXIST)).is_err() {
        count(Counter::MapFull);
        return false;
    }
    count_in(flow.row(), Column::Redirected);
    true
}

/// The proxy's listener has taken the connection, unless the client has given up in this very moment.
pub fn accepted(flow: &FlowRecord) {
    if let Some(open) = OPEN.get_ptr_mut(flow.key()) {
        // SAFETY: a value of the map; one aligned store of four bytes.
        unsafe { ptr::write_volatile(&raw mut (*open).state, FLOW_ACCEPTED) };
    }
}

/// The connection was given up on its way: nobody has accepted it, or ever will.
pub fn abandoned(flow: &FlowRecord) {
    if close(flow, Column::Abandoned) && ABANDONED.output(*flow, 0).is_err() {
        count(Counter::Unheard);
    }
}

/// The connection goes on without its flow.
pub fn lost(flow: &FlowRecord) {
    close(flow, Column::Lost);
}

/// A socket will not use this flow of its own any more. If it never got as far as its first packet, it was given up.
pub fn dropped(flow: &FlowRecord) {
    let Some(open) = OPEN.get_ptr(flow.key()) else { return };
    // SAFETY: a value of the map; one aligned load of four bytes.
    if unsafe { ptr::read_volatile(&raw const (*open).state) } == FLOW_CONNECTING {
        abandoned(flow);
    }
}

/// Counts in the row of a target and a user.
pub fn count_in(key: LedgerKey, column: Column) {
    let row = LEDGER.get_ptr_mut(key).or_else(|| {
        // An error says that another processor was faster, or that there is no room.
        let _ = LEDGER.insert(key, &EMPTY, u64::from(BPF_NOEXIST));
        LEDGER.get_ptr_mut(key)
    });
    if let Some(row) = row.or_else(|| LEDGER.get_ptr_mut(LEDGER_OTHERS)) {
        // SAFETY: a number of the row, which is aligned to eight bytes; rows are never removed.
        unsafe { add_one(row.cast::<u64>().add(column as usize)) };
    }
}

/// False if it was closed already.
fn close(flow: &FlowRecord, column: Column) -> bool {
    let closed = OPEN.remove(flow.key()).is_ok();
    if closed {
        count_in(flow.row(), column);
    }
    closed
}
