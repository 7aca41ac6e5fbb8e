//! Canaries: shares on the way forward, taken back on failure, flip or restart.

use std::time::Duration;

use super::bench::{Bench, commit};
use crate::rules::{
    app::{Idle, Verdict},
    canary::{CanaryStep, Share},
    effect::{Action, Note},
    event::{Ask, Done, Event, Routed},
    ids::Color::{Blue, Green},
    step::{AskReply, DenialKind},
    words::{Nature, Outcome},
};

fn percent(percent: u8) -> Share {
    Share::percent(percent).unwrap()
}

/// Commit 1 is live on blue, and commit 2 has its first share: 5 % for 60 s, then 50 % until an operator decides.
fn with_a_canary() -> Bench {
    let mut bench = Bench::with_one_live();
    let steps = [(5, Some(60)), (50, None)];
    bench.policy.canary = steps
        .map(|(share, hold)| CanaryStep { share: percent(share), hold: hold.map(Duration::from_secs) })
        .to_vec();
    bench.push(2);
    bench.run_to("Canary");
    bench
}

fn is_drain_of(action: &Action, of: crate::rules::ids::Color) -> bool {
    matches!(action, Action::Drain { color } if *color == of)
}

#[test]
fn a_release_gets_its_shares_one_after_the_other_and_then_all() {
    let mut bench = with_a_canary();
    assert_eq!(
        (bench.live(), bench.routed(), bench.shared()),
        (Some((Blue, 1)), Some((Blue, 1)), Some((Green, 5)))
    );
    bench.succeed();
    assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 50))));
    bench.succeed();
    let watch = bench.acts.last().unwrap();
    assert!(matches!(watch, Action::Watch { period: None, .. }), "until told otherwise: {watch:?}");
    assert_eq!(bench.live(), Some((Blue, 1)), "what was live is live");
    assert!(matches!(bench.ask(Ask::Promote), AskReply::Promoting(_)));
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Switching", Some((Green, 2)), None));
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.app.canary.is_none()), (Some((Green, 2)), true));
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Live));
    let shares: Vec<_> = bench.notes.iter().filter(|note| matches!(note, Note::ShareChanged(_))).collect();
    assert_eq!(shares, [&Note::ShareChanged(percent(5)), &Note::ShareChanged(percent(50))]);
}

#[test]
fn a_step_that_nobody_promotes_in_time_is_discarded_and_not_tried_again() {
    let mut bench = Bench::with_one_live();
    bench.policy.canary = vec![CanaryStep { share: Share::NONE, hold: None }];
    bench.policy.canary_deadline = Some(Duration::from_secs(3600));
    bench.push(2);
    bench.run_to("Canary");
    let Some(Action::Watch { period: Some(left), .. }) = bench.acts.last() else { panic!("it has no end") };
    assert_eq!(*left, Duration::from_secs(3600));
    bench.succeed();
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.routed(), bench.shared()), (Some((Blue, 1)), Some((Blue, 1)), None));
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Failed));
    bench.push(2);
    assert_eq!(bench.state(), "Resting", "it is marked bad");
    // Promoted in time, and a newer push takes the place of one that waits.
    bench.push(3);
    bench.run_to("Canary");
    bench.push(4);
    bench.run_to("Canary");
    bench.ask(Ask::Promote);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 4)));
}

#[test]
fn there_is_no_canary_beside_nothing_or_beside_what_is_down() {
    let mut first = Bench::new();
    first.policy.canary = with_a_canary().policy.canary;
    first.push(1);
    first.run_to("Switching");
    let mut bench = Bench::with_one_live();
    bench.policy.canary = first.policy.canary;
    bench.push(2);
    bench.run_to("Probing");
    bench.live_dies();
    bench.succeed();
    assert_eq!(bench.state(), "Switching", "what is healthy serves at once");
}

#[test]
fn a_flip_takes_the_share_back_lets_it_answer_and_pins_the_commit() {
    for from in ["Sharing", "Canary"] {
        let mut bench = with_a_canary();
        if from == "Sharing" {
            bench.succeed();
        }
        assert_eq!(bench.state(), from);
        assert!(matches!(bench.flip(), AskReply::Cancelling(_)));
        assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Reverting", Some((Blue, 1)), None));
        let step = bench.succeed();
        assert!(step.effects.iter().any(|it| is_drain_of(&it.action, Green)), "{:?}", step.effects);
        bench.run_to("Resting");
        assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 1)), &Idle::Vacant));
        assert_eq!(bench.outcomes().last(), Some(&Outcome::Cancelled));
        assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Bad { .. })));
        assert!(bench.app.hold.is_some() && bench.app.canary.is_none());
    }
}

#[test]
fn e2_a_canary_that_fails_is_left_and_not_tried_again() {
    for nature in [Nature::Deterministic, Nature::Transient] {
        let mut bench = with_a_canary();
        bench.fail(nature);
        assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Reverting", Some((Blue, 1)), None));
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Blue, 1)));
        assert_eq!(bench.outcomes().last(), Some(&Outcome::RolledBack));
        assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Bad { .. })));
    }
}

#[test]
fn a_share_that_may_or_may_not_be_in_force_is_taken_back_and_speaks_not_against_the_release() {
    let mut bench = with_a_canary();
    bench.succeed();
    assert_eq!(bench.state(), "Sharing");
    bench.fail(Nature::Transient);
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Reverting", Some((Blue, 1)), None));
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Failed));
    assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Retry { .. })), "it is tried again");
}

/// The canary's share in force, in percent; whether bgd asks for another place; and the length of the watch.
fn stands(bench: &Bench) -> (&'static str, u8, bool, Option<Duration>) {
    let canary = bench.app.canary.as_ref().unwrap();
    let watch = bench.acts.iter().rev().find_map(|action| match action {
        Action::Watch { period, .. } => Some(*period),
        _ => None,
    });
    (bench.state(), canary.in_force().share.get(), canary.refused > 0, watch.unwrap())
}

#[test]
fn n5_a_step_that_the_front_refuses_leaves_the_share_in_force_and_is_asked_for_again_until_it_is_taken() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for nature in [Nature::FrontStuck, Nature::FrontUnmoved] {
        let mut bench = with_a_canary();
        bench.succeed();
        for wait in [1, 2, 4] {
            let step = bench.fail(nature);
            let [effect] = &step.effects[..] else { panic!("nothing is told or ended: {:?}", step.effects) };
            assert!(matches!(effect.action, Action::Watch { .. }), "{effect:?}");
            assert_eq!(stands(&bench), ("Canary", 5, true, seconds(wait)));
            assert!(bench.app.front_refusal.is_some());
            bench.succeed();
            assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 50))));
        }
        let said = bench.notes.iter().filter(|note| matches!(note, Note::Trouble(_))).count();
        assert_eq!(said, 1, "said once");
        bench.succeed();
        assert_eq!(stands(&bench), ("Canary", 50, false, None));
        assert_eq!(bench.app.front_refusal, None);
    }
}

#[test]
fn n5_a_share_set_by_hand_and_a_promotion_that_the_front_refuses_change_nothing_and_are_asked_for_again() {
    let mut bench = with_a_canary();
    bench.ask(Ask::SetShare(percent(20)));
    // The cancelled route may have come true: bgd sends the one that is to be in force.
    bench.fail(Nature::FrontStuck);
    assert_eq!(stands(&bench), ("Canary", 5, true, Some(Duration::from_secs(1))));
    bench.succeed();
    bench.succeed();
    assert_eq!(stands(&bench), ("Canary", 20, false, None));
    bench.ask(Ask::Promote);
    bench.fail(Nature::FrontUnmoved);
    assert_eq!(stands(&bench), ("Canary", 20, true, Some(Duration::from_secs(1))));
    assert!(bench.app.live().is_some_and(|live| live.color == Blue));
    bench.succeed();
    assert_eq!((bench.state(), bench.routed()), ("Switching", Some((Green, 2))));
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Green, 2)), Some(&Outcome::Live)));
}

#[test]
fn n5_too_little_traffic_while_a_step_is_refused_holds_back_neither_it_nor_the_asking() {
    let seen = || Ok(Done::Inconclusive { seen: "10 of 200 requests".to_owned() });
    let mut bench = with_a_canary();
    bench.policy.hold_inconclusive = true;
    bench.succeed();
    bench.fail(Nature::FrontUnmoved);
    // The step of 5 % was over before the front refused the next one: its watch does not decide again.
    bench.end(bench.awaited(), seen());
    assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 50))));
    bench.succeed();
    assert_eq!(stands(&bench), ("Canary", 50, false, None));
    // Too little traffic holds the share in force, and bgd asks for no other.
    bench.end(bench.awaited(), seen());
    assert_eq!(stands(&bench), ("Canary", 50, false, Some(Duration::from_secs(10))));
    assert_eq!(bench.shared(), Some((Green, 50)));
}

#[test]
fn n5_what_never_had_a_share_needs_no_way_back() {
    for (state, steps) in [("Sharing", true), ("Switching", false)] {
        let mut bench = Bench::with_one_live();
        if steps {
            bench.policy.canary = with_a_canary().policy.canary;
        }
        bench.push(2);
        bench.run_to(state);
        let told = bench.app.generation;
        bench.fail(Nature::FrontStuck);
        assert_eq!((bench.state(), bench.app.generation), ("Discarding", told), "nothing is told");
        bench.run_to("Resting");
        assert_eq!((bench.live(), bench.outcomes().last()), (Some((Blue, 1)), Some(&Outcome::Failed)));
        assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Retry { .. })));
    }
}

#[test]
fn n5_a_restart_while_the_front_refuses_a_step_goes_on_asking() {
    let mut bench = with_a_canary();
    bench.succeed();
    bench.fail(Nature::FrontStuck);
    let facts =
        crate::rules::event::Facts { canary: Some((Green, percent(5))), ..bench.facts(Routed::Color(Blue)) };
    let step = bench.recover(facts);
    assert!(step.effects.iter().all(|it| matches!(it.action, Action::Watch { .. })), "{:?}", step.effects);
    bench.succeed();
    assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 50))));
    bench.fail(Nature::FrontStuck);
    bench.flip();
    bench.run_to("Resting");
    assert_eq!((bench.live(), &bench.app.canary), (Some((Blue, 1)), &None));
}

#[test]
fn one_word_goes_on_to_the_next_step_and_from_the_last_one_to_all() {
    let mut bench = Bench::with_one_live();
    let steps = [(0, None), (10, Some(20)), (50, None)];
    bench.policy.canary = steps
        .map(|(share, hold)| CanaryStep { share: percent(share), hold: hold.map(Duration::from_secs) })
        .to_vec();
    bench.push(2);
    bench.run_to("Canary");
    assert_eq!(bench.shared(), Some((Green, 0)));
    for share in [10, 50] {
        assert!(matches!(bench.ask(Ask::NextStep), AskReply::Said(_)));
        assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, share))));
        bench.succeed();
    }
    assert!(matches!(bench.ask(Ask::NextStep), AskReply::Promoting(_)));
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Switching", Some((Green, 2)), None));
    bench.run_to("Watching");
    assert!(matches!(bench.ask(Ask::NextStep), AskReply::Promoting(_)), "as promote in a watch");
}

#[test]
fn a_canary_that_dies_is_left_at_once() {
    let mut bench = with_a_canary();
    let release = bench.app.pipeline.release().unwrap().id.clone();
    bench.dies(Green, release);
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Reverting", Some((Blue, 1)), None));
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::RolledBack));
}

#[test]
fn a_newer_commit_takes_the_place_of_a_canary() {
    let mut bench = with_a_canary();
    bench.push(3);
    assert_eq!((bench.state(), bench.shared()), ("Reverting", None));
    bench.run_to("Canary");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Superseded));
    assert_eq!(bench.app.pipeline.commit(), Some(&commit(3)));
    assert!(!bench.app.verdicts.contains_key(&commit(2)), "it did nothing wrong");
}

#[test]
fn an_operator_sets_the_share_and_hands_the_steps_back() {
    let mut bench = with_a_canary();
    assert!(matches!(bench.ask(Ask::SetShare(percent(20))), AskReply::Said(_)));
    assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 20))));
    bench.succeed();
    assert!(matches!(bench.acts.last(), Some(Action::Watch { period: None, .. })), "it stays there");
    bench.ask(Ask::ResumeSteps);
    assert_eq!(bench.shared(), Some((Green, 50)), "the first step above it");
    bench.succeed();
    for (set, then, length) in [(2, 5, Some(60)), (5, 50, None), (90, 90, None)] {
        let mut bench = with_a_canary();
        bench.ask(Ask::SetShare(percent(set)));
        bench.succeed();
        bench.ask(Ask::ResumeSteps);
        assert_eq!(bench.shared(), Some((Green, then)), "never back");
        bench.succeed();
        let whole = length.map(Duration::from_secs);
        assert!(matches!(bench.acts.last(), Some(Action::Watch { period, .. }) if *period == whole));
    }
    for ask in [Ask::SetShare(percent(20)), Ask::ResumeSteps, Ask::Promote] {
        let AskReply::Denied(denial) = Bench::with_one_live().ask(ask) else { panic!("nothing is shared") };
        assert_eq!(denial.kind, DenialKind::NoCanary);
    }
}

#[test]
fn promote_ends_a_watch_early_and_well() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    assert!(matches!(bench.ask(Ask::Promote), AskReply::Promoting(_)));
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Green, 2)), Some(&Outcome::Live)));
}

#[test]
fn too_little_traffic_is_said_once_and_holds_only_where_it_is_to() {
    let seen = || Done::Inconclusive { seen: "10 of 200 requests".to_owned() };
    let said =
        |bench: &Bench| bench.notes.iter().filter(|note| matches!(note, Note::Inconclusive(_))).count();
    let mut bench = with_a_canary();
    bench.end(bench.awaited(), Ok(seen()));
    assert_eq!((bench.state(), bench.shared(), said(&bench)), ("Sharing", Some((Green, 50)), 1));
    let mut bench = with_a_canary();
    bench.policy.hold_inconclusive = true;
    for _ in 0..3 {
        bench.end(bench.awaited(), Ok(seen()));
        assert_eq!((bench.state(), bench.shared(), said(&bench)), ("Canary", Some((Green, 5)), 1));
    }
    bench.succeed();
    assert_eq!(bench.shared(), Some((Green, 50)));
    bench.succeed();
    bench.ask(Ask::Promote);
    bench.run_to("Watching");
    bench.end(bench.awaited(), Ok(seen()));
    assert_eq!((bench.state(), said(&bench)), ("Watching", 2));
    bench.succeed();
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Live));
}

#[test]
fn k2_a_restart_in_a_step_leaves_the_shares_alone_and_the_step_goes_on() {
    let mut bench = with_a_canary();
    bench.now.0 += 20_000;
    let step = bench.recover(bench.facts(Routed::Color(Blue)));
    assert_eq!(bench.state(), "Canary");
    let [effect] = &step.effects[..] else { panic!("{:?}", step.effects) };
    let Action::Watch { period: Some(left), .. } = effect.action else { panic!("{effect:?}") };
    assert!(left < Duration::from_secs(40) && left > Duration::from_secs(39), "{left:?}");
}

#[test]
fn k2_a_front_with_other_shares_than_recorded_is_told_again() {
    let mut bench = with_a_canary();
    for routed in [Routed::Color(Blue), Routed::Nothing, Routed::Unknown] {
        let facts = crate::rules::event::Facts { canary: None, ..bench.facts(routed) };
        bench.recover(facts);
        assert_eq!(bench.state(), "Probing", "without its share it may be on its way out: {routed:?}");
        bench.succeed();
        assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 5))), "{routed:?}");
        bench.succeed();
    }
    let facts =
        crate::rules::event::Facts { canary: Some((Green, percent(1))), ..bench.facts(Routed::Color(Blue)) };
    bench.recover(facts);
    assert_eq!((bench.state(), bench.shared()), ("Sharing", Some((Green, 5))));
    bench.succeed();
    bench.tell(&Event::FrontRestarted);
    assert_eq!((bench.state(), bench.shared()), ("Canary", Some((Green, 5))));
    assert!(bench.app.rerouting.is_some());
}

#[test]
fn f6_a_share_that_a_hand_took_away_is_taken_back_for_good_before_it_is_given_anew() {
    let mut bench = with_a_canary();
    let facts = crate::rules::event::Facts { canary: None, ..bench.facts(Routed::Color(Blue)) };
    bench.recover(facts);
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Probing", Some((Blue, 1)), None));
    // Somebody edited the front's file and may revert that: until the front has bgd's route, its routing is unknown.
    assert!(bench.app.rerouting.is_some());
}

#[test]
fn k2_a_share_that_nothing_explains_is_taken_back() {
    let mut bench = Bench::with_one_live();
    let mut facts = bench.facts(Routed::Color(Blue));
    facts.canary = Some((Green, percent(25)));
    bench.recover(facts);
    assert_eq!((bench.routed(), bench.shared()), (Some((Blue, 1)), None));
    assert!(bench.app.rerouting.is_some());
}

#[test]
fn a_canary_that_was_gone_when_bgd_came_back_is_left() {
    let mut bench = with_a_canary();
    let mut facts = bench.facts(Routed::Color(Blue));
    facts.running.remove(&Green);
    bench.recover(facts);
    assert_eq!((bench.state(), bench.shared()), ("Reverting", None));
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::RolledBack));
}

#[test]
fn k5_a_reboot_in_a_step_is_nobodys_fault_and_the_step_goes_on_when_all_is_up_again() {
    let mut bench = with_a_canary();
    bench.succeed();
    bench.succeed();
    let facts =
        crate::rules::event::Facts { running: Default::default(), ..bench.facts(Routed::Color(Blue)) };
    bench.recover(facts);
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Clearing", Some((Blue, 1)), None));
    let told = bench.app.rerouting.unwrap().effect;
    bench.end(told, Ok(Done::Ensured));
    bench.end(bench.live_effect().unwrap(), Ok(Done::Ensured));
    bench.run_to("Canary");
    assert_eq!(
        (bench.live(), bench.shared()),
        (Some((Blue, 1)), Some((Green, 50))),
        "not from the beginning"
    );
    assert_eq!(bench.app.canary.as_ref().map(|canary| canary.step), Some(1));
    assert!(bench.app.verdicts.is_empty());
}

#[test]
fn a_canary_that_does_not_start_again_after_a_reboot_leaves_nothing_behind() {
    let mut bench = with_a_canary();
    let facts =
        crate::rules::event::Facts { running: Default::default(), ..bench.facts(Routed::Color(Blue)) };
    bench.recover(facts);
    bench.end(bench.app.rerouting.unwrap().effect, Ok(Done::Ensured));
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((bench.live(), &bench.app.idle, &bench.app.canary), (Some((Blue, 1)), &Idle::Vacant, &None));
}

#[test]
fn f6_a_canary_beside_what_a_hand_put_in_the_place_of_the_live_release_goes_in_peace() {
    let mut bench = with_a_canary();
    let mut elsewhere = Bench::with_two_live();
    elsewhere.push(7);
    elsewhere.run_to("Resting");
    let other = elsewhere.app.live().unwrap().release.clone();
    let mut facts = bench.facts(Routed::Color(Blue));
    facts.running.insert(Blue, other.id.clone());
    facts.known.push(other.clone());
    bench.recover(facts);
    assert_eq!((bench.live().map(|it| it.0), bench.shared()), (Some(Blue), None));
    assert!(
        !bench.acts.iter().any(|action| is_drain_of(action, Green)),
        "it has its share: {:?}",
        bench.acts
    );
    bench.end(bench.app.rerouting.unwrap().effect, Ok(Done::Ensured));
    assert!(bench.acts.iter().any(|action| is_drain_of(action, Green)), "{:?}", bench.acts);
    bench.succeed();
    bench.succeed();
    assert_eq!((bench.state(), &bench.app.idle), ("Resting", &Idle::Vacant));
}

#[test]
fn the_whole_of_the_traffic_is_no_share() {
    let mut bench = with_a_canary();
    assert!(matches!(bench.ask(Ask::SetShare(percent(100))), AskReply::Promoting(_)));
    assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Switching", Some((Green, 2)), None));
}

#[test]
fn a_new_instance_is_warmed_up_before_it_gets_any_traffic() {
    let mut bench = Bench::with_one_live();
    bench.policy.warmup = true;
    bench.push(2);
    bench.run_to("Warming");
    assert_eq!(bench.routed(), Some((Blue, 1)));
    bench.fail(Nature::Transient);
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().last()), (Some((Blue, 1)), Some(&Outcome::Failed)));
}

#[test]
fn d1_what_a_front_does_not_let_go_of_where_the_color_counts_as_vacant_is_stopped_later() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Probing");
    let facts = crate::rules::event::Facts { half_told: true, ..bench.facts(Routed::Color(Blue)) };
    bench.recover(facts);
    assert_eq!(bench.state(), "Clearing");
    bench.flip();
    bench.fail(Nature::Transient);
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "{:?}", bench.app.idle);
}

#[test]
fn k2_a_first_share_that_came_true_in_a_crash_is_taken_back_if_the_front_then_refuses_routes() {
    let mut bench = Bench::with_one_live();
    bench.policy.canary = with_a_canary().policy.canary;
    bench.push(2);
    bench.run_to("Sharing");
    let mut facts = bench.facts(Routed::Color(Blue));
    facts.canary = Some((Green, bench.app.canary.as_ref().unwrap().share));
    bench.recover(facts);
    bench.fail(Nature::FrontUnmoved);
    assert_eq!(bench.state(), "Reverting", "the front sends it requests");
}

#[test]
fn k2_a_front_that_was_started_again_gets_its_route_although_it_refuses_the_deploy_that_overtook_it() {
    for steps in [with_a_canary().policy.canary, Vec::new()] {
        let mut bench = Bench::with_one_live();
        bench.policy.canary = steps;
        bench.push(2);
        bench.run_to("Probing");
        bench.tell(&Event::FrontRestarted);
        bench.succeed();
        bench.fail(Nature::FrontUnmoved);
        assert_eq!((bench.state(), bench.routed(), bench.shared()), ("Reverting", Some((Blue, 1)), None));
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Blue, 1)));
    }
}
