//! How the fake engine carries effects out: each takes its time, some in two halves between which anything may
//! happen; it can fail before, in or after its work, and be cancelled at any moment.

use bgd::rules::{
    app::{App, Release},
    effect::{Action, Effect},
    event::{Done, Event},
    ids::{Color, EffectId, Generation, ReleaseId},
    retention::{self, Guarded, KeptRelease},
    time::Time,
    words::{Failure, Nature, Phase},
};

use crate::{
    daemon::Daemon,
    defects::Habit,
    front::{Former, Kind, Route, Wanted},
    world::{self, Begun, Process, Quality},
};

pub struct Task {
    pub effect: Effect,
    pub due: Time,
    /// What its first half left behind.
    half: Option<Half>,
}

#[derive(Clone)]
enum Half {
    /// Of a start: the port is clear.
    Cleared,
    /// Of a stop: it was told to end.
    Told,
    /// Of a route: the file is written.
    Written(Former),
    /// Of a prune: what it found on the disk.
    Found(Vec<KeptRelease>),
}

impl Task {
    fn is_begun_route(&self) -> bool {
        matches!(self.half, Some(Half::Written(_)))
    }

    /// It looks at the front first, and for that waits for a route that is under way.
    fn waits_for_the_front(&self) -> bool {
        match self.effect.action {
            Action::Route { .. } | Action::Stop { .. } => self.half.is_none(),
            Action::Discard { .. } => true,
            _ => false,
        }
    }
}

impl Daemon {
    pub(crate) fn spawn(&mut self, effect: Effect) -> Result<(), String> {
        self.judge_order(effect.id)?;
        if let Action::Cancel(other) = &effect.action {
            if let Some(task) = self.tasks.remove(other) {
                self.tell(|_| format!("  cancelled {:?}", task.effect.action));
                self.abandon(task);
            }
            return Ok(());
        }
        if let Action::Workers(wanted) = &effect.action {
            // Taken at once and in order; the supervision does the rest.
            self.world.working.want(wanted);
            return Ok(());
        }
        let due = self.steady.plus(world::takes(&effect.action));
        self.tasks.insert(effect.id, Task { effect, due, half: None });
        Ok(())
    }

    /// A route is half told.
    pub(crate) fn is_routing(&self) -> bool {
        self.tasks.values().any(Task::is_begun_route)
    }

    /// The world hears whether the machine can know where the front routes.
    fn tell_world(&mut self) {
        self.world.told_again = self.app().rerouting.is_some() || self.app().front_unsure;
    }

    /// The cancelled one may have acted already; it reports nothing more.
    fn abandon(&mut self, task: Task) {
        self.tell_world();
        let routing = self.is_routing();
        let acted = self.rng.percent(50) && !(routing && task.waits_for_the_front());
        match (&task.effect.action, task.half) {
            (Action::Route { to, canary, backup, .. }, Some(Half::Written(former))) => match acted {
                true => self.world.finish_route((to.as_ref(), canary.as_ref(), backup.as_ref())),
                false => self.world.front.put_back(former),
            },
            (Action::Start { release, color }, Some(Half::Cleared)) if acted => {
                let _lost = self.world.spawn(release, *color);
            }
            // What was told to end does so, sooner or later.
            (_, Some(_)) => {}
            (Action::Prune { .. }, None) => {}
            (action, None) if acted => {
                let _lost = self.world.obey(action);
            }
            (_, None) => {}
        }
    }

    /// What becomes of the effects of a daemon that dies.
    pub(crate) fn orphan_tasks(&mut self) {
        self.tell_world();
        let routing = self.is_routing();
        for task in std::mem::take(&mut self.tasks).into_values() {
            if routing && task.waits_for_the_front() {
                continue;
            }
            match (&task.effect.action, &task.half) {
                // A file that was written stays, in force or not.
                (Action::Route { .. }, Some(Half::Written(_))) if self.rng.percent(70) => {}
                (Action::Build { release, .. }, _)
                    if self.rng.percent(50) && self.world.directories.contains_key(&release.id) =>
                {
                    self.world.build_by_shim(release);
                }
                _ if self.rng.percent(30) => self.abandon(task),
                _ => {}
            }
        }
    }

    pub(crate) fn due(&self) -> Vec<EffectId> {
        let routing = self.is_routing();
        let due = |task: &Task| match &task.effect.action {
            Action::Watch { release, color, .. } => {
                let well = self.world.on(*color).is_some_and(|it| it.release.id == release.id && it.healthy)
                    && !self.world.errs(release, *color);
                task.due <= self.steady || !well
            }
            _ => task.due <= self.steady && !(routing && task.waits_for_the_front()),
        };
        self.tasks.iter().filter(|(_, task)| due(task)).map(|(id, _)| *id).collect()
    }

    /// One task goes on or comes to its end; then its report is on the way.
    pub fn act(&mut self) -> Result<bool, String> {
        if !self.world.healed && self.rng.percent(15) {
            self.doom()?;
        }
        let due = self.due();
        if due.is_empty() {
            return Ok(false);
        }
        let id = self.rng.pick(&due);
        self.judge_order(id)?;
        let Some(task) = self.tasks.remove(&id) else { return Ok(false) };
        let action = task.effect.action.clone();
        self.tell_world();
        let can_fail = !self.world.healed && !matches!(action, Action::Wake { .. });
        let result = if can_fail && self.rng.percent(self.setup.faults) {
            Some(Err(self.fail(task)))
        } else {
            self.carry(task)?
        };
        self.tell(|_| {
            let said = result.as_ref().map(|result| result.as_ref().map_err(|failure| &failure.cause));
            format!("act {id} {action:?} = {said:?}")
        });
        if let Some(result) = result {
            self.inbox.push(Event::Done { effect: id, result });
        }
        self.after()?;
        Ok(true)
    }

    fn fail(&mut self, task: Task) -> Failure {
        self.figures.failed += 1;
        let natures = [Nature::Transient, Nature::Deterministic, Nature::FrontStuck, Nature::FrontUnmoved];
        let nature = self.rng.pick(&natures);
        match task.half {
            Some(Half::Written(former)) => {
                self.world.front.put_back(former);
                // With the file a hand's change is back, and somebody has to look.
                self.unseen |= self.world.front.hand.is_some();
            }
            Some(_) => {}
            // A front that is stuck says so before it touches anything.
            None if !nature.left_the_front() && self.rng.percent(50) => {
                let _hidden = self.world.obey(&task.effect.action);
            }
            None => {}
        }
        // Its last part is the proof, also when it is asked for once more.
        if let Action::Replace { color, release, .. } = &task.effect.action
            && let Some(process) = self.world.on_mut(*color, &release.id)
        {
            process.proven = false;
        }
        world::failure(Phase::Building, nature, "an injected fault")
    }

    /// `None`: half of it is done.
    fn carry(&mut self, task: Task) -> Result<Option<Result<Done, Failure>>, String> {
        let often = if self.world.disk_full { 70 } else { 30 };
        let in_halves = !self.world.healed && self.rng.percent(often);
        let Task { effect, due, half } = task;
        let result = match (effect.action.clone(), half) {
            (Action::Start { release, color }, None) if in_halves => {
                match self.world.begin_start(&release, color) {
                    Ok(Begun::Cleared) => {
                        return Ok(self.keep(Task { effect, due, half: Some(Half::Cleared) }));
                    }
                    Ok(Begun::Adopted) => Ok(Done::Ensured),
                    Err(failure) => Err(failure),
                }
            }
            (Action::Start { release, color }, Some(_)) => self.world.spawn(&release, color),
            (Action::Stop { color, release }, None) if in_halves => {
                match self.world.begin_stop(color, &release) {
                    Ok(()) => return Ok(self.keep(Task { effect, due, half: Some(Half::Told) })),
                    Err(failure) => Err(failure),
                }
            }
            (Action::Stop { color, .. }, Some(_)) => {
                self.world.end_stop(color);
                Ok(Done::Ensured)
            }
            (Action::Route { generation, to, canary, backup }, None) => {
                let generation = Generation(generation.0.saturating_add(self.ahead));
                let wanted = (to.as_ref(), canary.as_ref(), backup.as_ref());
                match self.world.front.begin(Route::new(generation, wanted)) {
                    Ok(former) if in_halves && self.setup.front == Kind::Nginx => {
                        return Ok(self.keep(Task { effect, due, half: Some(Half::Written(former)) }));
                    }
                    Ok(_) => self.routed(wanted),
                    Err(failure) => Err(failure),
                }
            }
            (Action::Route { to, canary, backup, .. }, Some(_)) => {
                self.routed((to.as_ref(), canary.as_ref(), backup.as_ref()))
            }
            (Action::Prune { .. }, None) if in_halves && !self.world.disk_full => {
                let found = self.record.kept(self.world.directories.keys());
                return Ok(self.keep(Task { effect, due, half: Some(Half::Found(found)) }));
            }
            (Action::Prune { before, protect }, half) => {
                let found = match half {
                    Some(Half::Found(found)) => found,
                    _ => self.record.kept(self.world.directories.keys()),
                };
                let since = (self.habit != Habit::PrunesWhatIsNew).then_some(before);
                let guarded = Guarded { since, needed: protect };
                self.prune(found, &guarded)?;
                self.world.obey(&effect.action)
            }
            (Action::Watch { .. }, _) => self.world.obey(&effect.action).map(|well| self.tell_much_of(well)),
            (action, _) => self.world.obey(&action),
        };
        Ok(Some(result))
    }

    /// Sometimes there was too little traffic to tell.
    fn tell_much_of(&mut self, well: Done) -> Done {
        if self.world.healed || self.rng.percent(75) {
            return well;
        }
        self.figures.inconclusive += 1;
        Done::Inconclusive { seen: "10 of 200 requests".to_owned() }
    }

    fn keep(&mut self, task: Task) -> Option<Result<Done, Failure>> {
        self.tasks.insert(task.effect.id, task);
        None
    }

    fn routed(&mut self, to: Wanted<'_>) -> Result<Done, Failure> {
        self.world.finish_route(to);
        self.shown.front = self.world.front.trouble();
        Ok(Done::Ensured)
    }

    fn prune(&mut self, mut found: Vec<KeptRelease>, guarded: &Guarded) -> Result<(), String> {
        if self.world.disk_full {
            return Ok(());
        }
        let keep = std::num::NonZeroUsize::new(self.setup.keep).unwrap_or_else(|| {
            // No release is worth keeping but what is asked for.
            for kept in &mut found {
                kept.worth = retention::Worth::Abandoned;
            }
            std::num::NonZeroUsize::MIN
        });
        for release in retention::to_delete(&found, retention::Thrift::None(keep), guarded) {
            self.judge_prune(&release)?;
            // One in use is not deleted.
            let used = self.world.processes.iter().any(|process| process.release.id == release);
            if used || self.world.working.use_release(&release) {
                continue;
            }
            self.tell(|_| format!("  pruned {release}"));
            self.world.directories.remove(&release);
            self.record.forget_release(&release)?;
        }
        Ok(())
    }

    fn judge_prune(&self, release: &ReleaseId) -> Result<(), String> {
        let is_it = |one: &Release| one.id == *release;
        let routed =
            |process: &Process| is_it(&process.release) && self.world.front.truth.names(process.color);
        let routed = self.world.processes.iter().any(routed);
        // A daemon that dies now knows what its record says.
        let needed = |app: &App| {
            app.live().is_some_and(|live| is_it(&live.release))
                || app.pipeline.release().is_some_and(is_it)
                || app.previous.as_ref().is_some_and(is_it)
        };
        let hand = self.world.front.hand.is_some();
        if (routed && !hand) || needed(self.app()) || needed(self.record.app()) {
            return Err(format!("{release} is pruned, which is live, being made, or the way back"));
        }
        Ok(())
    }

    /// What was pushed to fail its watch does so.
    fn doom(&mut self) -> Result<(), String> {
        let watched = self.tasks.values().find_map(|task| match &task.effect.action {
            Action::Watch { release, color, .. } => Some((self.world.quality(release), *color)),
            _ => None,
        });
        match watched {
            Some((Quality::DiesWatched, color)) => self.world.kill(color),
            Some((Quality::SickWatched, color)) => self.set_health(color, false),
            // Nothing happened; a daemon that dies half way through its effects is not judged for the other half.
            _ => return Ok(()),
        }
        self.after()
    }

    pub(crate) fn set_health(&mut self, color: Color, healthy: bool) {
        let process = self.world.processes.iter_mut().find(|it| it.color == color && !it.ending);
        if let Some(process) = process {
            process.healthy = healthy;
            let release = process.release.id.clone();
            self.figures.sick += u64::from(!healthy);
            self.inbox.push(Event::HealthChanged { color, release, healthy, answer: "503".to_owned() });
        }
    }
}
