//! Temporary directories.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use crate::undo::Undo;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A name that no other test uses: `postern-test-PID-N`.
#[must_use]
pub fn unique_name() -> String {
    format!("postern-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory below `/tmp` that goes, with all that is in it, when this is dropped.
///
/// It is readable by everyone, unlike most temporary directories, because clients run as other users.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    _undo: Undo,
}

impl TempDir {
    /// Makes one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> io::Result<Self> {
        let path = Path::new("/tmp").join(unique_name());
        let undo = Undo::new(format!("rm -rf -- '{}'", path.display()))?;
        fs::DirBuilder::new().mode(0o755).create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { path, _undo: undo })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file with a mode.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    }

    /// Makes a directory in it, with a mode and an owner.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn dir(&self, name: &str, mode: u32, uid: u32, gid: u32) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(uid), Some(gid))?;
        Ok(path)
    }
}
