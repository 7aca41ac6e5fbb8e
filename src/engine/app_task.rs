//! The loop of one app round its ledger: what arrives is offered, what is to be recorded is committed, and what is then
//! due is run.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{broadcast, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    acts::Acts,
    ledger::{Due, Entry, Ledger, Offer, Unrecorded},
    snapshot::{CronSeen, RemoteSeen, Snapshot},
    traffic::Counted,
};
use crate::{
    config::settings::{AppSettings, Inconclusive, Task},
    engine::{interpreter::Interpreter, meter::Meter, observe, tend::Tend},
    rules::{
        effect::{Action, Effect, Note},
        event::{Ask, Event},
        gate::GateLook,
        ids::{AppName, DeployId, EffectId},
        step::{self, AskReply, Context, Noted, Policy},
        time::Stamp,
    },
    store::{
        Act, Commit, Store, StoreError, clock,
        record::{DeployRecord, EventRecord},
    },
};

/// Between two tries to write the record: long enough not to spin on a full disk.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// A message to an app's task.
#[derive(Debug)]
pub enum Message {
    Event(Event),
    /// An operator asked, and waits for the answer.
    Ask {
        /// The operator and the request, as the record has them.
        act: EventRecord,
        ask: Ask,
        reply: oneshot::Sender<AskReply>,
    },
    /// The set of running instances changed, or the health of one.
    Instances,
    /// The poller's newest look at the remote.
    Remote(RemoteSeen),
    /// The schedules changed.
    Cron(Vec<CronSeen>),
    /// The counts of requests changed.
    Counted(Counted),
    /// Trouble with the front began or ended.
    FrontTrouble(Option<String>),
    /// End the task; the app and its front serve on.
    End,
}

/// The way into an app's task.
pub type Inbox = mpsc::UnboundedSender<Message>;

/// The parts that an app's task works with.
#[derive(Debug, Clone)]
pub struct Deps {
    pub store: Arc<Store>,
    /// Carries effects out.
    pub interpreter: Arc<Interpreter>,
    /// All events, for `bgd events -f` and for commands that show progress.
    pub events: broadcast::Sender<EventRecord>,
    /// Hands out deploy numbers over all apps.
    pub deploys: Arc<DeployCounter>,
    /// Records operators' acts that no step records.
    pub(super) acts: Arc<Acts>,
}

/// Hands out deploy numbers, one for each step that may begin a deploy; those that begin none come back, so that the
/// deploys are numbered without holes.
#[derive(Debug)]
pub struct DeployCounter(AtomicU64);

impl DeployCounter {
    /// Begins at `next`.
    pub fn new(next: DeployId) -> Self {
        Self(AtomicU64::new(next.0))
    }

    fn take(&self) -> DeployId {
        DeployId(self.0.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes back an unused number. False if a higher one was taken since: then only its holder may use it.
    fn give_back(&self, unused: DeployId) -> bool {
        self.0.compare_exchange(unused.0 + 1, unused.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The task of one app.
#[derive(Debug)]
pub struct AppTask {
    name: AppName,
    settings: Arc<AppSettings>,
    deps: Deps,
    inbox: mpsc::UnboundedReceiver<Message>,
    sender: Inbox,
    ledger: Ledger,
    /// A deploy number that was taken and not given back yet.
    fresh: Option<DeployId>,
    running: HashMap<EffectId, JoinHandle<()>>,
    /// Cancelled effects whose results are already in the inbox.
    too_late: HashSet<EffectId>,
    backlog: VecDeque<Message>,
    tend: Tend,
    meter: Meter,
    shown: watch::Sender<Snapshot>,
}

impl AppTask {
    /// Loads the recorded state; nothing runs yet.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn new(
        settings: Arc<AppSettings>,
        deps: Deps,
    ) -> Result<(Self, Inbox, watch::Receiver<Snapshot>), StoreError> {
        let name = settings.name.clone();
        let mut state = deps.store.app(&name)?.unwrap_or_default();
        state.gates = gates_of(&settings, state.gates);
        let (sender, inbox) = mpsc::unbounded_channel();
        let snapshot = Snapshot {
            settings: settings.clone(),
            app: state.clone(),
            observed: false,
            instances: Default::default(),
            given: Default::default(),
            workers: Vec::new(),
            last: deps.store.last_ended(&name)?,
            last_runs: deps.store.last_runs(&name)?,
            unrecorded: None,
            front_error: None,
            counted: Counted::default(),
            crons: Vec::new(),
            remote: RemoteSeen { head: state.head.clone(), ..RemoteSeen::default() },
        };
        let (shown, seen) = watch::channel(snapshot);
        let task = Self {
            tend: Tend::new(sender.clone(), deps.interpreter.clone()),
            meter: Meter::new(deps.interpreter.clone(), &state),
            fresh: None,
            name,
            settings,
            deps,
            inbox,
            sender: sender.clone(),
            ledger: Ledger::new(state, step::step),
            running: HashMap::new(),
            too_late: HashSet::new(),
            backlog: VecDeque::new(),
            shown,
        };
        Ok((task, sender, seen))
    }

    /// Observes the world, goes on from the recorded state, and works until [`Message::End`].
    pub async fn run(mut self) {
        let facts = observe::facts(&self.deps.interpreter, &self.deps.store, self.ledger.app()).await;
        self.take(Event::Recovered(facts)).await;
        for event in observe::gone(&self.deps.interpreter) {
            self.take(event).await;
        }
        self.shown.send_modify(|snapshot| snapshot.observed = true);
        // Shows and watches adopted instances even if recovery changed nothing.
        self.show();
        self.tend.reconcile(self.ledger.app());
        while let Some(message) = self.next().await {
            match message {
                Message::Event(Event::Done { effect, .. }) if self.too_late.remove(&effect) => {
                    tracing::debug!(app = %self.name, effect = effect.0, "cancelled as it ended");
                }
                Message::Event(event) => {
                    if let Event::Done { effect, .. } = &event {
                        self.running.remove(effect);
                    }
                    self.take(event).await;
                }
                Message::Ask { act, ask, reply } => {
                    let event = Event::Asked { by: act.by.clone(), ask };
                    let answer = self.take_for(event, Some(act)).await;
                    // The client may be gone; its request is carried out all the same.
                    let _gone = reply.send(answer.unwrap_or_else(|| AskReply::Said("done".to_owned())));
                }
                Message::Instances => self.show(),
                Message::Remote(remote) => {
                    self.shown.send_modify(|snapshot| snapshot.remote = remote);
                }
                Message::Cron(crons) => self.shown.send_modify(|snapshot| snapshot.crons = crons),
                Message::Counted(counted) => {
                    self.shown.send_modify(|snapshot| snapshot.counted = counted);
                }
                Message::FrontTrouble(trouble) => {
                    self.shown.send_modify(|snapshot| snapshot.front_error = trouble);
                }
                Message::End => break,
            }
        }
        self.tend.end();
        self.meter.end();
        for task in self.running.into_values() {
            task.abort();
        }
    }

    async fn next(&mut self) -> Option<Message> {
        if let Some(message) = self.backlog.pop_front() {
            return Some(message);
        }
        while self.ledger.is_behind() {
            // Both arms are cancel-safe: a channel's receive takes nothing when dropped, and a sleep begins anew.
            tokio::select! {
                message = self.inbox.recv() => return message,
                () = tokio::time::sleep(COMMIT_RETRY) => self.catch_up().await,
            }
        }
        self.inbox.recv().await
    }

    /// Records the steps of a flip that were carried out without a record.
    async fn catch_up(&mut self) {
        let Some(entry) = self.ledger.overdue() else { return };
        match self.try_commit(entry, None).await {
            (entry, Ok(events)) => {
                let due = self.ledger.recorded(entry);
                self.show_recorded(&due);
                self.tell(events, &due.notes);
            }
            (_, Err(err)) => self.report_unrecorded(&err),
        }
    }

    async fn take(&mut self, event: Event) -> Option<AskReply> {
        self.take_for(event, None).await
    }

    async fn take_for(&mut self, event: Event, act: Option<EventRecord>) -> Option<AskReply> {
        let fresh = *self.fresh.get_or_insert_with(|| self.deps.deploys.take());
        let answer = self.carry_out(event, act, self.context(fresh)).await;
        if self.fresh.is_some_and(|fresh| self.deps.deploys.give_back(fresh)) {
            self.fresh = None;
        }
        answer
    }

    /// Offer, commit, run.
    async fn carry_out(
        &mut self,
        event: Event,
        act: Option<EventRecord>,
        context: Context,
    ) -> Option<AskReply> {
        let fresh = context.fresh;
        let entry = match self.ledger.offer(event, context) {
            Offer::Record(entry) => entry,
            Offer::Nothing(due) => {
                tracing::debug!(app = %self.name, notes = ?due.notes, "nothing to do");
                self.note_apart(act.map(|act| answered(act, due.answer.as_ref())));
                return due.answer;
            }
        };
        let act = act.map(|act| answered(act, entry.step().answer.as_ref()));
        let (due, events) = self.commit(entry, act.as_ref()).await?;
        if events.is_none() {
            self.note_apart(act);
            self.show_end(&due);
        }
        if due.uses(fresh) {
            self.fresh = None;
        }
        self.show();
        self.meter.reconcile(self.ledger.app());
        // Start effects before telling anybody: a flip waits for neither log nor listeners. Results of effects are told
        // later all the same, because they come through the inbox.
        for effect in due.effects {
            self.start(effect).await;
        }
        if let Some(events) = events {
            // Yield: the runtime runs a task that was just started on this thread, when this task pauses.
            tokio::task::yield_now().await;
            self.tell(events, &due.notes);
        }
        self.tend.reconcile(self.ledger.app());
        due.answer
    }

    /// Records an act that is in no step's record.
    fn note_apart(&self, act: Option<Act>) {
        if let Some(act) = act {
            self.deps.acts.note(act.event);
        }
    }

    fn context(&self, fresh: DeployId) -> Context {
        let now = clock::now();
        let settings = &self.settings;
        let policy = Policy {
            warmup: settings.warmup.is_some(),
            canary: settings.canary.steps.clone(),
            canary_deadline: settings.canary.deadline,
            backup: settings.watch.backup,
            hold_inconclusive: settings.watch.inconclusive == Inconclusive::Hold,
            watch: settings.watch.period,
            standby: settings.standby,
            restart: settings.watch.restart,
            before_start: settings.hooks.before_start.is_some(),
            tasks: settings.tasks.iter().map(Task::rule).collect(),
            after_live: settings.hooks.after_live.is_some(),
            after_failed: settings.hooks.after_failed.is_some(),
            on_failure: settings.migration.as_ref().map(|it| it.on_failure).unwrap_or_default(),
            workers: !settings.workers.is_empty(),
        };
        let unrecorded = self.ledger.is_behind();
        Context { now, utc: clock::compact_utc(now), fresh, unrecorded, policy }
    }

    /// Returns when the entry is in the record, with its events; for a flip also when it can't be recorded: the way
    /// back does not depend on a disk (promise I6). `None`: the task is to end.
    async fn commit(
        &mut self,
        mut entry: Box<Entry>,
        act: Option<&Act>,
    ) -> Option<(Due, Option<Vec<EventRecord>>)> {
        if self.backlog.iter().any(is_flip) {
            entry.hurry();
        }
        loop {
            entry = match self.try_commit(entry, act).await {
                (entry, Ok(events)) => {
                    let due = self.ledger.recorded(entry);
                    self.show_recorded(&due);
                    return Some((due, Some(events)));
                }
                (entry, Err(err)) => {
                    self.report_unrecorded(&err);
                    entry
                }
            };
            entry = match self.ledger.refused(entry) {
                Unrecorded::Wait(entry) => entry,
                Unrecorded::Act(due) => {
                    tracing::error!(app = %self.name, notes = ?due.notes, "acting without a record, for a flip");
                    return Some((due, None));
                }
            };
            match self.wait_for_retry().await {
                RetryEnd::Over => {}
                RetryEnd::Flip => entry.hurry(),
                RetryEnd::End => return None,
            }
        }
    }

    async fn try_commit(
        &self,
        entry: Box<Entry>,
        act: Option<&Act>,
    ) -> (Box<Entry>, Result<Vec<EventRecord>, StoreError>) {
        let (store, app, now) = (self.deps.store.clone(), self.name.clone(), clock::now());
        let act = act.cloned();
        let write = move || {
            let (event, notes, act) = (entry.event(), entry.notes(), act.as_ref());
            let (next, effects) = (&entry.step().next, &entry.step().effects);
            let written = store.commit(&Commit { app: &app, now, event, next, effects, notes, act });
            (entry, written)
        };
        blocking(write).await
    }

    fn report_unrecorded(&self, err: &StoreError) {
        if err.is_full() {
            self.deps.interpreter.make_room_for_record();
        }
        let why = crate::os::errors::chain(err);
        tracing::error!(app = %self.name, err = %why, "the record can't be written; the app serves on");
        self.shown.send_modify(|snapshot| snapshot.unrecorded = Some(why));
    }

    /// Waits for the next try, or until a flip or the end arrives. Other messages keep their order.
    async fn wait_for_retry(&mut self) -> RetryEnd {
        let retry = tokio::time::sleep(COMMIT_RETRY);
        tokio::pin!(retry);
        loop {
            // Both arms are cancel-safe: a sleep, and a channel's receive, which takes nothing when dropped.
            tokio::select! {
                () = &mut retry => return RetryEnd::Over,
                message = self.inbox.recv() => match message {
                    Some(Message::End) | None => {
                        self.backlog.push_front(Message::End);
                        return RetryEnd::End;
                    }
                    Some(message) => {
                        let flip = is_flip(&message);
                        self.backlog.push_back(message);
                        if flip {
                            return RetryEnd::Flip;
                        }
                    }
                },
            }
        }
    }

    /// Shows that the record works again, and an ended deploy as the last one before it stops being under way.
    fn show_recorded(&self, due: &Due) {
        if due.caught_up {
            self.shown.send_modify(|snapshot| snapshot.unrecorded = None);
            // Work that waited for the record begins now; the receiver is this task.
            let _ended = self.sender.send(Message::Event(Event::Ticked));
        }
        if due.notes.iter().any(|noted| matches!(noted.note, Note::TaskEnded { .. })) {
            self.show_runs();
        }
        if due.notes.iter().any(|noted| matches!(noted.note, Note::DeployEnded(_) | Note::QueueReplaced(_))) {
            match self.deps.store.last_ended(&self.name) {
                Ok(last) => self.shown.send_modify(|snapshot| snapshot.last = last),
                Err(err) => {
                    tracing::warn!(app = %self.name, err = %crate::os::errors::chain(&err), "the last deploy can't be read")
                }
            }
        }
    }

    /// Shows the last runs of the tasks, once the end of one is in the record.
    fn show_runs(&self) {
        match self.deps.store.last_runs(&self.name) {
            Ok(runs) => self.shown.send_modify(|snapshot| snapshot.last_runs = runs),
            Err(err) => {
                tracing::warn!(app = %self.name, err = %crate::os::errors::chain(&err), "the last runs of the tasks can't be read")
            }
        }
    }

    /// Logs events and sends them to subscribers.
    fn tell(&self, events: Vec<EventRecord>, notes: &[Noted]) {
        for noted in notes {
            if let Note::Ignored(why) = &noted.note {
                tracing::debug!(app = %self.name, why, "ignored");
            }
        }
        for event in events {
            tracing::info!(app = %self.name, deploy = event.deploy.map(|id| id.0), event = %event.kind, text = event.text);
            // Usually nobody listens.
            let _listeners = self.deps.events.send(event);
        }
    }

    /// Shows the end of a deploy that the record could not take.
    fn show_end(&self, due: &Due) {
        let ended = due.notes.iter().rev().find_map(|noted| match &noted.note {
            Note::DeployEnded(end) => Some((noted.deploy.as_ref()?, noted.release.as_ref(), end)),
            _ => None,
        });
        let Some((deploy, release, end)) = ended else { return };
        let failure = end.failure.as_ref();
        let last = DeployRecord {
            id: deploy.id,
            app: self.name.clone(),
            kind: deploy.kind.word(),
            by: deploy.by.clone(),
            uid: None,
            commit: release.map(|release| release.commit.clone()),
            subject: release.map(|release| release.subject.clone()),
            author: release.map(|release| release.author.clone()),
            release: release.map(|release| release.id.clone()),
            color: None,
            outcome: Some(end.outcome),
            phase: failure.map(|failure| failure.phase),
            error: failure.map(|failure| failure.cause.clone()),
            hint: failure.and_then(|failure| failure.hint.clone()),
            started_at: Stamp(deploy.started),
            finished_at: Some(Stamp(clock::now())),
            steps: Vec::new(),
            meter: None,
            replaced: due.notes.iter().any(|noted| matches!(noted.note, Note::Replaced { .. })),
            passed_gates: Vec::new(),
        };
        self.shown.send_modify(|snapshot| snapshot.last = Some(last));
    }

    fn show(&self) {
        let instances = &self.deps.interpreter.instances().known;
        let (running, given) = (instances.seen(), instances.all_given());
        let workers = self.deps.interpreter.workers().seen();
        self.shown.send_modify(|snapshot| {
            snapshot.app = self.ledger.app().clone();
            snapshot.settings = self.settings.clone();
            snapshot.instances = running;
            snapshot.given = given;
            snapshot.workers = workers;
        });
    }

    async fn start(&mut self, effect: Effect) {
        if let Action::Cancel(id) = effect.action {
            if let Some(task) = self.running.remove(&id) {
                task.abort();
                // Later effects must find the cancelled one at rest, not half way through a file.
                match task.await {
                    Ok(()) => drop(self.too_late.insert(id)),
                    Err(err) if err.is_cancelled() => {}
                    Err(err) => {
                        tracing::error!(app = %self.name, effect = id.0, %err, "a cancelled effect panicked");
                    }
                }
            }
            return;
        }
        if let Action::Workers(wanted) = &effect.action {
            // Here, because two tasks that are started one after the other may run in any order.
            self.deps.interpreter.workers().want(wanted.clone());
        }
        let (id, sender, interpreter) = (effect.id, self.sender.clone(), self.deps.interpreter.clone());
        let task = tokio::spawn(async move {
            let result = interpreter.run(&effect.action).await;
            // The receiver is gone only when the daemon ends; the next start asks for the effect again.
            let _ended = sender.send(Message::Event(Event::Done { effect: id, result }));
        });
        self.running.insert(id, task);
    }
}

/// The last look at the gates, if it was at these: other gates have to be asked before anything is deployed.
fn gates_of(settings: &AppSettings, recorded: Option<GateLook>) -> Option<GateLook> {
    let fingerprint = settings.gates.fingerprint();
    let unasked = || GateLook::unasked(fingerprint);
    let present = recorded.filter(|look| look.settings == fingerprint);
    settings.gates.any().then(|| present.unwrap_or_else(unasked))
}

/// A flip must not wait for the next try to write the record.
fn is_flip(message: &Message) -> bool {
    matches!(message, Message::Ask { ask, .. } if ask.is_flip())
}

/// Why the wait for the next try ended.
enum RetryEnd {
    Over,
    Flip,
    End,
}

/// Runs blocking work on this thread if the runtime can move its other tasks elsewhere: a flip then waits for no second
/// thread to wake up.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return tokio::task::block_in_place(work);
    }
    crate::os::blocking::blocking(work).await
}

/// The act with its result, for the record.
fn answered(act: EventRecord, answer: Option<&AskReply>) -> Act {
    let text = match answer {
        Some(AskReply::Denied(denial)) => format!("{}; denied: {}", act.text, denial.message),
        _ => act.text,
    };
    let deploy = answer.and_then(AskReply::deploy);
    Act { event: EventRecord { deploy, text, ..act }, began: answer.and_then(AskReply::begun) }
}
