//! Moves durable records from the journal into the store, and drops segments that are no longer needed.
//!
//! *Invariant:* a segment is dropped only after [`Store::sync`] has returned for all its records.

use std::{
    collections::HashMap,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    coverage::Changes,
    frame::{Fault, Frame},
    ids::refused_id,
    journal::{Head, Journal},
    segment::{Reader, Segment},
    store::{Batch, Store, StoreError, panic_text},
    summary::{Brief, Summary},
};

/// Records that are moved at once.
const BATCH_RECORDS: usize = 512;
/// Bytes after which a batch is moved even if it has fewer records.
const BATCH_BYTES: usize = 1 << 20;
/// Pause after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Records could not be moved.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: {source}", path = segment.path.display())]
    Read { segment: Segment, source: io::Error },
    #[error("{path} at offset {offset}: {fault}", path = segment.path.display())]
    Broken { segment: Segment, offset: u64, fault: Fault },
    #[error("{path} at offset {offset}: record {sequence} does not continue the record before it", path = segment.path.display())]
    Link { segment: Segment, offset: u64, sequence: u64 },
    #[error("the journal does not hold record {0}")]
    Missing(u64),
    #[error("dropping a segment of the journal: {0}")]
    Drop(io::Error),
}

/// See the module.
pub struct Mover {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    journal: Arc<Journal>,
    store: Store,
    /// Held while the store is written.
    writing: Mutex<()>,
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    cursor: Head,
    problem: Option<String>,
    closing: bool,
    ended: bool,
}

/// While it lives, the store's files do not change.
#[must_use]
pub struct Still<'a>(#[expect(dead_code, reason = "held, never read")] MutexGuard<'a, ()>);

impl Mover {
    /// Begins to move what comes after `cursor`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(journal: Arc<Journal>, store: Store, cursor: Head) -> io::Result<Self> {
        let state = Mutex::new(State { cursor, problem: None, closing: false, ended: false });
        let shared = Arc::new(Shared { journal, store, writing: Mutex::new(()), state, moved: Condvar::new() });
        let thread = thread::Builder::new().name("journal-mover".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                let result = catch_unwind(AssertUnwindSafe(|| shared.run()));
                let mut state = shared.lock();
                state.ended = true;
                if let Err(panic) = result {
                    let problem = format!("the store has failed: {}", panic_text(&*panic));
                    tracing::error!("{problem}; records stay in the journal until the agent is started again");
                    state.problem = Some(problem);
                }
                shared.moved.notify_all();
            }
        })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// The last record that was moved, and why no more are at present.
    #[must_use]
    pub fn condition(&self) -> (Head, Option<String>) {
        let state = self.shared.lock();
        (state.cursor, state.problem.clone())
    }

    /// Waits until `sequence` has been moved; `false` if that does not happen in time.
    #[must_use]
    pub fn settle(&self, sequence: u64, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        while state.cursor.sequence < sequence && !state.ended {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            state = self.shared.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.cursor.sequence >= sequence
    }

    /// Holds the store still.
    pub fn still(&self) -> Still<'_> {
        Still(self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Moves what is left, once the journal is closed, and ends. Everything that was moved is durable then.
    ///
    /// # Errors
    /// Why not everything could be moved; it stays in the journal.
    pub fn close(&self) -> Result<(), String> {
        self.shared.lock().closing = true;
        self.shared.moved.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The thread catches its own panics.
            let _ = thread.join();
        }
        self.shared.lock().problem.clone().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Mover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mover").field("cursor", &self.shared.lock().cursor).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut cursor = self.lock().cursor;
        let mut reader = None;
        while let Some(durable) = self.journal.wait_beyond(cursor.sequence) {
            match self.step(&mut reader, cursor, durable) {
                Ok(moved) => {
                    cursor = moved;
                    let mut state = self.lock();
                    state.cursor = moved;
                    state.problem = None;
                    self.moved.notify_all();
                }
                Err(error) => {
                    reader = None;
                    let problem = error.to_string();
                    let mut state = self.lock();
                    if state.problem.as_ref() != Some(&problem) {
                        tracing::warn!("records stay in the journal for now: {problem}");
                    }
                    state.problem = Some(problem);
                    if state.closing {
                        return;
                    }
                    drop(self.moved.wait_timeout(state, RETRY_AFTER).unwrap_or_else(PoisonError::into_inner));
                }
            }
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.store.sync() {
            self.lock().problem = Some(error.to_string());
        }
    }

    /// Moves one batch, and drops the segments that it emptied.
    fn step(&self, reader: &mut Option<(u64, Reader)>, cursor: Head, durable: u64) -> Result<Head, MoveError> {
        let segments = self.journal.segments();
        let frames = read(reader, &segments, cursor, durable)?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = self.fill(&frames, cursor)?;
        if segments.get(1).is_some_and(|second| second.first <= moved.sequence + 1) {
            self.store.sync()?;
            self.journal.drop_moved(moved.sequence).map_err(MoveError::Drop)?;
        }
        Ok(moved)
    }

    /// Moves frames, their index and the summaries of their sessions in one batch.
    fn fill(&self, frames: &[Frame], mut cursor: Head) -> Result<Head, MoveError> {
        let mut batch = Batch::default();
        let mut summaries: HashMap<String, Summary> = HashMap::new();
        let mut changes = Changes::default();
        for frame in frames {
            let header = &frame.header;
            batch.record(frame);
            if header.kind.is_of_the_agent() {
                batch.of_the_agent(header.sequence);
            }
            cursor = Head { sequence: header.sequence, hash: header.hash };
            // The body has the hash that the header carries, so it is what was appended: an event.
            let event: Brief<'_> = serde_json::from_slice(frame.body()).unwrap_or_default();
            changes.add(&self.store, frame)?;
            let id = match &event.session {
                Some(id) => id.clone().into_owned(),
                None if event.event == "connection-refused" => refused_id(header.time, header.sequence),
                None => continue,
            };
            batch.index(&id, header.sequence);
            let known = match summaries.remove(&id) {
                Some(known) => Some(known),
                None => self.store.session(&id)?,
            };
            let summary = match known {
                Some(mut known) => {
                    known.add(header, &event);
                    Some(known)
                }
                None if matches!(&*event.event, "session-started" | "connection-refused") => {
                    Summary::begin(header, frame.body(), id.clone())
                }
                None => None,
            };
            if let Some(summary) = summary {
                summaries.insert(id, summary);
            }
        }
        summaries.values().for_each(|summary| batch.session(summary));
        changes.finish(&self.store, &mut batch)?;
        self.store.apply(batch, cursor)?;
        Ok(cursor)
    }
}

/// The next frames after `moved`, up to `durable` and the bounds of a batch. At least one.
fn read(
    reader: &mut Option<(u64, Reader)>,
    segments: &[Segment],
    moved: Head,
    durable: u64,
) -> Result<Vec<Frame>, MoveError> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut bytes = 0;
    let mut last = moved;
    while last.sequence < durable && frames.len() < BATCH_RECORDS && bytes < BATCH_BYTES {
        let segment = segments
            .iter()
            .rev()
            .find(|segment| segment.first <= last.sequence + 1)
            .ok_or(MoveError::Missing(last.sequence + 1))?;
        let failed = |source| MoveError::Read { segment: segment.clone(), source };
        let current = match reader.take() {
            Some((first, current)) if first == segment.first => current,
            _ => Reader::open(segment).map_err(failed)?,
        };
        let (_, current) = reader.insert((segment.first, current));
        current.extend(segment.end);
        let offset = current.offset();
        match current.next().map_err(failed)? {
            // Before the first one that is missing, where the reader is new.
            Some(Ok(frame)) if frame.header.sequence <= last.sequence => {}
            Some(Ok(frame)) if frame.header.sequence == last.sequence + 1 => {
                if frame.header.previous != last.hash {
                    return Err(MoveError::Link { segment: segment.clone(), offset, sequence: frame.header.sequence });
                }
                last = Head { sequence: frame.header.sequence, hash: frame.header.hash };
                bytes += frame.bytes.len();
                frames.push(frame);
            }
            Some(Err(fault)) => return Err(MoveError::Broken { segment: segment.clone(), offset, fault }),
            Some(Ok(_)) | None => return Err(MoveError::Missing(last.sequence + 1)),
        }
    }
    Ok(frames)
}
