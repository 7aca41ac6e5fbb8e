//! Commands of the app that end, each under a shim that outlives bgd: builds, hooks, tasks. A task runs once: its shim
//! claims the run on disk before it starts the command, so that nobody takes a task that was begun for one that was
//! not, after a `kill -9` of bgd or a power cut.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{building::build_failure, interpreter::Interpreter};
use crate::{
    command::{self, explained, failure, not_started, tail, trouble},
    config::settings::{Repeat, Task},
    os::{errors::chain, own_file::forgive_missing, printable::shortened},
    rules::{
        app::Release,
        effect::Hook,
        event::Done,
        ids::{Color, DeployId, ReleaseId, TaskName},
        task::Ran,
        words::{Failure, Moment, Nature, Phase, TaskOutcome},
    },
    shim::{CommandExit, ExitKind, Handle, Role, Spec, StartError},
    store::HookRun,
};

/// Bytes of one line of output that are kept with a run: a flood without line ends must not fill the record.
const LINE: usize = 500;
/// Between two looks for the shim that was faster.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a failure says of a command: its name for people, and the next step.
struct Told {
    what: String,
    hint: String,
}

impl Interpreter {
    pub(super) async fn run_hook(
        &self,
        hook: Hook,
        (release, color): (&Release, Color),
        (failed, deploy): (Option<&Failure>, Option<DeployId>),
    ) -> Result<(), Failure> {
        let (phase, name) = match hook {
            Hook::BeforeStart => (Phase::Starting, "before_start"),
            Hook::AfterLive => (Phase::Watching, "after_live"),
            Hook::AfterFailed => (failed.map_or(Phase::Stopping, |failure| failure.phase), "after_failed"),
        };
        let which = match (hook, failed) {
            (Hook::BeforeStart, _) => command::HookCommand::BeforeStart,
            (Hook::AfterLive, _) => command::HookCommand::AfterLive,
            (Hook::AfterFailed, Some(failure)) => {
                command::HookCommand::AfterFailed { phase: failure.phase.as_str(), error: &failure.cause }
            }
            (Hook::AfterFailed, None) => command::HookCommand::AfterFailed { phase: "", error: "" },
        };
        let context = self.commands.context(release, color);
        let command = command::hook_command(&self.settings, &context, which)
            .map_err(|err| build_failure(phase, err))?;
        let Some(command) = command else { return Ok(()) };
        let mut spec = self.commands.spec(Role::Hook(name.to_owned()), release, command);
        spec.time_limit = Some(self.settings.hooks.timeout);
        let run = deploy.map(|deploy| HookRun { deploy, release: release.id.clone(), name: name.to_owned() });
        if let Some(run) = &run {
            self.record.begin_hook(run).await;
        }
        let handle = self.taken_up_or_started(phase, &spec).await?;
        let (age, since) = (handle.age(), Instant::now());
        let exit = self.to_end(&handle).await;
        let hint = format!("push a fix, or correct hooks.{name}; then `bgd deploy`");
        let told = Told { what: format!("hook {name}"), hint };
        let ran = ended(&told, (phase, nature(exit)), (&spec, exit));
        if let Some(run) = run {
            self.record.end_hook(run, ran.clone(), age + since.elapsed()).await;
        }
        ran.failure.map_or(Ok(()), Err)
    }

    /// Runs a task, or takes up its run. The shim is not forgotten before the end of the task is recorded.
    pub(super) async fn run_task(
        &self,
        (name, when): (&TaskName, Moment),
        (release, color): (&Release, Color),
    ) -> Result<Done, Failure> {
        let role = Role::Task(name.as_str().to_owned());
        let claim = self.places.task_claim(name.as_str(), &release.id);
        let task = self.settings.tasks.iter().find(|task| task.name == *name);
        let mut attempt = 1;
        loop {
            // In this order: a shim writes its record before its claim.
            let begun = claim.exists();
            let found = self.commands.shim(&role, &release.id).await;
            let found = found.map_err(|err| trouble(when.phase(), &err))?;
            if let Some(handle) = &found {
                let exit = handle.exited().await;
                // C3: processes that the command left behind end too; the exit is the command's own.
                handle.ended().await;
                if exit.how != ExitKind::Unknown {
                    let ran = self.task_ended((name, task), when, (release, color), exit);
                    return Ok(Done::Ran(Ran { attempt, ..ran }));
                }
            }
            // A task may be taken out of the configuration meanwhile.
            let Some(task) = task else { return Ok(Done::Ran(Ran::unknown())) };
            if begun || found.is_some() {
                if task.repeat == Repeat::Unsafe {
                    return Ok(Done::Ran(self.cut_off(task, &release.id)));
                }
                self.forget_task(name, &release.id).await?;
                self.give_back_claim(name, &release.id)?;
                attempt += 1;
            }
            let spec = self.task_spec(task, (release, color))?;
            match self.commands.shims.start(&spec).await {
                Ok(_) => {}
                // The shim that the bgd before had ordered came after all.
                Err(StartError::Taken { .. }) => sleep(LOOK_AGAIN).await,
                Err(err) => return Err(not_started(when.phase(), &err, &spec)),
            }
        }
    }

    /// Lets go of a task's process records. Its claim stays with the release's logs, save for a run that is repeated.
    pub(super) async fn forget_task(&self, name: &TaskName, release: &ReleaseId) -> Result<(), Failure> {
        let role = Role::Task(name.as_str().to_owned());
        let found = self.commands.shim(&role, release).await.map_err(|err| trouble(Phase::Starting, &err))?;
        if let Some(handle) = found {
            handle.forget().await.map_err(|err| trouble(Phase::Starting, &err))?;
        }
        Ok(())
    }

    fn give_back_claim(&self, name: &TaskName, release: &ReleaseId) -> Result<(), Failure> {
        let claim = self.places.task_claim(name.as_str(), release);
        forgive_missing(std::fs::remove_file(&claim)).map_err(|err| {
            let cause = format!("{} can't be removed: {err}", claim.display());
            failure(Phase::Starting, Nature::Transient, cause)
        })
    }

    fn task_spec(&self, task: &Task, (release, color): (&Release, Color)) -> Result<Spec, Failure> {
        let context = self.commands.context(release, color);
        let command = command::task_command(&self.settings, &context, task)
            .map_err(|err| build_failure(task.when.phase(), err))?;
        let name = task.name.as_str();
        let mut spec = self.commands.spec(Role::Task(name.to_owned()), release, command);
        spec.time_limit = Some(task.timeout);
        spec.claim = Some(self.places.task_claim(name, &release.id));
        Ok(spec)
    }

    fn task_ended(
        &self,
        (name, task): (&TaskName, Option<&Task>),
        when: Moment,
        at: (&Release, Color),
        exit: CommandExit,
    ) -> Ran {
        let hint = format!("`bgd logs --task {name}` shows all of its output; push a fix, then `bgd deploy`");
        let told = Told { what: format!("task {name}"), hint };
        // What a run from outside ended is tried again by itself only if the task allows that.
        let again = task.is_some_and(|task| task.repeat == Repeat::Safe);
        let nature = if again { nature(exit) } else { Nature::Deterministic };
        match task.map(|task| self.task_spec(task, at)) {
            Some(Ok(spec)) => ended(&told, (when.phase(), nature), (&spec, exit)),
            Some(Err(_)) | None => {
                let tail = shown(&self.places.task_log(name.as_str(), &at.0.id));
                let failure = failed(&told, (when.phase(), nature), (None, exit), &tail);
                Ran { outcome: outcome(exit), exit: code(exit), attempt: 1, tail, failure }
            }
        }
    }

    /// A run that began and of whose end nothing is known.
    fn cut_off(&self, task: &Task, release: &ReleaseId) -> Ran {
        let name = &task.name;
        let cause = format!(
            "task {name} was cut off by a power cut or a kill, and it is not known how far it came: it is not run again"
        );
        let hint = format!(
            "see how far it came (`bgd logs --task {name}`), then `bgd deploy`; with repeat = \"safe\" bgd runs it again"
        );
        let tail = shown(&self.places.task_log(name.as_str(), release));
        let failure = Failure {
            hint: Some(hint),
            log_tail: tail.clone(),
            ..failure(task.when.phase(), Nature::Deterministic, cause)
        };
        Ran { tail, failure: Some(failure), ..Ran::unknown() }
    }

    /// Runs a command that ends, or takes up one that runs or ended while bgd was away.
    pub(super) async fn run_to_end(&self, phase: Phase, spec: &Spec) -> Result<CommandExit, Failure> {
        let handle = self.taken_up_or_started(phase, spec).await?;
        Ok(self.to_end(&handle).await)
    }

    async fn taken_up_or_started(&self, phase: Phase, spec: &Spec) -> Result<Handle, Failure> {
        let found =
            self.commands.shim(&spec.role, &spec.release).await.map_err(|err| trouble(phase, &err))?;
        match found {
            Some(handle) => Ok(handle),
            None => self.commands.shims.start(spec).await.map_err(|err| not_started(phase, &err, spec)),
        }
    }

    async fn to_end(&self, handle: &Handle) -> CommandExit {
        let exit = handle.exited().await;
        // C3: processes that the command left behind end too; the exit is the command's own.
        handle.ended().await;
        if let Err(err) = handle.forget().await {
            tracing::warn!(app = %self.settings.name, err = %chain(&err), "a finished shim was not forgotten");
        }
        exit
    }
}

/// An exit that was forced from outside says nothing against the commit (promise A10).
pub(super) fn nature(exit: CommandExit) -> Nature {
    if exit.is_from_outside() { Nature::Transient } else { Nature::Deterministic }
}

/// How the run of a hook or a task ended, with its last lines.
fn ended(told: &Told, (phase, nature): (Phase, Nature), (spec, exit): (&Spec, CommandExit)) -> Ran {
    let tail = shown(&spec.log.path);
    let failure = failed(told, (phase, nature), (Some(spec), exit), &tail);
    Ran { outcome: outcome(exit), exit: code(exit), attempt: 1, tail, failure }
}

fn failed(
    told: &Told,
    (phase, nature): (Phase, Nature),
    (spec, exit): (Option<&Spec>, CommandExit),
    tail: &[String],
) -> Option<Failure> {
    if exit.success() {
        return None;
    }
    let limit = spec.and_then(|spec| spec.time_limit);
    let cause = match limit.filter(|_| exit.timed_out) {
        Some(limit) => format!("{} was still running after {limit:?} and was ended", told.what),
        None => format!("{} failed: {exit}", told.what),
    };
    let failure =
        Failure { hint: Some(told.hint.clone()), log_tail: tail.to_vec(), ..failure(phase, nature, cause) };
    Some(match spec {
        Some(spec) => explained(failure, (&spec.argv, &spec.cwd, &spec.env), exit, "then `bgd deploy`"),
        None => failure,
    })
}

fn outcome(exit: CommandExit) -> TaskOutcome {
    match exit.how {
        _ if exit.timed_out => TaskOutcome::TimedOut,
        ExitKind::Code(0) => TaskOutcome::Done,
        ExitKind::Unknown => TaskOutcome::Unknown,
        ExitKind::Code(_) | ExitKind::Signal(_) => TaskOutcome::Failed,
    }
}

fn code(exit: CommandExit) -> Option<i32> {
    match exit.how {
        ExitKind::Code(code) if !exit.timed_out => Some(code),
        ExitKind::Code(_) | ExitKind::Signal(_) | ExitKind::Unknown => None,
    }
}

/// The last lines of a run, each of a bounded length.
fn shown(log: &std::path::Path) -> Vec<String> {
    tail(log).iter().map(|line| shortened(line, LINE)).collect()
}
