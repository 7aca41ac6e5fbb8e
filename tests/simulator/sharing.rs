//! What must hold while a release has a share of the traffic. Kept by the oracle from events, notes and routes, apart
//! from the machine's own idea of its canary.

use std::collections::BTreeSet;

use bgd::rules::{
    app::{App, Idle, Instance, Live, Placing, Release, Stage, StageGroup, Telling, Work},
    canary::Share,
    effect::{Action, Backend, CanaryShare, Effect},
    event::{Ask, Done, Event, Facts, Routed},
    ids::{Color, CommitId, DeployId},
    step::{AskReply, Step},
    words::Nature,
};

use crate::{oracle::Moment, world::World};

/// What the front has beside what is live, as the state has it: proven, and not on its way.
pub fn in_force(app: &App) -> Option<(Color, Share)> {
    let work = in_canary(app)?;
    Some((work.color, app.canary.as_ref()?.in_force().share))
}

fn sharing(app: &App) -> Option<&Work> {
    app.pipeline.work().filter(|work| work.stage.group() == StageGroup::Sharing)
}

fn in_canary(app: &App) -> Option<&Work> {
    app.pipeline.work().filter(|work| matches!(work.stage, Stage::Canary(_)))
}

#[derive(Default, Clone)]
pub struct Shares {
    /// The last one that the front was told, and for which deploy.
    told: Option<(DeployId, Share)>,
    /// What an operator set, until one says otherwise.
    pinned: Option<(DeployId, Share)>,
    /// What the front refused last, all of the traffic too, until it takes a share. The step before it had its time, or
    /// an operator his word, so that it may be asked for again.
    refused: Option<(DeployId, Share)>,
}

impl Shares {
    pub fn judge(&mut self, moment: &Moment<'_>, bad: &BTreeSet<CommitId>) -> Result<(), String> {
        let Moment { event, step, .. } = *moment;
        self.note_operator(event, step);
        self.note_refusal(moment);
        // One that the same step calls off was never told.
        let stands = |effect: &&Effect| !step.effects.iter().any(|it| it.action == Action::Cancel(effect.id));
        for effect in step.effects.iter().filter(stands) {
            if let Action::Route { to, canary: Some(canary), .. } = &effect.action {
                judge_pair(to.as_ref(), canary, moment.world)?;
                self.judge_share(canary, moment, bad)?;
            }
        }
        self.judge_pin(moment)?;
        judge_time(moment)?;
        judge_return(moment)?;
        judge_reboot(moment)?;
        judge_stuck(moment)?;
        judge_refused(moment)?;
        judge_gap(moment)?;
        judge_stand_in(moment)?;
        self.judge_held(moment)
    }

    fn note_operator(&mut self, event: &Event, step: &Step) {
        let Event::Asked { ask, .. } = event else { return };
        match (ask, sharing(&step.next)) {
            (Ask::SetShare(share), Some(work)) if matches!(step.answer, Some(AskReply::Said(_))) => {
                self.pinned = Some((work.deploy.id, *share));
            }
            (Ask::ResumeSteps | Ask::Promote | Ask::NextStep | Ask::SetShare(Share::ALL), _) => {
                self.pinned = None
            }
            _ => {}
        }
    }

    fn note_refusal(&mut self, moment: &Moment<'_>) {
        let Moment { before, event: Event::Done { effect, result }, .. } = *moment else { return };
        let Some(work) = before.pipeline.work() else { return };
        let asked = match work.stage {
            Stage::Sharing(_) => self.told,
            Stage::Switching(_) => Some((work.deploy.id, Share::ALL)),
            _ => return,
        };
        if work.stage.awaits() == Some(*effect) {
            self.refused = asked.filter(|_| result.is_err());
        }
    }

    /// It grows, save by an operator; and no commit gets one by itself that is known to be bad.
    fn judge_share(
        &mut self,
        canary: &CanaryShare,
        moment: &Moment<'_>,
        bad: &BTreeSet<CommitId>,
    ) -> Result<(), String> {
        let Moment { event, step, .. } = *moment;
        let work = sharing(&step.next).ok_or("a share, and no deploy that it belongs to")?;
        let id = work.deploy.id;
        if bad.contains(&canary.backend.commit) && work.deploy.kind == bgd::rules::app::Kind::Push {
            return Err(format!("{} is bad and gets a share by itself", canary.backend.commit.short()));
        }
        let by_operator = matches!(event, Event::Asked { ask: Ask::SetShare(_) | Ask::ResumeSteps, .. });
        // What the front refused it never had: the share in force is sent once more.
        let refused = self.refused.is_some() && self.refused == self.told;
        match self.told.replace((id, canary.share)).filter(|_| !refused) {
            Some((of, before)) if of == id && canary.share.get() < before.get() && !by_operator => {
                Err(format!("the share went down from {before} to {} by itself", canary.share))
            }
            _ => Ok(()),
        }
    }

    /// What an operator set stays.
    fn judge_pin(&mut self, moment: &Moment<'_>) -> Result<(), String> {
        let Some((id, pinned)) = self.pinned else { return Ok(()) };
        let Moment { before, event, step, .. } = *moment;
        // All of it is no share.
        let promoted = matches!(
            event,
            Event::Asked { ask: Ask::Promote | Ask::NextStep | Ask::SetShare(Share::ALL), .. }
        );
        if let (Some(work), Some(Stage::Switching(_))) = (sharing(before), step.next.pipeline.stage())
            && work.deploy.id == id
            && !promoted
        {
            return Err(format!("{pinned} was set by hand, and it is switched by itself"));
        }
        match &step.next.canary {
            Some(canary)
                if sharing(&step.next).is_some_and(|it| it.deploy.id == id) && canary.share != pinned =>
            {
                Err(format!("{pinned} was set by hand, and it became {}", canary.share))
            }
            _ => Ok(()),
        }
    }
    /// Where too little traffic is to hold a step, it does: nothing is asked for but what the front refused before.
    fn judge_held(&self, moment: &Moment<'_>) -> Result<(), String> {
        let Moment { before, event, step, policy, .. } = *moment;
        let Event::Done { effect, result: Ok(Done::Inconclusive { .. }) } = event else { return Ok(()) };
        let Some(work) = in_canary(before) else { return Ok(()) };
        let some = in_force(before).is_some_and(|(_, share)| share != Share::NONE);
        let next = step.next.pipeline.work();
        let asks = next.and_then(|next| match next.stage {
            Stage::Sharing(_) => self.told,
            Stage::Switching(_) => Some((next.deploy.id, Share::ALL)),
            _ => None,
        });
        let leaves = work.stage.awaits() == Some(*effect) && asks.is_some() && asks != self.refused;
        if policy.hold_inconclusive && some && leaves {
            return Err("too little traffic was to hold the step, and did not".to_owned());
        }
        Ok(())
    }
}

/// Beside what is live, on the other color, and proven; the death of one that was may not have been heard of yet.
fn judge_pair(to: Option<&Backend>, canary: &CanaryShare, world: &World) -> Result<(), String> {
    let it = &canary.backend;
    if to.is_none_or(|live| live.color == it.color || live.release == it.release) {
        return Err(format!("{canary:?} beside {to:?}"));
    }
    match world.on(it.color) {
        Some(process) if process.release.id != it.release || !process.proven => {
            Err(format!("{canary:?} was never proven healthy"))
        }
        _ => Ok(()),
    }
}

/// A step begins when its share is proven, and at no other time.
fn judge_time(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event, step, .. } = *moment;
    let (Some(was), Some(is)) = (&before.canary, &step.next.canary) else { return Ok(()) };
    let same = before.pipeline.deploy().map(|it| it.id) == step.next.pipeline.deploy().map(|it| it.id);
    let proven = matches!(event, Event::Done { result: Ok(_), .. })
        && matches!(before.pipeline.stage(), Some(Stage::Sharing(_)));
    if same && was.since != is.since && !proven {
        return Err(format!("a step begins anew by {event:?}"));
    }
    Ok(())
}

/// A share in force is left alone by a restart of bgd.
fn judge_return(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event: Event::Recovered(facts), step, .. } = *moment else { return Ok(()) };
    let (Some(work), Some(live)) = (in_canary(before), before.live()) else { return Ok(()) };
    let Facts { routed, canary, half_told, running, .. } = facts;
    let undisturbed = *routed == Routed::Color(live.color)
        && *canary == in_force(before)
        && !half_told
        && running.get(&work.color) == Some(&work.release.id)
        && running.get(&live.color) == Some(&live.release.id);
    let told = |effect: &Effect| matches!(effect.action, Action::Route { .. });
    let goes_on = in_canary(&step.next).is_some() && !step.effects.iter().any(told);
    let superseded = matches!(step.next.pipeline.stage(), Some(Stage::Reverting { .. }));
    if undisturbed && !goes_on && !superseded && before.rerouting.is_none() {
        return Err(format!("nothing happened to the share, and it is {:?}", step.next.pipeline));
    }
    Ok(())
}

/// Where nothing runs after a restart, that is not the release's fault.
fn judge_reboot(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event: Event::Recovered(facts), step, .. } = *moment else { return Ok(()) };
    let Some(work) = sharing(before).filter(|_| facts.running.is_empty()) else { return Ok(()) };
    match step.next.pipeline.stage() {
        Some(Stage::Reverting { end, .. }) if end.failure.is_some() => {
            Err(format!("{} was gone after a reboot, and is blamed for it", work.release.id))
        }
        _ => Ok(()),
    }
}

/// A share that the front can't take back is not left to what was abandoned.
fn judge_stuck(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event, step, .. } = *moment;
    let Event::Done { effect, result: Err(failure) } = event else { return Ok(()) };
    let (Some(work), Some(live)) = (before.pipeline.work(), before.live()) else { return Ok(()) };
    let Stage::Reverting { effect: route, telling: Telling::Now { .. }, .. } = &work.stage else {
        return Ok(());
    };
    let shares = before.canary.is_some() && live.release.id != work.release.id;
    let held = route == effect && failure.nature == Nature::FrontStuck;
    let next = step.next.pipeline.work();
    let replaced =
        next.is_some_and(|it| matches!(it.stage, Stage::Replacing { .. }) && it.color == work.color);
    if shares && held && matches!(before.idle, Idle::Taken) && !replaced {
        return Err(format!("{} was abandoned, and its share stays with it", work.release.id));
    }
    Ok(())
}

/// A step, a share or a switch that changed nothing leaves the share that is in force where it is (promise N5).
fn judge_refused(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event: Event::Done { effect, result: Err(failure) }, step, .. } = *moment else {
        return Ok(());
    };
    let Some(work) = before.pipeline.work() else { return Ok(()) };
    let (Stage::Sharing(asked) | Stage::Switching(asked)) = &work.stage else { return Ok(()) };
    let shares = before.canary.as_ref().is_some_and(|canary| canary.proven.is_some());
    let unmoved = failure.nature.left_the_front() && asked == effect && !before.front_unsure;
    let goes_on = in_canary(&step.next).is_some_and(|it| it.release.id == work.release.id);
    let superseded = step.next.head != before.head;
    if shares && unmoved && !goes_on && !superseded {
        return Err(format!("nothing was changed, and {} loses its share", work.release.id));
    }
    Ok(())
}

/// Nothing is started in the place of what serves while it runs, well, on the other color (promise N4): that would be a
/// gap for nothing.
fn judge_gap(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, event, step, world, .. } = *moment;
    let failed = matches!(event, Event::Done { result: Err(_), .. })
        && matches!(before.pipeline.stage(), Some(Stage::Replacing { by: Placing::PassedOn, .. }));
    // A live release that was just started again is not known to be well.
    let is_up = |live: &Live| matches!(live.instance, Instance::Up { .. });
    let well = |color: Color, release: &Release| {
        let live = before.live().filter(|live| live.release.id == release.id);
        live.is_none_or(is_up)
            && world.on(color).is_some_and(|it| {
                it.release.id == release.id && it.healthy && it.proven && !it.ending && !it.passes_on
            })
    };
    let gap = step.effects.iter().find(|effect| match &effect.action {
        Action::Replace { color, release, .. } => well(color.other(), release),
        _ => false,
    });
    match gap.filter(|_| !failed) {
        Some(effect) => Err(format!("{:?}, which runs on the other color", effect.action)),
        None => Ok(()),
    }
}

/// Once nothing is under way: where the front still routes to what stands in for the live release, something does.
pub fn judge_quiet(app: &App, world: &World) -> Result<(), String> {
    let (Some(live), Idle::Warm { release, .. }) = (app.live(), &app.idle) else { return Ok(()) };
    let color = live.color.other();
    let needed = release.id == live.release.id && world.front.truth.reaches(color) && app.rerouting.is_some();
    if needed && world.on(color).is_none() && app.standing_in.is_none() && world.front.hand.is_none() {
        return Err(format!("the front routes to {color}, where nothing stands in for {}", release.id));
    }
    Ok(())
}

/// What took its place serves until the front was told.
fn judge_stand_in(moment: &Moment<'_>) -> Result<(), String> {
    let Moment { before, step, world, .. } = *moment;
    // Of a switched release the front is believed to have stayed where that was: its stop waits, and looks.
    let was_live = |live: &&Live| before.live().is_some_and(|was| was.release.id == live.release.id);
    let live = step.next.live().filter(|_| step.next.rerouting.is_some()).filter(was_live);
    let Some(live) = live else { return Ok(()) };
    let color = live.color.other();
    let serves = world.front.truth.reaches(color) && world.front.hand.is_none();
    let leaves = |effect: &Effect| match &effect.action {
        Action::Drain { color: it } | Action::Stop { color: it, .. } => *it == color,
        _ => false,
    };
    let stands_in = world.on(color).is_some_and(|it| it.release.id == live.release.id && !it.ending);
    if stands_in && serves && step.effects.iter().any(leaves) {
        return Err(format!("{} leaves {color} while the front gives it a share", live.release.id));
    }
    Ok(())
}
