//! bgd in the long run: many deploys under load on both fronts of a host on which other processes hold tens of thousands
//! of descriptors, what they cost in time, processor, requests, descriptors, threads, memory and disk; a daemon with 100
//! apps of which one misbehaves in every way; thousands of open connections across a flip. `DEPLOYS`, `FOREIGN`, `APPS`
//! and `CONNECTIONS` make a run shorter or longer.

#[path = "soak/connections.rs"]
mod connections;
#[path = "soak/crowd.rs"]
mod crowd;
#[path = "soak/deploys.rs"]
mod deploys;
#[path = "soak/neighbours.rs"]
mod neighbours;
mod stage;

use std::process::ExitCode;

use stage::Res;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some(crowd::ROLE) {
        let descriptors = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        return if crowd::hold(descriptors).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    stage::main(run)
}

fn run() -> Res<()> {
    deploys::run(stage::count("DEPLOYS", 1_000), stage::count("FOREIGN", 30_000))?;
    connections::run(stage::count("CONNECTIONS", 5_000))?;
    neighbours::run(stage::count("APPS", 100))
}
