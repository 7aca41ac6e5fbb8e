//! Workers follow the live release: asked for when the front is proven to route to it, and given back with the traffic.

use super::bench::{Bench, failure};
use crate::rules::{
    app::Idle,
    effect::Action,
    event::{Ask, Done, Event, Facts, Routed},
    ids::{Color, ReleaseId},
    words::{Nature, Outcome},
    workers::{WantedWorkers, WorkerSlot, WorkersOf},
};

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.policy.workers = true;
    bench
}

/// Commit 1 is live on blue.
fn one_live() -> Bench {
    let mut bench = bench();
    bench.push(1);
    bench.run_to("Resting");
    bench
}

/// Commit 2 is watched on green.
fn watching() -> Bench {
    let mut bench = one_live();
    bench.push(2);
    bench.run_to("Watching");
    bench
}

fn number(of: Option<&WorkersOf>) -> u32 {
    of.map_or(0, |of| u32::from_str_radix(of.release.commit.short(), 16).unwrap())
}

/// The commits of the workers last asked for, those that wait for the watch second; 0 for none. And whether the first
/// are to take no new work.
fn asked(bench: &Bench) -> (u32, u32, bool) {
    let last = bench.acts.iter().rev().find_map(|action| match action {
        Action::Workers(wanted) => Some(wanted),
        _ => None,
    });
    last.map_or((0, 0, false), |last| (number(last.live.as_ref()), number(last.watched.as_ref()), last.quiet))
}

fn times(bench: &Bench) -> usize {
    bench.acts.iter().filter(|action| matches!(action, Action::Workers(_))).count()
}

fn worker_dies(bench: &mut Bench, release: ReleaseId) {
    let worker = WorkerSlot { name: "queue".parse().unwrap(), index: 0 };
    let (how, last_words) = ("exit code 1".to_owned(), vec!["no such job".to_owned()]);
    bench.tell(&Event::WorkerDied { worker, release, how, last_words });
}

fn live_release(bench: &Bench) -> ReleaseId {
    bench.app.live().unwrap().release.id.clone()
}

#[test]
fn nothing_is_asked_for_without_workers() {
    let mut bench = Bench::with_two_live();
    bench.flip();
    bench.run_to("Resting");
    let facts = bench.facts(Routed::Color(Color::Blue));
    bench.recover(facts);
    assert_eq!(times(&bench), 0);
}

#[test]
fn workers_are_asked_for_when_the_switch_is_proven_and_not_before() {
    let mut bench = bench();
    bench.push(1);
    bench.run_to("Switching");
    assert_eq!(times(&bench), 0);
    bench.succeed();
    assert_eq!((bench.state(), asked(&bench)), ("Watching", (1, 0, false)));
    bench.succeed();
    assert_eq!(asked(&bench), (1, 1, false));
    bench.push(2);
    bench.run_to("Probing");
    assert_eq!((asked(&bench), times(&bench)), ((1, 1, false), 2), "the live one's work on");
    bench.run_to("Switching");
    assert_eq!(asked(&bench), (1, 1, true));
    bench.succeed();
    assert_eq!(asked(&bench), (2, 1, false), "those that wait for the watch stay with the former release");
    bench.run_to("Resting");
    assert_eq!(asked(&bench), (2, 2, false));
}

#[test]
fn a_release_that_is_never_healthy_gets_none() {
    let mut bench = one_live();
    bench.push(2);
    bench.run_to("Probing");
    bench.fail(Nature::Deterministic);
    bench.run_to("Resting");
    assert_eq!((asked(&bench), times(&bench)), ((1, 1, false), 2));
}

#[test]
fn a_switch_that_the_front_refuses_leaves_workers_that_take_work() {
    let mut bench = one_live();
    bench.push(2);
    bench.run_to("Switching");
    bench.fail(Nature::Transient);
    assert_eq!((bench.state(), asked(&bench)), ("Reverting", (1, 1, false)));
    bench.run_to("Resting");
    assert_eq!(asked(&bench), (1, 1, false));
}

#[test]
fn a_worker_that_dies_while_its_release_is_watched_takes_the_way_back() {
    let mut bench = watching();
    let release = live_release(&bench);
    worker_dies(&mut bench, release);
    assert_eq!((bench.state(), asked(&bench)), ("Reverting", (2, 1, true)));
    bench.succeed();
    assert_eq!(asked(&bench), (1, 1, false));
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.outcomes().pop()), (Some((Color::Blue, 1)), Some(Outcome::RolledBack)));
}

#[test]
fn the_former_release_is_started_again_before_the_workers_go_back_to_it() {
    let mut bench = watching();
    bench.warm_dies();
    bench.end(bench.idle_effect().unwrap(), Ok(Done::Ensured));
    let release = live_release(&bench);
    worker_dies(&mut bench, release);
    assert_eq!((bench.state(), asked(&bench)), ("Starting", (2, 1, false)));
    bench.run_to("Switching");
    assert_eq!(asked(&bench), (2, 1, true));
    bench.run_to("Resting");
    assert_eq!((bench.live(), asked(&bench)), (Some((Color::Blue, 1)), (1, 1, false)));
}

#[test]
fn a_worker_that_dies_otherwise_changes_nothing() {
    let mut first = bench();
    first.push(1);
    first.run_to("Watching");
    let release = live_release(&first);
    worker_dies(&mut first, release.clone());
    assert_eq!(first.state(), "Watching", "there is no way back");
    let mut bench = watching();
    worker_dies(&mut bench, release);
    assert_eq!(bench.state(), "Watching", "it was of the former release");
    bench.run_to("Resting");
    let release = live_release(&bench);
    worker_dies(&mut bench, release);
    assert_eq!((bench.state(), bench.live()), ("Resting", Some((Color::Green, 2))));
}

#[test]
fn a_front_that_refuses_the_way_back_for_long_leaves_workers_that_take_work() {
    let mut bench = watching();
    bench.fail(Nature::Deterministic);
    assert_eq!((bench.state(), asked(&bench)), ("Reverting", (2, 1, true)));
    bench.fail(Nature::Transient);
    assert_eq!(asked(&bench), (2, 1, false));
    bench.succeed();
    bench.fail(Nature::Transient);
    assert_eq!(asked(&bench), (2, 1, false), "nor when it is asked again");
}

#[test]
fn a_flip_gives_the_work_back() {
    let mut bench = watching();
    bench.run_to("Resting");
    bench.flip();
    assert_eq!(asked(&bench), (2, 2, false));
    bench.run_to("Switching");
    assert_eq!(asked(&bench), (2, 2, true));
    bench.succeed();
    assert_eq!(asked(&bench), (1, 1, false));
}

#[test]
fn down_sends_them_away_once_the_traffic_is_and_up_brings_them_back() {
    let mut bench = watching();
    bench.ask(Ask::Down);
    assert_eq!(asked(&bench), (2, 1, false));
    while bench.state() != "TakingDown" {
        bench.succeed();
    }
    assert_eq!(asked(&bench), (2, 1, false));
    bench.succeed();
    assert_eq!(asked(&bench), (0, 0, false));
    bench.run_to("Resting");
    assert!(bench.is_out_of_service());
    bench.ask(Ask::Up);
    bench.run_to("Switching");
    assert_eq!(asked(&bench), (0, 0, false));
    bench.run_to("Resting");
    assert_eq!(asked(&bench), (2, 2, false));
}

#[test]
fn a_restart_asks_for_them_again_and_a_file_without_them_sends_them_away() {
    let mut bench = one_live();
    let before = times(&bench);
    let facts = bench.facts(Routed::Color(Color::Blue));
    bench.recover(facts.clone());
    assert_eq!((asked(&bench), times(&bench)), ((1, 1, false), before + 1));
    bench.policy.workers = false;
    bench.recover(facts.clone());
    assert_eq!((asked(&bench), times(&bench)), ((0, 0, false), before + 2));
    bench.recover(facts.clone());
    assert_eq!(times(&bench), before + 2, "none are left");
    bench.recover(Facts { workers: true, ..facts });
    assert_eq!((asked(&bench), times(&bench)), ((0, 0, false), before + 3));
    assert_eq!(bench.app.workers, WantedWorkers::default());
}

#[test]
fn a_restart_while_the_release_is_watched_leaves_the_workers_that_wait_for_its_end() {
    let mut bench = watching();
    let facts = bench.facts(Routed::Color(Color::Green));
    bench.recover(facts);
    assert_eq!((bench.state(), asked(&bench)), ("Watching", (2, 1, false)));
    let former = bench.app.workers.watched.clone().unwrap().release.id;
    assert!(bench.app.needed_releases().contains(&former));
}

#[test]
fn when_a_worker_has_left_its_release_may_go() {
    let mut bench = watching();
    bench.run_to("Resting");
    bench.push(3);
    bench.run_to("Resting");
    let prunes = |bench: &Bench| bench.acts.iter().filter(|it| matches!(it, Action::Prune { .. })).count();
    let (before, needed) = (prunes(&bench), live_release(&bench));
    bench.tell(&Event::WorkerLeft { release: needed });
    assert_eq!(prunes(&bench), before);
    let gone: ReleaseId = "20261121T101112Z-1-0000001".parse().unwrap();
    bench.tell(&Event::WorkerLeft { release: gone.clone() });
    assert_eq!(prunes(&bench), before + 1);
    bench.push(4);
    bench.run_to("Probing");
    bench.tell(&Event::WorkerLeft { release: gone });
    assert_eq!(prunes(&bench), before + 1, "the end of the deploy does so");
    assert!(matches!(bench.app.idle, Idle::Taken));
}

#[test]
fn a_refused_switch_of_a_flip_keeps_them() {
    let mut bench = watching();
    bench.run_to("Resting");
    bench.flip();
    bench.run_to("Switching");
    bench.end(bench.awaited(), Err(failure(Nature::Transient)));
    bench.run_to("Resting");
    assert_eq!((bench.live(), asked(&bench)), (Some((Color::Green, 2)), (2, 2, false)));
}
