//! Decides from progress reports whether a worker has stalled. Used by the daemon's side of the worker. Pure: the
//! caller passes the time.

use std::time::{Duration, Instant};

use super::{error::GitStep, wire::GitProgress};

/// Fewer bytes than this within one window do not count as progress: a peer that sends one byte per second counts as
/// silent (compare git's http.lowSpeedLimit).
const LEAST_BYTES: u64 = 1024;

/// The no-progress limit of one request.
#[derive(Debug)]
pub struct Stall {
    window: Duration,
    since: Instant,
    seen: GitProgress,
}

impl Stall {
    /// Starts the clock; `window` is the longest time without progress.
    pub fn new(window: Duration, now: Instant) -> Self {
        Self { window, since: now, seen: GitProgress::at(GitStep::Opening) }
    }

    /// Takes a report; a new stage, another object or another KiB restarts the clock.
    pub fn note(&mut self, report: GitProgress, now: Instant) {
        let moved = report.stage != self.seen.stage
            || report.done > self.seen.done
            || report.bytes >= self.seen.bytes.saturating_add(LEAST_BYTES);
        if moved {
            self.seen = report;
            self.since = now;
        }
    }

    /// When the worker counts as stalled.
    pub fn until(&self) -> Instant {
        self.since + self.window
    }

    /// The worker's last stage.
    pub fn stage(&self) -> GitStep {
        self.seen.stage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiving(done: u64, bytes: u64) -> GitProgress {
        GitProgress { stage: GitStep::Receiving, done, bytes }
    }

    #[test]
    fn a1_a_byte_a_second_is_no_progress_and_a_kib_is() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut stall = Stall::new(Duration::from_secs(10), start);
        stall.note(receiving(0, 0), second(1));
        for n in 2..10 {
            stall.note(receiving(0, n), second(n));
        }
        assert_eq!(stall.until(), second(11));
        stall.note(receiving(0, 1024), second(10));
        assert_eq!(stall.until(), second(20));
        stall.note(receiving(1, 1024), second(15));
        assert_eq!(stall.until(), second(25));
    }
}
