//! The last lines of `bgd status`: the way back, what happens next, and the command that really moves things. Pure.

use crate::{
    api::wire::{AppReport, CanaryReport, DeployReport, IdleReport, LiveReport, Why},
    cli::{terminal::one_line, wording},
    rules::{
        time::Time,
        words::{AppState, DeployKind, Outcome, Phase, WhyCode},
    },
};

/// Where a flip would go, and how fast.
pub fn way_back(app: &AppReport) -> String {
    let name = &app.name;
    if let Some(deploy) = app.deploy.as_ref().filter(|deploy| deploy.phase < Phase::Switching) {
        return match deploy.kind {
            // A second flip joins this one: to cancel it would keep the release that was flipped away from.
            Some(DeployKind::Rollback) => {
                format!("under way to {}", wording::short(deploy.commit.as_ref()))
            }
            Some(DeployKind::Push | DeployKind::Manual | DeployKind::Up) | None => {
                format!("`bgd flip {name}` cancels the deploy")
            }
        };
    }
    if app.state == AppState::Stopped {
        return format!("`bgd up {name}` starts the release that was live");
    }
    if let (Some(to), Some(barrier)) = (&app.rollback.to, &app.rollback.barrier) {
        return format!("{}, only with --force (contract migration in #{})", to.short(), barrier.deploy);
    }
    let net = match &app.idle {
        Some(idle) if idle.backup => ", and takes what the new one refuses",
        _ => "",
    };
    let same = match same_commit(app) {
        true => format!(", but is the same commit; further back: {}", further_back(app)),
        false => String::new(),
    };
    match (&app.rollback.to, app.rollback.possible) {
        (Some(to), true) if app.rollback.warm => {
            format!("{}, still running{net}: `bgd flip {name}` is instant{same}", to.short())
        }
        (Some(to), true) => format!("{}, not running: `bgd flip {name}` starts it first{same}", to.short()),
        (None, true) => format!("`bgd flip {name}`"),
        (_, false) if app.live.is_none() => "none: nothing is live".to_owned(),
        (_, false) => "none: no good release was live before".to_owned(),
    }
}

/// Whether a flip would only bring another build of the live commit.
fn same_commit(app: &AppReport) -> bool {
    app.rollback.to.is_some() && app.rollback.to.as_ref() == app.live.as_ref().map(|live| &live.commit)
}

fn further_back(app: &AppReport) -> String {
    let name = &app.name;
    format!("`bgd history {name}`, then `bgd deploy {name} --rev SHA`")
}

/// What bgd does next by itself, or else what the operator can do.
pub fn next(app: &AppReport, now: Time) -> String {
    if let Some(deploy) = &app.deploy {
        return next_of_deploy(app, deploy);
    }
    let name = &app.name;
    match (app.state, &app.live) {
        (AppState::Stopped, _) => format!("nothing until `bgd up {name}`"),
        (AppState::Down, Some(live)) if live.given_up => {
            let commit = live.commit.short();
            format!(
                "nothing (watch.restart is off): `bgd logs {name}` tells why it died, \
                 `bgd deploy {name} --rev {commit}` starts it anew"
            )
        }
        (AppState::Down, Some(_)) => {
            format!("it is started again by itself; `bgd logs {name}` tells why it died")
        }
        (AppState::Down, None) => format!("nothing by itself: push a fix, or `bgd deploy {name}`"),
        (AppState::Degraded, Some(live)) if live.healthy == Some(false) => mend(app, live),
        _ => app.why.as_ref().map_or_else(
            || format!("`bgd why {name}` tells what is deployed next"),
            |why| next_commit(app, why, now),
        ),
    }
}

/// The advice for a live release that is not healthy.
fn mend(app: &AppReport, live: &LiveReport) -> String {
    let name = &app.name;
    let down = live.instances.iter().zip(1..).filter(|(one, _)| one.pid.is_none());
    let down: Vec<String> = down.map(|(_, number)| number.to_string()).collect();
    if !down.is_empty() && !live.given_up {
        let down = down.join(", ");
        return format!("instance {down} is started again by itself; `bgd logs {name}` tells why it died");
    }
    let back = match &app.rollback.to {
        Some(to) if app.rollback.barrier.is_some() => {
            format!("; `bgd flip {name} --force` goes back to {} over the contract migration", to.short())
        }
        Some(_) if same_commit(app) => format!("; the way back is the same commit: {}", further_back(app)),
        Some(to) => format!("; `bgd flip {name}` goes back to {}", to.short()),
        None => String::new(),
    };
    format!("`bgd logs {name}` may tell what is wrong{back}")
}

fn next_of_deploy(app: &AppReport, deploy: &DeployReport) -> String {
    let new = wording::short(deploy.commit.as_ref());
    let name = &app.name;
    let other = app.live.as_ref().filter(|live| Some(&live.commit) != deploy.commit.as_ref());
    if deploy.ending.is_some_and(|end| end != Outcome::Live) {
        return called_off(new, deploy.phase, other);
    }
    match deploy.phase {
        Phase::Fetching
        | Phase::CheckingOut
        | Phase::Building
        | Phase::Starting
        | Phase::Probing
        | Phase::Warming => match other {
            Some(live) => format!(
                "{new} gets the traffic once it is healthy; {} serves until then",
                live.commit.short()
            ),
            None => format!("{new} gets the traffic once it is healthy"),
        },
        Phase::Canary => format!(
            "{}`bgd promote {name}` gives {new} all of the traffic now, `bgd flip {name}` takes its share back",
            next_step(app)
        ),
        Phase::Switching => format!("the traffic is being moved to {new}"),
        Phase::Watching => format!("{new} is watched; if its health check fails, {}", if_unwell(app)),
        Phase::Draining => "the former release finishes its requests, then it is stopped".to_owned(),
        Phase::Stopping => "the former release is being stopped".to_owned(),
    }
}

/// The command that ends a canary step without a time limit; empty for other steps.
fn next_step(app: &AppReport) -> String {
    let waits = |canary: &&CanaryReport| canary.next_at.is_none() && canary.held.is_none();
    let waiting = app.canary.as_ref().filter(waits).filter(|canary| !canary.by_hand);
    waiting.map_or(String::new(), |canary| {
        format!("`bgd promote --step {}` goes on to {}, ", app.name, canary.next_share)
    })
}

/// What bgd does when the watch fails.
fn if_unwell(app: &AppReport) -> String {
    let unwell = |idle: &IdleReport| idle.instances.iter().any(|one| one.healthy == Some(false));
    match &app.rollback.to {
        None => "it serves on all the same: nothing was live before it".to_owned(),
        Some(_) if !app.rollback.automatic => {
            "it stays live and a person has to decide: a contract migration stands in the way back".to_owned()
        }
        Some(to) if app.rollback.warm && !app.idle.as_ref().is_some_and(unwell) => {
            format!("the traffic goes back to {} by itself", to.short())
        }
        Some(to) => format!("{} is started again, and the traffic goes back once it is healthy", to.short()),
    }
}

/// A deploy that has failed or was cancelled, and is not cleared away yet.
fn called_off(new: &str, phase: Phase, other: Option<&LiveReport>) -> String {
    let serves = other.map(|live| format!("; {} serves", live.commit.short())).unwrap_or_default();
    match phase {
        Phase::Switching => format!("the traffic goes back from {new}"),
        Phase::Draining => format!("{new} finishes its requests, then it is stopped{serves}"),
        _ => format!("what is left of the deploy of {new} is cleared away{serves}"),
    }
}

/// What happens with the tip of the branch when nothing is under way.
fn next_commit(app: &AppReport, why: &Why, now: Time) -> String {
    let branch = &app.remote.branch;
    let head = wording::short(app.remote.head.as_ref());
    let hint = why.hint.as_deref().map(one_line);
    match (why.code, hint) {
        (WhyCode::RemoteError, _) => {
            "the remote is asked again by itself; nothing new is deployed until it answers".to_owned()
        }
        (WhyCode::NotPolledYet, _) => format!("the first commit seen on {branch} is deployed"),
        (WhyCode::UpToDate, _) => format!("the next push to {branch} is deployed"),
        (WhyCode::Gate, _) => one_line(&why.text),
        (WhyCode::Held, Some(hint))
            if app.live.as_ref().map(|live| &live.commit) != app.remote.head.as_ref() =>
        {
            format!("{head} waits: {hint}")
        }
        (WhyCode::RetryLater, Some(hint)) => {
            let again = why.again_at.filter(|at| at.0 > now).map(|at| wording::whole(at.0.since(now)));
            let again = again.map_or("by itself".to_owned(), |wait| format!("in {wait}"));
            format!("{head} is tried again {again}; {hint}")
        }
        (_, Some(hint)) => hint,
        (_, None) => one_line(&why.text),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        api::wire::{InstanceReport, RollbackReport},
        cli::{
            status::{fixture, summary},
            terminal::StreamStyle,
        },
        rules::time::Stamp,
    };

    #[test]
    fn a_contract_migration_in_the_way_is_said_beforehand() {
        let mut app = fixture::watching();
        app.rollback.possible = false;
        app.rollback.automatic = false;
        app.rollback.barrier = Some(fixture::barrier());
        let seen = text(app.clone());
        let back = "\n  way back  a1a1a1a, only with --force (contract migration in #7)\n";
        assert!(seen.contains(back), "{seen}");
        let next =
            "fails, it stays live and a person has to decide: a contract migration stands in the way back";
        assert!(seen.ends_with(next), "{seen}");
        let mut app = AppReport { state: AppState::Degraded, ..fixture::live() };
        app.live.as_mut().unwrap().healthy = Some(false);
        app.rollback.barrier = Some(fixture::barrier());
        let next = "; `bgd flip shop --force` goes back to b2b2b2b over the contract migration";
        assert!(text(app.clone()).ends_with(next), "{}", text(app.clone()));
        app.schema_ahead = Some(fixture::barrier());
        let ahead = "\n  schema    ahead of what is live: c3c3c3c migrated in #7 (contract: db/2_contract_drop.sql)\n";
        assert!(text(app.clone()).contains(ahead), "{}", text(app));
    }

    fn text(app: AppReport) -> String {
        summary::render(&fixture::status(vec![app]), fixture::NOW, StreamStyle::PLAIN)
    }

    #[test]
    fn after_a_flip_only_what_moves_things_is_advised() {
        let text = text(fixture::flipped());
        let head = "shop  live, healthy; automatic deploys wait for a newer commit\n";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("\n  hold      by ann, 3 min ago: flipped away from c3c3c3c\n"), "{text}");
        let next = "\n  next      push a newer commit, or `bgd deploy shop` to try c3c3c3c again";
        assert!(text.ends_with(next), "{text}");
        assert!(!text.contains("resume"), "{text}");
    }

    #[test]
    fn a_watch_says_how_long_it_lasts_and_what_follows_when_it_fails() {
        let mut app = fixture::watching();
        let seen = text(app.clone());
        assert!(
            seen.contains("\n  deploy    #7 of c3c3c3c to green: watching, for 12 s of 30 s\n"),
            "{seen}"
        );
        let next = "  next      c3c3c3c is watched; if its health check fails, ";
        let back = format!("{next}the traffic goes back to a1a1a1a by itself");
        assert!(seen.ends_with(&back), "{seen}");
        if let Some(idle) = &mut app.idle {
            (idle.backup, idle.instances[0].healthy) = (true, Some(false));
        }
        let seen = text(app.clone());
        let again = format!("{next}a1a1a1a is started again, and the traffic goes back once it is healthy");
        assert!(seen.ends_with(&again), "{seen}");
        let net = "a1a1a1a, still running, and takes what the new one refuses: `bgd flip shop` is instant";
        assert!(seen.contains(net), "{seen}");
        app.rollback = RollbackReport::default();
        let stays = format!("{next}it serves on all the same: nothing was live before it");
        assert!(text(app).ends_with(&stays));
    }

    #[test]
    fn a_closed_gate_is_what_comes_next() {
        let next =
            "  next      c3c3c3c waits for a window: the next one opens Mon 2026-11-23 09:00 Europe/Berlin";
        assert!(text(fixture::gated()).ends_with(next), "{}", text(fixture::gated()));
    }

    #[test]
    fn a_canary_step_that_waits_for_somebody_names_the_command_that_ends_it() {
        let mut app = fixture::deploying();
        app.deploy.as_mut().unwrap().phase = Phase::Canary;
        app.canary = Some(fixture::canary());
        assert!(
            text(app.clone()).contains("  next      `bgd promote shop` gives c3c3c3c all of the traffic")
        );
        app.canary.as_mut().unwrap().next_at = None;
        let next =
            "  next      `bgd promote --step shop` goes on to 25%, `bgd promote shop` gives c3c3c3c all";
        assert!(text(app.clone()).contains(next), "{}", text(app));
        app.canary.as_mut().unwrap().by_hand = true;
        assert!(!text(app).contains("--step"));
    }

    #[test]
    fn a_way_back_that_is_under_way_is_not_said_to_be_cancelled_by_a_flip() {
        let mut app = fixture::deploying();
        assert!(text(app.clone()).contains("  way back  `bgd flip shop` cancels the deploy\n"));
        app.deploy.as_mut().unwrap().kind = Some(DeployKind::Rollback);
        assert!(text(app.clone()).contains("  way back  under way to c3c3c3c\n"), "{}", text(app));
    }

    #[test]
    fn a_deploy_that_is_called_off_is_not_said_to_get_the_traffic() {
        let mut app = fixture::deploying();
        for (phase, next) in [
            (Phase::Switching, "the traffic goes back from c3c3c3c"),
            (Phase::Draining, "c3c3c3c finishes its requests, then it is stopped; a1a1a1a serves"),
            (Phase::Stopping, "what is left of the deploy of c3c3c3c is cleared away; a1a1a1a serves"),
        ] {
            if let Some(deploy) = &mut app.deploy {
                (deploy.phase, deploy.ending) = (phase, Some(Outcome::Cancelled));
            }
            assert!(text(app.clone()).ends_with(&format!("  next      {next}")), "{phase}");
        }
    }

    #[test]
    fn an_instance_that_is_not_started_again_is_not_said_to_be() {
        let mut app = AppReport { state: AppState::Down, ..fixture::live() };
        assert!(text(app.clone()).contains("  next      it is started again by itself"));
        if let Some(live) = &mut app.live {
            live.given_up = true;
        }
        assert!(text(app.clone()).contains("  next      nothing (watch.restart is off): `bgd logs shop`"));
        app.live = None;
        assert!(text(app).contains("  next      nothing by itself: push a fix, or `bgd deploy shop`"));
    }

    #[test]
    fn a_live_release_that_is_unwell_comes_before_the_next_push() {
        let mut app = AppReport { state: AppState::Degraded, ..fixture::live() };
        app.live.as_mut().unwrap().healthy = Some(false);
        let next = "  next      `bgd logs shop` may tell what is wrong; `bgd flip shop` goes back to b2b2b2b";
        assert!(text(app.clone()).ends_with(next), "{}", text(app.clone()));
        let one = |pid| InstanceReport {
            port: Some(9501),
            pid,
            healthy: pid.map(|_| true),
            ..InstanceReport::default()
        };
        app.live.as_mut().unwrap().instances = vec![one(Some(1)), one(None), one(Some(3))];
        let seen = text(app);
        assert!(seen.starts_with("shop  live, 1 of 3 instances is down; degraded\n"), "{seen}");
        let next = "  next      instance 2 is started again by itself; `bgd logs shop` tells why it died";
        assert!(seen.ends_with(next), "{seen}");
    }

    #[test]
    fn a_way_back_to_the_same_commit_is_no_cure() {
        let mut app = AppReport { state: AppState::Degraded, ..fixture::live() };
        app.live.as_mut().unwrap().healthy = Some(false);
        app.rollback.to = Some(fixture::commit("a1"));
        let further = "`bgd history shop`, then `bgd deploy shop --rev SHA`";
        let seen = text(app.clone());
        let back =
            "  way back  a1a1a1a, not running: `bgd flip shop` starts it first, but is the same commit";
        assert!(seen.contains(&format!("{back}; further back: {further}\n")), "{seen}");
        let next = "  next      `bgd logs shop` may tell what is wrong; the way back is the same commit";
        assert!(seen.ends_with(&format!("{next}: {further}")), "{seen}");
        app.rollback.warm = true;
        let seen = text(app);
        assert!(
            seen.contains("`bgd flip shop` is instant, but is the same commit; further back: "),
            "{seen}"
        );
    }

    #[test]
    fn a_commit_that_is_tried_again_says_when() {
        let mut app = fixture::failed();
        let why =
            fixture::why(WhyCode::RetryLater, "c3c3c3c failed", Some("`bgd deploy shop` tries it at once"));
        let again_at = Some(Stamp(fixture::NOW.plus(Duration::from_millis(9_500))));
        app.why = Some(Why { again_at, ..why });
        let next = "\n  next      c3c3c3c is tried again in 9 s; `bgd deploy shop` tries it at once";
        assert!(text(app).ends_with(next));
    }

    #[test]
    fn a_warm_color_makes_the_way_back_instant() {
        let mut app = fixture::live();
        app.rollback.warm = true;
        assert!(text(app).contains("b2b2b2b, still running: `bgd flip shop` is instant"));
    }
}
