//! Figures of a warm-up: which requests were answered, and how fast the last hundred were. Filled by `warmup.rs`; makes
//! no requests, and decides only when it is enough.

use std::{collections::VecDeque, fmt, time::Duration};

use crate::{
    config::{duration::rough, settings::Warmup},
    probe::Visit,
};

/// The last requests that count; older ones are the cold start.
const WINDOW: usize = 100;
/// How many of 100 requests have to be as fast as asked for.
const OF_100: usize = 95;

/// The results of the requests so far.
#[derive(Debug)]
pub(crate) struct WarmupFigures {
    limit: Option<Duration>,
    made: u32,
    answered: u32,
    /// The last requests, oldest first.
    last: VecDeque<Made>,
    /// The last request that was not answered properly, and why.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Made {
    path: String,
    took: Duration,
    answered: bool,
}

impl WarmupFigures {
    /// The figures of a warm-up that has not begun.
    pub fn of(warmup: &Warmup) -> Self {
        Self { limit: warmup.until_p95, made: 0, answered: 0, last: VecDeque::new(), trouble: None }
    }

    /// Counts one request. Any whole answer with a status below 500 is one: a page that asks for a login is warm too.
    pub fn note(&mut self, path: &str, visit: &Visit) {
        let wrong = match &visit.status {
            Ok(status) if *status < 500 => None,
            Ok(status) => Some(format!("answered {status}")),
            Err(reason) => Some(reason.to_string()),
        };
        self.made += 1;
        self.answered += u32::from(wrong.is_none());
        if self.last.len() == WINDOW {
            self.last.pop_front();
        }
        self.last.push_back(Made { path: path.to_owned(), took: visit.took, answered: wrong.is_none() });
        self.trouble = wrong.map(|why| format!("GET {path}: {why}")).or(self.trouble.take());
    }

    /// The number of requests made.
    pub fn made(&self) -> u32 {
        self.made
    }

    /// The number of requests answered with a status below 500.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// Whether 95 of the last 100 were as fast as asked for; or 95 % of fewer, but at least [`Warmup::FEWEST`]. An
    /// unanswered request was not fast.
    pub fn are_warm(&self) -> bool {
        self.limit.is_some()
            && self.last.len() >= Warmup::FEWEST as usize
            && self.fast() * 100 >= self.last.len() * OF_100
    }

    fn fast(&self) -> usize {
        let fast = |one: &&Made| one.answered && self.limit.is_none_or(|limit| one.took <= limit);
        self.last.iter().filter(fast).count()
    }

    /// The last request that failed, and why.
    pub fn last_trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// `; the last of 3 without a proper answer: GET /: answered 503`; empty when there is none.
    fn trouble(&self) -> String {
        let without = self.made - self.answered;
        let shown = |trouble: &String| match without {
            1 => format!("; one without a proper answer: {trouble}"),
            _ => format!("; the last of {without} without a proper answer: {trouble}"),
        };
        self.trouble.as_ref().map(shown).unwrap_or_default()
    }

    /// The reason why it is not warm, for people.
    pub fn too_slow(&self) -> String {
        let limit = self.limit.map(rough).unwrap_or_default();
        let slowest =
            self.slowest().map(|(path, took)| format!("; slowest: GET {path}, {} on average", rough(took)));
        format!(
            "of the last {} requests {} were answered within {limit}, and {OF_100} of 100 are asked for ({}){}{}",
            self.last.len(),
            self.fast(),
            self.percentiles(),
            slowest.unwrap_or_default(),
            self.trouble(),
        )
    }

    fn percentiles(&self) -> String {
        let mut took: Vec<Duration> = self.last.iter().filter(|it| it.answered).map(|it| it.took).collect();
        took.sort();
        let rank = |of_100: usize| (took.len() * of_100).div_ceil(100).max(1) - 1;
        let shown = |of_100: usize| took.get(rank(of_100)).map_or("none".to_owned(), |took| rough(*took));
        format!("p50 {}, p95 {}", shown(50), shown(OF_100))
    }

    /// The path whose requests took longest on average, answered or not.
    fn slowest(&self) -> Option<(&str, Duration)> {
        let average = |path: &str| {
            let of_path = self.last.iter().filter(|one| one.path == path);
            let (count, sum) = of_path.fold((0, Duration::ZERO), |(n, sum), one| (n + 1, sum + one.took));
            sum.checked_div(count).unwrap_or_default()
        };
        let mut paths: Vec<&str> = self.last.iter().map(|one| one.path.as_str()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths.into_iter().map(|path| (path, average(path))).max_by_key(|(_, took)| *took)
    }
}

impl fmt::Display for WarmupFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = if self.made as usize > self.last.len() { " of the last 100" } else { "" };
        write!(f, "{} requests, {}{last}{}", self.made, self.percentiles(), self.trouble())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{probe::Reason, rules::address::Address};

    fn figures(until_p95: Option<u64>) -> WarmupFigures {
        let requests = NonZeroU32::new(100).unwrap();
        let until_p95 = until_p95.map(Duration::from_millis);
        WarmupFigures::of(&Warmup { paths: vec!["/".to_owned()], requests, until_p95 })
    }

    fn took(millis: u64) -> Visit {
        Visit { took: Duration::from_millis(millis), status: Ok(200) }
    }

    #[test]
    fn it_is_warm_when_95_of_the_last_100_were_fast_enough() {
        let mut figures = figures(Some(300));
        (0..100).for_each(|_| figures.note("/", &took(301)));
        assert!(!figures.are_warm());
        for fast in 1..=95 {
            assert!(!figures.are_warm(), "after {} fast ones", fast - 1);
            figures.note("/", &took(300));
        }
        assert!(figures.are_warm());
    }

    #[test]
    fn fewer_than_20_tell_nothing_and_of_20_one_may_be_slow() {
        let mut fast = figures(Some(300));
        (0..19).for_each(|_| fast.note("/", &took(1)));
        assert!(!fast.are_warm());
        fast.note("/", &took(999));
        assert!(fast.are_warm());
        let mut slow = figures(Some(300));
        (0..2).for_each(|_| slow.note("/", &took(999)));
        (0..18).for_each(|_| slow.note("/", &took(1)));
        assert!(!slow.are_warm());
    }

    #[test]
    fn without_a_limit_it_is_never_warm_before_the_last_request() {
        let mut figures = figures(None);
        (0..500).for_each(|_| figures.note("/", &took(1)));
        assert!(!figures.are_warm());
    }

    #[test]
    fn what_is_not_answered_was_not_fast_and_a_status_below_500_is_an_answer() {
        let mut found = figures(Some(300));
        let visit = |status| Visit { took: Duration::from_millis(1), status };
        (0..50).for_each(|_| found.note("/", &visit(Ok(500))));
        (0..50).for_each(|_| found.note("/", &visit(Err(Reason::Refused { address: Address::Port(1) }))));
        assert!(!found.are_warm());
        assert_eq!((found.made(), found.answered()), (100, 0));
        for status in [200, 302, 401, 404, 499].into_iter().cycle().take(100) {
            found.note("/", &visit(Ok(status)));
        }
        assert!(found.are_warm());
        assert_eq!((found.made(), found.answered()), (200, 100));
    }

    #[test]
    fn it_says_how_fast_it_was_which_path_was_slowest_and_what_went_wrong() {
        let mut figures = figures(Some(50));
        for millis in 1..=98 {
            figures.note("/", &took(millis));
        }
        figures.note("/search?q=x", &took(1200));
        figures.note("/search?q=x", &Visit { took: Duration::ZERO, status: Ok(503) });
        assert_eq!(
            figures.too_slow(),
            "of the last 100 requests 50 were answered within 50ms, and 95 of 100 are asked for (p50 50ms, \
             p95 95ms); slowest: GET /search?q=x, 600ms on average; one without a proper answer: GET /search?q=x: \
             answered 503"
        );
        assert_eq!(
            figures.to_string(),
            "100 requests, p50 50ms, p95 95ms; one without a proper answer: GET /search?q=x: answered 503"
        );
        figures.note(
            "/",
            &Visit { took: Duration::ZERO, status: Err(Reason::Refused { address: Address::Port(9) }) },
        );
        assert!(figures.to_string().starts_with("101 requests, "), "{figures}");
        assert!(
            figures.to_string().ends_with(
                " of the last 100; the last of 2 without a proper answer: GET /: connection refused on 127.0.0.1:9"
            ),
            "{figures}"
        );
    }
}
