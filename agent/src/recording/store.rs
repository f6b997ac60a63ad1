//! sled as the store that answers questions, used so that its weaknesses cannot lose a record: the journal is the truth, a
//! segment of it goes only once [`Store::sync`] has returned, and what sled lacks after a crash is replayed.
//!
//! Everything is in one tree, so that one batch moves records, index and cursor together or not at all. The first byte of a
//! key tells what it is:
//!
//! | key | value |
//! |---|---|
//! | `r` sequence (u64, big-endian) chunk (u32, big-endian) | a part of a [block](super::blocks), at most [`CHUNK`] bytes |
//! | `s` session id | its [`Summary`](super::summary::Summary) as JSON |
//! | `x` session id, 0, sequence (u64, big-endian) | sequences of records that the session has, from this one on (u64, big-endian) |
//! | `a` sequence (u64, big-endian) | nothing: this record is about the agent |
//! | `t` target, uid (u32, big-endian) | its [`Tally`](super::coverage::Tally) in the epoch at hand |
//! | `e` | that epoch |
//! | `m` | the cursor: sequence and hash of the last record that was moved |

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::{
    blocks::{self, Packer},
    coverage::{Tallies, Tally},
    frame::{Fault, Frame, GENESIS, Hash},
    journal::Head,
    summary::Summary,
};

/// sled keeps values up to this size in line; longer ones would become files of their own.
pub const CHUNK: usize = 4096;
/// With sled's default of 512 KiB a cut tail can lose everything; with this every cut leaves a clean prefix.
const SEGMENT_SIZE: usize = 8 << 20;
/// Bound on the memory for pages: what is moved is written once and read rarely, and the host caches the file as well.
pub const CACHE: u64 = 16 << 20;
/// How long another instance in this process may take to let go of the database's lock after it was dropped.
const UNLOCK_WITHIN: Duration = Duration::from_secs(3);

const SESSION: u8 = b's';
const INDEX: u8 = b'x';
const OF_THE_AGENT: u8 = b'a';
const TALLY: u8 = b't';
const EPOCH: &[u8] = b"e";
/// What is said to be damaged if one of the two above is.
const TALLIES: &str = "a tally of connects";
const CURSOR: &[u8] = b"m";

/// The store does not work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled says so.
    #[error("{path}: {source}", path = path.display())]
    Sled {
        /// Directory of the store.
        path: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// sled panicked.
    #[error("{path}: the database is damaged so that it cannot be opened: {reason}", path = path.display())]
    Panicked {
        /// Directory of the store.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value is not what this program writes.
    #[error("{path}: {what} is not what was written", path = path.display())]
    Damaged {
        /// Directory of the store.
        path: PathBuf,
        /// Which value.
        what: String,
    },
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Store {
    db: sled::Db,
    path: PathBuf,
}

/// A record, or what is wrong with it, and the sequence that its place stands for.
pub type Filed = (u64, Result<Frame, Fault>);

/// What is moved at once.
#[derive(Default)]
pub struct Batch {
    batch: sled::Batch,
    blocks: Packer,
    index: HashMap<String, Vec<u64>>,
}

impl Store {
    /// Opens a store, or makes one. Panics of sled on damaged files become errors.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, cache: u64) -> Result<Self, StoreError> {
        let started = Instant::now();
        loop {
            match Self::try_open(path, cache) {
                Err(StoreError::Sled { source: sled::Error::Io(error), .. })
                    if error.to_string().contains("lock") && started.elapsed() < UNLOCK_WITHIN =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                result => return result,
            }
        }
    }

    fn try_open(path: &Path, cache: u64) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .segment_size(SEGMENT_SIZE)
            .cache_capacity(cache)
            // What is moved is synced by `sync`; sled's own flush would sync nothing.
            .flush_every_ms(None)
            .use_compression(false);
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => Ok(Self { db, path: path.to_owned() }),
            Ok(Err(source)) => Err(StoreError::Sled { path: path.to_owned(), source }),
            Err(panic) => Err(StoreError::Panicked { path: path.to_owned(), reason: panic_text(&panic) }),
        }
    }

    /// The last record that was moved here.
    ///
    /// # Errors
    /// The store does not work.
    pub fn cursor(&self) -> Result<Head, StoreError> {
        let Some(value) = self.db.get(CURSOR).map_err(|source| self.failed(source))? else {
            return Ok(Head { sequence: 0, hash: GENESIS });
        };
        let damaged = || self.damaged("the cursor");
        let (sequence, hash) = value.split_first_chunk::<8>().ok_or_else(damaged)?;
        Ok(Head { sequence: u64::from_be_bytes(*sequence), hash: hash.try_into().map_err(|_| damaged())? })
    }

    /// The record with this sequence, or what is wrong with it; `None` if it is not here.
    ///
    /// # Errors
    /// The store does not work.
    pub fn record(&self, sequence: u64) -> Result<Option<Result<Frame, Fault>>, StoreError> {
        let before = self.db.range(blocks::key(0, 0)..=blocks::key(sequence, u32::MAX)).next_back();
        let Some(found) = before else { return Ok(None) };
        let (key, _) = found.map_err(|source| self.failed(source))?;
        let first = blocks::first_of(&key);
        let mut block = Vec::new();
        for chunk in self.db.range(blocks::key(first, 0)..=blocks::key(first, u32::MAX)) {
            block.extend_from_slice(&chunk.map_err(|source| self.failed(source))?.1);
        }
        Ok(blocks::pick(first, &block, sequence))
    }

    /// Own hash of the header of a record; `None` if it is not here or broken.
    #[must_use]
    pub fn hash_of(&self, sequence: u64) -> Option<Hash> {
        Some(self.record(sequence).ok()??.ok()?.header.hash)
    }

    /// All records in order, each with the sequence that its place stands for, and with what is wrong with it if something
    /// is.
    pub fn records(&self) -> impl Iterator<Item = Result<Filed, StoreError>> + use<'_> {
        let mut chunks = self.db.range(blocks::key(0, 0)..=blocks::key(u64::MAX, u32::MAX)).peekable();
        let blocks = std::iter::from_fn(move || {
            let (first, mut block) = match chunks.next()? {
                Ok((key, value)) => (blocks::first_of(&key), value.to_vec()),
                Err(source) => return Some(Err(self.failed(source))),
            };
            while let Some(Ok((_, value))) =
                chunks.next_if(|next| next.as_ref().is_ok_and(|(key, _)| blocks::first_of(key) == first))
            {
                block.extend_from_slice(&value);
            }
            Some(Ok((first, block)))
        });
        blocks.flat_map(|block| {
            let (whole, failed) = match block {
                Ok((first, block)) => (Some(blocks::unpack(first, block).map(Ok)), None),
                Err(error) => (None, Some(Err(error))),
            };
            whole.into_iter().flatten().chain(failed)
        })
    }

    /// The summary of a session.
    ///
    /// # Errors
    /// The store does not work, or the summary is damaged.
    pub fn session(&self, id: &str) -> Result<Option<Summary>, StoreError> {
        let value = self.db.get(session_key(id)).map_err(|source| self.failed(source))?;
        value.map(|value| self.summary(&value)).transpose()
    }

    /// Summaries of the sessions whose ids begin with `prefix` and come before `before`, newest first.
    pub fn sessions(
        &self,
        prefix: &str,
        before: Option<&str>,
    ) -> impl DoubleEndedIterator<Item = Result<Summary, StoreError>> + use<'_> {
        let from = session_key(prefix);
        // Ids are ASCII, so 0xFF comes after every one with this prefix.
        let last = [from.as_slice(), &[0xFF]].concat();
        let to = before.map(session_key).filter(|key| *key < last).unwrap_or(last).max(from.clone());
        self.db.range(from..to).rev().map(|item| match item {
            Ok((_, value)) => self.summary(&value),
            Err(source) => Err(self.failed(source)),
        })
    }

    /// Sequences of a session's records in order, after `after`.
    pub fn sequences(&self, id: &str, after: u64) -> impl Iterator<Item = Result<u64, StoreError>> + use<'_> {
        // The part that holds `after` may begin before it.
        let part = self.db.range(index_key(id, 0)..=index_key(id, after)).next_back();
        let from = part.and_then(|part| Some(part.ok()?.0.to_vec())).unwrap_or_else(|| index_key(id, 0));
        let parts = self.db.range(from..=index_key(id, u64::MAX));
        let sequences = parts.flat_map(|part| {
            let (part, failed) = match part {
                Ok((_, part)) => (part.to_vec(), None),
                Err(source) => (Vec::new(), Some(Err(self.failed(source)))),
            };
            let (sequences, _) = part.as_chunks::<8>();
            sequences.iter().map(|bytes| Ok(u64::from_be_bytes(*bytes))).chain(failed).collect::<Vec<_>>()
        });
        sequences.filter(move |sequence| sequence.as_ref().map_or(true, |sequence| *sequence > after))
    }

    /// Sequences of the records about the agent, the newest first.
    pub fn of_the_agent(&self) -> impl Iterator<Item = Result<u64, StoreError>> + use<'_> {
        self.db.scan_prefix([OF_THE_AGENT]).rev().map(|found| {
            let (key, _) = found.map_err(|source| self.failed(source))?;
            let sequence = key.strip_prefix(&[OF_THE_AGENT]).and_then(|key| key.try_into().ok());
            sequence.map(u64::from_be_bytes).ok_or_else(|| self.damaged("the index of records about the agent"))
        })
    }

    /// What the records up to the cursor say of connects, in the epoch at hand.
    ///
    /// # Errors
    /// The store does not work, or a tally is damaged.
    pub fn tallies(&self) -> Result<Tallies, StoreError> {
        let mut tallies = Tallies { epoch: self.epoch()?, rows: BTreeMap::new() };
        for found in self.db.scan_prefix([TALLY]) {
            let (key, value) = found.map_err(|source| self.failed(source))?;
            let row = row_of(&key).ok_or_else(|| self.damaged(TALLIES))?;
            tallies.rows.insert(row, Tally::decode(&value).ok_or_else(|| self.damaged(TALLIES))?);
        }
        Ok(tallies)
    }

    /// The same of one target and user.
    ///
    /// # Errors
    /// As for [`Store::tallies`].
    pub fn tally(&self, row: (u32, u32)) -> Result<Tally, StoreError> {
        match self.db.get(tally_key(row)).map_err(|source| self.failed(source))? {
            Some(value) => Tally::decode(&value).ok_or_else(|| self.damaged(TALLIES)),
            None => Ok(Tally::default()),
        }
    }

    /// The epoch at hand; `None`: no agent has recorded one yet.
    ///
    /// # Errors
    /// As for [`Store::tallies`].
    pub fn epoch(&self) -> Result<Option<String>, StoreError> {
        let epoch = self.db.get(EPOCH).map_err(|source| self.failed(source))?;
        epoch.map(|epoch| String::from_utf8(epoch.to_vec()).map_err(|_| self.damaged(TALLIES))).transpose()
    }

    /// Moves a batch, whole or not at all.
    ///
    /// # Errors
    /// The store does not work.
    pub fn apply(&self, batch: Batch, cursor: Head) -> Result<(), StoreError> {
        let mut batch = batch.finish();
        batch.insert(CURSOR, [cursor.sequence.to_be_bytes().as_slice(), &cursor.hash].concat());
        self.db.apply_batch(batch).map_err(|source| self.failed(source))
    }

    /// Makes everything that was moved durable.
    ///
    /// # Errors
    /// It may not be.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|source| self.failed(source))?;
        // sled's flush writes and does not sync.
        let file = self.path.join("db");
        File::open(&file).and_then(|file| file.sync_data()).map_err(|source| StoreError::Io { path: file, source })
    }

    /// Hands everything to the operating system, so that a copy of the files is complete.
    ///
    /// # Errors
    /// The store does not work.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(drop).map_err(|source| self.failed(source))
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.db.size_on_disk().unwrap_or_default()
    }

    fn summary(&self, value: &[u8]) -> Result<Summary, StoreError> {
        serde_json::from_slice(value).map_err(|_| self.damaged("a session's summary"))
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what: what.into() }
    }

    fn failed(&self, source: sled::Error) -> StoreError {
        StoreError::Sled { path: self.path.clone(), source }
    }
}

impl Batch {
    /// A record: the one after that which was added before.
    pub fn record(&mut self, frame: &Frame) {
        let batch = &mut self.batch;
        self.blocks.add(frame, |key, value| batch.insert(&key, value));
    }

    /// The session has this record.
    pub fn index(&mut self, id: &str, sequence: u64) {
        match self.index.get_mut(id) {
            Some(sequences) => sequences.push(sequence),
            None => _ = self.index.insert(id.to_owned(), vec![sequence]),
        }
    }

    /// A session's summary.
    pub fn session(&mut self, summary: &Summary) {
        if let Ok(value) = serde_json::to_vec(summary) {
            self.batch.insert(session_key(&summary.session), value);
        }
    }

    /// A record is about the agent.
    pub fn of_the_agent(&mut self, sequence: u64) {
        self.batch.insert([[OF_THE_AGENT].as_slice(), &sequence.to_be_bytes()].concat(), &[]);
    }

    /// What the records say of a target and user.
    pub fn tally(&mut self, row: (u32, u32), tally: Tally) {
        self.batch.insert(tally_key(row), tally.encode());
    }

    /// Of a target and user nothing is said any more.
    pub fn no_tally(&mut self, row: (u32, u32)) {
        self.batch.remove(tally_key(row));
    }

    /// The epoch at hand.
    pub fn epoch(&mut self, epoch: &str) {
        self.batch.insert(EPOCH, epoch);
    }

    fn finish(mut self) -> sled::Batch {
        let batch = &mut self.batch;
        self.blocks.finish(|key, value| batch.insert(&key, value));
        for (id, sequences) in self.index {
            let first = sequences.first().copied().unwrap_or_default();
            let sequences: Vec<u8> = sequences.into_iter().flat_map(u64::to_be_bytes).collect();
            batch.insert(index_key(&id, first), sequences);
        }
        self.batch
    }
}

/// Copies a store's files, as far as it has any.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    };
    fs::create_dir_all(to).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(failed(&target))?;
        }
    }
    Ok(())
}

/// Removes sled's snapshots, which it can do without.
///
/// # Errors
/// A file cannot be removed.
pub fn drop_snapshots(path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn session_key(id: &str) -> Vec<u8> {
    [&[SESSION], id.as_bytes()].concat()
}

fn tally_key((target, uid): (u32, u32)) -> Vec<u8> {
    [[TALLY].as_slice(), &target.to_be_bytes(), &uid.to_be_bytes()].concat()
}

fn row_of(key: &[u8]) -> Option<(u32, u32)> {
    let (target, uid) = key.strip_prefix(&[TALLY])?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*target), u32::from_be_bytes(uid.try_into().ok()?)))
}

fn index_key(id: &str, sequence: u64) -> Vec<u8> {
    [&[INDEX], id.as_bytes(), &[0], &sequence.to_be_bytes()].concat()
}

/// What a panic said.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no reason given".into())
}
