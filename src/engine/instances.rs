//! The instances of one app that run, by color: where their shims are found without asking the disk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    process::Handle,
    rules::ids::{Color, ReleaseId},
};

/// Handles by color.
#[derive(Debug, Default)]
pub struct Instances(Mutex<BTreeMap<Color, Running>>);

#[derive(Debug)]
struct Running {
    handle: Handle,
    proven: bool,
}

impl Instances {
    /// The instance on a color.
    pub fn on(&self, color: Color) -> Option<Handle> {
        self.lock().get(&color).map(|running| running.handle.clone())
    }

    /// What runs on a color.
    pub fn release_on(&self, color: Color) -> Option<ReleaseId> {
        self.lock().get(&color).map(|running| running.handle.release().clone())
    }

    /// An instance runs there now; whether it is any good is not known.
    pub fn put(&self, color: Color, handle: Handle) {
        self.lock().insert(color, Running { handle, proven: false });
    }

    /// The instance with this shim was healthy.
    pub fn prove(&self, color: Color, shim: &str) {
        if let Some(running) = self.lock().get_mut(&color).filter(|running| running.handle.id() == shim) {
            running.proven = true;
        }
    }

    /// Whether an instance of that release runs there that was healthy.
    pub fn is_proven(&self, color: Color, release: &ReleaseId) -> bool {
        self.lock().get(&color).is_some_and(|running| running.proven && running.handle.release() == release)
    }

    /// The instance with this shim is gone; a newer one on the same color stays.
    pub fn remove(&self, color: Color, shim: &str) {
        let mut instances = self.lock();
        if instances.get(&color).is_some_and(|running| running.handle.id() == shim) {
            instances.remove(&color);
        }
    }

    /// Main processes by color; a daemonised instance is named by what its shim last knew.
    pub fn pids(&self) -> BTreeMap<Color, i32> {
        let lock = self.lock();
        lock.iter().filter_map(|(color, running)| Some((*color, running.handle.main_pid()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Color, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
