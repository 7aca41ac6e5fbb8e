//! The record of the fake daemon. In every schedule the state goes through the same text as in the database; in one
//! of [`crate::REAL_STORE`] it is the real store on a real file, written and read back beside a model of it, and cut
//! anywhere in its last commit when the power fails.

use std::{collections::BTreeMap, fs, path::Path};

use bgd::{
    engine::ledger::Entry,
    rules::{
        app::{App, Release},
        effect::Note,
        ids::{AppName, DeployId, EffectId, ReleaseId},
        retention::{KeptRelease, Worth},
        step::{Noted, Step},
        time::Time,
        words::{Fate, Outcome},
    },
    store::{Commit, Opened, Store},
};
use tempfile::TempDir;

/// What is to be recorded.
pub struct Transaction<'a> {
    pub now: Time,
    pub entry: &'a Entry,
    /// How many of the notes of steps that went unrecorded first a daemon with that defect leaves out.
    pub lost: usize,
}

struct Shelf {
    dir: TempDir,
    store: Store,
}

/// What is in the record, or should be.
#[derive(Default, Clone)]
struct Model {
    app: App,
    releases: BTreeMap<ReleaseId, (Release, Fate)>,
    deploys: BTreeMap<DeployId, Option<Outcome>>,
}

pub struct Record {
    model: Model,
    shelf: Option<Shelf>,
}

fn name() -> AppName {
    "shop".parse().unwrap()
}

fn text(error: impl std::fmt::Display) -> String {
    format!("the record: {error}")
}

impl Shelf {
    /// In memory where that is possible: a flush of it costs nothing.
    fn new() -> Result<Self, String> {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
        Self::open(dir.or_else(|_| TempDir::new()).map_err(text)?)
    }

    fn open(dir: TempDir) -> Result<Self, String> {
        match Store::open(dir.path(), Time(0)).map_err(text)? {
            (store, Opened::Usable) => Ok(Self { dir, store }),
            (_, Opened::MovedAside { why, .. }) => Err(format!("the record could not be used: {why}")),
        }
    }

    fn log_length(&self) -> u64 {
        fs::metadata(self.dir.path().join("bgd.db-wal")).map_or(0, |meta| meta.len())
    }

    /// As a machine finds it whose power failed: no connection was closed, and the log ends after `length` bytes.
    fn after_power_loss(self, length: u64) -> Result<Self, String> {
        let new = Self::new()?.dir;
        for file in ["bgd.db", "bgd.db-wal"] {
            let (from, to) = (self.dir.path().join(file), new.path().join(file));
            if from.exists() {
                fs::copy(&from, &to).map_err(text)?;
            }
        }
        let log = new.path().join("bgd.db-wal");
        if log.exists() {
            let log = fs::OpenOptions::new().write(true).open(log).map_err(text)?;
            log.set_len(length).map_err(text)?;
        }
        Self::open(new)
    }
}

impl Record {
    pub fn new(real: bool) -> Self {
        let shelf = real.then(|| Shelf::new().unwrap_or_else(|why| panic!("{why}")));
        Self { model: Model::default(), shelf }
    }

    pub fn last_effect(&self) -> EffectId {
        self.model.app.last_effect
    }

    /// The state in it.
    pub fn app(&self) -> &App {
        &self.model.app
    }

    pub fn commit(&mut self, transaction: &Transaction<'_>) -> Result<(), String> {
        let Transaction { now, entry, lost } = *transaction;
        let Step { next, effects, .. } = entry.step();
        let journaled = serde_json::to_string(next).map_err(text)?;
        let back: App = serde_json::from_str(&journaled).map_err(text)?;
        if back != *next {
            return Err("the record does not give the state back".to_owned());
        }
        self.model.take(back, entry.notes());
        let Some(shelf) = &self.shelf else { return Ok(()) };
        let (app, event, notes) = (&name(), entry.event(), &entry.notes()[lost..]);
        shelf.store.commit(&Commit { app, now, event, next, effects, notes, act: None }).map_err(text)?;
        Ok(())
    }

    /// The power fails while this is written: it is in the record, or it is not.
    pub fn commit_torn(&mut self, transaction: &Transaction<'_>, chance: u64) -> Result<(), String> {
        let before = self.model.clone();
        let length = self.shelf.as_ref().map_or(0, Shelf::log_length);
        self.commit(transaction)?;
        let Some(shelf) = self.shelf.take() else {
            if chance.is_multiple_of(2) {
                self.model = before;
            }
            return Ok(());
        };
        let written = shelf.log_length().saturating_sub(length);
        // A log that did not grow was begun anew, over blocks that exist: what was written there is complete.
        let cut = if written == 0 { shelf.log_length() } else { length + chance % (written + 1) };
        let shelf = shelf.after_power_loss(cut)?;
        let found = shelf.store.app(&name()).map_err(text)?.unwrap_or_default();
        if found == before.app {
            self.model = before;
        } else if found != self.model.app {
            return Err("after a power cut in a commit the record is neither the old nor the new".to_owned());
        }
        self.shelf = Some(shelf);
        Ok(())
    }

    /// Nothing was being written when the power failed.
    pub fn lose_power(&mut self) -> Result<(), String> {
        if let Some(shelf) = self.shelf.take() {
            let length = shelf.log_length();
            self.shelf = Some(shelf.after_power_loss(length)?);
        }
        Ok(())
    }

    /// What a daemon that starts reads: the state and the number of the next deploy.
    pub fn load(&mut self) -> Result<(App, DeployId), String> {
        let next = DeployId(self.model.deploys.last_key_value().map_or(0, |(id, _)| id.0) + 1);
        if let Some(Shelf { dir, store }) = self.shelf.take() {
            drop(store);
            let shelf = Shelf::open(dir)?;
            self.compare(&shelf.store, next)?;
            self.shelf = Some(shelf);
        }
        Ok((self.model.app.clone(), next))
    }

    fn compare(&self, store: &Store, next: DeployId) -> Result<(), String> {
        let model = &self.model;
        let state = store.app(&name()).map_err(text)?.unwrap_or_default();
        let releases = store.releases(&name()).map_err(text)?;
        let releases: BTreeMap<_, _> =
            releases.into_iter().map(|(release, fate)| (release.id.clone(), (release, fate))).collect();
        let deploys: BTreeMap<_, _> = store
            .history(Some(&name()), u32::MAX)
            .map_err(text)?
            .into_iter()
            .map(|deploy| (deploy.id, deploy.outcome))
            .collect();
        let next_recorded = store.next_deploy().map_err(text)?;
        if state != model.app {
            return Err(format!("the record lost its state: {state:?} instead of {:?}", model.app));
        }
        if releases != model.releases {
            return Err(format!("the record has the releases {releases:?} instead of {:?}", model.releases));
        }
        if deploys != model.deploys || next_recorded != next {
            return Err(format!("the record has the deploys {deploys:?} instead of {:?}", model.deploys));
        }
        Ok(())
    }

    pub fn known(&self) -> Vec<Release> {
        self.model.releases.values().map(|(release, _)| release.clone()).collect()
    }

    /// For retention: releases and how they ended up.
    pub fn kept<'a>(&self, on_disk: impl Iterator<Item = &'a ReleaseId>) -> Vec<KeptRelease> {
        let fate = |id: &ReleaseId| self.model.releases.get(id).map(|(_, fate)| *fate);
        let worth = |id: &ReleaseId| fate(id).map_or(Worth::Abandoned, Worth::from);
        on_disk.map(|id| KeptRelease { release: id.clone(), seq: id.deploy().0, worth: worth(id) }).collect()
    }

    pub fn forget_release(&mut self, id: &ReleaseId) -> Result<(), String> {
        self.model.releases.remove(id);
        match &self.shelf {
            Some(shelf) => shelf.store.forget_release(&name(), id).map_err(text),
            None => Ok(()),
        }
    }

    /// Whether it holds this state.
    pub fn is_of(&self, app: &App) -> bool {
        self.model.app == *app
    }
}

impl Model {
    fn take(&mut self, next: App, notes: &[Noted]) {
        self.app = next;
        for noted in notes {
            let deploy = noted.deploy.as_ref().map(|deploy| deploy.id);
            match &noted.note {
                Note::Queued(queued) => drop(self.deploys.insert(queued.id, None)),
                Note::QueueReplaced(queued) => {
                    self.deploys.insert(queued.id, Some(Outcome::Superseded));
                }
                Note::DeployStarted => {
                    if let Some(id) = deploy {
                        self.deploys.entry(id).or_insert(None);
                    }
                    self.name(noted);
                }
                Note::ReleaseNamed => self.name(noted),
                Note::WentLive { release, .. } => self.judge(&release.id, |_| Some(Fate::Good)),
                Note::DeployEnded(end) => {
                    self.deploys.extend(deploy.map(|id| (id, Some(end.outcome))));
                    let fate = Fate::from(end.outcome);
                    if let Some(release) = noted.release.as_ref().filter(|_| end.outcome != Outcome::Live) {
                        let worse = |was| was != Fate::Good || end.outcome == Outcome::RolledBack;
                        self.judge(&release.id, |was| worse(was).then_some(fate));
                    }
                }
                _ => {}
            }
        }
    }

    fn name(&mut self, noted: &Noted) {
        if let Some(release) = &noted.release {
            self.releases.entry(release.id.clone()).or_insert((release.clone(), Fate::Making));
        }
    }

    fn judge(&mut self, id: &ReleaseId, fate: impl Fn(Fate) -> Option<Fate>) {
        if let Some((_, was)) = self.releases.get_mut(id)
            && let Some(fate) = fate(*was)
        {
            *was = fate;
        }
    }
}
