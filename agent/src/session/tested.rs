//! What the last self-test found.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Proxy;
use crate::selftest::Attempt;

/// The result of the last self-test; a problem in itself as long as there is none.
pub struct Tested(Mutex<Result<Vec<Attempt>, String>>);

impl Default for Tested {
    fn default() -> Self {
        Self(Mutex::new(Err("the self-test is not finished".into())))
    }
}

impl Tested {
    /// The paths that are not closed.
    pub(super) fn problems(&self) -> Vec<String> {
        match &*self.lock() {
            Ok(attempts) => {
                let open = attempts.iter().filter(|attempt| !attempt.outcome.is_closed());
                open.map(|attempt| format!("self-test: {}: {}", attempt.path, attempt.outcome)).collect()
            }
            Err(problem) => vec![problem.clone()],
        }
    }

    fn lock(&self) -> MutexGuard<'_, Result<Vec<Attempt>, String>> {
        // It is replaced whole, so that a poisoned one is whole too.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Has the warden try every path, and keeps what it finds.
    pub(super) async fn self_test(&self) -> Result<Vec<Attempt>, String> {
        let result = self.warden.self_test().await.map_err(|error| error.to_string());
        *self.tested.lock() = result.clone().map_err(|error| format!("the self-test could not be made: {error}"));
        result
    }
}
