//! Machines with a defect each, to prove that the simulator can fail.

use bgd::rules::{
    app::{App, Idle, Pipeline},
    effect::{Action, Effect},
    event::{Event, Facts, Routed},
    step::{Context, Step, step},
};

use crate::daemon::Machine;

pub const ALL: &[(&str, Machine)] = &[
    ("a hold is forgotten", forgets_the_hold),
    ("the live color is stopped before the front is proven to route away", stops_before_routed),
    ("what the front routes is not looked at after a restart", trusts_the_record),
    ("the former color is retired before the watch has ended", retires_while_watched),
    ("a verdict is forgotten", forgets_verdicts),
    ("a front that was started again is not told", ignores_the_front),
    ("a dead live instance is not started again", ignores_deaths),
    ("the result of a deploy's end is lost: the color is never vacated", never_stops),
    ("a new instance gets the traffic without a probe", skips_the_probe),
    ("a crash loses the deploy under way", forgets_the_deploy),
    ("effect numbers are used again", counts_badly),
];

fn forgets_the_hold(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        made.next.hold = None;
    }
    made
}

fn also(mut made: Step, action: Action) -> Step {
    made.next.last_effect.0 += 1;
    made.effects.push(Effect { id: made.next.last_effect, action });
    made
}

fn stops_before_routed(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    let begins = matches!(made.next.pipeline, Pipeline::Switching(_))
        && !matches!(app.pipeline, Pipeline::Switching(_));
    match made.next.live().cloned().filter(|_| begins) {
        Some(live) => also(made, Action::Stop { color: live.color, release: live.release.id }),
        None => made,
    }
}

fn trusts_the_record(app: &App, event: &Event, context: &Context) -> Step {
    let Event::Recovered(facts) = event else { return step(app, event, context) };
    let routed = app.live().map_or(Routed::Nothing, |live| Routed::Color(live.color));
    step(app, &Event::Recovered(Facts { routed, ..facts.clone() }), context)
}

fn retires_while_watched(app: &App, event: &Event, context: &Context) -> Step {
    let made = step(app, event, context);
    let color = made.next.idle_color();
    match (&made.next.pipeline, made.next.idle.clone()) {
        (Pipeline::Watching { .. }, Idle::Warm { release, .. })
            if matches!(app.pipeline, Pipeline::Switching(_)) =>
        {
            also(made, Action::Stop { color, release: release.id })
        }
        _ => made,
    }
}

fn forgets_verdicts(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        made.next.verdicts.clear();
    }
    made
}

fn ignores_the_front(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::FrontRestarted => step(app, &Event::Ticked, context),
        _ => step(app, event, context),
    }
}

fn ignores_deaths(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::InstanceDied { .. } => step(app, &Event::Ticked, context),
        _ => step(app, event, context),
    }
}

fn never_stops(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    made.effects.retain(|effect| !matches!(effect.action, Action::Stop { .. }));
    made
}

fn skips_the_probe(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    for effect in &mut made.effects {
        if let Action::Probe { release, color } = effect.action.clone() {
            effect.action = Action::Start { release, color };
        }
    }
    made
}

fn forgets_the_deploy(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(event, Event::Recovered(_)) {
        return step(app, event, context);
    }
    let forgetful = App { pipeline: Pipeline::Resting, ..app.clone() };
    step(&forgetful, event, context)
}

fn counts_badly(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Recovered(_)) {
        for effect in &mut made.effects {
            effect.id.0 = effect.id.0.saturating_sub(10);
        }
    }
    made
}
