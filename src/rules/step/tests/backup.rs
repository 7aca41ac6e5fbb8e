//! The former release as the backup of the watched one: added with the switch, and removed before its color is emptied
//! or used again.

use std::time::Duration;

use super::bench::{Bench, failure};
use crate::rules::{
    app::{Backup, Idle},
    effect::Action,
    event::{Done, Event, Facts, Routed},
    ids::Color::{Blue, Green},
    words::{Nature, Outcome},
};

/// Commit 2 is watched on green, with commit 1 as its backup.
fn watching() -> Bench {
    let mut bench = Bench::with_one_live();
    bench.policy.backup = true;
    bench.push(2);
    bench.run_to("Watching");
    bench
}

#[test]
fn the_former_release_is_behind_the_new_one_for_the_watch_and_is_gone_before_it_drains() {
    let mut bench = watching();
    assert_eq!((bench.routed(), bench.backup()), (Some((Green, 2)), Some(Blue)));
    bench.succeed();
    assert_eq!((bench.state(), bench.routed(), bench.backup()), ("Retiring", Some((Green, 2)), None));
    let warm = |bench: &Bench| matches!(bench.app.idle, Idle::Warm { .. });
    assert!(warm(&bench), "not before the front has proven it: {:?}", bench.app.idle);
    let effect = bench.app.rerouting.unwrap().effect;
    bench.end(effect, Err(failure(Nature::Transient)));
    assert!(warm(&bench) && bench.state() == "Retiring", "{:?}", bench.app.idle);
    bench.rerouted();
    assert!(warm(&bench), "that was the wait before the next try");
    bench.rerouted();
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "{:?}", bench.app.idle);
    bench.run_to("Resting");
    assert_eq!((bench.outcomes(), bench.app.backup), (vec![Outcome::Live, Outcome::Live], Backup::Absent));
}

#[test]
fn a_color_that_is_kept_warm_is_no_backup_after_the_watch() {
    let mut bench = watching();
    bench.policy.standby = Duration::from_secs(60);
    bench.succeed();
    assert_eq!((bench.state(), bench.backup()), ("Resting", None));
    assert!(matches!(bench.app.idle, Idle::Warm { timer: Some(_), .. }));
    // The standby ends before the front has taken the route.
    let timer = bench.idle_effect().unwrap();
    bench.end(timer, Ok(Done::Ensured));
    assert!(matches!(bench.app.idle, Idle::Warm { timer: None, .. }), "{:?}", bench.app.idle);
    bench.rerouted();
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "{:?}", bench.app.idle);
}

#[test]
fn nothing_is_started_on_the_color_of_a_backup_that_died() {
    let mut bench = watching();
    bench.warm_dies();
    bench.succeed();
    bench.end(bench.idle_effect().unwrap(), Ok(Done::Ensured));
    bench.push(3);
    bench.run_to("Clearing");
    let rerouting = bench.app.rerouting.unwrap().effect;
    bench.tell(&Event::Ticked);
    assert_eq!((bench.state(), bench.app.idle.clone()), ("Clearing", Idle::Vacant));
    bench.end(rerouting, Ok(Done::Ensured));
    assert_eq!(bench.state(), "Starting");
}

#[test]
fn the_way_back_has_no_backup() {
    let mut bench = watching();
    bench.live_dies();
    assert_eq!((bench.state(), bench.routed(), bench.backup()), ("Reverting", Some((Blue, 1)), None));
    bench.succeed();
    assert!(matches!(bench.app.idle, Idle::Draining { .. }), "{:?}", bench.app.idle);
    bench.run_to("Resting");
    assert_eq!(bench.app.backup, Backup::Absent);
    assert_eq!(bench.acts.iter().filter(|act| matches!(act, Action::Route { .. })).count(), 3);
}

#[test]
fn a_front_that_is_told_again_during_the_watch_is_told_of_the_backup() {
    let mut bench = watching();
    bench.tell(&Event::FrontRestarted);
    assert_eq!((bench.routed(), bench.backup()), (Some((Green, 2)), Some(Blue)));
    bench.policy.backup = false;
    bench.tell(&Event::FrontRestarted);
    assert_eq!((bench.backup(), bench.app.backup), (None, Backup::Withdrawn));
}

#[test]
fn a_backup_that_no_record_names_is_taken_down_after_a_restart() {
    let mut bench = Bench::with_two_live();
    bench.recover(Facts { backup: true, ..bench.facts(Routed::Color(Green)) });
    assert_eq!((bench.routed(), bench.app.backup), (Some((Green, 2)), Backup::Withdrawn));
    bench.rerouted();
    assert_eq!(bench.app.backup, Backup::Absent);
}

#[test]
fn a_rollback_and_an_app_without_a_watch_have_no_backup() {
    let mut bench = Bench::with_two_live();
    bench.policy.backup = true;
    bench.flip();
    bench.run_to("Resting");
    assert_eq!((bench.live(), bench.app.backup), (Some((Blue, 1)), Backup::Absent));
    bench.policy.watch = Duration::ZERO;
    bench.push(3);
    bench.run_to("Resting");
    assert!(!bench.acts.iter().any(|act| matches!(act, Action::Route { backup: Some(_), .. })));
}
