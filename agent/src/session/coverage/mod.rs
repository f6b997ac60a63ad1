//! The coverage ledger: what the kernel side has counted against what the log holds.
//!
//! A redirected connect lies open in the kernel until its record is durable. *Invariant:* it is taken off only then, so that
//! whatever ends this process leaves it to be found, and named, by the next one.

mod clock;
mod rows;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use agent_common::{LEDGER_OTHERS, LEDGER_UNRESOLVED};
use jiff::{SignedDuration, Timestamp};
use nix::unistd::{Uid, User};
use tokio::sync::Notify;

pub(super) use self::clock::boot_nanoseconds;
use self::{
    clock::{booted, step, time_of},
    rows::{at_least, is_same, join},
};
use super::Proxy;
use crate::{
    control::{CoverageLine, CoverageReport},
    model::{CoverageRow, Flow, FlowId, KernelSide},
    recording::{Append, AppendError, Event, Log, QueryError},
    warden::AskError,
};

/// How often the ledger is reconciled and recorded.
const EVERY: Duration = Duration::from_secs(60);

/// How often is looked at what the kernel side has lost, and whether all of it is in force: a few dozen system calls.
const LOOK: Duration = Duration::from_secs(10);

/// How long records are gathered before their connects are settled together.
const GATHER: Duration = Duration::from_millis(20);

/// Pause after connects could not be settled.
const RETRY: Duration = Duration::from_secs(1);

/// After this long, a connect that was taken, has no record, and that no session has in hand, is an alarm.
const LATE: Duration = Duration::from_secs(60);

/// Readings of kernel and log, one after the other, until two of the kernel agree; and the pause between them.
const READINGS: usize = 6;
const PAUSE: Duration = Duration::from_millis(60);

/// Without a reconciliation for so long, something is wrong.
const OVERDUE: Duration = Duration::from_secs(300);

/// Connects that one record names.
const NAMED_AT_ONCE: usize = 1_000;

/// Records of abandoned connects in one look.
const ABANDONED_AT_ONCE: usize = 16;

/// How long before a connect its record may seem to have been written, if clocks were set.
const SLACK: SignedDuration = SignedDuration::from_mins(10);

/// The ledger cannot be reconciled.
#[derive(Debug, thiserror::Error)]
pub enum CoverageError {
    /// The kernel's side of it.
    #[error(transparent)]
    Kernel(#[from] AskError),
    /// The log's side of it.
    #[error(transparent)]
    Log(#[from] QueryError),
    /// Another process has the log.
    #[error("the log is being handed over to another process")]
    Elsewhere,
    /// A record of it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The part of the agent that does it.
    #[error("the ledger could not be read: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The clock.
    #[error("the clock cannot be read: {0}")]
    Clock(#[from] nix::Error),
}

/// What this process knows of the ledger.
#[derive(Default)]
pub struct Ledger {
    /// Connects that some session or refusal deals with at present.
    in_hand: Mutex<BTreeSet<FlowId>>,
    /// Connects with the sequence of their record, which may not be durable yet.
    recorded: Mutex<Vec<(FlowId, u64)>>,
    news: Notify,
    /// While processes before this one may deal with connects from before this boot time: connects that they lose are looked for
    /// when they are gone.
    before: Mutex<Option<u64>>,
    last: Mutex<Last>,
}

/// The last reconciliation.
struct Last {
    /// In the order of [`place`].
    rows: Vec<CoverageRow>,
    unexplained: u64,
    /// Or the start.
    at: Instant,
}

impl Default for Last {
    fn default() -> Self {
        Self { rows: Vec::new(), unexplained: 0, at: Instant::now() }
    }
}

/// Where a row is among the others.
fn place(row: &CoverageRow) -> (u32, u32) {
    (row.target, row.uid)
}

impl Ledger {
    /// Takes a connect in hand until what is returned is dropped.
    pub(super) fn take(self: &Arc<Self>, flow: &Flow) -> InHand {
        lock(&self.in_hand).insert(flow.id());
        InHand { ledger: Arc::clone(self), flow: flow.id(), is_recorded: AtomicBool::new(false) }
    }

    /// Processes before this one had all connects from before this boot time (nanoseconds).
    pub(super) fn begins_at(&self, before: u64) {
        *lock(&self.before) = Some(before);
    }

    /// What keeps the agent from enforcing.
    pub(super) fn problem(&self) -> Option<String> {
        let last = lock(&self.last);
        if last.at.elapsed() > OVERDUE {
            return Some("coverage: connects could not be accounted for lately; the agent's messages tell why".into());
        }
        let unexplained = last.unexplained;
        (unexplained > 0).then(|| {
            format!(
                "coverage: connects were redirected that nobody can account for ({unexplained}); `postern coverage` tells \
                 which"
            )
        })
    }
}

/// A connect that is dealt with.
pub(super) struct InHand {
    ledger: Arc<Ledger>,
    flow: FlowId,
    is_recorded: AtomicBool,
}

impl InHand {
    /// Notes that its outcome is in a record.
    pub(super) fn recorded(&self, sequence: u64) {
        if !self.is_recorded.swap(true, Ordering::Relaxed) {
            lock(&self.ledger.recorded).push((self.flow, sequence));
            self.ledger.news.notify_one();
        }
    }

    /// Whether its outcome is in a record.
    pub(super) fn is_recorded(&self) -> bool {
        self.is_recorded.load(Ordering::Relaxed)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        lock(&self.ledger.in_hand).remove(&self.flow);
    }
}

/// The log of one connection, which tells the ledger when there is a record of what became of it.
pub(super) struct Accounted {
    pub log: Arc<dyn Append>,
    pub connect: Arc<InHand>,
}

impl Append for Accounted {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        let sequence = self.log.append(event)?;
        if let Event::SessionStarted(_) | Event::ConnectionRefused { .. } | Event::CancelRequested { .. } = event {
            self.connect.recorded(sequence);
        }
        Ok(sequence)
    }
}

impl Proxy {
    /// Records what the kernel side is.
    pub(super) fn take_stock(&self, kernel_side: KernelSide) -> Result<(), CoverageError> {
        self.log.append(&Event::KernelSide { epoch: self.epoch.clone(), kernel_side })?;
        Ok(())
    }

    /// Names the connects from before a boot time (nanoseconds) that processes before this one took and did not record. They must
    /// be gone.
    pub(super) async fn name_lost(self: &Arc<Self>, before: u64) -> Result<(), CoverageError> {
        loop {
            let is_in_hand = |flow: &Flow| lock(&self.ledger.in_hand).contains(&flow.id());
            let flows = self.warden.waiting(before, NAMED_AT_ONCE, |flow| !is_in_hand(flow)).await?;
            let Some(oldest) = flows.iter().map(|flow| flow.at).min() else { return Ok(()) };
            let since = time_of(oldest)?.saturating_sub(SLACK).unwrap_or(Timestamp::MIN);
            let ids: Vec<FlowId> = flows.iter().map(Flow::id).collect();
            let asked = ids.clone();
            let found = self.of_the_log(move |log| log.recorded(&asked, since)).await?;
            let lost: Vec<Flow> = flows.into_iter().filter(|flow| !found.contains(&flow.id())).collect();
            if !lost.is_empty() {
                tracing::warn!(
                    count = lost.len(),
                    "connects were lost when the agent ended; they are named in the log"
                );
                let (event, log) = (Event::LostAtRestart { flows: lost }, self.log.strict());
                tokio::task::spawn_blocking(move || log.append(&event)).await??;
            }
            self.warden.settle(&ids).await?;
        }
    }

    /// Asks the log, which blocks.
    async fn of_the_log<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Log) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, CoverageError> {
        let log = self.log.log().ok_or(CoverageError::Elsewhere)?;
        Ok(tokio::task::spawn_blocking(move || ask(&log)).await??)
    }

    /// The ledger as this process leaves it.
    pub(super) async fn last_reckoning(self: &Arc<Self>) -> Result<(), CoverageError> {
        self.settle_recorded().await?;
        match self.reconcile().await {
            Ok(_) | Err(CoverageError::Elsewhere) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Settles connects as their records become durable, until the task is dropped.
    pub(super) async fn settle(self: Arc<Self>) {
        loop {
            self.ledger.news.notified().await;
            tokio::time::sleep(GATHER).await;
            if let Err(error) = self.settle_recorded().await {
                tracing::warn!(%error, "connects cannot be settled yet");
                self.ledger.news.notify_one();
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Settles all that is recorded so far.
    pub(super) async fn settle_recorded(&self) -> Result<(), AskError> {
        let recorded = std::mem::take(&mut *lock(&self.ledger.recorded));
        let Some(last) = recorded.iter().map(|(_, sequence)| *sequence).max() else { return Ok(()) };
        loop {
            match self.log.durable() {
                Some(durable) if durable >= last => break,
                Some(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                // They stay open, and the next process finds out.
                None => return Ok(()),
            }
        }
        let flows: Vec<FlowId> = recorded.iter().map(|(flow, _)| *flow).collect();
        let settled = self.warden.settle(&flows).await;
        if settled.is_err() {
            lock(&self.ledger.recorded).extend(recorded);
        }
        settled
    }

    /// Reconciles every minute, and notes what the kernel side has lost and when the clock was set, until the task is dropped.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        let mut reconciled = Instant::now();
        let mut watch = Watch::default();
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            if self.log.log().is_none() {
                // Another process has taken this one's place, and watches.
                continue;
            }
            let looked = async {
                self.look_for_lost().await?;
                self.watch_clock(&mut watch)?;
                self.name_abandoned().await?;
                if watch.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                    watch.looked = Some(Instant::now());
                    self.watch_kernel_side(&mut watch).await?;
                }
                if reconciled.elapsed() >= EVERY {
                    reconciled = Instant::now();
                    self.reconcile().await?;
                }
                Ok::<_, CoverageError>(())
            };
            if let Err(error) = looked.await {
                tracing::warn!(%error, "the ledger is not reconciled");
            }
        }
    }

    /// Names what processes before this one have lost, once they are gone.
    async fn look_for_lost(self: &Arc<Self>) -> Result<(), CoverageError> {
        let before = *lock(&self.ledger.before);
        if let Some(before) = before
            && self.handover.predecessors().are_gone()
        {
            self.name_lost(before).await?;
            *lock(&self.ledger.before) = None;
        }
        Ok(())
    }

    fn watch_clock(&self, watch: &mut Watch) -> Result<(), CoverageError> {
        let offset = booted()?;
        if let Some(step) = watch.booted.replace(offset).and_then(|before| step(before, offset)) {
            let micros = i64::try_from(step.as_micros()).unwrap_or(i64::MAX);
            tracing::warn!(micros, "the host's clock was set");
            self.log.append(&Event::ClockStep { micros })?;
        }
        Ok(())
    }

    async fn watch_kernel_side(&self, watch: &mut Watch) -> Result<(), CoverageError> {
        let counters = self.warden.counters().await?;
        let lost = ["map_full", "ring_buffer_lost"].map(|name| counters.get(name).copied().unwrap_or(0));
        if lost != watch.lost {
            watch.lost = lost;
            let [map_full, ring_buffer_lost] = lost;
            self.log.append(&Event::KernelLosses { map_full, ring_buffer_lost })?;
        }
        let missing = self.warden.missing().await?;
        if missing != watch.missing {
            tracing::error!(?missing, "programs of the kernel side that are not in force");
            watch.missing.clone_from(&missing);
            self.log.append(&Event::ProgramsMissing { programs: missing })?;
        }
        Ok(())
    }

    /// Records which connects were abandoned. Whoever abandons more in a second stays without a name, and is counted.
    async fn name_abandoned(&self) -> Result<(), CoverageError> {
        for _ in 0..ABANDONED_AT_ONCE {
            let flows = self.warden.abandoned().await?;
            if flows.is_empty() {
                break;
            }
            self.log.append(&Event::ConnectsAbandoned { flows })?;
        }
        Ok(())
    }

    /// Compares kernel and log, and records the ledger if it has changed, and an alarm if it does not add up.
    pub(super) async fn reconcile(self: &Arc<Self>) -> Result<CoverageReport, CoverageError> {
        self.look_for_lost().await?;
        self.name_abandoned().await?;
        let rows = self.ledger_rows().await?;
        let late = boot_nanoseconds()?.saturating_sub(u64::try_from(LATE.as_nanos()).unwrap_or(u64::MAX));
        let of_others = *lock(&self.ledger.before);
        let is_nobodys = |flow: &Flow| {
            of_others.is_none_or(|before| flow.at >= before) && !lock(&self.ledger.in_hand).contains(&flow.id())
        };
        let waiting = self.warden.waiting(late, NAMED_AT_ONCE, is_nobodys).await?;
        let wrong: Vec<CoverageRow> = rows.iter().filter(|row| row.counts.unexplained() != 0).copied().collect();
        let unexplained = wrong.iter().map(|row| row.counts.unexplained().unsigned_abs()).sum::<u64>();
        let unexplained = unexplained + waiting.len() as u64;

        let (changed, is_new) = {
            let mut last = lock(&self.ledger.last);
            let before = std::mem::replace(&mut *last, Last { rows: rows.clone(), unexplained, at: Instant::now() });
            let is_known = |row: &CoverageRow| {
                before.rows.binary_search_by_key(&place(row), place).is_ok_and(|at| before.rows[at] == *row)
            };
            let changed: Vec<CoverageRow> = rows.iter().filter(|row| !is_known(row)).copied().collect();
            (changed, unexplained != 0 && (before.unexplained != unexplained || !waiting.is_empty()))
        };
        if is_new {
            tracing::error!(unexplained, "connects were redirected that nobody can account for");
            self.log.append(&Event::Unexplained { rows: wrong, flows: waiting.clone() })?;
            // Named now, and counted for good: no record will come, and their places are needed.
            let named: Vec<FlowId> = waiting.iter().map(Flow::id).collect();
            self.warden.settle(&named).await?;
        }
        if !changed.is_empty() {
            let epoch = self.epoch.clone();
            self.log.append(&Event::Coverage { epoch, rows: changed, unexplained })?;
        }
        let rows = rows.into_iter().map(|row| self.line(row)).collect();
        Ok(CoverageReport { epoch: self.epoch.clone(), rows, waiting, unexplained })
    }

    /// The ledger, as kernel and log tell it. A row that changes meanwhile is read again; one that never stands still is taken
    /// as what is true of it at least.
    async fn ledger_rows(self: &Arc<Self>) -> Result<Vec<CoverageRow>, CoverageError> {
        let mut before = self.warden.coverage().await?;
        let mut reading = 0;
        loop {
            let tallies = self.of_the_log(Log::tallies).await?;
            let after = self.warden.coverage().await?;
            let joined = join(&after, &tallies);
            let steady = joined.iter().all(|row| match row.counts.unexplained() {
                0 => true,
                // It may be recorded, and open until that record is durable.
                ..0 if row.counts.open > 0 => false,
                _ => is_same(row, &before, &after),
            });
            if steady {
                return Ok(joined);
            }
            reading += 1;
            if reading == READINGS {
                return Ok(at_least(&before, join(&after, &self.of_the_log(Log::tallies).await?)));
            }
            before = after;
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn line(&self, row: CoverageRow) -> CoverageLine {
        let CoverageRow { target, uid, counts } = row;
        let others = target == LEDGER_OTHERS.target;
        let name = self.targets.all().iter().find(|known| known.ledger() == target).map(|known| known.name.clone());
        let target = match name {
            Some(name) => name,
            None if others => "(others)".into(),
            None if target == LEDGER_UNRESOLVED => "(a name that was not resolved yet)".into(),
            None => format!("(not configured any more: {target:08x})"),
        };
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
        CoverageLine { target, user, uid: (!others).then_some(uid), unexplained: counts.unexplained(), counts }
    }
}

/// What was seen at the last look.
#[derive(Default)]
struct Watch {
    looked: Option<Instant>,
    booted: Option<SignedDuration>,
    lost: [u64; 2],
    missing: Vec<String>,
}

/// What is behind these locks is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
