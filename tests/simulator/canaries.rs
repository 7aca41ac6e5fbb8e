//! Machines with a defect each that shows only in a canary; see `defects`.

use bgd::rules::{
    app::{App, Idle, Stage, StageGroup, Work},
    canary::Share,
    effect::{Action, Backend, CanaryShare, Effect},
    event::{Ask, Done, Event, Facts},
    step::{Context, Step, step},
    words::{Failure, Nature},
};

/// The deploy that has a share, or is being given one.
fn shares(app: &App) -> Option<&Work> {
    app.pipeline.work().filter(|work| work.stage.group() == StageGroup::Sharing)
}

/// What the front has beside what is live, in the words of a route.
fn share_of(app: &App) -> Option<CanaryShare> {
    let work = shares(app)?;
    let backend =
        Backend { color: work.color, release: work.release.id.clone(), commit: work.release.commit.clone() };
    Some(CanaryShare { backend, share: app.canary.as_ref()?.share })
}

fn is_asked(event: &Event, what: &Ask) -> bool {
    matches!(event, Event::Asked { ask, .. } if ask == what)
}

/// The way back from a canary is told with the share that was to be taken back.
fn leaves_the_share(app: &App, mut made: Step) -> Step {
    if !matches!(made.next.pipeline.stage(), Some(Stage::Reverting { .. })) {
        return made;
    }
    for effect in &mut made.effects {
        if let Action::Route { canary, .. } = &mut effect.action {
            *canary = share_of(app);
        }
    }
    made
}

pub fn leaves_the_share_after_a_flip(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    if is_asked(event, &Ask::Flip) { leaves_the_share(app, made) } else { made }
}

pub fn leaves_the_share_when_superseded(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    if matches!(event, Event::HeadSeen(_)) { leaves_the_share(app, made) } else { made }
}

pub fn leaves_the_share_after_a_failure(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    let failed = matches!(event, Event::Done { result: Err(_), .. } | Event::InstanceDied { .. });
    if failed { leaves_the_share(app, made) } else { made }
}

/// The way back waits for a front that is stuck.
pub fn waits_for_the_front(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::Done { effect, result: Err(failure) } if app.canary.is_some() => {
            let failure = Failure { nature: Nature::Transient, ..failure.clone() };
            step(app, &Event::Done { effect: *effect, result: Err(failure) }, context)
        }
        _ => step(app, event, context),
    }
}

/// A step that the front refused counts as one that may have come true.
pub fn goes_back_for_nothing(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::Done { effect, result: Err(failure) }
            if matches!(app.pipeline.stage(), Some(Stage::Sharing(_))) =>
        {
            let failure = Failure { nature: Nature::Transient, ..failure.clone() };
            step(app, &Event::Done { effect: *effect, result: Err(failure) }, context)
        }
        _ => step(app, event, context),
    }
}

/// A step that was refused is not asked for again.
pub fn asks_once(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if let (Some(canary), Some(Stage::Canary(_))) = (&mut made.next.canary, made.next.pipeline.stage())
        && canary.refused > 0
    {
        made.effects.retain(|effect| !matches!(effect.action, Action::Watch { .. }));
    }
    made
}

/// What is to serve is started in the place of what serves, though it runs.
pub fn leaves_a_gap(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    for effect in &mut made.effects {
        if let Action::StandIn { color, out, release } = effect.action.clone() {
            effect.action = Action::Replace { color, out, release };
        }
    }
    made
}

/// What stands in for the live release is not put there again when it dies.
pub fn forgets_what_stands_in(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if made.next.standing_in.take().is_some() {
        made.effects.retain(|effect| !matches!(effect.action, Action::StandIn { .. }));
    }
    made
}

/// After a restart, what passes on counts as an instance that the front was led to.
pub fn takes_it_for_an_instance(app: &App, event: &Event, context: &Context) -> Step {
    let Event::Recovered(facts) = event else { return step(app, event, context) };
    step(app, &Event::Recovered(Facts { stands_in: None, ..facts.clone() }), context)
}

/// It goes as soon as the deploy has ended.
pub fn retires_what_stands_in(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let live = made.next.live().map(|live| live.release.id.clone());
    let Idle::Warm { release, .. } = made.next.idle.clone() else { return made };
    if made.next.rerouting.is_some() && live == Some(release.id.clone()) {
        made.next.last_effect.0 += 1;
        let (effect, color) = (made.next.last_effect, made.next.idle_color());
        made.effects.push(Effect { id: effect, action: Action::Drain { color } });
        made.next.idle = Idle::Draining { release, effect };
    }
    made
}

pub fn stops_first(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let left = matches!(made.next.pipeline.stage(), Some(Stage::Reverting { .. }));
    if let Some(work) = shares(app).filter(|_| left) {
        made.next.last_effect.0 += 1;
        let action = Action::Stop { color: work.color, release: work.release.id.clone() };
        made.effects.push(Effect { id: made.next.last_effect, action });
    }
    made
}

/// It counts as healthy when it has started.
pub fn shares_unproven(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    let Some(Stage::Probing(probe)) = made.next.pipeline.stage() else { return made };
    let beside = app.live().is_some() && !context.policy.canary.is_empty();
    if !beside || !matches!(app.pipeline.stage(), Some(Stage::Starting(_))) {
        return made;
    }
    let proven = Event::Done { effect: *probe, result: Ok(Done::Ensured) };
    then(made, &proven, context)
}

fn then(mut made: Step, event: &Event, context: &Context) -> Step {
    let more = step(&made.next, event, context);
    made.next = more.next;
    made.effects.extend(more.effects);
    made.notes.extend(more.notes);
    made
}

pub fn forgets_the_share(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        for effect in &mut made.effects {
            if let Action::Route { canary, .. } = &mut effect.action {
                *canary = None;
            }
        }
    }
    made
}

pub fn begins_anew_after_a_restart(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if let (Event::Recovered(_), Some(canary), Some(Stage::Canary(_))) =
        (event, &mut made.next.canary, made.next.pipeline.stage())
    {
        canary.since = context.now;
    }
    made
}

/// What was gone when bgd came back has failed, whatever else was gone.
pub fn blames_the_reboot(app: &App, event: &Event, context: &Context) -> Step {
    let Event::Recovered(facts) = event else { return step(app, event, context) };
    let mut seen = facts.clone();
    let live = app.live().filter(|_| matches!(app.pipeline.stage(), Some(Stage::Canary(_))));
    seen.running.extend(live.map(|live| (live.color, live.release.id.clone())));
    step(app, &Event::Recovered(seen), context)
}

pub fn stays_in_its_step(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let (Some(Stage::Canary(_)), Some(Stage::Sharing(_)), Some(was)) =
        (app.pipeline.stage(), made.next.pipeline.stage(), &app.canary)
    else {
        return made;
    };
    if !matches!(event, Event::Done { result: Ok(_), .. }) {
        return made;
    }
    for effect in &mut made.effects {
        if let Action::Route { canary: Some(canary), .. } = &mut effect.action {
            canary.share = was.share;
        }
    }
    made.next.canary = Some(was.clone());
    made
}

pub fn promotes_unproven(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    let Some(Stage::Switching(switch)) = made.next.pipeline.stage() else { return made };
    if !is_asked(event, &Ask::Promote) {
        return made;
    }
    let proven = Event::Done { effect: *switch, result: Ok(Done::Ensured) };
    then(made, &proven, context)
}

pub fn forgets_the_hand(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if let Some(canary) = &mut made.next.canary {
        canary.by_hand = false;
    }
    made
}

pub fn shrinks(app: &App, event: &Event, context: &Context) -> Step {
    let mut backwards = context.clone();
    backwards.policy.canary.reverse();
    step(app, event, &backwards)
}

pub fn is_content_with_too_little(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::Done { effect, result: Ok(Done::Inconclusive { .. }) } => {
            step(app, &Event::Done { effect: *effect, result: Ok(Done::Ensured) }, context)
        }
        _ => step(app, event, context),
    }
}

pub fn shares_all(app: &App, event: &Event, context: &Context) -> Step {
    let almost = Share::percent(99).expect("less than the whole");
    let Event::Asked { by, ask: Ask::SetShare(Share::ALL) } = event else {
        return step(app, event, context);
    };
    let asked = Event::Asked { by: by.clone(), ask: Ask::SetShare(almost) };
    let mut made = step(app, &asked, context);
    for effect in &mut made.effects {
        if let Action::Route { canary: Some(canary), .. } = &mut effect.action {
            canary.share = Share::ALL;
        }
    }
    if let (Some(canary), Idle::Taken) = (&mut made.next.canary, &made.next.idle) {
        canary.share = Share::ALL;
    }
    made
}
