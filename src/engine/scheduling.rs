//! The schedules of one app, beside its machine: sleeps until the next due time, decides by `rules::cron`, records, and
//! starts the run in the release that is live at that moment. Takes up runs of a former daemon, and ends all runs when
//! the app is taken out of service. Started by `apps`; `bgd cron run` comes in as a [`Call`].

use std::{
    collections::BTreeMap,
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    app_task::{Inbox, Message},
    cron_run::{CronEnd, CronJob},
    interpreter::Interpreter,
    snapshot::{CronSeen, Snapshot},
};
use crate::{
    config::settings::CronSettings,
    os::{alarm, blocking::blocking, errors::chain},
    rules::{
        app::{Release, Serving},
        cron::{Decision, Missed, Occasion, Overlap},
        ids::{Color, CronName, CronRunId},
        time::{Stamp, Time},
        words::{CronOutcome, EventKind},
    },
    shim::{Handle, Role},
    store::{CronDue, CronMark, CronRow, StoreError, clock},
};

/// Between two tries to record what is due, and to sleep where the kernel gives no timer.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long a shim takes at most from its start to its record, on a machine that is very busy.
const LATE_SHIM: Duration = Duration::from_secs(5);
/// Between two looks for such a shim.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The way to an app's schedules.
pub type Calls = mpsc::UnboundedSender<Call>;

/// `bgd cron run`.
#[derive(Debug)]
pub struct Call {
    pub name: CronName,
    pub reply: oneshot::Sender<Result<Begun, NotBegun>>,
}

/// A run that was asked for by hand has begun.
#[derive(Debug)]
pub struct Begun {
    /// The release that it runs in.
    pub release: Release,
    /// Comes when it has ended; an error if the app's settings change or the daemon ends before.
    pub ended: oneshot::Receiver<CronEnd>,
}

/// Why a run that was asked for by hand did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    NothingLive,
    /// The app has schedules of these names.
    Unknown(Vec<CronName>),
    /// The former run goes on, and `overlap` says skip.
    Running {
        since: Time,
    },
    /// The record can't be written.
    Unrecorded(String),
}

/// The schedules of one app.
#[derive(Debug)]
pub(super) struct Scheduler {
    interpreter: Arc<Interpreter>,
    inbox: Inbox,
    seen: watch::Receiver<Snapshot>,
    calls: mpsc::UnboundedReceiver<Call>,
    /// Since when bgd runs and the app is in service.
    up_since: Time,
    handled: BTreeMap<CronName, Time>,
    running: Vec<Running>,
    jobs: JoinSet<CronRunId>,
    shown: Vec<CronSeen>,
    /// Told when a process of a run has started.
    progress: Arc<Notify>,
}

/// A run that has not ended.
#[derive(Debug)]
struct Running {
    id: CronRunId,
    name: CronName,
    handle: Arc<OnceLock<Handle>>,
}

impl Scheduler {
    /// `up_since` is when the daemon started: due times from then on were not missed.
    pub(super) fn new(
        interpreter: Arc<Interpreter>,
        (inbox, seen): (Inbox, watch::Receiver<Snapshot>),
        up_since: Time,
    ) -> (Self, Calls) {
        let (sender, calls) = mpsc::unbounded_channel();
        let scheduler = Self {
            interpreter,
            inbox,
            seen,
            calls,
            up_since,
            handled: BTreeMap::new(),
            running: Vec::new(),
            jobs: JoinSet::new(),
            shown: Vec::new(),
            progress: Arc::default(),
        };
        (scheduler, sender)
    }

    /// Works until the app's task ends.
    pub(super) async fn run(mut self) {
        if self.seen.wait_for(|snapshot| snapshot.observed).await.is_err() {
            return;
        }
        if let Err(err) = self.take_up().await {
            tracing::error!(app = %self.interpreter.settings().name, err = %chain(&err), "the schedules' former runs can't be read");
        }
        let mut live = self.live();
        if live.is_some() {
            self.come_into_service(Since::Daemon).await;
        }
        loop {
            let before = std::mem::replace(&mut live, self.live());
            if before.is_none() && live.is_some() {
                self.come_into_service(Since::Now).await;
            }
            let wake = match &live {
                Some(live) => self.look(live).await,
                None => None,
            };
            let out = is_out_of_service(&self.seen.borrow());
            if out {
                self.end_all("the app was taken out of service").await;
            }
            self.show(wake.is_some()).await;
            // All arms are cancel-safe: a timer, a watch that keeps its last value, a channel and a set that keep what
            // was not received.
            tokio::select! {
                () = until(wake) => {}
                changed = until_other(self.seen.clone(), live.as_ref(), out) => if !changed { return },
                () = self.progress.notified() => {}
                call = self.calls.recv() => match call {
                    Some(call) => self.answer(call).await,
                    None => return,
                },
                Some(ended) = self.jobs.join_next() => match ended {
                    Ok(id) => self.running.retain(|one| one.id != id),
                    Err(err) => tracing::error!(%err, "the task of a scheduled run panicked"),
                },
            }
        }
    }

    /// What a run needs of its app.
    fn parts(&self) -> (Arc<Interpreter>, Arc<Notify>) {
        (self.interpreter.clone(), self.progress.clone())
    }

    fn live(&self) -> Option<(Release, Color)> {
        self.seen.borrow().app.live().map(|live| (live.release.clone(), live.color))
    }

    /// Due times before the app was in service, or before a schedule was written as it is, are nobody's.
    async fn come_into_service(&mut self, since: Since) {
        let (settings, now) = (self.interpreter.settings().clone(), clock::now());
        let marks = match self.interpreter.store.cron_marks(&settings.name) {
            Ok(marks) => marks,
            Err(err) => {
                tracing::error!(app = %settings.name, err = %chain(&err), "it is not known which scheduled times were missed");
                BTreeMap::new()
            }
        };
        let recalls = since == Since::Daemon;
        if !recalls {
            self.up_since = now;
        }
        for cron in &settings.crons {
            let rule = &cron.rule;
            let new = CronMark::new(&rule.schedule, now);
            let known = marks.get(&rule.name).filter(|mark| recalls && mark.schedule == new.schedule);
            let handled = known.map_or(now, |mark| mark.handled);
            self.handled.insert(rule.name.clone(), handled);
            if known.is_none() {
                self.mark(&rule.name, new).await;
            }
        }
    }

    async fn mark(&self, name: &CronName, mark: CronMark) {
        let (store, app, name) =
            (self.interpreter.store.clone(), self.interpreter.settings().name.clone(), name.clone());
        if let Err(err) = blocking(move || store.mark_cron(&app, &name, &mark)).await {
            tracing::warn!(err = %chain(&err), "the time of a schedule was not recorded");
        }
    }

    /// Does what is due; returns when to look again.
    async fn look(&mut self, live: &(Release, Color)) -> Option<Time> {
        let (settings, now) = (self.interpreter.settings().clone(), clock::now());
        self.up_since = self.up_since.min(now);
        let mut wake: Option<Time> = None;
        for cron in &settings.crons {
            let name = &cron.rule.name;
            let handled = self.handled.get(name).copied().unwrap_or(now);
            let running = self.running.iter().any(|one| one.name == *name);
            let decision = cron.rule.decide(Occasion { handled, up_since: self.up_since, running, now });
            let next = match self.carry_out(cron, live, (decision, now)).await {
                Ok(()) => {
                    self.handled.insert(name.clone(), decision.handled);
                    cron.rule.next(decision.handled, now)
                }
                Err(err) => {
                    tracing::error!(app = %settings.name, cron = %name, err = %chain(&err), "a scheduled time can't be recorded, and nothing runs without a record");
                    Some(now.plus(TRY_AGAIN))
                }
            };
            wake = [wake, next].into_iter().flatten().min();
        }
        wake
    }

    async fn carry_out(
        &mut self,
        cron: &CronSettings,
        live: &(Release, Color),
        (decision, now): (Decision, Time),
    ) -> Result<(), StoreError> {
        let name = &cron.rule.name;
        if let Some(missed) = decision.missed {
            self.pass((cron, &live.0), (CronOutcome::Missed, missed.newest), now).await?;
            let text = match missed.count {
                1 => format!("{name} did not run at {}: bgd was not there", Stamp(missed.newest)),
                count => {
                    format!(
                        "{name} did not run at {count} times, the last {}: bgd was not there",
                        Stamp(missed.newest)
                    )
                }
            };
            self.interpreter.record.note(EventKind::CronMissed, None, &text).await;
        }
        if let Some(due) = decision.skipped {
            self.pass((cron, &live.0), (CronOutcome::Skipped, due), now).await?;
            let text = format!("{name} was not started at {}: the former run goes on", Stamp(due));
            self.interpreter.record.note(EventKind::CronSkipped, None, &text).await;
        }
        if let Some(due) = decision.run {
            let mark = CronMark::new(&cron.rule.schedule, decision.handled);
            self.begin(cron, live, (due, Some(mark))).await?;
        }
        Ok(())
    }

    /// Records a due time without a run.
    async fn pass(
        &self,
        (cron, release): (&CronSettings, &Release),
        (outcome, due): (CronOutcome, Time),
        now: Time,
    ) -> Result<(), StoreError> {
        let (store, app) = (self.interpreter.store.clone(), self.interpreter.settings().name.clone());
        let (name, release) = (cron.rule.name.clone(), release.id.clone());
        let mark = CronMark::new(&cron.rule.schedule, due);
        blocking(move || {
            store.pass_cron(
                &CronDue { app: &app, name: &name, release: &release, due },
                (outcome, now),
                &mark,
            )
        })
        .await
    }

    /// Records a run and starts it; with `overlap = "end"` after the former ones have ended. Nothing starts for a due
    /// time that has its run. Returns the way to its end.
    async fn begin(
        &mut self,
        cron: &CronSettings,
        (release, color): &(Release, Color),
        (due, mark): (Time, Option<CronMark>),
    ) -> Result<Option<oneshot::Receiver<CronEnd>>, StoreError> {
        let (store, app) = (self.interpreter.store.clone(), self.interpreter.settings().name.clone());
        let (name, id) = (cron.rule.name.clone(), release.id.clone());
        let begun = blocking(move || {
            store.begin_cron(&CronDue { app: &app, name: &name, release: &id, due }, mark.as_ref())
        });
        let Some(id) = begun.await? else { return Ok(None) };
        let former = match cron.rule.overlap {
            Overlap::End => self.let_go(|one| one.name == cron.rule.name).await,
            Overlap::Skip | Overlap::Allow => Vec::new(),
        };
        let job = CronJob::new(self.parts(), (id, cron.clone(), due));
        let handle = job.handle();
        let ended = job.begin(&mut self.jobs, (release.clone(), *color), former);
        self.running.push(Running { id, name: cron.rule.name.clone(), handle });
        Ok(Some(ended))
    }

    /// Records that these runs are ended by bgd, and returns what is to be stopped.
    async fn let_go(&self, which: impl Fn(&Running) -> bool) -> Vec<Handle> {
        let mut found = Vec::new();
        for one in self.running.iter().filter(|one| which(one)) {
            let (store, id) = (self.interpreter.store.clone(), one.id);
            if let Err(err) = blocking(move || store.ending_cron(id)).await {
                tracing::warn!(cron = %one.name, err = %chain(&err), "the end of a scheduled run was not recorded");
            }
            found.extend(one.handle.get().cloned());
        }
        found
    }

    /// Ends all runs, each within its grace.
    async fn end_all(&mut self, why: &'static str) {
        for handle in self.let_go(|_| true).await {
            tracing::info!(app = %self.interpreter.settings().name, role = %handle.role(), why, "a scheduled run is ended");
            tokio::spawn(async move {
                if let Err(err) = handle.stop().await {
                    tracing::warn!(role = %handle.role(), err = %chain(&err), "a scheduled run was not ended");
                }
            });
        }
    }

    async fn answer(&mut self, Call { name, reply }: Call) {
        let answer = self.begin_by_hand(&name).await;
        // The client may be gone; the run goes on all the same.
        let _gone = reply.send(answer);
    }

    async fn begin_by_hand(&mut self, name: &CronName) -> Result<Begun, NotBegun> {
        let settings = self.interpreter.settings().clone();
        let Some(cron) = settings.crons.iter().find(|cron| cron.rule.name == *name) else {
            return Err(NotBegun::Unknown(
                settings.crons.iter().map(|cron| cron.rule.name.clone()).collect(),
            ));
        };
        let Some(live) = self.live() else { return Err(NotBegun::NothingLive) };
        let former = self.running.iter().find(|one| one.name == *name);
        if let (Some(former), Overlap::Skip) = (former, cron.rule.overlap) {
            let since = former.handle.get().map_or_else(clock::now, started);
            return Err(NotBegun::Running { since });
        }
        let unrecorded = |err: StoreError| NotBegun::Unrecorded(chain(&err));
        let mut due = clock::now();
        loop {
            if let Some(ended) = self.begin(cron, &live, (due, None)).await.map_err(unrecorded)? {
                return Ok(Begun { release: live.0, ended });
            }
            // A scheduled run has this very millisecond.
            due = due.plus(Duration::from_millis(1));
        }
    }

    /// Goes on with the runs that a former daemon began. One that was recorded and never started counts as missed.
    async fn take_up(&mut self) -> Result<(), StoreError> {
        let settings = self.interpreter.settings().clone();
        let rows = self.interpreter.store.unfinished_crons(&settings.name)?;
        let mut found = self.find(&rows).await;
        for row in rows {
            let of_row = |one: &Handle| {
                matches!(one.role(), Role::Cron(name) if *name == row.name) && one.due() == Some(row.due)
            };
            let handle = found.iter().position(of_row).map(|at| found.swap_remove(at));
            let cron = settings.crons.iter().find(|cron| cron.rule.name == row.name);
            match (handle, cron, self.live()) {
                (Some(handle), _, _) => self.follow(&row, handle),
                (None, Some(cron), Some(live))
                    if row.started.is_none() && cron.rule.missed == Missed::Run =>
                {
                    let job = CronJob::new(self.parts(), (row.id, cron.clone(), row.due));
                    self.running.push(Running { id: row.id, name: row.name.clone(), handle: job.handle() });
                    drop(job.begin(&mut self.jobs, live, Vec::new()));
                }
                (None, ..) => self.give_up(&row).await,
            }
        }
        for handle in found {
            self.follow_unrecorded(handle).await?;
        }
        Ok(())
    }

    /// The shims of runs. A run that was being started as its daemon ended may show up a moment later.
    async fn find(&self, rows: &[CronRow]) -> Vec<Handle> {
        let until = Instant::now() + LATE_SHIM;
        loop {
            let app = &self.interpreter.settings().name;
            let found = self.interpreter.commands.shims.find(app).await.unwrap_or_else(|err| {
                tracing::error!(%app, err = %chain(&err), "scheduled runs can't be found");
                Vec::new()
            });
            let found: Vec<Handle> =
                found.into_iter().filter(|handle| matches!(handle.role(), Role::Cron(_))).collect();
            let all = rows
                .iter()
                .all(|row| row.started.is_some() || found.iter().any(|one| one.due() == Some(row.due)));
            if all || Instant::now() >= until {
                return found;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn follow(&mut self, row: &CronRow, handle: Handle) {
        let job = CronJob::taken_up(self.parts(), row, handle);
        self.running.push(Running { id: row.id, name: row.name.clone(), handle: job.handle() });
        job.follow(&mut self.jobs);
    }

    /// A run that the record does not know, since the record was replaced.
    async fn follow_unrecorded(&mut self, handle: Handle) -> Result<(), StoreError> {
        let (Role::Cron(name), Some(due)) = (handle.role().clone(), handle.due()) else { return Ok(()) };
        let (store, app) = (self.interpreter.store.clone(), self.interpreter.settings().name.clone());
        let release = handle.release().clone();
        let begun = {
            let name = name.clone();
            blocking(move || {
                store.begin_cron(&CronDue { app: &app, name: &name, release: &release, due }, None)
            })
        };
        let started = Some(started(&handle));
        match begun.await? {
            Some(id) => {
                let release = Some(handle.release().clone());
                let row =
                    CronRow { id, name, release, due, started, finished: None, outcome: None, exit: None };
                self.follow(&row, handle);
            }
            // Its end is recorded; bgd ended before it could forget the shim.
            None => {
                if let Err(err) = handle.forget().await {
                    tracing::warn!(role = %handle.role(), err = %chain(&err), "a finished shim was not forgotten");
                }
            }
        }
        Ok(())
    }

    /// Records what is known of a run that has no process any more.
    async fn give_up(&self, row: &CronRow) {
        let (outcome, kind, text) = match row.started {
            Some(_) => (
                CronOutcome::Unknown,
                EventKind::CronEnded,
                format!("{} of {} ended, and how is not known", row.name, Stamp(row.due)),
            ),
            None => (
                CronOutcome::Missed,
                EventKind::CronMissed,
                format!("{} did not run at {}: bgd ended just then", row.name, Stamp(row.due)),
            ),
        };
        let (store, app, name, id) = (
            self.interpreter.store.clone(),
            self.interpreter.settings().name.clone(),
            row.name.clone(),
            row.id,
        );
        let ended = blocking(move || store.end_cron((&app, &name, id), (outcome, None, clock::now()))).await;
        match ended {
            Ok(_) => self.interpreter.record.note(kind, None, &text).await,
            Err(err) => {
                tracing::warn!(cron = %row.name, err = %chain(&err), "a scheduled run was not recorded")
            }
        }
    }

    /// Shows the schedules in `bgd status`.
    async fn show(&mut self, in_service: bool) {
        let (settings, now) = (self.interpreter.settings().clone(), clock::now());
        let recorded = {
            let (settings, store) = (settings.clone(), self.interpreter.store.clone());
            blocking(move || CronSeen::recorded(&settings, &store)).await
        };
        let mut shown = match recorded {
            Ok(shown) => shown,
            Err(err) => {
                tracing::warn!(app = %settings.name, err = %chain(&err), "the schedules' last runs can't be read");
                return;
            }
        };
        for (one, cron) in shown.iter_mut().zip(&settings.crons) {
            let handled = self.handled.get(&one.name).copied().unwrap_or(now);
            one.next = in_service.then(|| cron.rule.next(handled, now)).flatten();
            let running = one.running.as_ref().and_then(|row| self.running.iter().find(|it| it.id == row.id));
            one.pid = running.and_then(|it| it.handle.get()?.main_pid());
        }
        if shown != self.shown {
            self.shown.clone_from(&shown);
            // The receiver is gone only when the app's task has ended.
            let _ended = self.inbox.send(Message::Cron(shown));
        }
    }
}

/// Since when an app is in service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// Already when the daemon or this task started: what was due since the last look was missed.
    Daemon,
    Now,
}

fn is_out_of_service(seen: &Snapshot) -> bool {
    matches!(seen.app.serving, Serving::OutOfService(_))
}

/// Waits until another release is live, or none, or the app goes out of service or comes back; false when the app's
/// task has ended.
async fn until_other(
    mut seen: watch::Receiver<Snapshot>,
    live: Option<&(Release, Color)>,
    out: bool,
) -> bool {
    let is_other = |seen: &Snapshot| {
        let now = seen.app.live().map(|now| (&now.release.id, now.color));
        now != live.map(|(release, color)| (&release.id, *color)) || is_out_of_service(seen) != out
    };
    seen.wait_for(is_other).await.is_ok()
}

fn started(handle: &Handle) -> Time {
    let since = handle.started_at().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Resolves at this time, or when the clock is set.
async fn until(time: Option<Time>) {
    match time {
        None => pending().await,
        Some(time) => {
            if let Err(err) = alarm::at(Duration::from_millis(time.0)).await {
                tracing::warn!(%err, "the kernel gives no timer; the clock is looked at now and then");
                sleep(TRY_AGAIN).await;
            }
        }
    }
}
