//! Policies that can be replaced while sessions run.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use crate::model::{Action, Decide, Fragment, Principal, Verdict};

use super::{fault::LoadErrors, load::Policies};

/// The policies in force. A set with a fault never replaces them.
pub struct Reloadable {
    directory: PathBuf,
    fragments: Vec<Fragment>,
    current: RwLock<Arc<Numbered>>,
}

/// Policies, and how many sets were in force before them.
struct Numbered {
    policies: Policies,
    epoch: u64,
}

impl Reloadable {
    /// Loads the first set.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(directory: &Path, fragments: &[Fragment]) -> Result<Self, LoadErrors> {
        let policies = Policies::load(directory, fragments)?;
        Ok(Self {
            directory: directory.to_owned(),
            fragments: fragments.to_vec(),
            current: RwLock::new(Arc::new(Numbered { policies, epoch: 1 })),
        })
    }

    /// Reads the directory again and, if nothing is wrong, puts what is there in force. Returns the number of policies.
    ///
    /// # Errors
    /// All that is wrong with the new set; the old one stays in force.
    pub fn reload(&self) -> Result<usize, LoadErrors> {
        let policies = Policies::load(&self.directory, &self.fragments)?;
        let count = policies.rules.len();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let epoch = current.epoch + 1;
        *current = Arc::new(Numbered { policies, epoch });
        Ok(count)
    }

    /// How many policies are in force.
    #[must_use]
    pub fn count(&self) -> usize {
        self.current().policies.rules.len()
    }

    /// A holder of the lock only copies or replaces the pointer, so that a poisoned lock still holds a whole set.
    fn current(&self) -> Arc<Numbered> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Decide for Reloadable {
    fn decide(&self, principal: &Principal, action: &Action, now: &jiff::Zoned) -> Verdict {
        self.current().policies.decide(principal, action, now)
    }

    fn epoch(&self) -> u64 {
        self.current().epoch
    }

    fn depends_on_time(&self) -> bool {
        self.current().policies.depends_on_time()
    }
}
