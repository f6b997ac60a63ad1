//! Where the agent is, for commands that only ask it.
//!
//! They need a few directories of the configuration, and whoever may ask the agent need not be allowed to read all that the
//! configuration names. So nothing else of it is looked at here, and a file that is not there or not readable means the
//! defaults.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use toml_edit::{Document, Item};

use super::Failure;

/// The directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The control socket is here.
    pub runtime_dir: PathBuf,
    /// The log and the agent's authority are here.
    pub state_dir: PathBuf,
    /// The policies are here.
    pub policies: PathBuf,
    /// The kernel side is pinned here.
    pub pin_dir: PathBuf,
}

impl Places {
    /// Reads them from a configuration file. One that the user named must be there.
    ///
    /// # Errors
    /// The file is not TOML, a directory is not a text, or a file that was named cannot be read.
    pub fn of(config: &Path, named: bool) -> Result<Self, Failure> {
        let text = match fs::read_to_string(config) {
            Ok(text) => text,
            Err(error)
                if !named && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
            {
                String::new()
            }
            Err(error) => {
                return Err(Failure::usage(format!("{}: the configuration cannot be read: {error}", config.display()))
                    .with_remedy("Name the configuration that the agent was started with: --config FILE."));
            }
        };
        let check = format!("`postern check --config {}` tells more.", config.display());
        let document: Document<&str> = Document::parse(text.as_str()).map_err(|error| {
            Failure::usage(format!("{}: this is not TOML: {}", config.display(), error.message()))
                .with_remedy(check.clone())
        })?;
        let agent = document.get("agent");
        let place = |key: &str, default: &str| match agent.and_then(|agent| agent.get(key)) {
            None => Ok(PathBuf::from(default)),
            Some(item) => item.as_str().map(PathBuf::from).ok_or_else(|| wrong_type(config, key, item, &check)),
        };
        Ok(Self {
            runtime_dir: place("runtime_dir", "/run/postern")?,
            state_dir: place("state_dir", "/var/lib/postern")?,
            policies: place("policies", "/etc/postern/policies")?,
            pin_dir: place("pin_dir", "/sys/fs/bpf/postern")?,
        })
    }
}

fn wrong_type(config: &Path, key: &str, item: &Item, check: &str) -> Failure {
    Failure::usage(format!("{}: {key} in [agent] is not a text but {}", config.display(), item.type_name()))
        .with_remedy(check)
}
