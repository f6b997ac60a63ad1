//! SHA-256 of running files, kept as long as the file is the same.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};

use super::sys::FileStatus;

/// Files whose hash is kept. Beyond it all are forgotten: a host runs fewer different programs against its databases.
const MAX_KEPT: usize = 1024;

/// Longest file that is hashed. A client of a database is shorter, and hashing holds up its connection.
const MAX_LENGTH: u64 = 512 * 1024 * 1024;

/// A file that was changed less than this before it was hashed may be changed again without its times showing it: they are
/// as coarse as the kernel's tick.
const SETTLED: Duration = Duration::from_secs(2);

/// Hashes by everything that tells one state of a file from another.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<HashMap<FileStatus, String>>);

impl Hashes {
    /// The hash of the file with this status, which `open` opens. `None`: not on a local disk, too long, or not readable.
    ///
    /// Neither `open` nor a kept hash is used for a file system that `local` does not vouch for: another host could change the
    /// file unseen, and a server that hangs would hang us.
    pub(super) fn of(
        &self,
        status: &FileStatus,
        local: impl FnOnce() -> bool,
        open: impl FnOnce() -> io::Result<File>,
    ) -> Option<String> {
        if let Some(hash) = self.kept().get(status) {
            return Some(hash.clone());
        }
        if status.size > MAX_LENGTH || !local() {
            return None;
        }
        let file = open().ok()?;
        let hash = hash(&file, status).ok()?;
        if settled(status, SystemTime::now()) {
            let mut kept = self.kept();
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
            kept.insert(*status, hash.clone());
        }
        Some(hash)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<FileStatus, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hashes a file that must be the one with this status before and after.
fn hash(mut file: &File, expected: &FileStatus) -> io::Result<String> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut length = 0_u64;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        length += read as u64;
        if length > expected.size {
            break;
        }
        digest.update(&buffer[..read]);
    }
    let found = file.metadata()?;
    let same = length == expected.size
        && (found.dev(), found.ino(), found.size()) == (expected.device, expected.inode, expected.size)
        && (found.mtime(), found.mtime_nsec()) == (expected.modified.0, i64::from(expected.modified.1))
        && (found.ctime(), found.ctime_nsec()) == (expected.changed.0, i64::from(expected.changed.1));
    if same { Ok(hex::encode(digest.finalize())) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn settled(status: &FileStatus, now: SystemTime) -> bool {
    let changed = Duration::new(u64::try_from(status.changed.0).unwrap_or(0), status.changed.1);
    now.duration_since(UNIX_EPOCH).is_ok_and(|now| now > changed + SETTLED)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs, path::Path};

    use super::{super::sys, *};

    /// SHA-256 of `test`.
    const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn status(path: &Path) -> FileStatus {
        sys::status_of(path).expect("a file")
    }

    #[test]
    fn a_hash_is_kept_as_long_as_the_file_is_the_same() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write(&path, "test").expect("written");
        let mut settled = status(&path);
        // Not what the file says of itself, so that opening it again would fail the comparison.
        settled.changed.0 -= 60;
        let hashes = Hashes::default();
        hashes.kept().insert(settled, TEST.to_owned());
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            File::open(&path)
        };
        assert_eq!(hashes.of(&settled, || true, open).as_deref(), Some(TEST));
        assert_eq!(opened.get(), 0);
        assert_eq!(hashes.of(&status(&path), || true, open).as_deref(), Some(TEST));
        assert_eq!(hashes.of(&status(&path), || true, open).as_deref(), Some(TEST));
        // It was changed just now, and could be changed again unseen.
        assert_eq!(opened.get(), 2);
    }

    #[test]
    fn nothing_is_said_of_a_file_that_changes_or_is_not_local() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write(&path, "test").expect("written");
        let before = status(&path);
        assert_eq!(Hashes::default().of(&before, || false, || panic!("not to be opened")), None);
        fs::write(&path, "longer").expect("written");
        assert_eq!(Hashes::default().of(&before, || true, || File::open(&path)), None);
        let long = FileStatus { size: MAX_LENGTH + 1, ..before };
        assert_eq!(Hashes::default().of(&long, || true, || panic!("not to be opened")), None);
    }
}
