//! Figures of real traffic: requests, errors and durations, as sums that can be added and subtracted. Each front fills
//! them in its own way; they are judged when a canary's step or a watch ends.

use std::{num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

const BUCKETS: usize = 260;
/// Upper bounds in microseconds: from 250 µs, each a sixteenth above the one before, so that a percentile is at most a
/// sixteenth too high.
static BOUNDS: [u64; BUCKETS] = {
    let mut bounds = [250; BUCKETS];
    let mut at = 1;
    while at < BUCKETS {
        bounds[at] = bounds[at - 1] * 17 / 16;
        at += 1;
    }
    bounds
};

/// Counts of durations by size, from a quarter of a millisecond to half an hour; a longer one counts in the last
/// bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(Vec<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Histogram {
    /// The number of buckets, for code that counts elsewhere and builds a histogram from its counts.
    pub const BUCKETS: usize = BUCKETS;

    /// Builds a histogram from counts, one for each bucket; missing counts are 0.
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut all: Vec<u64> = counts.into_iter().take(BUCKETS).collect();
        all.resize(BUCKETS, 0);
        Self(all)
    }

    /// The bucket of a duration.
    pub fn bucket(took: Duration) -> usize {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        BOUNDS.partition_point(|bound| *bound < took).min(BUCKETS - 1)
    }

    /// Adds one duration.
    pub fn record(&mut self, took: Duration) {
        if let Some(count) = self.0.get_mut(Self::bucket(took)) {
            *count += 1;
        }
    }

    /// The number of durations.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that `of_100` percent of the counted ones do not exceed, rounded up to the bound of its bucket;
    /// `None` for an empty histogram.
    pub fn percentile(&self, of_100: u8) -> Option<Duration> {
        let total = self.total();
        let rank = (total * u64::from(of_100)).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        at.filter(|_| total > 0).and_then(|at| BOUNDS.get(at)).copied().map(Duration::from_micros)
    }
}

/// Figures of one color's traffic over some time.
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
    /// The difference to `earlier`, an older reading of the same counters. Counters that restarted from 0 are taken
    /// whole.
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

    /// The sum of both.
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

/// A rate in millionths: an integer, so that rates can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rate(pub u32);

impl Rate {
    const WHOLE: u64 = 1_000_000;

    /// `part` of `all`; 0 when `all` is 0.
    pub fn of(part: u64, all: u64) -> Self {
        let millionths = (part.saturating_mul(Self::WHOLE)).checked_div(all).unwrap_or(0);
        Self(u32::try_from(millionths).unwrap_or(u32::MAX))
    }

    /// This rate of `all`, rounded down.
    fn part_of(self, all: u64) -> u64 {
        all.saturating_mul(u64::from(self.0)) / Self::WHOLE
    }
}

impl std::fmt::Display for Rate {
    /// In percent, with two decimals at most.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hundredths = self.0 / 100;
        match (hundredths / 100, hundredths % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, rest) if rest % 10 == 0 => write!(f, "{whole}.{}%", rest / 10),
            (whole, rest) => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// Limits on real traffic; `None`: not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrafficLimits {
    /// The highest rate of errors: answers with a status of 500 or more, and requests without an answer. When the old
    /// color exceeds it too, it applies on top of the old color's rate.
    pub max_error_rate: Option<Rate>,
    /// How far the 95th percentile may exceed that of the old color's last minutes, in percent.
    pub max_p95: Option<u32>,
    /// The least number of requests to the new color that allows a good verdict, and to the old color that allows a
    /// comparison.
    pub min_requests: NonZeroU32,
}

impl TrafficLimits {
    /// No limits: real traffic is not checked.
    pub const IGNORED: Self =
        Self { max_error_rate: None, max_p95: None, min_requests: NonZeroU32::new(200).unwrap() };

    /// Whether any limit is set.
    pub fn any(&self) -> bool {
        self.max_error_rate.is_some() || self.max_p95.is_some()
    }

    /// Judges what the new color answered since it got its share, against the old color's last minutes.
    pub fn judge(&self, new: &Figures, old: &Figures) -> Judgement {
        if let Some(why) = self.too_many_errors(new, old) {
            return Judgement::Bad(why);
        }
        let needed = u64::from(self.min_requests.get());
        if self.any() && new.requests < needed {
            return Judgement::TooLittle(format!("{} of {needed} requests", new.requests));
        }
        match self.max_p95 {
            Some(slower) => self.judge_p95(slower, new, old),
            None => Judgement::Well,
        }
    }

    /// Certain even before `min_requests` are in: once the errors exceed the limit although all missing requests would
    /// succeed.
    fn too_many_errors(&self, new: &Figures, old: &Figures) -> Option<String> {
        let limit = self.max_error_rate?;
        let usual = Rate::of(old.errors, old.requests);
        let allowed = if usual > limit { Rate(usual.0.saturating_add(limit.0)) } else { limit };
        let all = new.requests.max(u64::from(self.min_requests.get()));
        (new.errors > allowed.part_of(all)).then(|| {
            let rate = Rate::of(new.errors, new.requests);
            format!(
                "{} of {} requests failed ({rate}), {allowed} may; of the former release's last {}, {usual} did",
                new.errors, new.requests, old.requests
            )
        })
    }

    fn judge_p95(&self, slower: u32, new: &Figures, old: &Figures) -> Judgement {
        let needed = u64::from(self.min_requests.get());
        if old.requests < needed {
            let seen = format!("{} of {needed} requests to the former release to compare with", old.requests);
            return Judgement::TooLittle(seen);
        }
        let (Some(now), Some(then)) = (new.took.percentile(95), old.took.percentile(95)) else {
            return Judgement::TooLittle("no answer was timed".to_owned());
        };
        let allowed = then * (100 + slower) / 100;
        if now <= allowed {
            return Judgement::Well;
        }
        let ms = |took: Duration| took.as_micros().div_ceil(1000);
        let (now, allowed, then) = (ms(now), ms(allowed), ms(then));
        Judgement::Bad(format!(
            "95 of 100 requests took up to {now} ms, {allowed} ms may (+{slower}%); the former release's took up to {then} ms"
        ))
    }
}

/// The verdict of real traffic on a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is within the limits.
    Well,
    /// It exceeds a limit; the text says how.
    Bad(String),
    /// There was too little of it to judge; the text says how much.
    TooLittle(String),
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
    fn a_percentile_is_at_most_a_sixteenth_too_high() {
        let mut all = Histogram::default();
        assert_eq!(all.percentile(95), None);
        (1..=1000).for_each(|millis| all.record(Duration::from_millis(millis)));
        for (of_100, exact) in [(50, 500), (95, 950), (100, 1000)] {
            let found = all.percentile(of_100).unwrap();
            let exact = Duration::from_millis(exact);
            assert!(found >= exact && found <= exact * 17 / 16, "{of_100}: {found:?}");
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

    fn some(requests: u64, errors: u64, millis: u64) -> Figures {
        let mut figures = Figures { requests, errors, ..Figures::default() };
        (0..requests).for_each(|_| figures.took.record(Duration::from_millis(millis)));
        figures
    }

    fn limits(max_error_rate: Option<u32>, max_p95: Option<u32>) -> TrafficLimits {
        let min_requests = NonZeroU32::new(200).unwrap();
        TrafficLimits {
            max_error_rate: max_error_rate.map(|percent| Rate(percent * 10_000)),
            max_p95,
            min_requests,
        }
    }

    #[test]
    fn a_release_with_more_errors_than_allowed_is_bad_as_soon_as_that_is_certain() {
        let one_percent = limits(Some(1), None);
        let old = some(1000, 0, 5);
        assert_eq!(one_percent.judge(&some(1000, 10, 5), &old), Judgement::Well);
        for (requests, errors) in [(1000, 30), (200, 3), (20, 3)] {
            let Judgement::Bad(why) = one_percent.judge(&some(requests, errors, 5), &old) else {
                panic!("{errors} of {requests}")
            };
            assert!(why.starts_with(&format!("{errors} of {requests} requests failed")), "{why}");
        }
        assert_eq!(limits(Some(5), None).judge(&some(1000, 30, 5), &old), Judgement::Well);
        let too_little = Judgement::TooLittle("10 of 200 requests".to_owned());
        assert_eq!(one_percent.judge(&some(10, 0, 5), &old), too_little);
    }

    #[test]
    fn a_release_is_not_blamed_for_what_the_former_one_suffers_too() {
        let one_percent = limits(Some(1), None);
        let old = some(1000, 100, 5);
        assert_eq!(one_percent.judge(&some(1000, 105, 5), &old), Judgement::Well);
        assert!(matches!(one_percent.judge(&some(1000, 130, 5), &old), Judgement::Bad(_)));
    }

    #[test]
    fn a_release_that_is_too_slow_is_bad_where_there_is_something_to_compare_with() {
        let slower = limits(None, Some(30));
        let old = some(1000, 0, 100);
        assert_eq!(slower.judge(&some(1000, 0, 120), &old), Judgement::Well);
        let Judgement::Bad(why) = slower.judge(&some(1000, 0, 200), &old) else { panic!("it is slow") };
        assert!(why.contains("(+30%)"), "{why}");
        assert!(matches!(slower.judge(&some(1000, 0, 200), &some(3, 0, 1)), Judgement::TooLittle(_)));
        assert_eq!(TrafficLimits::IGNORED.judge(&some(1, 1, 9), &old), Judgement::Well);
    }

    #[test]
    fn a_rate_reads_as_people_write_it() {
        for (rate, text) in
            [(10_000, "1%"), (5_000, "0.5%"), (33_333, "3.33%"), (0, "0%"), (1_000_000, "100%")]
        {
            assert_eq!(Rate(rate).to_string(), text);
        }
    }
}
