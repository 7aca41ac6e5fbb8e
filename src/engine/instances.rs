//! The instances of one app that run, by color: where their shims are found without asking the disk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{process::Handle, rules::ids::Color};

/// Handles by color.
#[derive(Debug, Default)]
pub struct Instances(Mutex<BTreeMap<Color, Handle>>);

impl Instances {
    /// The instance on a color.
    pub fn on(&self, color: Color) -> Option<Handle> {
        self.lock().get(&color).cloned()
    }

    /// An instance runs there now.
    pub fn put(&self, color: Color, handle: Handle) {
        self.lock().insert(color, handle);
    }

    /// The instance with this shim is gone; a newer one on the same color stays.
    pub fn remove(&self, color: Color, shim: &str) {
        let mut instances = self.lock();
        if instances.get(&color).is_some_and(|handle| handle.id() == shim) {
            instances.remove(&color);
        }
    }

    /// Main processes by color; a daemonised instance is named by what its shim last knew.
    pub fn pids(&self) -> BTreeMap<Color, i32> {
        self.lock().iter().filter_map(|(color, handle)| Some((*color, handle.main_pid()?))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Color, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
