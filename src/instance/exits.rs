//! Explains the end of an app's command: a script that can't be run, an app that gave up, or a start that handed the
//! app over to a manager and left. Called where a build, a hook or a start is waited for. A process that such a start
//! left on the color's port outside of every shim is ended here, or the port would be lost to it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Instances, starting::logs_of};
use crate::{
    command::{self, explained, failure, tail, trouble},
    config::{
        commands::{FOREGROUND, ProgramCall, calls, manager},
        settings::Start,
    },
    instance::strays::{self, Stray},
    process::ports,
    rules::{
        address::Address,
        ids::ReleaseId,
        words::{Failure, Nature, Phase},
    },
    shim::{CommandExit, Handle, Slot},
};

/// A start that ended well and left nothing may have handed the app over, which then takes a moment to listen.
const HANDED_OVER: Duration = Duration::from_secs(3);
/// Between two looks at the port.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A manager restarts a process that was ended within this time.
const STARTED_AGAIN: Duration = Duration::from_millis(500);
impl Instances {
    /// The failure of an instance that ended before it was healthy.
    pub(crate) async fn exited_early(
        &self,
        (handle, exit): (&Handle, CommandExit),
        command: &command::Command,
        last: Option<&String>,
    ) -> Failure {
        let cause = format!("the app ended before it was healthy: {exit}");
        let shown = format!("{} shows its output", logs_of(handle));
        let failure = Failure {
            hint: Some(format!("{shown}; push a fix")),
            log_tail: tail(handle.log()),
            ..failure(Phase::Probing, Nature::Deterministic, cause)
        };
        if exit.success() {
            return self.handed_over(handle, failure).await;
        }
        let ran = (&command.argv[..], command.cwd.as_path(), &command.env);
        let explained = explained(failure.clone(), ran, exit, &shown);
        match last.filter(|_| explained == failure) {
            Some(answer) => Failure { cause: format!("{}; last probe: {answer}", failure.cause), ..failure },
            None => explained,
        }
    }

    /// The start ended well and left nothing below its shim: which process has the port now?
    async fn handed_over(&self, handle: &Handle, failure: Failure) -> Failure {
        let Some(slot) = handle.role().slot() else { return failure };
        let address = self.settings.address_at(slot.color, slot.index);
        let until = Instant::now() + HANDED_OVER;
        while ports::listening_at(&address).is_ok_and(|inodes| inodes.is_empty()) && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
        let found = strays::at(&address).unwrap_or_default();
        let left = self.handed_on(handle, found.clone()).await;
        let cause = match (&left[..], &found[..]) {
            ([_, ..], _) => {
                let named = named(&left);
                let then = self.end_at(&address, &left).await;
                format!("start ended and had handed the app over to another process: {named}; {then}")
            }
            ([], [_, ..]) => format!(
                "start ended and had handed the app over: {} is now held by {}, which is not bgd's to stop",
                address.named(),
                named(&found)
            ),
            ([], []) => match self.manager_of_start() {
                Some(name) => format!("start ended: it only asked {name} to run the app somewhere else"),
                None => {
                    let shown = failure.hint.unwrap_or_default();
                    return Failure { hint: Some(format!("{FOREGROUND}; {shown}")), ..failure };
                }
            },
        };
        Failure { cause, hint: Some(format!("{FOREGROUND}; then `bgd deploy`")), ..failure }
    }

    /// The holders that this start left: in its directory, with its variables, or below another shim of the app and
    /// younger than the start (its port was free before).
    async fn handed_on(&self, handle: &Handle, found: Vec<Stray>) -> Vec<Stray> {
        let (directory, release) =
            (self.commands.places.release(handle.release()), handle.release().as_str());
        // Without the shims fewer holders are known to be ours.
        let shims = self.commands.shims.find(&self.settings.name).await.unwrap_or_default();
        let is_ours = |stray: &Stray| {
            let marked = stray.marks.as_ref();
            let below_ours = shims.iter().any(|shim| shim.owns(stray.pid));
            stray.directory.starts_with(&directory)
                || marked.is_some_and(|(app, id)| app == self.settings.name.as_str() && id == release)
                || below_ours && stray.age() <= handle.age()
        };
        found.into_iter().filter(is_ours).collect()
    }

    pub(crate) fn manager_of_start(&self) -> Option<&'static str> {
        match &self.settings.start {
            Start::Shell(line) => calls(line).iter().find_map(manager),
            Start::Argv(argv) => manager(&ProgramCall::of_argv(argv)),
        }
    }

    /// Ends holders of a port that are below no shim of its release, and reports the result.
    async fn end_at(&self, address: &Address, left: &[Stray]) -> String {
        tracing::warn!(app = %self.settings.name, pids = named(left), "ended: it held a port of the app below no shim");
        let ended = strays::end(left, self.settings.stop.grace).await;
        sleep(STARTED_AGAIN).await;
        let place = address.named();
        match (ended, strays::at(address).unwrap_or_default().first()) {
            (Ok(true), None) => format!("it was ended, and {place} is free again"),
            (Ok(true), Some(again)) => {
                format!("it was ended, and started again: {place} is held by {}", again.named)
            }
            (Ok(false), _) => format!("it does not end, and still holds {place}"),
            (Err(err), _) => format!("it can't be ended, and still holds {place}: {err}"),
        }
    }

    /// Before a start: ends holders of its address that an earlier start handed over and whose release no shim runs
    /// (D1).
    pub(crate) async fn end_strays(&self, slot: Slot, running: &BTreeSet<ReleaseId>) -> Result<(), Failure> {
        let address = self.settings.address_at(slot.color, slot.index);
        let below = self.commands.places.releases();
        let found = strays::at(&address).map_err(|err| trouble(Phase::Starting, &err))?;
        let (app, running) = (self.settings.name.as_str(), running);
        let left: Vec<Stray> =
            found.into_iter().filter(|stray| is_of_none(stray, (app, &below), running)).collect();
        if !left.is_empty() {
            self.end_at(&address, &left).await;
        }
        Ok(())
    }
}

/// Whether a process works in a release's directory, or has its variables, while no shim runs that release.
fn is_of_none(stray: &Stray, (app, releases): (&str, &Path), running: &BTreeSet<ReleaseId>) -> bool {
    let inside = stray.directory.strip_prefix(releases).ok();
    let by_directory = inside.and_then(|inside| inside.iter().next()?.to_str());
    let by_directory = by_directory.map(|name| name.trim_end_matches(" (deleted)"));
    let by_marks = stray.marks.as_ref().filter(|(of, _)| of == app).map(|(_, release)| release.as_str());
    // The directory is the process's own; the variables may come from a manager that passed them on.
    let release: Option<ReleaseId> = by_directory
        .and_then(|name| name.parse().ok())
        .or_else(|| by_marks.and_then(|name| name.parse().ok()));
    release.is_some_and(|release| !running.contains(&release))
}

fn named(all: &[Stray]) -> String {
    all.iter().map(|stray| stray.named.as_str()).collect::<Vec<_>>().join(", ")
}

/// The releases that shims run with a living main process.
pub(crate) fn running(shims: &[Handle]) -> BTreeSet<ReleaseId> {
    shims.iter().filter(|handle| handle.main_pid().is_some()).map(|handle| handle.release().clone()).collect()
}
