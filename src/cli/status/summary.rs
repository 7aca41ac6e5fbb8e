//! `bgd status` for people: what is live, is it healthy, what happens next, can I go back. Pure; made to be
//! read at three in the morning, so the first line of each app answers and the rest explains.

use std::time::Duration;

use crate::{
    api::wire::{
        AppReport, BarrierReport, CanaryReport, DeployReport, InstanceReport, LastReport, LiveReport, Status,
        TaskReport, UnconfiguredReport,
    },
    cli::{
        status::{next, workers},
        terminal::{StreamStyle, Tone, one_line},
        wording,
    },
    rules::{
        backoff,
        time::Time,
        words::{AppState, HoldEnd, IdleState, Outcome, Phase, TaskOutcome},
    },
};

/// Width of the label column, the longest label and two spaces.
const LABEL: usize = 10;

/// The text for what comes next when the status was read from the record.
const UNSUPERVISED: &str = "nothing until the daemon runs again: `systemctl start bgd`, or `bgd daemon`";

/// All apps, a block each.
pub fn render(status: &Status, now: Time, look: StreamStyle) -> String {
    let mut blocks: Vec<_> = config_refused(status, look).into_iter().collect();
    if status.apps.is_empty() {
        blocks.push("no apps are configured".to_owned());
    }
    blocks.extend(status.apps.iter().map(|app| block(app, (now, status.daemon.running), look)));
    blocks.extend(unconfigured(status, now, look));
    blocks.join("\n\n")
}

/// Running instances of apps that no file names: bgd does not restart them, and only this line mentions them.
fn unconfigured(status: &Status, now: Time, look: StreamStyle) -> Option<String> {
    let line = |one: &UnconfiguredReport| {
        let place = one.port.map(|port| format!("port {port}, ")).unwrap_or_default();
        let pid = one.pid.map_or_else(|| "?".to_owned(), |pid| pid.to_string());
        let (name, since) = (&one.name, wording::ago(one.since, now));
        format!(
            "  {name} on {} ({place}pid {pid}), started {since}: `bgd down {name} --yes` ends it",
            one.color
        )
    };
    let lines: Vec<_> = status.unconfigured.iter().map(line).collect();
    let head = look.paint(Tone::Notice, "in no file any more, and running:");
    (!lines.is_empty()).then(|| format!("{head}\n{}", lines.join("\n")))
}

/// Says that the daemon goes on with an older configuration, and what to do.
fn config_refused(status: &Status, look: StreamStyle) -> Option<String> {
    let hint = match one_line(status.daemon.config_refused.as_deref()?) {
        command if command.starts_with("bgd ") => format!("`{command}`"),
        words => words,
    };
    Some(look.paint(Tone::Bad, &format!("the configuration on disk is not in force: {hint}")))
}

/// The state of an app in a few words, as the headline and `--oneline` say it.
pub fn headline(app: &AppReport) -> String {
    if let (AppState::Degraded, Some(live)) = (app.state, &app.live)
        && let Some(count) = Count::of(live).filter(|count| count.well > 0 && count.well < count.all)
    {
        return format!("live, {}; degraded", count.in_words());
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

fn block(app: &AppReport, (now, supervised): (Time, bool), look: StreamStyle) -> String {
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
    row("workers", workers::workers(app, now).into_iter().collect());
    row("deploy", app.deploy.iter().map(|deploy| under_way(deploy, now)).collect());
    row("canary", app.canary.iter().map(|canary| share(canary, app.name.as_str(), now)).collect());
    row("hold", hold(app, now));
    row("remote", remote(app, now, look));
    row("last", app.last.iter().flat_map(|deploy| last(deploy, now, look)).collect());
    row("schema", app.schema_ahead.iter().map(|barrier| look.paint(Tone::Bad, &ahead(barrier))).collect());
    row("tasks", tasks(app, now, look));
    row("way back", vec![next::way_back(app)]);
    row("next", vec![if supervised { next::next(app, now) } else { UNSUPERVISED.to_owned() }]);
    lines.join("\n")
}

/// The tasks that did not work when they ran last, after the traffic had moved: no deploy failed for them.
fn tasks(app: &AppReport, now: Time, look: StreamStyle) -> Vec<String> {
    let bad = |task: &&TaskReport| {
        !task.when.is_before_pivot()
            && task.last.as_ref().is_some_and(|last| last.outcome != TaskOutcome::Done)
    };
    let line = |task: &TaskReport| {
        let last = task.last.as_ref()?;
        let when = last.finished_at.map(|at| format!(" {}", wording::ago(at, now))).unwrap_or_default();
        let how =
            format!("{} {} in #{}{when}", task.name, wording::task(last.outcome, last.exit), last.deploy);
        Some(format!("{}; `bgd logs --task {}`", look.paint(Tone::Bad, &how), task.name))
    };
    app.tasks.iter().filter(bad).filter_map(line).collect()
}

fn live(app: &AppReport, now: Time) -> Vec<String> {
    let Some(live) = &app.live else { return vec!["nothing".to_owned()] };
    let by = live.author.as_deref().map(|author| format!("by {}, ", one_line(author)));
    let place = format!("live for {} on {} ({})", wording::age(live.since, now), live.color, processes(live));
    let place = place + &usage(live).unwrap_or_default();
    let mut lines = vec![caption(live), by.unwrap_or_default() + &place];
    lines.extend(restarts(live, app.name.as_str(), now));
    lines
}

/// `, 30 MiB, 2.5% of a core`; `None` without the daemon, which measures it.
fn usage(live: &LiveReport) -> Option<String> {
    let (memory, cpu) = (live.memory_bytes?, live.cpu_percent?);
    Some(format!(", {} MiB, {cpu}% of a core", memory >> 20))
}

/// `started again 4 times in a row, last 9 s ago: `bgd events shop``, for an instance that dies soon after each
/// start.
fn restarts(live: &LiveReport, name: &str, now: Time) -> Option<String> {
    let seen = match (live.restarts, live.up_since, live.restart_wait_ms) {
        (0, ..) => return None,
        // The count stays until the next death.
        (_, Some(up), _) if now.since(up.0) >= backoff::STEADY => return None,
        (1, Some(up), _) => format!("started again {}", wording::ago(up, now)),
        (restarts, Some(up), _) => {
            format!("started again {restarts} times in a row, last {}", wording::ago(up, now))
        }
        (restarts, None, Some(0)) => format!("restart {restarts} in a row comes at once"),
        (restarts, None, Some(wait)) => {
            let wait = wording::whole(Duration::from_millis(wait));
            format!("restart {restarts} in a row comes within {wait}")
        }
        (restarts, None, None) => format!("restart {restarts} in a row is under way"),
    };
    Some(format!("{seen}: `bgd events {name}`"))
}

/// Counts of several instances. One that hangs still has a process and gets requests.
struct Count {
    well: usize,
    all: usize,
    /// The numbers of those without a process, from 1.
    down: Vec<usize>,
    /// The numbers of those whose health check fails.
    failing: Vec<usize>,
    /// The numbers of those without a first health check.
    fresh: Vec<usize>,
}

impl Count {
    /// `None` for a single instance.
    fn of(live: &LiveReport) -> Option<Self> {
        let numbers = |which: fn(&InstanceReport) -> bool| {
            let found = live.instances.iter().zip(1..).filter(|(one, _)| which(one));
            found.map(|(_, number)| number).collect::<Vec<usize>>()
        };
        let down = numbers(|one| one.pid.is_none());
        let failing = numbers(|one| one.pid.is_some() && one.healthy == Some(false));
        let fresh = numbers(|one| one.pid.is_some() && one.healthy.is_none());
        let all = live.instances.len();
        let well = all - down.len() - failing.len() - fresh.len();
        (all > 1).then_some(Self { well, all, down, failing, fresh })
    }

    /// `2 of 3 instances are healthy`, or `1 of 3 instances is down`.
    fn in_words(&self) -> String {
        let are = |count| if count == 1 { "is" } else { "are" };
        let (all, down) = (self.all, self.down.len());
        if self.well + down == all && down > 0 {
            return format!("{down} of {all} instances {} down", are(down));
        }
        format!("{} of {all} instances {} healthy", self.well, are(self.well))
    }

    /// `instance 2 is down, instances 1, 3 fail their health check`; empty when all are well.
    fn named(&self) -> String {
        let groups = [
            (&self.down, "is down", "are down"),
            (&self.failing, "fails its health check", "fail their health check"),
            (&self.fresh, "is not checked yet", "are not checked yet"),
        ];
        let name = |(numbers, one, more): &(&Vec<usize>, &str, &str)| match numbers.as_slice() {
            [number] => format!("instance {number} {one}"),
            numbers => {
                let list = numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
                format!("instances {list} {more}")
            }
        };
        groups.iter().filter(|group| !group.0.is_empty()).map(name).collect::<Vec<_>>().join(", ")
    }
}

/// `port 9501, pid 4300`, or of several `3 instances from port 9501 on`.
fn processes(live: &LiveReport) -> String {
    match (Count::of(live), live.pid) {
        (None, Some(pid)) => format!("{}, pid {pid}", live.place()),
        (None, None) => format!("{}, no process right now", live.place()),
        (Some(count), _) if count.well == count.all => live.place(),
        (Some(count), _) => format!("{}; {}", live.place(), count.named()),
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
    let commit = wording::short(deploy.commit.as_ref());
    let since = deploy.phase_since.unwrap_or(deploy.started_at);
    let limit = deploy.phase_ms.map(Duration::from_millis).filter(|limit| now.since(since.0) < *limit);
    let of = match limit.map(wording::whole) {
        Some(limit) if deploy.phase == Phase::Draining => format!(" of {limit} at most"),
        Some(limit) => format!(" of {limit}"),
        None => String::new(),
    };
    let task = deploy.task.as_ref().map(|task| format!(" (task {task})")).unwrap_or_default();
    let doing = wording::doing(deploy.phase) + &task;
    format!("#{} of {commit}{to}: {doing}, for {}{of}", deploy.id, wording::age(since, now))
}

/// `5% of the traffic, step 1 of 3; then 25% in 90 s`.
fn share(canary: &CanaryReport, name: &str, now: Time) -> String {
    let CanaryReport { step, steps, wanted, by_hand, held, next_share, next_at, .. } = canary;
    let measured = canary.measured.iter().map(|share| format!(" ({share}% measured)")).collect::<String>();
    let then = match (held, next_at) {
        (Some(seen), _) => format!("held: {}", one_line(seen)),
        (None, Some(at)) if at.0 > now => {
            format!("then {next_share} in {}", wording::whole(at.0.since(now)))
        }
        (None, Some(_)) => format!("then {next_share} at once"),
        (None, None) if *by_hand => format!("set by hand; `bgd canary resume {name}` goes on with the steps"),
        (None, None) => "until an operator says otherwise".to_owned(),
    };
    format!("{wanted} of the traffic{measured}, step {step} of {steps}; {then}")
}

fn hold(app: &AppReport, now: Time) -> Vec<String> {
    let text = |hold: &crate::api::wire::HoldReport| {
        format!("by {}, {}: {}", one_line(&hold.by), wording::ago(hold.since, now), one_line(&hold.reason))
    };
    app.hold.iter().map(text).collect()
}

fn remote(app: &AppReport, now: Time, look: StreamStyle) -> Vec<String> {
    let remote = &app.remote;
    let head = match &remote.head {
        Some(head) => format!("{} at {}", remote.branch, head.short()),
        None => format!("{}, not seen yet", remote.branch),
    };
    let checked = remote.checked_at.map(|at| format!(", seen {}", wording::ago(at, now)));
    let mut lines = vec![head + &checked.unwrap_or_default()];
    let next = remote.next_at.filter(|at| at.0 > now).map(|at| wording::whole(at.0.since(now)));
    if let Some((refs, wait)) = remote.refs.zip(next.as_ref()).filter(|_| remote.error.is_none()) {
        lines.push(format!(
            "lists {refs} refs at each look: asked more seldom than `poll` says, next in {wait}"
        ));
    }
    if let Some(error) = &remote.error {
        lines.push(look.paint(Tone::Bad, &format!("error: {}", one_line(error))));
        lines.extend(remote.hint.as_deref().map(|hint| format!("hint: {}", one_line(hint))));
        lines.extend(
            next.map(|wait| format!("asked again in {wait}; `bgd doctor` or `bgd deploy` ask at once")),
        );
    }
    lines
}

fn last(last: &LastReport, now: Time, look: StreamStyle) -> Vec<String> {
    let commit = wording::short(last.commit.as_ref());
    let when = wording::ago(last.finished_at, now);
    let how = match last.outcome {
        Outcome::Live => format!("#{} of {commit} was deployed {when}", last.id),
        Outcome::Superseded => format!("#{} of {commit} gave way to a newer commit {when}", last.id),
        Outcome::Cancelled => format!("#{} of {commit} was cancelled {when}", last.id),
        Outcome::Failed | Outcome::RolledBack => {
            let verb = if last.outcome == Outcome::Failed { "FAILED" } else { "was ROLLED BACK" };
            let at = last.phase.map(|phase| format!(" {}", wording::at(phase))).unwrap_or_default();
            look.paint(Tone::Bad, &format!("#{} of {commit} {verb}{at}, {when}", last.id))
        }
    };
    let mut lines = vec![how];
    if last.outcome == Outcome::Live && !last.steps.is_empty() {
        lines.push(wording::steps(&last.steps));
    }
    lines.extend(last.error.iter().map(|error| one_line(error)));
    lines.extend(last.hint.iter().map(|hint| format!("hint: {}", one_line(hint))));
    lines
}

/// `ahead of what is live: c3c3c3c migrated in #7 (contract: db/2_contract_drop.sql)`.
fn ahead(barrier: &BarrierReport) -> String {
    let (commit, text) = (barrier.commit.short(), one_line(&barrier.text));
    format!("ahead of what is live: {commit} migrated in #{} ({text})", barrier.deploy)
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
    use crate::rules::words::WhyCode;

    fn text(app: AppReport) -> String {
        render(&fixture::status(vec![app]), fixture::NOW, StreamStyle::PLAIN)
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
            by Ann, live for 12 min on blue (port 9501, pid 4300), 29 MiB, 2.5% of a core
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
            by Ann, live for 12 min on blue (port 9501, pid 4300), 29 MiB, 2.5% of a core
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
            by Ann, live for 12 min on blue (port 9501, pid 4300), 29 MiB, 2.5% of a core
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
        let text = render(&status, fixture::NOW, StreamStyle::PLAIN);
        assert!(text.contains("\n  next      nothing until the daemon runs again: "), "{text}");
    }

    #[test]
    fn a_remote_that_is_asked_more_seldom_for_its_many_refs_says_so() {
        let mut app = fixture::live();
        app.remote.refs = Some(20_000);
        app.remote.next_at = Some(fixture::after(38));
        let text = text(app);
        assert!(text.contains("\n            lists 20000 refs at each look: "), "{text}");
        assert!(text.contains(" next in 38 s\n"), "{text}");
    }

    #[test]
    fn a_remote_error_is_shown_and_what_follows_from_it() {
        let mut app = fixture::live();
        app.remote.error = Some("can't connect to git.example.com: timed out".to_owned());
        app.remote.hint = Some("`bgd doctor` tries the remote at once".to_owned());
        app.remote.next_at = Some(fixture::after(75));
        app.why = Some(fixture::why(WhyCode::RemoteError, "can't connect", Some("`bgd doctor shop`")));
        let text = text(app);
        assert!(
            text.contains(
                "\n            error: can't connect to git.example.com: timed out\n            hint: `bgd doctor` tries \
                 the remote at once\n            asked again in 75 s; "
            ),
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
    fn a_live_release_that_keeps_dying_says_so_beside_its_good_health() {
        let say = |restarts, up_since, restart_wait_ms| {
            let mut app = fixture::live();
            if let Some(live) = &mut app.live {
                (live.restarts, live.up_since, live.restart_wait_ms) = (restarts, up_since, restart_wait_ms);
            }
            text(app).lines().nth(3).unwrap().trim().to_owned()
        };
        let up = Some(fixture::before(9));
        assert_eq!(say(4, up, None), "started again 4 times in a row, last 9 s ago: `bgd events shop`");
        assert_eq!(say(1, up, None), "started again 9 s ago: `bgd events shop`");
        assert_eq!(say(4, None, Some(4_000)), "restart 4 in a row comes within 4 s: `bgd events shop`");
        assert_eq!(say(1, None, Some(0)), "restart 1 in a row comes at once: `bgd events shop`");
        assert_eq!(say(4, None, None), "restart 4 in a row is under way: `bgd events shop`");
        assert!(say(0, up, None).starts_with("remote "));
        assert!(say(4, Some(fixture::before(3600)), None).starts_with("remote "), "over for long");
    }

    #[test]
    fn of_several_instances_those_that_are_down_or_unwell_are_counted_and_named() {
        let one =
            |pid, healthy| InstanceReport { port: Some(9501), pid, healthy, ..InstanceReport::default() };
        let (well, hung) = (one(Some(1), Some(true)), one(Some(2), Some(false)));
        let (fresh, down) = (one(Some(3), None), one(None, None));
        for (instances, head, named) in [
            ([&well, &well, &well], "live, healthy; degraded", ""),
            (
                [&well, &hung, &well],
                "live, 2 of 3 instances are healthy; degraded",
                "; instance 2 fails its health check",
            ),
            ([&well, &well, &down], "live, 1 of 3 instances is down; degraded", "; instance 3 is down"),
            ([&down, &well, &down], "live, 2 of 3 instances are down; degraded", "; instances 1, 3 are down"),
            (
                [&well, &fresh, &down],
                "live, 1 of 3 instances is healthy; degraded",
                "; instance 3 is down, instance 2 is not checked yet",
            ),
            (
                [&hung, &down, &hung],
                "live, not healthy; degraded",
                "; instance 2 is down, instances 1, 3 fail their health check",
            ),
        ] {
            let mut app = AppReport { state: AppState::Degraded, ..fixture::live() };
            let live = app.live.as_mut().unwrap();
            live.healthy = Some(instances[2].healthy != Some(false));
            live.instances = instances.map(Clone::clone).to_vec();
            let seen = text(app);
            assert!(seen.starts_with(&format!("shop  {head}\n")), "{seen}");
            assert!(seen.contains(&format!("on blue (3 instances from port 9501 on{named}),")), "{seen}");
        }
    }

    #[test]
    fn a_configuration_that_was_refused_is_told_of_before_the_apps() {
        let mut status = fixture::status(vec![fixture::live()]);
        status.daemon.config_refused = Some("bgd check".to_owned());
        let text = render(&status, fixture::NOW, StreamStyle::PLAIN);
        let head = "the configuration on disk is not in force: `bgd check`\n\nshop  live, healthy\n";
        assert!(text.starts_with(head), "{text}");
    }

    #[test]
    fn a13_a_commit_message_can_not_forge_a_line() {
        let mut app = fixture::live();
        app.live.as_mut().unwrap().subject = Some("x\nshop  DOWN\x1b[2J".to_owned());
        assert_eq!(text(app).lines().nth(1), Some("  live      a1a1a1a  x shop  DOWN"));
    }
}
