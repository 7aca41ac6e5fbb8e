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

/// The least time over which processor use is measured: a shorter one shows chance.
const CPU_WINDOW: Duration = Duration::from_secs(1);

/// Handles by color and number.
#[derive(Debug, Default)]
pub struct Known(Mutex<KnownTable>);

#[derive(Debug, Default)]
struct KnownTable {
    running: BTreeMap<Slot, RunningInstance>,
    /// The release and number of instances last started on each color; kept when they end.
    given: BTreeMap<Color, (ReleaseId, u16)>,
    /// The addresses of instances that the front passes over.
    resting: Vec<Address>,
    patience: Patience,
}

#[derive(Debug)]
struct RunningInstance {
    handle: Handle,
    proven: bool,
    healthy: Option<bool>,
    /// The processes that ran before the start; empty for an instance that was found running.
    bystanders: Arc<Bystanders>,
    sample: Option<CpuSample>,
    /// Whether it was healthy at any time since its start.
    answered: bool,
    /// Why it is being ended, if because it hung.
    blamed: Option<String>,
}

/// The processor time at one look, and the percentage shown then.
#[derive(Debug, Clone, Copy)]
struct CpuSample {
    at: Instant,
    cpu: Duration,
    percent: f64,
}

/// The resource use of one instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Resident memory of its processes, in bytes.
    pub memory_bytes: u64,
    /// Processor time in percent of one core since the last look, or since the start at the first look.
    pub cpu_percent: f64,
}

/// The status of a running instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InstanceStatus {
    /// Its main process; for one that went into the background, the oldest process left there.
    pub pid: Option<i32>,
    /// The last health check; `None` before the first.
    pub healthy: Option<bool>,
    /// Its resource use; `None` until somebody asks.
    pub measured: Option<Measured>,
}

impl Known {
    /// The instance in a slot.
    pub fn at(&self, slot: Slot) -> Option<Handle> {
        self.lock().running.get(&slot).map(|running| running.handle.clone())
    }

    /// All running instances.
    pub fn all(&self) -> Vec<(Slot, Handle)> {
        let known = self.lock();
        known.running.iter().map(|(slot, running)| (*slot, running.handle.clone())).collect()
    }

    /// Whether an instance runs on a color.
    pub fn any_on(&self, color: Color) -> bool {
        self.lock().on(color).next().is_some()
    }

    /// The release that runs on a color.
    pub fn release_on(&self, color: Color) -> Option<ReleaseId> {
        self.lock().on(color).next().map(|running| running.handle.release().clone())
    }

    /// The number of instances that the release was last given on a color; `None` if unknown.
    pub fn given(&self, color: Color, release: &ReleaseId) -> Option<u16> {
        let known = self.lock();
        known.given.get(&color).filter(|(given, _)| given == release).map(|(_, number)| *number)
    }

    /// The number of instances last started on a color, of any release; 0 if unknown.
    pub fn last_given(&self, color: Color) -> u16 {
        self.lock().given.get(&color).map_or(0, |(_, number)| *number)
    }

    /// The number of instances last started on each color.
    pub fn all_given(&self) -> BTreeMap<Color, u16> {
        self.lock().given.iter().map(|(color, (_, number))| (*color, *number)).collect()
    }

    /// Adds a running instance; one that is known already keeps its health.
    pub fn put(&self, slot: Slot, handle: Handle) {
        let mut known = self.lock();
        let given = (handle.release().clone(), handle.siblings());
        known.given.insert(slot.color, given);
        if known.running.get(&slot).is_none_or(|running| running.handle.id() != handle.id()) {
            let bystanders = Arc::default();
            let running = RunningInstance {
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

    /// Adds an instance that was just started, with the processes that ran before.
    pub fn put_new(&self, slot: Slot, handle: Handle, bystanders: Arc<Bystanders>) {
        self.put(slot, handle);
        if let Some(running) = self.lock().running.get_mut(&slot) {
            running.bystanders = bystanders;
        }
    }

    /// The processes that ran before the instance with this shim was started.
    pub fn bystanders(&self, slot: Slot, shim: &str) -> Arc<Bystanders> {
        self.lock().with_shim(slot, shim).map(|running| running.bystanders.clone()).unwrap_or_default()
    }

    /// Notes that the instance with this shim was healthy.
    pub fn prove(&self, slot: Slot, shim: &str) {
        if let Some(running) = self.lock().with_shim(slot, shim) {
            (running.proven, running.healthy, running.answered) = (true, Some(true), true);
        }
    }

    /// Notes an instance's health; true if it changed.
    pub fn note_health(&self, slot: Slot, healthy: Option<bool>) -> bool {
        let mut known = self.lock();
        let Some(running) = known.running.get_mut(&slot) else { return false };
        running.answered |= healthy == Some(true);
        healthy.is_some() && std::mem::replace(&mut running.healthy, healthy) != healthy
    }

    /// Sets the addresses that the front passes over; true if the front has to be told.
    pub(crate) fn rest(&self, addresses: &[Address]) -> bool {
        let mut known = self.lock();
        let told = !known.resting.is_empty() || !addresses.is_empty();
        known.resting = addresses.to_vec();
        told
    }

    /// Marks an instance as hung, and returns it if it may be ended now: one at a time, ever more rarely, and none that
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

    /// Takes the mark back: the instance with this shim was not ended.
    pub(crate) fn acquit(&self, slot: Slot, shim: &str) {
        if let Some(running) = self.lock().with_shim(slot, shim) {
            running.blamed = None;
        }
    }

    /// Why the instance with this shim was ended, if because it hung.
    pub(crate) fn blamed(&self, slot: Slot, shim: &str) -> Option<String> {
        self.lock().with_shim(slot, shim)?.blamed.clone()
    }

    /// Whether that release runs on the color, and all instances there were healthy.
    pub fn are_proven(&self, color: Color, release: &ReleaseId) -> bool {
        let known = self.lock();
        let proven = |running: &RunningInstance| running.proven && running.handle.release() == release;
        known.on(color).next().is_some() && known.on(color).all(proven)
    }

    /// Removes the instance with this shim; a newer one in its place stays.
    pub fn remove(&self, slot: Slot, shim: &str) {
        let mut known = self.lock();
        if known.with_shim(slot, shim).is_some() {
            known.running.remove(&slot);
        }
    }

    /// The status of all running instances.
    pub fn seen(&self) -> BTreeMap<Slot, InstanceStatus> {
        let known = self.lock();
        let seen = |running: &RunningInstance| InstanceStatus {
            pid: running.handle.main_pid(),
            // A hung instance that is being ended answers nobody, even if its last answer was good.
            healthy: if running.blamed.is_some() { Some(false) } else { running.healthy },
            measured: None,
        };
        known.running.iter().map(|(slot, running)| (*slot, seen(running))).collect()
    }

    /// The resource use of each instance with living processes. Reads /proc: for a blocking thread.
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

    fn lock(&self) -> MutexGuard<'_, KnownTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownTable {
    fn on(&self, color: Color) -> impl Iterator<Item = &RunningInstance> {
        self.running.iter().filter(move |(slot, _)| slot.color == color).map(|(_, running)| running)
    }

    fn with_shim(&mut self, slot: Slot, shim: &str) -> Option<&mut RunningInstance> {
        self.running.get_mut(&slot).filter(|running| running.handle.id() == shim)
    }
}

impl RunningInstance {
    fn measured(&mut self, used: Usage, now: Instant) -> Measured {
        let percent =
            |cpu: Duration, over: Duration| 100.0 * cpu.as_secs_f64() / over.as_secs_f64().max(0.001);
        let sample = match self.sample {
            Some(last) if now.duration_since(last.at) < CPU_WINDOW => last,
            // Processes that ended in between take their processor time out of the sum.
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
