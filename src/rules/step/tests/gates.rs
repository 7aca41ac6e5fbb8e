//! Gates: what they keep back, what goes through them, and what is told of them.

use super::{
    super::{Blocked, wanted},
    bench::{Bench, commit},
};
use crate::rules::{
    effect::Note,
    event::{Ask, Event, Want},
    gate::{Gate, GateLook},
    ids::Color::Blue,
    words::{GateKind, Nature, Outcome},
};

fn gate(kind: GateKind, number: u32) -> Gate {
    Gate::new(kind, &commit(number), format!("{number} waits"))
}

/// A look at the tip `head`, with these gates closed and this older commit open.
fn look(bench: &Bench, head: u32, closed: &[GateKind], passes: Option<u32>) -> Event {
    let passes = if closed.is_empty() { Some(head) } else { passes };
    Event::GatesSeen(Box::new(GateLook {
        head: Some(commit(head)),
        live: bench.app.live().map(|live| live.release.commit.clone()),
        closed: closed.iter().map(|kind| gate(*kind, head)).collect(),
        passes: passes.map(commit),
        until: None,
        settings: 0,
    }))
}

fn told(bench: &Bench) -> Vec<(&'static str, GateKind)> {
    let word = |note: &Note| match note {
        Note::GateClosed(gate) => Some(("closed", gate.kind)),
        Note::GateOpened(gate) => Some(("opened", gate.kind)),
        _ => None,
    };
    bench.notes.iter().filter_map(word).collect()
}

#[test]
fn a_closed_window_keeps_a_push_back_and_the_newest_goes_when_it_opens() {
    let mut bench = Bench::with_one_live();
    for head in [2, 2, 3] {
        bench.tell(&look(&bench, head, &[GateKind::Window], None));
        assert_eq!(bench.state(), "Resting");
        assert_eq!(wanted(&bench.app, bench.now), Err(Blocked::Gate));
    }
    bench.tell(&look(&bench, 3, &[], None));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue.other(), 3)));
    assert_eq!(told(&bench), [("closed", GateKind::Window), ("opened", GateKind::Window)]);
}

#[test]
fn a_deploy_under_way_when_a_window_closes_goes_on() {
    for phase in ["Fetching", "Building", "Probing", "Switching", "Watching"] {
        let mut bench = Bench::with_one_live();
        bench.tell(&look(&bench, 2, &[], None));
        bench.run_to(phase);
        bench.tell(&look(&bench, 2, &[GateKind::Window], None));
        bench.run_to("Resting");
        assert_eq!(bench.live(), Some((Blue.other(), 2)), "{phase}");
        assert_eq!(bench.outcomes(), [Outcome::Live, Outcome::Live], "{phase}");
    }
}

#[test]
fn the_newest_commit_that_passes_goes_live_and_a_red_one_is_not_marked_bad() {
    let mut bench = Bench::with_one_live();
    bench.tell(&look(&bench, 4, &[GateKind::Command], Some(3)));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue.other(), 3)));
    // What was said of the commits after the former release tells nothing now.
    assert_eq!(wanted(&bench.app, bench.now), Err(Blocked::GatesUnasked));
    bench.tell(&look(&bench, 4, &[GateKind::Command], None));
    assert_eq!(wanted(&bench.app, bench.now), Err(Blocked::Gate));
    assert!(bench.app.verdicts.is_empty() && bench.app.hold.is_none());
    // A passing commit that fails is not tried again.
    bench.tell(&look(&bench, 5, &[GateKind::Command], Some(4)));
    bench.run_to("Building");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    bench.tell(&look(&bench, 5, &[GateKind::Command], Some(4)));
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Blue.other(), 3))));
}

#[test]
fn a_deploy_by_hand_passes_the_gates_and_the_record_says_which() {
    let mut bench = Bench::with_one_live();
    bench.tell(&look(&bench, 2, &[GateKind::Skip, GateKind::Freeze], None));
    bench.ask(Ask::Deploy(Want::Tip));
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue.other(), 2)));
    let passed = bench.notes.iter().filter_map(|note| match note {
        Note::GatesPassed(kinds) => Some(kinds.as_slice()),
        _ => None,
    });
    assert_eq!(passed.collect::<Vec<_>>(), [[GateKind::Skip, GateKind::Freeze]]);
    bench.tell(&look(&bench, 2, &[GateKind::Freeze], None));
    assert!(!told(&bench).iter().any(|(word, _)| *word == "opened"), "{:?}", told(&bench));
    // The way back asks no gate.
    bench.flip();
    bench.run_to("Resting");
    assert_eq!(bench.live(), Some((Blue, 1)));
}
