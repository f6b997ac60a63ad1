//! One at a time: what starts an agent with the whole host as its scope changes what every other process on it may do, so two
//! suites at once would judge each other's programs.

use std::fs::{File, TryLockError};

use crate::{Outcome, leftovers};

/// Shared by every checkout on the host.
const LOCK: &str = "/run/lock/postern-tests.lock";

/// The right to start agents on this host, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits, and says so, while another suite, demo or bench has it. What killed ones have left is removed first.
    ///
    /// # Errors
    /// The lock cannot be made.
    pub fn take() -> Outcome<Self> {
        let failed = |error| format!("{LOCK}: {error}");
        let lock = File::options().create(true).append(true).open(LOCK).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("another suite runs on this host; waiting until it has ended ({LOCK})");
                lock.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        leftovers::remove();
        Ok(Self { _lock: lock })
    }
}
