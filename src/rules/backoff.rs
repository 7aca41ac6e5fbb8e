//! How long to wait before the next try: to restart a live instance that died (tried for ever), and to poll a remote
//! that can't be reached. Deterministic: the jitter comes from a seed that the caller chooses (the app's name, hashed),
//! so that many apps that failed together do not come back together, and a simulator can repeat a run.

use std::time::Duration;

use crate::os::hash::mixed;

/// An instance that was up for this long is a good one that died, not one that can't start.
pub const STEADY: Duration = Duration::from_secs(60);
/// The longest wait before a restart: an instance whose cause of death is mended should not stay down for minutes.
pub const RESTART_CAP: Duration = Duration::from_secs(60);
/// The longest wait between two polls of an unreachable remote, unless `poll` itself is longer.
pub const POLL_CAP: Duration = Duration::from_secs(300);

/// The first wait after a second failure in a row.
const FIRST: Duration = Duration::from_secs(1);

/// The number of the restart after a death that came `uptime` after the last start; begins again after a long one.
pub fn next_attempt(attempt: u32, uptime: Duration) -> u32 {
    if uptime >= STEADY { 0 } else { attempt.saturating_add(1) }
}

/// The wait before restart number `attempt`: none for the first two, then 1 s, doubling up to [`RESTART_CAP`].
pub fn restart_delay(attempt: u32) -> Duration {
    match attempt {
        0 | 1 => Duration::ZERO,
        more => doubled(FIRST, more - 2).min(RESTART_CAP),
    }
}

/// The wait before the next poll after `failures` failed ones in a row: `poll`, doubled with each failure up to
/// [`POLL_CAP`] (or `poll`), each shortened by up to a fifth but never below `poll`.
pub fn poll_wait(poll: Duration, failures: u32, seed: u64) -> Duration {
    if failures == 0 {
        return poll;
    }
    let wait = doubled(poll, failures).min(POLL_CAP.max(poll));
    shortened(wait, seed, failures).max(poll)
}

/// The shortest wait between two polls of a remote that lists `refs` refs: some 64 bytes a ref, so that polling takes
/// about 32 KB a second at most.
pub fn listing_wait(refs: u64) -> Duration {
    Duration::from_secs(refs / 500).min(POLL_CAP)
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// Shortens the wait by 0 to 20 %; deterministic for a seed and an attempt.
fn shortened(wait: Duration, seed: u64, attempt: u32) -> Duration {
    let thousandths = u32::try_from(mixed(mixed(seed) ^ u64::from(attempt)) % 201).unwrap_or(0);
    wait - wait.mul_f64(f64::from(thousandths) / 1000.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn h1_a_restart_is_immediate_after_a_long_life_then_backs_off_and_never_ends() {
        let mut attempt = next_attempt(9, STEADY);
        for seconds in [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(restart_delay(attempt), Duration::from_secs(seconds), "attempt {attempt}");
            attempt = next_attempt(attempt, SECOND);
        }
        assert_eq!(restart_delay(u32::MAX), RESTART_CAP);
        assert_eq!(next_attempt(attempt, 2 * STEADY), 0);
    }

    #[test]
    fn a2_polls_back_off_to_a_cap_and_come_back_at_once() {
        let poll = 10 * SECOND;
        assert_eq!(poll_wait(poll, 0, 1), poll);
        assert!(poll_wait(poll, 1, 1) <= 20 * SECOND);
        assert!(poll_wait(poll, 50, 1) <= POLL_CAP);
        assert_eq!(poll_wait(2 * POLL_CAP, 9, 1), 2 * POLL_CAP);
    }

    #[test]
    fn a_remote_with_many_refs_is_asked_more_seldom() {
        assert_eq!(listing_wait(499), Duration::ZERO);
        assert_eq!(listing_wait(20_000), 40 * SECOND);
        assert_eq!(listing_wait(u64::MAX), POLL_CAP);
    }

    #[test]
    fn different_seeds_spread() {
        let waits: std::collections::BTreeSet<_> =
            (0..20).map(|seed| poll_wait(10 * SECOND, 9, seed)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    proptest! {
        #[test]
        fn every_wait_is_bounded_and_repeatable(seed: u64, failures: u32, attempt: u32) {
            let wait = poll_wait(SECOND, failures, seed);
            prop_assert!(wait >= SECOND && wait <= POLL_CAP);
            prop_assert_eq!(wait, poll_wait(SECOND, failures, seed));
            prop_assert!(restart_delay(attempt) <= RESTART_CAP);
        }
    }
}
