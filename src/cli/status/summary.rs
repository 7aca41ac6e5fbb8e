//! `bgd status` for people: what is live, is it healthy, what happens next, can I go back. Pure; made to be
//! read at three in the morning, so the first line of each app answers and the rest explains.

use std::time::Duration;

use crate::{
    api::wire::{AppReport, CanaryReport, DeployReport, InstanceReport, LastReport, LiveReport, Status},
    cli::{
        phrase,
        status::next,
        terminal::{Look, Tone, one_line},
    },
    rules::{
        time::Time,
        words::{AppState, HoldEnd, IdleState, Outcome, Phase},
    },
};

/// Width of the label column, the longest label and two spaces.
const LABEL: usize = 10;

/// What comes next when the status was read from the record.
const UNSUPERVISED: &str = "nothing until the daemon runs again: `systemctl start bgd`, or `bgd daemon`";

/// All apps, a block each.
pub fn render(status: &Status, now: Time, look: Look) -> String {
    if status.apps.is_empty() {
        return "no apps are configured".to_owned();
    }
    let blocks: Vec<_> =
        status.apps.iter().map(|app| block(app, (now, status.daemon.running), look)).collect();
    blocks.join("\n\n")
}

/// The state of an app in a few words, as the headline and `--oneline` say it.
pub fn headline(app: &AppReport) -> String {
    if let (AppState::Degraded, Some(live)) = (app.state, &app.live)
        && let (serve @ 1.., number @ 2..) = serving(live)
        && serve < number
    {
        return format!("live, on {serve} of {number} instances; degraded");
    }
    let health = match app.live.as_ref().map(|live| live.healthy) {
        None => "nothing is live",
        Some(Some(true)) => "live, healthy",
        Some(Some(false)) => "live, not healthy",
        Some(None) => "live, not checked yet",
    };
    match app.state {
        AppState::Empty => "nothing deployed yet".to_owned(),
        AppState::Live => health.to_owned(),
        AppState::Deploying => format!("{health}; deploy under way"),
        AppState::Watching => format!("{health}; new release on watch"),
        AppState::Held if until_newer(app) => format!("{health}; automatic deploys wait for a newer commit"),
        AppState::Held => format!("{health}; automatic deploys are off"),
        AppState::Degraded => format!("{health}; degraded"),
        AppState::Down => "DOWN: should serve and does not".to_owned(),
        AppState::Stopped => "stopped, by `bgd down`".to_owned(),
    }
}

fn until_newer(app: &AppReport) -> bool {
    app.hold.as_ref().is_some_and(|hold| hold.until == Some(HoldEnd::NewerCommit))
}

fn tone(app: &AppReport) -> Tone {
    let unhealthy = app.live.as_ref().is_some_and(|live| live.healthy == Some(false));
    match app.state {
        _ if unhealthy => Tone::Bad,
        AppState::Live => Tone::Good,
        AppState::Down => Tone::Bad,
        AppState::Empty
        | AppState::Deploying
        | AppState::Watching
        | AppState::Held
        | AppState::Degraded
        | AppState::Stopped => Tone::Notice,
    }
}

fn block(app: &AppReport, (now, supervised): (Time, bool), look: Look) -> String {
    let name = look.paint(Tone::Strong, app.name.as_str());
    let mut lines = vec![format!("{name}  {}", look.paint(tone(app), &headline(app)))];
    let mut row = |label: &str, texts: Vec<String>| {
        for (at, text) in texts.into_iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            let label = look.paint(Tone::Quiet, &format!("{label:<LABEL$}"));
            lines.push(format!("  {label}{text}"));
        }
    };
    row("trouble", app.trouble.iter().map(|why| look.paint(Tone::Bad, &one_line(why))).collect());
    row("live", live(app, now));
    row("deploy", app.deploy.iter().map(|deploy| under_way(deploy, now)).collect());
    row("canary", app.canary.iter().map(|canary| share(canary, app.name.as_str(), now)).collect());
    row("hold", hold(app, now));
    row("remote", remote(app, now, look));
    row("last", app.last.iter().flat_map(|deploy| last(deploy, now, look)).collect());
    row("way back", vec![next::way_back(app)]);
    row("next", vec![if supervised { next::next(app, now) } else { UNSUPERVISED.to_owned() }]);
    lines.join("\n")
}

fn live(app: &AppReport, now: Time) -> Vec<String> {
    let Some(live) = &app.live else { return vec!["nothing".to_owned()] };
    let by = live.author.as_deref().map(|author| format!("by {}, ", one_line(author)));
    let place = format!("live for {} on {} ({})", phrase::age(live.since, now), live.color, processes(live));
    vec![caption(live), by.unwrap_or_default() + &place]
}

/// How many of how many instances are known to serve.
fn serving(live: &LiveReport) -> (usize, usize) {
    let serves = |one: &&InstanceReport| one.pid.is_some() && one.healthy == Some(true);
    (live.instances.iter().filter(serves).count(), live.instances.len())
}

/// `port 9501, pid 4300`, or of several `3 instances from port 9501 on`.
fn processes(live: &LiveReport) -> String {
    let (serve, number) = serving(live);
    match (number, live.pid) {
        (0 | 1, Some(pid)) => format!("{}, pid {pid}", live.place()),
        (0 | 1, None) => format!("{}, no process right now", live.place()),
        _ if serve == number => live.place(),
        _ => format!("{serve} of {number} instances serve, from {} on", live.first_place()),
    }
}

/// `a1b2c3d  Fix the cart total`.
fn caption(live: &LiveReport) -> String {
    match &live.subject {
        Some(subject) => format!("{}  {}", live.commit.short(), one_line(subject)),
        None => live.commit.short().to_owned(),
    }
}

/// `#7 of c3c3c3c to green: watching, for 12 s of 30 s`.
fn under_way(deploy: &DeployReport, now: Time) -> String {
    let to = deploy.color.map(|color| format!(" to {color}")).unwrap_or_default();
    let commit = phrase::short(deploy.commit.as_ref());
    let since = deploy.phase_since.unwrap_or(deploy.started_at);
    let limit = deploy.phase_ms.map(Duration::from_millis).filter(|limit| now.since(since.0) < *limit);
    let of = match limit.map(phrase::whole) {
        Some(limit) if deploy.phase == Phase::Draining => format!(" of {limit} at most"),
        Some(limit) => format!(" of {limit}"),
        None => String::new(),
    };
    let doing = phrase::doing(deploy.phase);
    format!("#{} of {commit}{to}: {doing}, for {}{of}", deploy.id, phrase::age(since, now))
}

/// `5% of the traffic, step 1 of 3; then 25% in 90 s`.
fn share(canary: &CanaryReport, name: &str, now: Time) -> String {
    let CanaryReport { step, steps, wanted, by_hand, held, next_share, next_at, .. } = canary;
    let measured = canary.measured.iter().map(|share| format!(" ({share}% measured)")).collect::<String>();
    let then = match (held, next_at) {
        (Some(seen), _) => format!("held: {}", one_line(seen)),
        (None, Some(at)) if at.0 > now => {
            format!("then {next_share} in {}", phrase::whole(at.0.since(now)))
        }
        (None, Some(_)) => format!("then {next_share} at once"),
        (None, None) if *by_hand => format!("set by hand; `bgd canary resume {name}` goes on with the steps"),
        (None, None) => "until an operator says otherwise".to_owned(),
    };
    format!("{wanted} of the traffic{measured}, step {step} of {steps}; {then}")
}

fn hold(app: &AppReport, now: Time) -> Vec<String> {
    let text = |hold: &crate::api::wire::HoldReport| {
        format!("by {}, {}: {}", one_line(&hold.by), phrase::ago(hold.since, now), one_line(&hold.reason))
    };
    app.hold.iter().map(text).collect()
}

fn remote(app: &AppReport, now: Time, look: Look) -> Vec<String> {
    let remote = &app.remote;
    let head = match &remote.head {
        Some(head) => format!("{} at {}", remote.branch, head.short()),
        None => format!("{}, not seen yet", remote.branch),
    };
    let checked = remote.checked_at.map(|at| format!(", seen {}", phrase::ago(at, now)));
    let mut lines = vec![head + &checked.unwrap_or_default()];
    lines.extend(
        remote.error.iter().map(|error| look.paint(Tone::Bad, &format!("error: {}", one_line(error)))),
    );
    lines
}

fn last(last: &LastReport, now: Time, look: Look) -> Vec<String> {
    let commit = phrase::short(last.commit.as_ref());
    let when = phrase::ago(last.finished_at, now);
    let how = match last.outcome {
        Outcome::Live => format!("#{} of {commit} was deployed {when}", last.id),
        Outcome::Superseded => format!("#{} of {commit} gave way to a newer commit {when}", last.id),
        Outcome::Cancelled => format!("#{} of {commit} was cancelled {when}", last.id),
        Outcome::Failed | Outcome::RolledBack => {
            let verb = if last.outcome == Outcome::Failed { "FAILED" } else { "was ROLLED BACK" };
            let at = last.phase.map(|phase| format!(" {}", phrase::at(phase))).unwrap_or_default();
            look.paint(Tone::Bad, &format!("#{} of {commit} {verb}{at}, {when}", last.id))
        }
    };
    let mut lines = vec![how];
    if last.outcome == Outcome::Live && !last.steps.is_empty() {
        lines.push(phrase::steps(&last.steps));
    }
    lines.extend(last.error.iter().map(|error| one_line(error)));
    lines.extend(last.hint.iter().map(|hint| format!("hint: {}", one_line(hint))));
    lines
}

/// The idle color in a few words; `None` when nothing runs there.
pub fn idle(app: &AppReport) -> Option<String> {
    let idle = app.idle.as_ref().filter(|idle| idle.state != IdleState::Stopped)?;
    Some(format!("{} {}", idle.color, idle.state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::fixture;

    fn text(app: AppReport) -> String {
        render(&fixture::status(vec![app]), fixture::NOW, Look::PLAIN)
    }

    #[test]
    fn a_canary_says_its_share_and_what_comes_next() {
        let canary = fixture::canary();
        let say = |canary: &CanaryReport| share(canary, "shop", fixture::NOW);
        assert_eq!(say(&canary), "5% of the traffic (4.83% measured), step 1 of 3; then 25% in 90 s");
        let by_hand = CanaryReport { by_hand: true, measured: None, next_at: None, ..canary };
        assert_eq!(
            say(&by_hand),
            "5% of the traffic, step 1 of 3; set by hand; `bgd canary resume shop` goes on with the steps"
        );
        let held = CanaryReport { held: Some("3 of 200 requests".to_owned()), ..by_hand };
        assert!(say(&held).ends_with("; held: 3 of 200 requests"));
    }

    #[test]
    fn a_live_app_answers_at_a_glance() {
        assert_eq!(
            text(fixture::live()),
            "\
shop  live, healthy
  live      a1a1a1a  Fix the cart total
            by Ann, live for 12 min on blue (port 9501, pid 4300)
  remote    main at a1a1a1a, seen 4 s ago
  last      #6 of a1a1a1a was deployed 12 min ago
            fetch 41 ms, switch 63 ms
  way back  b2b2b2b, not running: `bgd flip shop` starts it first
  next      the next push to main is deployed"
        );
    }

    #[test]
    fn a_deploy_under_way_says_what_serves_and_how_to_cancel() {
        assert_eq!(
            text(fixture::deploying()),
            "\
shop  live, healthy; deploy under way
  live      a1a1a1a  Fix the cart total
            by Ann, live for 12 min on blue (port 9501, pid 4300)
  deploy    #7 of c3c3c3c to green: building, for 12 s
  remote    main at c3c3c3c, seen 4 s ago
  last      #6 of a1a1a1a was deployed 12 min ago
            fetch 41 ms, switch 63 ms
  way back  `bgd flip shop` cancels the deploy
  next      c3c3c3c gets the traffic once it is healthy; a1a1a1a serves until then"
        );
    }

    #[test]
    fn a_failed_deploy_gives_the_reason_and_what_to_do() {
        assert_eq!(
            text(fixture::failed()),
            "\
shop  live, healthy
  live      a1a1a1a  Fix the cart total
            by Ann, live for 12 min on blue (port 9501, pid 4300)
  remote    main at c3c3c3c, seen 4 s ago
  last      #7 of c3c3c3c FAILED at its health check, 2 min ago
            GET http://127.0.0.1:9502/up answered 500
            hint: bgd show 7
  way back  b2b2b2b, not running: `bgd flip shop` starts it first
  next      push a newer commit, or `bgd deploy shop` to try c3c3c3c again"
        );
    }

    #[test]
    fn a_hold_says_who_and_why_and_how_to_end_it() {
        let text = text(fixture::held());
        assert!(text.starts_with("shop  live, healthy; automatic deploys are off\n"), "{text}");
        assert!(text.contains("\n  hold      by ann, 3 min ago: release freeze\n"), "{text}");
        assert!(text.ends_with("\n  next      c3c3c3c waits: `bgd resume shop` deploys it"), "{text}");
    }

    #[test]
    fn without_a_daemon_nothing_is_promised() {
        let mut status = fixture::status(vec![fixture::failed()]);
        status.daemon.running = false;
        let text = render(&status, fixture::NOW, Look::PLAIN);
        assert!(text.contains("\n  next      nothing until the daemon runs again: "), "{text}");
    }

    #[test]
    fn a_remote_error_is_shown_and_what_follows_from_it() {
        let mut app = fixture::live();
        app.remote.error = Some("can't connect to git.example.com: timed out".to_owned());
        app.why = Some(fixture::why("remote_error", "can't connect", Some("`bgd doctor shop`")));
        let text = text(app);
        assert!(
            text.contains("\n            error: can't connect to git.example.com: timed out\n"),
            "{text}"
        );
        assert!(text.contains("  next      the remote is asked again by itself"), "{text}");
    }

    #[test]
    fn an_empty_app_says_so() {
        assert_eq!(
            text(fixture::empty()),
            "\
shop  nothing deployed yet
  live      nothing
  remote    main, not seen yet
  way back  none: nothing is live
  next      the first commit seen on main is deployed"
        );
    }

    #[test]
    fn a13_a_commit_message_can_not_forge_a_line() {
        let mut app = fixture::live();
        app.live.as_mut().unwrap().subject = Some("x\nshop  DOWN\x1b[2J".to_owned());
        assert_eq!(text(app).lines().nth(1), Some("  live      a1a1a1a  x shop  DOWN [2J"));
    }
}
