//! What names stood for last, over the end of the agent and of the host: a small file in the state directory.
//!
//! It is a memory, not a truth: without it, or with a wrong one, names are resolved all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// Name of the file in the state directory.
const FILE: &str = "names.json";

/// The longest file that is read: hundreds of names with as many addresses as a name can have.
const LONGEST: u64 = 8 << 20;

/// Names, and what they stood for.
pub(super) type Names = BTreeMap<String, BTreeSet<IpAddr>>;

/// The file.
pub(super) struct Kept(PathBuf);

impl Kept {
    /// In a state directory.
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(state_dir.join(FILE))
    }

    /// What is in it; nothing if it is not there, or makes no sense.
    pub(super) fn read(&self) -> Names {
        let read = || -> io::Result<Names> {
            let mut text = Vec::new();
            fs::File::open(&self.0)?.take(LONGEST).read_to_end(&mut text)?;
            Ok(serde_json::from_slice(&text)?)
        };
        read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %self.0.display(), %error, "what names stood for last is not known");
            }
            Names::new()
        })
    }

    /// Writes it anew, under another name first, so that there is never half of one.
    pub(super) fn write(&self, names: &Names) -> io::Result<()> {
        let new = self.0.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(names)?)?;
        file.sync_data()?;
        fs::rename(&new, &self.0)
    }
}
