//! Between deploys and beside them: the machine restarts the live instance, notes its health, and empties the other
//! color.

use std::time::Duration;

use super::Turn;
use crate::rules::{
    app::{Backup, Idle, Instance, Live, Pipeline, Placing, Release, Serving, Stage, Work},
    backoff,
    effect::{Action, Note},
    event::Done,
    ids::{Color, EffectId, ReleaseId},
    words::{Failure, Nature, Phase},
};

/// The wait before the next try to stop an instance.
const STOP_AGAIN: Duration = Duration::from_secs(10);

/// How an instance died: exit code or signal, and the end of its log.
pub(super) type Death<'a> = (&'a str, &'a [String]);

impl Turn<'_> {
    pub(super) fn done(&mut self, effect: EffectId, result: &Result<Done, Failure>) {
        if self.pipeline_done(effect, result)
            || self.instance_done(effect, result)
            || self.idle_done(effect, result)
            || self.reroute_done(effect, result)
            || self.announced(effect, result)
            || self.errand_ran(effect, result)
            || self.stood_in(effect, result)
        {
            return;
        }
        match result {
            Ok(_) => self.ignore(format!("effect {effect} ended and nothing waits for it")),
            Err(failure) => self.note(Note::Trouble(failure.clone())),
        }
    }

    fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.app.serving {
            Serving::Live(live) => Some(live),
            Serving::Nothing | Serving::OutOfService(_) => None,
        }
    }

    fn instance_done(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        let Some(live) = self.app.live() else { return false };
        let (instance, color, release) = (live.instance.clone(), live.color, live.release.clone());
        match instance {
            Instance::Waiting { attempt, effect: awaited } if awaited == effect => {
                self.start_live(attempt, color, release);
                true
            }
            Instance::Starting { attempt, effect: awaited } if awaited == effect => {
                match result {
                    Ok(done) => self.instance_up(attempt, done),
                    Err(failure) => {
                        self.note(Note::RestartFailed(failure.clone()));
                        self.wait_to_restart(attempt + 1);
                    }
                }
                true
            }
            Instance::Waiting { .. } | Instance::Starting { .. } | Instance::Up { .. } | Instance::Dead => {
                false
            }
        }
    }

    pub(super) fn start_live(&mut self, attempt: u32, color: Color, release: Release) {
        let effect = self.act(Action::Start { release, color });
        if let Some(live) = self.live_mut() {
            live.instance = Instance::Starting { attempt, effect };
            live.healthy = None;
        }
    }

    fn instance_up(&mut self, attempt: u32, done: &Done) {
        let since = self.now();
        if let Some(live) = self.live_mut() {
            live.instance = Instance::Up { since, attempt };
            live.healthy = None;
        }
        let which = match done {
            Done::Started { instances, of } => (instances.clone(), *of),
            Done::Fetched { .. } | Done::Inconclusive { .. } | Done::Ran(_) | Done::Ensured => {
                (Vec::new(), 1)
            }
        };
        self.note(Note::InstanceRestarted { attempt, which });
    }

    fn wait_to_restart(&mut self, attempt: u32) -> Duration {
        let after = backoff::restart_delay(attempt);
        let effect = self.act(Action::Wake { after });
        if let Some(live) = self.live_mut() {
            live.instance = Instance::Waiting { attempt, effect };
            live.healthy = Some(false);
        }
        after
    }

    pub(super) fn instance_died(&mut self, color: Color, release: &ReleaseId, how: Death<'_>) {
        let is_live = self.app.live().is_some_and(|live| live.color == color && live.release.id == *release);
        if is_live {
            return self.live_died(how);
        }
        // One release may run on both colors, when one of them stands in for the other.
        let on_idle = color == self.app.idle_color();
        let of_live = self.app.live().is_some_and(|live| live.release.id == *release);
        if on_idle && of_live && self.stands_in() {
            if self.app.standing_in.is_none() {
                self.note(Note::Trouble(stand_in_died(color, how)));
                self.stand_in_again();
            }
            return;
        }
        match std::mem::take(&mut self.app.idle) {
            Idle::Warm { release: warm, timer, .. } if on_idle && warm.id == *release => {
                if let Some(timer) = timer {
                    self.act(Action::Cancel(timer));
                }
                // Its processes are gone; the stop proves that the port is free too.
                self.app.idle = self.stop_idle(warm.clone());
                self.warm_died_in_revert(&warm);
            }
            Idle::Draining { release: draining, effect } if on_idle && draining.id == *release => {
                self.act(Action::Cancel(effect));
                self.app.idle = self.stop_idle(draining);
            }
            idle @ (Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. }) => {
                self.app.idle = idle;
                self.taken_died(color, release, how);
            }
        }
    }

    /// The instance of the deploy under way died. A start or a probe under way notices that itself, unless it ended
    /// just before.
    fn taken_died(&mut self, color: Color, release: &ReleaseId, how: Death<'_>) {
        let known = format!("the {color} instance of {release} ended, as whoever waits for it knows");
        let Some(work) = self.app.pipeline.work().cloned() else { return self.ignore(known) };
        if let Some(effect) = work.stage.awaits()
            && (work.color, &work.release.id) == (color, release)
        {
            let failed = |phase, when| died((color, phase), when, how);
            match &work.stage {
                Stage::Probing(_) => {
                    self.act(Action::Cancel(effect));
                    return self.probe_again(work);
                }
                Stage::Warming(_) => {
                    self.act(Action::Cancel(effect));
                    return self.fail(work, &failed(Phase::Warming, "while it was warmed up"));
                }
                Stage::Sharing(_) | Stage::Canary(_) => {
                    self.act(Action::Cancel(effect));
                    let failure = failed(Phase::Canary, "while it had a share of the traffic");
                    return self.canary_failed(work, &failure);
                }
                Stage::Switching(_) => {
                    self.act(Action::Cancel(effect));
                    return self
                        .switch_failed(work, &failed(Phase::Switching, "while the traffic moved to it"));
                }
                _ => {}
            }
        }
        match work.stage.clone() {
            Stage::Replacing { effect, wanted, by, end } if wanted.id == *release && work.color == color => {
                self.act(Action::Cancel(effect));
                self.place_again(work, (wanted, end), by);
            }
            // The release that a stand-in is to pass requests to: it starts again once the stand-in runs.
            Stage::Replacing { wanted, by: Placing::PassedOn, .. }
                if wanted.id == *release && matches!(self.app.idle, Idle::Taken) =>
            {
                self.app.idle = Idle::Vacant;
            }
            _ => self.ignore(known),
        }
    }

    fn live_died(&mut self, how: Death<'_>) {
        let Some(live) = self.app.live() else { return };
        let attempt = match live.instance {
            Instance::Up { since, attempt } => backoff::next_attempt(attempt, self.now().since(since)),
            // It may have died right after its start, whose result has not arrived yet.
            Instance::Starting { attempt, effect } => {
                self.act(Action::Cancel(effect));
                attempt.saturating_add(1)
            }
            Instance::Waiting { .. } | Instance::Dead => {
                return self.ignore("the live instance was known to be down");
            }
        };
        if matches!(self.app.pipeline, Pipeline::TakingDown { .. }) {
            self.set_dead();
            return self.ignore("the live instance ended while it is taken down");
        }
        if let Some((work, watch, former)) = self.watched()
            && self.way_back_is_warm()
            && self.may_go_back(former.as_ref())
        {
            self.act(Action::Cancel(watch));
            self.set_dead();
            let failure = died((work.color, Phase::Watching), "while it was watched", how);
            return self.watch_failed(work, former, &failure);
        }
        let restart_in = if self.context.policy.restart {
            Some(self.wait_to_restart(attempt))
        } else {
            self.set_dead();
            None
        };
        self.note(Note::InstanceDied { how: how.0.to_owned(), restart_in });
    }

    /// The deploy that is watched, its watch, and what was live before.
    pub(super) fn watched(&self) -> Option<(Work, EffectId, Option<Release>)> {
        let work = self.app.pipeline.work()?;
        let Stage::Watching { effect, former, .. } = &work.stage else { return None };
        Some((work.clone(), *effect, former.clone()))
    }

    /// Restarts a live instance that was given up for a way back, when that way back failed.
    pub(super) fn revive(&mut self) {
        if self.context.policy.restart && self.app.live().is_some_and(|live| live.instance == Instance::Dead)
        {
            self.wait_to_restart(0);
        }
    }

    pub(super) fn set_dead(&mut self) {
        if let Some(live) = self.live_mut() {
            live.instance = Instance::Dead;
            live.healthy = Some(false);
        }
    }

    pub(super) fn health_changed(&mut self, color: Color, release: &ReleaseId, (now, answer): (bool, &str)) {
        if let Some(live) = self.live_mut()
            && live.color == color
            && live.release.id == *release
        {
            let changed = live.healthy != Some(now);
            let is_news = live.healthy == Some(!now);
            live.healthy = Some(now);
            if changed && (is_news || !now) {
                self.note(Note::HealthChanged { healthy: now, answer: answer.to_owned() });
            }
            return;
        }
        match &mut self.app.idle {
            Idle::Warm { release: warm, healthy, .. } if warm.id == *release => {
                *healthy = now;
                self.leave_the_dead();
            }
            Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. } => self.ignore(format!("health of {release}, which is not in use")),
        }
    }

    /// Moves the traffic to a former instance that recovers while the watched one is down.
    fn leave_the_dead(&mut self) {
        let down = self.app.live().is_some_and(|live| !matches!(live.instance, Instance::Up { .. }));
        let Some((work, watch, former)) = self.watched() else { return };
        if down && self.way_back_is_warm() && self.may_go_back(former.as_ref()) {
            self.act(Action::Cancel(watch));
            let color = work.color;
            self.watch_failed(
                work,
                former,
                &died((color, Phase::Watching), "while it was watched", ("not up again", &[])),
            );
        }
    }

    fn idle_done(&mut self, effect: EffectId, result: &Result<Done, Failure>) -> bool {
        match self.app.idle.clone() {
            Idle::Warm { timer: Some(timer), .. } if timer == effect => {
                self.retire_warm();
                true
            }
            // While a route is under way, the front may still send requests there.
            Idle::Draining { release, effect: awaited } if awaited == effect && self.is_telling() => {
                self.app.idle = self.stop_later(release);
                true
            }
            Idle::Draining { release, effect: awaited } if awaited == effect => {
                if let Err(trouble) = result {
                    self.note(Note::Trouble(trouble.clone()));
                }
                self.idle_step_ended(Phase::Draining);
                self.app.idle = self.stop_idle(release);
                true
            }
            Idle::Stopping { release, effect: awaited } if awaited == effect => {
                self.idle_stopped(release, result);
                true
            }
            Idle::Vacant
            | Idle::Taken
            | Idle::Warm { .. }
            | Idle::Draining { .. }
            | Idle::Stopping { .. } => false,
        }
    }

    fn idle_stopped(&mut self, release: Release, result: &Result<Done, Failure>) {
        self.idle_step_ended(Phase::Stopping);
        match result {
            Ok(_) => {
                let color = self.app.idle_color();
                self.app.idle = Idle::Vacant;
                let stood_in = self.app.live().is_some_and(|live| live.release.id == release.id);
                self.note(match stood_in {
                    true => Note::StandInEnded { color },
                    false => Note::Retired { color, release: release.id },
                });
            }
            Err(trouble) => {
                // Refused (the front routes there) or impossible: noted, and tried again; nothing waits for it.
                self.app.idle = self.stop_later(release);
                self.note(Note::Trouble(trouble.clone()));
                match self.app.pipeline.stage().cloned() {
                    Some(Stage::Clearing) => self.not_cleared(trouble),
                    Some(Stage::Retiring { end }) => self.end_deploy(end),
                    _ => self.app.down_wanted = false,
                }
            }
        }
    }

    fn not_cleared(&mut self, trouble: &Failure) {
        let Some(work) = self.app.pipeline.work().cloned() else { return };
        self.fail(work, &Failure { nature: Nature::Transient, ..trouble.clone() });
    }

    /// The idle color while it waits for its next stop. When nothing is live, no deploy will correct a front that still
    /// routes there (half changed by an unrecorded flip); so bgd sends the route, or the stop would be refused for
    /// ever.
    pub(super) fn stop_later(&mut self, release: Release) -> Idle {
        if self.app.live().is_none() && self.app.rerouting.is_none() && !self.is_telling() {
            self.reroute();
        }
        let effect = self.act(Action::Wake { after: STOP_AGAIN });
        Idle::Draining { release, effect }
    }

    /// Ends a step of the idle color: while a deploy retires its predecessor, those steps are the deploy's.
    fn idle_step_ended(&mut self, phase: Phase) {
        let Some(mut work) = self.app.pipeline.work().cloned() else { return };
        if matches!(work.stage, Stage::Retiring { .. }) {
            self.stepped(&mut work.deploy, phase);
            self.app.pipeline = Pipeline::Deploying(work);
        }
    }

    /// Retires a warm color: drain, then stop.
    pub(super) fn retire_warm(&mut self) {
        let Idle::Warm { release, timer, healthy } = self.app.idle.clone() else { return };
        if self.stands_in() {
            return;
        }
        self.stand_in_no_more();
        if let Some(timer) = timer {
            self.act(Action::Cancel(timer));
        }
        if self.app.backup != Backup::Absent {
            // It drains once the front has proven that it has no backup any more.
            self.app.idle = Idle::Warm { release, timer: None, healthy };
            return;
        }
        let color = self.app.idle_color();
        let effect = self.act(Action::Drain { color });
        self.app.idle = Idle::Draining { release, effect };
        if matches!(self.app.pipeline.stage(), Some(Stage::Retiring { .. })) {
            self.enter(Phase::Draining);
        }
    }

    pub(super) fn stop_idle(&mut self, release: Release) -> Idle {
        let color = self.app.idle_color();
        let effect = self.act(Action::Stop { color, release: release.id.clone() });
        if matches!(self.app.pipeline.stage(), Some(Stage::Retiring { .. })) {
            self.enter(Phase::Stopping);
        }
        Idle::Stopping { release, effect }
    }
}

fn died((color, phase): (Color, Phase), when: &str, (how, last_words): Death<'_>) -> Failure {
    Failure {
        phase,
        nature: Nature::Deterministic,
        cause: format!("the new instance died {when}: {how}"),
        hint: Some(format!("`bgd logs --color {color}` shows its last words; push a fix")),
        log_tail: last_words.to_vec(),
    }
}

fn stand_in_died(color: Color, (how, _): Death<'_>) -> Failure {
    Failure {
        phase: Phase::Switching,
        nature: Nature::Transient,
        cause: format!("what passes on what comes to {color} died ({how}) and is started again"),
        hint: None,
        log_tail: Vec::new(),
    }
}
