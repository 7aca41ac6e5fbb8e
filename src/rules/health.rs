//! When an instance counts as healthy (a number of consecutive successes of the same process), and when to probe it
//! next until then. The engine feeds in each probe's answer; this file knows neither clocks nor how probes are made.

use std::{num::NonZeroU32, time::Duration};

/// The longest pause between two checks whether a port is open, until the app counts as slow to start. A check asks the
/// kernel, so the app does not notice it. The first checks come sooner, for apps that start in milliseconds.
const LOOK: Duration = Duration::from_millis(10);
const FIRST_LOOK: Duration = Duration::from_millis(2);
/// The pause between two such checks for an app that is slow to start.
const LATE_LOOK: Duration = Duration::from_millis(20);
/// An app that has not opened its port by then is slow to start.
const SLOW: Duration = Duration::from_secs(2);
/// The pause after the first good answer: two answers of the same instant would prove no more than one.
const CONFIRM: Duration = Duration::from_millis(10);

/// The result of one look at a new instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its port is not open yet.
    Closed,
    /// The answer was good: the number of good answers in a row, this one included.
    Good(u32),
    /// The answer was good but does not count yet: the process has to be up for this much longer.
    Early(Duration),
    /// The answer was not good, or there was none.
    Bad,
}

/// The pause before the next look. `waited` is the time since the first look, `interval` the configured pause.
pub fn pause(found: Found, waited: Duration, interval: Duration) -> Duration {
    match found {
        Found::Closed if waited >= SLOW => LATE_LOOK.min(interval),
        Found::Closed => waited.clamp(FIRST_LOOK, LOOK).min(interval),
        Found::Good(in_a_row) => confirmation(in_a_row, interval),
        Found::Early(left) => left.min(interval),
        Found::Bad => interval,
    }
}

/// The least time from the first good answer to the last of `successes` in a row.
pub fn confirmed_within(successes: NonZeroU32, interval: Duration) -> Duration {
    // After these doublings every pause is the interval.
    let growing = successes.get().min(u32::BITS);
    let first: Duration = (1..growing).map(|in_a_row| confirmation(in_a_row, interval)).sum();
    first.saturating_add(interval.saturating_mul(successes.get() - growing))
}

/// The pause doubles with each success, up to the interval: a configuration that asks for many successes wants to see
/// the app for longer.
fn confirmation(in_a_row: u32, interval: Duration) -> Duration {
    let times = 1_u32.checked_shl(in_a_row.saturating_sub(1)).unwrap_or(u32::MAX);
    CONFIRM.saturating_mul(times).min(interval)
}

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The answer was as configured.
    Healthy,
    /// It was not, or there was none.
    Unhealthy,
}

/// The conclusion from one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Not enough yet: keep probing.
    Keep,
    /// Enough successes in a row, all of the same process.
    Healthy,
    /// Another process answers than before: counting began again, with this answer. Reported even if one success is
    /// enough, because an app that restarts by itself has to prove itself once more.
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
    /// A streak without answers.
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

    /// Simulates the schedule for an app that opens its port after `boot` and then gives these answers. Returns when it
    /// is healthy, and how often it was probed.
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
            // The interval does not matter.
            assert_eq!(followed(boot, &[], Duration::from_secs(600)), (healthy, 2));
        }
    }

    #[test]
    fn e1_the_interval_lies_between_answers_that_are_not_good_and_nowhere_else() {
        let (healthy, asked) = followed(Duration::ZERO, &[Unhealthy, Unhealthy, Unhealthy], INTERVAL);
        assert_eq!((healthy, asked), (INTERVAL * 3 + CONFIRM, 5));
        // One lucky answer restarts nothing: the bad one after it costs the interval like any other.
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
