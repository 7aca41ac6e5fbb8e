//! Many schedules on all cores; of those that fail the one with the least seed, cut down to the happenings that it
//! needs to fail.

use std::{
    fmt,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::{
    REAL_STORE,
    daemon::{Daemon, Setup},
    defects::Defect,
    figures::Figures,
    happening::{Happening, Schedule},
    rng::Rng,
};

/// Lines of progress in a run of more schedules than [`LONG`].
const LINES: u64 = 50;
/// Schedules from which on a run tells how far it is.
const LONG: u64 = 10_000;
/// Tries to leave something out before the rest is shown as it is.
const SHRINKING: usize = 3000;
/// Lines of a trace that are shown.
const SHOWN: usize = 250;

/// A schedule that broke an invariant.
pub struct Found {
    pub seed: u64,
    pub happenings: Vec<Happening>,
    pub what: String,
    trace: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.trace.len().saturating_sub(SHOWN);
        let whats: Vec<_> = self.happenings.iter().map(|happening| happening.what).collect();
        writeln!(f, "{}\n", self.trace[tail..].join("\n"))?;
        writeln!(f, "{} happenings: {whats:?}", whats.len())?;
        writeln!(f, "{}", self.what)?;
        write!(f, "replay with BGD_SIM_SEED={} cargo test --test simulator", self.seed)
    }
}

/// A search for a schedule that fails.
pub struct Campaign {
    defect: Defect,
    seeds: Range<u64>,
    shrinking: usize,
    next: AtomicU64,
    /// The least seed that failed so far.
    failed: AtomicU64,
    /// What it broke the first time.
    what: Mutex<String>,
    sum: Mutex<Figures>,
}

impl Campaign {
    pub fn new(defect: Defect, seeds: Range<u64>) -> Self {
        let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(u64::MAX));
        let (what, sum) = (Mutex::default(), Mutex::default());
        Self { defect, seeds, shrinking: SHRINKING, next, failed, what, sum }
    }

    /// Shows what it finds after so many tries to leave something out.
    pub fn shrinking(self, shrinking: usize) -> Self {
        Self { shrinking, ..self }
    }

    pub fn on_all_cores(self) -> Result<Figures, Box<Found>> {
        let cores = number_of_cores();
        thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| self.work());
            }
        });
        match self.failed.into_inner() {
            u64::MAX => Ok(self.sum.into_inner().unwrap()),
            seed => {
                Err(Box::new(shrink((seed, &self.what.into_inner().unwrap()), &self.defect, self.shrinking)))
            }
        }
    }

    fn work(&self) {
        let mut sum = Figures::default();
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            // A lesser seed than the one that failed is still tried: the same run finds the same schedule.
            if seed >= self.seeds.end || seed > self.failed.load(Ordering::Relaxed) {
                break;
            }
            let mut daemon = Life::of(seed).daemon(&self.defect);
            match survives(&Life::of(seed).schedule, &mut daemon) {
                Ok(()) => sum += daemon.figures,
                Err((_, what)) => self.note_failure(seed, what),
            }
            sum.schedules += 1;
            self.tell_progress(seed);
        }
        *self.sum.lock().unwrap() += sum;
    }

    fn note_failure(&self, seed: u64, what: String) {
        let mut first = self.what.lock().unwrap();
        if self.failed.fetch_min(seed, Ordering::Relaxed) > seed {
            *first = what;
        }
    }

    fn tell_progress(&self, seed: u64) {
        let all = self.seeds.end - self.seeds.start;
        let done = seed - self.seeds.start + 1;
        if all >= LONG && done.is_multiple_of(all / LINES) {
            println!("{done} of {all} schedules");
        }
    }
}

fn number_of_cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// All that a seed decides.
struct Life {
    setup: Setup,
    schedule: Schedule,
}

impl Life {
    fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut setup = Setup::new(&mut rng, seed.is_multiple_of(REAL_STORE));
        setup.policy.workers = seed % crate::WITH_WORKERS == 1;
        let schedule = Schedule::new(&mut rng, setup.bustle);
        Self { setup, schedule }
    }

    fn daemon(&self, defect: &Defect) -> Daemon {
        Daemon::new(self.setup.clone(), defect)
    }
}

/// Also a panic is an answer.
fn survives(schedule: &Schedule, daemon: &mut Daemon) -> Result<(), (usize, String)> {
    let run = AssertUnwindSafe(|| schedule.run(daemon));
    catch_unwind(run).unwrap_or_else(|_| Err((schedule.happenings.len(), "it panicked".to_owned())))
}

/// Leaves out whatever can be left out, in ever smaller pieces, as long as it still fails.
fn shrink((seed, what): (u64, &str), defect: &Defect, shrinking: usize) -> Found {
    let life = Life::of(seed);
    let fails = |happenings: &[Happening]| {
        survives(&life.schedule.of(happenings.to_vec()), &mut life.daemon(defect)).err()
    };
    let mut left = life.schedule.happenings.clone();
    let Some((length, _)) = fails(&left) else { panic!("seed {seed} is not reproducible: {what}") };
    if fails(&left[..length]).is_some() {
        left.truncate(length);
    }
    let (mut piece, mut tries) = (left.len().div_ceil(2).max(1), 0);
    while tries < shrinking {
        let (before, mut at) = (left.len(), 0);
        while at < left.len() && tries < shrinking {
            let mut fewer = left.clone();
            fewer.drain(at..(at + piece).min(left.len()));
            tries += 1;
            if fails(&fewer).is_some() { left = fewer } else { at += piece }
        }
        match (piece, left.len() < before) {
            (1, false) => break,
            (1, true) => {}
            _ => piece = piece.div_ceil(2),
        }
    }
    tell(seed, (&life, defect), left)
}

fn tell(seed: u64, (life, defect): (&Life, &Defect), happenings: Vec<Happening>) -> Found {
    let mut daemon = life.daemon(defect);
    daemon.trace = Some(Vec::new());
    let failed = survives(&life.schedule.of(happenings.clone()), &mut daemon);
    let (_, what) = failed.expect_err("a schedule is reproducible");
    let trace = daemon.trace.take().unwrap_or_default();
    Found { seed, happenings, what, trace }
}
