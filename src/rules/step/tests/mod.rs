//! The machine's behaviour, as sentences. `bench` drives it, `edges` shows all of its transitions.

mod asking;
mod backup;
mod bench;
mod canary;
mod deploying;
mod edges;
mod gates;
mod guarding;
mod recovering;
mod replacing;
mod workers;
