//! `[app.NAME.watch]`: how long a release is on probation, and what real traffic must look like meanwhile. Called by
//! `app.rs`; measures nothing.

use std::num::NonZeroU32;

use super::Judge;
use crate::config::{
    defaults,
    raw::RawWatch,
    read::{Given, Written},
    settings::{Canary, FrontSettings, Health, Inconclusive, Probe, Watch},
};
use crate::rules::traffic::{Rate, TrafficLimits};

/// Percent; beyond it a limit says nothing.
const MOST_SLOWER: u32 = 10_000;

impl Judge<'_> {
    /// Judges the watch of an app with this health check and canary.
    pub(super) fn watch(&mut self, raw: &RawWatch, health: &Health, canary: &Canary) -> Watch {
        let period = raw.period.value().map_or(defaults::WATCH_FOR, |written| written.value);
        let limits = [raw.max_error_rate.place(), raw.max_p95.place()];
        if let Some(at) = raw.period.place().filter(|_| period.is_zero()) {
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
            self.refuse([raw.min_requests.place(), raw.inconclusive.place()], what, hint);
        }
        Watch {
            period,
            backup: raw.backup.value().map_or(defaults::WATCH_BACKUP, |written| written.value),
            restart: raw.restart.value().map_or(defaults::WATCH_RESTART, |written| written.value),
            traffic: TrafficLimits {
                max_error_rate: self.rate(&raw.max_error_rate),
                max_p95: self.slower(&raw.max_p95),
                min_requests: self.min_requests(&raw.min_requests),
            },
            inconclusive: self.inconclusive(&raw.inconclusive),
        }
    }

    /// In HAProxy a server is a backup by its own configuration, which bgd does not write.
    pub(super) fn backup_stands(&mut self, given: &Given<bool>, front: Option<&FrontSettings>) {
        let asked = given.value().filter(|written| written.value);
        if let (Some(written), Some(FrontSettings::Haproxy(_))) = (asked, front) {
            let what = "can't be had with haproxy, whose backups are fixed by its own configuration";
            self.notes.error(&written.at, what, "leave it out");
        }
    }

    fn rate(&mut self, given: &Given<String>) -> Option<Rate> {
        let Written { value, at } = given.value()?;
        let rate = rate(value);
        if rate.is_none() {
            let hint = "percent of all requests, 0% to 100%, such as \"1%\" or \"0.5%\"";
            self.notes.error(at, format!("is no error rate: {value:?}"), hint);
        }
        rate
    }

    fn slower(&mut self, given: &Given<String>) -> Option<u32> {
        let Written { value, at } = given.value()?;
        let number = value.strip_prefix('+').and_then(|rest| rest.strip_suffix('%'));
        let percent = number.filter(|number| number.bytes().all(|c| c.is_ascii_digit()));
        let percent = percent.and_then(|number| number.parse().ok()).filter(|it| *it <= MOST_SLOWER);
        if percent.is_none() {
            let hint = format!(
                "how much slower than the old color, as \"+30%\": begins with `+`, at most \"+{MOST_SLOWER}%\""
            );
            self.notes.error(at, format!("is no limit of the 95th percentile: {value:?}"), hint);
        }
        percent
    }

    fn min_requests(&mut self, given: &Given<i64>) -> NonZeroU32 {
        let Some(Written { value, at }) = given.value() else { return defaults::MIN_REQUESTS };
        u32::try_from(*value).ok().and_then(NonZeroU32::new).unwrap_or_else(|| {
            let hint = format!("{} is the default; fewer requests tell nothing", defaults::MIN_REQUESTS);
            self.notes.error(at, format!("must be 1 or more, and fit 32 bits: {value}"), hint);
            defaults::MIN_REQUESTS
        })
    }

    fn inconclusive(&mut self, given: &Given<String>) -> Inconclusive {
        match given.value().map(|written| (written.value.as_str(), &written.at)) {
            None => Inconclusive::default(),
            Some(("go_on", _)) => Inconclusive::GoOn,
            Some(("hold", _)) => Inconclusive::Hold,
            Some((other, at)) => {
                let hint =
                    "\"go_on\": too little traffic is said, and the deploy goes on; \"hold\": it waits";
                self.notes.error(at, format!("is no way to go on: {other:?}"), hint);
                Inconclusive::default()
            }
        }
    }
}

/// `0.5%` in millionths: a whole part, and at most four digits after the dot.
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
}
