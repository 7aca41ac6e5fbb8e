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
//! ```
//!
//! What holds when things go wrong, and the test of each promise: [`promises`].
//! Beside them, known to all: `errors` prints a chain of errors, `printable` is text without what a terminal obeys,
//! `privilege` what a started command inherits, `tcp_sockets` and `unix_sockets` what the kernel knows of sockets,
//! `confinement` what SELinux and AppArmor refuse.

pub mod api;
pub mod build;
pub mod cli;
pub mod config;
pub mod confinement;
pub mod daemon;
pub mod engine;
pub mod errors;
pub mod front;
pub mod git;
pub mod printable;
pub mod privilege;
pub mod probe;
pub mod process;
pub mod promises;
pub mod rules;
pub mod store;
pub mod tcp_sockets;
pub mod unix_sockets;
