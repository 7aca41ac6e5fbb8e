//! When an instance counts as healthy: a number of consecutive successes of the same process. Fed by the
//! engine with each probe's answer; knows neither clocks nor how probes are made.

use std::num::NonZeroU32;

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
