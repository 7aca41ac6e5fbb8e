//! When an instance counts as healthy: a number of consecutive successes of the same process. And when it is looked at
//! again until then. Fed by the engine with each probe's answer; knows neither clocks nor how probes are made.

use std::{num::NonZeroU32, time::Duration};

/// Between two looks whether a port is open; a look asks the kernel, and the app does not notice it. The first ones come
/// sooner, for apps that start in milliseconds.
const LOOK: Duration = Duration::from_millis(10);
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// Between two looks at an app that is slow to start.
const LATE_LOOK: Duration = Duration::from_millis(20);
/// From here on an app is slow to start.
const SLOW: Duration = Duration::from_secs(2);
/// Between the first good answer and the next: two answers of the same instant are one.
const CONFIRM: Duration = Duration::from_millis(10);

/// What a look at a new instance found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its port is not open yet.
    Closed,
    /// The answer was good; so many in a row, this one included.
    Good(u32),
    /// The answer was good, and does not count before the process has been up for this much longer.
    Early(Duration),
    /// The answer was not good, or there was none.
    Bad,
}

/// How long to wait before the next look. `waited` is how long the instance has been looked at, `interval` the
/// configured one.
pub fn pause(found: Found, waited: Duration, interval: Duration) -> Duration {
    match found {
        Found::Closed if waited >= SLOW => LATE_LOOK.min(interval),
        Found::Closed => waited.clamp(FIRST_LOOK, LOOK).min(interval),
        Found::Good(in_a_row) => confirmation(in_a_row, interval),
        Found::Early(left) => left.min(interval),
        Found::Bad => interval,
    }
}

/// The least time from the first good answer to the last of so many.
pub fn confirmed_within(successes: NonZeroU32, interval: Duration) -> Duration {
    // Beyond these every pause is the interval.
    let growing = successes.get().min(u32::BITS);
    let first: Duration = (1..growing).map(|in_a_row| confirmation(in_a_row, interval)).sum();
    first.saturating_add(interval.saturating_mul(successes.get() - growing))
}

/// Doubles with each success up to the interval: whoever asks for many wants to see the app for longer.
fn confirmation(in_a_row: u32, interval: Duration) -> Duration {
    let times = 1_u32.checked_shl(in_a_row.saturating_sub(1)).unwrap_or(u32::MAX);
    CONFIRM.saturating_mul(times).min(interval)
}

/// What a probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The answer was as configured.
    Healthy,
    /// It was not, or there was none.
    Unhealthy,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Not enough yet: keep probing.
    Keep,
    /// Enough successes in a row, all of the same process.
    Healthy,
    /// Another process answers than before: counting began again, with this answer. Said even if one
    /// success were enough, because a start that restarts by itself has to prove itself once more.
    Restarted,
}

/// Successes in a row of one process; `P` identifies a process (pid, start time, boot).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streak<P> {
    needed: NonZeroU32,
    process: Option<P>,
    successes: u32,
}

impl<P: Clone + PartialEq> Streak<P> {
    /// Nothing seen yet.
    pub fn new(needed: NonZeroU32) -> Self {
        Self { needed, process: None, successes: 0 }
    }

    /// Takes the next answer, given by `process`.
    pub fn observe(&mut self, seen: Seen, process: &P) -> Decision {
        let restarted = self.process.as_ref().is_some_and(|known| known != process);
        if restarted {
            self.successes = 0;
        }
        self.process = Some(process.clone());
        self.successes = match seen {
            Seen::Healthy => self.successes.saturating_add(1),
            Seen::Unhealthy => 0,
        };
        if restarted {
            Decision::Restarted
        } else if self.successes >= self.needed.get() {
            Decision::Healthy
        } else {
            Decision::Keep
        }
    }

    /// Successes in a row so far.
    pub fn successes(&self) -> u32 {
        self.successes
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Decision::{Keep, Restarted},
        Seen::{Healthy, Unhealthy},
        *,
    };

    const INTERVAL: Duration = Duration::from_millis(500);

    /// Follows the schedule in a time of its own: an app that opens its port after `boot` and whose answers are then
    /// as given. Answers when it is healthy, and how often it was asked.
    fn followed(boot: Duration, answers: &[Seen], interval: Duration) -> (Duration, usize) {
        let (mut now, mut asked) = (Duration::ZERO, 0);
        let mut streak = Streak::new(NonZeroU32::new(2).unwrap());
        loop {
            let found = if now < boot {
                Found::Closed
            } else {
                let seen = answers.get(asked).copied().unwrap_or(Healthy);
                asked += 1;
                if streak.observe(seen, &1) == Decision::Healthy {
                    return (now, asked);
                }
                if seen == Healthy { Found::Good(streak.successes()) } else { Found::Bad }
            };
            now += pause(found, now, interval);
        }
    }

    #[test]
    fn e1_the_schedule_adds_at_most_30_ms_to_the_boot_of_an_app_and_asks_it_twice() {
        for boot in [0, 3, 100, 300, 1_000, 1_999, 20_000].map(Duration::from_millis) {
            let (healthy, asked) = followed(boot, &[], INTERVAL);
            assert!(healthy <= boot + Duration::from_millis(30), "{boot:?}: {healthy:?}");
            assert_eq!(asked, 2, "{boot:?}");
            // Whatever the interval.
            assert_eq!(followed(boot, &[], Duration::from_secs(600)), (healthy, 2));
        }
    }

    #[test]
    fn e1_the_interval_lies_between_answers_that_are_not_good_and_nowhere_else() {
        let (healthy, asked) = followed(Duration::ZERO, &[Unhealthy, Unhealthy, Unhealthy], INTERVAL);
        assert_eq!((healthy, asked), (INTERVAL * 3 + CONFIRM, 5));
        // One lucky answer starts nothing anew: the bad one after it is waited for like any other.
        let (healthy, asked) = followed(Duration::ZERO, &[Unhealthy, Healthy, Unhealthy], INTERVAL);
        assert_eq!((healthy, asked), (INTERVAL * 2 + CONFIRM * 2, 5));
    }

    #[test]
    fn the_pauses_between_many_successes_grow_to_the_interval_and_never_beyond() {
        let of = |successes| confirmed_within(NonZeroU32::new(successes).unwrap(), INTERVAL);
        assert_eq!([of(1), of(2), of(3)], [0, 10, 30].map(Duration::from_millis));
        assert_eq!(of(1_000) - of(999), INTERVAL);
        assert_eq!(pause(Found::Good(u32::MAX), Duration::ZERO, INTERVAL), INTERVAL);
        let short = Duration::from_millis(1);
        for found in [Found::Closed, Found::Good(1), Found::Early(INTERVAL), Found::Bad] {
            assert_eq!(pause(found, Duration::from_secs(9), short), short, "{found:?}");
        }
        assert!(confirmed_within(NonZeroU32::MAX, Duration::MAX) > Duration::from_secs(60));
    }

    #[test]
    fn an_open_port_that_does_not_count_yet_is_asked_again_when_it_does() {
        let left = Duration::from_millis(70);
        assert_eq!(pause(Found::Early(left), Duration::from_secs(1), INTERVAL), left);
    }

    fn decisions(needed: u32, answers: &[(Seen, u32)]) -> Vec<Decision> {
        let mut streak = Streak::new(NonZeroU32::new(needed).unwrap());
        answers.iter().map(|(seen, process)| streak.observe(*seen, process)).collect()
    }

    #[test]
    fn e2_one_lucky_success_is_not_enough() {
        let answers = [(Healthy, 1), (Unhealthy, 1), (Healthy, 1), (Healthy, 1)];
        assert_eq!(decisions(2, &answers), [Keep, Keep, Keep, Decision::Healthy]);
    }

    #[test]
    fn e2_successes_of_different_processes_do_not_add_up() {
        let answers = [(Healthy, 1), (Healthy, 2), (Healthy, 2), (Healthy, 2)];
        assert_eq!(decisions(2, &answers), [Keep, Restarted, Decision::Healthy, Decision::Healthy]);
        let alternating = [(Healthy, 1), (Healthy, 2), (Healthy, 1), (Healthy, 2)];
        assert_eq!(decisions(2, &alternating), [Keep, Restarted, Restarted, Restarted]);
    }

    #[test]
    fn a_restart_is_said_even_where_one_success_is_enough() {
        assert_eq!(decisions(1, &[(Healthy, 1)]), [Decision::Healthy]);
        let answers = [(Unhealthy, 1), (Healthy, 2), (Healthy, 2)];
        assert_eq!(decisions(1, &answers), [Keep, Restarted, Decision::Healthy]);
    }
}
