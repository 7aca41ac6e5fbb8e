//! A deploy from the push to the stop of the old color: what a failure, a death or a newer commit does at each step.

use std::time::Duration;

use super::bench::{Bench, commit};
use crate::rules::{
    app::{Idle, Instance, Verdict},
    effect::{Action, Hook, Note},
    event::{Ask, Event},
    ids::Color::{Blue, Green},
    step::waits_for_time,
    time::Time,
    words::{Nature, Outcome},
};

const BEFORE_THE_PIVOT: [&str; 5] = ["Fetching", "CheckingOut", "Building", "Starting", "Probing"];

#[test]
fn the_first_deploy_goes_live_on_blue_and_the_second_on_green() {
    let mut bench = Bench::new();
    bench.push(1);
    let mut states = vec![bench.state()];
    while bench.state() != "Resting" {
        bench.succeed();
        states.push(bench.state());
    }
    let way =
        ["Fetching", "CheckingOut", "Building", "Starting", "Probing", "Switching", "Watching", "Resting"];
    assert_eq!(states, way);
    assert_eq!((bench.live(), bench.routed()), (Some((Blue, 1)), Some((Blue, 1))));

    bench.push(2);
    bench.run_to("Retiring");
    assert!(matches!(bench.app.idle, Idle::Draining { .. }));
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.routed()), (Some((Green, 2)), Some((Green, 2))));
    assert_eq!(bench.app.idle, Idle::Vacant);
    assert_eq!(bench.app.previous.as_ref().unwrap().commit, commit(1));
    assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::Live]);
}

#[test]
fn a_failure_before_the_pivot_keeps_the_old_color_and_marks_the_commit() {
    for phase in BEFORE_THE_PIVOT {
        let mut bench = Bench::with_one_live();
        let routes = bench.app.generation;
        bench.push(2);
        bench.run_to(phase);
        bench.fail(Nature::Deterministic);
        assert_eq!(bench.state(), "Discarding", "{phase}");
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Blue, 1)), "{phase}");
        assert_eq!(bench.app.generation, routes, "{phase}: f8, no reload for a failure");
        assert_eq!(bench.app.idle, Idle::Vacant, "{phase}");
        assert!(matches!(bench.app.verdicts[&commit(2)], Verdict::Bad { .. }), "{phase}");
        bench.push(2);
        assert_eq!(bench.state(), "Resting", "{phase}: a10, not again by itself");
        bench.push(3);
        assert_eq!(bench.state(), "Fetching", "{phase}");
    }
}

#[test]
fn a10_a_transient_failure_is_tried_five_times_with_growing_waits() {
    for phase in BEFORE_THE_PIVOT {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        for tries in 1..=5 {
            bench.run_to(phase);
            bench.fail(Nature::Transient);
            bench.run_to("Resting");
            bench.push(2);
            assert_eq!(bench.state(), "Resting", "{phase}, try {tries}: not at once");
            bench.now = bench.now.plus(Duration::from_secs(10 << (tries - 1)));
            bench.tell(&Event::Ticked);
            assert_eq!(bench.state() == "Fetching", tries < 5, "{phase}, try {tries}");
        }
    }
}

#[test]
fn n11_at_rest_nothing_waits_for_time_and_a_failed_tip_does_until_it_is_tried() {
    let mut bench = Bench::with_one_live();
    bench.run_to("Resting");
    assert!(!waits_for_time(&bench.app), "at rest");
    bench.push(2);
    assert!(waits_for_time(&bench.app), "a deploy is under way");
    bench.run_to("Building");
    bench.fail(Nature::Transient);
    bench.run_to("Resting");
    assert!(waits_for_time(&bench.app), "it is tried again");
    bench.now = bench.now.plus(Duration::from_secs(10));
    bench.tell(&Event::Ticked);
    bench.run_to("Building");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert!(!waits_for_time(&bench.app), "a bad commit waits for a newer one");
}

#[test]
fn b8_a_clock_that_goes_back_does_not_put_the_next_try_off() {
    let mut bench = Bench::with_one_live();
    bench.now = bench.now.plus(Duration::from_secs(7200));
    bench.push(2);
    bench.run_to("Building");
    bench.fail(Nature::Transient);
    bench.run_to("Resting");
    bench.now = bench.now.plus(Duration::from_secs(9));
    bench.tell(&Event::Ticked);
    assert_eq!(bench.state(), "Resting", "it waits");
    bench.now = Time(bench.now.0 - 3_600_000);
    bench.tell(&Event::Ticked);
    assert_eq!(bench.state(), "Fetching", "an hour is not a wait that was ever meant");
}

#[test]
fn a10_a_bad_commit_that_fails_for_another_reason_by_hand_stays_bad() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    bench.deploy_rev(2);
    bench.fail(Nature::Transient);
    bench.run_to("Resting");
    assert!(matches!(bench.app.verdicts[&commit(2)], Verdict::Bad { .. }));
}

#[test]
fn a_switch_that_fails_is_taken_back_until_the_front_agrees() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Switching");
    bench.fail(Nature::Transient);
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    // The front refuses the way back too: nothing stops, and bgd tries again after a wait.
    bench.fail(Nature::Transient);
    assert!(matches!(bench.acts.last(), Some(Action::Wake { .. })));
    bench.succeed();
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    bench.succeed();
    assert_eq!(bench.state(), "Discarding");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
    assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::Failed]);
}

#[test]
fn e2_a_failed_watch_flips_back_to_the_warm_color_and_the_commit_is_bad() {
    for nature in [Nature::Deterministic, Nature::Transient] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to("Watching");
        assert_eq!(bench.live(), Some((Green, 2)));
        bench.fail(nature);
        assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
        bench.run_to("Resting");
        assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 1)), &Idle::Vacant));
        assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::RolledBack]);
        assert!(matches!(bench.app.verdicts[&commit(2)], Verdict::Bad { .. }));
    }
}

#[test]
fn a_live_instance_that_dies_in_its_watch_is_left_for_the_warm_one_at_once() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.live_dies();
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}

#[test]
fn a_failed_watch_with_a_dead_former_instance_deploys_its_release_again() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.warm_dies();
    bench.fail(Nature::Deterministic);
    assert_eq!(bench.state(), "Clearing");
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.routed()), (Some((Blue, 1)), Some((Blue, 1))));
    bench.push(2);
    assert_eq!(bench.state(), "Resting");
}

#[test]
fn a_former_instance_that_dies_on_the_way_back_gets_no_traffic() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    assert_eq!(bench.routed(), Some((Blue, 1)));
    bench.warm_dies();
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Green, 2))));
    bench.succeed();
    // The flip happens all the same: the former release starts again.
    bench.run_to("Probing");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}

#[test]
fn the_first_deploy_failing_its_watch_stays_with_nothing_to_go_back_to() {
    let mut bench = Bench::new();
    bench.push(1);
    bench.run_to("Watching");
    bench.fail(Nature::Deterministic);
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Blue, 1))));
    assert_eq!(bench.outcomes(), [Outcome::Failed]);
}

#[test]
fn a11_a_newer_commit_supersedes_a_push_but_not_for_ever() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    for newer in 3..=5 {
        bench.run_to("Building");
        bench.push(newer);
        assert_eq!(bench.state(), "Discarding", "{newer}");
        bench.succeed();
        assert_eq!(bench.state(), "Fetching", "{newer}");
    }
    bench.run_to("Building");
    bench.push(6);
    assert_eq!(bench.state(), "Building", "constant pushing still promotes something");
    bench.run_to("Retiring");
    assert_eq!(bench.live(), Some((Green, 5)));
    assert_eq!(bench.outcomes()[1..], [Outcome::Superseded; 3]);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 6)), "and the newest follows");
}

#[test]
fn a_tip_that_would_not_be_deployed_supersedes_nothing() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    bench.ask(Ask::Hold { reason: "freeze".to_owned() });
    bench.push(3);
    assert_eq!(bench.state(), "Building");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    // The branch was reset to the live commit: the commit under way is not wanted any more.
    bench.ask(Ask::Resume);
    bench.run_to("Building");
    bench.push(2);
    assert_eq!(bench.state(), "Discarding");
}

#[test]
fn hooks_run_at_their_points() {
    let mut bench = Bench::with_one_live();
    bench.policy.before_start = true;
    bench.policy.after_live = true;
    bench.policy.after_failed = true;
    bench.push(2);
    bench.run_to("Hooking");
    bench.run_to("Resting");
    bench.push(3);
    bench.run_to("Hooking");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    let hook = |action: &Action| match action {
        Action::RunHook { hook, .. } => Some(*hook),
        _ => None,
    };
    let hooks: Vec<Hook> = bench.acts.iter().filter_map(hook).collect();
    assert_eq!(hooks, [Hook::BeforeStart, Hook::AfterLive, Hook::BeforeStart, Hook::AfterFailed]);
}

#[test]
fn h1_a_live_instance_that_dies_at_rest_is_started_again_with_backoff_for_ever() {
    let mut bench = Bench::with_one_live();
    let mut waits = Vec::new();
    for _ in 0..10 {
        bench.live_dies();
        let Some(Action::Wake { after }) = bench.acts.last() else { panic!("no wait") };
        waits.push(after.as_secs());
        bench.end(bench.live_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
        assert!(matches!(bench.acts.last(), Some(Action::Start { .. })));
        bench.end(bench.live_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    bench.now = bench.now.plus(Duration::from_secs(61));
    bench.live_dies();
    assert!(matches!(bench.acts.last(), Some(Action::Wake { after }) if after.is_zero()));
}

#[test]
fn a_live_instance_that_dies_while_the_next_one_builds_is_started_again_and_the_deploy_goes_on() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    bench.live_dies();
    assert_eq!(bench.state(), "Building");
    bench.end(bench.live_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
    let starting = bench.live_effect().unwrap();
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    assert!(bench.acts.contains(&Action::Cancel(starting)), "its restart must not outlive it");
}

#[test]
fn a_live_instance_that_dies_before_its_start_is_reported_is_not_believed_up() {
    let mut bench = Bench::with_one_live();
    bench.live_dies();
    bench.end(bench.live_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
    let start = bench.live_effect().unwrap();
    bench.live_dies();
    bench.end(start, Ok(crate::rules::event::Done::Ensured));
    assert!(matches!(bench.app.live().unwrap().instance, Instance::Waiting { .. }));
}

#[test]
fn a_new_instance_that_dies_before_the_traffic_moved_never_gets_it() {
    for phase in ["Probing", "Switching"] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to(phase);
        let (probe, release) = (bench.awaited(), bench.app.pipeline.release().unwrap().id.clone());
        bench.dies(Green, release);
        bench.end(probe, Ok(crate::rules::event::Done::Ensured));
        let expected = if phase == "Probing" { "Probing" } else { "Reverting" };
        assert_eq!((bench.state(), bench.live()), (expected, Some((Blue, 1))), "{phase}");
    }
}

#[test]
fn without_restart_a_dead_live_instance_stays_dead() {
    let mut bench = Bench::with_one_live();
    bench.policy.restart = false;
    bench.live_dies();
    assert_eq!(bench.app.live().unwrap().instance, Instance::Dead);
}

#[test]
fn a_stop_that_fails_blocks_nothing_and_is_tried_again() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Retiring");
    bench.succeed();
    assert!(matches!(bench.app.idle, Idle::Stopping { .. }));
    bench.fail(Nature::Transient);
    assert_eq!(bench.state(), "Resting");
    bench.end(bench.idle_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
    bench.end(bench.idle_effect().unwrap(), Ok(crate::rules::event::Done::Ensured));
    assert_eq!(bench.app.idle, Idle::Vacant);
}

#[test]
fn a_front_that_was_started_again_is_told_what_is_live_until_it_routes_there() {
    let mut bench = Bench::with_one_live();
    bench.tell(&Event::FrontRestarted);
    for _ in 0..3 {
        let rerouting = bench.app.rerouting.unwrap();
        bench.end(rerouting.effect, Err(super::bench::failure(Nature::Transient)));
        bench.end(bench.app.rerouting.unwrap().effect, Ok(crate::rules::event::Done::Ensured));
        assert_eq!(bench.routed(), Some((Blue, 1)));
    }
    bench.end(bench.app.rerouting.unwrap().effect, Ok(crate::rules::event::Done::Ensured));
    assert_eq!(bench.app.rerouting, None);
}

#[test]
fn a_front_that_was_started_again_in_a_switch_is_told_anew() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Switching");
    let old = bench.awaited();
    bench.tell(&Event::FrontRestarted);
    bench.end(old, Ok(crate::rules::event::Done::Ensured));
    assert_eq!(bench.state(), "Switching", "the proof was of the process before");
    bench.succeed();
    assert_eq!(bench.live(), Some((Green, 2)));
}

#[test]
fn late_and_repeated_results_change_nothing_and_say_so() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    let effect = bench.awaited();
    bench.succeed();
    let before = bench.app.clone();
    let made = bench.end(effect, Ok(crate::rules::event::Done::Ensured));
    assert_eq!(made.next, before);
    assert!(matches!(made.notes[..], [super::super::Noted { note: Note::Ignored(_), .. }]));
}

#[test]
fn b8_a_clock_that_was_set_back_keeps_no_try_waiting() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.fail(Nature::Transient);
    bench.succeed();
    assert_eq!(bench.state(), "Resting");
    bench.push(2);
    assert_eq!(bench.state(), "Resting", "it is too early");
    bench.now.0 -= 600_000;
    bench.push(2);
    assert_eq!(bench.state(), "Fetching");
}

#[test]
fn b8_a_redeploy_is_one_whatever_the_clock_said_when_its_commit_went_live() {
    let mut bench = Bench::with_one_live();
    bench.now.0 -= 600_000;
    bench.ask(Ask::Deploy(crate::rules::event::Want::Tip));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 1)));
}

#[test]
fn b8_a_pin_does_not_outlive_its_deploy_whatever_the_clock_said_in_between() {
    let mut bench = Bench::with_two_live();
    bench.deploy_rev(1);
    bench.run_to("Switching");
    bench.now.0 -= 600_000;
    bench.succeed();
    assert!(bench.app.hold.is_some());
    bench.fail(Nature::Deterministic);
    assert_eq!(bench.app.hold, None);
}

#[test]
fn i1_pruning_spares_what_is_made_since_and_what_waited_for_its_turn() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.ask(Ask::Deploy(crate::rules::event::Want::Tip));
    let queued = bench.app.queued.clone().unwrap().id;
    while bench.app.queued.is_some() {
        bench.succeed();
    }
    let before = bench.acts.iter().rev().find_map(|action| match action {
        Action::Prune { before, .. } => Some(*before),
        _ => None,
    });
    assert_eq!(bench.app.pipeline.deploy().unwrap().id, queued);
    assert_eq!(before, Some(queued));
}
