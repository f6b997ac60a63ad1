//! What happens before a log is written on: the store is opened, with its files copied first if the last stop was unclean,
//! and compared with the journal.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    journal::{Head, sync_dir},
    log::{CLOSED, JOURNAL, STORE, read_closed},
    scan::{Scan, ScanError, Torn, scan},
    segment::Segment,
    store::{self, CACHE, Store, StoreError},
};

/// Copy of the store's files as a crash left them, while they are recovered.
const UNCLEAN: &str = "store.unclean";

/// A log that may be written on.
#[derive(Debug)]
pub struct Recovered {
    /// The store.
    pub store: Store,
    /// The last record in it.
    pub stored: Head,
    /// The journal's segments.
    pub segments: Vec<Segment>,
    /// The last record.
    pub head: Head,
    /// When it was appended, in nanoseconds since 1970; 0 if there is none.
    pub last_time: i64,
    /// The unfinished frame that was cut off.
    pub torn: Option<Torn>,
}

/// What is there is not a log that may be written on.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The journal is not what was written.
    #[error("the journal is not what was written: {0}")]
    Scan(#[from] ScanError),
    /// The log ends before the record with which it was closed, or with another.
    #[error("{path}: the log was closed with record {closed} and now ends with {found}{other}", path = path.display(), other = if closed == found { ", another one" } else { "" })]
    Shortened {
        /// The mark of the closed log.
        path: PathBuf,
        /// The record that the mark names.
        closed: u64,
        /// The last record.
        found: u64,
    },
}

/// Makes a log ready to be written on. The caller holds its lock.
///
/// # Errors
/// See [`RecoveryError`]. The journal is not changed then.
pub fn recover(state_dir: &Path) -> Result<Recovered, RecoveryError> {
    let failed = |path: PathBuf| move |source| RecoveryError::Io { path, source };
    let (path, unclean, mark) = (state_dir.join(STORE), state_dir.join(UNCLEAN), state_dir.join(CLOSED));
    let closed = read_closed(state_dir).map_err(failed(mark.clone()))?;
    if closed.is_none() && path.exists() {
        // A copy that is already there is older: of a recovery that did not end, and nearer to what the crash left.
        if !unclean.exists() {
            let unfinished = state_dir.join(format!("{UNCLEAN}.part"));
            remove_dir(&unfinished)?;
            store::copy(&path, &unfinished)?;
            fs::rename(&unfinished, &unclean).map_err(failed(unclean.clone()))?;
        }
    }
    let (store, stored, scan) = match open(state_dir, &path) {
        Ok(opened) => opened,
        Err(error) if unclean.exists() => {
            tracing::warn!("trying again without the store's snapshots: {error}");
            remove_dir(&path)?;
            store::copy(&unclean, &path)?;
            store::drop_snapshots(&path)?;
            open(state_dir, &path)?
        }
        Err(error) => return Err(error),
    };
    if let Some(closed) = closed
        && closed != scan.head
    {
        return Err(RecoveryError::Shortened { path: mark, closed: closed.sequence, found: scan.head.sequence });
    }
    if let Some(torn) = &scan.torn {
        torn.cut().map_err(failed(torn.path.clone()))?;
    }
    if closed.is_some() {
        fs::remove_file(&mark).map_err(failed(mark.clone()))?;
        sync_dir(state_dir).map_err(failed(state_dir.to_owned()))?;
    }
    remove_dir(&unclean)?;
    Ok(Recovered {
        store,
        stored,
        segments: scan.segments,
        head: scan.head,
        last_time: scan.last_time,
        torn: scan.torn,
    })
}

/// Opens the store and compares the journal with it. Drops the store again if they do not fit.
fn open(state_dir: &Path, path: &Path) -> Result<(Store, Head, Scan), RecoveryError> {
    let store = Store::open(path, CACHE)?;
    let stored = store.cursor()?;
    let scan = scan(&state_dir.join(JOURNAL), stored, &|sequence| store.hash_of(sequence))?;
    Ok((store, stored, scan))
}

fn remove_dir(path: &Path) -> Result<(), RecoveryError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RecoveryError::Io { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
