//! Why nothing is being deployed, and what would change that: for `bgd why`, and for the last line of `bgd status`.
//! A command is advised only where it does something.

use super::wire::Why;
use crate::{
    engine::Snapshot,
    rules::{
        app::{App, Hold, Until, Verdict},
        ids::AppName,
        step::{self, Blocked},
        time::{Stamp, Time},
        words::WhyCode,
    },
    store::clock,
};

/// The reason, and the next command.
pub fn why(snapshot: &Snapshot) -> Why {
    let app = &snapshot.app;
    if let Some(deploy) = app.pipeline.deploy() {
        let phase = app.phase().map_or("", |phase| phase.as_str()).replace('_', " ");
        let text = format!("deploy #{} is under way: {phase}", deploy.id);
        return say(WhyCode::Deploying, text, Some("`bgd status -w` follows it".to_owned()));
    }
    if let Some(why) = &snapshot.unrecorded {
        let hint = "free disk space; it goes on by itself".to_owned();
        return say(WhyCode::Unrecorded, format!("the record can't be written: {why}"), Some(hint));
    }
    let name = &snapshot.settings.name;
    let head = app.head.as_ref().map_or("the tip", |head| head.short());
    match step::wanted(app, clock::now()) {
        Ok(_) => say(WhyCode::Deploying, format!("{head} is about to be deployed"), None),
        Err(Blocked::Gate) => gated(snapshot, head),
        Err(Blocked::GatesUnasked) => match &snapshot.remote.error {
            Some(_) => not_seen(snapshot),
            None => say(WhyCode::NotPolledYet, format!("the gates are being asked about {head}"), None),
        },
        Err(Blocked::OutOfService) => {
            let text = "the app was taken out of service by `bgd down`".to_owned();
            say(WhyCode::Stopped, text, Some(format!("`bgd up {name}` brings it back")))
        }
        Err(Blocked::NotSeen) => not_seen(snapshot),
        Err(Blocked::UpToDate) => up_to_date(snapshot, head),
        Err(Blocked::Deploying) => say(WhyCode::Deploying, "a deploy is under way".to_owned(), None),
        Err(Blocked::Held) => held(app, (name, head)),
        Err(Blocked::BadCommit) => say(WhyCode::BadCommit, marked_bad(app, head), Some(newer(name, head))),
        Err(Blocked::RetryLater(at)) => retry_later(at, (name, head)),
    }
}

/// The first closed gate.
fn gated(snapshot: &Snapshot, head: &str) -> Why {
    let (app, name) = (&snapshot.app, &snapshot.settings.name);
    let Some(gate) = app.closed_gates().first() else {
        return say(WhyCode::Gate, format!("{head} waits for a gate"), None);
    };
    let hint = format!("`bgd deploy {name}` passes all gates; a newer commit is asked about anew");
    Why { again_at: gate.opens_at.map(Stamp), ..say(WhyCode::Gate, gate.text.clone(), Some(hint)) }
}

fn say(code: WhyCode, text: String, hint: Option<String>) -> Why {
    Why { code, text, hint, again_at: None }
}

/// The hint of the failed read, else the advice to run `bgd doctor`.
fn remote_hint(snapshot: &Snapshot) -> String {
    snapshot.remote.hint.clone().unwrap_or_else(|| doctor(&snapshot.settings.name))
}

fn not_seen(snapshot: &Snapshot) -> Why {
    match &snapshot.remote.error {
        Some(err) => {
            say(WhyCode::RemoteError, format!("the remote can't be read: {err}"), Some(remote_hint(snapshot)))
        }
        None => say(
            WhyCode::NotPolledYet,
            "the remote was not seen yet".to_owned(),
            Some("bgd status".to_owned()),
        ),
    }
}

fn up_to_date(snapshot: &Snapshot, head: &str) -> Why {
    let (app, settings) = (&snapshot.app, &snapshot.settings);
    match (&app.hold, &snapshot.remote.error) {
        (Some(Hold { by, reason, until: Until::Resumed, .. }), _) => say(
            WhyCode::Held,
            format!("{head} is live; newer commits would wait: on hold by {by}: {reason}"),
            Some(format!("`bgd resume {}` turns automatic deploys on again", settings.name)),
        ),
        (_, Some(err)) => say(
            WhyCode::RemoteError,
            format!("{head} is live, and the remote can't be read since: {err}"),
            Some(remote_hint(snapshot)),
        ),
        (_, None) if app.stranded.is_some() => {
            let why = app.stranded.as_ref().map_or("", |stranded| &stranded.why);
            let hint =
                format!("push a commit that mends it; or `bgd flip {} --force` goes back", settings.name);
            say(WhyCode::UpToDate, why.to_owned(), Some(hint))
        }
        // A hold until a newer commit ends by itself when there is one.
        (_, None) => {
            say(WhyCode::UpToDate, format!("{head} is the tip of {} and live", settings.branch), None)
        }
    }
}

/// `bgd resume` does not deploy a commit that is marked bad, so it is not advised for one.
fn held(app: &App, (name, head): (&AppName, &str)) -> Why {
    let Some(hold) = &app.hold else { return say(WhyCode::Held, format!("{head} waits"), None) };
    let on_hold = format!("on hold by {}: {}", hold.by, hold.reason);
    match (&hold.until, bad(app)) {
        (until, None) => {
            let mut hint = format!("`bgd resume {name}` deploys it");
            if *until != Until::Resumed {
                hint.push_str("; a newer commit is deployed by itself");
            }
            say(WhyCode::Held, format!("{head} waits: {on_hold}"), Some(hint))
        }
        (Until::NewerThan(_), Some(_)) => {
            let text = format!("{}; automatic deploys wait for a newer commit", marked_bad(app, head));
            say(WhyCode::BadCommit, text, Some(newer(name, head)))
        }
        (Until::Resumed, Some(_)) => {
            let text = format!("{on_hold}; and {}", marked_bad(app, head));
            say(WhyCode::BadCommit, text, Some(format!("`bgd resume {name}`; then {}", newer(name, head))))
        }
    }
}

fn retry_later(at: Time, (name, head): (&AppName, &str)) -> Why {
    let text = format!("{head} failed for outside reasons and is tried again after {}", Stamp(at));
    let hint = format!(
        "`bgd deploy {name}` tries it at once; `bgd doctor {name}` looks for what does not pass by itself"
    );
    let hint = Some(hint);
    Why { again_at: Some(Stamp(at)), ..say(WhyCode::RetryLater, text, hint) }
}

/// Why the tip is marked bad, if it is.
fn bad(app: &App) -> Option<&str> {
    match app.head.as_ref().and_then(|head| app.verdicts.get(head)) {
        Some(Verdict::Bad { why, .. }) => Some(why),
        Some(Verdict::Retry { .. }) | None => None,
    }
}

fn marked_bad(app: &App, head: &str) -> String {
    let ahead = app.schema_ahead().map(|barrier| {
        let (commit, deploy, text) = (barrier.commit.short(), barrier.deploy, &barrier.contract.text);
        format!("; and the schema is ahead of what is live: {commit} migrated in #{deploy} ({text})")
    });
    format!("{head} is marked bad: {}{}", bad(app).unwrap_or_default(), ahead.unwrap_or_default())
}

fn newer(name: &AppName, head: &str) -> String {
    format!("push a newer commit, or `bgd deploy {name}` to try {head} again")
}

fn doctor(name: &AppName) -> String {
    format!("`bgd doctor {name}` tries the remote")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::ids::{CommitId, DeployId};

    fn app(until: Until, marked: Option<&str>) -> App {
        let head: CommitId = "c3".repeat(20).parse().unwrap();
        let mut app = App { head: Some(head.clone()), ..App::default() };
        let reason = "a reason".to_owned();
        app.hold = Some(Hold { by: "ann".to_owned(), reason, since: Time(0), until, pins: None });
        let bad = |why: &str| Verdict::Bad { deploy: DeployId(7), why: why.to_owned() };
        app.verdicts.extend(marked.map(|why| (head, bad(why))));
        app
    }

    fn said(app: &App) -> (WhyCode, String, String) {
        let why = held(app, (&"shop".parse().unwrap(), "c3c3c3c"));
        (why.code, why.text, why.hint.unwrap())
    }

    #[test]
    fn resume_is_advised_only_where_it_deploys_something() {
        for until in [Until::Resumed, Until::NewerThan(None)] {
            let (code, text, hint) = said(&app(until, None));
            assert!(code == WhyCode::Held && hint.starts_with("`bgd resume shop` deploys it"), "{hint}");
            assert_eq!(text, "c3c3c3c waits: on hold by ann: a reason");
        }
        let (code, text, hint) = said(&app(Until::NewerThan(None), Some("flipped away by ann")));
        let bad = "c3c3c3c is marked bad: flipped away by ann; automatic deploys wait for a newer commit";
        assert_eq!((code, text.as_str()), (WhyCode::BadCommit, bad));
        assert_eq!(hint, "push a newer commit, or `bgd deploy shop` to try c3c3c3c again");
        // A hold by an operator keeps both back.
        let (code, _, hint) = said(&app(Until::Resumed, Some("the build failed")));
        assert_eq!(code, WhyCode::BadCommit);
        assert!(hint.starts_with("`bgd resume shop`; then push a newer commit"), "{hint}");
    }
}
