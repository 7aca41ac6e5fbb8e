//! What turns a checkout into a release, and the words for running it.
//!
//! Called by the engine, on a blocking thread. Prepares release directories (cache, shared paths, rewrites),
//! describes the app's commands with their exact environment, and removes releases again. It runs nothing:
//! builds, hooks and instances are started by the engine under a shim from what is described here.

mod cache;
mod command;
mod copy;
mod disk;
mod environment;
mod error;
mod home;
mod in_use;
mod moved;
mod owner;
mod places;
mod prepare;
mod releases;
mod rewrite;
mod shared;
mod shell;
mod socket_dir;
mod tree;
mod unrunnable;
mod walk;

#[cfg(test)]
mod fixture;

pub use command::{
    Command, Hook, build_command, exec_command, hook_command, probe_command, start_command, stop_command,
};
pub use disk::{Space, free_space, sync_filesystem};
pub use environment::environment;
pub use error::{BuildError, own_hint};
pub use in_use::Occupant;
pub use places::{Context, Places};
pub use prepare::{Prepared, Skipped, prepare};
pub use releases::{
    Found, Removal, Standing, forget_leftovers, list_releases, mark_complete, remove_release, standing,
};
pub use shared::{Closed, closed_to};
pub use socket_dir::make_socket_dir;
pub use unrunnable::{Attempt, Unrunnable, why_unrunnable};
