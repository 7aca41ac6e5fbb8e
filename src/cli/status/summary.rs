//! `bgd status` for people: what is live, is it healthy, what happens next, can I go back. Pure; made to be
//! read at three in the morning, so the first line of each app answers and the rest explains.

use crate::{
    api::wire::{AppReport, CanaryReport, DeployReport, InstanceReport, LastReport, LiveReport, Status},
    cli::{
        phrase,
        terminal::{Look, Tone, one_line},
    },
    rules::{
        time::Time,
        words::{AppState, IdleState, Outcome, Phase},
    },
};

/// Width of the label column, the longest label and two spaces.
const LABEL: usize = 10;

/// All apps, a block each.
pub fn render(status: &Status, now: Time, look: Look) -> String {
    if status.apps.is_empty() {
        return "no apps are configured".to_owned();
    }
    let blocks: Vec<_> = status.apps.iter().map(|app| block(app, now, look)).collect();
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
        AppState::Held => format!("{health}; automatic deploys are off"),
        AppState::Degraded => format!("{health}; degraded"),
        AppState::Down => "DOWN: should serve and does not".to_owned(),
        AppState::Stopped => "stopped, by `bgd down`".to_owned(),
    }
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

fn block(app: &AppReport, now: Time, look: Look) -> String {
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
    row("way back", vec![way_back(app)]);
    row("next", vec![next(app)]);
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
        _ if serve == number => format!("{number} instances from {} on", live.place()),
        _ => format!("{serve} of {number} instances serve, from {} on", live.place()),
    }
}

/// `a1b2c3d  Fix the cart total`.
fn caption(live: &LiveReport) -> String {
    match &live.subject {
        Some(subject) => format!("{}  {}", live.commit.short(), one_line(subject)),
        None => live.commit.short().to_owned(),
    }
}

fn under_way(deploy: &DeployReport, now: Time) -> String {
    let to = deploy.color.map(|color| format!(" to {color}")).unwrap_or_default();
    let phase = phrase::plain_word(deploy.phase.as_str());
    let commit = phrase::short(deploy.commit.as_ref());
    format!("#{} of {commit}{to}: {phase}, for {}", deploy.id, phrase::age(deploy.started_at, now))
}

/// `5% of the traffic, step 1 of 3; then 25% in 90 s`.
fn share(canary: &CanaryReport, name: &str, now: Time) -> String {
    let CanaryReport { step, steps, wanted, by_hand, held, next_share, next_at, .. } = canary;
    let measured = canary.measured.iter().map(|share| format!(" ({share}% measured)")).collect::<String>();
    let then = match (held, next_at) {
        (Some(seen), _) => format!("held: {}", one_line(seen)),
        (None, Some(at)) if at.0 > now => {
            format!("then {next_share} in {}", phrase::span(at.0.since(now)))
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
        Outcome::Live => format!("#{} of {commit} went live {when}", last.id),
        Outcome::Superseded => format!("#{} of {commit} gave way to a newer commit {when}", last.id),
        Outcome::Cancelled => format!("#{} of {commit} was cancelled {when}", last.id),
        Outcome::Failed | Outcome::RolledBack => {
            let verb = if last.outcome == Outcome::Failed { "FAILED" } else { "was ROLLED BACK" };
            let phase = last.phase.map(|phase| format!(" while {}", phrase::plain_word(phase.as_str())));
            look.paint(
                Tone::Bad,
                &format!("#{} of {commit} {verb}{} {when}", last.id, phase.unwrap_or_default()),
            )
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

fn way_back(app: &AppReport) -> String {
    let name = &app.name;
    let before_the_flip = app.deploy.as_ref().is_some_and(|deploy| deploy.phase < Phase::Switching);
    if before_the_flip {
        return format!("`bgd flip {name}` cancels the deploy");
    }
    if app.state == AppState::Stopped {
        return format!("`bgd up {name}` starts the release that was live");
    }
    match (&app.rollback.to, app.rollback.possible) {
        (Some(to), true) if app.rollback.warm => {
            format!("{}, still running: `bgd flip {name}` is instant", to.short())
        }
        (Some(to), true) => format!("{}, not running: `bgd flip {name}` starts it first", to.short()),
        (None, true) => format!("`bgd flip {name}`"),
        (_, false) => "none: no earlier release is kept".to_owned(),
    }
}

fn next(app: &AppReport) -> String {
    if let Some(deploy) = &app.deploy {
        return next_of_deploy(app, deploy);
    }
    let name = &app.name;
    match (app.state, &app.hold) {
        (AppState::Stopped, _) => format!("nothing until `bgd up {name}`"),
        (AppState::Down, _) => format!("it is started again by itself; `bgd logs {name}` tells why it died"),
        (_, Some(_)) => format!("{}`bgd resume {name}` turns automatic deploys on again", waiting(app)),
        _ => next_commit(app),
    }
}

fn next_of_deploy(app: &AppReport, deploy: &DeployReport) -> String {
    let new = phrase::short(deploy.commit.as_ref());
    let serving = app.live.as_ref().filter(|live| Some(&live.commit) != deploy.commit.as_ref());
    match deploy.phase {
        Phase::Fetching
        | Phase::CheckingOut
        | Phase::Building
        | Phase::Starting
        | Phase::Probing
        | Phase::Warming => match serving {
            Some(live) => format!(
                "{new} gets the traffic once it is healthy; {} serves until then",
                live.commit.short()
            ),
            None => format!("{new} gets the traffic once it is healthy"),
        },
        Phase::Canary => {
            let name = &app.name;
            format!(
                "`bgd promote {name}` gives {new} all of the traffic now, `bgd flip {name}` takes its share back"
            )
        }
        Phase::Switching => format!("the traffic is being moved to {new}"),
        Phase::Watching => {
            format!("{new} is watched; if its health check fails, the traffic goes back by itself")
        }
        Phase::Draining => "the former color finishes its requests, then it is stopped".to_owned(),
        Phase::Stopping => "the former color is being stopped".to_owned(),
    }
}

/// What happens with the tip of the branch when nothing is under way and nothing holds.
fn next_commit(app: &AppReport) -> String {
    let (name, branch) = (&app.name, &app.remote.branch);
    if app.remote.error.is_some() {
        return "the remote is asked again by itself; nothing new is deployed until it answers".to_owned();
    }
    let Some(head) = &app.remote.head else {
        return format!("the first commit seen on {branch} is deployed");
    };
    if app.live.as_ref().is_some_and(|live| live.commit == *head) {
        return format!("the next push to {branch} is deployed");
    }
    let verdict =
        app.last.as_ref().filter(|last| last.commit.as_ref() == Some(head)).map(|last| last.outcome);
    match verdict {
        // Trouble from outside is tried again, a commit of its own making is not; the daemon knows which it was.
        Some(Outcome::Failed) => {
            format!(
                "`bgd why {name}` tells whether {} is tried again; `bgd deploy {name}` tries it at once",
                head.short()
            )
        }
        Some(Outcome::RolledBack | Outcome::Cancelled) => {
            format!(
                "{} is not tried again by itself; the next push to {branch} is, or `bgd deploy {name}`",
                head.short()
            )
        }
        Some(Outcome::Live | Outcome::Superseded) | None => {
            format!("{} is not live; `bgd why {name}` tells why", head.short())
        }
    }
}

/// `8c9d0e1 waits; ` when a hold keeps a newer commit back.
fn waiting(app: &AppReport) -> String {
    let live = app.live.as_ref().map(|live| &live.commit);
    match &app.remote.head {
        Some(head) if Some(head) != live => format!("{} waits; ", head.short()),
        _ => String::new(),
    }
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
  last      #6 of a1a1a1a went live 12 min ago
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
  deploy    #7 of c3c3c3c to green: building, for 14 s
  remote    main at c3c3c3c, seen 4 s ago
  last      #6 of a1a1a1a went live 12 min ago
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
  last      #7 of c3c3c3c FAILED while probing 2 min ago
            GET http://127.0.0.1:9502/up answered 500
            hint: bgd show 7
  way back  b2b2b2b, not running: `bgd flip shop` starts it first
  next      `bgd why shop` tells whether c3c3c3c is tried again; `bgd deploy shop` tries it at once"
        );
    }

    #[test]
    fn a_hold_says_who_and_why_and_how_to_end_it() {
        let text = text(fixture::held());
        assert!(text.starts_with("shop  live, healthy; automatic deploys are off\n"), "{text}");
        assert!(text.contains("\n  hold      by ann, 3 min ago: release freeze\n"), "{text}");
        assert!(
            text.ends_with("\n  next      c3c3c3c waits; `bgd resume shop` turns automatic deploys on again"),
            "{text}"
        );
    }

    #[test]
    fn a_remote_error_is_shown_and_what_follows_from_it() {
        let mut app = fixture::live();
        app.remote.error = Some("can't connect to git.example.com: timed out".to_owned());
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
  way back  none: no earlier release is kept
  next      the first commit seen on main is deployed"
        );
    }

    #[test]
    fn a_warm_color_makes_the_way_back_instant() {
        let mut app = fixture::live();
        app.rollback.warm = true;
        assert!(text(app).contains("b2b2b2b, still running: `bgd flip shop` is instant"));
    }

    #[test]
    fn a13_a_commit_message_can_not_forge_a_line() {
        let mut app = fixture::live();
        app.live.as_mut().unwrap().subject = Some("x\nshop  DOWN\x1b[2J".to_owned());
        assert_eq!(text(app).lines().nth(1), Some("  live      a1a1a1a  x shop  DOWN [2J"));
    }
}
