//! Handles a front's process that does not answer: ends one that hangs, so that an heir serves from the listening
//! socket that the daemon holds, and waits for one that is only delayed (promise N2). Called by `supervise`.

use std::{os::unix::ffi::OsStrExt, time::Duration};

use tokio::time::{Instant, sleep};

use super::Builtin;
use crate::{
    os::{
        process::Process,
        vitals::{HangCause, Patient, ProcessCondition},
    },
    rules::ids::AppName,
};

/// How long to wait until a killed process is gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Time between two checks whether it is gone.
const LOOK: Duration = Duration::from_millis(10);

/// Watches a front while it does not answer.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// The process, watched since the first question that it did not answer.
    patient: Option<(Process, Patient)>,
}

impl Silence {
    /// Ends the watch: the front answered, failed in another way, or has ended.
    pub(super) fn broken(&mut self) {
        self.patient = None;
    }

    /// Notes that one more question was not answered in time. Ends the front when its activity since the first one
    /// shows that it will never answer, and returns the cause.
    pub(super) async fn goes_on(&mut self, app: &AppName, front: &Builtin) -> Option<HangCause> {
        let Some(process) = process(front).await else {
            self.broken();
            return None;
        };
        let watched = self.patient.as_ref().filter(|(known, _)| *known == process);
        let Some((_, patient)) = watched else {
            self.patient = Patient::watch(process).map(|patient| (process, patient));
            return None;
        };
        match patient.examine().await {
            ProcessCondition::Gone => {
                self.broken();
                None
            }
            ProcessCondition::Lives(delay) => {
                tracing::warn!(%app, pid = process.pid, %delay, "the front does not answer and is waited for");
                None
            }
            ProcessCondition::Hangs(cause) => {
                tracing::error!(%app, pid = process.pid, %cause, "the front hangs and is ended");
                if let Err(err) = process.signal(libc::SIGKILL) {
                    tracing::error!(%app, pid = process.pid, %err, "the front could not be ended");
                }
                gone(process).await;
                self.broken();
                Some(cause)
            }
        }
    }
}

/// Waits until the process is gone: until then no other front can take its place.
async fn gone(process: Process) {
    let until = Instant::now() + GONE_WITHIN;
    while process.is_alive() && Instant::now() < until {
        sleep(LOOK).await;
    }
}

/// The front's process; `None` unless its arguments name our control socket.
async fn process(front: &Builtin) -> Option<Process> {
    let process = Process::of(front.pid().await?.cast_signed())?;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
    let control = front.place().control.as_os_str().as_bytes();
    arguments.split(|byte| *byte == 0).any(|argument| argument == control).then_some(process)
}
