//! The process group of a started command, for commands that must not outlive what they were started for.

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Child;

/// The group that a child leads. Dropping it kills what is left of the group.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// Of a child that was started with a process group of its own.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().map(|pid| Pid::from_raw(pid.cast_signed())))
    }

    /// Kills what is left of it; at most once, since its number may be given out again later.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // No such group: everything has ended already, which is what is wanted.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// Lets live what the command left behind.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
