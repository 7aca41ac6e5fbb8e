//! The way back when the front can't be moved (promise F4).

use super::bench::{Bench, commit, failure};
use crate::rules::{
    app::{Idle, Placing, Telling, Verdict},
    canary::{CanaryStep, Share},
    effect::{Action, Note},
    event::{Done, Event, Facts, Routed},
    ids::Color::{Blue, Green},
    step::AskReply,
    words::{Nature, Outcome},
};

#[test]
fn f4_a_flip_that_the_front_refuses_puts_the_wanted_release_in_the_place_of_the_bad_one() {
    let mut bench = Bench::with_two_live();
    let (color, _) = bench.live().unwrap();
    assert!(matches!(bench.flip(), AskReply::RollingBack(_)));
    bench.run_to("Switching");
    let step = bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    let replaces = |action: &Action| matches!(action, Action::StandIn { color: at, release, .. } if *at == color && release.commit == commit(1));
    assert!(step.effects.iter().any(|effect| replaces(&effect.action)), "{:?}", step.effects);
    bench.succeed();
    assert_eq!(bench.live(), Some((color.other(), 1)), "where it runs");
    assert_eq!(bench.state(), "Resting");
    assert!(matches!(bench.app.idle, Idle::Warm { .. }), "the front still routes there");
    assert!(bench.notes.iter().any(|note| matches!(note, Note::Replaced { by: Placing::PassedOn, .. })));
    bench.end(bench.app.rerouting.unwrap().effect, Ok(Done::Ensured));
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "what stood in goes");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Live));
    assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Bad { .. })));
    assert_eq!(bench.app.previous.as_ref().map(|release| &release.commit), Some(&commit(2)));
}

#[test]
fn f4_a_flip_in_the_watch_does_the_same() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    assert_eq!(bench.state(), "Reverting");
    bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    bench.succeed();
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Cancelled));
}

#[test]
fn f4_a_replacement_that_does_not_start_brings_back_what_it_stopped() {
    let mut bench = Bench::with_two_live();
    let before = bench.live();
    bench.flip();
    bench.run_to("Switching");
    bench.fail(Nature::FrontStuck);
    let step = bench.fail(Nature::Transient);
    let starts = |action: &Action| matches!(action, Action::Replace { .. });
    assert!(step.effects.iter().any(|effect| starts(&effect.action)), "a gap is better than the bad release");
    let step = bench.fail(Nature::Deterministic);
    assert!(step.effects.iter().any(|effect| matches!(effect.action, Action::Start { .. })));
    assert_eq!(bench.live(), before);
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Failed));
}

#[test]
fn f4_after_a_replacement_that_does_not_start_in_the_watch_the_next_flip_goes_to_the_former_release() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    bench.fail(Nature::Transient);
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    assert_eq!(bench.app.previous.as_ref().map(|release| &release.commit), Some(&commit(1)));
}

#[test]
fn f4_nothing_is_replaced_while_it_is_not_known_where_the_front_routes() {
    let mut bench = Bench::with_two_live();
    let before = bench.live();
    bench.flip();
    bench.run_to("Switching");
    // The route under way is cancelled, and may have come true.
    bench.tell(&Event::FrontRestarted);
    let step = bench.fail(Nature::FrontStuck);
    assert_ne!(bench.state(), "Replacing");
    let stops = |action: &Action| {
        matches!(action, Action::Stop { .. } | Action::Replace { .. } | Action::StandIn { .. })
    };
    assert!(!step.effects.iter().any(|effect| stops(&effect.action)), "{:?}", step.effects);
    assert_eq!(bench.live(), before);
}

#[test]
fn f4_a_crash_in_the_middle_of_it_goes_on_with_it() {
    let mut bench = Bench::with_two_live();
    let (color, _) = bench.live().unwrap();
    bench.flip();
    bench.run_to("Switching");
    bench.fail(Nature::FrontStuck);
    let facts = Facts { routed: Routed::Color(color), ..Facts::default() };
    let step = bench.recover(facts);
    assert_eq!(bench.state(), "Replacing");
    let starts = step.effects.iter().filter(|effect| matches!(effect.action, Action::Start { .. })).count();
    assert_eq!(starts, 0, "{:?}", step.effects);
    bench.succeed();
    assert_eq!(bench.live(), Some((color, 1)));
}

#[test]
fn f4_a_replacement_that_dies_as_it_is_proven_is_proven_again_and_the_warm_one_beside_it_is_left_alone() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    bench.fail(Nature::FrontStuck);
    let Idle::Warm { release: wanted, .. } = bench.app.idle.clone() else { panic!("nothing is warm") };
    bench.fail(Nature::Transient);
    let proof = bench.awaited();
    let step = bench.dies(Green, wanted.id.clone());
    assert!(matches!(bench.app.idle, Idle::Warm { .. }), "{:?}", bench.app.idle);
    let probes =
        |action: &Action| matches!(action, Action::Probe { release, color: Green } if *release == wanted);
    assert!(step.effects.iter().any(|effect| probes(&effect.action)), "{:?}", step.effects);
    // The proof from before its death no longer counts.
    bench.end(proof, Ok(Done::Ensured));
    assert_eq!(bench.state(), "Replacing");
    let step = bench.fail(Nature::Deterministic);
    assert!(step.effects.iter().any(|effect| matches!(effect.action, Action::Start { color: Green, .. })));
    assert_eq!(bench.live(), Some((Green, 2)));
}

/// Commit 1 is live on blue; commit 2 has 25 % of the traffic, which a flip could not take back.
fn with_a_canary_that_the_front_holds() -> Bench {
    let mut bench = Bench::with_one_live();
    bench.policy.canary = vec![CanaryStep { share: Share::percent(25).unwrap(), hold: None }];
    bench.push(2);
    bench.run_to("Canary");
    bench.flip();
    assert_eq!(bench.state(), "Reverting");
    let step = bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    let replaces = |action: &Action| {
        matches!(action, Action::StandIn { color: Green, out, release }
            if out.as_str().contains("0000002") && release.commit == commit(1))
    };
    assert!(step.effects.iter().any(|effect| replaces(&effect.action)), "{:?}", step.effects);
    bench
}

/// The front takes the route that bgd sends beside a deploy.
fn take_the_route(bench: &mut Bench) {
    let told = bench.app.rerouting.expect("it is told again");
    if matches!(told.telling, Telling::Later { .. }) {
        bench.end(told.effect, Ok(Done::Ensured));
    }
    bench.end(bench.app.rerouting.unwrap().effect, Ok(Done::Ensured));
}

#[test]
fn f4_a_canary_whose_share_the_front_holds_is_replaced_by_the_live_release_until_the_front_was_told() {
    let mut bench = with_a_canary_that_the_front_holds();
    bench.succeed();
    assert_eq!((bench.state(), bench.outcomes().last()), ("Resting", Some(&Outcome::Cancelled)));
    assert_eq!((bench.live(), bench.routed(), bench.shared()), (Some((Blue, 1)), Some((Blue, 1)), None));
    let acted = bench.acts.len();
    let told = bench.app.rerouting.unwrap().effect;
    bench.end(told, Err(failure(Nature::FrontStuck)));
    let leaves = |action: &Action| matches!(action, Action::Drain { .. } | Action::Stop { .. });
    assert!(!bench.acts[acted..].iter().any(leaves), "the front still gives it traffic: {:?}", bench.acts);
    take_the_route(&mut bench);
    assert!(matches!(bench.acts.last(), Some(Action::Drain { color: Green })), "{:?}", bench.acts);
    bench.succeed();
    assert!(matches!(bench.acts.last(), Some(Action::Stop { color: Green, .. })), "{:?}", bench.acts);
    bench.succeed();
    assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 1)), &Idle::Vacant));
}

#[test]
fn f4_a_canary_that_fails_by_itself_is_replaced_too_and_a_share_that_is_just_told_as_well() {
    let mut bench = Bench::with_one_live();
    bench.policy.canary = vec![CanaryStep { share: Share::percent(25).unwrap(), hold: None }];
    bench.push(2);
    bench.run_to("Canary");
    bench.fail(Nature::Deterministic);
    bench.fail(Nature::Transient);
    assert_eq!(bench.state(), "Reverting", "only what is not ours to mend is done without");
    bench.succeed();
    bench.fail(Nature::FrontStuck);
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::RolledBack));
    assert!(matches!(bench.app.verdicts.get(&commit(2)), Some(Verdict::Bad { .. })));
    let mut bench = Bench::with_one_live();
    bench.policy.canary = vec![CanaryStep { share: Share::percent(25).unwrap(), hold: None }];
    bench.push(2);
    bench.run_to("Sharing");
    bench.flip();
    bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
}

#[test]
fn f4_a_deploy_waits_until_the_front_was_told_of_a_replaced_canary() {
    let mut bench = with_a_canary_that_the_front_holds();
    bench.succeed();
    bench.push(3);
    bench.run_to("Clearing");
    assert!(matches!(bench.app.idle, Idle::Warm { .. }), "{:?}", bench.app.idle);
    take_the_route(&mut bench);
    bench.run_to("Canary");
    assert_eq!((bench.live(), bench.shared()), (Some((Blue, 1)), Some((Green, 25))));
}

#[test]
fn f4_what_can_t_take_a_canary_s_place_is_tried_again_with_what_is_live_untouched() {
    let mut bench = with_a_canary_that_the_front_holds();
    bench.fail(Nature::Transient);
    let step = bench.fail(Nature::Deterministic);
    let touches = |action: &Action| matches!(action, Action::Start { .. } | Action::Stop { .. });
    assert!(!step.effects.iter().any(|effect| touches(&effect.action)), "{:?}", step.effects);
    assert_eq!((bench.state(), bench.live()), ("Reverting", Some((Blue, 1))));
    bench.succeed();
    bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    bench.succeed();
    assert_eq!(bench.state(), "Resting");
    // The front takes the route before that.
    let mut bench = with_a_canary_that_the_front_holds();
    bench.fail(Nature::Transient);
    bench.fail(Nature::Deterministic);
    bench.succeed();
    bench.succeed();
    assert_eq!(bench.state(), "Discarding");
    let step = bench.succeed();
    let drains = |action: &Action| matches!(action, Action::Drain { color: Green });
    assert!(step.effects.iter().any(|effect| drains(&effect.action)), "{:?}", step.effects);
}

#[test]
fn f4_a_crash_while_a_canary_is_replaced_tells_the_front_first_and_leaves_the_live_release_alone() {
    let share = Share::percent(25).unwrap();
    let mut bench = with_a_canary_that_the_front_holds();
    let live = bench.app.live().unwrap().clone();
    let mut facts = Facts {
        routed: Routed::Color(Blue),
        canary: Some((Green, share)),
        known: vec![live.release.clone()],
        ..Facts::default()
    };
    facts.running.extend([Blue, Green].map(|color| (color, live.release.id.clone())));
    bench.recover(facts.clone());
    assert_eq!((bench.state(), bench.app.live()), ("Reverting", Some(&live)));
    bench.fail(Nature::FrontStuck);
    bench.succeed();
    assert_eq!(bench.state(), "Resting");
    // And once more, before the front takes a route.
    let acted = bench.acts.len();
    bench.recover(facts.clone());
    let leaves = |action: &Action| matches!(action, Action::Drain { .. } | Action::Stop { .. });
    assert!(!bench.acts[acted..].iter().any(leaves), "{:?}", &bench.acts[acted..]);
    take_the_route(&mut bench);
    assert!(matches!(bench.acts.last(), Some(Action::Drain { color: Green })), "{:?}", bench.acts);
    // A reboot: the live release starts again, whatever becomes of the other color.
    let mut bench = with_a_canary_that_the_front_holds();
    facts.running.clear();
    let step = bench.recover(facts);
    let starts = |action: &Action| matches!(action, Action::Start { color: Blue, .. });
    assert!(step.effects.iter().any(|effect| starts(&effect.action)), "{:?}", step.effects);
}

#[test]
fn f4_what_stands_in_for_a_canary_and_is_given_all_by_a_hand_is_not_its_own_way_back() {
    let mut bench = with_a_canary_that_the_front_holds();
    bench.succeed();
    let way_back = bench.app.previous.clone();
    let facts = bench.facts(Routed::Color(Green));
    bench.recover(facts);
    assert_eq!((bench.live(), &bench.app.previous), (Some((Green, 1)), &way_back));
    take_the_route(&mut bench);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 1)));
}

/// Commit 1 is live on blue, which nginx could not be moved to: a stand-in on green, in commit 2's place, passes
/// requests on to it.
fn with_a_stand_in() -> Bench {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    bench.fail(Nature::FrontStuck);
    bench.succeed();
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Blue, 1))));
    bench
}

fn stands_in(action: &Action) -> bool {
    matches!(action, Action::StandIn { color: Green, release, .. } if release.commit == commit(1))
}

#[test]
fn n4_what_stands_in_is_put_there_again_when_it_dies_for_as_long_as_the_front_routes_there() {
    let mut bench = with_a_stand_in();
    let step = bench.warm_dies();
    assert!(step.effects.iter().any(|effect| stands_in(&effect.action)), "{:?}", step.effects);
    for _ in 0..3 {
        let effect = bench.app.standing_in.unwrap().effect;
        bench.end(effect, Err(failure(Nature::Transient)));
        let wait = bench.app.standing_in.unwrap();
        assert!(matches!(wait.telling, Telling::Later { .. }), "{wait:?}");
        let step = bench.end(wait.effect, Ok(Done::Ensured));
        assert!(step.effects.iter().any(|effect| stands_in(&effect.action)), "{:?}", step.effects);
    }
    bench.end(bench.app.standing_in.unwrap().effect, Ok(Done::Ensured));
    assert_eq!(bench.app.standing_in, None);
    take_the_route(&mut bench);
    bench.succeed();
    bench.succeed();
    assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 1)), &Idle::Vacant));
}

#[test]
fn n4_what_stands_in_is_no_way_back_of_its_own_and_a_restart_leaves_it_alone_or_puts_it_there_again() {
    let mut bench = with_a_stand_in();
    let facts = Facts { stands_in: Some(Green), ..bench.facts(Routed::Color(Green)) };
    let step = bench.recover(facts.clone());
    assert_eq!(bench.live(), Some((Blue, 1)), "what is passed on is answered there");
    assert!(bench.notes.iter().all(|note| !matches!(note, Note::Contradiction(_))), "{:?}", bench.notes);
    let leaves = |action: &Action| matches!(action, Action::Drain { .. } | Action::Stop { .. });
    assert!(!step.effects.iter().any(|effect| leaves(&effect.action)), "{:?}", step.effects);
    // A reboot: both start again.
    let step = bench.recover(Facts { running: Default::default(), stands_in: None, ..facts });
    assert!(step.effects.iter().any(|effect| stands_in(&effect.action)), "{:?}", step.effects);
    let starts = |action: &Action| matches!(action, Action::Start { color: Blue, .. });
    assert!(step.effects.iter().any(|effect| starts(&effect.action)), "{:?}", step.effects);
    assert!(!step.effects.iter().any(|effect| leaves(&effect.action)), "{:?}", step.effects);
}

#[test]
fn n4_what_dies_while_the_port_is_handed_to_it_is_started_again_where_it_ran() {
    let mut bench = Bench::with_two_live();
    bench.flip();
    bench.run_to("Switching");
    let wanted = bench.app.pipeline.release().unwrap().id.clone();
    bench.fail(Nature::FrontStuck);
    let color = bench.app.idle_color();
    bench.dies(color, wanted);
    let step = bench.succeed();
    let starts = |action: &Action| matches!(action, Action::Start { color: at, .. } if *at == color);
    assert!(step.effects.iter().any(|effect| starts(&effect.action)), "{:?}", step.effects);
    assert_eq!(bench.live(), Some((color, 1)));
}

#[test]
fn i5_a_second_flip_past_a_front_that_can_t_be_moved_is_refused_and_after_that_it_is_one() {
    let mut bench = Bench::with_two_live();
    bench.flip();
    bench.run_to("Switching");
    bench.fail(Nature::FrontStuck);
    bench.succeed();
    let answer = bench.flip();
    assert!(matches!(&answer, AskReply::Denied(why) if why.message.contains("can't be moved")), "{answer:?}");
    assert_eq!(bench.state(), "Resting");
    take_the_route(&mut bench);
    let answer = bench.flip();
    assert!(matches!(answer, AskReply::RollingBack(_)), "{answer:?}");
}
