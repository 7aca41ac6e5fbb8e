//! After a crash or a restart: the record and the facts of the world, in every state that a deploy can be found in.

use super::bench::{Bench, commit, failure};
use crate::rules::{
    app::{Idle, Instance, Serving},
    effect::{Action, Note},
    event::{Ask, Done, Event, Facts, Routed},
    ids::Color::{Blue, Green},
    step::Step,
    words::{Nature, Outcome},
};

/// A second deploy, in every state that it can be found in.
fn in_every_state() -> Vec<(&'static str, Bench)> {
    let mut found = Vec::new();
    let states = [
        "Fetching",
        "CheckingOut",
        "Building",
        "Hooking",
        "Starting",
        "Probing",
        "Switching",
        "Watching",
        "Retiring",
    ];
    for state in states {
        let mut bench = Bench::with_one_live();
        bench.policy.before_start = true;
        bench.push(2);
        bench.run_to(state);
        found.push((state, bench));
    }
    for (state, from) in [("Discarding", "Probing"), ("Reverting", "Watching"), ("Reverting", "Switching")] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to(from);
        bench.fail(Nature::Deterministic);
        assert_eq!(bench.state(), state);
        found.push((state, bench));
    }
    found
}

fn come_to_rest(bench: &mut Bench) {
    for _ in 0..40 {
        if let Some(rerouting) = bench.app.rerouting {
            bench.end(rerouting.effect, Ok(crate::rules::event::Done::Ensured));
        } else if let Some(effect) = bench.live_effect() {
            bench.end(effect, Ok(crate::rules::event::Done::Ensured));
        } else if bench.state() != "Resting" || bench.idle_effect().is_some() {
            bench.succeed();
        }
    }
}

#[test]
fn k2_a_crash_in_every_state_ends_with_the_old_or_the_new_release_live_and_the_other_color_vacant() {
    for routed in [Routed::Color(Blue), Routed::Color(Green), Routed::Nothing, Routed::Unknown] {
        for runs in [true, false] {
            for (state, mut bench) in in_every_state() {
                let mut facts = bench.facts(routed);
                if !runs {
                    facts.running.clear();
                }
                let case = format!("{state}, routed {routed:?}, runs {runs}");
                bench.recover(facts);
                assert!(bench.app.live().is_some(), "{case}");
                come_to_rest(&mut bench);
                assert_eq!(bench.state(), "Resting", "{case}");
                assert_eq!(bench.app.idle, Idle::Vacant, "{case}");
                let live = bench.live().unwrap();
                assert!(
                    live == (Blue, 1) || live.0 == Green && live.1 == 2 || live == (Blue, 2),
                    "{case}: {live:?}"
                );
                assert!(matches!(bench.app.live().unwrap().instance, Instance::Up { .. }), "{case}");
                assert_eq!(bench.app.rerouting, None, "{case}");
            }
        }
    }
}

#[test]
fn no_effect_is_asked_for_twice_in_one_recovery() {
    for routed in [Routed::Color(Blue), Routed::Color(Green), Routed::Nothing] {
        for runs in [true, false] {
            for (state, mut bench) in in_every_state() {
                let mut facts = bench.facts(routed);
                if !runs {
                    facts.running.clear();
                }
                let made = bench.recover(facts);
                let actions: Vec<_> =
                    made.effects.iter().map(|effect| format!("{:?}", effect.action)).collect();
                let mut once = actions.clone();
                once.sort();
                once.dedup();
                assert_eq!(once.len(), actions.len(), "{state}, {routed:?}, {runs}: {actions:#?}");
            }
        }
    }
}

#[test]
fn f3_after_a_restart_nothing_is_stopped_before_a_half_told_front_is_told_again() {
    for (state, mut bench) in in_every_state() {
        let facts = Facts { half_told: true, ..bench.facts(Routed::Color(Blue)) };
        let made = bench.recover(facts);
        let idle = bench.app.idle_color();
        let ends = made.effects.iter().find(|effect| match effect.action {
            Action::Drain { color } | Action::Stop { color, .. } => color == idle,
            _ => false,
        });
        assert_eq!(ends, None, "{state}");
        come_to_rest(&mut bench);
        assert_eq!((bench.state(), &bench.app.idle), ("Resting", &Idle::Vacant), "{state}");
    }
}

#[test]
fn f3_a_way_back_that_is_none_any_more_is_not_believed_in_after_a_restart_either() {
    let mut bench = Bench::with_one_live();
    let former = bench.app.live().unwrap().release.clone();
    bench.push(2);
    bench.run_to("Watching");
    bench.flip();
    bench.dies(Blue, former.id.clone());
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Green, 2))), "it stays where it is");
    let mut facts = Facts { known: vec![former.clone()], ..bench.facts(Routed::Color(Blue)) };
    facts.running.insert(Blue, former.id);
    bench.recover(facts);
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Green, 2))));
    bench.succeed();
    assert_eq!(bench.live(), Some((Green, 2)));
}

#[test]
fn a_crash_after_the_front_switched_rolls_forward_and_one_before_switches_again() {
    for (routed, state) in [(Green, "Watching"), (Blue, "Switching")] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to("Switching");
        bench.recover(bench.facts(Routed::Color(routed)));
        assert_eq!(bench.state(), state);
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Green, 2)));
    }
}

#[test]
fn a_new_instance_that_is_gone_in_the_switch_is_left_for_the_old() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Switching");
    let mut facts = bench.facts(Routed::Color(Green));
    facts.running.remove(&Green);
    bench.recover(facts);
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    bench.run_to("Resting");
    assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::Failed]);
}

#[test]
fn a_watched_instance_that_is_gone_is_left_for_the_warm_one_at_once() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    let mut facts = bench.facts(Routed::Color(Green));
    facts.running.remove(&Green);
    let made = bench.recover(facts);
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    assert!(!made.effects.iter().any(|effect| matches!(effect.action, Action::Start { .. })));
}

#[test]
fn k5_after_a_reboot_the_live_release_is_started_where_the_front_routes() {
    let mut bench = Bench::with_two_live();
    bench.recover(Facts { routed: Routed::Color(Green), ..Facts::default() });
    let Some(Action::Start { release, color }) = bench.acts.last() else { panic!("not started") };
    assert_eq!((&release.commit, *color), (&commit(2), Green));
}

#[test]
fn a_build_whose_verdict_is_there_is_asked_for_and_a_lost_one_begins_again() {
    for (left, state) in [(true, "Building"), (false, "CheckingOut")] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to("Building");
        let mut facts = bench.facts(Routed::Color(Blue));
        if left {
            facts.builds.push(bench.app.pipeline.release().unwrap().id.clone());
        }
        bench.recover(facts);
        assert_eq!(bench.state(), state);
    }
}

#[test]
fn f3_what_the_front_routes_is_live_even_against_the_record() {
    let mut bench = Bench::with_two_live();
    let former = bench.app.previous.clone().unwrap();
    let mut facts = bench.facts(Routed::Color(Blue));
    facts.running.insert(Blue, former.id.clone());
    facts.known.push(former);
    bench.recover(facts);
    assert_eq!(bench.live(), Some((Blue, 1)));
    assert!(bench.notes.iter().any(|note| matches!(note, Note::Contradiction(_))));
    assert!(!bench.acts.iter().rev().take(2).any(|act| matches!(act, Action::Stop { color: Blue, .. })));
    // The manual move was meant: the next poll does not undo it.
    assert!(bench.app.hold.is_some() && bench.state() == "Resting", "{:?}", bench.app.hold);
}

#[test]
fn a_front_that_routes_to_nobody_is_told_what_is_live() {
    for routed in [Routed::Color(Blue), Routed::Nothing, Routed::Unknown] {
        let mut bench = Bench::with_two_live();
        bench.recover(bench.facts(routed));
        assert_eq!(bench.routed(), Some((Green, 2)));
        assert!(bench.app.rerouting.is_some());
    }
}

#[test]
fn k6_a_lost_record_is_rebuilt_from_what_the_front_routes() {
    let old = Bench::with_two_live();
    let release = old.app.live().unwrap().release.clone();
    let mut bench = Bench::new();
    let mut facts = old.facts(Routed::Color(Green));
    facts.known.push(release);
    bench.recover(facts);
    assert_eq!(bench.live(), Some((Green, 2)));
    bench.push(2);
    assert_eq!(bench.state(), "Resting");
}

#[test]
fn an_orphan_on_the_idle_color_is_stopped_and_a_claimed_instance_is_not() {
    let mut bench = Bench::with_two_live();
    let former = bench.app.previous.clone().unwrap();
    let mut facts = bench.facts(Routed::Color(Green));
    facts.running.insert(Blue, former.id.clone());
    bench.recover(facts);
    assert!(matches!(&bench.app.idle, Idle::Stopping { release, .. } if release.id == former.id));

    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Probing");
    let made = bench.recover(bench.facts(Routed::Color(Blue)));
    assert!(!made.effects.iter().any(|effect| matches!(effect.action, Action::Stop { .. })));
}

#[test]
fn down_under_way_goes_on_after_a_crash_and_starts_nothing() {
    for steps in 0..3 {
        for runs in [true, false] {
            let mut bench = Bench::with_one_live();
            bench.ask(crate::rules::event::Ask::Down);
            for _ in 0..steps {
                bench.succeed();
            }
            let mut facts = bench.facts(Routed::Nothing);
            if !runs {
                facts.running.clear();
            }
            let made = bench.recover(facts);
            assert!(!made.effects.iter().any(|effect| matches!(effect.action, Action::Start { .. })));
            bench.run_to("Resting");
            assert!(matches!(bench.app.serving, Serving::OutOfService(_)));
        }
    }
}

#[test]
fn what_an_operator_decided_survives_a_crash() {
    let mut bench = Bench::with_two_live();
    bench.flip();
    bench.run_to("Resting");
    bench.recover(bench.facts(Routed::Color(Blue)));
    bench.push(2);
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Blue, 1))));
}

#[test]
fn f6_a_front_that_a_hand_switched_is_told_properly_what_is_live_since() {
    let mut bench = Bench::with_one_live();
    bench.policy.standby = std::time::Duration::from_secs(60);
    bench.push(2);
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Green, 2)));
    bench.recover(bench.facts(Routed::Color(Blue)));
    assert_eq!((bench.live(), bench.routed()), (Some((Blue, 1)), Some((Blue, 1))));
    assert!(bench.app.rerouting.is_some());
}

#[test]
fn f6_a_front_that_was_being_told_as_bgd_died_is_told_again_although_it_routes_right() {
    let mut bench = Bench::with_one_live();
    bench.tell(&Event::FrontRestarted);
    let told = bench.app.generation;
    bench.recover(bench.facts(Routed::Color(Blue)));
    assert_eq!(bench.routed(), Some((Blue, 1)));
    assert!(bench.app.rerouting.is_some() && bench.app.generation > told);
}

#[test]
fn f6_a_front_whose_file_is_ahead_of_it_is_told_again_although_it_routes_right() {
    let mut bench = Bench::with_one_live();
    bench.recover(Facts { half_told: true, ..bench.facts(Routed::Color(Blue)) });
    assert_eq!(bench.routed(), Some((Blue, 1)));
    assert!(bench.app.rerouting.is_some());
}

/// An unrecorded flip (full disk): commit 1 was put on green, in the place of commit 2.
fn replaced_without_a_record(bench: &Bench, routed: Routed) -> Facts {
    let mut facts = bench.facts(routed);
    let warm = match &bench.app.idle {
        Idle::Warm { release, .. } => Some(release.clone()),
        Idle::Vacant | Idle::Taken | Idle::Draining { .. } | Idle::Stopping { .. } => None,
    };
    let former = warm.or(bench.app.previous.clone()).unwrap();
    facts.running.insert(Green, former.id.clone());
    facts.known.push(former);
    facts
}

#[test]
fn k2_what_took_the_place_of_the_live_release_without_a_record_serves_on() {
    for routed in [Routed::Color(Green), Routed::Nothing, Routed::Unknown] {
        for state in ["Resting", "Watching", "Reverting"] {
            let mut bench = Bench::with_one_live();
            bench.push(2);
            bench.run_to("Watching");
            match state {
                "Reverting" => drop(bench.flip()),
                state => bench.run_to(state),
            }
            assert_eq!(bench.state(), state);
            let step = bench.recover(replaced_without_a_record(&bench, routed));
            let case = format!("{state}, routed {routed:?}");
            assert_eq!(bench.live(), Some((Green, 1)), "{case}");
            let touches =
                |action: &Action| matches!(action, Action::Start { .. } | Action::Stop { color: Green, .. });
            assert!(!step.effects.iter().any(|effect| touches(&effect.action)), "{case}: {:?}", step.effects);
            assert!(bench.app.hold.is_some(), "{case}: commit 2 would come back by itself");
            come_to_rest(&mut bench);
            assert_eq!((bench.state(), &bench.app.idle), ("Resting", &Idle::Vacant), "{case}");
            assert_eq!(
                bench.app.previous.as_ref().map(|release| &release.commit),
                Some(&commit(2)),
                "{case}"
            );
        }
    }
}

#[test]
fn d1_what_a_flip_without_a_record_left_on_the_color_of_a_deploy_is_stopped_once_the_traffic_is_proven_elsewhere()
 {
    for routed in [Routed::Color(Blue), Routed::Color(Green), Routed::Nothing, Routed::Unknown] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to("Switching");
        let mut facts = bench.facts(routed);
        let left = bench.app.live().unwrap().release.clone();
        facts.running.insert(Green, left.id.clone());
        let stops = |step: &Step| {
            let its = |action: &Action| matches!(action, Action::Stop { color: Green, release } if *release == left.id);
            step.effects.iter().any(|effect| its(&effect.action))
        };
        let step = bench.recover(facts);
        assert!(bench.state() == "Reverting" && !stops(&step), "{routed:?}: {:?}", step.effects);
        // The traffic is back on blue; the deploy's own instance is discarded; green drains.
        for _ in 0..3 {
            assert!(!matches!(bench.app.idle, Idle::Vacant | Idle::Stopping { .. }), "{routed:?}");
            assert!(!stops(&bench.succeed()) || bench.state() == "Resting", "{routed:?}");
        }
        assert!(
            matches!(&bench.app.idle, Idle::Stopping { release, .. } if release.id == left.id),
            "{routed:?}"
        );
        come_to_rest(&mut bench);
        assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 1)), &Idle::Vacant), "{routed:?}");
    }
}

#[test]
fn d1_what_a_flip_without_a_record_started_in_the_place_of_a_deploy_goes_before_that_starts() {
    for state in ["Starting", "Probing", "Warming"] {
        let mut bench = Bench::with_two_live();
        bench.policy.warmup = true;
        bench.push(3);
        bench.run_to(state);
        let mut facts = bench.facts(Routed::Color(Green));
        let left = bench.app.previous.clone().unwrap();
        facts.running.insert(Blue, left.id.clone());
        bench.recover(facts);
        let named = matches!(&bench.app.idle, Idle::Stopping { release, .. } if *release == left);
        assert!(named, "{state}: {:?}", bench.app.idle);
        // A start would stop it without asking the front, and a deploy cancelled before its start would leave it.
        assert_eq!(bench.state(), "Clearing", "{state}");
        come_to_rest(&mut bench);
        assert_eq!((bench.live(), &bench.app.idle), (Some((Blue, 3)), &Idle::Vacant), "{state}");
    }
}

#[test]
fn a_watched_instance_that_is_gone_is_started_again_where_the_warm_one_dies_on_the_way_back() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("Watching");
    let mut facts = bench.facts(Routed::Color(Green));
    facts.running.remove(&Green);
    bench.recover(facts);
    assert_eq!((bench.state(), bench.routed()), ("Reverting", Some((Blue, 1))));
    bench.warm_dies();
    bench.succeed();
    assert!(!matches!(bench.app.live().unwrap().instance, Instance::Up { .. } | Instance::Dead));
    assert!(bench.live_effect().is_some());
}

#[test]
fn f6_nothing_is_started_where_a_front_that_was_half_told_may_route_to() {
    for state in ["Starting", "Probing"] {
        let mut bench = Bench::with_one_live();
        bench.push(2);
        bench.run_to(state);
        bench.recover(Facts { half_told: true, ..bench.facts(Routed::Color(Blue)) });
        assert_eq!(bench.state(), "Clearing", "{state}");
        bench.end(bench.app.rerouting.unwrap().effect, Ok(Done::Ensured));
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Green, 2)));
    }
}

#[test]
fn b10_what_was_built_without_a_record_is_not_checked_out_anew_under_its_old_verdict() {
    let mut bench = Bench::with_one_live();
    bench.push(2);
    bench.run_to("CheckingOut");
    let built = bench.app.pipeline.release().unwrap().id.clone();
    bench.recover(Facts { builds: vec![built], ..bench.facts(Routed::Color(Blue)) });
    assert_eq!(bench.state(), "Building");
}

#[test]
fn f6_a_front_that_was_half_told_to_route_again_is_turned_away_once_more_before_the_stop() {
    let mut bench = Bench::with_one_live();
    bench.ask(Ask::Down);
    bench.succeed();
    assert_eq!(bench.state(), "TakingDown");
    bench.recover(Facts { half_told: true, ..bench.facts(Routed::Nothing) });
    assert!(matches!(bench.acts.last(), Some(Action::Route { to: None, .. })), "{:?}", bench.acts.last());
    bench.run_to("Resting");
    assert!(bench.is_out_of_service());
}

#[test]
fn f6_a_front_that_keeps_a_stop_from_being_done_where_nothing_is_live_is_told_so() {
    let mut bench = Bench::new();
    bench.push(1);
    bench.run_to("Probing");
    // A switch and a flip back without a record, and the front was interrupted half way.
    bench.recover(bench.facts(Routed::Unknown));
    bench.flip();
    assert_eq!((bench.state(), bench.app.rerouting), ("Discarding", None));
    bench.fail(Nature::Transient);
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "{:?}", bench.app.idle);
    let told = bench.app.rerouting.expect("it is told").effect;
    bench.succeed();
    bench.fail(Nature::Transient);
    assert_eq!(bench.app.rerouting.map(|it| it.effect), Some(told), "once is enough");
    bench.end(told, Ok(Done::Ensured));
    bench.succeed();
    bench.succeed();
    assert_eq!((&bench.app.idle, bench.routed(), bench.live()), (&Idle::Vacant, None, None));
}

#[test]
fn what_is_found_beside_an_app_that_is_taken_down_goes_first() {
    for stoppable in [true, false] {
        let mut bench = Bench::with_two_live();
        bench.ask(Ask::Down);
        assert_eq!(bench.state(), "TakingDown");
        let former = bench.app.previous.clone().unwrap();
        let mut facts = bench.facts(Routed::Color(Green));
        facts.running.insert(Blue, former.id.clone());
        facts.known.push(former);
        bench.recover(facts);
        assert!(matches!(bench.app.idle, Idle::Stopping { .. }), "{:?}", bench.app.idle);
        assert_eq!((bench.state(), bench.app.down_wanted), ("Resting", true));
        if stoppable {
            bench.succeed();
            bench.run_to("TakingDown");
            while !bench.is_out_of_service() {
                bench.succeed();
            }
        } else {
            bench.end(bench.idle_effect().unwrap(), Err(failure(Nature::Transient)));
            assert_eq!((bench.live(), bench.app.down_wanted), (Some((Green, 2)), false));
        }
    }
}
