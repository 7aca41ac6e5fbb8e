//! `[app.NAME.warmup]`: bgd's requests to a new instance before it gets traffic.

use std::{num::NonZeroU32, time::Duration};

use super::health::Health;
use crate::config::{
    duration,
    judge::Judge,
    read::{Given, Written},
};

table! {
    /// `[app.NAME.warmup]`.
    RawWarmup { paths: Vec<Written<String>>, requests: i64, until_p95: Duration }
}

/// Requests to a new instance before it gets traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warmup {
    /// Requested paths, in turn; each begins with `/`; never empty.
    pub paths: Vec<String>,
    /// Largest number of requests.
    pub requests: NonZeroU32,
    /// Stop when 95% of the last 100 requests (of all, if there are fewer, but at least 20) took at most this long;
    /// `None`: make all `requests`.
    pub until_p95: Option<Duration>,
}

impl Warmup {
    /// The fewest requests from which a 95th percentile is computed.
    pub const FEWEST: u32 = 20;
}

const REQUESTS: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// More requests would take longer than an operator waits.
const MOST_REQUESTS: u32 = 100_000;

impl Judge<'_> {
    /// Checks the warm-up of an app with this health check.
    pub(super) fn warmup(&mut self, given: Given<RawWarmup>, health: &Health) -> Option<Warmup> {
        let raw = given.into_value()?.value;
        let hint = "write paths = [\"/\"], what a first visitor asks for, or leave the table out";
        if raw.paths.span().is_none() {
            self.notes.error(&raw.at.absent("paths"), "is required", hint);
        }
        let requests = self.requests(&raw.requests);
        let until_p95 = raw.until_p95.value().map(|_| self.positive(&raw.until_p95, duration::LONGEST));
        if until_p95.is_some() && requests.get() < Warmup::FEWEST {
            let what = format!("can never be met: {requests} requests, and at least {} tell", Warmup::FEWEST);
            let at = raw.until_p95.span().unwrap_or(&raw.at);
            self.notes.error(at, what, format!("write requests = {} or more", Warmup::FEWEST));
        }
        if let Some(at) = raw.until_p95.span().filter(|_| until_p95.is_some_and(|it| it > health.timeout)) {
            let timeout = duration::exact(health.timeout);
            let what = format!(
                "is longer than health.timeout: a request without an answer after {timeout} is not fast"
            );
            self.notes.warn(at, what, format!("write {timeout} or less, or a longer health.timeout"));
        }
        let list = raw.paths.value()?;
        if list.value.is_empty() {
            self.notes.error(&list.at, "is empty", hint);
        }
        if let Some(late) = list.value.get(requests.get() as usize) {
            let what = format!("is never asked: {requests} requests, {} paths", list.value.len());
            self.notes.warn(&late.at, what, "raise `requests`; the paths are asked in turn");
        }
        let paths = list.value.iter().filter_map(|path| self.url_path(path)).collect();
        Some(Warmup { paths, requests, until_p95 })
    }

    fn requests(&mut self, given: &Given<i64>) -> NonZeroU32 {
        let some = |number: i64| u32::try_from(number).ok().and_then(NonZeroU32::new);
        let bearable = |number: i64| some(number).filter(|requests| requests.get() <= MOST_REQUESTS);
        let (what, hint) = (format!("must be 1 to {MOST_REQUESTS}"), format!("{REQUESTS} is the default"));
        self.number(given, bearable, &what, hint).unwrap_or(REQUESTS)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("warmup = {}", "4 app.shop.warmup.paths", "is required"),
        ("warmup.requests = 5", "4 app.shop.warmup.paths", "is required"),
        ("warmup.paths = []", "4 app.shop.warmup.paths", "is empty"),
        ("warmup.paths = [\"/\", \"x\"]", "4 app.shop.warmup.paths[1]", "is not a URL path: \"x\""),
        (
            "warmup = { paths = [\"/\"], requests = 0 }",
            "4 app.shop.warmup.requests",
            "must be 1 to 100000: 0",
        ),
        (
            "warmup = { paths = [\"/\"], requests = 100001 }",
            "4 app.shop.warmup.requests",
            "must be 1 to 100000",
        ),
        (
            "warmup = { paths = [\"/\"], until_p95 = \"0s\" }",
            "4 app.shop.warmup.until_p95",
            "longer than zero",
        ),
        (
            "warmup = { paths = [\"/\"], until_p95 = \"1s\", requests = 19 }",
            "4 app.shop.warmup.until_p95",
            "can never be met: 19 requests, and at least 20 tell",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
