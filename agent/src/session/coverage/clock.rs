//! The host's clocks: the one that somebody can set, and the one since its start.

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// How far the host's clock may be off from one look to the next before it was set rather than slewed.
const STEP: SignedDuration = SignedDuration::from_millis(250);

/// By how much the clock was set, if it was.
pub(super) fn step(before: SignedDuration, after: SignedDuration) -> Option<SignedDuration> {
    let step = after.saturating_sub(before);
    (step.abs() >= STEP).then_some(step)
}

/// When the host was booted, by its clock: the same until the clock is set.
pub(super) fn booted() -> Result<SignedDuration, nix::Error> {
    let now = duration(ClockId::CLOCK_REALTIME)?;
    Ok(now.saturating_sub(duration(ClockId::CLOCK_BOOTTIME)?))
}

/// Boot time, in nanoseconds.
pub(in super::super) fn boot_nanoseconds() -> Result<u64, nix::Error> {
    Ok(u64::try_from(duration(ClockId::CLOCK_BOOTTIME)?.as_nanos()).unwrap_or(0))
}

/// The time at a boot time.
pub(super) fn time_of(boot: u64) -> Result<Timestamp, nix::Error> {
    let since = booted()?.saturating_add(SignedDuration::from_nanos(boot.cast_signed()));
    Ok(Timestamp::from_duration(since).unwrap_or(Timestamp::MIN))
}

fn duration(clock: ClockId) -> Result<SignedDuration, nix::Error> {
    let time = clock_gettime(clock)?;
    Ok(SignedDuration::new(time.tv_sec(), i32::try_from(time.tv_nsec()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_slewed_was_not_set() {
        let at = SignedDuration::from_secs;
        assert_eq!(step(at(100), at(100) + SignedDuration::from_millis(3)), None);
        assert_eq!(step(at(100), at(98)), Some(at(-2)));
        assert_eq!(step(at(100), at(3700)), Some(at(3600)));
    }
}
