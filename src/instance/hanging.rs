//! Decides about instances of the live color that hang while others of it answer: the front passes them over, and one
//! at a time is ended, so that the machine starts it again. Called by the health monitor of `tend`.
//!
//! Fail safe: an instance that answers that it is unwell is passed over and not ended; on a starved machine all are
//! slow, and none is touched while fewer than half of them answer well; the only instance is never ended. Restarts of a
//! release that hangs repeatedly slow down, see [`Patience`].

use std::time::{Duration, Instant};

use super::watching::FAILURES_THAT_COUNT;

/// Unanswered probes in a row after which an instance counts as hung.
const UNANSWERED: u32 = 6;
/// The least time that they take: a short `health.interval` must not end an instance too early.
const UNANSWERED_FOR: Duration = Duration::from_secs(15);
/// The wait after the first hung instance was ended; doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The result of one probe of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Well,
    /// An answer that is not good.
    Unwell,
    Nothing,
}

/// The health of one instance, as far as known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InstanceHealth {
    pub known: Option<bool>,
    failures: u32,
    pub unanswered: u32,
    /// When the first unanswered probe in a row was noted.
    silent_since: Option<Instant>,
}

impl InstanceHealth {
    pub(crate) fn note(&mut self, heard: Heard, now: Instant) {
        self.failures = if heard == Heard::Well { 0 } else { self.failures + 1 };
        (self.unanswered, self.silent_since) = match heard {
            Heard::Nothing => (self.unanswered + 1, self.silent_since.or(Some(now))),
            Heard::Well | Heard::Unwell => (0, None),
        };
        if heard == Heard::Well || self.failures >= FAILURES_THAT_COUNT {
            self.known = Some(heard == Heard::Well);
        }
    }

    /// Whether its last probe was answered well.
    fn is_well(&self) -> bool {
        self.failures == 0 && self.known == Some(true)
    }

    pub(crate) fn is_hung(&self, now: Instant) -> bool {
        let long = self.silent_since.is_some_and(|since| now.duration_since(since) >= UNANSWERED_FOR);
        self.unanswered >= UNANSWERED && long
    }

    /// Whether its state is unclear, so that it is probed again sooner.
    pub(crate) fn is_doubtful(&self) -> bool {
        (1..UNANSWERED).contains(&self.failures)
    }

    /// The health of a color: well if all its instances are, unwell if one is.
    pub(crate) fn of_all(each: &[Self]) -> Option<bool> {
        if each.iter().any(|one| one.known == Some(false)) {
            return Some(false);
        }
        each.iter().all(|one| one.known == Some(true)).then_some(true)
    }
}

/// The indices of unwell instances that the others can do without: some of several, while at least half are well.
pub(crate) fn dispensable(each: &[InstanceHealth]) -> Vec<usize> {
    let well = each.iter().filter(|one| one.is_well()).count();
    if each.len() < 2 || well * 2 < each.len() {
        return Vec::new();
    }
    each.iter().enumerate().filter(|(_, one)| one.failures > 0).map(|(index, _)| index).collect()
}

/// The wait before the next hung instance of an app is ended: it doubles with each, so that restarts that don't help
/// can't replace serving.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    ended: u32,
    last: Option<Instant>,
}

impl Patience {
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= self.wait())
    }

    pub(crate) fn one_was_ended(&mut self, now: Instant) {
        if self.last.is_some_and(|last| now.duration_since(last) >= LONGEST_WAIT * 2) {
            self.ended = 0;
        }
        (self.ended, self.last) = (self.ended.saturating_add(1), Some(now));
    }

    fn wait(&self) -> Duration {
        let times = 1_u32.checked_shl(self.ended.saturating_sub(1)).unwrap_or(u32::MAX);
        FIRST_WAIT.saturating_mul(times).min(LONGEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(heard: &[Heard], seconds: u64) -> (InstanceHealth, Instant) {
        let begun = Instant::now();
        let mut health = InstanceHealth::default();
        for (heard, number) in heard.iter().zip(0_u32..) {
            health.note(*heard, begun + Duration::from_secs(seconds) * number / 6);
        }
        (health, begun + Duration::from_secs(seconds))
    }

    #[test]
    fn one_is_hung_after_six_unanswered_probes_in_a_row_and_not_within_seconds() {
        let silent = [Heard::Nothing; 6];
        let (health, now) = after(&silent, 30);
        assert!(health.is_hung(now) && health.known == Some(false));
        let (health, now) = after(&silent, 3);
        assert!(!health.is_hung(now));
        let (health, now) = after(&silent[..5], 30);
        assert!(!health.is_hung(now));
        // One that answers that it is unwell does not hang.
        let mut heard = silent;
        heard[3] = Heard::Unwell;
        let (health, now) = after(&heard, 30);
        assert!(!health.is_hung(now) && health.known == Some(false));
    }

    #[test]
    fn nobody_is_dispensable_while_fewer_than_half_are_well_and_the_only_one_never_is() {
        let one = |heard: &[Heard]| after(heard, 30).0;
        let (well, bad) = (one(&[Heard::Well]), one(&[Heard::Well, Heard::Nothing]));
        let unknown = InstanceHealth::default();
        assert_eq!(dispensable(&[bad]), [0; 0]);
        assert_eq!(dispensable(&[well, bad]), [1]);
        assert_eq!(dispensable(&[bad, bad]), [0; 0]);
        assert_eq!(dispensable(&[bad, well, bad]), [0; 0]);
        assert_eq!(dispensable(&[bad, well, well, bad]), [0, 3]);
        // An instance of unknown health supports no verdict on the others, and is not passed over either.
        assert_eq!(dispensable(&[unknown, bad]), [0; 0]);
        assert_eq!(dispensable(&[unknown, well]), [0; 0]);
    }

    #[test]
    fn restarts_for_hanging_get_rarer_and_begin_anew_after_a_long_rest() {
        let mut now = Instant::now();
        let mut patience = Patience::default();
        assert!(patience.is_over(now));
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            patience.one_was_ended(now);
            now += Duration::from_secs(minutes * 60);
            assert!(!patience.is_over(now - Duration::from_secs(1)) && patience.is_over(now), "{minutes}");
        }
        now += LONGEST_WAIT;
        patience.one_was_ended(now);
        assert!(patience.is_over(now + FIRST_WAIT));
    }

    #[test]
    fn a_color_is_well_when_all_are_and_unwell_when_one_is_for_long() {
        let one = |heard: &[Heard]| after(heard, 30).0;
        let (well, unwell) = (one(&[Heard::Well]), one(&[Heard::Unwell; 3]));
        assert_eq!(InstanceHealth::of_all(&[well, well]), Some(true));
        assert_eq!(InstanceHealth::of_all(&[well, unwell]), Some(false));
        assert_eq!(InstanceHealth::of_all(&[well, one(&[Heard::Unwell; 2])]), None);
    }
}
