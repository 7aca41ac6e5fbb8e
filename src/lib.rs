//! bgd, a blue/green release supervisor. Arrows point down only (`tests/structure.rs` enforces it):
//!
//! ```text
//! cli/        one file per command: build the request, render the reply
//! daemon.rs   wire the parts, signals, sd_notify, ordered shutdown
//! api/        control socket: wire types, who may do what
//! engine/     one task per app: select → step → commit → run; interpreter of effects; observation
//! git/ build/ probe/ process/ front/      the outside world; they know nothing of each other
//! store/      SQLite: the record of releases, deploys, events, holds
//! config/     raw (as written) → settings (as meant, validated)
//! rules/      PURE: no tokio, fs, net, clock, randomness
//! os/         the ground floor, known to all: sockets of this host, what a started command inherits, text and errors
//! ```
//!
//! What holds when things go wrong, and the test of each promise: [`promises`].

pub mod api;
pub mod build;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod front;
pub mod git;
pub mod os;
pub mod probe;
pub mod process;
pub mod promises;
pub mod rules;
pub mod store;
