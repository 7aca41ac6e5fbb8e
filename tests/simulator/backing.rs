//! What must hold of a backup, seen from outside: it is the former release and nothing else, its color is not emptied
//! while the front has it, and it is there for the watch alone. And machines with a defect each that shows only there.

use bgd::rules::{
    app::{App, Backup, Pipeline, Stage},
    effect::{Action, Backend, Effect},
    event::Event,
    step::{Context, Step, step},
};

use crate::{oracle::Moment, world::World};

/// After each step.
pub fn judge(moment: &Moment<'_>) -> Result<(), String> {
    let Some((color, release)) = moment.world.front.backup() else { return Ok(()) };
    if let Some(process) = moment.world.on(*color)
        && process.release.id != *release
        && !process.ending
    {
        return Err(format!(
            "{} runs on {color}, where the front has {release} as a backup",
            process.release.id
        ));
    }
    if !moment.world.runs(*color, release) {
        return Ok(());
    }
    let drains = |effect: &&Effect| matches!(&effect.action, Action::Drain { color: it } if it == color);
    match moment.step.effects.iter().find(drains) {
        Some(_) if moment.step.next.backup != Backup::Absent => {
            Err(format!("{color} is drained, which is the front's backup"))
        }
        _ => Ok(()),
    }
}

/// Once nothing is under way.
pub fn judge_quiet(app: &App, world: &World) -> Result<(), String> {
    match (world.front.backup(), &app.pipeline) {
        (Some(backup), Pipeline::Resting) if app.rerouting.is_none() => {
            Err(format!("nothing is watched, and the front has {backup:?} as a backup"))
        }
        _ => Ok(()),
    }
}

pub fn leaves_it(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    made.next.backup = Backup::Absent;
    made
}

pub fn goes_back_to_it_and_from_it(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let Some(work) = made.next.pipeline.work() else { return made };
    let Stage::Reverting { .. } = work.stage else { return made };
    let abandoned =
        Backend { color: work.color, release: work.release.id.clone(), commit: work.release.commit.clone() };
    for effect in &mut made.effects {
        if let Action::Route { to: Some(_), backup, .. } = &mut effect.action {
            *backup = Some(abandoned.clone());
        }
    }
    made
}
