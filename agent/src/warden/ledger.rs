//! The coverage ledger's user side: what the kernel side counted, and which redirected connects wait for their record.

use std::collections::BTreeMap;

use agent_common::{
    COLUMNS, Column, FLOW_ACCEPTED, FlowKey, FlowRecord, LEDGER_OTHERS, LedgerKey, LedgerRow, MAX_OPEN,
};
use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, RingBuf},
};

use super::{
    capture::{CaptureError, map},
    flow,
    pins::forget,
    sys::{self, Plain},
};
use crate::model::{Coverage, CoverageRow, Flow, FlowId};

/// Flows in one answer: it has to fit into one message.
pub(super) const FLOWS_AT_ONCE: usize = 128;

/// Rows in one answer.
pub(super) const ROWS_AT_ONCE: usize = 100;

/// The pinned maps.
pub(super) struct Ledger {
    rows: HashMap<MapData, Plain<LedgerKey>, LedgerRow>,
    open: HashMap<MapData, Plain<FlowKey>, Plain<FlowRecord>>,
    abandoned: RingBuf<MapData>,
    /// As they were when the first of them was last asked for: reading all for each message would take each row's time for every
    /// other row.
    read: Vec<CoverageRow>,
}

impl Ledger {
    pub(super) fn new(kernel: &mut Ebpf) -> Result<Self, CaptureError> {
        let mut rows: HashMap<MapData, Plain<LedgerKey>, LedgerRow> = map(kernel, "LEDGER")?;
        let others = Plain(LEDGER_OTHERS);
        if let Err(MapError::KeyNotFound) = rows.get(&others, 0) {
            rows.insert(others, [0; COLUMNS as usize], 0)?;
        }
        Ok(Self { rows, open: map(kernel, "OPEN")?, abandoned: map(kernel, "ABANDONED")?, read: Vec::new() })
    }

    /// The rows after `after`, as many as one message holds, and with them what is open of each. Without `after` they are read.
    pub(super) fn rows(&mut self, after: Option<LedgerKey>) -> Result<Vec<CoverageRow>, MapError> {
        if after.is_none() {
            self.read = self.read_rows()?;
        }
        let is_later = |row: &&CoverageRow| after.is_none_or(|after| (row.target, row.uid) > (after.target, after.uid));
        Ok(self.read.iter().filter(is_later).take(ROWS_AT_ONCE).cloned().collect())
    }

    /// All rows, in their order.
    fn read_rows(&self) -> Result<Vec<CoverageRow>, MapError> {
        let mut counts: BTreeMap<LedgerKey, LedgerRow> = BTreeMap::new();
        for row in self.rows.iter() {
            let (Plain(key), row) = row?;
            counts.insert(key, row);
        }
        let mut open: BTreeMap<LedgerKey, u64> = BTreeMap::new();
        for flow in self.flows()?.values() {
            let key = if counts.contains_key(&flow.row()) { flow.row() } else { LEDGER_OTHERS };
            *open.entry(key).or_default() += 1;
        }
        Ok(counts.into_iter().map(|(key, row)| of(key, row, open.get(&key).copied().unwrap_or(0))).collect())
    }

    /// Connects whose record is durable: they are open no longer.
    pub(super) fn settle(&mut self, flows: &[FlowId]) -> Result<(), MapError> {
        for (cookie, at) in flows.iter().copied() {
            forget(&mut self.open, &Plain(FlowKey { cookie, at }))?;
        }
        Ok(())
    }

    /// Connects that the proxy's listener took before `before` (boot time in nanoseconds) and whose record is not durable: the
    /// oldest after `after`, as many as one message holds.
    pub(super) fn waiting(&self, before: u64, after: Option<FlowId>) -> Result<Vec<Flow>, MapError> {
        let flows = self.flows()?;
        let is_later = |flow: &FlowRecord| after.is_none_or(|(cookie, at)| (flow.at, flow.cookie) > (at, cookie));
        let mut waiting: Vec<&FlowRecord> =
            flows.values().filter(|flow| flow.at < before && flow.state == FLOW_ACCEPTED && is_later(flow)).collect();
        waiting.sort_by_key(|flow| (flow.at, flow.cookie));
        Ok(waiting.into_iter().take(FLOWS_AT_ONCE).map(flow::from_record).collect())
    }

    /// Connects that were abandoned and not yet told of, as many as one message holds. They are told once.
    pub(super) fn abandoned(&mut self) -> Vec<Flow> {
        let mut abandoned = Vec::new();
        while abandoned.len() < FLOWS_AT_ONCE
            && let Some(item) = self.abandoned.next()
        {
            abandoned.extend(sys::record(&item).map(|record| flow::from_record(&record)));
        }
        abandoned
    }

    /// All that are open. Where one goes while the map is read, the kernel begins anew: hence no iterator, and a bound.
    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowRecord>, MapError> {
        let entries = self.open.iter().take(4 * MAX_OPEN as usize);
        entries.map(|entry| entry.map(|(Plain(key), Plain(flow))| (key, flow))).collect()
    }
}

fn of(key: LedgerKey, row: LedgerRow, open: u64) -> CoverageRow {
    let column = |column: Column| row[column as usize];
    let kernel = Coverage {
        redirected: column(Column::Redirected),
        open,
        abandoned: column(Column::Abandoned),
        not_handed_over: column(Column::Lost),
        refused_no_listener: column(Column::NoListener),
        refused_not_recorded: column(Column::NotRecorded),
        refused_udp: column(Column::Udp),
        observed_direct: column(Column::ObservedDirect),
        ..Coverage::default()
    };
    CoverageRow { target: key.target, uid: key.uid, counts: kernel }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddr};

    use super::*;
    use crate::warden::wire::{Answer, MAX_MESSAGE, Response};

    fn length(answer: Answer) -> usize {
        serde_json::to_vec(&Response { id: u64::MAX, answer }).expect("JSON").len()
    }

    #[test]
    fn as_many_as_are_told_at_once_fit_into_a_message() {
        let row = of(LedgerKey { target: u32::MAX, uid: u32::MAX }, [u64::MAX; COLUMNS as usize], u64::MAX);
        assert!(length(Answer::Coverage(vec![row; ROWS_AT_ONCE])) <= MAX_MESSAGE);
        let longest: SocketAddr = (Ipv6Addr::from([0xffff; 8]), u16::MAX).into();
        let flow = Flow {
            cookie: u64::MAX,
            tgid: u32::MAX,
            generation: u64::MAX,
            sequence: u64::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            cgroup: u64::MAX,
            netns: u64::MAX,
            destination: longest,
            target: u32::MAX,
            ledger: u32::MAX,
            at: u64::MAX,
        };
        assert!(length(Answer::Flows(vec![flow; FLOWS_AT_ONCE])) <= MAX_MESSAGE);
    }
}
