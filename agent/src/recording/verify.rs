//! Proves the chain over what is on disk, or names the first record that is not what was appended.
//!
//! The store and the journal are walked side by side, record by record. Where both hold a record, both are checked, and
//! they must hold the same one. A break is reported at the first record that can be shown to be wrong: a record that was
//! written anew with a hash of its own is named itself, not the one after it, if its successors vouch for each other.
//!
//! Not provable from these files alone: that nobody rewrote *everything* from some record to the end, as root can.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    frame::{Frame, GENESIS},
    journal::Head,
    log::{JOURNAL, STORE, in_use, read_closed},
    segment::Segment,
    sources::{Item, Journal, Place, Source, Stored, claims},
    store::{self, Store, StoreError},
};

/// Prefix of the copies that are made of a store to examine it.
const COPY: &str = "verify-";
/// Bound on the memory for pages of the copy.
const CACHE: u64 = 16 << 20;
/// Progress is told once per this many records.
const TELL_EVERY: u64 = 4096;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Records that were proven, from the first one on.
    pub verified: u64,
    /// Hash of the last of them, in hexadecimal.
    pub head: String,
    /// The first record that is wrong; `None`: the chain is intact.
    pub broken: Option<Break>,
    /// What an auditor should know beside.
    pub notes: Vec<String>,
}

/// A record that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// Its sequence.
    pub sequence: u64,
    /// When it was appended, as far as it can be told.
    pub time: Option<Timestamp>,
    /// Its session, as far as it can be told.
    pub session: Option<String>,
    /// In one word.
    pub what: What,
    /// In words.
    pub detail: String,
    /// The file, or the store's directory.
    pub file: PathBuf,
    /// Offset of the record in the file, if it is known.
    pub offset: Option<u64>,
}

/// What was done to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is not there.
    Removed,
    /// Its bytes are not those that were written.
    Changed,
    /// It is at another place.
    Reordered,
    /// It is well formed, and not the one that was appended.
    Forged,
    /// A part of it is missing.
    Truncated,
}

/// The log cannot be examined.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store does not work, for another reason than damage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A running agent would change the files meanwhile.
    #[error("{0}: a running agent writes this log; ask it instead: `postern audit verify` without --state-dir")]
    InUse(PathBuf),
    /// There is no log.
    #[error("{0}: there is no log here")]
    Nothing(PathBuf),
}

/// The files of a log, opened for examination. Nothing in the state directory's log is changed by it.
#[derive(Debug)]
pub struct Evidence {
    store_dir: PathBuf,
    journal: Journal,
    copy: Copy,
    known: Option<Known>,
}

/// What must be there, and who says so.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The last record.
    head: Head,
    /// The last record in the store.
    moved: Head,
    who: &'static str,
}

/// A copy of a store's files, removed when dropped: sled writes to whatever it opens.
#[derive(Debug)]
struct Copy(PathBuf);

impl Evidence {
    /// Of a log that no process has open.
    ///
    /// # Errors
    /// It is in use, or cannot be read.
    pub fn of_stopped(state_dir: &Path) -> Result<Self, VerifyError> {
        let journal = state_dir.join(JOURNAL);
        // A directory that may not be looked into is not one without a log.
        let is_there = |path: &Path| path.try_exists().map_err(failed(path));
        if !is_there(&journal)? && !is_there(&state_dir.join(STORE))? {
            return Err(VerifyError::Nothing(state_dir.to_owned()));
        }
        if in_use(state_dir).map_err(failed(state_dir))? {
            return Err(VerifyError::InUse(state_dir.to_owned()));
        }
        let segments = match Segment::list(&journal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed.map_err(failed(&journal))?,
        };
        // A log is closed only when the store holds everything.
        let closed = read_closed(state_dir).map_err(failed(state_dir))?;
        let known = closed.map(|head| Known { head, moved: head, who: "the mark of the closed log" });
        Self::gather(state_dir, &std::env::temp_dir(), segments, known)
    }

    /// Of a log that this process has open, while its store is held still. `head` is the last record in the journal, and
    /// `moved` that in the store.
    pub(super) fn of_running(
        state_dir: &Path,
        segments: Vec<Segment>,
        head: Head,
        moved: Head,
    ) -> Result<Self, VerifyError> {
        let known = Some(Known { head, moved, who: "the running agent" });
        Self::gather(state_dir, state_dir, segments, known)
    }

    fn gather(
        state_dir: &Path,
        scratch: &Path,
        segments: Vec<Segment>,
        known: Option<Known>,
    ) -> Result<Self, VerifyError> {
        let store_dir = state_dir.join(STORE);
        let copy = Copy::make(scratch)?;
        if store_dir.is_dir() {
            store::copy(&store_dir, &copy.0)?;
        }
        let journal =
            Journal::open(&state_dir.join(JOURNAL), segments).map_err(|(path, source)| failed(&path)(source))?;
        Ok(Self { store_dir, journal, copy, known })
    }

    /// Proves the chain. Progress is told as records proven and records expected.
    ///
    /// # Errors
    /// The files cannot be read. A broken chain is no error but a finding.
    pub fn verify(self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, VerifyError> {
        let Self { store_dir, mut journal, copy, known } = self;
        let unreadable = |error: StoreError| {
            let detail = format!("the store cannot be read: {error}");
            let broken = Break { what: What::Changed, ..Break::removed(1, detail, Place::whole(&store_dir)) };
            Ok(Report { verified: 0, head: hex::encode(GENESIS), broken: Some(broken), notes: Vec::new() })
        };
        let store = match Store::open(&copy.0, CACHE) {
            Ok(store) => store,
            Err(error) => return unreadable(error),
        };
        let cursor = match store.cursor() {
            Ok(cursor) => cursor,
            Err(error) => return unreadable(error),
        };
        let mut expected = vec![(cursor, "the store's cursor")];
        expected.extend(known.iter().flat_map(|known| [(known.head, known.who), (known.moved, known.who)]));
        let total = expected.iter().map(|(head, _)| head.sequence).max().unwrap_or_default().max(journal.last_start());
        let mut stored = Stored::new(&store, &store_dir);
        let mut report = walk(&mut stored, &mut journal, &expected, &mut |done| progress(done, total.max(done)))?;
        progress(report.verified, total.max(report.verified));
        if report.broken.is_none()
            && let Some(Known { moved, who, .. }) = known
            && stored.last() < moved.sequence
        {
            let detail =
                format!("{who} has moved records up to {} into the store; the journal holds it", moved.sequence);
            report.broken = Some(Break::removed(stored.last() + 1, detail, stored.end()));
            report.verified = stored.last();
        }
        if report.broken.is_none() && known.is_none() {
            report.notes.extend(journal.unfinished());
            report.notes.push("the agent was not stopped in order".into());
        }
        Ok(report)
    }
}

/// Walks both sources side by side.
fn walk(
    stored: &mut Stored<'_>,
    journal: &mut Journal,
    expected: &[(Head, &str)],
    progress: &mut dyn FnMut(u64),
) -> Result<Report, VerifyError> {
    let mut head = Head { sequence: 0, hash: GENESIS };
    let mut before: Option<(Frame, Place)> = None;
    loop {
        let next = head.sequence + 1;
        let mut found: Vec<(Frame, Place)> = Vec::new();
        let mut wrong: Option<Break> = None;
        let sources: [&mut dyn Source; 2] = [stored, journal];
        for source in sources {
            if source.begins() > next {
                continue;
            }
            let Some(item) = source.take()? else { continue };
            match check(item, head, source, before.as_ref())? {
                Ok(frame) => found.push(frame),
                Err(broken) => wrong = wrong.or(Some(broken)),
            }
        }
        if let Some(mut broken) = wrong {
            // What one source has lost or changed, the other may still tell.
            if let Some((frame, _)) = found.first().filter(|(frame, _)| frame.header.sequence == broken.sequence) {
                let (time, session) = claims(&frame.bytes);
                broken.time = broken.time.or(time);
                broken.session = session.or(broken.session);
            }
            return Ok(Report::broken_at(head.sequence, head.hash, broken));
        }
        let Some((frame, place)) = found.pop() else { break };
        if let Some((other, elsewhere)) = found.pop()
            && other.header.hash != frame.header.hash
        {
            let detail = format!("{place} and {elsewhere} hold different records");
            return Ok(Report::broken_at(head.sequence, head.hash, Break::of(&frame, What::Forged, detail, place)));
        }
        let said =
            expected.iter().find(|(expected, _)| expected.sequence == next && expected.hash != frame.header.hash);
        if let Some((_, who)) = said {
            let detail = format!("it is not the record that {who} knows");
            return Ok(Report::broken_at(head.sequence, head.hash, Break::of(&frame, What::Forged, detail, place)));
        }
        head = Head { sequence: next, hash: frame.header.hash };
        before = Some((frame, place));
        if next.is_multiple_of(TELL_EVERY) {
            progress(next);
        }
    }
    let missing = expected.iter().filter(|(expected, _)| expected.sequence > head.sequence);
    let begins = journal.begins();
    let broken = if begins != u64::MAX && begins > head.sequence + 1 {
        let detail = format!("the store ends before it and the journal begins with record {begins}");
        Some(Break::removed(head.sequence + 1, detail, stored.end()))
    } else {
        missing.max_by_key(|(expected, _)| expected.sequence).map(|(last, who)| {
            Break::removed(head.sequence + 1, format!("{who} knows records up to {}", last.sequence), journal.end())
        })
    };
    match broken {
        Some(broken) => Ok(Report::broken_at(head.sequence, head.hash, broken)),
        None => Ok(Report { verified: head.sequence, head: hex::encode(head.hash), broken: None, notes: Vec::new() }),
    }
}

/// Checks that an item is the record after `head`.
fn check(
    item: Item,
    head: Head,
    source: &mut dyn Source,
    before: Option<&(Frame, Place)>,
) -> Result<Result<(Frame, Place), Break>, VerifyError> {
    let expected = head.sequence + 1;
    let Item { place, filed, frame, raw } = item;
    let frame = match frame {
        Ok(frame) => frame,
        Err(fault) => {
            let (time, session) = claims(&raw);
            let (file, offset) = (place.file, place.offset);
            return Ok(Err(if filed > expected {
                Break::removed(expected, format!("the next one here is record {filed}"), Place { file, offset })
            } else {
                let what = if fault.is_short() { What::Truncated } else { What::Changed };
                Break { sequence: expected, time, session, what, detail: fault.to_string(), file, offset }
            }));
        }
    };
    let found = frame.header.sequence;
    if found != expected {
        let broken = if filed > expected && filed == found {
            match source.holds_later(expected)? {
                true => Break::misplaced(expected, format!("record {found} is in its place"), place),
                false => Break::removed(expected, format!("the next one here is record {found}"), place),
            }
        } else {
            Break::misplaced(expected, format!("record {found} is in its place"), place)
        };
        return Ok(Err(broken));
    }
    if frame.header.previous != head.hash {
        let vouched = source.peek()?.is_some_and(|next| next.header.previous == frame.header.hash);
        return Ok(Err(match before {
            Some((before, place)) if vouched => {
                let detail = format!("it was written anew: record {expected} continues another one");
                Break::of(before, What::Forged, detail, place.clone())
            }
            _ => Break::of(&frame, What::Forged, "it does not continue the record before it".into(), place),
        }));
    }
    Ok(Ok((frame, place)))
}

impl Report {
    fn broken_at(verified: u64, hash: [u8; 32], broken: Break) -> Self {
        let verified = verified.min(broken.sequence.saturating_sub(1));
        Self { verified, head: hex::encode(hash), broken: Some(broken), notes: Vec::new() }
    }
}

impl Break {
    fn of(frame: &Frame, what: What, detail: String, place: Place) -> Self {
        let (time, session) = claims(&frame.bytes);
        Self { sequence: frame.header.sequence, time, session, what, detail, file: place.file, offset: place.offset }
    }

    fn removed(sequence: u64, detail: String, place: Place) -> Self {
        Self {
            sequence,
            time: None,
            session: None,
            what: What::Removed,
            detail,
            file: place.file,
            offset: place.offset,
        }
    }

    fn misplaced(sequence: u64, detail: String, place: Place) -> Self {
        Self { what: What::Reordered, ..Self::removed(sequence, detail, place) }
    }
}

impl Copy {
    fn make(scratch: &Path) -> Result<Self, VerifyError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = scratch.join(format!("{COPY}{}-{count}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // Left behind, it is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes copies that an agent left behind when it was killed.
pub(super) fn remove_leftovers(state_dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(COPY) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> VerifyError {
    let path = path.to_owned();
    move |source| VerifyError::Io { path, source }
}
