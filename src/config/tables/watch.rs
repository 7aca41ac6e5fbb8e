//! `[app.NAME.watch]`: how long bgd watches a release after a flip, and the limits of real traffic meanwhile. Does not
//! measure.

use std::{num::NonZeroU32, time::Duration};

use super::{
    canary::CanarySettings,
    front::FrontSettings,
    health::{Health, Probe},
};
use crate::{
    config::{judge::Judge, read::Given},
    rules::traffic::{Rate, TrafficLimits},
};

table! {
    /// `[app.NAME.watch]`.
    RawWatch {
        period = "for": Duration,
        restart: bool,
        backup: bool,
        max_error_rate: String,
        max_p95: String,
        min_requests: i64,
        inconclusive: String,
    }
}

/// What happens after a flip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// Keep probing for this long; failure flips back.
    pub period: Duration,
    /// Restart a live instance that dies.
    pub restart: bool,
    /// Keep the old color as backup during the watch: it gets the requests that the new color refuses.
    pub backup: bool,
    /// Limits of real traffic, also in a canary's steps.
    pub traffic: TrafficLimits,
    /// What follows when there was too little traffic to tell.
    pub inconclusive: Inconclusive,
}

/// What follows when there was too little traffic to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inconclusive {
    /// Warn, and continue the deploy.
    #[default]
    GoOn,
    /// Extend the step or the watch until there was enough traffic, or until `bgd promote`.
    Hold,
}

const PERIOD: Duration = Duration::from_secs(30);
const RESTART: bool = true;
const BACKUP: bool = false;
const MIN_REQUESTS: NonZeroU32 = TrafficLimits::IGNORED.min_requests;

/// Percent; a higher limit is refused, because it would never be reached.
const MOST_SLOWER: u32 = 10_000;

impl Judge<'_> {
    /// Checks the watch of an app with this health check and canary.
    pub(super) fn watch(&mut self, raw: &RawWatch, health: &Health, canary: &CanarySettings) -> Watch {
        let period = raw.period.value().map_or(PERIOD, |written| written.value);
        let limits = [raw.max_error_rate.span(), raw.max_p95.span()];
        if let Some(at) = raw.period.span().filter(|_| period.is_zero()) {
            if health.probe == Probe::Tcp {
                let what =
                    "nothing looks at the app after the flip, and an open port is all that is asked before";
                self.notes.warn(at, what, "write a health.path, or leave `for` out for 30s");
            }
            if let Some(written) = raw.backup.value().filter(|written| written.value) {
                let what = "has no effect: `for` is 0s, and a backup is there for the watch";
                self.notes.warn(&written.at, what, "give `for` a time");
            }
            if let Some(at) = limits.into_iter().flatten().next().filter(|_| canary.steps.is_empty()) {
                let what = "is never looked at: `for` is 0s, and there is no canary";
                self.notes.warn(at, what, "give `for` a time, or the app a canary");
            }
        }
        if limits.into_iter().flatten().next().is_none() {
            let (what, hint) =
                ("has no effect without max_error_rate or max_p95", "add one, or leave it out");
            self.refuse([raw.min_requests.span(), raw.inconclusive.span()], what, hint);
        }
        Watch {
            period,
            backup: raw.backup.value().map_or(BACKUP, |written| written.value),
            restart: raw.restart.value().map_or(RESTART, |written| written.value),
            traffic: TrafficLimits {
                max_error_rate: self.text(
                    &raw.max_error_rate,
                    rate,
                    "is not an error rate",
                    "percent of all requests, 0% to 100%, such as \"1%\" or \"0.5%\"",
                ),
                max_p95: self.slower(&raw.max_p95),
                min_requests: self.min_requests(&raw.min_requests),
            },
            inconclusive: self.inconclusive(&raw.inconclusive),
        }
    }

    /// Checks that the front can have a backup.
    pub(super) fn backup_stands(&mut self, given: &Given<bool>, front: Option<&FrontSettings>) {
        let asked = given.value().filter(|written| written.value);
        if let (Some(written), Some(what)) = (asked, front.and_then(FrontSettings::no_backup)) {
            self.notes.error(&written.at, what, "leave it out");
        }
    }

    fn slower(&mut self, given: &Given<String>) -> Option<u32> {
        let percent = |text: &str| {
            let number = text.strip_prefix('+')?.strip_suffix('%')?;
            let digits = number.bytes().all(|c| c.is_ascii_digit());
            number.parse().ok().filter(|percent| digits && *percent <= MOST_SLOWER)
        };
        let hint = format!(
            "how much slower than the old color, as \"+30%\": begins with `+`, at most \"+{MOST_SLOWER}%\""
        );
        self.text(given, percent, "is not a limit of the 95th percentile", hint)
    }

    fn min_requests(&mut self, given: &Given<i64>) -> NonZeroU32 {
        let some = |number: i64| u32::try_from(number).ok().and_then(NonZeroU32::new);
        let hint = format!("{MIN_REQUESTS} is the default; fewer requests tell nothing");
        self.number(given, some, "must be 1 or more, and fit 32 bits", hint).unwrap_or(MIN_REQUESTS)
    }

    fn inconclusive(&mut self, given: &Given<String>) -> Inconclusive {
        let words = [("go_on", Inconclusive::GoOn), ("hold", Inconclusive::Hold)];
        let hint = "\"go_on\": too little traffic is said, and the deploy goes on; \"hold\": it waits";
        self.word(given, &words, "is not a way to go on", |_| hint.to_owned()).unwrap_or_default()
    }
}

/// Parses a percentage such as `0.5%` to millionths; at most four digits after the dot.
fn rate(text: &str) -> Option<Rate> {
    let number = text.strip_suffix('%')?;
    let (whole, part) = number.split_once('.').map_or((number, None), |(whole, part)| (whole, Some(part)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !part.is_none_or(|part| digits(part) && part.len() <= 4) {
        return None;
    }
    let part: u32 = format!("{:0<4}", part.unwrap_or_default()).parse().ok()?;
    let millionths = whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(part)?;
    Some(Rate(millionths)).filter(|_| millionths <= 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    #[test]
    fn a_rate_is_a_percentage_of_at_most_the_whole_with_up_to_four_decimals() {
        for (text, millionths) in [
            ("0%", 0),
            ("1%", 10_000),
            ("0.5%", 5_000),
            ("0.0001%", 1),
            ("12.34%", 123_400),
            ("100%", 1_000_000),
            ("100.0000%", 1_000_000),
        ] {
            assert_eq!(rate(text), Some(Rate(millionths)), "{text}");
        }
        for bad in [
            "",
            "%",
            "1",
            "-1%",
            "+1%",
            "1,5%",
            ".5%",
            "1.%",
            "0.00001%",
            "100.0001%",
            "101%",
            "99999999999%",
            "1 %",
        ] {
            assert_eq!(rate(bad), None, "{bad}");
        }
    }

    const WRONG: &[Wrong] = &[
        (
            "watch.backup = true\nfront.type = \"haproxy\"",
            "4 app.shop.watch.backup",
            "can't be had with haproxy, whose backups are fixed",
        ),
        (
            "watch.max_error_rate = 1",
            "4 app.shop.watch.max_error_rate",
            "expected a text, found the number 1",
        ),
        ("watch.max_error_rate = \"1\"", "4 app.shop.watch.max_error_rate", "is not an error rate: \"1\""),
        ("watch.max_error_rate = \"101%\"", "4 app.shop.watch.max_error_rate", "is not an error rate"),
        (
            "watch.max_p95 = \"30%\"",
            "4 app.shop.watch.max_p95",
            "is not a limit of the 95th percentile: \"30%\"",
        ),
        ("watch.max_p95 = \"+30\"", "4 app.shop.watch.max_p95", "is not a limit of the 95th percentile"),
        ("watch.max_p95 = \"++3%\"", "4 app.shop.watch.max_p95", "is not a limit of the 95th percentile"),
        ("watch.max_p95 = \"+%\"", "4 app.shop.watch.max_p95", "is not a limit of the 95th percentile"),
        ("watch.max_p95 = \"+10001%\"", "4 app.shop.watch.max_p95", "is not a limit of the 95th percentile"),
        (
            "watch.min_requests = 200",
            "4 app.shop.watch.min_requests",
            "has no effect without max_error_rate or max_p95",
        ),
        (
            "watch.inconclusive = \"hold\"",
            "4 app.shop.watch.inconclusive",
            "has no effect without max_error_rate or max_p95",
        ),
        (
            "watch = { max_p95 = \"+30%\", min_requests = 0 }",
            "4 app.shop.watch.min_requests",
            "must be 1 or more, and fit 32 bits: 0",
        ),
        (
            "watch = { max_p95 = \"+30%\", inconclusive = \"wait\" }",
            "4 app.shop.watch.inconclusive",
            "is not a way to go on: \"wait\"",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
