//! One run of a schedule, from its start to its record: started under a shim, followed until nothing of it is left,
//! and recorded before the shim is forgotten, so that a daemon that is killed in between takes it up again.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
    time::sleep,
};

use super::interpreter::Interpreter;
use crate::{
    command::{command_failure, cron_command, not_started},
    config::settings::CronSettings,
    os::{blocking::blocking, errors::chain},
    rules::{
        app::Release,
        ids::{Color, CronName, CronRunId},
        time::{Stamp, Time},
        words::{CronOutcome, EventKind, Phase},
    },
    shim::{CommandExit, ExitKind, Handle, Overseer, Role},
    store::{CronRow, clock},
};

/// Between two tries to record an end, as on a full disk.
const RECORD_AGAIN: Duration = Duration::from_secs(1);
/// A shim ends its command at the time limit; beyond this bgd looks whether the shim lives.
const SHIM_ALLOWANCE: Duration = Duration::from_secs(15);
/// A shell gives the code of a command that a signal ended as 128 and the signal's number.
const SIGNAL: i32 = 128;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronEnd {
    pub outcome: CronOutcome,
    /// Its exit code; of a signal 128 and its number; `None` where it is unknown or nothing was started.
    pub exit: Option<i32>,
    /// The end as a sentence.
    pub text: String,
}

/// A run under way.
#[derive(Debug)]
pub(super) struct CronJob {
    interpreter: Arc<Interpreter>,
    id: CronRunId,
    name: CronName,
    due: Time,
    /// `None` for a run of a schedule that is no longer configured.
    cron: Option<CronSettings>,
    handle: Arc<OnceLock<Handle>>,
    /// Told when its process has started.
    progress: Arc<Notify>,
}

impl CronJob {
    /// A recorded run that has not started.
    pub(super) fn new(
        (interpreter, progress): (Arc<Interpreter>, Arc<Notify>),
        (id, cron, due): (CronRunId, CronSettings, Time),
    ) -> Self {
        let name = cron.rule.name.clone();
        Self { interpreter, id, name, due, cron: Some(cron), handle: Arc::default(), progress }
    }

    /// A run of a former daemon.
    pub(super) fn taken_up(
        (interpreter, progress): (Arc<Interpreter>, Arc<Notify>),
        row: &CronRow,
        handle: Handle,
    ) -> Self {
        let crons = &interpreter.settings().crons;
        let cron = crons.iter().find(|cron| cron.rule.name == row.name).cloned();
        let handle = Arc::new(OnceLock::from(handle));
        Self { interpreter, id: row.id, name: row.name.clone(), due: row.due, cron, handle, progress }
    }

    /// Its shim, once started.
    pub(super) fn handle(&self) -> Arc<OnceLock<Handle>> {
        self.handle.clone()
    }

    /// Starts it in the release, after the former runs have ended, and follows it.
    pub(super) fn begin(
        self,
        jobs: &mut JoinSet<CronRunId>,
        live: (Release, Color),
        former: Vec<Handle>,
    ) -> oneshot::Receiver<CronEnd> {
        let (sender, ended) = oneshot::channel();
        jobs.spawn(async move {
            for one in former {
                if let Err(err) = one.stop().await {
                    tracing::warn!(role = %one.role(), err = %chain(&err), "the former run was not ended");
                }
            }
            let end = match self.start(live).await {
                Ok(handle) => self.to_end(&handle).await,
                Err(why) => CronEnd {
                    outcome: CronOutcome::Failed,
                    exit: None,
                    text: format!("{} could not be started: {why}", self.name),
                },
            };
            self.finish(end, sender).await
        });
        ended
    }

    /// Follows a run that was taken up.
    pub(super) fn follow(self, jobs: &mut JoinSet<CronRunId>) {
        jobs.spawn(async move {
            let (sender, _) = oneshot::channel();
            let Some(handle) = self.handle.get().cloned() else { return self.id };
            let end = self.to_end(&handle).await;
            self.finish(end, sender).await
        });
    }

    async fn start(&self, (release, color): (Release, Color)) -> Result<Handle, String> {
        let Some(cron) = &self.cron else { return Err("it is not configured any more".to_owned()) };
        let (settings, commands) = (self.interpreter.settings(), &self.interpreter.commands);
        let command = cron_command(settings, &commands.context(&release, color), (cron, self.due))
            .map_err(|err| command_failure(Phase::Starting, &err).cause)?;
        let mut spec = commands.spec(Role::Cron(self.name.clone()), &release, command);
        spec.time_limit = Some(cron.timeout);
        // A task of its own: a reload of the settings must not cut a start short.
        let shims = commands.shims.clone();
        let started = tokio::spawn(async move {
            let started = shims.start(&spec).await;
            started.map_err(|err| not_started(Phase::Starting, &err, &spec).cause)
        });
        let handle = started.await.map_err(|err| err.to_string())??;
        let handle = self.handle.get_or_init(|| handle).clone();
        let (store, id) = (self.interpreter.store.clone(), self.id);
        if let Err(err) = blocking(move || store.start_cron(id, clock::now())).await {
            tracing::warn!(cron = %self.name, err = %chain(&err), "the start of a scheduled run was not recorded");
        }
        let text = format!("{} runs for {} in {}", self.name, Stamp(self.due), release.id);
        self.interpreter.record.note(EventKind::CronStarted, None, &text).await;
        self.progress.notify_one();
        Ok(handle)
    }

    async fn to_end(&self, handle: &Handle) -> CronEnd {
        let exit = self.exit_of(handle).await;
        // Processes that the command left behind end too; the exit is the command's own.
        handle.ended().await;
        let (outcome, exit_code) = judged(exit);
        let text = match outcome {
            CronOutcome::Done => format!("{} is done", self.name),
            CronOutcome::TimedOut => match &self.cron {
                Some(cron) => {
                    format!("{} was still running after {:?} and was ended", self.name, cron.timeout)
                }
                None => format!("{} was still running at its time limit and was ended", self.name),
            },
            _ => format!("{} failed: {exit}", self.name),
        };
        CronEnd { outcome, exit: exit_code, text }
    }

    /// The exit of the command. A shim keeps the time limit, and bgd in the place of one that was killed.
    async fn exit_of(&self, handle: &Handle) -> CommandExit {
        let Some(cron) = &self.cron else { return handle.exited().await };
        let left = (cron.timeout + SHIM_ALLOWANCE).saturating_sub(handle.age());
        if let Ok(exit) = tokio::time::timeout(left, handle.exited()).await {
            return exit;
        }
        let lost = handle.status().await.is_ok_and(|status| status.overseer == Overseer::Lost);
        if !lost {
            return handle.exited().await;
        }
        if let Err(err) = handle.kill().await {
            tracing::warn!(role = %handle.role(), err = %chain(&err), "a scheduled run outlives its time limit");
        }
        CommandExit { timed_out: true, ..handle.exited().await }
    }

    /// Records the end, and tells it.
    async fn finish(self, mut end: CronEnd, sender: oneshot::Sender<CronEnd>) -> CronRunId {
        let app = self.interpreter.settings().name.clone();
        loop {
            let (store, of, name) = (self.interpreter.store.clone(), app.clone(), self.name.clone());
            let (id, outcome, exit) = (self.id, end.outcome, end.exit);
            match blocking(move || store.end_cron((&of, &name, id), (outcome, exit, clock::now()))).await {
                Ok(outcome) => {
                    if outcome == CronOutcome::Ended {
                        end.text = format!("{} was ended by bgd", self.name);
                    }
                    end.outcome = outcome;
                    break;
                }
                Err(err) => {
                    tracing::error!(%app, cron = %self.name, err = %chain(&err), "the end of a scheduled run can't be recorded");
                    sleep(RECORD_AGAIN).await;
                }
            }
        }
        self.interpreter.record.note(EventKind::CronEnded, None, &end.text).await;
        self.interpreter.tidy_after_cron(self.id).await;
        if let Some(handle) = self.handle.get()
            && let Err(err) = handle.forget().await
        {
            tracing::warn!(%app, role = %handle.role(), err = %chain(&err), "a finished shim was not forgotten");
        }
        // Nobody waits for a run that the calendar began.
        let _alone = sender.send(end);
        self.id
    }
}

impl Interpreter {
    /// Trims the events now and then: an app with a busy schedule may not deploy for months.
    async fn tidy_after_cron(&self, id: CronRunId) {
        const EVERY: u64 = 500;
        if !id.0.is_multiple_of(EVERY) {
            return;
        }
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.tidy()).await {
            tracing::warn!(err = %chain(&err), "old events were not trimmed");
        }
    }
}

fn judged(exit: CommandExit) -> (CronOutcome, Option<i32>) {
    let code = match exit.how {
        ExitKind::Code(code) => Some(code),
        ExitKind::Signal(signal) => Some(SIGNAL + signal),
        ExitKind::Unknown => None,
    };
    let outcome = match exit {
        CommandExit { timed_out: true, .. } => CronOutcome::TimedOut,
        CommandExit { how: ExitKind::Unknown, .. } => CronOutcome::Unknown,
        exit if exit.success() => CronOutcome::Done,
        _ => CronOutcome::Failed,
    };
    (outcome, code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_judged_and_a_signal_has_the_code_of_a_shell() {
        let exit = |how, timed_out| CommandExit { how, timed_out, out_of_memory: false };
        for (exit, expected) in [
            (exit(ExitKind::Code(0), false), (CronOutcome::Done, Some(0))),
            (exit(ExitKind::Code(3), false), (CronOutcome::Failed, Some(3))),
            (exit(ExitKind::Signal(9), false), (CronOutcome::Failed, Some(137))),
            (exit(ExitKind::Signal(9), true), (CronOutcome::TimedOut, Some(137))),
            (exit(ExitKind::Unknown, false), (CronOutcome::Unknown, None)),
        ] {
            assert_eq!(judged(exit), expected, "{exit}");
        }
    }
}
