//! Requests of operators and the replies: deploy, flip, hold, resume, down and up, in every state.

use std::time::Duration;

use super::{
    super::{AskReply, Blocked, DenialKind, wanted},
    bench::{Bench, commit},
};
use crate::rules::{
    app::{Idle, Until, Verdict},
    event::{Ask, Done, Event, Want},
    ids::Color::{Blue, Green},
    words::{Nature, Outcome},
};

fn denied(answer: &AskReply) -> Option<DenialKind> {
    match answer {
        AskReply::Denied(denial) => Some(denial.kind),
        _ => None,
    }
}

fn hold(bench: &mut Bench) {
    bench.ask(Ask::Hold { reason: "freeze".to_owned() });
}

#[test]
fn i3_a_flip_cancels_a_deploy_in_every_phase_marks_the_commit_and_holds() {
    let phases = ["Fetching", "CheckingOut", "Building", "Starting", "Probing", "Switching", "Watching"];
    for phase in phases {
        for times in 1..=2 {
            let mut bench = Bench::with_one_live();
            bench.push(2);
            bench.run_to(phase);
            for _ in 0..times {
                assert!(matches!(bench.flip(), AskReply::Cancelling(_)), "{phase}");
            }
            bench.run_to("Resting");
            assert_eq!((bench.live(), bench.routed()), (Some((Blue, 1)), Some((Blue, 1))), "{phase}");
            assert_eq!(bench.app.idle, Idle::Vacant, "{phase}");
            assert!(matches!(bench.app.verdicts[&commit(2)], Verdict::Bad { .. }), "{phase}");
            assert_eq!(wanted(&bench.app, bench.now), Err(Blocked::Held), "{phase}");
            assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::Cancelled], "{phase}");
            bench.push(2);
            assert_eq!(bench.state(), "Resting", "{phase}");
            bench.push(3);
            assert_eq!(bench.state(), "Fetching", "{phase}: i2, a newer commit releases it");
        }
    }
}

#[test]
fn a_flip_while_the_idle_color_is_cleared_cancels_too() {
    let mut bench = Bench::with_one_live();
    bench.policy.standby = Duration::from_secs(600);
    bench.push(2);
    bench.run_to("Resting");
    assert!(matches!(bench.app.idle, Idle::Warm { .. }));
    bench.push(3);
    bench.run_to("Clearing");
    bench.flip();
    assert_eq!(bench.state(), "Discarding");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
}

#[test]
fn a_flip_after_a_deploy_goes_back_and_a_second_one_forth_again() {
    let mut bench = Bench::with_two_live();
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)), "an impatient second one joins");
    bench.run_to("Probing");
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    bench.run_to("Switching");
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
    assert!(matches!(bench.app.verdicts[&commit(2)], Verdict::Bad { .. }));
    bench.push(2);
    assert_eq!(bench.state(), "Resting");
    // I5: the next flip goes to what was live before, which is no longer bad.
    bench.flip();
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    assert!(!bench.app.verdicts.contains_key(&commit(2)));
}

#[test]
fn g5_a_flip_to_a_warm_color_switches_at_once() {
    let mut bench = Bench::with_one_live();
    bench.policy.standby = Duration::from_secs(600);
    bench.push(2);
    bench.run_to("Resting");
    assert_eq!(bench.app.way_back().map(|(to, warm)| (to.commit.clone(), warm)), Some((commit(1), true)));
    bench.flip();
    assert_eq!((bench.state(), bench.routed()), ("Switching", Some((Blue, 1))));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}

#[test]
fn i4_a_flip_to_a_sick_warm_color_probes_it_first() {
    let mut bench = Bench::with_one_live();
    bench.policy.standby = Duration::from_secs(600);
    bench.push(2);
    bench.run_to("Resting");
    let Idle::Warm { release, .. } = bench.app.idle.clone() else { panic!() };
    let sick =
        Event::HealthChanged { color: Blue, release: release.id, healthy: false, answer: "503".into() };
    bench.tell(&sick);
    bench.flip();
    assert_eq!(bench.state(), "Probing");
}

#[test]
fn a_standby_ends_with_its_timer() {
    let mut bench = Bench::with_one_live();
    bench.policy.standby = Duration::from_secs(600);
    bench.push(2);
    bench.run_to("Resting");
    for _ in 0..3 {
        bench.end(bench.idle_effect().unwrap(), Ok(Done::Ensured));
    }
    assert_eq!(bench.app.idle, Idle::Vacant);
}

#[test]
fn a_flip_while_the_former_color_drains_takes_it_back() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Retiring");
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    assert_eq!(bench.state(), "Probing");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}

#[test]
fn a_flip_with_nowhere_to_go_says_so_and_changes_nothing() {
    let mut bench = Bench::new();
    assert_eq!(denied(&bench.flip()), Some(DenialKind::NothingLive));
    bench.push(1);
    bench.run_to("Watching");
    let before = bench.app.clone();
    assert_eq!(denied(&bench.flip()), Some(DenialKind::NoWayBack));
    assert_eq!(bench.app, before, "the watch goes on");
    bench.run_to("Resting");
    assert_eq!(denied(&bench.flip()), Some(DenialKind::NoWayBack));
}

#[test]
fn cancelling_a_redeploy_does_not_condemn_what_is_live() {
    for phase in ["Building", "Watching"] {
        let mut bench = Bench::with_one_live();
        bench.deploy_rev(1);
        bench.run_to(phase);
        bench.flip();
        bench.run_to("Resting");
        assert!(bench.app.verdicts.is_empty(), "{phase}");
        assert_eq!(bench.live(), Some((Blue, 1)), "{phase}");
    }
}

#[test]
fn a_deploy_by_hand_waits_for_its_turn_and_the_newest_wins() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    let first = bench.deploy_rev(8);
    let second = bench.deploy_rev(9);
    assert_ne!(first, second);
    bench.run_to("Retiring");
    while bench.state() == "Retiring" {
        bench.succeed();
    }
    assert_eq!(bench.state(), "Fetching");
    assert_eq!(bench.app.pipeline.commit(), Some(&commit(9)));
    assert_eq!(bench.app.queued, None);
}

#[test]
fn a_flip_drops_a_deploy_that_waits_for_its_turn() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    bench.ask(Ask::Deploy(Want::Tip));
    bench.flip();
    bench.run_to("Resting");
    assert_eq!((bench.live(), &bench.app.queued), (Some((Blue, 1)), &None));
}

#[test]
fn a_deploy_of_the_tip_that_went_live_meanwhile_is_done() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Building");
    bench.ask(Ask::Deploy(Want::Tip));
    bench.run_to("Retiring");
    while bench.state() != "Fetching" {
        bench.succeed();
    }
    bench.succeed();
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Green, 2))));
    assert_eq!(bench.outcomes(), [Outcome::Live; 3]);
}

#[test]
fn a_rev_deployed_by_hand_stays_until_a_newer_commit_arrives() {
    let mut bench = Bench::with_two_live();
    bench.deploy_rev(1);
    bench.run_to("Resting");
    assert!(
        matches!(&bench.app.hold.as_ref().unwrap().until, Until::NewerThan(Some(tip)) if *tip == commit(2))
    );
    bench.push(2);
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Blue, 1))));
    bench.push(3);
    assert_eq!(bench.state(), "Fetching");
}

#[test]
fn a_commit_that_arrives_during_a_deploy_by_hand_is_newer_than_it() {
    let mut bench = Bench::with_two_live();
    bench.deploy_rev(1);
    bench.run_to("Building");
    bench.push(3);
    bench.run_to("Retiring");
    while bench.state() == "Retiring" {
        bench.succeed();
    }
    assert_eq!((bench.state(), bench.app.pipeline.commit()), ("Fetching", Some(&commit(3))));
}

#[test]
fn a_rev_deployed_by_hand_that_fails_its_watch_pins_nothing() {
    let mut bench = Bench::with_two_live();
    bench.deploy_rev(1);
    bench.run_to("Watching");
    assert!(bench.app.hold.is_some());
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((&bench.app.hold, bench.live()), (&None, Some((Green, 2))));
}

#[test]
fn a_hold_stops_automatic_deploys_until_it_is_resumed() {
    let mut bench = Bench::with_one_live();
    hold(&mut bench);
    bench.push(2);
    bench.push(3);
    assert_eq!(bench.state(), "Resting");
    assert_eq!(denied(&bench.ask(Ask::Deploy(Want::Tip))), Some(DenialKind::Held));
    bench.ask(Ask::Resume);
    assert_eq!(bench.state(), "Fetching");
}

#[test]
fn a_hold_by_hand_is_stronger_than_that_of_a_flip() {
    let mut bench = Bench::with_two_live();
    hold(&mut bench);
    bench.flip();
    bench.run_to("Resting");
    bench.push(3);
    assert_eq!(bench.state(), "Resting");
}

#[test]
fn down_turns_the_traffic_away_then_stops_and_up_brings_it_back() {
    let mut bench = Bench::with_two_live();
    assert_eq!(bench.ask(Ask::Down), AskReply::TakingDown);
    assert_eq!((bench.state(), bench.routed()), ("TakingDown", None));
    bench.run_to("Resting");
    assert!(bench.is_out_of_service());
    bench.push(3);
    assert_eq!(bench.state(), "Resting");
    assert_eq!(denied(&bench.ask(Ask::Deploy(Want::Tip))), Some(DenialKind::Held));
    assert_eq!(denied(&bench.flip()), Some(DenialKind::NothingLive));
    bench.ask(Ask::Up);
    assert_eq!(bench.state(), "Starting");
    bench.run_to("Switching");
    bench.succeed();
    assert_eq!(bench.live(), Some((Green, 2)));
    assert_eq!(bench.state(), "Fetching", "what arrived meanwhile is deployed now");
}

#[test]
fn down_ends_a_deploy_under_way_in_every_phase() {
    for phase in ["Fetching", "Building", "Starting", "Probing", "Switching", "Watching", "Retiring"] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to(phase);
        bench.ask(Ask::Deploy(Want::Tip));
        bench.ask(Ask::Down);
        for _ in 0..12 {
            if bench.state() != "Resting" {
                bench.succeed();
            }
        }
        assert!(bench.is_out_of_service() && bench.app.idle == Idle::Vacant, "{phase}: {}", bench.state());
        assert_eq!(bench.app.queued, None, "{phase}");
    }
}

#[test]
fn the_death_of_an_instance_that_is_taken_down_starts_nothing() {
    for steps in 0..3 {
        let mut bench = Bench::with_one_live();
        bench.ask(Ask::Down);
        for _ in 0..steps {
            bench.succeed();
        }
        let acts = bench.acts.len();
        bench.live_dies();
        assert_eq!(bench.acts.len(), acts);
        bench.run_to("Resting");
        assert!(bench.is_out_of_service());
    }
}

#[test]
fn a_down_that_can_not_be_carried_out_leaves_the_app_in_service() {
    for steps in [0, 2] {
        let mut bench = Bench::with_one_live();
        bench.ask(Ask::Down);
        for _ in 0..steps {
            bench.succeed();
        }
        bench.fail(Nature::Transient);
        assert_eq!(
            (bench.state(), bench.live(), bench.routed()),
            ("Resting", Some((Blue, 1)), Some((Blue, 1)))
        );
        assert!(bench.live_effect().is_some() && bench.app.rerouting.is_some() && !bench.app.down_wanted);
    }
}

#[test]
fn down_calls_off_an_up_under_way() {
    for phase in ["Starting", "Probing", "Switching"] {
        let mut bench = Bench::with_one_live();
        bench.ask(Ask::Down);
        bench.run_to("Resting");
        bench.ask(Ask::Up);
        bench.run_to(phase);
        assert_eq!(bench.ask(Ask::Down), AskReply::TakingDown, "{phase}");
        bench.run_to("Resting");
        assert!(bench.is_out_of_service(), "{phase}");
    }
}

#[test]
fn an_up_that_fails_makes_way_for_the_next_commit() {
    let mut bench = Bench::with_one_live();
    bench.ask(Ask::Down);
    bench.run_to("Resting");
    bench.ask(Ask::Up);
    bench.run_to("Probing");
    bench.fail(Nature::Deterministic);
    bench.succeed();
    assert_eq!(bench.state(), "Fetching", "the tip is deployed from the start");
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}

#[test]
fn i6_only_a_flip_begins_without_a_record() {
    let mut bench = Bench::with_two_live();
    bench.unrecorded = true;
    bench.push(3);
    bench.deploy_rev(4);
    assert_eq!((bench.state(), bench.app.queued.is_some()), ("Resting", true));
    bench.flip();
    assert_eq!((bench.state(), bench.app.queued.is_some()), ("Starting", false));
    bench.deploy_rev(4);
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.app.queued.is_some()), (Some((Blue, 1)), true));
    bench.unrecorded = false;
    bench.tell(&Event::Ticked);
    assert_eq!((bench.state(), bench.app.queued.is_some()), ("Fetching", false));
}
