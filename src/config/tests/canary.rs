//! A new release comes to its traffic by degrees: `canary`, `preview`, `warmup`, and what `watch` says of real traffic.

use std::{num::NonZeroU32, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    config::settings::{CanarySettings, Inconclusive, PreviewSettings, Sticky, Warmup},
    rules::{
        canary::{CanaryStep, Share},
        traffic::{Rate, TrafficLimits},
    },
};

pub(in crate::config) fn step(percent: u8, hold: Option<Duration>) -> CanaryStep {
    CanaryStep { share: Share::percent(percent).unwrap(), hold }
}

#[test]
fn nothing_of_it_is_there_unless_it_is_written() {
    let app = shop(&with(""));
    assert_eq!((app.canary, app.preview, app.warmup), (CanarySettings::default(), None, None));
    assert_eq!((app.watch.traffic, app.watch.inconclusive), (TrafficLimits::IGNORED, Inconclusive::GoOn));
}

#[test]
fn all_keys_together_are_understood_and_need_no_warning() {
    let lines = r#"
health.path = "/up"
[app.shop.canary]
steps  = ["0%:10s", "5%:2m", "25%:1h30m", "50%"]
sticky = "cookie"
cookie = "side"
[app.shop.preview]
header      = "X-Look"
cookie      = "look"
secret_file = "preview"
[app.shop.warmup]
paths     = ["/", "/search?q=x"]
requests  = 20
until_p95 = "300ms"
[app.shop.watch]
for            = "1m"
max_error_rate = "0.5%"
max_p95        = "+30%"
min_requests   = 50
inconclusive   = "hold"
"#;
    assert_eq!(warnings(&with(lines)), [""; 0]);
    let app = shop(&with(lines));
    let steps =
        vec![step(0, Some(SECS(10))), step(5, Some(SECS(120))), step(25, Some(SECS(5400))), step(50, None)];
    assert_eq!(
        app.canary,
        CanarySettings { steps, sticky: Sticky::Cookie("side".to_owned()), ..CanarySettings::default() }
    );
    let preview = PreviewSettings {
        header: "X-Look".to_owned(),
        cookie: "look".to_owned(),
        secret_file: "/etc/bgd/preview".into(),
    };
    assert_eq!(app.preview, Some(preview));
    let warmup = Warmup {
        paths: ["/", "/search?q=x"].map(str::to_owned).to_vec(),
        requests: NonZeroU32::new(20).unwrap(),
        until_p95: Some(Duration::from_millis(300)),
    };
    assert_eq!(app.warmup, Some(warmup));
    let traffic = TrafficLimits {
        max_error_rate: Some(Rate(5_000)),
        max_p95: Some(30),
        min_requests: NonZeroU32::new(50).unwrap(),
    };
    assert_eq!((app.watch.period, app.watch.traffic), (SECS(60), traffic));
    assert_eq!(app.watch.inconclusive, Inconclusive::Hold);
}

#[test]
fn what_is_left_out_has_its_default() {
    let app = shop(&with(
        "canary.steps = [\"0%\"]\npreview.secret_file = \"/s\"\nwarmup.paths = [\"/\"]\nwatch.max_p95 = \"+0%\"",
    ));
    assert_eq!(
        app.canary,
        CanarySettings { steps: vec![step(0, None)], sticky: Sticky::None, ..CanarySettings::default() }
    );
    let preview = app.preview.unwrap();
    assert_eq!((preview.header.as_str(), preview.cookie.as_str()), ("X-Bgd-Preview", "bgd_preview"));
    let warmup = app.warmup.unwrap();
    assert_eq!((warmup.requests.get(), warmup.until_p95), (100, None));
    assert_eq!((app.watch.traffic.max_p95, app.watch.traffic.min_requests.get()), (Some(0), 200));
    assert_eq!(app.watch.traffic.max_error_rate, None);
    assert_eq!(app.watch.inconclusive, Inconclusive::GoOn);
}

#[test]
fn several_of_them_are_told_at_once_and_in_order() {
    let lines = "\
[app.shop.canary]
steps = [\"25%:5m\", \"5%\", \"100%\", \"x\"]
stickiness = \"ip\"
[app.shop.preview]
secret = \"0123456789abcdef\"
[app.shop.warmup]
urls = [\"/\"]
[app.shop.watch]
p95 = \"+30%\"
inconclusive = \"hold\"";
    let problems = load(&with(lines)).unwrap_err();
    let expected = r#"error: bgd.toml:5: app.shop.canary.steps[1]: is not more than the step before: 5% after 25%
  hint: each step has a larger share than the one before
error: bgd.toml:5: app.shop.canary.steps[2]: is not a part of the traffic: "100%"
  hint: a step is 0% to 99%; after the last one the release gets all of the traffic by itself
error: bgd.toml:5: app.shop.canary.steps[3]: is not a canary step: "x"
  hint: a share and how long, such as "5%:2m"; a share alone, such as "20%", lasts until `bgd promote`
error: bgd.toml:6: app.shop.canary.stickiness: unknown key
  hint: did you mean `sticky`?
error: bgd.toml:7: app.shop.preview.secret_file: is required
  hint: name a file whose first line is 16 to 200 letters, digits, `-` and `_`
error: bgd.toml:8: app.shop.preview.secret: unknown key
  hint: did you mean `secret_file`?
error: bgd.toml:9: app.shop.warmup.paths: is required
  hint: write paths = ["/"], what a first visitor asks for, or leave the table out
error: bgd.toml:10: app.shop.warmup.urls: unknown key
  hint: did you mean `paths`?
error: bgd.toml:12: app.shop.watch.p95: unknown key
  hint: did you mean `max_p95`?
error: bgd.toml:13: app.shop.watch.inconclusive: has no effect without max_error_rate or max_p95
  hint: add one, or leave it out"#;
    assert_eq!(problems.to_string(), expected);
    assert!(!problems.to_string().contains("0123456789"), "a secret in the wrong place is not shown");
}

#[test]
fn words_of_other_tools_lead_to_the_keys() {
    for (lines, hint) in [
        ("canary.weights = [5, 50]\ncanary.steps = [\"5%\"]", "did you mean `steps`?"),
        ("canary.percent = 5\ncanary.steps = [\"5%\"]", "did you mean `steps`?"),
        ("rollout.steps = [\"5%\"]", "did you mean `canary`?"),
        ("warm_up.paths = [\"/\"]", "did you mean `warmup`?"),
        ("watch.error_rate = \"1%\"", "did you mean `max_error_rate`?"),
        ("steps = [\"5%\"]", "`steps` belongs to the table `canary`: app.shop.canary.steps"),
    ] {
        let problems = load(&with(lines)).unwrap_err().0;
        assert_eq!(problems.len(), 1, "{lines}: {problems:#?}");
        assert_eq!(problems[0].hint.as_deref(), Some(hint), "{lines}");
    }
}

#[test]
fn what_works_but_is_surely_not_meant_is_a_warning() {
    for (lines, warning) in [
        ("canary.steps = [\"0%\"]", "app.shop.canary.steps[0]: nobody can look at the release in this step"),
        ("canary.steps = [\"0%:1m\", \"5%\"]", "app.shop.canary.steps[0]: nobody can look at the release"),
        (
            "canary.steps = [\"5%\", \"50%:1m\"]",
            "app.shop.canary.steps[1]: is never reached: the step before, 5%, has no time",
        ),
        (
            "warmup = { paths = [\"/a\", \"/b\", \"/c\"], requests = 2 }",
            "app.shop.warmup.paths[2]: is never asked: 2 requests, 3 paths",
        ),
        (
            "warmup = { paths = [\"/\"], until_p95 = \"6s\" }",
            "app.shop.warmup.until_p95: is longer than health.timeout: a request without an answer after 5s",
        ),
        ("watch = { for = \"0s\", backup = true }", "app.shop.watch.backup: has no effect: `for` is 0s"),
        (
            "watch = { for = \"0s\", max_p95 = \"+30%\" }",
            "app.shop.watch.max_p95: is never looked at: `for` is 0s, and there is no canary",
        ),
    ] {
        let found = warnings(&with(&format!("health.path = \"/\"\n{lines}")));
        assert_eq!(found.len(), 1, "{lines}: {found:#?}");
        assert!(found[0].starts_with(warning), "{lines}: {found:#?}");
    }
    for fine in [
        "canary.steps = [\"0%\"]\npreview.secret_file = \"s\"",
        "canary.steps = [\"5%:1m\", \"50%\"]\nstandby = \"10m\"",
        "canary.steps = [\"5%:1m\"]\nwatch = { for = \"0s\", max_p95 = \"+30%\" }",
    ] {
        assert_eq!(warnings(&with(&format!("health.path = \"/\"\n{fine}"))), [""; 0], "{fine}");
    }
}

#[test]
fn a_table_that_cannot_be_read_is_the_only_problem() {
    for lines in
        ["canary = 5", "canary.steps = 5\npreview.secret_file = \"s\"", "warmup = [\"/\"]", "preview = \"s\""]
    {
        let found = errors(&with(lines));
        assert_eq!(found.len(), 1, "{lines}: {found:#?}");
    }
}

proptest! {
    #[test]
    fn steps_that_grow_are_taken_as_they_are(percents in prop::collection::btree_set(0u8..100, 1..9), seconds in 1u64..9999) {
        let steps: Vec<CanaryStep> = percents.iter().map(|percent| step(*percent, Some(SECS(seconds)))).collect();
        let written: Vec<String> = percents.iter().map(|percent| format!("\"{percent}%:{seconds}s\"")).collect();
        prop_assert_eq!(shop(&with(&format!("canary.steps = [{}]", written.join(", ")))).canary.steps, steps);
    }
}
