//! What must hold after each step, kept from notes and effects alone and apart from the state of the machine, so
//! that a machine that forgets is found out.

use std::collections::{BTreeMap, BTreeSet};

use bgd::rules::{
    app::{App, DownStage, End, Idle, Instance, Kind, Live, Pipeline, Serving, Stage, StageGroup, Until},
    effect::{Action, Effect, Hook, Note},
    event::{Ask, Event, Routed, Want},
    ids::{Color, CommitId, DeployId, EffectId, ReleaseId},
    step::{AskReply, Blocked, Noted, Policy, Step, wanted},
    time::Time,
    words::Outcome,
};

use crate::{
    backing,
    daemon::{Daemon, Shown},
    guarding,
    sharing::{self, Shares},
    tasking,
    world::{self, Quality, World},
};

/// A deploy by itself is superseded this often in a row at most (promise A11).
const SUPERSEDED_AT_MOST: u32 = 3;
/// A commit that fails for outside reasons is tried this often by itself (promise A10).
const TRIES: u32 = 5;

#[derive(Default, Clone)]
pub struct Oracle {
    bad: BTreeSet<CommitId>,
    hold: Option<Until>,
    down: bool,
    was_live: BTreeSet<ReleaseId>,
    /// The watch under way and what must stay warm meanwhile.
    watch: Option<(EffectId, Color, ReleaseId)>,
    open: Option<DeployId>,
    queued: Option<DeployId>,
    ended: BTreeSet<DeployId>,
    superseded: u32,
    /// How often a commit failed by itself since it last went well or was asked for.
    failures: BTreeMap<CommitId, u32>,
    last_effect: EffectId,
    shares: Shares,
    /// What the app was told last to be live, by a hook that has ended; and by which run it is being told.
    announced: Option<ReleaseId>,
    announcing: Option<(EffectId, ReleaseId)>,
    /// Something went live in this record's time.
    has_gone_live: bool,
}

/// A step and what there was when it was carried out.
pub struct Moment<'a> {
    pub before: &'a App,
    pub event: &'a Event,
    pub step: &'a Step,
    pub world: &'a World,
    pub policy: &'a Policy,
}

fn fail<T>(text: String) -> Result<T, String> {
    Err(text)
}

impl Oracle {
    pub fn forget_tasks(&mut self) {
        self.watch = None;
        self.announcing = None;
    }

    /// Back to what the record knows. What was proven and live was so all the same.
    pub fn forget_unrecorded(&mut self, mut recorded: Self) {
        recorded.was_live.append(&mut self.was_live);
        *self = recorded;
    }

    pub fn judge(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment { before, event, step, world, .. } = *moment;
        self.judge_numbers(step)?;
        if let Event::Asked { ask: Ask::Down, .. } = event
            && step.answer == Some(AskReply::TakingDown)
        {
            self.down = true;
        }
        let failed = matches!(event, Event::Done { result: Err(_), .. });
        if failed && before.down_wanted && !step.next.down_wanted && step.next.live().is_some() {
            self.down = false;
        }
        self.judge_notes(event, step, before)?;
        self.judge_queue(step)?;
        self.judge_flip(before, event, step)?;
        self.judge_answer(event, step)?;
        self.judge_watch(event, step)?;
        self.hear_announcements(event, step);
        self.shares.judge(moment, &self.bad)?;
        backing::judge(moment)?;
        guarding::judge(moment)?;
        tasking::judge(moment)?;
        // Of a front that can't be asked, or is being told again, the machine knows nothing; the stop itself waits
        // for its turn and looks, when it acts.
        let unknown = matches!(event, Event::Recovered(facts) if facts.routed == Routed::Unknown);
        let blind = unknown || step.next.rerouting.is_some() || step.next.front_unsure;
        let stops = |effect: &&Effect| matches!(effect.action, Action::Stop { .. } | Action::Discard { .. });
        for effect in step.effects.iter().filter(|effect| !(blind && stops(effect))) {
            self.judge_effect(effect, world)?;
        }
        Ok(())
    }

    /// Whoever asks is answered.
    pub fn judge_answer(&self, event: &Event, step: &Step) -> Result<(), String> {
        if matches!(event, Event::Asked { .. }) && step.answer.is_none() {
            return fail(format!("{event:?} was not answered"));
        }
        Ok(())
    }

    /// A deploy that begins is in the record first; a flip alone is not.
    pub fn judge_unrecorded(notes: &[Noted]) -> Result<(), String> {
        let begins = |noted: &&Noted| {
            let deploy = noted.deploy.as_ref().filter(|_| noted.note == Note::DeployStarted);
            deploy.is_some_and(|deploy| matches!(deploy.kind, Kind::Push | Kind::Manual { .. }))
        };
        match notes.iter().find(begins) {
            Some(noted) => fail(format!("{:?} begins without a record", noted.deploy)),
            None => Ok(()),
        }
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

    /// What waits for its turn gets it, or gives way to a newer request.
    fn judge_queue(&mut self, step: &Step) -> Result<(), String> {
        for noted in &step.notes {
            let deploy = noted.deploy.as_ref().map(|deploy| deploy.id);
            match &noted.note {
                Note::Queued(queued) => self.queued = Some(queued.id),
                Note::QueueReplaced(queued) if self.queued == Some(queued.id) => self.queued = None,
                Note::DeployStarted if self.queued == deploy => self.queued = None,
                _ => {}
            }
        }
        if step.next.queued.as_ref().map(|queued| queued.id) != self.queued {
            return fail(format!("deploy {:?} waits, and the state has {:?}", self.queued, step.next.queued));
        }
        Ok(())
    }

    /// A flip marks what it abandons bad, and holds (promise I2).
    fn judge_flip(&self, before: &App, event: &Event, step: &Step) -> Result<(), String> {
        if !matches!(event, Event::Asked { ask, .. } if ask.is_flip()) {
            return Ok(());
        }
        let (Some(live), Some(AskReply::RollingBack(id))) = (before.live(), &step.answer) else {
            return Ok(());
        };
        let begun = before.pipeline.deploy().is_none_or(|deploy| deploy.id != *id);
        let to = step.next.pipeline.release().filter(|to| begun && to.commit != live.release.commit);
        if to.is_some() && (self.hold.is_none() || !self.bad.contains(&live.release.commit)) {
            return fail(format!("{} was flipped away and may come back", live.release.commit.short()));
        }
        Ok(())
    }

    fn judge_notes(&mut self, event: &Event, step: &Step, before: &App) -> Result<(), String> {
        for noted in &step.notes {
            match &noted.note {
                Note::DeployStarted => {
                    let deploy = noted.deploy.as_ref().ok_or("a deploy started without a deploy")?;
                    if self.open.is_some() || self.ended.contains(&deploy.id) {
                        return fail(format!("deploy {} starts beside {:?}", deploy.id, self.open));
                    }
                    self.open = Some(deploy.id);
                    if let Kind::Manual { .. } = deploy.kind {
                        // Asked for: it may be tried anew.
                        self.failures.clear();
                    }
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
                Note::DeployEnded(end) => {
                    self.judge_end(noted, end)?;
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
            return fail(format!("the hold changed without a note: {:?}", before.hold));
        }
        if step.next.pipeline.deploy().map(|deploy| deploy.id) != self.open {
            return fail(format!("open is {:?}, under way is {:?}", self.open, step.next.pipeline));
        }
        Ok(())
    }

    fn judge_end(&mut self, noted: &Noted, end: &End) -> Result<(), String> {
        let is_push = noted.deploy.as_ref().is_some_and(|deploy| deploy.kind == Kind::Push);
        match end.outcome {
            Outcome::Superseded => self.superseded += 1,
            Outcome::Live | Outcome::Failed | Outcome::Cancelled | Outcome::RolledBack => self.superseded = 0,
        }
        if self.superseded > SUPERSEDED_AT_MOST {
            return fail(format!("{} pushes in a row were superseded", self.superseded));
        }
        let Some(release) = noted.release.as_ref().filter(|_| is_push) else { return Ok(()) };
        match end.outcome {
            Outcome::Failed => {
                let failures = self.failures.entry(release.commit.clone()).or_default();
                *failures += 1;
                if *failures > TRIES {
                    return fail(format!("{} failed {failures} times", release.commit.short()));
                }
            }
            Outcome::Live => drop(self.failures.remove(&release.commit)),
            Outcome::Superseded | Outcome::Cancelled | Outcome::RolledBack => {}
        }
        Ok(())
    }

    fn judge_push(&self, step: &Step) -> Result<(), String> {
        let commit = step.effects.iter().find_map(|effect| match &effect.action {
            Action::Fetch { want: Want::Commit(commit), .. } => Some(commit),
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
                let ends =
                    matches!(event, Event::Done { .. } | Event::InstanceDied { .. } | Event::Recovered(_));
                ends || matches!(event, Event::HealthChanged { .. })
            }
        };
        if may { Ok(()) } else { fail(format!("a hold was released by {event:?}")) }
    }

    /// The run of a hook that ended told what it was given, well or not.
    fn hear_announcements(&mut self, event: &Event, step: &Step) {
        if let (Event::Done { effect, .. }, Some((run, release))) = (event, self.announcing.clone())
            && run == *effect
        {
            self.announced = Some(release);
            self.announcing = None;
        }
        for effect in &step.effects {
            if let Action::RunHook { hook: Hook::AfterLive, release, .. } = &effect.action {
                self.announcing = Some((effect.id, release.id.clone()));
            }
        }
        self.has_gone_live |= step.notes.iter().any(|noted| matches!(noted.note, Note::WentLive { .. }));
    }

    /// The hook told the app of what is live, or is telling it (promise G6).
    fn judge_announced(&self, app: &App, policy: &Policy) -> Result<(), String> {
        let Some(live) = app.live().filter(|_| policy.after_live && self.has_gone_live) else {
            return Ok(());
        };
        let known = self.announced.as_ref() == Some(&live.release.id) || self.announcing.is_some();
        if known {
            Ok(())
        } else {
            fail(format!("{} is live, and the app was told of {:?}", live.release.id, self.announced))
        }
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
        if let (Some(work), Idle::Warm { release, .. }) = (step.next.pipeline.work(), &step.next.idle)
            && let Stage::Watching { effect: watch, .. } = work.stage
            && step.effects.iter().any(|effect| effect.id == watch)
        {
            self.watch = Some((watch, work.color.other(), release.id.clone()));
            let retires = |effect: &Effect| matches!(&effect.action, Action::Stop { release: it, .. } if *it == release.id);
            if step.effects.iter().any(retires) {
                return fail(format!("{} is retired as its watch begins", release.id));
            }
        }
        Ok(())
    }

    fn judge_effect(&self, effect: &Effect, world: &World) -> Result<(), String> {
        // A hand may have moved the traffic since bgd looked.
        let routed = |color: Color| world.front.truth.names(color) && world.front.hand.is_none();
        match &effect.action {
            Action::Stop { color, .. } if routed(*color) && world.on(*color).is_some() => {
                fail(format!("{:?}, and the front routes to it", effect.action))
            }
            Action::Discard { color, release: Some(release) }
                if routed(*color) && world.runs(*color, release) =>
            {
                fail(format!("{:?}, and the front routes to it", effect.action))
            }
            Action::Route { to: Some(to), .. } => {
                let it = world.on(to.color);
                let proven = it.is_some_and(|process| process.release.id == to.release && process.proven);
                let no_news = world.front.truth.live == Some(to.color);
                // The death of a proven instance may not have been heard of yet.
                if proven || no_news || self.was_live.contains(&to.release) || it.is_none() {
                    Ok(())
                } else {
                    fail(format!("{:?} was never proven healthy", effect.action))
                }
            }
            _ => Ok(()),
        }
    }

    /// When all effects had time to act.
    pub fn judge_quiet(
        &self,
        (app, shown): (&App, Shown),
        world: &World,
        policy: &Policy,
    ) -> Result<(), String> {
        if world.front.hand.is_some() && !shown.front {
            return fail("the front was changed by hand, and nobody says so".to_owned());
        }
        if shown.unrecorded && !world.disk_full {
            return fail("there is room, and what is not recorded stays so".to_owned());
        }
        self.judge_claims(app, world)?;
        self.judge_announced(app, policy)?;
        backing::judge_quiet(app, world)?;
        guarding::judge_quiet(app, world)?;
        tasking::judge_quiet(app, shown.unrecorded)?;
        sharing::judge_quiet(app, world)?;
        let turned_away = matches!(
            app.pipeline,
            Pipeline::TakingDown { stage: DownStage::Draining | DownStage::Stopping, .. }
        );
        let insists = Daemon::insists(app) || matches!(app.pipeline.stage(), Some(Stage::Reverting { .. }));
        let Some(live) = app.live() else { return Ok(()) };
        if insists || turned_away {
            return Ok(());
        }
        let truth = world.front.truth;
        if truth.live != Some(live.color) && !shown.front {
            return fail(format!("the front routes to {truth:?}, live is {}", live.color));
        }
        if truth.canary != sharing::in_force(app) && !shown.front {
            return fail(format!("beside what is live is {:?}, in {:?}", truth.canary, app.pipeline));
        }
        if let Some(work) = app.pipeline.work()
            && matches!(work.stage, Stage::Canary(_))
            && !world.runs(work.color, &work.release.id)
        {
            return fail(format!("{} has a share and does not run", work.release.id));
        }
        let runs = world.runs(live.color, &live.release.id);
        let waits = matches!(live.instance, Instance::Waiting { .. });
        let left_dead = live.instance == Instance::Dead && !policy.restart;
        if !runs && !waits && !left_dead {
            return fail(format!("{} is dead and nobody starts it: {:?}", live.release.id, live.instance));
        }
        if let (Some(StageGroup::Live), Idle::Warm { healthy: true, release, .. }) =
            (app.pipeline.group(), &app.idle)
            && !runs
            && !guarding::keeps_from(app, release, policy)
        {
            return fail(format!("{} could serve in place of the dead {}", release.id, live.release.id));
        }
        self.judge_health(app, world)
    }

    /// Where something healthy does not serve, bgd says that what serves is not healthy: outside of a watch it
    /// starts that again, and leaves the way back to the operator.
    fn judge_health(&self, app: &App, world: &World) -> Result<(), String> {
        let Some(live) = app.live() else { return Ok(()) };
        let well = |color: Color| world.on(color).is_some_and(|it| it.healthy && it.proven && !it.ending);
        let says = live.healthy == Some(false) || !matches!(live.instance, Instance::Up { .. });
        // What was told to end in an earlier life of bgd does so, and is started again when that is heard of.
        let known_well = world.on(live.color).is_some_and(|it| it.healthy || it.ending);
        if !known_well && !says && well(live.color.other()) {
            return fail(format!(
                "the sick {} serves beside a healthy one, and is called well",
                live.release.id
            ));
        }
        Ok(())
    }

    /// Nothing runs that the state does not name.
    fn judge_claims(&self, app: &App, world: &World) -> Result<(), String> {
        let idle = match &app.idle {
            Idle::Vacant | Idle::Taken => None,
            Idle::Warm { release, .. } | Idle::Draining { release, .. } | Idle::Stopping { release, .. } => {
                Some(&release.id)
            }
        };
        for process in world.processes.iter().filter(|process| !process.ending) {
            let id = &process.release.id;
            let is_live = app.live().is_some_and(|it| it.color == process.color && it.release.id == *id);
            let is_idle = idle == Some(id) && process.color == app.idle_color();
            let is_made = app.pipeline.release().is_some_and(|release| release.id == *id);
            // What the live release is started again in the place of ends as that begins.
            let restarts =
                |it: &Live| matches!(it.instance, Instance::Waiting { .. } | Instance::Starting { .. });
            let is_replaced = app.live().is_some_and(|it| it.color == process.color && restarts(it));
            if !is_live && !is_idle && !is_made && !is_replaced {
                return fail(format!("{id} runs on {}, and nothing names it", process.color));
            }
        }
        Ok(())
    }

    /// When nothing moves any more in a healed world.
    pub fn judge_settled(
        &self,
        (app, shown): (&App, Shown),
        world: &World,
        policy: &Policy,
    ) -> Result<(), String> {
        if !matches!(app.pipeline, Pipeline::Resting) || !matches!(app.idle, Idle::Vacant) {
            return fail(format!("it rests in {:?} with {:?} idle", app.pipeline, app.idle));
        }
        if app.queued.is_some() || app.rerouting.is_some() || app.down_wanted {
            return fail(format!("something is left over: {app:?}"));
        }
        // Before anything was live a front that could not be asked is left as it was, which is said.
        if (shown.front && app.live().is_some()) || shown.unrecorded {
            return fail(format!("trouble is shown that is over: {shown:?}"));
        }
        self.judge_quiet((app, shown), world, policy)?;
        let mut running: Vec<_> =
            world.processes.iter().map(|it| (it.color, it.release.id.clone())).collect();
        if let Some(live) = app.live() {
            let dead = live.instance == Instance::Dead && !policy.restart;
            running.retain(|it| *it != (live.color, live.release.id.clone()));
            if !dead && !world.runs(live.color, &live.release.id) {
                return fail(format!("live does not run: {live:?}"));
            }
        } else if world.front.truth.live.is_some() && !matches!(app.serving, Serving::Nothing) {
            return fail(format!("out of service, and the front routes to {:?}", world.front.truth.live));
        }
        if !running.is_empty() {
            return fail(format!("orphans: {running:?}"));
        }
        self.judge_tip(app, world)
    }

    fn judge_tip(&self, app: &App, world: &World) -> Result<(), String> {
        let Some(tip) = world.tip.map(world::commit) else { return Ok(()) };
        let why = wanted(app, Time(u64::MAX));
        let legitimate = match &why {
            Ok(_) => false,
            Err(Blocked::UpToDate) => app.live().is_some_and(|live| live.release.commit == tip),
            Err(Blocked::Held) => self.hold.is_some(),
            Err(Blocked::BadCommit) => self.bad.contains(&tip),
            Err(Blocked::OutOfService) => self.down,
            Err(
                Blocked::NotSeen
                | Blocked::Deploying
                | Blocked::RetryLater(_)
                | Blocked::Gate
                | Blocked::GatesUnasked,
            ) => false,
        };
        if legitimate {
            return Ok(());
        }
        fail(format!("the tip {} is not live, for no good reason: {why:?}", tip.short()))
    }

    /// A fresh good commit with no hold has to be live.
    pub fn judge_newest(app: &App, world: &World) -> Result<(), String> {
        let tip = world.tip.map(world::commit);
        let live = app.live().filter(|live| Some(&live.release.commit) == tip.as_ref());
        let serves = live.is_some_and(|live| {
            world.front.truth.live == Some(live.color)
                && world.front.truth.canary.is_none()
                && world.processes.len() == 1
                && world.processes.iter().all(|it| it.healthy && world.quality(&it.release) == Quality::Good)
        });
        if serves { Ok(()) } else { fail(format!("the newest good commit is not live: {app:?}")) }
    }
}
