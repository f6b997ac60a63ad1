//! The journal: the log's durable truth, and the only thing that the hot path writes.
//!
//! [`Journal::append`] is one `write` under a mutex; a thread of its own syncs whatever is dirty every [`SYNC_EVERY`], or at
//! once when somebody waits ([`Journal::append_durable`]): all who wait share one `fdatasync`.
//!
//! *Invariant:* the bytes before a segment's end are whole frames. What a failed write left behind is cut off before
//! anything else is written, and until that succeeds every append fails.

use std::{
    fmt, fs,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    AppendError,
    frame::{HEADER, Hash, Header, Kind, MAX_BODY, digest},
    segment::Segment,
};

/// Bound on how long an appended record may not be on disk yet.
pub const SYNC_EVERY: Duration = Duration::from_millis(20);
/// A segment is closed when the next frame would make it longer than this: small enough to be dropped soon after it was
/// moved and to be replayed in a second, large enough to make files rare.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Pause between attempts to sync again after a failure.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Bytes that are written again at once when a sync has failed.
const REWRITE_STEP: u64 = 1 << 20;

/// Tells the time, in nanoseconds since 1970 (UTC).
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A place in the chain: a record, and its header's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Sequence; 0 before the first record.
    pub sequence: u64,
    /// Hash of its header.
    pub hash: Hash,
}

/// What the journal can tell about itself.
#[derive(Clone, Debug)]
pub struct Condition {
    /// The last record.
    pub head: Head,
    /// Sequence of the last record that is on disk for certain.
    pub durable: u64,
    /// Bytes in all segments.
    pub bytes: u64,
    /// When the last sync ended, in nanoseconds since 1970; `None` before the first.
    pub synced: Option<i64>,
    /// Why records cannot be appended at present.
    pub failure: Option<String>,
}

/// See the module.
pub struct Journal {
    shared: Arc<Shared>,
    syncer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    dir: PathBuf,
    segment_bytes: u64,
    clock: Clock,
    state: Mutex<State>,
    /// Something is dirty, somebody waits for it, or the journal closes.
    work: Condvar,
    /// More is durable, or syncing failed, or the journal has closed.
    progress: Condvar,
}

struct State {
    file: Arc<File>,
    active: Segment,
    older: Vec<Segment>,
    head: Head,
    durable: u64,
    /// Bytes of the active segment that are durable.
    durable_end: u64,
    synced: Option<i64>,
    /// Callers that wait for durability.
    waiting: usize,
    /// Bytes beyond the active segment's end may be on disk, from a write that failed.
    torn: bool,
    /// The last sync failed: what is not durable must be written again.
    unsynced: Option<String>,
    closing: bool,
    /// Nothing more will become durable.
    ended: bool,
}

impl Journal {
    /// Takes up a journal whose segments were scanned: `segments` in order (the last one is written on), `head` the last
    /// record in them.
    ///
    /// # Errors
    /// A segment cannot be opened or made, or what is there cannot be synced.
    pub fn start(
        dir: &Path,
        mut segments: Vec<Segment>,
        head: Head,
        segment_bytes: u64,
        clock: Clock,
    ) -> io::Result<Self> {
        let active = match segments.pop() {
            Some(active) => active,
            None => Segment { first: head.sequence + 1, path: Segment::path(dir, head.sequence + 1), end: 0 },
        };
        let file =
            OpenOptions::new().write(true).read(true).create(true).truncate(false).mode(0o600).open(&active.path)?;
        file.set_len(active.end)?;
        file.sync_data()?;
        sync_dir(dir)?;
        let state = State {
            file: Arc::new(file),
            durable_end: active.end,
            active,
            older: segments,
            head,
            durable: head.sequence,
            synced: None,
            waiting: 0,
            torn: false,
            unsynced: None,
            closing: false,
            ended: false,
        };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            segment_bytes,
            clock,
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
        });
        let syncer = thread::Builder::new().name("journal-sync".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.sync_until_closed()
        })?;
        Ok(Self { shared, syncer: Mutex::new(Some(syncer)) })
    }

    /// Appends a record and returns its sequence. It survives this process at once, and the host within [`SYNC_EVERY`].
    ///
    /// # Errors
    /// The record is not in the journal.
    pub fn append(&self, kind: Kind, body: &[u8]) -> Result<u64, AppendError> {
        self.shared.append(kind, body)
    }

    /// Appends a record and waits until it is on disk.
    ///
    /// # Errors
    /// The record is not on disk for certain.
    pub fn append_durable(&self, kind: Kind, body: &[u8]) -> Result<u64, AppendError> {
        let sequence = self.shared.append(kind, body)?;
        let mut state = self.shared.lock();
        state.waiting += 1;
        self.shared.work.notify_one();
        while state.durable < sequence && state.unsynced.is_none() {
            state = self.shared.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        if state.durable >= sequence {
            return Ok(sequence);
        }
        Err(AppendError(state.unsynced.clone().unwrap_or_default()))
    }

    /// Waits until a record after `sequence` is durable and returns the last durable sequence, or `None` once the journal
    /// is closed and nothing after `sequence` is durable.
    pub fn wait_beyond(&self, sequence: u64) -> Option<u64> {
        let mut state = self.shared.lock();
        while state.durable <= sequence && !state.ended {
            state = self.shared.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.durable > sequence).then_some(state.durable)
    }

    /// The segments in order, as far as they are durable.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let state = self.shared.lock();
        let mut segments = state.older.clone();
        segments.push(Segment { end: state.durable_end, ..state.active.clone() });
        segments
    }

    /// The segments in order, as far as they are written.
    #[must_use]
    pub fn written(&self) -> Vec<Segment> {
        let state = self.shared.lock();
        state.older.iter().chain([&state.active]).cloned().collect()
    }

    /// Removes the segments in which every record is `moved` or before, but never the active one.
    ///
    /// # Errors
    /// A file could not be removed; it will be tried again at the next call.
    pub fn drop_moved(&self, moved: u64) -> io::Result<()> {
        loop {
            let oldest = {
                let state = self.shared.lock();
                let next = state.older.get(1).unwrap_or(&state.active);
                match state.older.first() {
                    Some(oldest) if next.first <= moved + 1 => oldest.clone(),
                    _ => return Ok(()),
                }
            };
            fs::remove_file(&oldest.path)?;
            sync_dir(&self.shared.dir)?;
            self.shared.lock().older.retain(|segment| segment.first != oldest.first);
        }
    }

    /// How the journal is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let state = self.shared.lock();
        Condition {
            head: state.head,
            durable: state.durable,
            bytes: state.older.iter().map(|segment| segment.end).sum::<u64>() + state.active.end,
            synced: state.synced,
            failure: state
                .unsynced
                .clone()
                .or_else(|| state.torn.then(|| "what a failed write left behind cannot be cut off".into())),
        }
    }

    /// Syncs what is left and ends. Appends fail from now on.
    ///
    /// # Errors
    /// The last records may not be on disk.
    pub fn close(&self) -> Result<Head, AppendError> {
        self.shared.lock().closing = true;
        self.shared.work.notify_all();
        let syncer = self.syncer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(syncer) = syncer
            && syncer.join().is_err()
        {
            return Err(AppendError("the thread that syncs the journal has panicked".into()));
        }
        let state = self.shared.lock();
        match &state.unsynced {
            Some(reason) => Err(AppendError(reason.clone())),
            None => Ok(state.head),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Whoever needs to know whether it worked has called `close` before.
        let _ = self.close();
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is changed only after what it describes has succeeded, so it is right even after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, kind: Kind, body: &[u8]) -> Result<u64, AppendError> {
        let body_len = match u32::try_from(body.len()) {
            Ok(length) if body.len() <= MAX_BODY => length,
            _ => return Err(AppendError(format!("a record of {} bytes is longer than {MAX_BODY}", body.len()))),
        };
        let body_hash = digest(body);
        let mut bytes = vec![0; HEADER + body.len()];
        bytes[HEADER..].copy_from_slice(body);

        let mut state = self.lock();
        if state.closing {
            return Err(AppendError("the log is closed".into()));
        }
        if let Some(reason) = &state.unsynced {
            return Err(AppendError(reason.clone()));
        }
        state.mend().map_err(AppendError::of("cutting off what a failed write left behind"))?;
        if state.active.end > 0 && state.active.end + bytes.len() as u64 > self.segment_bytes {
            self.rotate(&mut state).map_err(AppendError::of("beginning a new segment"))?;
        }
        let sequence = state.head.sequence + 1;
        let header = Header::new(kind, sequence, (self.clock)(), body_len, state.head.hash, body_hash);
        bytes[..HEADER].copy_from_slice(&header.encode());
        if let Err(error) = state.file.write_all_at(&bytes, state.active.end) {
            state.torn = true;
            // If this fails too, the next append tries it again and fails with it.
            let _ = state.mend();
            return Err(AppendError::of("writing the journal")(error));
        }
        let clean = state.durable == state.head.sequence;
        state.active.end += bytes.len() as u64;
        state.head = Head { sequence, hash: header.hash };
        drop(state);
        if clean {
            self.work.notify_one();
        }
        Ok(sequence)
    }

    /// Begins a new segment. Everything before it is durable then.
    fn rotate(&self, state: &mut State) -> io::Result<()> {
        state.file.sync_data()?;
        state.durable = state.head.sequence;
        state.durable_end = state.active.end;
        let first = state.head.sequence + 1;
        let path = Segment::path(&self.dir, first);
        // An empty one may be there, from a rotation that failed after this.
        let file = OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o600).open(&path)?;
        sync_dir(&self.dir)?;
        state.file = Arc::new(file);
        let whole = std::mem::replace(&mut state.active, Segment { first, path, end: 0 });
        state.older.push(whole);
        state.durable_end = 0;
        self.progress.notify_all();
        Ok(())
    }

    fn sync_until_closed(&self) {
        let mut state = self.lock();
        loop {
            while state.durable == state.head.sequence && !state.closing {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.durable == state.head.sequence {
                break;
            }
            let pause = if state.unsynced.is_some() { RETRY_EVERY } else { SYNC_EVERY };
            state = self
                .work
                .wait_timeout_while(state, pause, |state| {
                    !state.closing && (state.waiting == 0 || state.unsynced.is_some())
                })
                .unwrap_or_else(PoisonError::into_inner)
                .0;

            let (file, segment, from) = (Arc::clone(&state.file), state.active.clone(), state.durable_end);
            let (sequence, again) = (state.head.sequence, state.unsynced.is_some());
            drop(state);
            // After a failed sync the kernel may take the pages for clean though they never reached the disk.
            let rewritten = if again { rewrite(&file, from, segment.end) } else { Ok(()) };
            let result = rewritten.and_then(|()| file.sync_data());
            let now = (self.clock)();
            state = self.lock();
            match result {
                Ok(()) => {
                    state.durable = state.durable.max(sequence);
                    if state.active.first == segment.first {
                        state.durable_end = segment.end;
                    }
                    state.synced = Some(now);
                    state.unsynced = None;
                }
                Err(error) => {
                    state.unsynced = Some(format!("syncing {}: {error}", segment.path.display()));
                    if state.closing {
                        break;
                    }
                }
            }
            self.progress.notify_all();
        }
        state.ended = true;
        self.progress.notify_all();
    }
}

impl State {
    /// Cuts off what a failed write left behind.
    fn mend(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.active.end)?;
            self.torn = false;
        }
        Ok(())
    }
}

impl AppendError {
    /// Makes an error of what was being done.
    fn of(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self(format!("{doing}: {error}"))
    }
}

/// Writes a part of a file over itself.
fn rewrite(file: &File, mut from: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; REWRITE_STEP as usize];
    while from < end {
        let step = REWRITE_STEP.min(end - from) as usize;
        file.read_exact_at(&mut buffer[..step], from)?;
        file.write_all_at(&buffer[..step], from)?;
        from += step as u64;
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
