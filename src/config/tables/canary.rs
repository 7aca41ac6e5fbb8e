//! `[app.NAME.canary]`: the gradual move of traffic to a new release. Independent of the kinds of fronts; accepts only
//! shares and names that all of them support.

use std::time::Duration;

use super::daemon::{Principal, principals};
use crate::{
    config::{
        duration,
        judge::Judge,
        read::{Given, Written},
        span::Span,
    },
    rules::{
        canary::{CanaryStep, Share},
        ids::AppName,
        sticky::Sticky,
    },
};

table! {
    /// `[app.NAME.canary]`.
    RawCanary {
        steps: Vec<Written<String>>,
        sticky: String,
        cookie: String,
        approvers: Vec<Written<String>>,
        deadline: Duration,
    }
}

/// The gradual move of traffic to a new release.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CanarySettings {
    /// Shares before all of the traffic, strictly increasing and less than 100%; empty: all at once.
    pub steps: Vec<CanaryStep>,
    /// How a client is kept on one color.
    pub sticky: Sticky,
    /// Who may promote; empty: every operator.
    pub approvers: Vec<Principal>,
    /// A step without a length that nobody promoted by then is discarded.
    pub deadline: Option<Duration>,
}

const STICKY: Sticky = Sticky::None;

/// The default name of the sticky cookie; nginx does not support `-` in it.
fn sticky_cookie(app: &AppName) -> String {
    format!("bgd_{}", app.as_str().replace('-', "_"))
}

/// The form of a step, for hints.
const STEP: &str =
    "a share and how long, such as \"5%:2m\"; a share alone, such as \"20%\", lasts until `bgd promote`";

impl Judge<'_> {
    /// Judges the canary of the app `name`.
    pub(super) fn canary(&mut self, given: &Given<RawCanary>, name: &AppName) -> CanarySettings {
        let Some(Written { value: raw, .. }) = given.value() else { return CanarySettings::default() };
        if let Some(written) = raw.approvers.value().filter(|written| written.value.is_empty()) {
            self.notes.error(&written.at, "is empty", "leave it out: then every operator may promote");
        }
        if let Some(written) = raw.deadline.value().filter(|written| written.value.is_zero()) {
            self.notes.error(&written.at, "must be longer than zero", "leave it out for no limit");
        }
        CanarySettings {
            steps: self.steps(raw),
            sticky: self.sticky(raw, name),
            approvers: principals(self, &raw.approvers),
            deadline: raw.deadline.value().map(|written| written.value),
        }
    }

    fn steps(&mut self, raw: &RawCanary) -> Vec<CanaryStep> {
        let hint = "write steps = [\"5%:2m\", \"25%:5m\", \"50%:5m\"], or leave the table out";
        if raw.steps.span().is_none() {
            self.notes.error(&raw.at.absent("steps"), "is required", hint);
        }
        let Some(list) = raw.steps.value() else { return Vec::new() };
        if list.value.is_empty() {
            self.notes.error(&list.at, "is empty", hint);
        }
        let read = |one: &Written<String>| Some((self.step(one)?, one.at.clone()));
        let steps: Vec<(CanaryStep, Span)> = list.value.iter().filter_map(read).collect();
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
        // The `%` is optional, as in `bgd canary set`.
        let number = share.strip_suffix('%').unwrap_or(share);
        let Some(percent) = number.parse::<u32>().ok().filter(|_| is_number(number)) else {
            self.notes.error(at, format!("is not a canary step: {value:?}"), STEP);
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

    fn steps_fit(&mut self, former: &CanaryStep, (step, at): (&CanaryStep, &Span)) {
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
            self.refuse([raw.cookie.span()], "has no effect without sticky = \"cookie\"", hint);
        }
        match kind {
            None => STICKY,
            Some(("none", _)) => Sticky::None,
            Some(("ip", _)) => Sticky::Ip,
            Some(("cookie", _)) => Sticky::Cookie(cookie.unwrap_or_else(|| sticky_cookie(name))),
            Some((other, at)) => {
                let hint =
                    "\"none\": each request for itself; \"ip\" or \"cookie\": a client stays on its side";
                self.notes.error(at, format!("is not a kind of stickiness: {other:?}"), hint);
                STICKY
            }
        }
    }

    /// A cookie's name that every front can read; nginx uses it as part of a variable.
    pub(super) fn cookie(&mut self, given: &Given<String>) -> Option<String> {
        let Written { value, at } = given.value()?;
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        if value.is_empty() || value.len() > 64 || !value.bytes().all(fits) {
            let what = format!("is not a cookie name here: {:?}", shorten(value));
            self.notes.error(at, what, "1 to 64 letters, digits and `_`, such as \"bgd_shop\"");
            return None;
        }
        Some(value.clone())
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit())
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{canary::step, *};

    const WRONG: &[Wrong] = &[
        ("canary = {}", "4 app.shop.canary.steps", "is required"),
        ("canary.sticky = \"ip\"", "4 app.shop.canary.steps", "is required"),
        ("canary.steps = []", "4 app.shop.canary.steps", "is empty"),
        ("canary.steps = \"5%\"", "4 app.shop.canary.steps", "expected a list, found a text"),
        ("canary.steps = [5]", "4 app.shop.canary.steps[0]", "expected a text, found the number 5"),
        ("canary.steps = [\"five\"]", "4 app.shop.canary.steps[0]", "is not a canary step: \"five\""),
        ("canary.steps = [\"2m\"]", "4 app.shop.canary.steps[0]", "is not a canary step: \"2m\""),
        ("canary.steps = [\"100\"]", "4 app.shop.canary.steps[0]", "is not a part of the traffic: \"100\""),
        ("canary.steps = [\"5%%\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"5 %\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"%:2m\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"2.5%:2m\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"-5%\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"99999999999%\"]", "4 app.shop.canary.steps[0]", "is not a canary step"),
        ("canary.steps = [\"5%:\"]", "4 app.shop.canary.steps[0]", "the time of \"5%:\" is empty"),
        ("canary.steps = [\"5%:10\"]", "4 app.shop.canary.steps[0]", "has no unit: \"10\""),
        ("canary.steps = [\"5%:2m:3m\"]", "4 app.shop.canary.steps[0]", "is not a duration: \"2m:3m\""),
        ("canary.steps = [\"5%:0s\"]", "4 app.shop.canary.steps[0]", "lasts no time at all"),
        (
            "canary.steps = [\"5%:1m\",\n\"100%:5m\"]",
            "5 app.shop.canary.steps[1]",
            "is not a part of the traffic",
        ),
        ("canary.steps = [\"300%\"]", "4 app.shop.canary.steps[0]", "is not a part of the traffic"),
        (
            "canary.steps = [\"5%:1m\", \"5%:2m\"]",
            "4 app.shop.canary.steps[1]",
            "is not more than the step before: 5% after 5%",
        ),
        ("canary.steps = [\"25%:1m\", \"5%:2m\", \"50%\"]", "4 app.shop.canary.steps[1]", "5% after 25%"),
        (
            "canary = { steps = [\"5%\"], sticky = \"yes\" }",
            "4 app.shop.canary.sticky",
            "is not a kind of stickiness",
        ),
        (
            "canary = { steps = [\"5%\"], sticky = true }",
            "4 app.shop.canary.sticky",
            "expected a text, found true",
        ),
        (
            "canary = { steps = [\"5%\"], cookie = \"a\" }",
            "4 app.shop.canary.cookie",
            "has no effect without sticky = \"cookie\"",
        ),
        (
            "canary = { steps = [\"5%\"], sticky = \"cookie\", cookie = \"a-b\" }",
            "4 app.shop.canary.cookie",
            "is not a cookie name here: \"a-b\"",
        ),
        ("canary = { steps = [\"5%\"], approvers = [] }", "4 app.shop.canary.approvers", "is empty"),
        (
            "canary = { steps = [\"5%\"], approvers = [\"a b\"] }",
            "4 app.shop.canary.approvers[0]",
            "is not a user or group name",
        ),
        (
            "canary = { steps = [\"5%\"], deadline = \"0s\" }",
            "4 app.shop.canary.deadline",
            "longer than zero",
        ),
        ("canary = { steps = [\"5%\"], shares = 1 }", "4 app.shop.canary.shares", "unknown key"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn the_sign_of_a_share_may_be_left_out_as_in_canary_set() {
        let steps = shop(&with("canary.steps = [\"0\", \"5:2m\", \"50\"]")).canary.steps;
        assert_eq!(steps, [step(0, None), step(5, Some(SECS(120))), step(50, None)]);
    }

    #[test]
    fn the_sticky_cookie_is_named_by_the_app_and_a_hyphen_becomes_an_underscore() {
        let app = "start = \"x\"\nremote = \"/r\"\ncanary = { steps = [\"5%\"], sticky = \"cookie\" }";
        let loaded = load(&format!("[app.my-shop]\n{app}")).unwrap();
        let sticky = loaded.settings.apps.values().next().unwrap().canary.sticky.clone();
        assert_eq!(sticky, Sticky::Cookie("bgd_my_shop".to_owned()));
        assert_eq!(shop(&with("canary = { steps = [\"5%\"], sticky = \"ip\" }")).canary.sticky, Sticky::Ip);
    }
}
