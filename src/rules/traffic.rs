//! What real traffic looked like: requests, errors and how long they took, as sums that can be added, and taken from
//! one another. Filled by the fronts, each in its own way; judged when a canary's step or a watch ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The upper bound of the first bucket, in microseconds.
const FIRST: u64 = 250;
/// Each bucket is a quarter wider than the one before: a quantile is at most that much too high.
const BUCKETS: usize = 72;

/// Durations by size, from a quarter of a millisecond to half an hour; what takes longer counts as that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Histogram {
    /// How many buckets there are, for those who count elsewhere and hand the counts in.
    pub const BUCKETS: usize = BUCKETS;

    /// From counts, one a bucket; what is missing is 0.
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut all: Vec<u64> = counts.into_iter().take(BUCKETS).collect();
        all.resize(BUCKETS, 0);
        Self(all)
    }

    /// The bucket of a duration.
    pub fn bucket(took: Duration) -> usize {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        bounds().position(|bound| took <= bound).unwrap_or(BUCKETS - 1)
    }

    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        if let Some(count) = self.0.get_mut(Self::bucket(took)) {
            *count += 1;
        }
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that so many of 100 stay below, rounded up to its bucket's bound; `None` without any.
    pub fn percentile(&self, of_100: u8) -> Option<Duration> {
        let total = self.total();
        let rank = (total * u64::from(of_100)).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        at.filter(|_| total > 0).and_then(|at| bounds().nth(at)).map(Duration::from_micros)
    }
}

fn bounds() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(FIRST), |bound| Some(bound * 5 / 4)).take(BUCKETS)
}

/// What one color answered in some time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Requests, answered or not.
    pub requests: u64,
    /// Those answered with a status of 500 or more, or not at all.
    pub errors: u64,
    /// How long the answers took, from the request to the last byte.
    pub took: Histogram,
}

impl Figures {
    /// What came since `earlier`, which is of the same count; after that began anew, all of it.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if earlier.requests > self.requests {
            return self.clone();
        }
        let counts = self.took.0.iter().zip(&earlier.took.0);
        Self {
            requests: self.requests - earlier.requests,
            errors: self.errors.saturating_sub(earlier.errors),
            took: Histogram(counts.map(|(now, then)| now.saturating_sub(*then)).collect()),
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let counts = self.took.0.iter().zip(&other.took.0);
        Self {
            requests: self.requests + other.requests,
            errors: self.errors + other.errors,
            took: Histogram(counts.map(|(one, two)| one + two).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(millis: &[u64]) -> Figures {
        let mut figures = Figures { requests: millis.len() as u64, ..Figures::default() };
        millis.iter().for_each(|took| figures.took.record(Duration::from_millis(*took)));
        figures
    }

    #[test]
    fn a_percentile_is_at_most_a_quarter_too_high() {
        let mut all = Histogram::default();
        assert_eq!(all.percentile(95), None);
        (1..=1000).for_each(|millis| all.record(Duration::from_millis(millis)));
        for (of_100, exact) in [(50, 500), (95, 950), (100, 1000)] {
            let found = all.percentile(of_100).unwrap();
            let exact = Duration::from_millis(exact);
            assert!(found >= exact && found <= exact * 5 / 4, "{of_100}: {found:?}");
        }
        all.record(Duration::from_secs(1_000_000));
        assert!(all.percentile(100).unwrap() > Duration::from_secs(1000));
    }

    #[test]
    fn figures_of_a_time_are_what_came_in_it() {
        let (before, later) = (figures(&[1, 2]), figures(&[1, 2, 30]));
        assert_eq!(later.since(&before), figures(&[30]));
        assert_eq!(before.plus(&figures(&[30])), later);
        // A front that was started anew counts from 0.
        assert_eq!(figures(&[5]).since(&before), figures(&[5]));
    }
}
