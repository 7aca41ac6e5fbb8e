//! `[app.NAME.canary]`, `preview` and `warmup`: how a new release comes to its traffic by degrees. Called by `app.rs`;
//! knows neither the fronts nor the machine, only what both can keep.

use std::num::NonZeroU32;

use super::{Holds, Judge};
use crate::{
    config::{
        defaults, duration,
        problem::Place,
        raw::{RawCanary, RawPreview, RawWarmup},
        read::{Given, Written},
        settings::{Canary, Health, Preview, Sticky, Warmup},
    },
    rules::{
        canary::{CanaryStep, Share},
        ids::AppName,
    },
};

/// What a step looks like, for hints.
const STEP: &str =
    "a share and how long, such as \"5%:2m\"; a share alone, such as \"20%\", lasts until `bgd promote`";

/// More than this asks the new release for longer than anybody waits.
const MOST_REQUESTS: u32 = 100_000;

/// Headers that HTTP itself, or a proxy on the way, has a use for.
const TAKEN: [&str; 14] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-proto",
];

impl Judge<'_> {
    /// Judges the canary of the app `name`.
    pub(super) fn canary(&mut self, given: &Given<RawCanary>, name: &AppName) -> Canary {
        let Some(Written { value: raw, .. }) = given.value() else { return Canary::default() };
        Canary { steps: self.steps(raw), sticky: self.sticky(raw, name) }
    }

    fn steps(&mut self, raw: &RawCanary) -> Vec<CanaryStep> {
        let hint = "write steps = [\"5%:2m\", \"25%:5m\", \"50%:5m\"], or leave the table out";
        if raw.steps.place().is_none() {
            self.notes.error(&raw.at.absent("steps"), "is required", hint);
        }
        let Some(list) = raw.steps.value() else { return Vec::new() };
        if list.value.is_empty() {
            self.notes.error(&list.at, "is empty", hint);
        }
        let read = |one: &Written<String>| Some((self.step(one)?, one.at.clone()));
        let steps: Vec<(CanaryStep, Place)> = list.value.iter().filter_map(read).collect();
        for pair in steps.windows(2) {
            self.steps_fit(&pair[0].0, (&pair[1].0, &pair[1].1));
        }
        steps.into_iter().map(|(step, _)| step).collect()
    }

    fn step(&mut self, written: &Written<String>) -> Option<CanaryStep> {
        let Written { value, at } = written;
        let (share, hold) = match value.split_once(':') {
            Some((share, hold)) => (share, Some(hold)),
            None => (value.as_str(), None),
        };
        // As `bgd canary set` takes it: the sign may be left out.
        let number = share.strip_suffix('%').unwrap_or(share);
        let Some(percent) = number.parse::<u32>().ok().filter(|_| is_number(number)) else {
            self.notes.error(at, format!("is no step of a canary: {value:?}"), STEP);
            return None;
        };
        let Some(share) = u8::try_from(percent).ok().and_then(Share::percent).filter(|it| *it != Share::ALL)
        else {
            let hint =
                "a step is 0% to 99%; after the last one the release gets all of the traffic by itself";
            self.notes.error(at, format!("is not a part of the traffic: {value:?}"), hint);
            return None;
        };
        let hold = match hold.map(duration::parse) {
            Some(Ok(hold)) if hold.is_zero() => {
                self.notes.error(at, format!("lasts no time at all: {value:?}"), STEP);
                return None;
            }
            Some(Err(bad)) => {
                let what = format!("the time of {value:?} {bad}");
                self.notes.error(at, what, bad.hint());
                return None;
            }
            Some(Ok(hold)) => Some(hold),
            None => None,
        };
        Some(CanaryStep { share, hold })
    }

    fn steps_fit(&mut self, former: &CanaryStep, (step, at): (&CanaryStep, &Place)) {
        if step.share <= former.share {
            let what = format!("is not more than the step before: {} after {}", step.share, former.share);
            self.notes.error(at, what, "each step has a larger share than the one before");
        }
        if former.hold.is_none() {
            let what = format!("is never reached: the step before, {}, has no time", former.share);
            let hint = "`bgd promote` gives all of the traffic at once; give the step before a time";
            self.notes.warn(at, what, hint);
        }
    }

    fn sticky(&mut self, raw: &RawCanary, name: &AppName) -> Sticky {
        let cookie = self.cookie(&raw.cookie);
        let kind = raw.sticky.value().map(|written| (written.value.as_str(), &written.at));
        if !matches!(kind, Some(("cookie", _))) && !matches!(raw.sticky, Given::Unreadable(_)) {
            let hint = "add sticky = \"cookie\", or leave it out";
            self.refuse([raw.cookie.place()], "has no effect without sticky = \"cookie\"", hint);
        }
        match kind {
            None => defaults::STICKY,
            Some(("none", _)) => Sticky::None,
            Some(("ip", _)) => Sticky::Ip,
            Some(("cookie", _)) => Sticky::Cookie(cookie.unwrap_or_else(|| defaults::sticky_cookie(name))),
            Some((other, at)) => {
                let hint =
                    "\"none\": each request for itself; \"ip\" or \"cookie\": a client stays on its side";
                self.notes.error(at, format!("is no kind of stickiness: {other:?}"), hint);
                defaults::STICKY
            }
        }
    }

    /// A name that every front can ask for, nginx by a variable.
    fn cookie(&mut self, given: &Given<String>) -> Option<String> {
        let Written { value, at } = given.value()?;
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        if value.is_empty() || value.len() > 64 || !value.bytes().all(fits) {
            let what = format!("is no name of a cookie here: {:?}", shorten(value));
            self.notes.error(at, what, "1 to 64 letters, digits and `_`, such as \"bgd_shop\"");
            return None;
        }
        Some(value.clone())
    }

    /// Judges the preview; it needs a canary whose release it shows.
    pub(super) fn preview(
        &mut self,
        given: Given<RawPreview>,
        canary: &Given<RawCanary>,
        judged: &Canary,
    ) -> Option<Preview> {
        let none = Given::Absent;
        let steps = canary.value().map_or(&none, |written| &written.value.steps);
        if given.place().is_none() {
            self.nobody_can_look(steps, judged);
        }
        let raw = given.into_value()?.value;
        if canary.place().is_none() {
            let hint = "add canary = { steps = [\"0%\"] }: the release waits for `bgd promote`, and a preview shows it";
            self.notes.error(&raw.at, "has no effect without a step of a canary", hint);
        }
        if raw.secret_file.place().is_none() {
            let hint = "name a file whose first line is 16 to 200 letters, digits, `-` and `_`";
            self.notes.error(&raw.at.absent("secret_file"), "is required", hint);
        }
        let header = self.header(&raw.header).unwrap_or_else(|| defaults::PREVIEW_HEADER.to_owned());
        let cookie = self.cookie(&raw.cookie).unwrap_or_else(|| defaults::PREVIEW_COOKIE.to_owned());
        if let Sticky::Cookie(sticky) = &judged.sticky
            && sticky.eq_ignore_ascii_case(&cookie)
        {
            let at = raw.cookie.place().cloned().unwrap_or_else(|| raw.at.absent("cookie"));
            let what = format!("is the cookie of canary.sticky as well: {cookie}");
            self.notes.error(&at, what, "give one of them another name");
        }
        let secret_file = self.host_file(&raw.secret_file, Holds::Secret)?;
        Some(Preview { header, cookie, secret_file })
    }

    fn nobody_can_look(&mut self, steps: &Given<Vec<Written<String>>>, judged: &Canary) {
        let first = steps.value().and_then(|list| list.value.first());
        if let Some(first) = first
            && judged.steps.first().is_some_and(|step| step.share == Share::NONE)
        {
            let what =
                "nobody can look at the release in this step: it has no traffic, and there is no preview";
            self.notes.warn(&first.at, what, "add the table `preview`, or begin with a share such as \"1%\"");
        }
    }

    fn header(&mut self, given: &Given<String>) -> Option<String> {
        let Written { value, at } = given.value()?;
        // Not `_`: nginx drops such headers.
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        let hint = "1 to 64 letters, digits and `-`, such as \"X-Bgd-Preview\"";
        if value.is_empty() || value.len() > 64 || !value.bytes().all(fits) {
            self.notes.error(at, format!("is no name of a header here: {:?}", shorten(value)), hint);
            return None;
        }
        if TAKEN.iter().any(|taken| value.eq_ignore_ascii_case(taken)) {
            self.notes.error(at, format!("is a header with another use: {value}"), hint);
            return None;
        }
        Some(value.clone())
    }

    /// Judges the requests before the traffic, for an app with this health check.
    pub(super) fn warmup(&mut self, given: Given<RawWarmup>, health: &Health) -> Option<Warmup> {
        let raw = given.into_value()?.value;
        let hint = "write paths = [\"/\"], what a first visitor asks for, or leave the table out";
        if raw.paths.place().is_none() {
            self.notes.error(&raw.at.absent("paths"), "is required", hint);
        }
        let requests = self.requests(&raw.requests);
        let until_p95 = raw.until_p95.value().map(|_| self.positive(&raw.until_p95, duration::LONGEST));
        if until_p95.is_some() && requests.get() < Warmup::FEWEST {
            let what = format!("can never be met: {requests} requests, and at least {} tell", Warmup::FEWEST);
            let at = raw.until_p95.place().unwrap_or(&raw.at);
            self.notes.error(at, what, format!("write requests = {} or more", Warmup::FEWEST));
        }
        if let Some(at) = raw.until_p95.place().filter(|_| until_p95.is_some_and(|it| it > health.timeout)) {
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
        let Some(Written { value, at }) = given.value() else { return defaults::WARMUP_REQUESTS };
        let requests = u32::try_from(*value).ok().and_then(NonZeroU32::new);
        requests.filter(|requests| requests.get() <= MOST_REQUESTS).unwrap_or_else(|| {
            let what = format!("must be 1 to {MOST_REQUESTS}: {value}");
            self.notes.error(at, what, format!("{} is the default", defaults::WARMUP_REQUESTS));
            defaults::WARMUP_REQUESTS
        })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
