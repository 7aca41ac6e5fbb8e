//! The wording that several commands share: how long, how long ago, which commit. Pure; times are handed in.

use std::time::Duration;

use crate::{
    api::wire::{AppReport, DeployRecord, StepRecord},
    cli::terminal::one_line,
    rules::{
        ids::CommitId,
        time::{Stamp, Time},
        words::{AppState, Outcome, Phase, TaskOutcome},
    },
};

/// The wall clock, for ages.
pub fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How long, in the unit people would choose: `41 ms`, `4.2 s`, `12 min`, `3 h`, `5 days`.
pub fn span(length: Duration) -> String {
    let ms = length.as_millis();
    let s = length.as_secs();
    match s {
        0 => format!("{ms} ms"),
        1..10 => format!("{s}.{} s", ms % 1000 / 100),
        10..120 => format!("{s} s"),
        120..7_200 => format!("{} min", s / 60),
        7_200..172_800 => format!("{} h", s / 3_600),
        _ => format!("{} days", s / 86_400),
    }
}

/// How the run of a task ended.
pub fn task(outcome: TaskOutcome, exit: Option<i32>) -> String {
    match (outcome, exit) {
        (TaskOutcome::Failed, Some(code)) => format!("failed with exit code {code}"),
        (TaskOutcome::Done | TaskOutcome::Failed, _) => outcome.to_string(),
        (TaskOutcome::TimedOut, _) => "was ended at its time limit".to_owned(),
        (TaskOutcome::Unknown, _) => "was cut off".to_owned(),
    }
}

/// The age of something: whole seconds at least, so that a refreshed line does not flicker.
pub fn age(since: Stamp, now: Time) -> String {
    whole(now.since(since.0))
}

/// How long, in whole seconds at least.
pub fn whole(length: Duration) -> String {
    match length.as_secs() {
        0 => "1 s".to_owned(),
        s @ 1..10 => format!("{s} s"),
        _ => span(length),
    }
}

/// `12 min ago`, or `just now`.
pub fn ago(then: Stamp, now: Time) -> String {
    match now.since(then.0).as_secs() {
        0 => "just now".to_owned(),
        _ => format!("{} ago", age(then, now)),
    }
}

/// `2026-11-21 07:51:12`, UTC.
pub fn moment(stamp: Stamp) -> String {
    let text = stamp.to_string();
    text.split('.').next().unwrap_or(&text).replace('T', " ")
}

/// `07:51:12`, UTC.
pub fn clock(stamp: Stamp) -> String {
    moment(stamp).split_off("2026-11-21 ".len())
}

/// The short SHA, or what to say while there is none.
pub fn short(commit: Option<&CommitId>) -> &str {
    commit.map_or("(no commit)", CommitId::short)
}

/// `fetch 41 ms, build 2.1 s`; empty without steps.
pub fn steps(steps: &[StepRecord]) -> String {
    let step = |step: &StepRecord| format!("{} {}", step.name, span(Duration::from_millis(step.ms)));
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

/// How long a deploy took, from its begin to its outcome.
pub fn took(deploy: &DeployRecord) -> Option<Duration> {
    deploy.finished_at.map(|end| end.0.since(deploy.started_at.0))
}

/// The outcome as a word for people.
pub fn outcome(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "under way",
        Some(Outcome::RolledBack) => "rolled back",
        Some(other) => other.as_str(),
    }
}

/// A fixed word as people read it: `phase_entered` is `phase entered`.
pub fn plain_word(word: &str) -> String {
    word.replace('_', " ")
}

/// What a deploy in this phase is doing: `checking out`.
pub fn doing(phase: Phase) -> String {
    match phase {
        Phase::Warming => "warming up".to_owned(),
        Phase::Canary => "in canary".to_owned(),
        other => plain_word(other.as_str()),
    }
}

/// Where a deploy ended, after `failed` or `was rolled back`.
pub fn at(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetching => "during the fetch",
        // Front, disk and limits are looked at in that phase too, before anything is made.
        Phase::CheckingOut => "before the build",
        Phase::Building => "during the build",
        Phase::Starting => "at its start",
        Phase::Probing => "at its health check",
        Phase::Warming => "during its warm-up",
        Phase::Canary => "during its canary",
        Phase::Switching => "during the switch",
        Phase::Watching => "during its watch",
        Phase::Draining => "during the drain",
        Phase::Stopping => "during the stop",
    }
}

/// How a deploy ended, as a sentence goes on after its number: `was cancelled`.
pub fn ended(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Live => "went live",
        Outcome::Failed => "failed",
        Outcome::Superseded => "was superseded by a newer commit",
        Outcome::Cancelled => "was cancelled",
        Outcome::RolledBack => "was rolled back",
    }
}

/// `a1b2c3d serves on blue`: what answers the public now, for the end of a failure.
pub fn serving(app: &AppReport) -> String {
    let Some(live) = &app.live else { return "nothing is live".to_owned() };
    let place = format!("{} serves on {}", live.commit.short(), live.color);
    match app.state {
        AppState::Down => format!(
            "{} should serve on {} and does not: `bgd logs` tells why",
            live.commit.short(),
            live.color
        ),
        AppState::Degraded => format!("{place}, but not all is well: `bgd doctor` tells what"),
        AppState::Empty
        | AppState::Live
        | AppState::Deploying
        | AppState::Watching
        | AppState::Held
        | AppState::Stopped => place,
    }
}

/// `deploy #7 of 8c9d0e1 failed at its health check: GET /up answered 500`, for a deploy that did not go well.
pub fn failure(deploy: &DeployRecord) -> String {
    let of = deploy.commit.as_ref().map(|commit| format!(" of {}", commit.short())).unwrap_or_default();
    let mut text = format!("deploy #{}{of} {}", deploy.id, deploy.outcome.map_or("has not ended", ended));
    match (deploy.outcome, deploy.phase) {
        (Some(_), Some(phase)) => text.push_str(&format!(" {}", at(phase))),
        (None, Some(phase)) => text.push_str(&format!(" and is {}", doing(phase))),
        (_, None) => {}
    }
    if let Some(error) = &deploy.error {
        text.push_str(&format!(": {}", one_line(error)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_the_unit_people_would_choose() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (4_250, "4.2 s"),
            (61_000, "61 s"),
            (720_000, "12 min"),
            (10_800_000, "3 h"),
            (432_000_000, "5 days"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_clock_that_went_back_is_just_now() {
        assert_eq!(ago(Stamp(Time(5_000)), Time(1_000)), "just now");
        assert_eq!(ago(Stamp(Time(1_000)), Time(4_500)), "3 s ago");
    }

    #[test]
    fn moments_are_utc_to_the_second() {
        let stamp = Stamp(Time(1_795_247_472_034));
        assert_eq!(moment(stamp), "2026-11-21 07:51:12");
        assert_eq!(clock(stamp), "07:51:12");
    }
}
