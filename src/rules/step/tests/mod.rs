//! What the machine does, as sentences. `bench` drives it, `edges` shows all of its ways.

mod asking;
mod backup;
mod bench;
mod canary;
mod deploying;
mod edges;
mod recovering;
mod replacing;
