//! The instances of one app that run, by color and number: where their shims are found without asking the disk.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::hanging::Patience;
use crate::{
    instance::usage::{self, Usage},
    rules::{
        address::Address,
        ids::{Color, ReleaseId},
    },
    shim::{Bystanders, Handle, Slot},
};

/// The least time over which processor use is measured: shorter ones show chance.
const CPU_WINDOW: Duration = Duration::from_secs(1);

/// Handles by color and number.
#[derive(Debug, Default)]
pub struct Known(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    running: BTreeMap<Slot, Running>,
    /// How many a color was last given, and of which release; stays when they end.
    given: BTreeMap<Color, (ReleaseId, u16)>,
    /// Where those listen that the front passes over.
    resting: Vec<Address>,
    patience: Patience,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    proven: bool,
    healthy: Option<bool>,
    /// As they were before it was started; nothing is known of them for one that was found running.
    bystanders: Arc<Bystanders>,
    sample: Option<CpuSample>,
    /// It was healthy at some time since its start.
    answered: bool,
    /// Why it is being ended, where that is because it hung.
    blamed: Option<String>,
}

/// Processor time at one look, and what was shown then.
#[derive(Debug, Clone, Copy)]
struct CpuSample {
    at: Instant,
    cpu: Duration,
    percent: f64,
}

/// What one instance uses of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Resident memory of its processes, in bytes.
    pub memory_bytes: u64,
    /// Processor time in percent of one core, since the look before; at the first look since its start.
    pub cpu_percent: f64,
}

/// What is shown of one that runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Its main process; of one that went into the background the oldest that it left there.
    pub pid: Option<i32>,
    /// The last health check; `None` before the first.
    pub healthy: Option<bool>,
    /// What it uses; `None` until somebody asks.
    pub measured: Option<Measured>,
}

impl Known {
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
            let bystanders = Arc::default();
            let running = Running {
                handle,
                proven: false,
                healthy: None,
                bystanders,
                sample: None,
                answered: false,
                blamed: None,
            };
            known.running.insert(slot, running);
        }
    }

    /// An instance was started there, beside these.
    pub fn put_new(&self, slot: Slot, handle: Handle, bystanders: Arc<Bystanders>) {
        self.put(slot, handle);
        if let Some(running) = self.lock().running.get_mut(&slot) {
            running.bystanders = bystanders;
        }
    }

    /// The bystanders of the start of the instance with this shim.
    pub fn bystanders(&self, slot: Slot, shim: &str) -> Arc<Bystanders> {
        self.lock().with_shim(slot, shim).map(|running| running.bystanders.clone()).unwrap_or_default()
    }

    /// The instance with this shim was healthy.
    pub fn prove(&self, slot: Slot, shim: &str) {
        if let Some(running) = self.lock().with_shim(slot, shim) {
            (running.proven, running.healthy, running.answered) = (true, Some(true), true);
        }
    }

    /// What is known of an instance's health; answers whether that is news.
    pub fn note_health(&self, slot: Slot, healthy: Option<bool>) -> bool {
        let mut known = self.lock();
        let Some(running) = known.running.get_mut(&slot) else { return false };
        running.answered |= healthy == Some(true);
        healthy.is_some() && std::mem::replace(&mut running.healthy, healthy) != healthy
    }

    /// These are to be passed over by the front from now on; answers whether the front has to be told.
    pub(crate) fn rest(&self, addresses: &[Address]) -> bool {
        let mut known = self.lock();
        let told = !known.resting.is_empty() || !addresses.is_empty();
        known.resting = addresses.to_vec();
        told
    }

    /// The instance there hangs; answers with it if it may be ended now: one at a time, ever more rarely, and none that
    /// may still be starting.
    pub(crate) fn blame(&self, slot: Slot, why: &str, now: Instant) -> Option<Handle> {
        let mut known = self.lock();
        let busy = known.on(slot.color).any(|running| running.blamed.is_some());
        if busy || !known.patience.is_over(now) {
            return None;
        }
        let running = known.running.get_mut(&slot).filter(|running| running.answered)?;
        running.blamed = Some(why.to_owned());
        let handle = running.handle.clone();
        known.patience.one_was_ended(now);
        Some(handle)
    }

    /// The instance with this shim, if it is still there, was not ended after all.
    pub(crate) fn acquit(&self, slot: Slot, shim: &str) {
        if let Some(running) = self.lock().with_shim(slot, shim) {
            running.blamed = None;
        }
    }

    /// Why the instance with this shim was ended, where that is because it hung.
    pub(crate) fn blamed(&self, slot: Slot, shim: &str) -> Option<String> {
        self.lock().with_shim(slot, shim)?.blamed.clone()
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
        let seen = |running: &Running| Seen {
            pid: running.handle.main_pid(),
            // One that hung and is being ended answers nobody, whatever its last answer was.
            healthy: if running.blamed.is_some() { Some(false) } else { running.healthy },
            measured: None,
        };
        known.running.iter().map(|(slot, running)| (*slot, seen(running))).collect()
    }

    /// What each one uses; those of which nothing is left are not in it. Reads /proc: for a blocking thread.
    ///
    /// # Errors
    /// When /proc can't be read.
    pub fn measure(&self) -> io::Result<BTreeMap<Slot, Measured>> {
        let running = self.all();
        let shims: Vec<i32> = running.iter().map(|(_, handle)| handle.shim_pid()).collect();
        let used = usage::below(&shims)?;
        let mut known = self.lock();
        let measured = running.iter().filter_map(|(slot, handle)| {
            let used = used.get(&handle.shim_pid())?;
            let running = known.with_shim(*slot, handle.id())?;
            Some((*slot, running.measured(*used, Instant::now())))
        });
        Ok(measured.collect())
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn on(&self, color: Color) -> impl Iterator<Item = &Running> {
        self.running.iter().filter(move |(slot, _)| slot.color == color).map(|(_, running)| running)
    }

    fn with_shim(&mut self, slot: Slot, shim: &str) -> Option<&mut Running> {
        self.running.get_mut(&slot).filter(|running| running.handle.id() == shim)
    }
}

impl Running {
    fn measured(&mut self, used: Usage, now: Instant) -> Measured {
        let percent =
            |cpu: Duration, over: Duration| 100.0 * cpu.as_secs_f64() / over.as_secs_f64().max(0.001);
        let sample = match self.sample {
            Some(last) if now.duration_since(last.at) < CPU_WINDOW => last,
            // Processes that ended in between take their time with them.
            Some(last) => CpuSample {
                percent: percent(used.cpu.saturating_sub(last.cpu), now.duration_since(last.at)),
                at: now,
                cpu: used.cpu,
            },
            None => CpuSample { percent: percent(used.cpu, self.handle.age()), at: now, cpu: used.cpu },
        };
        self.sample = Some(sample);
        Measured { memory_bytes: used.memory_bytes, cpu_percent: (10.0 * sample.percent).round() / 10.0 }
    }
}
