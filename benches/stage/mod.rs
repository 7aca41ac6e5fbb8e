//! What the benchmarks share: a directory of its own with a daemon, remotes, an nginx and clients, all on
//! loopback and all gone at the end; medians; a table. Each benchmark compares within one run, in rounds that
//! take turns, because a machine is not the same from one minute to the next.
#![allow(dead_code, unused_imports, reason = "each benchmark uses a part of it")]

pub mod backend;
pub mod daemon;
pub mod figures;
pub mod haproxy;
pub mod http;
pub mod nginx;
pub mod paced;
pub mod proc;
pub mod remote;
pub mod scene;
#[path = "../../tests/stage/mod.rs"]
pub mod shared;
pub mod work;

use std::process::ExitCode;

pub use self::{
    daemon::Daemon,
    figures::{Sample, Table},
    haproxy::Haproxy,
    nginx::Nginx,
    remote::Remote,
    shared::{Place, load, ports::reserve_for_good},
};

/// Whatever went wrong, for people.
pub type Res<T> = Result<T, Box<dyn std::error::Error>>;

/// The binary that is measured.
pub const BGD: &str = env!("CARGO_BIN_EXE_bgd");

/// Runs a benchmark under `cargo bench`, and nothing under `cargo test`, which would start it without being asked.
pub fn main(bench: impl FnOnce() -> Res<()>) -> ExitCode {
    if !std::env::args().any(|word| word == "--bench") {
        println!("not run: `cargo bench` measures, tests don't");
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        println!("debug build: these figures mean nothing");
    }
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err}");
            ExitCode::FAILURE
        }
    }
}

/// A whole number from the environment, to make a run shorter or longer.
pub fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
