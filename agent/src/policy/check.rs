//! `postern policy check`: whether a directory of policies would be taken, and what it names.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::model::Fragment;

use super::{
    fault::{Fault, LoadErrors},
    load::Policies,
};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The directory.
    pub directory: PathBuf,
    /// The files that were read; empty if there are faults.
    pub files: Vec<PathBuf>,
    /// Ids of the policies, sorted; empty if there are faults.
    pub policies: Vec<String>,
    /// Names that the policies use, by kind (`Role`, `Target`, …): one that the configuration lacks is never matched.
    pub named: BTreeMap<String, Vec<String>>,
    /// All that is wrong. Empty: the set would be taken.
    pub faults: Vec<Fault>,
}

impl Checked {
    /// Whether the set would be taken.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Checks a directory of policies.
#[must_use]
pub fn check(directory: &Path, fragments: &[Fragment]) -> Checked {
    let mut checked = Checked {
        directory: directory.to_owned(),
        files: Vec::new(),
        policies: Vec::new(),
        named: BTreeMap::new(),
        faults: Vec::new(),
    };
    match Policies::load(directory, fragments) {
        Err(LoadErrors(faults)) => checked.faults = faults,
        Ok(policies) => {
            checked.policies = policies.ids().map(ToOwned::to_owned).collect();
            checked.files = policies.files;
            checked.named = policies.named;
        }
    }
    checked
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.passed() {
            return LoadErrors(self.faults.clone()).fmt(f);
        }
        write!(f, "{}: {} in {}", self.directory.display(), count(self.policies.len(), "policy", "policies"), {
            count(self.files.len(), "file", "files")
        })?;
        for kind in ["Role", "Target"] {
            if let Some(names) = self.named.get(kind) {
                write!(f, "\n  names {kind} {}", names.join(", "))?;
            }
        }
        if self.policies.is_empty() {
            write!(f, "\n  nothing is permitted: there is no policy here")?;
        }
        Ok(())
    }
}

/// `1 policy`, `2 policies`.
fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
