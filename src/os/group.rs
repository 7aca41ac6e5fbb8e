//! The process group of a started command that must not outlive its purpose.

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Child;

/// The process group that a child leads. Dropping it kills the rest of the group.
#[derive(Debug)]
pub(crate) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group of a child that was started as a group leader.
    pub(crate) fn of(child: &Child) -> Self {
        Self(child.id().map(|pid| Pid::from_raw(pid.cast_signed())))
    }

    /// Kills the rest of the group; at most once, since the kernel may give its number out again.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            // ESRCH: everything has ended already, which is the aim.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// Gives the group up without a kill: processes that the command left behind live on.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}
