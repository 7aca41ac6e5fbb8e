//! What an app's commands are: argv, directory, environment, user, and the directories of an app that they run in.
//!
//! Called by the rooms, on a blocking thread where directories are made. Runs nothing: a shim runs the builds, hooks
//! and instances that are described here.

mod app_commands;
mod commands;
mod environment;
mod error;
mod failure;
mod gate;
mod home;
mod owner;
mod places;
mod shell;
mod socket_dir;
mod unrunnable;

#[cfg(test)]
pub(crate) mod fixture;

pub use app_commands::AppCommands;
pub use commands::{
    Command, HookCommand, build_command, cron_command, exec_command, hook_command, probe_command,
    start_command, stop_command, task_command, work_dir, worker_command, worker_exec_command,
    worker_stop_command,
};
pub use environment::environment;
pub use error::CommandError;
pub(crate) use failure::{command_failure, explained, failure, not_started, start_failure, tail, trouble};
pub use gate::gate_command;
pub(crate) use home::closed_way;
pub(crate) use owner::{Owner, lookup};
pub use places::{Places, ReleaseContext};
pub use socket_dir::make_socket_dir;
pub use unrunnable::{Attempt, Unrunnable, why_unrunnable};
