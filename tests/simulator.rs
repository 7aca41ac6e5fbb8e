//! Thousands of deploys in memory against the real machine, with every crash, fault, repetition and reordering that
//! a seed can think of; then the world is healed, and the machine has to come to rest with the right release live.
//!
//! `BGD_SIM_SEED=7 cargo test --test simulator` replays one schedule with its trace, `BGD_SIM_RUNS=100000` runs
//! that many.

#[path = "simulator/daemon.rs"]
mod daemon;
#[path = "simulator/defects.rs"]
mod defects;
#[path = "simulator/oracle.rs"]
mod oracle;
#[path = "simulator/rng.rs"]
mod rng;
#[path = "simulator/world.rs"]
mod world;

use std::time::Duration;

use bgd::rules::{
    event::{Ask, Event, Want},
    step::step,
};
use daemon::{Daemon, Figures, Machine};
use oracle::Oracle;
use world::Quality;

/// Schedules in an ordinary run: about ten seconds in a debug build.
const RUNS: u64 = 600;
/// Things that happen in one schedule before the world is healed.
const LENGTH: usize = 400;

/// A schedule that broke an invariant.
struct Found {
    seed: u64,
    length: usize,
    what: String,
    trace: Vec<String>,
}

/// One thing happens.
fn happen(daemon: &mut Daemon) -> Result<(), String> {
    match daemon.rng.below(100) {
        0..32 => daemon.read().map(drop),
        32..66 => daemon.act().map(drop),
        66..73 => daemon.poll(),
        73..77 => {
            let broken = [
                Quality::BuildBroken,
                Quality::StartBroken,
                Quality::NeverHealthy,
                Quality::DiesWatched,
                Quality::DiesWatched,
                Quality::SickWatched,
                Quality::SickWatched,
            ];
            let quality = if daemon.rng.percent(60) { Quality::Good } else { daemon.rng.pick(&broken) };
            daemon.world.push(quality);
            if daemon.rng.percent(10) {
                // A forced push: the branch goes back.
                daemon.world.tip = Some(daemon.rng.below(daemon.world.pushed.len()));
            }
            Ok(())
        }
        77..100 if !daemon.rng.percent(daemon.bustle) => daemon.act().map(drop),
        77..80 => operate(daemon),
        80..90 => {
            let wait = Duration::from_millis(daemon.rng.next() % 20_000);
            daemon.now = daemon.now.plus(wait);
            daemon.deliver(&Event::Ticked)
        }
        90..95 => daemon.nature_takes_its_course(),
        95..96 => {
            daemon.front_restarts();
            daemon.inbox.push(Event::FrontRestarted);
            Ok(())
        }
        96..98 => {
            daemon.world.front.broken = !daemon.world.front.broken && daemon.rng.percent(50);
            Ok(())
        }
        98..99 => daemon.crash(),
        _ => Ok(()),
    }
}

fn operate(daemon: &mut Daemon) -> Result<(), String> {
    let ask = match daemon.rng.below(12) {
        0..2 => Ask::Deploy(Want::Tip),
        2..4 => {
            let known = daemon.world.pushed.len() + 1;
            Ask::Deploy(Want::Rev(world::commit(daemon.rng.below(known)).as_str().to_owned()))
        }
        4..7 => Ask::Flip,
        7 => Ask::Hold { reason: "freeze".to_owned() },
        8..10 => Ask::Resume,
        10 => Ask::Down,
        _ => Ask::Up,
    };
    daemon.ask(ask)
}

fn schedule(daemon: &mut Daemon, length: usize) -> Result<(), String> {
    for _ in 0..length {
        happen(daemon)?;
    }
    daemon.heal();
    daemon.settle()?;
    daemon.ask(Ask::Resume)?;
    daemon.ask(Ask::Up)?;
    daemon.world.push(Quality::Good);
    daemon.settle()?;
    Oracle::judge_newest(&daemon.app, &daemon.world)
}

fn attempt(seed: u64, length: usize, machine: Machine) -> Result<Figures, String> {
    let mut daemon = Daemon::new(seed, machine);
    schedule(&mut daemon, length).map(|()| daemon.figures)
}

/// The shortest prefix of the schedule that still fails, with its trace.
fn shrink(seed: u64, machine: Machine) -> Option<Found> {
    let length = (0..=LENGTH).find(|length| attempt(seed, *length, machine).is_err())?;
    let mut daemon = Daemon::new(seed, machine);
    daemon.trace = Some(Vec::new());
    let what = schedule(&mut daemon, length).err()?;
    Some(Found { seed, length, what, trace: daemon.trace.unwrap_or_default() })
}

fn search(seeds: impl Iterator<Item = u64>, machine: Machine) -> Result<Figures, Box<Found>> {
    let mut sum = Figures::default();
    for seed in seeds {
        match attempt(seed, LENGTH, machine) {
            Ok(figures) => {
                sum.steps += figures.steps;
                sum.deploys += figures.deploys;
                sum.crashes += figures.crashes;
                sum.flips += figures.flips;
                for (sum, ends) in sum.outcomes.iter_mut().zip(figures.outcomes) {
                    *sum += ends;
                }
            }
            Err(_) => return Err(Box::new(shrink(seed, machine).expect("a schedule is reproducible"))),
        }
    }
    Ok(sum)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn k2_whatever_happens_the_machine_keeps_its_word_and_comes_to_rest() {
    let runs = number("BGD_SIM_RUNS").unwrap_or(RUNS);
    let seeds = match number("BGD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..runs,
    };
    match search(seeds, step) {
        Ok(sum) => println!("{sum:?}"),
        Err(found) => {
            let tail = found.trace.len().saturating_sub(60);
            panic!(
                "{}\nafter {} happenings: {}\nreplay with BGD_SIM_SEED={} cargo test --test simulator",
                found.trace[tail..].join("\n"),
                found.length,
                found.what,
                found.seed
            );
        }
    }
}

#[test]
fn each_seeded_defect_is_caught() {
    for (name, machine) in defects::ALL {
        match search(0..RUNS, *machine) {
            Ok(_) => panic!("nobody noticed: {name}"),
            Err(found) => {
                println!("{name}: seed {}, {} happenings: {}", found.seed, found.length, found.what)
            }
        }
    }
}
