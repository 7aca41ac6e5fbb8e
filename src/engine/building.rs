//! Effects before the start: the release directory and the build. Hooks and tasks are in `running`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    disk::{self, Sacrifice},
    interpreter::{Interpreter, git_failure},
    running::nature,
};
use crate::{
    command::{self, command_failure, explained, failure, tail, trouble},
    os::{blocking::blocking, errors::chain},
    release::{self, BuildError},
    rules::{
        app::Release,
        ids::{Color, ReleaseId},
        words::{EventKind, Failure, Fate, Nature, Phase},
    },
    shim::{LogSpec, Priority, Role, ShimError},
};

/// One build log: this much twice (the current file and one rotated), so that a gigabyte of output costs 20 MiB.
const BUILD_LOG: u64 = 10 << 20;
/// How long a shim takes at most from its start to its record, on a machine that is very busy.
const LATE_SHIM: Duration = Duration::from_secs(5);
/// Between two looks whether a release is still in use.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Interpreter {
    /// Makes and builds a release again if its directory was deleted: a flip back or a restart of the live release must
    /// not fail because an operator tidied the disk.
    pub(super) async fn restore(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let (places, id) = (self.places.clone(), release.id.clone());
        let standing = self.blocking(Phase::Starting, move || release::standing(&places, &id)).await?;
        if standing != release::Usability::Absent {
            return Ok(());
        }
        let (app, id) = (&self.settings.name, &release.id);
        self.record
            .note(EventKind::Trouble, None, &format!("{id} was deleted from the disk; it is built anew"))
            .await;
        let (places, user) = (self.places.clone(), self.settings.user.clone());
        let made = move || places.create().and_then(|()| places.give_to(user.as_deref()));
        self.blocking(Phase::Starting, made).await?;
        let built = async {
            self.fill(release, color).await?;
            self.build(release, color).await
        };
        built.await.map_err(|failed| {
            let commit = release.commit.as_str().get(..7).unwrap_or_default();
            let hint = format!("`bgd deploy {app} --rev {commit}` tries it as a deploy of its own");
            let hint = failed.hint.map_or(hint.clone(), |why| format!("{why}; {hint}"));
            let cause = format!("{id} was deleted from the disk and can't be built anew: {}", failed.cause);
            Failure { cause, hint: Some(hint), ..failed }
        })
    }

    /// Makes a fresh release directory: checks front and disk first, then gets the commit, caches, links and rewrites.
    pub(super) async fn check_out(&self, release: &Release, color: Color) -> Result<(), Failure> {
        self.front.preflight().await.map_err(|err| err.failure(Phase::CheckingOut))?;
        self.fill(release, color).await
    }

    async fn fill(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let phase = Phase::CheckingOut;
        self.check_room().await?;
        self.check_limits()?;
        self.clear_release(&release.id).await?;
        let context = self.commands.context(release, color);
        self.git
            .checkout(&release.commit, &context.release_dir())
            .await
            .map_err(|err| git_failure(phase, &err))?;
        let previous = self.newest_good(release);
        let cancelled = CancelOnDrop::default();
        let prepared = self
            .blocking(phase, {
                let settings = self.settings.clone();
                let cancel = cancelled.0.clone();
                move || release::prepare(&settings, &context, previous.as_ref(), &cancel)
            })
            .await?;
        if let Some(hint) = release::own_hint(&prepared.closed) {
            tracing::warn!(app = %self.settings.name, hint, "the app's user may not write all of shared");
        }
        for skipped in prepared.skipped {
            tracing::info!(app = %self.settings.name, path = %skipped.path.display(), why = skipped.why, "cache not copied");
        }
        Ok(())
    }

    /// Adds the owners of shared files that the app's user may not write to the hint: a build or start that fails
    /// because of them rarely says so.
    pub(super) async fn with_owners(&self, failed: Failure) -> Failure {
        let (settings, store) = (self.settings.clone(), self.places.shared());
        let look = move || release::closed_to(settings.user.as_deref(), &settings.shared, &store);
        let closed = blocking(look).await.unwrap_or_default();
        let Some(own) = release::own_hint(&closed) else { return failed };
        let hint = failed.hint.map_or(own.clone(), |hint| format!("{hint}; {own}"));
        Failure { hint: Some(hint), ..failed }
    }

    /// Removes what an earlier try left. Commands that an earlier run of bgd began there end first; a shim that was
    /// just being started then shows up a moment later.
    async fn clear_release(&self, release: &ReleaseId) -> Result<(), Failure> {
        let until = Instant::now() + LATE_SHIM;
        loop {
            self.end_work(release).await.map_err(|err| trouble(Phase::CheckingOut, &err))?;
            let (places, id) = (self.places.clone(), release.clone());
            match blocking(move || release::remove_release(&places, &id)).await {
                Err(BuildError::InUse { .. }) if Instant::now() < until => sleep(LOOK_AGAIN).await,
                removed => return removed.map(drop).map_err(|err| build_failure(Phase::CheckingOut, err)),
            }
        }
    }

    /// Ends the builds, hooks and tasks of the release.
    pub(super) async fn end_work(&self, release: &ReleaseId) -> Result<(), ShimError> {
        for handle in self.commands.shims.find(&self.settings.name).await? {
            match handle.role() {
                Role::Build | Role::Hook(_) | Role::Task(_) if handle.release() == release => {
                    handle.kill().await?;
                    handle.forget().await?;
                }
                Role::Build
                | Role::Hook(_)
                | Role::Task(_)
                | Role::Instance(_)
                | Role::Worker(_)
                | Role::Cron(_) => {}
            }
        }
        Ok(())
    }

    /// Checks that the limits can be kept, before anything is touched: one that silently does not hold would mislead.
    fn check_limits(&self) -> Result<(), Failure> {
        if !self.settings.limits.any() {
            return Ok(());
        }
        let Some(why) = self.commands.shims.limiter().obstacle() else { return Ok(()) };
        let cause = format!("the limits of {} can't be kept on this host: {why}", self.settings.name);
        let hint = "take `limits` out, or run bgd where systemd and cgroup v2 are; what is live serves on";
        Err(Failure {
            hint: Some(hint.to_owned()),
            ..failure(Phase::CheckingOut, Nature::Deterministic, cause)
        })
    }

    fn newest_good(&self, making: &Release) -> Option<ReleaseId> {
        let mut known = self.record.releases().into_iter();
        known
            .find(|(release, fate)| *fate == Fate::Good && release.id != making.id)
            .map(|(release, _)| release.id)
    }

    async fn blocking<T: Send + 'static, E: Into<BuildError> + Send + 'static>(
        &self,
        phase: Phase,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failure> {
        blocking(work).await.map_err(|err| build_failure(phase, err))
    }

    /// Builds. After a failure on a full disk, builds again in a fresh checkout, once for each time that room can be
    /// made.
    pub(super) async fn build(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let mut left = Sacrifice::ALL.into_iter();
        loop {
            let Err(failed) = self.build_once(release, color).await else { return Ok(()) };
            if disk::has_room(&self.places) && !disk::is_for_want_of_room(&failed) {
                return Err(failed);
            }
            if !self.make_more_room(&mut left).await {
                return Err(disk::for_want_of_room(&self.places, failed));
            }
            self.fill(release, color).await?;
        }
    }

    async fn build_once(&self, release: &Release, color: Color) -> Result<(), Failure> {
        let phase = Phase::Building;
        let context = self.commands.context(release, color);
        let command =
            command::build_command(&self.settings, &context).map_err(|err| build_failure(phase, err))?;
        let Some(command) = command else { return self.complete(release).await };
        let mut spec = self.commands.spec(Role::Build, release, command);
        spec.log = LogSpec { path: self.commands.build_log(&release.id), max_bytes: BUILD_LOG, keep: 1 };
        spec.time_limit = Some(self.settings.build_timeout);
        spec.priority = Priority::Background;
        let exit = self.run_to_end(phase, &spec).await?;
        if exit.success() {
            return self.complete(release).await;
        }
        let cause = if exit.timed_out {
            format!("the build was still running after {:?} and was ended", self.settings.build_timeout)
        } else {
            format!("the build failed: {exit}")
        };
        let failure = Failure {
            hint: Some("`bgd logs --build` shows all of its output; push a fix".to_owned()),
            log_tail: tail(&spec.log.path),
            ..failure(phase, nature(exit), cause)
        };
        let then = "`bgd logs --build` shows all of its output";
        Err(explained(failure, (&spec.argv, &spec.cwd, &spec.env), exit, then))
    }

    /// Marks the release complete once its files are on disk: after a power cut the record must not take a half-made
    /// release for a whole one (promise B10).
    async fn complete(&self, release: &Release) -> Result<(), Failure> {
        let (places, id, commit) = (self.places.clone(), release.id.clone(), release.commit.clone());
        self.blocking(Phase::Building, move || release::mark_complete(&places, &id, &commit)).await
    }
}

/// Ends work on a blocking thread when the effect that waits for it is abandoned.
#[derive(Debug, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(super) fn build_failure(phase: Phase, err: impl Into<BuildError>) -> Failure {
    match err.into() {
        BuildError::Command(err) => command_failure(phase, &err),
        err => {
            let nature = if err.is_transient() { Nature::Transient } else { Nature::Deterministic };
            let failure = failure(phase, nature, chain(&err));
            Failure { hint: err.hint().or(failure.hint), ..failure }
        }
    }
}
