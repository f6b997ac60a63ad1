//! Session ids: short, unique on this host, and in the order of time.
//!
//! The microsecond at which a session began as 11 characters of base 32 (digits and lower-case letters without i, l, o and
//! u). Two sessions never get the same one: an id that is taken moves on to the next microsecond, and after a start the
//! first id is later than the last record of the log, even if the clock was set back.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 55 bits of microseconds last until the year 3111.
const LENGTH: usize = 11;

static LAST: AtomicU64 = AtomicU64::new(0);

/// A new session id.
#[must_use]
pub fn session_id() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    if now > last { encode(now) } else { encode(LAST.fetch_add(1, Ordering::Relaxed) + 1) }
}

/// Every id from now on is later than this time (nanoseconds since 1970).
pub(super) fn not_before(time: i64) {
    LAST.fetch_max(u64::try_from(time).unwrap_or_default() / 1000 + 1, Ordering::Relaxed);
}

/// The id under which a refused connection is listed: its time as in a session's id, and its record's sequence, which no
/// session's id has.
pub(super) fn refused_id(time: i64, sequence: u64) -> String {
    format!("{}-{sequence}", encode(u64::try_from(time).unwrap_or_default() / 1000))
}

fn encode(number: u64) -> String {
    (0..LENGTH).rev().map(|digit| char::from(ALPHABET[(number >> (digit * 5)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::*;

    #[test]
    fn ids_are_unique_and_in_order() {
        let threads: Vec<_> =
            (0..4).map(|_| thread::spawn(|| (0..20_000).map(|_| session_id()).collect::<Vec<_>>())).collect();
        let mut all = HashSet::new();
        for thread in threads {
            let ids = thread.join().unwrap();
            assert!(ids.is_sorted());
            assert!(ids.iter().all(|id| id.len() == LENGTH));
            all.extend(ids);
        }
        assert_eq!(all.len(), 80_000);
    }

    #[test]
    fn ids_are_later_than_what_the_log_holds() {
        let future = jiff::Timestamp::now().as_nanosecond() as i64 + 3_600_000_000_000;
        not_before(future);
        assert!(session_id() > encode(future as u64 / 1000));
        assert_eq!(encode(0), "00000000000");
        assert_eq!(encode(33), "00000000011");
    }
}
