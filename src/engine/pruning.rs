//! Removes releases from the disk after a deploy, and finishes removals that were cut short. One removal at a time for
//! each app, off the async threads, by the newest list of needed releases. A release that can't be deleted is reported
//! and blocks nothing (promise J2). `disk` makes room for other apps.

use std::{
    io::ErrorKind,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OwnedMutexGuard;

use super::{disk, interpreter::Interpreter};
use crate::{
    command::{Places, failure, trouble},
    config::settings::AppSettings,
    os::{blocking::blocking, errors::chain},
    release::{self, AssetsOf, Removal},
    rules::{
        app::{Release, Serving},
        ids::{DeployId, ReleaseId},
        retention::{self, Guarded, KeptRelease, Thrift, Worth},
        words::{Failure, Fate, Nature, Phase},
    },
    store::{Store, StoreError},
};

/// Allows one removal at a time.
#[derive(Debug, Default)]
pub(super) struct RemovalTurn {
    taken: Arc<tokio::sync::Mutex<()>>,
    /// The number to keep and the releases needed after the newest deploy; taken by the next holder of the turn.
    newest: Mutex<Option<(NonZeroUsize, Guarded)>>,
}

impl RemovalTurn {
    /// Waits for the turn; the guard is kept for the whole removal, on any thread.
    pub(super) async fn take(&self) -> OwnedMutexGuard<()> {
        self.taken.clone().lock_owned().await
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, Option<(NonZeroUsize, Guarded)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interpreter {
    /// Deletes releases that retention does not keep. It may run late, while the next release is half made: releases
    /// newer than the decision stay.
    pub(super) async fn prune(&self, before: DeployId, protect: &[ReleaseId]) -> Result<(), Failure> {
        let mut needed = protect.to_vec();
        needed.extend(self.workers.in_use().await?);
        let guarded = Guarded { needed, since: Some(before) };
        *self.removals.newest() = Some((self.settings.keep, guarded));
        let turn = self.removals.take().await;
        let Some((keep, guarded)) = self.removals.newest().take() else {
            // A later deploy ended meanwhile, and its list was used.
            return Ok(());
        };
        let shelf = self.shelf();
        blocking(move || {
            let _turn = turn;
            let thrift = match disk::has_room(&shelf.places) {
                true => Thrift::None(keep),
                false => Thrift::Remains(keep),
            };
            let guarded = shelf.with_runs(guarded).map_err(|err| trouble(Phase::Stopping, &err))?;
            shelf.prune(thrift, &guarded)
        })
        .await
    }

    /// Finishes removals that were cut short when bgd ended.
    pub async fn end_removals(&self) {
        let (turn, shelf) = (self.removals.take().await, self.shelf());
        blocking(move || {
            let _turn = turn;
            let app = &shelf.settings.name;
            match release::forget_leftovers(&shelf.places) {
                Ok(ended) => ended.iter().for_each(|release| {
                    tracing::info!(%app, %release, "the removal of a release that was cut short is done");
                }),
                Err(err) => {
                    tracing::warn!(%app, err = %chain(&err), "what a removal left behind could not be removed; the next deploy's end tries again");
                }
            }
        })
        .await;
    }

    pub(super) fn shelf(&self) -> Shelf {
        Shelf { places: self.places.clone(), store: self.store.clone(), settings: self.settings.clone() }
    }
}

/// The releases of one app, on disk and in the record.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub(super) places: Places,
    pub(super) store: Arc<Store>,
    pub(super) settings: Arc<AppSettings>,
}

impl Shelf {
    /// Deletes releases that retention does not keep, and forgets releases whose directories are gone.
    fn prune(&self, thrift: Thrift, guarded: &Guarded) -> Result<(), Failure> {
        let mut left: Vec<String> =
            release::forget_leftovers(&self.places).err().iter().map(|e| chain(e)).collect();
        let known = self.known().map_err(|err| trouble(Phase::Stopping, &err))?;
        let kept = self.kept(&known).map_err(|err| trouble(Phase::Stopping, &err))?;
        let mut removal = Removal::at(&self.places);
        for release in retention::to_delete(&kept, thrift, guarded) {
            left.extend(removal.remove(&release).err().iter().map(|err| chain(err)));
        }
        left.extend(self.prune_assets(&known, guarded).err().iter().map(|err| chain(err)));
        self.forget_gone(&known, guarded).map_err(|err| trouble(Phase::Stopping, &err))?;
        self.store.tidy().map_err(|err| trouble(Phase::Stopping, &err))?;
        if left.is_empty() {
            return Ok(());
        }
        let cause = format!("old releases could not be deleted: {}", left.join("; "));
        let hint = "end what uses them, or delete them by hand; the next deploy's end tries again".to_owned();
        Err(Failure { hint: Some(hint), ..failure(Phase::Stopping, Nature::Transient, cause) })
    }

    /// Adds the releases in which scheduled runs go on.
    pub(super) fn with_runs(&self, mut guarded: Guarded) -> Result<Guarded, StoreError> {
        let running = self.store.unfinished_crons(&self.settings.name)?;
        guarded.needed.extend(running.into_iter().filter_map(|run| run.release));
        Ok(guarded)
    }

    /// Removes files of former releases that are no longer asked for.
    fn prune_assets(&self, known: &[(Release, Fate)], guarded: &Guarded) -> Result<(), release::BuildError> {
        let Some(assets) = &self.settings.assets else { return Ok(()) };
        // While the record can't be read, nothing is removed.
        let Ok(state) = self.store.app(&self.settings.name) else { return Ok(()) };
        let live = match state.map(|state| state.serving) {
            Some(Serving::Live(live) | Serving::OutOfService(live)) => Some(live.release.id),
            Some(Serving::Nothing) | None => None,
        };
        let newer = |id: &ReleaseId| guarded.since.is_some_and(|since| id.deploy() >= since);
        release::prune_assets(&self.places, assets, |id| {
            let recorded = known.iter().find(|(release, _)| release.id == *id).map(|(_, fate)| *fate);
            match recorded {
                _ if live.as_ref() == Some(id) || newer(id) => AssetsOf::Needed,
                Some(Fate::Good | Fate::RolledBack) => AssetsOf::WasLive,
                Some(Fate::Making | Fate::Failed | Fate::Superseded | Fate::Cancelled) | None => {
                    AssetsOf::NeverLive
                }
            }
        })
    }

    /// Recorded releases with their fates, newest first.
    pub(super) fn known(&self) -> Result<Vec<(Release, Fate)>, StoreError> {
        self.store.releases(&self.settings.name)
    }

    /// The releases on disk, each with its worth.
    pub(super) fn kept(&self, known: &[(Release, Fate)]) -> Result<Vec<KeptRelease>, release::BuildError> {
        let worth_of = |id: &ReleaseId| {
            let found = known.iter().find(|(release, _)| release.id == *id);
            found.map_or(Worth::Abandoned, |(_, fate)| Worth::from(*fate))
        };
        let on_disk = release::list_releases(&self.places)?.into_iter();
        Ok(on_disk
            .map(|found| KeptRelease {
                seq: found.release.deploy().0,
                worth: worth_of(&found.release),
                release: found.release,
            })
            .collect())
    }

    /// Forgets releases that are no longer on disk, with their build logs; the log of the newest failure stays.
    pub(super) fn forget_gone(
        &self,
        known: &[(Release, Fate)],
        guarded: &Guarded,
    ) -> Result<(), release::BuildError> {
        let on_disk: Vec<ReleaseId> =
            release::list_releases(&self.places)?.into_iter().map(|found| found.release).collect();
        let last_failed = known.iter().find(|(_, fate)| Worth::from(*fate) == Worth::Failed);
        for (Release { id, .. }, _) in known {
            let newer = guarded.since.is_some_and(|since| id.deploy() >= since);
            let wanted =
                newer || guarded.needed.contains(id) || last_failed.is_some_and(|(last, _)| last.id == *id);
            if wanted || on_disk.contains(id) {
                continue;
            }
            if let Err(err) = self.store.forget_release(&self.settings.name, id) {
                tracing::warn!(app = %self.settings.name, release = %id, err = %chain(&err), "a pruned release is still recorded");
            }
            self.forget_build_log(id);
            self.forget_runs(id);
        }
        Ok(())
    }

    /// Removes the logs of a release's hooks and tasks, and the claims of the tasks.
    fn forget_runs(&self, release: &ReleaseId) {
        let is_of = |name: &str| {
            let kind = name.starts_with("hook-") || name.starts_with("task-");
            let rest = name.split_once(&format!("-{release}.")).map(|(_, rest)| rest);
            kind && rest.is_some_and(|rest| rest == "begun" || rest == "log" || rest.starts_with("log."))
        };
        for dir in [self.places.logs(), self.places.run()] {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            let own = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_of));
            for path in own.map(|entry| entry.path()) {
                if let Err(err) = std::fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %err, "the log of a task could not be removed");
                }
            }
        }
    }

    fn forget_build_log(&self, release: &ReleaseId) {
        for suffix in ["log", "log.1"] {
            let path = self.places.logs().join(format!("build-{release}.{suffix}"));
            if let Err(err) = std::fs::remove_file(&path)
                && err.kind() != ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %err, "a build log could not be removed");
            }
        }
    }
}
