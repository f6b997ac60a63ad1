//! Keys of the masking style `hash`: one secret of this host, from which each target's own key is derived.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// File of the secret in the state directory.
const FILE: &str = "masking.key";

/// Bytes of the secret: as many as the hash has.
const BYTES: usize = 32;

/// The host's secret.
pub struct MaskingKeys(Zeroizing<Vec<u8>>);

impl MaskingKeys {
    /// Reads the secret of a state directory, and makes one at the first start.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not a key. A damaged one is not replaced: hashes would silently change.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match fs::read(&path).map(Zeroizing::new) {
            Ok(bytes) if bytes.len() == BYTES => Ok(Self(bytes)),
            Ok(bytes) => Err(named(io::Error::other(format!("{} bytes are not a key of {BYTES}", bytes.len())))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(&path).map_err(named),
            Err(error) => Err(named(error)),
        }
    }

    /// The key of a target.
    #[must_use]
    pub fn of(&self, target: &str) -> Arc<[u8]> {
        let mut hash = Sha256::new();
        hash.update(self.0.as_slice());
        hash.update(target.as_bytes());
        Arc::from(hash.finalize().as_slice())
    }

    fn make(path: &Path) -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; BYTES]);
        fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        // Whole or not at all: under another name first.
        let unfinished = path.with_extension("new");
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_stays_and_targets_have_keys_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let first = MaskingKeys::open(dir.path()).unwrap();
        let again = MaskingKeys::open(dir.path()).unwrap();
        assert_eq!(first.of("orders"), again.of("orders"));
        assert_ne!(first.of("orders"), first.of("ledger"));
        fs::write(dir.path().join(FILE), b"short").unwrap();
        assert!(MaskingKeys::open(dir.path()).is_err());
    }
}
