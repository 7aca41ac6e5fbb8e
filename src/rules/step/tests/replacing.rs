//! The way back when the front can't be moved (promise F4).

use super::bench::{Bench, commit};
use crate::rules::{
    app::{Idle, Verdict},
    effect::Action,
    event::{Event, Facts, Routed},
    ids::Color::Green,
    step::Answer,
    words::{Nature, Outcome},
};

#[test]
fn f4_a_flip_that_the_front_refuses_puts_the_wanted_release_in_the_place_of_the_bad_one() {
    let mut bench = Bench::with_two_live();
    let (color, _) = bench.live().unwrap();
    assert!(matches!(bench.flip(), Answer::RollingBack(_)));
    bench.run_to("Switching");
    let step = bench.fail(Nature::FrontStuck);
    assert_eq!(bench.state(), "Replacing");
    let replaces = |action: &Action| matches!(action, Action::Replace { color: at, release, .. } if *at == color && release.commit == commit(1));
    assert!(step.effects.iter().any(|effect| replaces(&effect.action)), "{:?}", step.effects);
    bench.succeed();
    assert_eq!(bench.live(), Some((color, 1)));
    assert!(matches!(bench.app.idle, Idle::Stopping { .. }), "its first instance goes");
    bench.run_to("Resting");
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
    assert_eq!(bench.live(), Some((Green, 1)));
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Cancelled));
}

#[test]
fn f4_a_replacement_that_does_not_start_brings_back_what_it_stopped() {
    let mut bench = Bench::with_two_live();
    let before = bench.live();
    bench.flip();
    bench.run_to("Switching");
    bench.fail(Nature::FrontStuck);
    let step = bench.fail(Nature::Deterministic);
    assert!(step.effects.iter().any(|effect| matches!(effect.action, Action::Start { .. })));
    assert_eq!(bench.live(), before);
    bench.run_to("Resting");
    assert_eq!(bench.outcomes().last(), Some(&Outcome::Failed));
}

#[test]
fn f4_nothing_is_replaced_while_it_is_not_known_where_the_front_routes() {
    let mut bench = Bench::with_two_live();
    let before = bench.live();
    bench.flip();
    bench.run_to("Switching");
    // The route that was under way is called off, and may have come true.
    bench.tell(&Event::FrontRestarted);
    let step = bench.fail(Nature::FrontStuck);
    assert_ne!(bench.state(), "Replacing");
    let stops = |action: &Action| matches!(action, Action::Stop { .. } | Action::Replace { .. });
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
    let proof = bench.awaited();
    let step = bench.dies(Green, wanted.id.clone());
    assert!(matches!(bench.app.idle, Idle::Warm { .. }), "{:?}", bench.app.idle);
    let probes =
        |action: &Action| matches!(action, Action::Probe { release, color: Green } if *release == wanted);
    assert!(step.effects.iter().any(|effect| probes(&effect.action)), "{:?}", step.effects);
    // Proven before it died: that no longer counts.
    bench.end(proof, Ok(crate::rules::event::Done::Ensured));
    assert_eq!(bench.state(), "Replacing");
    let step = bench.fail(Nature::Deterministic);
    assert!(step.effects.iter().any(|effect| matches!(effect.action, Action::Start { color: Green, .. })));
    assert_eq!(bench.live(), Some((Green, 2)));
}
