//! What roles may use at most, and the counts that all sessions of a role share.
//!
//! *Invariant:* who takes a place in a count gives it back by being dropped; of several roles the strictest limit counts.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    config::{Limits, Role},
    model::{Limit, Measure},
};

/// Seconds that a statement counts for.
const MINUTE: u64 = 60;

/// Tells how many sessions of a role go on in other processes of the agent.
pub type Elsewhere = Box<dyn Fn(&str) -> u64 + Send + Sync>;

/// The counts of all roles that have limits.
pub struct Counts {
    roles: HashMap<String, (Limits, Mutex<Count>)>,
    elsewhere: Elsewhere,
    began: Instant,
}

/// What is counted of a role.
#[derive(Debug)]
struct Count {
    sessions: u64,
    /// Statements of each second of the last minute, by its number since the count began.
    statements: [(u64, u64); MINUTE as usize + 1],
}

impl Default for Count {
    fn default() -> Self {
        Self { sessions: 0, statements: [(0, 0); MINUTE as usize + 1] }
    }
}

impl Count {
    /// Statements that began less than a minute before the end of this second.
    fn recent(&self, second: u64) -> u64 {
        let counts = |&&(of, _): &&(u64, u64)| of + MINUTE >= second;
        self.statements.iter().filter(counts).map(|(_, count)| count).sum()
    }

    fn add(&mut self, second: u64, statements: u64) {
        let place = usize::try_from(second % (MINUTE + 1)).unwrap_or_default();
        let (of, count) = &mut self.statements[place];
        if *of != second {
            (*of, *count) = (second, 0);
        }
        *count += statements;
    }
}

impl Counts {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(roles: &[Role], elsewhere: Elsewhere) -> Self {
        let limited = roles.iter().filter(|role| role.limits != Limits::default());
        let roles = limited.map(|role| (role.name.clone(), (role.limits.clone(), Mutex::default())));
        Self { roles: roles.collect(), elsewhere, began: Instant::now() }
    }

    /// What holds for whoever has these roles.
    #[must_use]
    pub fn of(self: &Arc<Self>, roles: &[String]) -> Applied {
        let roles: Arc<[String]> = roles.iter().filter(|role| self.roles.contains_key(*role)).cloned().collect();
        Applied { counts: (!roles.is_empty()).then(|| (Arc::clone(self), roles)) }
    }

    fn role(&self, role: &str) -> Option<(&Limits, MutexGuard<'_, Count>)> {
        let (limits, count) = self.roles.get(role)?;
        Some((limits, count.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("roles", &self.roles).finish_non_exhaustive()
    }
}

/// The limits of a principal.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    counts: Option<(Arc<Counts>, Arc<[String]>)>,
}

impl Applied {
    /// What one statement may use.
    #[must_use]
    pub fn statement(&self) -> PerStatement {
        PerStatement {
            rows: self.least(Measure::Rows, |limits| limits.rows),
            bytes: self.least(Measure::Bytes, |limits| limits.bytes),
            time: self.least(Measure::StatementTime, |limits| {
                limits.statement_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            }),
        }
    }

    /// Counts a session, until what is returned is dropped; with the limit that it is beyond.
    pub fn enter(&self) -> (Place, Option<Limit>) {
        let mut beyond = None;
        for (role, limits, mut count) in self.roles() {
            count.sessions += 1;
            if let (Some(most), Some((counts, _))) = (limits.sessions, &self.counts) {
                let open = count.sessions.saturating_add((counts.elsewhere)(role));
                let limit = || Limit { measure: Measure::Sessions, role: role.to_owned(), most };
                beyond = beyond.or_else(|| (open > most).then(limit));
            }
        }
        (Place(self.clone()), beyond)
    }

    /// Counts statements that begin now; or none of them, if they are beyond a limit.
    ///
    /// # Errors
    /// That limit.
    pub fn begin(&self, statements: u64, now: Instant) -> Result<(), Limit> {
        let Some((counts, _)) = &self.counts else { return Ok(()) };
        let second = now.saturating_duration_since(counts.began).as_secs();
        // In the order of the configuration, which all sessions share, so that two of them cannot wait for each other.
        let mut roles: Vec<_> = self.roles().collect();
        for (role, limits, count) in &roles {
            if let Some(most) = limits.statements_per_minute
                && count.recent(second).saturating_add(statements) > most
            {
                return Err(Limit { measure: Measure::StatementsPerMinute, role: (*role).to_owned(), most });
            }
        }
        for (_, _, count) in &mut roles {
            count.add(second, statements);
        }
        Ok(())
    }

    fn roles(&self) -> impl Iterator<Item = (&str, &Limits, MutexGuard<'_, Count>)> {
        self.counts.iter().flat_map(|(counts, roles)| {
            roles.iter().filter_map(|role| counts.role(role).map(|(limits, count)| (role.as_str(), limits, count)))
        })
    }

    fn least(&self, measure: Measure, of: impl Fn(&Limits) -> Option<u64>) -> Option<Limit> {
        let limits = self
            .roles()
            .filter_map(|(role, limits, _)| of(limits).map(|most| Limit { measure, role: role.to_owned(), most }));
        limits.min_by_key(|limit| limit.most)
    }
}

/// The place of a session in the counts of its roles.
#[derive(Debug)]
pub struct Place(Applied);

impl Drop for Place {
    fn drop(&mut self) {
        for (_, _, mut count) in self.0.roles() {
            count.sessions -= 1;
        }
    }
}

/// What one statement may use.
#[derive(Clone, Debug, Default)]
pub struct PerStatement {
    /// Rows that are shown.
    pub rows: Option<Limit>,
    /// Bytes of rows and of copied data.
    pub bytes: Option<Limit>,
    /// Milliseconds.
    pub time: Option<Limit>,
}

impl PerStatement {
    /// Whether there is any.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.rows.is_some() || self.bytes.is_some() || self.time.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn counts(elsewhere: u64) -> Arc<Counts> {
        let role = |name: &str, limits| Role { name: name.into(), matches: Vec::new(), limits };
        let strict = Limits { rows: Some(5), bytes: Some(900), sessions: Some(2), ..Limits::default() };
        let slow = Limits { rows: Some(9), statements_per_minute: Some(3), ..Limits::default() };
        let roles = [role("strict", strict), role("slow", slow), role("free", Limits::default())];
        Arc::new(Counts::new(&roles, Box::new(move |_| elsewhere)))
    }

    fn roles(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn of_several_roles_the_lowest_counts() {
        let all = counts(0).of(&roles(&["slow", "free", "strict"])).statement();
        assert_eq!(all.rows.as_ref().map(|rows| (rows.most, rows.role.as_str())), Some((5, "strict")));
        assert!(all.bytes.is_some() && all.time.is_none() && all.is_any());
        assert!(!counts(0).of(&roles(&["free", "unknown"])).statement().is_any());
    }

    #[test]
    fn places_are_given_back() {
        let counts = counts(0);
        let (strict, both) = (counts.of(&roles(&["strict"])), counts.of(&roles(&["strict", "slow"])));
        let (first, beyond) = strict.enter();
        assert_eq!(beyond, None);
        let (second, beyond) = both.enter();
        assert_eq!(beyond, None);
        let limit = Limit { measure: Measure::Sessions, role: "strict".into(), most: 2 };
        assert_eq!(strict.enter().1, Some(limit.clone()));
        drop(first);
        assert_eq!(both.enter().1, None);
        drop(second);
        let kept: Vec<_> = (0..2).map(|_| strict.enter()).collect();
        assert!(kept.iter().all(|(_, beyond)| beyond.is_none()));
        assert_eq!(strict.enter().1, Some(limit));
    }

    #[test]
    fn sessions_of_other_processes_count() {
        assert_eq!(counts(1).of(&roles(&["strict"])).enter().1, None);
        assert!(counts(2).of(&roles(&["strict"])).enter().1.is_some());
        assert!(counts(u64::MAX).of(&roles(&["strict"])).enter().1.is_some());
    }

    #[test]
    fn in_no_minute_do_more_statements_begin_and_a_minute_later_they_may_again() {
        let counts = counts(0);
        let (one, other) = (counts.of(&roles(&["slow"])), counts.of(&roles(&["free", "slow"])));
        let at = |millis| counts.began + Duration::from_millis(millis);
        assert!(one.begin(4, at(0)).is_err(), "a text of four");
        assert!(one.begin(2, at(999)).is_ok());
        assert!(other.begin(2, at(30_000)).is_err());
        assert!(other.begin(1, at(30_000)).is_ok());
        let limit = one.begin(1, at(60_998)).expect_err("within a minute");
        assert!(limit.to_string().contains("at most 3 statements"), "{limit}");
        assert!(one.begin(3, at(61_000)).is_err());
        assert!(one.begin(2, at(61_000)).is_ok());
        assert!(one.begin(1, at(61_000)).is_err());
        assert!(one.begin(1, at(91_000)).is_ok());
        // A long time later nothing of it counts.
        assert!(one.begin(3, at(10_000_000)).is_ok());
        assert!(one.begin(1, at(10_000_000)).is_err());
    }
}
