//! The loop of one app, and the law of its order: step, then commit, only then run the effects. While the record
//! can't be written nothing else happens to the app, except that a flip is carried out all the same.

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
    snapshot::{RemoteSeen, Snapshot},
    traffic::Counted,
};
use crate::{
    config::settings::{AppSettings, Inconclusive},
    engine::{clock, interpreter::Interpreter, meter::Meter, observe, tend::Tend},
    rules::{
        app::{App, Pipeline},
        effect::{Action, Effect, Note},
        event::{Ask, Event},
        ids::{AppName, DeployId, EffectId},
        step::{self, Answer, Context, Noted, Policy, Step},
        time::Stamp,
    },
    store::{
        Act, Commit, Store, StoreError,
        record::{DeployRecord, EventRecord},
    },
};

/// Between two tries to write the record: long enough not to spin on a full disk.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// What reaches an app's task.
#[derive(Debug)]
pub enum Message {
    /// Something happened.
    Event(Event),
    /// An operator asked, and waits for the answer.
    Ask {
        /// Who, and as the record says it.
        act: EventRecord,
        /// For what.
        ask: Ask,
        /// Where the answer goes.
        reply: oneshot::Sender<Answer>,
    },
    /// Which instances run, or how well, changed.
    Instances,
    /// The remote was looked at.
    Remote(RemoteSeen),
    /// More requests were counted.
    Counted(Counted),
    /// Trouble with the front began or ended.
    FrontTrouble(Option<String>),
    /// End the task; the app and its front serve on.
    End,
}

/// The way into an app's task.
pub type Inbox = mpsc::UnboundedSender<Message>;

/// What a task works with.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The record.
    pub store: Arc<Store>,
    /// Carries effects out.
    pub interpreter: Arc<Interpreter>,
    /// All events, for `bgd events -f` and for commands that show progress.
    pub events: broadcast::Sender<EventRecord>,
    /// Hands out deploy numbers over all apps.
    pub deploys: Arc<DeployCounter>,
    /// Records what operators asked for in vain.
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

    /// A number that was not used. False: a higher one was handed out since, so that only its holder may use it.
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
    state: App,
    /// Not given back yet.
    fresh: Option<DeployId>,
    running: HashMap<EffectId, JoinHandle<()>>,
    /// Cancelled, but their results are in the inbox already.
    too_late: HashSet<EffectId>,
    backlog: VecDeque<Message>,
    /// A flip is under way: its steps are carried out even while the record can't be written.
    flipping: bool,
    /// Notes of steps that were carried out without a record; written with the next one that can be.
    unwritten: Vec<Noted>,
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
        let state = deps.store.app(&name)?.unwrap_or_default();
        let (sender, inbox) = mpsc::unbounded_channel();
        let snapshot = Snapshot {
            settings: settings.clone(),
            app: state.clone(),
            observed: false,
            instances: Default::default(),
            given: Default::default(),
            last: deps.store.last_ended(&name)?,
            unrecorded: None,
            front_error: None,
            counted: Counted::default(),
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
            state,
            running: HashMap::new(),
            too_late: HashSet::new(),
            backlog: VecDeque::new(),
            flipping: false,
            unwritten: Vec::new(),
            shown,
        };
        Ok((task, sender, seen))
    }

    /// Looks at the world, takes up the thread, and works until told to end.
    pub async fn run(mut self) {
        let facts = observe::facts(&self.deps.interpreter, &self.deps.store, &self.state).await;
        self.take(Event::Recovered(facts)).await;
        for event in observe::gone(&self.deps.interpreter) {
            self.take(event).await;
        }
        self.shown.send_modify(|snapshot| snapshot.observed = true);
        // What was adopted is shown and watched even when nothing had to be done about it.
        self.show();
        self.tend.reconcile(&self.state);
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
                    // The client may be gone; what it asked for is done all the same.
                    let _gone = reply.send(answer.unwrap_or_else(|| Answer::Said("done".to_owned())));
                }
                Message::Instances => self.show(),
                Message::Remote(remote) => {
                    self.shown.send_modify(|snapshot| snapshot.remote = remote);
                }
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
        while self.unrecorded_before() {
            // Both arms are cancel-safe: a channel's receive takes nothing when dropped, and a sleep begins anew.
            tokio::select! {
                message = self.inbox.recv() => return message,
                () = tokio::time::sleep(COMMIT_RETRY) => self.catch_up().await,
            }
        }
        self.inbox.recv().await
    }

    /// After a flip that did without a record: what came of it is recorded as soon as that can be done, whether or
    /// not anything else happens to the app.
    async fn catch_up(&mut self) {
        let next = self.state.clone();
        let made = Step { next, effects: Vec::new(), notes: Vec::new(), answer: None };
        match self.try_commit(&Event::Ticked, (&made, None)).await {
            Ok(events) => {
                self.unwritten.clear();
                self.show_recorded(&made);
                self.tell(events, &made.notes);
            }
            Err(err) => self.report_unrecorded(&err),
        }
    }

    async fn take(&mut self, event: Event) -> Option<Answer> {
        self.take_for(event, None).await
    }

    async fn take_for(&mut self, event: Event, act: Option<EventRecord>) -> Option<Answer> {
        let fresh = *self.fresh.get_or_insert_with(|| self.deps.deploys.take());
        let answer = self.carry_out(event, act, self.context(fresh)).await;
        if self.fresh.is_some_and(|fresh| self.deps.deploys.give_back(fresh)) {
            self.fresh = None;
        }
        answer
    }

    /// Step, commit, run.
    async fn carry_out(
        &mut self,
        event: Event,
        act: Option<EventRecord>,
        context: Context,
    ) -> Option<Answer> {
        let mut made = step::step(&self.state, &event, &context);
        let act = act.map(|act| answered(act, made.answer.as_ref()));
        let quiet =
            made.effects.is_empty() && made.notes.iter().all(|noted| matches!(noted.note, Note::Ignored(_)));
        if quiet && made.next == self.state {
            tracing::debug!(app = %self.name, ?event, "nothing to do");
            self.note_apart(act);
            return made.answer;
        }
        self.flipping |= matches!(event, Event::Asked { ask: Ask::Flip, .. });
        let events = match self.commit(&event, (&made, act.as_ref())).await {
            Committed::Recorded(events) => Some(events),
            Committed::Unrecorded => {
                self.note_apart(act);
                // The same step, save that nothing begins by it that is no part of the flip.
                made = step::step(&self.state, &event, &Context { unrecorded: true, ..context });
                self.unwritten.extend(made.notes.iter().cloned());
                self.show_end(&made);
                None
            }
            Committed::NotYet => return None,
        };
        self.flipping &= !matches!(made.next.pipeline, Pipeline::Resting);
        if started_one(&made) {
            self.fresh = None;
        }
        self.state = made.next;
        self.show();
        self.meter.reconcile(&self.state);
        // Before anybody is told: a flip waits for no log and no listener. What the effects bring about is told
        // after this all the same, because it comes through the inbox.
        for effect in made.effects {
            // The record may need what the state no longer does; the next deploy's end prunes again.
            if events.is_some() || !matches!(effect.action, Action::Prune { .. }) {
                self.start(effect).await;
            }
        }
        if let Some(events) = events {
            // What was just started would wait for this task to pause: a runtime runs it on the same thread.
            tokio::task::yield_now().await;
            self.tell(events, &made.notes);
        }
        self.tend.reconcile(&self.state);
        made.answer
    }

    /// An act that is in no step's record.
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
            backup: settings.watch.backup,
            hold_inconclusive: settings.watch.inconclusive == Inconclusive::Hold,
            watch: settings.watch.period,
            standby: settings.standby,
            restart: settings.watch.restart,
            before_start: settings.hooks.before_start.is_some(),
            after_live: settings.hooks.after_live.is_some(),
            after_failed: settings.hooks.after_failed.is_some(),
        };
        let unrecorded = self.unrecorded_before();
        Context { now, utc: clock::compact_utc(now), fresh, unrecorded, policy }
    }

    /// Returns when the step is in the record; or, for a flip, when it can't be: the way back does not depend
    /// on a disk (promise I6).
    async fn commit(&mut self, event: &Event, (made, act): (&Step, Option<&Act>)) -> Committed {
        let mut urgent = self.flipping || self.backlog.iter().any(is_flip);
        loop {
            match self.try_commit(event, (made, act)).await {
                Ok(events) => {
                    self.unwritten.clear();
                    self.show_recorded(made);
                    return Committed::Recorded(events);
                }
                Err(err) => self.report_unrecorded(&err),
            }
            if urgent {
                tracing::error!(app = %self.name, ?event, "acting without a record, for a flip");
                return Committed::Unrecorded;
            }
            match self.wait_for_retry().await {
                Wait::Over => {}
                Wait::Flip => urgent = true,
                Wait::End => return Committed::NotYet,
            }
        }
    }

    async fn try_commit(
        &self,
        event: &Event,
        (made, act): (&Step, Option<&Act>),
    ) -> Result<Vec<EventRecord>, StoreError> {
        let (store, app, now) = (self.deps.store.clone(), self.name.clone(), clock::now());
        let (event, next) = (event.clone(), made.next.clone());
        let (effects, act) = (made.effects.clone(), act.cloned());
        let notes: Vec<Noted> = self.unwritten.iter().chain(&made.notes).cloned().collect();
        let write = move || {
            let (event, next, act) = (&event, &next, act.as_ref());
            store.commit(&Commit { app: &app, now, event, next, effects: &effects, notes: &notes, act })
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

    fn unrecorded_before(&self) -> bool {
        self.shown.borrow().unrecorded.is_some()
    }

    /// Waits for the next try; shorter when a flip or the end arrives meanwhile. What else arrives keeps its order.
    async fn wait_for_retry(&mut self) -> Wait {
        let retry = tokio::time::sleep(COMMIT_RETRY);
        tokio::pin!(retry);
        loop {
            // Both arms are cancel-safe: a sleep, and a channel's receive, which takes nothing when dropped.
            tokio::select! {
                () = &mut retry => return Wait::Over,
                message = self.inbox.recv() => match message {
                    Some(Message::End) | None => {
                        self.backlog.push_front(Message::End);
                        return Wait::End;
                    }
                    Some(message) => {
                        let flip = is_flip(&message);
                        self.backlog.push_back(message);
                        if flip {
                            return Wait::Flip;
                        }
                    }
                },
            }
        }
    }

    /// The record can be written (again); a deploy that ended is the last one by the time it is no longer under way.
    fn show_recorded(&self, made: &Step) {
        if self.unrecorded_before() {
            self.shown.send_modify(|snapshot| snapshot.unrecorded = None);
            // What waited for the record begins now; the receiver is this task.
            let _ended = self.sender.send(Message::Event(Event::Ticked));
        }
        if made.notes.iter().any(|noted| matches!(noted.note, Note::DeployEnded(_) | Note::QueueReplaced(_)))
        {
            match self.deps.store.last_ended(&self.name) {
                Ok(last) => self.shown.send_modify(|snapshot| snapshot.last = last),
                Err(err) => {
                    tracing::warn!(app = %self.name, err = %crate::os::errors::chain(&err), "the last deploy can't be read")
                }
            }
        }
    }

    /// For the log and for whoever follows the events.
    fn tell(&self, events: Vec<EventRecord>, notes: &[Noted]) {
        for noted in notes {
            if let Note::Ignored(why) = &noted.note {
                tracing::debug!(app = %self.name, why, "ignored");
            }
        }
        for event in events {
            tracing::info!(app = %self.name, deploy = event.deploy.map(|id| id.0), event = %event.kind, text = event.text);
            // Nobody listening is the usual case.
            let _listeners = self.deps.events.send(event);
        }
    }

    /// Shows how a deploy ended that the record can't tell of.
    fn show_end(&self, made: &Step) {
        let ended = made.notes.iter().rev().find_map(|noted| match &noted.note {
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
            replaced: made.notes.iter().any(|noted| matches!(noted.note, Note::Replaced { .. })),
        };
        self.shown.send_modify(|snapshot| snapshot.last = Some(last));
    }

    fn show(&self) {
        let instances = self.deps.interpreter.instances();
        let (running, given) = (instances.seen(), instances.all_given());
        self.shown.send_modify(|snapshot| {
            snapshot.app = self.state.clone();
            snapshot.settings = self.settings.clone();
            snapshot.instances = running;
            snapshot.given = given;
        });
    }

    async fn start(&mut self, effect: Effect) {
        if let Action::Cancel(id) = effect.action {
            if let Some(task) = self.running.remove(&id) {
                task.abort();
                // What follows must find the cancelled effect at rest, not half way through a file.
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
        let (id, sender, interpreter) = (effect.id, self.sender.clone(), self.deps.interpreter.clone());
        let task = tokio::spawn(async move {
            let result = interpreter.run(&effect.action).await;
            // The receiver is gone only when the daemon ends; the effect is asked for again at the next start.
            let _ended = sender.send(Message::Event(Event::Done { effect: id, result }));
        });
        self.running.insert(id, task);
    }
}

/// What waits behind a record that can't be written must not wait before it.
fn is_flip(message: &Message) -> bool {
    matches!(message, Message::Ask { ask: Ask::Flip, .. })
}

/// What became of a commit.
#[derive(Debug)]
enum Committed {
    /// The step is in the record, and these are its events.
    Recorded(Vec<EventRecord>),
    /// It is not, and is carried out all the same, for a flip.
    Unrecorded,
    /// It is not, and the task is to end: nothing is carried out.
    NotYet,
}

/// Why the wait for the next try ended.
enum Wait {
    Over,
    Flip,
    End,
}

/// On this thread where the runtime can move its other work elsewhere meanwhile: a flip waits for no second thread
/// to wake up, nor for the way back.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        return tokio::task::block_in_place(work);
    }
    crate::os::blocking::blocking(work).await
}

/// With what became of it.
fn answered(act: EventRecord, answer: Option<&Answer>) -> Act {
    let text = match answer {
        Some(Answer::Denied(denial)) => format!("{}; denied: {}", act.text, denial.message),
        _ => act.text,
    };
    let deploy = answer.and_then(Answer::deploy);
    Act { event: EventRecord { deploy, text, ..act }, began: answer.and_then(Answer::begun) }
}

fn started_one(made: &Step) -> bool {
    made.notes.iter().any(|noted| matches!(noted.note, Note::DeployStarted | Note::Queued(_)))
}
