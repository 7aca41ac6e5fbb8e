//! bgd, a blue/green release supervisor. Arrows point down only (`tests/structure.rs` enforces it):
//!
//! ```text
//! cli/        one file per command: build the request, render the reply
//! daemon.rs   wire the parts, signals, sd_notify, ordered shutdown
//! api/        control socket: wire types, who may do what
//! engine/     one task per app: select → step → commit → run; interpreter of effects; observation
//! release/ instance/ worker/ front/   what bgd acts on; they know nothing of each other
//! command/        what an app's commands are, and why one of them failed
//! probe/ shim/    one question to an instance; the process that outlives bgd
//! process/    processes of this host, as the kernel knows them
//! store/      SQLite: the record of releases, deploys, events, holds
//! config/     raw (as written) → settings (as meant, validated)
//! rules/      PURE: no tokio, fs, net, clock, randomness
//! os/         the ground floor, known to all: processes and sockets of this host, files, commands, text and errors
//! ```
//!
//! What holds when things go wrong, and the test of each promise: [`promises`].

pub mod api;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod engine;
pub mod front;
pub mod instance;
pub mod os;
pub mod probe;
pub mod process;
pub mod promises;
pub mod release;
pub mod rules;
pub mod shim;
pub mod store;
pub mod worker;
