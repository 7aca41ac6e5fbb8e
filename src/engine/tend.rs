//! What is looked after between effects: a watcher for each instance's end, a health monitor for the live and the
//! warm color, and the front. Tells the machine, decides nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    app_task::{Inbox, Message},
    counting,
    front::AppFront,
    front_silence::Silence,
    hanging::{Health, Heard},
    interpreter::{Interpreter, tail},
    starting::{answer_line, slots},
};
use crate::{
    front::{
        builtin::{self, BuiltinError},
        haproxy::{self, Haproxy, Life},
        route::Route,
    },
    os::errors::chain,
    probe::{self, Answer, Target, Verdict},
    rules::{
        app::{App, Idle, Instance, Release},
        event::Event,
        ids::{Color, Generation},
    },
    shim::{Handle, Overseer, Slot},
};

/// A live instance is asked this often at most: health beside deploys is for status, not for a gate.
const CALM: Duration = Duration::from_secs(2);
/// Between two looks at a front with which something is wrong, and at HAProxy, whose restart nothing else tells.
const FRONT_LOOK: Duration = Duration::from_millis(250);
/// Between two greetings of the builtin front; that its process has ended is noticed at once.
const GREETING: Duration = Duration::from_secs(3);

/// The watchers of one app.
#[derive(Debug)]
pub(super) struct Tend {
    inbox: Inbox,
    interpreter: Arc<Interpreter>,
    ends: HashMap<String, JoinHandle<()>>,
    monitors: HashMap<(Color, String), JoinHandle<()>>,
    front: Option<JoinHandle<()>>,
    count: Option<JoinHandle<()>>,
}

impl Tend {
    pub(super) fn new(inbox: Inbox, interpreter: Arc<Interpreter>) -> Self {
        Self { inbox, interpreter, ends: HashMap::new(), monitors: HashMap::new(), front: None, count: None }
    }

    /// Starts and ends watchers so that they fit the state.
    pub(super) fn reconcile(&mut self, state: &App) {
        self.watch_ends();
        self.monitor(state);
        if self.front.is_none() {
            self.front = Some(tokio::spawn(tend_front(self.interpreter.clone(), self.inbox.clone())));
        }
        if self.count.is_none() {
            let count = counting::count(self.interpreter.clone(), self.inbox.clone());
            self.count = Some(tokio::spawn(count));
        }
    }

    /// Ends all watchers; what they watch is untouched.
    pub(super) fn end(&mut self) {
        let tasks = self.ends.drain().map(|(_, task)| task);
        for task in tasks
            .chain(self.monitors.drain().map(|(_, task)| task))
            .chain(self.front.take())
            .chain(self.count.take())
        {
            task.abort();
        }
    }

    fn watch_ends(&mut self) {
        self.ends.retain(|_, task| !task.is_finished());
        for (slot, handle) in self.interpreter.instances().all() {
            let shim = handle.id().to_owned();
            if self.ends.contains_key(&shim) {
                continue;
            }
            let (inbox, interpreter) = (self.inbox.clone(), self.interpreter.clone());
            let task = tokio::spawn(async move {
                handle.exited().await;
                end_unseen(&handle).await;
                // One that went into the background is another process from now on, and is shown as that.
                if handle.main_pid().is_some() {
                    let _ended = inbox.send(Message::Instances);
                }
                let exit = handle.ended().await;
                let blamed = interpreter.instances().blamed(slot, handle.id());
                interpreter.instances().remove(slot, handle.id());
                let (color, release) = (slot.color, handle.release().clone());
                let last_words = tail(handle.log());
                let how = match handle.siblings() {
                    1 => exit.to_string(),
                    several => format!("instance {} of {several}: {exit}", slot.number()),
                };
                let how = blamed.map_or(how.clone(), |why| format!("{how}; ended by bgd, for {why}"));
                let event = Event::InstanceDied { color, release, how, last_words };
                let _ended = inbox.send(Message::Event(event));
                let _ended = inbox.send(Message::Instances);
            });
            self.ends.insert(shim, task);
        }
    }

    fn monitor(&mut self, state: &App) {
        let wanted: Vec<(Color, Release)> = monitored(state);
        self.monitors.retain(|(color, release), task| {
            let keep = wanted.iter().any(|(c, r)| c == color && r.id.as_str() == release);
            if !keep {
                task.abort();
            }
            keep
        });
        for (color, release) in wanted {
            let key = (color, release.id.as_str().to_owned());
            if !self.monitors.contains_key(&key) {
                let task = monitor(self.interpreter.clone(), self.inbox.clone(), (color, release));
                self.monitors.insert(key, tokio::spawn(task));
            }
        }
    }
}

fn monitored(state: &App) -> Vec<(Color, Release)> {
    let live = state
        .live()
        .filter(|live| matches!(live.instance, Instance::Up { .. }))
        .map(|live| (live.color, live.release.clone()));
    let warm = match &state.idle {
        Idle::Warm { release, .. } => Some((state.idle_color(), release.clone())),
        Idle::Vacant | Idle::Taken | Idle::Draining { .. } | Idle::Stopping { .. } => None,
    };
    live.into_iter().chain(warm).collect()
}

async fn monitor(interpreter: Arc<Interpreter>, inbox: Inbox, (color, release): (Color, Release)) {
    let settings = interpreter.settings().clone();
    let number = interpreter.number_of(color, &release.id);
    let pause = settings.health.interval.max(CALM);
    let within = (settings.health.timeout + pause) * 2;
    let mut each = vec![Health::default(); usize::from(number)];
    let (mut known, mut seen) = (None, interpreter.instances().seen());
    loop {
        let targets: Result<Vec<_>, _> =
            slots(color, number).map(|slot| interpreter.target(&release, slot)).collect();
        let targets = match targets {
            Ok(targets) => targets,
            Err(failure) => {
                tracing::warn!(app = %settings.name, cause = failure.cause, "the health of the instance can't be asked");
                return;
            }
        };
        let answers = join_all(targets.iter().map(|target| probe::once(&settings.health, target))).await;
        let mut last = Vec::new();
        let mut news = false;
        for ((slot, health), (target, answer)) in
            slots(color, number).zip(&mut each).zip(targets.iter().zip(&answers))
        {
            let (heard, line) = heard(&interpreter, target, answer);
            if heard != Heard::Well && settings.watch.restart {
                interpreter.end_if_cut_off(slot).await;
            }
            health.note(heard, Instant::now());
            if health.known == Some(false) && settings.watch.restart {
                end_if_deserted(&interpreter, slot).await;
            }
            news |= interpreter.instances().note_health(slot, health.known);
            last.push((heard, line));
        }
        let worst = last.iter().position(|(heard, _)| *heard != Heard::Well).unwrap_or(0);
        let lines: Vec<String> = last.into_iter().map(|(_, line)| line).collect();
        let verdict = Health::of_all(&each);
        if verdict != known
            && let Some(healthy) = verdict
        {
            known = verdict;
            let answer = match number {
                1 => lines.concat(),
                _ => format!("instance {}: {}", worst + 1, lines[worst]),
            };
            let event = Event::HealthChanged { color, release: release.id.clone(), healthy, answer };
            if inbox.send(Message::Event(event)).is_err() {
                return;
            }
        }
        // Also of what went into the background and was replaced there.
        let now = interpreter.instances().seen();
        news |= std::mem::replace(&mut seen, now.clone()) != now;
        if news && inbox.send(Message::Instances).is_err() {
            return;
        }
        interpreter.see_to_the_hanging(color, (&each, &lines), within).await;
        let doubtful = number > 1 && each.iter().any(Health::is_doubtful);
        sleep(if doubtful { settings.health.interval.min(pause) } else { pause }).await;
    }
}

fn heard(interpreter: &Interpreter, target: &Target, answer: &Answer) -> (Heard, String) {
    let (healthy, line) = answer_line(answer);
    if healthy {
        // Well for bgd and closed to the front's workers is not well.
        let open = interpreter.open_socket(&target.address);
        return open.map_or_else(|failure| (Heard::Unwell, failure.cause), |()| (Heard::Well, line));
    }
    match &answer.verdict {
        Verdict::Unhealthy(reason) if reason.is_silence() => (Heard::Nothing, line),
        _ => (Heard::Unwell, line),
    }
}

/// Ends what a main process left when it ended, where the shim that would do it was killed.
async fn end_unseen(handle: &Handle) {
    let left = handle.status().await.is_ok_and(|it| it.overseer == Overseer::Lost && it.ending);
    if left {
        end_rest(handle).await;
    }
}

/// Whether nothing is left.
pub(super) async fn end_rest(handle: &Handle) -> bool {
    let ended = handle.stop().await;
    if let Err(err) = &ended {
        tracing::warn!(app = %handle.app(), role = %handle.role(), release = %handle.release(), err = %chain(err), "what was left of an instance was not ended");
    }
    ended.is_ok()
}

/// Ends what is left of an instance whose main process went into the background, where what serves has ended since:
/// while a helper of it lives it would count as running, and nothing would be started in its place.
async fn end_if_deserted(interpreter: &Interpreter, slot: Slot) {
    let Some(handle) = interpreter.instances().at(slot) else { return };
    let address = interpreter.settings().address_at(slot.color, slot.index);
    let left = handle.status().await.is_ok_and(|status| status.runs() && status.main.exit().is_some());
    if !left || !matches!(handle.listens_on(&[address]), Ok(None)) {
        return;
    }
    let (app, color) = (&interpreter.settings().name, slot.color);
    tracing::error!(%app, %color, release = %handle.release(), "nothing of the instance listens any more: what is left of it is ended");
    end_rest(&handle).await;
}

async fn tend_front(interpreter: Arc<Interpreter>, inbox: Inbox) {
    match interpreter.front() {
        AppFront::Builtin(front) => tend_builtin(&interpreter, front, &inbox).await,
        AppFront::Nginx { .. } => tend_nginx(&interpreter, &inbox).await,
        AppFront::Haproxy(haproxy) => tend_haproxy(&interpreter, haproxy, &inbox).await,
    }
}

/// Tells what is wrong with nginx, so that status speaks of what is really served (promise M1). Where a hand sent
/// the traffic to a color on which nothing runs, or the file is not what nginx serves from (promise F6), the front is
/// told again what is live.
async fn tend_nginx(interpreter: &Interpreter, inbox: &Inbox) {
    let mut known = None;
    loop {
        let trouble = {
            // Not in the middle of a flip, when file and nginx differ for a moment.
            let _turn = interpreter.front_turn.lock().await;
            interpreter.front().trouble().await
        };
        let nowhere = trouble.as_ref().and_then(|trouble| trouble.edited_to);
        if nowhere.is_some_and(|color| !interpreter.instances().any_on(color)) {
            let _ended = inbox.send(Message::Event(Event::FrontRestarted));
        }
        let half_told = trouble.as_ref().is_some_and(|trouble| trouble.half_told);
        let said = trouble.map(|trouble| trouble.said);
        if said != known {
            // Once: it is told until it takes it.
            if half_told {
                let _ended = inbox.send(Message::Event(Event::FrontRestarted));
            }
            if let Some(err) = &said {
                tracing::error!(app = %interpreter.settings().name, %err, "nginx is not as bgd left it");
            }
            known.clone_from(&said);
            if inbox.send(Message::FrontTrouble(said)).is_err() {
                return;
            }
        }
        // Trouble that is over is not shown for long.
        sleep(if known.is_some() { FRONT_LOOK } else { CALM }).await;
    }
}

/// After each restart or reload of HAProxy its own configuration speaks: it is told again at once what it was told
/// last, and then by the machine, which may know better. So it is after a hand sent the traffic to a color on which
/// nothing runs. What else is wrong is told for status.
async fn tend_haproxy(interpreter: &Interpreter, haproxy: &Haproxy, inbox: &Inbox) {
    let app = &interpreter.settings().name;
    let limits = haproxy::Limits::default();
    let runs = |color: Color| interpreter.instances().any_on(color);
    let mut known = None;
    loop {
        let (life, trouble) = {
            // Not in the middle of a flip, which is several commands.
            let _turn = interpreter.front_turn.lock().await;
            let life = haproxy.put_back(limits).await;
            if matches!(life, Ok(Life::Unknown)) && !Color::ALL.into_iter().any(runs) {
                // Nothing is live, or the machine says so next: nobody is sent to a release before it is proven.
                let nothing = Route::new(Generation::default(), Vec::new());
                if let Err(err) = haproxy.route(&nothing, limits).await {
                    tracing::error!(%app, err = %chain(&err), "haproxy was not told that nothing is live");
                }
            }
            (life, interpreter.front().trouble().await)
        };
        let nowhere = trouble.as_ref().and_then(|trouble| trouble.edited_to);
        if matches!(life, Ok(Life::New | Life::Unknown)) || nowhere.is_some_and(|color| !runs(color)) {
            tracing::warn!(%app, "haproxy was not as bgd left it, and is told again");
            let _ended = inbox.send(Message::Event(Event::FrontRestarted));
        }
        let said = life.err().map(|err| chain(&err)).or(trouble.map(|trouble| trouble.said));
        if said != known {
            if let Some(err) = &said {
                tracing::error!(%app, %err, "something is wrong with haproxy");
            }
            known.clone_from(&said);
            if inbox.send(Message::FrontTrouble(said)).is_err() {
                return;
            }
        }
        sleep(FRONT_LOOK).await;
    }
}

/// Keeps the builtin front's process up: killed, it is started again at once, with its route; one that hangs is killed.
async fn tend_builtin(interpreter: &Interpreter, front: &builtin::Front, inbox: &Inbox) {
    let mut known = None;
    let mut trouble = None;
    let mut silence = Silence::default();
    loop {
        let seen = match front.hello().await {
            Ok(Some(hello)) => Ok(hello),
            Ok(None) => front.ensure_running().await,
            Err(err) => Err(err),
        };
        match &seen {
            Err(BuiltinError::Silent { .. }) => {
                silence.goes_on(&interpreter.settings().name, front).await;
            }
            Ok(_) | Err(_) => silence.broken(),
        }
        let now = match &seen {
            Ok(hello) => hello.trouble.clone(),
            Err(err) => Some(chain(err)),
        };
        if now != trouble {
            if let Some(err) = &now {
                tracing::error!(app = %interpreter.settings().name, %err, "the front does not run as it should");
            }
            trouble.clone_from(&now);
            if inbox.send(Message::FrontTrouble(now)).is_err() {
                return;
            }
        }
        // Without one that runs there is no end to wait for, and the next try has time.
        let Ok(hello) = seen else {
            sleep(FRONT_LOOK).await;
            continue;
        };
        // A handover inherits the route; only a front that came up empty needs telling.
        if known.is_some_and(|pid| pid != hello.pid) {
            tracing::warn!(app = %interpreter.settings().name, pid = hello.pid, "the front had ended and serves again");
            if hello.route.is_none() {
                let _ended = inbox.send(Message::Event(Event::FrontRestarted));
            }
        }
        known = Some(hello.pid);
        front.ended(hello.pid, GREETING).await;
    }
}
