//! Free space on the disk that releases lie on. When it is short, releases that nobody needs are deleted, of the app
//! that needs room and of its neighbours on that disk, and the work is tried again. So a build that fills the disk
//! stops no other deploy, and no operator has to delete what bgd itself can (promise J1).

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{
    interpreter::Interpreter,
    pruning::{RemovalTurn, Shelf},
    snapshot::Snapshot,
};
use crate::{
    command::{Places, failure},
    os::{blocking::blocking, errors::chain},
    release::{self, Removal, Space},
    rules::{
        effect::Action,
        event::Done,
        ids::{AppName, ReleaseId},
        retention::{self, Guarded, Thrift},
        words::{Failure, Nature, Phase},
    },
    worker::WorkerSeen,
};

/// Below this much free space a deploy is not begun: a checkout and a build would fail half way.
const ROOM: u64 = 64 << 20;
/// Likewise for inodes.
const ROOM_INODES: u64 = 2_000;
/// Phrases by which the system, libgit2 and the commands of an app report a full disk.
const FULL: [&str; 3] = ["No space left on device", "Disk quota exceeded", "disk quota exceeded"];
/// The hint when bgd has nothing left to delete.
const HINT: &str = "free some space, then `bgd deploy`; what is live serves on";

/// Groups of releases that may be deleted for room, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sacrifice {
    /// Remains of failed and abandoned releases.
    Remains,
    /// All releases except those that serve and those that a flip goes back to.
    Former,
}

impl Sacrifice {
    /// Both groups, in the order of deletion.
    pub(super) const ALL: [Self; 2] = [Self::Remains, Self::Former];
}

/// The apps of one daemon, which give room to each other.
#[derive(Debug, Default)]
pub struct Disk {
    /// Held while room is made, by one app at a time: what the first deletes may be enough for the second.
    turn: tokio::sync::Mutex<()>,
    apps: Mutex<BTreeMap<AppName, Lodger>>,
    /// Kept across reloads, because a removal that began before one may still be under way.
    removals: Mutex<BTreeMap<AppName, Arc<RemovalTurn>>>,
}

/// An app whose releases lie on a disk.
#[derive(Debug, Clone)]
struct Lodger {
    shelf: Shelf,
    removals: Arc<RemovalTurn>,
    seen: watch::Receiver<Snapshot>,
}

impl Disk {
    /// The app's lock on removals: one at a time.
    pub(super) fn removals(&self, app: &AppName) -> Arc<RemovalTurn> {
        let mut all = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(app.clone()).or_default().clone()
    }

    /// Allows the app's releases to be deleted when room is short, except those that `seen` says it needs.
    pub(super) fn enter(&self, app: &Interpreter, seen: watch::Receiver<Snapshot>) {
        let lodger = Lodger { shelf: app.shelf(), removals: app.removals.clone(), seen };
        self.apps().insert(app.settings.name.clone(), lodger);
    }

    /// Forbids it again: nothing tells any more which releases the app needs.
    pub(super) fn leave(&self, app: &AppName) {
        self.apps().remove(app);
    }

    /// The apps on this app's disk, the app itself first.
    fn lodgers(&self, app: &AppName, places: &Places) -> Vec<Lodger> {
        let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
        let here = device(&places.releases());
        let apps = self.apps();
        let (own, others): (Vec<_>, Vec<_>) = apps.iter().partition(|(name, _)| *name == app);
        let all = own.into_iter().chain(others).map(|(_, lodger)| lodger);
        all.filter(|lodger| device(&lodger.shelf.places.releases()) == here).cloned().collect()
    }

    fn apps(&self) -> MutexGuard<'_, BTreeMap<AppName, Lodger>> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lodger {
    /// Deletes this group of releases. True when something was deleted; an error is logged.
    fn give_up(&self, sacrifice: Sacrifice) -> bool {
        let app = &self.shelf.settings.name;
        self.deleted(sacrifice).unwrap_or_else(|err| {
            tracing::warn!(%app, err = %err, "no room could be made");
            false
        })
    }

    fn deleted(&self, sacrifice: Sacrifice) -> Result<bool, String> {
        let known = self.shelf.known().map_err(|err| chain(&err))?;
        let kept = self.shelf.kept(&known).map_err(|err| chain(&err))?;
        // Read after the list, so that it names every listed release that is needed by now.
        let guarded = {
            let seen = self.seen.borrow();
            if !seen.observed {
                return Ok(false);
            }
            let workers = seen.workers.iter().flat_map(WorkerSeen::releases).cloned();
            let needed = seen.app.needed_releases().into_iter().chain(workers).collect();
            Guarded { needed, ..Guarded::default() }
        };
        let guarded = self.shelf.with_runs(guarded).map_err(|err| chain(&err))?;
        let keep = self.shelf.settings.keep;
        let thrift = match sacrifice {
            Sacrifice::Remains => Thrift::Remains(keep),
            Sacrifice::Former => Thrift::Most,
        };
        let mut removal = Removal::at(&self.shelf.places);
        let gone = retention::to_delete(&kept, thrift, &guarded);
        let gone: Vec<ReleaseId> = gone.into_iter().filter(|id| self.removed(&mut removal, id)).collect();
        let ended = release::forget_leftovers(&self.shelf.places).map_err(|err| chain(&err))?;
        self.shelf.forget_gone(&known, &guarded).map_err(|err| chain(&err))?;
        Ok(!gone.is_empty() || !ended.is_empty())
    }

    fn removed(&self, removal: &mut Removal<'_>, release: &ReleaseId) -> bool {
        let app = &self.shelf.settings.name;
        match removal.remove(release) {
            Ok(()) => {
                tracing::warn!(%app, %release, "room is short: a release that is not needed was deleted")
            }
            Err(err) => {
                tracing::warn!(%app, %release, err = %chain(&err), "room is short, and a release could not be deleted");
                return false;
            }
        }
        true
    }
}

impl Interpreter {
    /// Carries out one action. On a full disk it makes room and tries again. Dropping the future abandons the action,
    /// and `Discard` finds what it left.
    pub async fn run(&self, action: &Action) -> Result<Done, Failure> {
        let mut left = Sacrifice::ALL.into_iter();
        loop {
            match self.carry_out(action).await {
                Err(failure) if may_be_repeated(action) && says_full(&failure.cause) => {
                    if !self.make_more_room(&mut left).await {
                        return Err(Failure { hint: Some(HINT.to_owned()), ..failure });
                    }
                }
                Err(failed) if runs_the_app(action) => return Err(self.with_owners(failed).await),
                done => return done,
            }
        }
    }

    /// Deletes the next group of `left` that frees something; false when none does.
    pub(super) async fn make_more_room(&self, left: &mut impl Iterator<Item = Sacrifice>) -> bool {
        for sacrifice in left {
            if self.make_room(sacrifice).await {
                return true;
            }
        }
        false
    }

    /// True when something was deleted.
    pub(super) async fn make_room(&self, sacrifice: Sacrifice) -> bool {
        let _turn = self.disk.turn.lock().await;
        let mut freed = false;
        for lodger in self.disk.lodgers(&self.settings.name, &self.places) {
            let turn = lodger.removals.take().await;
            freed |= blocking(move || {
                let _turn = turn;
                lodger.give_up(sacrifice)
            })
            .await;
            // Nobody needs remains, so those of all apps go; former releases are deleted only until there is room.
            if freed && sacrifice == Sacrifice::Former && has_room(&self.places) {
                break;
            }
        }
        freed
    }

    /// Makes room while the task waits to write the record; nothing waits for it.
    pub(super) fn make_room_for_record(self: &Arc<Self>) {
        let app = self.clone();
        tokio::spawn(async move {
            // If another app already makes room, that helps this one too.
            if app.disk.turn.try_lock().is_ok() {
                app.make_more_room(&mut Sacrifice::ALL.into_iter()).await;
            }
        });
    }

    /// Makes room for a checkout and a build, unless there is enough.
    pub(super) async fn check_room(&self) -> Result<(), Failure> {
        for sacrifice in Sacrifice::ALL {
            if has_room(&self.places) {
                return Ok(());
            }
            self.make_room(sacrifice).await;
        }
        match release::free_space(&self.places) {
            Ok(space) if !is_enough(&space) => Err(no_room(&self.places, &space)),
            Ok(_) => Ok(()),
            Err(err) => Err(crate::command::trouble(Phase::CheckingOut, &err)),
        }
    }
}

/// Excludes the app's builds and hooks, which can't resume what they began; `build` has a retry of its own.
fn may_be_repeated(action: &Action) -> bool {
    matches!(action, Action::Fetch { .. } | Action::CheckOut { .. } | Action::Start { .. })
}

fn runs_the_app(action: &Action) -> bool {
    matches!(action, Action::Build { .. } | Action::Start { .. } | Action::Probe { .. })
}

fn no_room(places: &Places, space: &Space) -> Failure {
    let (app, needed) = (places.app().display(), Space { bytes: ROOM, inodes: Some(ROOM_INODES) });
    let cause =
        format!("no room for a release in {app}: {} free, {} needed at least", said(space), said(&needed));
    Failure { hint: Some(HINT.to_owned()), ..failure(Phase::CheckingOut, Nature::Transient, cause) }
}

/// Adds to a failure of an app's command that its disk was full.
pub(super) fn for_want_of_room(places: &Places, failed: Failure) -> Failure {
    let free = release::free_space(places).map_or_else(|_| "no space".to_owned(), |space| said(&space));
    Failure {
        nature: Nature::Transient,
        cause: format!("{}; the disk of {} is full: {free} free", failed.cause, places.app().display()),
        hint: Some(format!("`bgd logs --build` shows all of its output; {HINT}")),
        ..failed
    }
}

fn said(space: &Space) -> String {
    let inodes = space.inodes.map_or_else(|| "enough".to_owned(), |inodes| inodes.to_string());
    format!("{} MiB and {inodes} inodes", space.bytes >> 20)
}

/// Whether the failure's cause or output reports a full disk.
pub(super) fn is_for_want_of_room(failed: &Failure) -> bool {
    failed.log_tail.iter().chain([&failed.cause]).any(|line| says_full(line))
}

/// Whether an error or a line of output says that the disk is full.
fn says_full(text: &str) -> bool {
    FULL.iter().any(|said| text.contains(said))
}

/// Whether a deploy fits. True if the disk does not answer: another check reports that.
pub(super) fn has_room(places: &Places) -> bool {
    release::free_space(places).map_or(true, |space| is_enough(&space))
}

fn is_enough(space: &Space) -> bool {
    space.bytes >= ROOM && space.inodes.is_none_or(|inodes| inodes >= ROOM_INODES)
}
