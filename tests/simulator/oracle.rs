//! What must hold after each step, kept from notes and effects alone and apart from the state of the machine, so
//! that a machine that forgets is found out.

use std::collections::BTreeSet;

use bgd::rules::{
    app::{App, DownStage, Idle, Instance, Kind, Pipeline, Serving, Until},
    effect::{Action, Effect, Note},
    event::{Ask, Event, Want},
    ids::{Color, CommitId, DeployId, EffectId, ReleaseId},
    step::{Answer, Blocked, Policy, Step, wanted},
    time::Time,
};

use crate::{
    daemon::Daemon,
    world::{self, Quality, World},
};

#[derive(Default)]
pub struct Oracle {
    bad: BTreeSet<CommitId>,
    hold: Option<Until>,
    down: bool,
    was_live: BTreeSet<ReleaseId>,
    /// The watch under way and what must stay warm meanwhile.
    watch: Option<(EffectId, Color, ReleaseId)>,
    open: Option<DeployId>,
    ended: BTreeSet<DeployId>,
    last_effect: EffectId,
}

fn fail<T>(text: String) -> Result<T, String> {
    Err(text)
}

impl Oracle {
    pub fn forget_tasks(&mut self) {
        self.watch = None;
    }

    pub fn judge(
        &mut self,
        before: &App,
        event: &Event,
        step: &Step,
        (world, now): (&World, Time),
    ) -> Result<(), String> {
        self.judge_numbers(step)?;
        if let Event::Asked { ask: Ask::Down, .. } = event
            && step.answer == Some(Answer::TakingDown)
        {
            self.down = true;
        }
        let failed = matches!(event, Event::Done { result: Err(_), .. });
        if failed && before.down_wanted && !step.next.down_wanted && step.next.live().is_some() {
            self.down = false;
        }
        self.judge_notes(event, step, (before, now))?;
        self.judge_watch(event, step)?;
        for effect in &step.effects {
            self.judge_effect(effect, world)?;
        }
        Ok(())
    }

    fn judge_numbers(&mut self, step: &Step) -> Result<(), String> {
        for effect in &step.effects {
            if effect.id <= self.last_effect {
                return fail(format!("effect number {} was used before", effect.id));
            }
            self.last_effect = effect.id;
        }
        Ok(())
    }

    fn judge_notes(&mut self, event: &Event, step: &Step, (before, now): (&App, Time)) -> Result<(), String> {
        for noted in &step.notes {
            match &noted.note {
                Note::DeployStarted => {
                    let deploy = noted.deploy.as_ref().ok_or("a deploy started without a deploy")?;
                    if self.open.is_some() || self.ended.contains(&deploy.id) {
                        return fail(format!("deploy {} starts beside {:?}", deploy.id, self.open));
                    }
                    self.open = Some(deploy.id);
                    match deploy.kind {
                        Kind::Push => self.judge_push(step)?,
                        // A flip forgives what it goes back to; an automatic way back does only once it is live.
                        Kind::Rollback if matches!(event, Event::Asked { .. }) => {
                            let to = noted.release.as_ref().ok_or("a rollback to nothing")?;
                            self.bad.remove(&to.commit);
                        }
                        Kind::Rollback | Kind::Up | Kind::Manual { .. } => {}
                    }
                }
                Note::DeployEnded(_) => {
                    // An app that does not come up is in service, so that something else can.
                    self.down &= step.next.serving != Serving::Nothing;
                    let id = noted.deploy.as_ref().map(|deploy| deploy.id);
                    if id.is_none() || self.open != id {
                        return fail(format!("deploy {id:?} ends, but {:?} is open", self.open));
                    }
                    self.ended.extend(self.open.take());
                }
                Note::MarkedBad(commit) => {
                    self.bad.insert(commit.clone());
                }
                Note::WentLive { release, .. } => {
                    self.down &= step.next.down_wanted;
                    self.bad.remove(&release.commit);
                    self.was_live.insert(release.id.clone());
                }
                Note::HoldPlaced(hold) => self.hold = Some(hold.until.clone()),
                Note::HoldReleased { .. } => self.judge_release(event)?,
                Note::TakenDown if !self.down => return fail("taken down, and nobody asked".to_owned()),
                _ => {}
            }
        }
        if step.next.hold.is_none() != self.hold.is_none() {
            return fail(format!("the hold changed without a note: {:?} at {now:?}", before.hold));
        }
        if step.next.pipeline.deploy().map(|deploy| deploy.id) != self.open {
            return fail(format!("open is {:?}, under way is {:?}", self.open, step.next.pipeline));
        }
        Ok(())
    }

    fn judge_push(&self, step: &Step) -> Result<(), String> {
        let commit = step.effects.iter().find_map(|effect| match &effect.action {
            Action::Fetch(Want::Commit(commit)) => Some(commit),
            _ => None,
        });
        let commit = commit.ok_or("a push deploy without a commit")?;
        if self.bad.contains(commit) {
            return fail(format!("{} is bad and was deployed by itself", commit.short()));
        }
        if self.hold.is_some() {
            return fail(format!("{} was deployed by itself in spite of a hold", commit.short()));
        }
        if self.down {
            return fail(format!("{} was deployed while out of service", commit.short()));
        }
        Ok(())
    }

    fn judge_release(&mut self, event: &Event) -> Result<(), String> {
        let may = match (self.hold.take(), event) {
            (None, _) => false,
            (_, Event::Asked { ask: Ask::Resume, .. }) => true,
            (Some(Until::Resumed), _) => false,
            (Some(Until::NewerThan(old)), Event::HeadSeen(commit)) => old.as_ref() != Some(commit),
            // The tip went live by hand, or what was pinned did not last.
            (Some(Until::NewerThan(_)), event) => {
                matches!(event, Event::Done { .. } | Event::InstanceDied { .. } | Event::Recovered(_))
            }
        };
        if may { Ok(()) } else { fail(format!("a hold was released by {event:?}")) }
    }

    /// Until a watch has ended or its way back is gone, the former color stays.
    fn judge_watch(&mut self, event: &Event, step: &Step) -> Result<(), String> {
        if let Some((effect, color, release)) = self.watch.clone() {
            let over = match event {
                Event::Done { effect: done, .. } => *done == effect,
                Event::InstanceDied { release: died, .. } => *died == release,
                Event::HealthChanged { release: sick, .. } => *sick == release,
                _ => false,
            } || step.effects.iter().any(|it| it.action == Action::Cancel(effect));
            if over {
                self.watch = None;
            } else if step.effects.iter().any(|it| match &it.action {
                Action::Drain { color: it } => *it == color,
                Action::Stop { release: it, .. } => *it == release,
                _ => false,
            }) {
                return fail(format!("{release} is retired while its successor is watched"));
            }
        }
        if let (Pipeline::Watching { work, .. }, Idle::Warm { release, .. }) =
            (&step.next.pipeline, &step.next.idle)
            && step.effects.iter().any(|effect| effect.id == work.effect)
        {
            self.watch = Some((work.effect, work.color.other(), release.id.clone()));
            let retires = |effect: &Effect| matches!(&effect.action, Action::Stop { release: it, .. } if *it == release.id);
            if step.effects.iter().any(retires) {
                return fail(format!("{} is retired as its watch begins", release.id));
            }
        }
        Ok(())
    }

    fn judge_effect(&self, effect: &Effect, world: &World) -> Result<(), String> {
        let serves = |color: &Color, release: &ReleaseId| {
            world.front.to == Some(*color)
                && world.processes.get(color).is_some_and(|process| process.release.id == *release)
        };
        match &effect.action {
            Action::Stop { color, release } | Action::Discard { color, release: Some(release) }
                if serves(color, release) =>
            {
                fail(format!("{:?}, and the front routes to it", effect.action))
            }
            Action::Route { to: Some(to), .. } => {
                let proven = world
                    .processes
                    .get(&to.color)
                    .is_some_and(|process| process.release.id == to.release && process.proven);
                if proven || self.was_live.contains(&to.release) || self.may_have_died(to.color, world) {
                    Ok(())
                } else {
                    fail(format!("{:?} was never proven healthy", effect.action))
                }
            }
            _ => Ok(()),
        }
    }

    /// The death of a proven instance may not have been heard of yet.
    fn may_have_died(&self, color: Color, world: &World) -> bool {
        !world.processes.contains_key(&color)
    }

    /// When all effects had time to act.
    pub fn judge_quiet(&self, app: &App, world: &World, policy: &Policy) -> Result<(), String> {
        let turned_away = matches!(
            app.pipeline,
            Pipeline::TakingDown { stage: DownStage::Draining | DownStage::Stopping, .. }
        );
        let insists = Daemon::insists(app) || matches!(app.pipeline, Pipeline::Reverting { .. });
        let Some(live) = app.live() else { return Ok(()) };
        if insists || turned_away {
            return Ok(());
        }
        if world.front.to != Some(live.color) {
            return fail(format!("the front routes to {:?}, live is {}", world.front.to, live.color));
        }
        let runs = world.processes.get(&live.color).is_some_and(|it| it.release.id == live.release.id);
        let waits = matches!(live.instance, Instance::Waiting { .. });
        let left_dead = live.instance == Instance::Dead && !policy.restart;
        if !runs && !waits && !left_dead {
            return fail(format!("{} is dead and nobody starts it: {:?}", live.release.id, live.instance));
        }
        if let (Pipeline::Watching { .. }, Idle::Warm { healthy: true, release, .. }) =
            (&app.pipeline, &app.idle)
            && !runs
        {
            return fail(format!("{} could serve in place of the dead {}", release.id, live.release.id));
        }
        Ok(())
    }

    /// When nothing moves any more in a healed world.
    pub fn judge_settled(&self, app: &App, world: &World, policy: &Policy) -> Result<(), String> {
        if !matches!(app.pipeline, Pipeline::Resting) || !matches!(app.idle, Idle::Vacant) {
            return fail(format!("it rests in {:?} with {:?} idle", app.pipeline, app.idle));
        }
        if app.queued.is_some() || app.rerouting.is_some() || app.down_wanted {
            return fail(format!("something is left over: {app:?}"));
        }
        self.judge_quiet(app, world, policy)?;
        let mut running: Vec<_> =
            world.processes.iter().map(|(at, it)| (*at, it.release.id.clone())).collect();
        if let Some(live) = app.live() {
            let dead = live.instance == Instance::Dead && !policy.restart;
            running.retain(|it| *it != (live.color, live.release.id.clone()));
            if !dead && !world.processes.contains_key(&live.color) {
                return fail(format!("live does not run: {live:?}"));
            }
        } else if world.front.to.is_some() && !matches!(app.serving, Serving::Nothing) {
            return fail(format!("out of service, and the front routes to {:?}", world.front.to));
        }
        if !running.is_empty() {
            return fail(format!("orphans: {running:?}"));
        }
        self.judge_tip(app, world)
    }

    fn judge_tip(&self, app: &App, world: &World) -> Result<(), String> {
        let Some(tip) = world.tip.map(world::commit) else { return Ok(()) };
        let legitimate = match wanted(app, Time(u64::MAX)) {
            Ok(_) => false,
            Err(Blocked::UpToDate) => app.live().is_some_and(|live| live.release.commit == tip),
            Err(Blocked::Held) => self.hold.is_some(),
            Err(Blocked::BadCommit) => self.bad.contains(&tip),
            Err(Blocked::OutOfService) => self.down,
            Err(Blocked::NotSeen | Blocked::Deploying | Blocked::RetryLater(_)) => false,
        };
        if legitimate {
            Ok(())
        } else {
            {
                let why = wanted(app, Time(u64::MAX));
                fail(format!("the tip {} is not live, for no good reason: {why:?}", tip.short()))
            }
        }
    }

    /// A fresh good commit with no hold has to be live.
    pub fn judge_newest(app: &App, world: &World) -> Result<(), String> {
        let tip = world::commit(world.tip.unwrap());
        let color = app.live().filter(|live| live.release.commit == tip).map(|live| live.color);
        let serves = color.is_some()
            && world.front.to == color
            && world.processes.len() == 1
            && world.processes.values().all(|it| it.healthy && world.quality(&it.release) == Quality::Good);
        if serves { Ok(()) } else { fail(format!("the newest good commit is not live: {app:?}")) }
    }
}
