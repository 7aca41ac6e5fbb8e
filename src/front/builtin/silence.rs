//! What is done about a front's process that does not answer. One that hangs is ended, so that an heir serves from the
//! listening socket that the daemon holds; one that only does not get to it is waited for (promise N2). Called by `supervise`.

use std::{os::unix::ffi::OsStrExt, time::Duration};

use tokio::time::{Instant, sleep};

use super::Builtin;
use crate::{
    os::{
        process::Process,
        vitals::{Cause, Patient, Verdict},
    },
    rules::ids::AppName,
};

/// How long a killed process takes to be gone, at most.
const GONE_WITHIN: Duration = Duration::from_secs(5);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(10);

/// How long a front has been silent.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// Watched since the first question that it did not answer.
    patient: Option<(Process, Patient)>,
}

impl Silence {
    /// It answered, or it has ended.
    pub(super) fn broken(&mut self) {
        self.patient = None;
    }

    /// One more question was not answered in time. Ends the front when what it did since the first one says that it
    /// will never answer, and returns why.
    pub(super) async fn goes_on(&mut self, app: &AppName, front: &Builtin) -> Option<Cause> {
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
            Verdict::Gone => {
                self.broken();
                None
            }
            Verdict::Lives(delay) => {
                tracing::warn!(%app, pid = process.pid, %delay, "the front does not answer and is waited for");
                None
            }
            Verdict::Hangs(cause) => {
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

/// Until then nobody can take its place.
async fn gone(process: Process) {
    let until = Instant::now() + GONE_WITHIN;
    while process.is_alive() && Instant::now() < until {
        sleep(LOOK).await;
    }
}

/// The front's process, where that is one of ours beyond doubt.
async fn process(front: &Builtin) -> Option<Process> {
    let process = Process::of(front.pid().await?.cast_signed())?;
    let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
    let control = front.place().control.as_os_str().as_bytes();
    arguments.split(|byte| *byte == 0).any(|argument| argument == control).then_some(process)
}
