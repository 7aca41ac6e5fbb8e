//! The workers of an app: processes without a port that work for the live release. Started, told to take no new work,
//! told to leave, started again with growing pauses. Called by the engine, which says whose workers are to work; what
//! follows from that for the ones that are found is decided in `rules::workers`.
//!
//! Nothing here waits for the end of a worker that leaves: its shim keeps the deadline, also while bgd is away.
//!
//! - `look`: which processes there are, and what it means that one has ended
//! - `start`: one process, under a shim
//! - `seen`: what status shows

mod look;
mod seen;
mod start;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

use self::look::Found;
pub(crate) use self::seen::recorded;
pub use self::seen::{LeavingSeen, WorkerInstanceSeen, WorkerSeen};
use crate::{
    command::{AppCommands, trouble},
    config::settings::AppSettings,
    os::errors::chain,
    rules::{
        ids::{DeployId, ReleaseId},
        words::{EventKind, Failure, Phase},
        workers::{WantedWorkers, WorkerOrder, WorkerPlan, WorkerSlot, orders},
    },
    shim::Handle,
    store::AppRecord,
};

/// Between `quiet` and `stop`: two signals that wait together may reach a process in the wrong order.
const QUIET_FIRST: Duration = Duration::from_millis(200);
/// How long a shim may take to note that its worker was told to leave; normally a millisecond.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// Between two looks at that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The most looks of one pass.
const ROUNDS: u32 = 8;
/// Between two passes while the shims can't be listed, or when there was no end to what is to be done.
const PASS_AGAIN: Duration = Duration::from_secs(1);

/// What happened to workers, for the engine.
#[derive(Debug)]
pub(crate) enum WorkerNews {
    /// A worker ended by itself, and not with exit code 0.
    Died {
        worker: WorkerSlot,
        release: ReleaseId,
        /// Exit code or signal, for people.
        how: String,
        /// The end of its log.
        last_words: Vec<String>,
    },
    /// A worker that was told to leave has ended.
    Left(ReleaseId),
    /// Status shows something else now.
    Seen,
}

/// The workers of one app.
#[derive(Debug)]
pub(crate) struct Workers {
    settings: Arc<AppSettings>,
    commands: AppCommands,
    record: AppRecord,
    /// Workers were found that no configuration names any more.
    left_over: AtomicBool,
    /// One pass at a time.
    turn: tokio::sync::Mutex<()>,
    book: Mutex<Book>,
    changed: Notify,
}

/// What one look at the workers led to.
enum Round {
    /// Something was done: a worker may have ended meanwhile, and is looked at again.
    Acted,
    /// There was nothing to do now; the next start is due then.
    Rested(Option<Instant>),
}

#[derive(Debug, Default)]
struct Book {
    /// `None` until the engine said it.
    wanted: Option<WantedWorkers>,
    /// Restarts of the wanted workers.
    tries: BTreeMap<(WorkerSlot, ReleaseId), Tries>,
    /// Tasks that wait for the end of a worker, by the id of its shim.
    ends: BTreeMap<String, JoinHandle<()>>,
    /// Tasks that see to it that a leaving worker ends, by the id of its shim.
    leaving: BTreeMap<String, JoinHandle<()>>,
    /// Shims of leaving workers that KILL ended, by their id.
    killed: BTreeSet<String>,
    /// Events that are not recorded yet, each with the deploy of its release.
    notes: Vec<(EventKind, DeployId, String)>,
    news: Vec<WorkerNews>,
    seen: Vec<WorkerSeen>,
}

/// The restarts of one worker of a release.
#[derive(Debug, Clone)]
struct Tries {
    /// Deaths in a row, without a long uptime in between.
    attempt: u32,
    /// All starts after the first.
    restarts: u32,
    not_before: Instant,
    /// How it ended last.
    how: Option<String>,
    /// When an end with exit code 0 was last put on record: a worker may end after each job.
    noted: Option<Instant>,
}

impl Workers {
    /// Knows of no worker yet.
    pub(crate) fn new(commands: AppCommands, record: AppRecord) -> Self {
        Self {
            settings: commands.settings.clone(),
            commands,
            record,
            left_over: AtomicBool::new(false),
            turn: tokio::sync::Mutex::default(),
            book: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Whether any are configured, or were found.
    pub(crate) fn are_any(&self) -> bool {
        !self.settings.workers.is_empty() || self.left_over.load(Ordering::Relaxed)
    }

    /// Notes that workers were found.
    pub(crate) fn note_found(&self) {
        self.left_over.store(true, Ordering::Relaxed);
    }

    /// Takes over whose workers are to work; a pass makes it so.
    pub(crate) fn want(&self, wanted: WantedWorkers) {
        self.book().wanted = Some(wanted);
    }

    /// What status shows.
    pub(crate) fn seen(&self) -> Vec<WorkerSeen> {
        self.book().seen.clone()
    }

    /// Looks after the workers until it is dropped; `tell` gets the news.
    pub(crate) async fn supervise(self: &Arc<Self>, tell: impl Fn(WorkerNews)) {
        loop {
            let next = match self.pass().await {
                Ok(next) => next,
                Err(failure) => {
                    tracing::warn!(app = %self.settings.name, cause = failure.cause, "the workers can't be looked after; bgd tries again");
                    Some(Instant::now() + PASS_AGAIN)
                }
            };
            let news = std::mem::take(&mut self.book().news);
            news.into_iter().for_each(&tell);
            let wait = next.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            // Both arms are cancel-safe: a permit of the notify is kept, and a sleep begins anew.
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Ends all tasks, and none of the workers.
    pub(crate) fn end(&self) {
        let mut book = self.book();
        let ends = std::mem::take(&mut book.ends).into_values();
        ends.chain(std::mem::take(&mut book.leaving).into_values()).for_each(|task| task.abort());
    }

    /// Makes it so that the wanted workers work, and wakes the supervision for what follows.
    ///
    /// # Errors
    /// When the shims can't be listed.
    pub(crate) async fn arrange(self: &Arc<Self>) -> Result<(), Failure> {
        let done = self.pass().await;
        self.changed.notify_one();
        done.map(drop)
    }

    /// The releases that workers use; their directories must stay.
    ///
    /// # Errors
    /// When the shims can't be listed.
    pub(crate) async fn in_use(&self) -> Result<Vec<ReleaseId>, Failure> {
        if !self.are_any() {
            return Ok(Vec::new());
        }
        let mut releases = Vec::new();
        for handle in self.commands.find_shims(Phase::Stopping).await? {
            let lives = match handle.role().worker() {
                Some(_) => handle.status().await.map_or(true, |status| !status.tree.is_empty()),
                None => false,
            };
            if lives {
                releases.push(handle.release().clone());
            }
        }
        Ok(releases)
    }

    /// One look and what follows from it; returns when the next start is due.
    async fn pass(self: &Arc<Self>) -> Result<Option<Instant>, Failure> {
        let _turn = self.turn.lock().await;
        let done = self.look_and_act().await;
        let notes = std::mem::take(&mut self.book().notes);
        for (kind, deploy, text) in notes {
            self.record.note(kind, Some(deploy), &text).await;
        }
        done
    }

    async fn look_and_act(self: &Arc<Self>) -> Result<Option<Instant>, Failure> {
        for _ in 0..ROUNDS {
            let found = self.look().await?;
            found.iter().for_each(|one| self.attend(one));
            let wanted = self.book().wanted.clone();
            let Some(wanted) = wanted else {
                self.show(&WantedWorkers::default(), &found);
                return Ok(None);
            };
            self.forget_tries(&wanted);
            let plans: Vec<WorkerPlan> = self.settings.workers.iter().map(|one| one.plan.clone()).collect();
            let workers: Vec<_> = found.iter().map(|one| one.worker.clone()).collect();
            let next = self.obey(&orders(&wanted, &plans, &workers), &found).await;
            self.show(&wanted, &found);
            if let Round::Rested(next) = next {
                return Ok(next);
            }
        }
        Ok(Some(Instant::now() + PASS_AGAIN))
    }

    /// Carries out what is due: first who leaves, then who starts.
    async fn obey(self: &Arc<Self>, orders: &[WorkerOrder], found: &[Found]) -> Round {
        let by_id = |id: &String| found.iter().find(|one| one.worker.id == *id);
        let (mut acted, mut quieted, mut next) = (false, false, None);
        let leave = orders.iter().filter_map(|order| match order {
            WorkerOrder::Leave(id) => by_id(id),
            WorkerOrder::Quiet(_) | WorkerOrder::Start(..) => None,
        });
        join_all(leave.map(|one| self.leave(one))).await;
        for order in orders {
            match order {
                WorkerOrder::Leave(_) => acted = true,
                WorkerOrder::Quiet(id) => quieted |= tell_to_be_quiet(by_id(id)).await,
                WorkerOrder::Start(slot, of) => match self.due((slot, &of.release.id), found) {
                    Some(at) if at > Instant::now() => next = next.into_iter().chain([at]).min(),
                    Some(_) => {
                        self.start(slot, of).await;
                        acted = true;
                    }
                    None => {}
                },
            }
        }
        if quieted {
            sleep(QUIET_FIRST).await;
        }
        if acted || quieted { Round::Acted } else { Round::Rested(next) }
    }

    /// When the worker may be started; `None` while a rest of its former processes is being ended.
    fn due(&self, (slot, release): (&WorkerSlot, &ReleaseId), found: &[Found]) -> Option<Instant> {
        let rest = |one: &Found| one.is_rest && one.worker.slot == *slot && one.worker.release == *release;
        if found.iter().any(rest) {
            return None;
        }
        let tries = self.book().tries.get(&(slot.clone(), release.clone())).map(|tries| tries.not_before);
        Some(tries.unwrap_or_else(Instant::now))
    }

    /// Tells a worker to leave; returns when its shim has noted that.
    async fn leave(self: &Arc<Self>, one: &Found) {
        let Found { handle, worker, .. } = one;
        if tell_to_be_quiet(Some(one)).await {
            sleep(QUIET_FIRST).await;
        }
        self.see_it_end(handle);
        let until = Instant::now() + TOLD_WITHIN;
        let mut ends_by_ms = None;
        while Instant::now() < until && ends_by_ms.is_none() {
            match handle.status().await {
                Ok(status) if status.tree.is_empty() => break,
                Ok(status) => ends_by_ms = status.ends_by_ms,
                Err(_) => {}
            }
            sleep(LOOK_AGAIN).await;
        }
        let (slot, of) = (&worker.slot, short(&worker.release));
        let grace = handle.grace().as_secs();
        let text = format!("worker {slot} of {of} was told to leave; it has {grace} s to finish its work");
        self.note(EventKind::WorkerLeaving, &worker.release, text);
    }

    /// Waits for the end of a leaving worker. A shim keeps the deadline by itself; for a worker whose shim was killed it
    /// is kept here.
    fn see_it_end(self: &Arc<Self>, handle: &Handle) {
        let (workers, handle) = (self.clone(), handle.clone());
        let mut book = self.book();
        book.leaving.entry(handle.id().to_owned()).or_insert_with(|| {
            tokio::spawn(async move {
                match handle.stop().await {
                    Ok(stopped) if stopped.killed => {
                        workers.book().killed.insert(handle.id().to_owned());
                    }
                    Ok(_) => {}
                    Err(err) => {
                        let (app, role) = (handle.app(), handle.role());
                        tracing::warn!(%app, %role, err = %chain(&err), "a worker that was to leave has not");
                    }
                }
                workers.changed.notify_one();
            })
        });
    }

    /// Waits for the end of a worker that was found.
    fn attend(self: &Arc<Self>, one: &Found) {
        if one.is_leaving() {
            self.see_it_end(&one.handle);
        }
        let (workers, handle) = (self.clone(), one.handle.clone());
        self.book().ends.entry(one.worker.id.clone()).or_insert_with(|| {
            tokio::spawn(async move {
                handle.ended().await;
                workers.changed.notify_one();
            })
        });
    }

    fn forget_tries(&self, wanted: &WantedWorkers) {
        let releases: Vec<&ReleaseId> =
            [&wanted.live, &wanted.watched].into_iter().flatten().map(|of| &of.release.id).collect();
        self.book().tries.retain(|(_, release), _| releases.contains(&release));
    }

    fn note(&self, kind: EventKind, release: &ReleaseId, text: String) {
        self.book().notes.push((kind, release.deploy(), text));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it was told just now.
async fn tell_to_be_quiet(one: Option<&Found>) -> bool {
    let Some(one) = one.filter(|one| one.takes_work()) else { return false };
    one.handle.quiet().await.unwrap_or_else(|err| {
        let (app, role) = (one.handle.app(), one.handle.role());
        tracing::warn!(%app, %role, err = %chain(&err), "a worker was not told to take no new work");
        false
    })
}

/// The short commit in a release's name.
fn short(release: &ReleaseId) -> &str {
    release.as_str().rsplit('-').next().unwrap_or_default()
}

fn list_failed(err: &dyn std::error::Error) -> Failure {
    trouble(Phase::Starting, err)
}
