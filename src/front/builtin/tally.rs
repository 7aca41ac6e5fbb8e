//! One worker's counts since the start, per color: counters for people, and figures by which a canary is judged. Each
//! worker has its own tally, so that no two threads write to one cache line. Written by `target`, read by `switch`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::control::{FrontCounters, PerColor};
use crate::rules::{
    ids::Color,
    traffic::{Figures, Histogram},
};

/// One worker's counts.
#[repr(align(128))]
#[derive(Default)]
pub(super) struct WorkerTally(PerColor<ColorTally>);

struct ColorTally {
    answered: AtomicU64,
    server_errors: AtomicU64,
    connect_failures: AtomicU64,
    ended: AtomicU64,
    errors: AtomicU64,
    took: [AtomicU64; Histogram::BUCKETS],
}

impl Default for ColorTally {
    fn default() -> Self {
        Self {
            answered: AtomicU64::new(0),
            server_errors: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            took: [const { AtomicU64::new(0) }; Histogram::BUCKETS],
        }
    }
}

/// Whether a status speaks against the app.
pub(super) fn is_error(status: u16) -> bool {
    status >= 500
}

impl WorkerTally {
    /// Counts a request that was answered, by the color or for it.
    pub(super) fn answered(&self, color: Color, status: u16) {
        let counts = self.0.of(color);
        counts.answered.fetch_add(1, Relaxed);
        counts.server_errors.fetch_add(u64::from(is_error(status)), Relaxed);
    }

    /// Counts a failed connect to a color.
    pub(super) fn not_connected(&self, color: Color) {
        self.0.of(color).connect_failures.fetch_add(1, Relaxed);
    }

    /// Counts an answer of a color that came to its end, or that the client no longer wanted.
    pub(super) fn ended(&self, color: Color, status: Option<u16>, took: Duration) {
        let counts = self.0.of(color);
        counts.ended.fetch_add(1, Relaxed);
        counts.errors.fetch_add(u64::from(status.is_some_and(is_error)), Relaxed);
        counts.took[Histogram::bucket(took)].fetch_add(1, Relaxed);
    }

    /// Counts a missing or incomplete answer of a color as an error, without a duration.
    pub(super) fn failed(&self, color: Color) {
        let counts = self.0.of(color);
        counts.ended.fetch_add(1, Relaxed);
        counts.errors.fetch_add(1, Relaxed);
    }

    /// The plain counters of a color.
    pub(super) fn counters(&self, color: Color) -> FrontCounters {
        let counts = self.0.of(color);
        FrontCounters {
            requests: counts.answered.load(Relaxed),
            server_errors: counts.server_errors.load(Relaxed),
            connect_failures: counts.connect_failures.load(Relaxed),
        }
    }

    /// The figures of a color.
    pub(super) fn figures(&self, color: Color) -> Figures {
        let counts = self.0.of(color);
        Figures {
            requests: counts.ended.load(Relaxed),
            errors: counts.errors.load(Relaxed),
            took: Histogram::of(counts.took.iter().map(|count| count.load(Relaxed))),
        }
    }
}
