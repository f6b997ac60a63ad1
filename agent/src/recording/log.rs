//! The log as a whole: one writer per state directory, journal and store together.
//!
//! ```text
//! <state_dir>/lock      held while a log is open
//! <state_dir>/journal/  segments
//! <state_dir>/store/    sled
//! <state_dir>/closed    the last record, written when the log was closed in order; gone while it is open
//! ```

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use super::{
    AnswerPart, Append, AppendError, Event,
    frame::{Kind, MAX_BODY},
    ids,
    journal::{Clock, Condition, Head, Journal, SEGMENT_BYTES, sync_dir},
    mover::Mover,
    recovery::{self, RecoveryError},
    store::Store,
    verify::{self, Evidence, Report, VerifyError},
};

/// How long a query waits for what was appended before it to reach the store.
const SETTLE: Duration = Duration::from_secs(2);
/// Rows of an answer are split over several records when one would be too long; no further than this often.
const SPLITS: u32 = 16;

/// How a log is opened.
#[derive(Clone)]
pub struct Options {
    /// Where it lives. Made if it is not there; its parent must be.
    pub state_dir: PathBuf,
    /// See [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// The clock that dates the records.
    pub clock: Clock,
}

impl Options {
    /// The usual options.
    #[must_use]
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), segment_bytes: SEGMENT_BYTES, clock: Arc::new(system_time) }
    }
}

/// A log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path}: the log is in use by process {owner}", path = path.display())]
    InUse {
        /// The lock file.
        path: PathBuf,
        /// What the other process wrote into it: its pid.
        owner: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is there is not a log that may be written on.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The first record cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// What the log can tell about itself.
#[derive(Clone, Debug)]
pub struct LogStatus {
    /// The journal's condition.
    pub journal: Condition,
    /// The last record in the store.
    pub moved: Head,
    /// Bytes of the store.
    pub store_bytes: u64,
    /// Why records are not moved at present.
    pub problem: Option<String>,
}

/// An open log.
#[derive(Debug)]
pub struct Log {
    state_dir: PathBuf,
    journal: Arc<Journal>,
    pub(super) store: Store,
    mover: Mover,
    /// Sequence of the record of this start.
    started: u64,
    lock: File,
    /// Sessions of other processes, whose records come to this one.
    pub(super) elsewhere: RwLock<Elsewhere>,
}

/// Sessions of processes that this log was taken over from.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Those that go on.
    pub open: BTreeSet<String>,
    /// Those whose process ended without recording their end.
    pub lost: BTreeSet<String>,
}

impl Log {
    /// Opens the log in a state directory, makes good what a crash left behind, and records the start.
    ///
    /// # Errors
    /// The log is in use, cannot be read or written, or is not what was written. Nothing is changed in the last case.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let Options { state_dir, segment_bytes, clock } = options;
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let journal_dir = state_dir.join(JOURNAL);
        DirBuilder::new().recursive(true).mode(0o700).create(&journal_dir).map_err(failed(&journal_dir))?;
        let lock = lock(&state_dir)?;
        verify::remove_leftovers(&state_dir).map_err(failed(&state_dir))?;

        let recovered = recovery::recover(&state_dir)?;
        let journal =
            Journal::start(&journal_dir, recovered.segments, recovered.head, segment_bytes, Arc::clone(&clock))
                .map_err(failed(&journal_dir))?;
        let journal = Arc::new(journal);
        let started = Event::AgentStarted { version: env!("CARGO_PKG_VERSION").into(), boot: boot() };
        let started = append(&started, &|kind, body| journal.append_durable(kind, body))?;
        if let Some(torn) = recovered.torn {
            tracing::warn!(file = %torn.path.display(), offset = torn.offset, bytes = torn.bytes, "cut off an unfinished record");
            let file = torn.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let repaired = Event::LogRepaired { file, offset: torn.offset, bytes: torn.bytes };
            append(&repaired, &|kind, body| journal.append_durable(kind, body))?;
        }
        ids::not_before(recovered.last_time.max(clock()));
        let mover = Mover::start(Arc::clone(&journal), recovered.store.clone(), recovered.stored)
            .map_err(failed(&state_dir))?;
        let elsewhere = RwLock::default();
        Ok(Self { state_dir, journal, store: recovered.store, mover, started, lock, elsewhere })
    }

    /// Appends a record and waits until it is on disk: for targets with strict durability.
    ///
    /// # Errors
    /// It is not on disk for certain.
    pub fn append_durable(&self, event: &Event) -> Result<u64, AppendError> {
        append(event, &|kind, body| self.journal.append_durable(kind, body))
    }

    /// Appends a record as it is, and waits until it is on disk if it is to be durable.
    pub(super) fn append_body(&self, kind: Kind, body: &[u8], durable: bool) -> Result<u64, AppendError> {
        if durable { self.journal.append_durable(kind, body) } else { self.journal.append(kind, body) }
    }

    /// Says which sessions go on in processes that this log was taken over from.
    pub fn go_on_elsewhere(&self, open: BTreeSet<String>) {
        self.elsewhere.write().unwrap_or_else(PoisonError::into_inner).open = open;
    }

    /// Says of sessions that they have ended with their process, which could not record it.
    pub fn were_lost(&self, lost: impl IntoIterator<Item = String>) {
        self.elsewhere.write().unwrap_or_else(PoisonError::into_inner).lost.extend(lost);
    }

    /// Sequence of the last record that is on disk for certain.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.journal.condition().durable
    }

    /// How the log is.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let (moved, problem) = self.mover.condition();
        LogStatus { journal: self.journal.condition(), moved, store_bytes: self.store.bytes(), problem }
    }

    /// Sequence of the record with which this process began.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Waits until what has been appended so far can be queried, within a bound; else a query answers from what is there.
    pub fn settle(&self) -> bool {
        self.mover.settle(self.journal.condition().head.sequence, SETTLE)
    }

    /// Proves the chain over what is on disk, up to the last record appended before this call. Records are appended
    /// meanwhile; they are not moved while the store's files are copied.
    ///
    /// # Errors
    /// It cannot be examined. A broken chain is no error but a finding.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, VerifyError> {
        let head = self.journal.condition().head;
        let evidence = {
            // Nothing is moved, so no segment is dropped either before it has been opened.
            let _still = self.mover.still();
            self.store.flush()?;
            Evidence::of_running(&self.state_dir, self.journal.written(), head, self.store.cursor()?)?
        };
        evidence.verify(progress)
    }

    /// Records the end, brings everything to disk and into the store, and closes. Appends fail from now on.
    ///
    /// # Errors
    /// What did not work; nothing that was appended is lost by it, but the next start takes longer.
    pub fn close(&self) -> Result<(), AppendError> {
        self.close_with(&Event::AgentStopped {})
    }

    /// The same, with what the last record is to be.
    pub(super) fn close_with(&self, last: &Event) -> Result<(), AppendError> {
        // A log that cannot take this record says so when its journal is closed.
        let stopped = append(last, &|kind, body| self.journal.append(kind, body));
        let head = self.journal.close()?;
        self.mover.close().map_err(AppendError)?;
        stopped?;
        write_closed(&self.state_dir, head)
            .map_err(|error| AppendError(format!("{}: {error}", self.state_dir.join(CLOSED).display())))?;
        self.lock.unlock().map_err(|error| AppendError(error.to_string()))
    }
}

impl Append for Log {
    fn append(&self, event: &Event) -> Result<u64, AppendError> {
        append(event, &|kind, body| self.journal.append(kind, body))
    }
}

pub(super) const JOURNAL: &str = "journal";
pub(super) const STORE: &str = "store";
pub(super) const CLOSED: &str = "closed";
const LOCK: &str = "lock";

/// Appends a body to the journal, in one of its two ways.
pub(super) type WriteBody<'a> = &'a dyn Fn(Kind, &[u8]) -> Result<u64, AppendError>;

/// Appends an event; an answer that is too long for one record goes into several.
pub(super) fn append(event: &Event, write: WriteBody<'_>) -> Result<u64, AppendError> {
    append_split(event, write, SPLITS)
}

fn append_split(event: &Event, write: WriteBody<'_>, splits: u32) -> Result<u64, AppendError> {
    let body = serde_json::to_vec(event).map_err(|error| AppendError(error.to_string()))?;
    if body.len() > MAX_BODY
        && splits > 0
        && let Event::Answer { session, operation, answer: AnswerPart { columns, rows, truncated } } = event
        && rows.len() > 1
    {
        let (head, tail) = rows.split_at(rows.len() / 2);
        let part = |columns: &Option<Vec<String>>, rows: &[_], truncated| Event::Answer {
            session: session.clone(),
            operation: *operation,
            answer: AnswerPart { columns: columns.clone(), rows: rows.to_vec(), truncated },
        };
        append_split(&part(columns, head, false), write, splits - 1)?;
        return append_split(&part(&None, tail, *truncated), write, splits - 1);
    }
    write(Kind::of(event), &body)
}

/// Takes the lock of a state directory for as long as the file lives.
fn lock(state_dir: &Path) -> Result<File, OpenError> {
    let path = state_dir.join(LOCK);
    let failed = |source| OpenError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Without it the message is less helpful, no more.
            let _ = file.read_to_string(&mut owner);
            return Err(OpenError::InUse { path, owner: owner.trim().into() });
        }
        Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

/// Whether a process has the log in this directory open.
///
/// # Errors
/// The lock file is there and cannot be read.
pub fn in_use(state_dir: &Path) -> io::Result<bool> {
    match File::open(state_dir.join(LOCK)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the mark of a log that was closed in order.
fn write_closed(state_dir: &Path, head: Head) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(state_dir.join(CLOSED))?;
    writeln!(file, "{} {}", head.sequence, hex::encode(head.hash))?;
    file.sync_all()?;
    sync_dir(state_dir)
}

/// The last record of a log that was closed in order; `None` if it was not.
///
/// # Errors
/// The mark is there and cannot be read, or is not one.
pub(super) fn read_closed(state_dir: &Path) -> io::Result<Option<Head>> {
    let text = match fs::read_to_string(state_dir.join(CLOSED)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let head = text.trim().split_once(' ').and_then(|(sequence, hash)| {
        Some(Head { sequence: sequence.parse().ok()?, hash: hex::decode(hash).ok()?.try_into().ok()? })
    });
    head.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the mark of a closed log"))
}

/// Boot id of the host.
#[must_use]
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn system_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
