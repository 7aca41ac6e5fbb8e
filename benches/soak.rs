//! bgd in the long run: many deploys under load on both fronts, what they cost in requests, descriptors, threads,
//! memory and disk; a daemon with 100 apps of which one misbehaves in every way; thousands of open connections
//! across a flip. `DEPLOYS`, `APPS` and `CONNECTIONS` make a run shorter or longer.

#[path = "soak/connections.rs"]
mod connections;
#[path = "soak/deploys.rs"]
mod deploys;
#[path = "soak/neighbours.rs"]
mod neighbours;
mod stage;

use std::process::ExitCode;

use stage::Res;

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    deploys::run(stage::count("DEPLOYS", 1_000))?;
    connections::run(stage::count("CONNECTIONS", 5_000))?;
    neighbours::run(stage::count("APPS", 100))
}
