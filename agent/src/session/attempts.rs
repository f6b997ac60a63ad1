//! How the last attempts to begin a session with each target ended, for whoever asks how the agent is.
//!
//! A target that is down, or that refuses the agent's login, leaves no open session that could show it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

use crate::control::Trouble;

/// The last attempts, by target.
#[derive(Default)]
pub struct Attempts {
    targets: Mutex<BTreeMap<String, Last>>,
}

/// Of one target.
#[derive(Clone, Default)]
struct Last {
    began: Option<Timestamp>,
    trouble: Option<Trouble>,
}

impl Attempts {
    /// Notes an attempt: a session began, or why the target or the agent's settings for it did not let it. What is new goes
    /// to the agent's messages too; what only goes on does not, or each refused client would write a line.
    pub(super) fn note(&self, target: &str, trouble: Option<&str>) {
        let now = Timestamp::now();
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let last = targets.entry(target.to_owned()).or_default();
        let before = last.trouble.as_ref().filter(|trouble| last.began.is_none_or(|began| began < trouble.time));
        match trouble {
            None => {
                if before.is_some() {
                    tracing::info!(target_name = target, "sessions with the target begin again");
                }
                last.began = Some(now);
            }
            Some(reason) => {
                if before.is_none_or(|before| before.reason != reason) {
                    tracing::warn!(target_name = target, reason, "no session with the target begins");
                }
                last.trouble = Some(Trouble { time: now, reason: reason.to_owned() });
            }
        }
    }

    /// When the last session with a target began, and what kept the last one from it that did not.
    pub(super) fn of(&self, target: &str) -> (Option<Timestamp>, Option<Trouble>) {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let Last { began, trouble } = targets.get(target).cloned().unwrap_or_default();
        (began, trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_kind_is_kept_for_each_target() {
        let attempts = Attempts::default();
        assert_eq!(attempts.of("orders"), (None, None));
        attempts.note("orders", Some("the target cannot be reached"));
        attempts.note("orders", Some("the target refused the agent's credential"));
        attempts.note("orders", None);
        let (began, trouble) = attempts.of("orders");
        let trouble = trouble.unwrap();
        assert_eq!(trouble.reason, "the target refused the agent's credential");
        assert!(began.unwrap() >= trouble.time);
        assert_eq!(attempts.of("ledger"), (None, None));
    }
}
