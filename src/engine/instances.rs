//! The instances of one app that run, by color and number: where their shims are found without asking the disk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    process::{Handle, Slot},
    rules::ids::{Color, ReleaseId},
};

/// Handles by color and number.
#[derive(Debug, Default)]
pub struct Instances(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    running: BTreeMap<Slot, Running>,
    /// How many a color was last given, and of which release; stays when they end.
    given: BTreeMap<Color, (ReleaseId, u16)>,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    proven: bool,
    healthy: Option<bool>,
}

/// What is shown of one that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its main process; of one that went into the background the oldest that it left there.
    pub pid: Option<i32>,
    /// The last health check; `None` before the first.
    pub healthy: Option<bool>,
}

impl Instances {
    /// One of them.
    pub fn at(&self, slot: Slot) -> Option<Handle> {
        self.lock().running.get(&slot).map(|running| running.handle.clone())
    }

    /// All of them.
    pub fn all(&self) -> Vec<(Slot, Handle)> {
        let known = self.lock();
        known.running.iter().map(|(slot, running)| (*slot, running.handle.clone())).collect()
    }

    /// Whether any runs on a color.
    pub fn any_on(&self, color: Color) -> bool {
        self.lock().on(color).next().is_some()
    }

    /// What runs on a color.
    pub fn release_on(&self, color: Color) -> Option<ReleaseId> {
        self.lock().on(color).next().map(|running| running.handle.release().clone())
    }

    /// How many of a release a color was given; `None`: that is not known.
    pub fn given(&self, color: Color, release: &ReleaseId) -> Option<u16> {
        let known = self.lock();
        known.given.get(&color).filter(|(given, _)| given == release).map(|(_, number)| *number)
    }

    /// How many a color was last given, of whatever; 0 when that is not known.
    pub fn last_given(&self, color: Color) -> u16 {
        self.lock().given.get(&color).map_or(0, |(_, number)| *number)
    }

    /// How many each color was last given.
    pub fn all_given(&self) -> BTreeMap<Color, u16> {
        self.lock().given.iter().map(|(color, (_, number))| (*color, *number)).collect()
    }

    /// An instance runs there now; whether it is any good is known only of one that was there before.
    pub fn put(&self, slot: Slot, handle: Handle) {
        let mut known = self.lock();
        let given = (handle.release().clone(), handle.siblings());
        known.given.insert(slot.color, given);
        if known.running.get(&slot).is_none_or(|running| running.handle.id() != handle.id()) {
            known.running.insert(slot, Running { handle, proven: false, healthy: None });
        }
    }

    /// The instance with this shim was healthy.
    pub fn prove(&self, slot: Slot, shim: &str) {
        if let Some(running) = self.lock().with_shim(slot, shim) {
            (running.proven, running.healthy) = (true, Some(true));
        }
    }

    /// What is known of an instance's health; answers whether that is news.
    pub fn note_health(&self, slot: Slot, healthy: Option<bool>) -> bool {
        let mut known = self.lock();
        let running = known.running.get_mut(&slot);
        healthy.is_some() && running.is_some_and(|it| std::mem::replace(&mut it.healthy, healthy) != healthy)
    }

    /// Whether instances of that release run there, and all of them were healthy.
    pub fn are_proven(&self, color: Color, release: &ReleaseId) -> bool {
        let known = self.lock();
        let proven = |running: &Running| running.proven && running.handle.release() == release;
        known.on(color).next().is_some() && known.on(color).all(proven)
    }

    /// The instance with this shim is gone; a newer one in its place stays.
    pub fn remove(&self, slot: Slot, shim: &str) {
        let mut known = self.lock();
        if known.with_shim(slot, shim).is_some() {
            known.running.remove(&slot);
        }
    }

    /// What is shown of those that run.
    pub fn seen(&self) -> BTreeMap<Slot, Seen> {
        let known = self.lock();
        let seen = |running: &Running| Seen { pid: running.handle.main_pid(), healthy: running.healthy };
        known.running.iter().map(|(slot, running)| (*slot, seen(running))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn on(&self, color: Color) -> impl Iterator<Item = &Running> {
        self.running.iter().filter(move |(slot, _)| slot.color == color).map(|(_, running)| running)
    }

    fn with_shim(&mut self, slot: Slot, shim: &str) -> Option<&mut Running> {
        self.running.get_mut(&slot).filter(|running| running.handle.id() == shim)
    }
}
