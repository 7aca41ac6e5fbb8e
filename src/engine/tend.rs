//! Supervision between effects: a watcher for each instance's end, a health monitor for the live and the warm color,
//! and the front. Reports to the machine, decides nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    app_task::{Inbox, Message},
    attending, counting,
    interpreter::Interpreter,
    site, working,
};
use crate::{
    command::tail,
    instance::{
        answer_line,
        hanging::{Heard, InstanceHealth},
        slots,
    },
    os::errors::chain,
    probe::{self, ProbeResult, ProbeVerdict, Target},
    rules::{
        app::{App, Idle, Instance, Release},
        event::Event,
        ids::Color,
    },
    shim::{Handle, Overseer, Slot},
};

/// A live instance is probed at most this often: health beside deploys is for status, not for a gate.
pub(super) const CALM: Duration = Duration::from_secs(2);

/// The watchers of one app.
#[derive(Debug)]
pub(super) struct Tend {
    inbox: Inbox,
    interpreter: Arc<Interpreter>,
    ends: HashMap<String, JoinHandle<()>>,
    monitors: HashMap<(Color, String), JoinHandle<()>>,
    front: Option<JoinHandle<()>>,
    count: Option<JoinHandle<()>>,
    workers: Option<JoinHandle<()>>,
}

impl Tend {
    pub(super) fn new(inbox: Inbox, interpreter: Arc<Interpreter>) -> Self {
        Self {
            inbox,
            interpreter,
            ends: HashMap::new(),
            monitors: HashMap::new(),
            front: None,
            count: None,
            workers: None,
        }
    }

    /// Starts and ends watchers to fit the state.
    pub(super) fn reconcile(&mut self, state: &App) {
        self.watch_ends();
        self.monitor(state);
        if self.front.is_none() {
            self.front = Some(tokio::spawn(attending::attend(self.interpreter.clone(), self.inbox.clone())));
        }
        if self.count.is_none() {
            let count = counting::count(self.interpreter.clone(), self.inbox.clone());
            self.count = Some(tokio::spawn(count));
        }
        if self.workers.is_none() && self.interpreter.workers().are_any() {
            let work = working::look_after(self.interpreter.clone(), self.inbox.clone());
            self.workers = Some(tokio::spawn(work));
        }
    }

    /// Ends all watchers, and nothing that they watch.
    pub(super) fn end(&mut self) {
        let tasks = self.ends.drain().map(|(_, task)| task);
        for task in tasks
            .chain(self.monitors.drain().map(|(_, task)| task))
            .chain(self.front.take())
            .chain(self.count.take())
            .chain(self.workers.take())
        {
            task.abort();
        }
        self.interpreter.workers().end();
    }

    fn watch_ends(&mut self) {
        self.ends.retain(|_, task| !task.is_finished());
        for (slot, handle) in self.interpreter.instances().known.all() {
            let shim = handle.id().to_owned();
            if self.ends.contains_key(&shim) {
                continue;
            }
            let (inbox, interpreter) = (self.inbox.clone(), self.interpreter.clone());
            let task = tokio::spawn(async move {
                handle.exited().await;
                end_unseen(&handle).await;
                // The main process went into the background: status then shows the process that it left.
                if handle.main_pid().is_some() {
                    let _ended = inbox.send(Message::Instances);
                }
                let exit = handle.ended().await;
                let blamed = interpreter.instances().known.blamed(slot, handle.id());
                interpreter.instances().known.remove(slot, handle.id());
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
    let number = interpreter.instances.number_of(color, &release.id);
    if number == 0 {
        return site::monitor(interpreter, inbox, (color, release.id)).await;
    }
    let pause = settings.health.interval.max(CALM);
    let within = (settings.health.timeout + pause) * 2;
    let mut each = vec![InstanceHealth::default(); usize::from(number)];
    let (mut known, mut seen) = (None, interpreter.instances().known.seen());
    loop {
        let targets: Result<Vec<_>, _> =
            slots(color, number).map(|slot| interpreter.instances.target(&release, slot)).collect();
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
                interpreter.instances.end_if_cut_off(slot).await;
            }
            health.note(heard, Instant::now());
            if health.known == Some(false) && settings.watch.restart {
                end_if_deserted(&interpreter, slot).await;
            }
            news |= interpreter.instances().known.note_health(slot, health.known);
            last.push((heard, line));
        }
        let worst = last.iter().position(|(heard, _)| *heard != Heard::Well).unwrap_or(0);
        let lines: Vec<String> = last.into_iter().map(|(_, line)| line).collect();
        let verdict = InstanceHealth::of_all(&each);
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
        // A process in the background may have been replaced, too.
        let now = interpreter.instances().known.seen();
        news |= std::mem::replace(&mut seen, now.clone()) != now;
        if news && inbox.send(Message::Instances).is_err() {
            return;
        }
        interpreter.see_to_the_hanging(color, (&each, &lines), within).await;
        let doubtful = number > 1 && each.iter().any(InstanceHealth::is_doubtful);
        sleep(if doubtful { settings.health.interval.min(pause) } else { pause }).await;
    }
}

fn heard(interpreter: &Interpreter, target: &Target, answer: &ProbeResult) -> (Heard, String) {
    let (healthy, line) = answer_line(answer);
    if healthy {
        // A socket that the front's workers can't open is not healthy.
        let open = interpreter.instances.open_socket(&target.address);
        return open.map_or_else(|failure| (Heard::Unwell, failure.cause), |()| (Heard::Well, line));
    }
    match &answer.verdict {
        ProbeVerdict::Unhealthy(reason) if reason.is_silence() => (Heard::Nothing, line),
        _ => (Heard::Unwell, line),
    }
}

/// Ends what a main process left when the shim, which would do so, was killed.
async fn end_unseen(handle: &Handle) {
    let left = handle.status().await.is_ok_and(|it| it.overseer == Overseer::Lost && it.ending);
    if left {
        end_rest(handle).await;
    }
}

/// Ends the rest of an instance; true when nothing is left.
pub(super) async fn end_rest(handle: &Handle) -> bool {
    let ended = handle.stop().await;
    if let Err(err) = &ended {
        tracing::warn!(app = %handle.app(), role = %handle.role(), release = %handle.release(), err = %chain(err), "what was left of an instance was not ended");
    }
    ended.is_ok()
}

/// Ends an instance whose main process went into the background and that no longer listens: a helper that still lives
/// would make it count as running, and nothing would take its place.
async fn end_if_deserted(interpreter: &Interpreter, slot: Slot) {
    let Some(handle) = interpreter.instances().known.at(slot) else { return };
    let address = interpreter.settings().address_at(slot.color, slot.index);
    let left = handle.status().await.is_ok_and(|status| status.runs() && status.main.exit().is_some());
    if !left || !matches!(handle.listens_on(&[address]), Ok(None)) {
        return;
    }
    let (app, color) = (&interpreter.settings().name, slot.color);
    tracing::error!(%app, %color, release = %handle.release(), "nothing of the instance listens any more: what is left of it is ended");
    end_rest(&handle).await;
}
