//! Starts one worker under a shim.

use std::time::Duration;

use super::{Workers, short};
use crate::{
    command::{self, command_failure, not_started},
    config::settings::{Limits, StopHow, WorkerSettings},
    rules::{
        words::{EventKind, Failure, Phase},
        workers::{WorkerSlot, WorkersOf},
    },
    shim::{Handle, Role, Spec, StartError, StopRequest, StopSpec},
};

impl Workers {
    /// Starts a worker. A start that fails counts as a death.
    pub(super) async fn start(&self, slot: &WorkerSlot, of: &WorkersOf) {
        let worker = self.settings.workers.iter().find(|one| one.plan.name == slot.name);
        let Some(worker) = worker else { return };
        match self.run(worker, slot, of).await {
            Ok(handle) => self.note_start(slot, of, &handle),
            Err(failure) => {
                let how = format!("it could not be started: {}", failure.cause);
                self.has_died((slot, &of.release.id), Duration::ZERO, (how, failure.log_tail));
            }
        }
    }

    async fn run(
        &self,
        worker: &WorkerSettings,
        slot: &WorkerSlot,
        of: &WorkersOf,
    ) -> Result<Handle, Failure> {
        let phase = Phase::Starting;
        let context = self.commands.worker_context(&of.release, of.color, slot);
        let described = |err| command_failure(phase, &err);
        let command = command::worker_command(&self.settings, (worker, &context)).map_err(described)?;
        let how = match &worker.stop.how {
            StopHow::Signal(signal) => StopRequest::Signal(*signal),
            StopHow::Command(line) => {
                let stop = command::worker_stop_command(&self.settings, (worker, &context), line);
                StopRequest::Command(stop.map_err(described)?.argv)
            }
        };
        let mut spec = self.commands.spec(Role::Worker(slot.clone()), &of.release, command);
        spec.stop = StopSpec { how, grace: worker.stop.grace, quiet: worker.quiet };
        let started = match self.commands.shims.start(&spec).await {
            // Its release is live: work that nobody does would be worse.
            Err(StartError::Limits { why, .. }) => {
                tracing::error!(app = %self.settings.name, worker = %slot, why, "started without its limits, which can't be kept");
                let said =
                    format!("worker {slot} was started without its limits, which can't be kept: {why}");
                self.note(EventKind::LimitsNotKept, &of.release.id, said);
                self.commands.shims.start(&Spec { limits: Limits::default(), ..spec.clone() }).await
            }
            started => started,
        };
        started.map_err(|err| not_started(phase, &err, &spec))
    }

    /// Says the first start of a worker of a release, and each one after a death.
    fn note_start(&self, slot: &WorkerSlot, of: &WorkersOf, handle: &Handle) {
        let release = &of.release.id;
        let tries = self.book().tries.get(&(slot.clone(), release.clone())).cloned();
        let text = match tries {
            None => format!("worker {slot} of {} works", short(release)),
            Some(tries) if tries.how.is_some() => {
                format!("worker {slot} of {} works again (restart {})", short(release), tries.attempt)
            }
            Some(_) => return,
        };
        let pid = handle.main_pid().map(|pid| format!(": pid {pid}")).unwrap_or_default();
        self.note(EventKind::WorkerStarted, release, format!("{text}{pid}"));
    }
}
