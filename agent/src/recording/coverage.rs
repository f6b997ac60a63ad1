//! The log's side of the coverage ledger: how many connects each target and user has records of, in the epoch at hand.
//!
//! *Invariant:* the tallies move with the cursor, in one batch: they are those of exactly the records up to it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    frame::{Frame, Kind, timestamp},
    log::Log,
    query::QueryError,
    store::{Batch, Store, StoreError},
};
use crate::model::FlowId;

/// Records that are looked at for a connect.
const LOOKED_AT: usize = 100_000;

/// What the records of one epoch say, by target and user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// The epoch; `None`: no agent has recorded one yet.
    pub epoch: Option<String>,
    /// By number of the target in the ledger, and uid.
    pub rows: BTreeMap<(u32, u32), Tally>,
}

/// What the records say of one target and user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sessions, and requests to cancel one.
    pub proxied: u64,
    /// Connections that were refused.
    pub denied: u64,
    /// Connects that were lost when a proxy ended.
    pub lost: u64,
}

impl Tally {
    /// As in the store.
    #[must_use]
    pub(super) fn encode(self) -> Vec<u8> {
        [self.proxied, self.denied, self.lost].into_iter().flat_map(u64::to_be_bytes).collect()
    }

    /// `None` for what this program does not write.
    #[must_use]
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (numbers, rest) = bytes.as_chunks::<8>();
        let [proxied, denied, lost] = numbers else { return None };
        let [proxied, denied, lost] = [proxied, denied, lost].map(|bytes| u64::from_be_bytes(*bytes));
        rest.is_empty().then_some(Self { proxied, denied, lost })
    }
}

/// What of an event counts for the tallies.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counted {
    epoch: Option<String>,
    principal: Option<Owner>,
    flow: Option<Connect>,
    flows: Vec<Connect>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    flow: Connect,
}

impl Counted {
    /// The connects that it tells of. Versions without a ledger noted no time.
    fn connects(self) -> impl Iterator<Item = Connect> {
        let of_principal = self.principal.map(|owner| owner.flow);
        of_principal.into_iter().chain(self.flow).chain(self.flows).filter(|connect| connect.at != 0)
    }
}

/// A flow, in records of versions that had a ledger.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Connect {
    ledger: u32,
    uid: u32,
    cookie: u64,
    at: u64,
}

/// The tallies that a batch changes.
#[derive(Default)]
pub(super) struct Changes {
    /// Set by a new epoch, with which all tallies of the one before go.
    epoch: Option<String>,
    rows: BTreeMap<(u32, u32), Tally>,
}

impl Changes {
    /// Counts an event, if it counts.
    ///
    /// # Errors
    /// The store does not work.
    pub(super) fn add(&mut self, store: &Store, frame: &Frame) -> Result<(), StoreError> {
        if frame.header.kind == Kind::KERNEL_SIDE {
            return self.begin(store, parse(frame).epoch);
        }
        let Some(column) = column(frame.header.kind) else { return Ok(()) };
        for connect in parse(frame).connects() {
            let row = (connect.ledger, connect.uid);
            let mut tally = match self.rows.get(&row) {
                Some(tally) => *tally,
                None if self.epoch.is_some() => Tally::default(),
                None => store.tally(row)?,
            };
            *column(&mut tally) += 1;
            self.rows.insert(row, tally);
        }
        Ok(())
    }

    /// An epoch begins, or goes on.
    fn begin(&mut self, store: &Store, epoch: Option<String>) -> Result<(), StoreError> {
        let before = match &self.epoch {
            Some(epoch) => Some(epoch.clone()),
            None => store.epoch()?,
        };
        if epoch.is_some() && epoch != before {
            self.epoch = epoch;
            self.rows.clear();
        }
        Ok(())
    }

    /// Puts what has changed into a batch.
    ///
    /// # Errors
    /// The store does not work.
    pub(super) fn finish(self, store: &Store, batch: &mut Batch) -> Result<(), StoreError> {
        if let Some(epoch) = &self.epoch {
            store.tallies()?.rows.keys().for_each(|row| batch.no_tally(*row));
            batch.epoch(epoch);
        }
        self.rows.into_iter().for_each(|(row, tally)| batch.tally(row, tally));
        Ok(())
    }
}

/// Where the connects of a record count, if it tells what became of some.
fn column(kind: Kind) -> Option<fn(&mut Tally) -> &mut u64> {
    match kind {
        Kind::SESSION_STARTED | Kind::CANCEL_REQUESTED => Some(|tally| &mut tally.proxied),
        Kind::CONNECTION_REFUSED => Some(|tally| &mut tally.denied),
        Kind::LOST_AT_RESTART => Some(|tally| &mut tally.lost),
        _ => None,
    }
}

/// The body has the hash that its header carries, so it is what was appended: an event.
fn parse(frame: &Frame) -> Counted {
    serde_json::from_slice(frame.body()).unwrap_or_default()
}

impl Log {
    /// The tallies of all that was appended before this call. Blocks until it is in the store.
    ///
    /// # Errors
    /// The store does not work, or does not keep up.
    pub fn tallies(&self) -> Result<Tallies, QueryError> {
        if !self.settle() {
            return Err(QueryError::Behind);
        }
        Ok(self.store.tallies()?)
    }

    /// Of these connects those that a record tells of. Looks at records from the newest backwards, until they are from before
    /// `since`.
    ///
    /// # Errors
    /// The store does not work, or does not keep up.
    pub fn recorded(&self, flows: &[FlowId], since: Timestamp) -> Result<Vec<FlowId>, QueryError> {
        if !self.settle() {
            return Err(QueryError::Behind);
        }
        let wanted: BTreeSet<FlowId> = flows.iter().copied().collect();
        let mut found = Vec::new();
        for sequence in (1..=self.store.cursor()?.sequence).rev().take(LOOKED_AT) {
            let Some(Ok(frame)) = self.store.record(sequence)? else { continue };
            if timestamp(frame.header.time) < since || found.len() == flows.len() {
                break;
            }
            if column(frame.header.kind).is_some() {
                let connects = parse(&frame).connects().map(|connect| (connect.cookie, connect.at));
                found.extend(connects.filter(|id| wanted.contains(id)));
            }
        }
        Ok(found)
    }
}
