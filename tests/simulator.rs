//! Whole lives of the daemon in memory against the real machine, with every fault that a seed can think of; then the
//! world is healed, and the machine has to come to rest with the right release live.
//!
//! What is real: `rules::step`, `rules::retention`, `engine::ledger`, the words in which state is journaled; and in one of
//! [`REAL_STORE`] schedules `store::Store` on a real database, closed and opened at each crash, cut in the middle of
//! a commit at a power loss. What is made up: the world (`world`: remote, disk, processes, ports; `front`), the
//! engine that carries effects out (`daemon`, `carrying`, `fate`), and the clocks.
//!
//! What happens (`happening`), at any moment: pushes, forced ones too; operators with every request; crashes before,
//! in and after a commit and with any part of its effects run; power losses that drop what was not flushed; effects
//! that fail, last, come in halves, end late, are told twice, out of order, or again much later; instances that die
//! or turn sick; fronts that break, restart, or are edited by hand; strangers on a port; a full disk, on which a flip
//! still works; a wall clock that jumps. What must hold (`oracle`, and `crimes` of the world) after each step: the
//! front is led to what is proven; nothing routed is stopped, replaced or pruned; no port is shared; nothing runs
//! unnamed; what was marked bad, held or taken down stays so; nothing acts unrecorded, save a flip that says so;
//! record and state agree. And once nothing is under way: the front routes to what is live, what is live runs or
//! waits to, or bgd says that it is not so.
//!
//! `BGD_SIM_SEED=7 cargo test --test simulator` replays one schedule, shrunk to what is needed for it to fail.
//! `BGD_SIM_RUNS=1000000 cargo test --release --test simulator -- --nocapture` is the long run, on all cores.
//! `defects`, `canaries`, `backing` and `guarding` are the proof that all this can fail; `BGD_SIM_DEFECT=flip` tries those with that word.

#[path = "simulator/backing.rs"]
mod backing;
#[path = "simulator/campaign.rs"]
mod campaign;
#[path = "simulator/canaries.rs"]
mod canaries;
#[path = "simulator/carrying.rs"]
mod carrying;
#[path = "simulator/daemon.rs"]
mod daemon;
#[path = "simulator/defects.rs"]
mod defects;
#[path = "simulator/fate.rs"]
mod fate;
#[path = "simulator/figures.rs"]
mod figures;
#[path = "simulator/front.rs"]
mod front;
#[path = "simulator/guarding.rs"]
mod guarding;
#[path = "simulator/happening.rs"]
mod happening;
#[path = "simulator/oracle.rs"]
mod oracle;
#[path = "simulator/record.rs"]
mod record;
#[path = "simulator/rng.rs"]
mod rng;
#[path = "simulator/sharing.rs"]
mod sharing;
#[path = "simulator/tasking.rs"]
mod tasking;
#[path = "simulator/working.rs"]
mod working;
#[path = "simulator/world.rs"]
mod world;

use campaign::{Campaign, Found};
use defects::Defect;

/// Schedules in an ordinary run: about ten seconds in a debug build.
const RUNS: u64 = 800;
/// Schedules in which each seeded defect has to be caught. Most need a handful; one that takes a restart in the middle
/// of a stand-in needs some thousands.
const CAUGHT_IN: u64 = 20 * RUNS;
/// Tries to cut down a schedule that shows a seeded defect: enough to see what it takes.
const IN_SHORT: usize = 40;
/// One schedule of so many has workers.
pub const WITH_WORKERS: u64 = 3;
/// One schedule of so many writes and reads a real database.
pub const REAL_STORE: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

#[test]
fn k2_whatever_happens_the_machine_keeps_its_word_and_comes_to_rest() {
    let seeds = match number("BGD_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("BGD_SIM_FIRST").unwrap_or(0);
            first..first + number("BGD_SIM_RUNS").unwrap_or(RUNS)
        }
    };
    match Campaign::new(Defect::None, seeds.clone()).on_all_cores() {
        Ok(sum) => println!("seeds {seeds:?}, nothing found\n{sum}"),
        Err(found) => panic!("{found}"),
    }
}

#[test]
fn each_seeded_defect_is_caught() {
    let mut unnoticed = Vec::new();
    let only = std::env::var("BGD_SIM_DEFECT").unwrap_or_default();
    let first = number("BGD_SIM_FIRST").unwrap_or(0);
    let seeds = first..first + number("BGD_SIM_RUNS").unwrap_or(CAUGHT_IN);
    let asked: Vec<_> = defects::ALL.iter().filter(|it| it.0.contains(&only)).collect();
    for (name, defect) in &asked {
        match Campaign::new(*defect, seeds.clone()).shrinking(IN_SHORT).on_all_cores() {
            Ok(_) => unnoticed.push(*name),
            Err(found) => {
                let Found { seed, happenings, what, .. } = *found;
                println!("{name}: seed {seed}, {} happenings: {what}", happenings.len());
            }
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed: {unnoticed:#?}");
    println!("all {} defects caught", asked.len());
}
