//! Machines and engines with a defect each, to prove that the simulator can fail: each has to be caught within the
//! schedules of an ordinary run, give or take a few.

use bgd::rules::{
    app::{App, Idle, Instance, Pipeline, Stage, StageGroup, Verdict},
    effect::{Action, Effect, Hook, Note},
    event::{Done, Event, Facts, Routed},
    ids::Generation,
    step::{Context, Step, step},
    time::Time,
};

use crate::{backing, canaries, guarding, tasking, working};

/// The machine, or a wrapper with a defect around it.
pub type Machine = fn(&App, &Event, &Context) -> Step;

/// What the fake engine does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Nothing.
    Sound,
    ActsBeforeCommit,
    ActsWithoutRecord,
    HidesWhatIsUnrecorded,
    LosesUnwritten,
    RecordsNothingLater,
    StartsBesideItself,
    StopsWithoutLooking,
    PrunesWhatIsNew,
    PrunesUnrecorded,
    FlipsForEver,
    FlushesNoBuild,
    TrustsAnEarlierBoot,
    StartsExclusiveWorkersAtOnce,
    RenewsWorkersDeadlines,
}

/// What is wrong.
#[derive(Debug, Clone, Copy)]
pub enum Defect {
    /// Nothing.
    None,
    Rules(Machine),
    Engine(Habit),
}

impl Defect {
    pub fn parts(&self) -> (Machine, Habit) {
        match *self {
            Self::None => (step, Habit::Sound),
            Self::Rules(machine) => (machine, Habit::Sound),
            Self::Engine(habit) => (step, habit),
        }
    }
}

pub const ALL: &[(&str, Defect)] = &[
    ("effects run before their step is committed", Defect::Engine(Habit::ActsBeforeCommit)),
    ("anything is done without a record", Defect::Engine(Habit::ActsWithoutRecord)),
    ("a full disk is not shown", Defect::Engine(Habit::HidesWhatIsUnrecorded)),
    ("what happened on a full disk is not recorded later", Defect::Engine(Habit::LosesUnwritten)),
    ("only the next step is recorded once there is room", Defect::Engine(Habit::RecordsNothingLater)),
    ("an instance is started beside itself", Defect::Engine(Habit::StartsBesideItself)),
    ("a stop does not look at the front first", Defect::Engine(Habit::StopsWithoutLooking)),
    ("a late prune deletes the release being made", Defect::Engine(Habit::PrunesWhatIsNew)),
    ("pruning does not wait for the record", Defect::Engine(Habit::PrunesUnrecorded)),
    ("after a flip all goes on without a record", Defect::Engine(Habit::FlipsForEver)),
    ("a build is not flushed to the disk", Defect::Engine(Habit::FlushesNoBuild)),
    ("a build of an earlier boot counts as done", Defect::Engine(Habit::TrustsAnEarlierBoot)),
    ("a deploy begins without a record behind a flip", Defect::Rules(begins_unrecorded)),
    ("a hold is forgotten", Defect::Rules(forgets_the_hold)),
    ("a flip does not hold", Defect::Rules(flips_without_a_hold)),
    ("a flip does not mark what it abandons", Defect::Rules(flips_without_a_mark)),
    (
        "the live color is stopped before the front is proven to route away",
        Defect::Rules(stops_before_routed),
    ),
    ("what the front routes is not looked at after a restart", Defect::Rules(trusts_the_record)),
    ("the former color is retired before the watch has ended", Defect::Rules(retires_while_watched)),
    ("a verdict is forgotten", Defect::Rules(forgets_verdicts)),
    ("a front that was started again is not told", Defect::Rules(ignores_the_front)),
    ("a refused route counts as taken", Defect::Rules(believes_in_the_route)),
    ("the number of a route is not counted up", Defect::Rules(counts_no_routes)),
    ("a dead live instance is not started again", Defect::Rules(ignores_deaths)),
    (
        "a live instance is replaced by its predecessor when it is started again",
        Defect::Rules(starts_the_former),
    ),
    ("health is not noted", Defect::Rules(ignores_health)),
    ("a color is never vacated", Defect::Rules(never_stops)),
    ("what a deploy that ended early had started is left behind", Defect::Rules(discards_nothing)),
    ("a new instance gets the traffic without a probe", Defect::Rules(skips_the_probe)),
    ("a crash loses the deploy under way", Defect::Rules(forgets_the_deploy)),
    ("a crash loses the deploy that waits", Defect::Rules(forgets_the_queue)),
    ("a crash loses that the app was to be taken down", Defect::Rules(forgets_the_down)),
    ("effect numbers are used again", Defect::Rules(counts_badly)),
    ("a timer is never set", Defect::Rules(never_wakes)),
    ("pruning spares nothing", Defect::Rules(prunes_all)),
    ("constant pushing promotes nothing", Defect::Rules(supersedes_for_ever)),
    ("a commit is tried for ever", Defect::Rules(tries_for_ever)),
    ("a try waits for the clock to come round", Defect::Rules(waits_for_the_clock)),
    ("a front that was half told is left so", Defect::Rules(ignores_half_told)),
    ("a canary is stopped before its share is taken back", Defect::Rules(canaries::stops_first)),
    ("a canary of nothing proven gets a share", Defect::Rules(canaries::shares_unproven)),
    ("a restart forgets the share", Defect::Rules(canaries::forgets_the_share)),
    ("a restart begins the step anew", Defect::Rules(canaries::begins_anew_after_a_restart)),
    ("a reboot fails the canary", Defect::Rules(canaries::blames_the_reboot)),
    ("a step never ends", Defect::Rules(canaries::stays_in_its_step)),
    ("a flip in a canary leaves its share", Defect::Rules(canaries::leaves_the_share_after_a_flip)),
    ("a superseded canary keeps its share", Defect::Rules(canaries::leaves_the_share_when_superseded)),
    ("a failed canary keeps its share", Defect::Rules(canaries::leaves_the_share_after_a_failure)),
    ("a canary that the front holds is left to serve", Defect::Rules(canaries::waits_for_the_front)),
    ("a refused step takes the canary down", Defect::Rules(canaries::goes_back_for_nothing)),
    ("a refused step is not asked for again", Defect::Rules(canaries::asks_once)),
    ("a way back is not announced", Defect::Rules(announces_no_way_back)),
    ("a restart forgets what it was announcing", Defect::Rules(forgets_to_announce)),
    ("a way back that the front refuses leaves a gap", Defect::Rules(canaries::leaves_a_gap)),
    ("what stands in is not put there again", Defect::Rules(canaries::forgets_what_stands_in)),
    ("what passes on is taken for an instance", Defect::Rules(canaries::takes_it_for_an_instance)),
    ("what stands in for a canary goes too early", Defect::Rules(canaries::retires_what_stands_in)),
    ("promote does without the switch's proof", Defect::Rules(canaries::promotes_unproven)),
    ("a share set by hand is left by itself", Defect::Rules(canaries::forgets_the_hand)),
    ("a later step has the smaller share", Defect::Rules(canaries::shrinks)),
    ("too little traffic holds nothing", Defect::Rules(canaries::is_content_with_too_little)),
    ("a backup is left behind", Defect::Rules(backing::leaves_it)),
    ("what is abandoned is the backup of the way back", Defect::Rules(backing::goes_back_to_it_and_from_it)),
    ("a crash forgets a barrier", Defect::Rules(guarding::forgets_it_in_a_crash)),
    ("a barrier falls with its deploy", Defect::Rules(guarding::takes_it_down_with_its_deploy)),
    ("a barrier is set after the commands", Defect::Rules(guarding::sets_it_afterwards)),
    ("a flip does not look at the barrier", Defect::Rules(guarding::flips_over_it)),
    ("a failed watch goes back over a barrier", Defect::Rules(guarding::goes_back_over_it)),
    ("a deploy does not look at the barrier", Defect::Rules(guarding::deploys_over_it)),
    (
        "an exclusive worker does not wait for the former one",
        Defect::Engine(Habit::StartsExclusiveWorkersAtOnce),
    ),
    ("a restart begins the time of leaving workers anew", Defect::Engine(Habit::RenewsWorkersDeadlines)),
    ("workers begin before the switch is proven", Defect::Rules(working::begins_early)),
    ("a way back leaves the workers of what is abandoned", Defect::Rules(working::forgets_the_way_back)),
    ("a restart forgets the workers", Defect::Rules(working::forgets_in_a_restart)),
    ("down leaves the workers", Defect::Rules(working::stays_when_down)),
    ("a restart runs a task twice", Defect::Rules(tasking::runs_twice)),
    ("a way back runs tasks", Defect::Rules(tasking::runs_on_the_way_back)),
    ("the traffic does not wait for a task", Defect::Rules(tasking::does_not_wait)),
    ("a restart forgets the task beside the deploy", Defect::Rules(tasking::forgets_what_runs_beside)),
    ("all of the traffic is given as a share", Defect::Rules(canaries::shares_all)),
];

fn announces_no_way_back(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(app.pipeline.stage(), Some(Stage::Reverting { .. } | Stage::Replacing { .. })) {
        let is_hook =
            |effect: &Effect| matches!(effect.action, Action::RunHook { hook: Hook::AfterLive, .. });
        if made.effects.iter().any(is_hook) {
            made.next.announcing = None;
        }
        made.effects.retain(|effect| !is_hook(effect));
    }
    made
}

fn forgets_to_announce(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(event, Event::Recovered(_)) {
        return step(app, event, context);
    }
    step(&App { announcing: None, ..app.clone() }, event, context)
}

fn begins_unrecorded(app: &App, event: &Event, context: &Context) -> Step {
    step(app, event, &Context { unrecorded: false, ..context.clone() })
}

fn flips_without_a_hold(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Asked { ask, .. } if ask.is_flip()) {
        made.next.hold.clone_from(&app.hold);
        made.notes.retain(|noted| !matches!(noted.note, Note::HoldPlaced(_)));
    }
    made
}

fn flips_without_a_mark(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    if matches!(event, Event::Asked { ask, .. } if ask.is_flip()) {
        made.next.verdicts.clone_from(&app.verdicts);
        made.notes.retain(|noted| !matches!(noted.note, Note::MarkedBad(_)));
    }
    made
}

fn is_switching(app: &App) -> bool {
    matches!(app.pipeline.stage(), Some(Stage::Switching(_)))
}

fn believes_in_the_route(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::Done { effect, result: Err(_) } if is_switching(app) => {
            step(app, &Event::Done { effect: *effect, result: Ok(Done::Ensured) }, context)
        }
        _ => step(app, event, context),
    }
}

fn counts_no_routes(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    made.next.generation = Generation(1);
    for effect in &mut made.effects {
        if let Action::Route { generation, .. } = &mut effect.action {
            *generation = Generation(1);
        }
    }
    made
}

fn starts_the_former(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    let restarts = matches!(made.next.live().map(|live| &live.instance), Some(Instance::Starting { .. }));
    if let Some(former) = made.next.previous.clone().filter(|_| restarts) {
        for effect in &mut made.effects {
            if let Action::Start { release, .. } = &mut effect.action {
                *release = former.clone();
            }
        }
    }
    made
}

fn ignores_health(app: &App, event: &Event, context: &Context) -> Step {
    match event {
        Event::HealthChanged { .. } => step(app, &Event::Ticked, context),
        _ => step(app, event, context),
    }
}

fn discards_nothing(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    for effect in &mut made.effects {
        if let Action::Discard { release, .. } = &mut effect.action {
            *release = None;
        }
    }
    made
}

fn forgets_the_queue(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(event, Event::Recovered(_)) {
        return step(app, event, context);
    }
    step(&App { queued: None, ..app.clone() }, event, context)
}

fn forgets_the_down(app: &App, event: &Event, context: &Context) -> Step {
    if !matches!(event, Event::Recovered(_)) {
        return step(app, event, context);
    }
    step(&App { down_wanted: false, ..app.clone() }, event, context)
}

fn never_wakes(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    made.effects.retain(|effect| !matches!(effect.action, Action::Wake { .. }));
    made
}

fn prunes_all(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    for effect in &mut made.effects {
        if let Action::Prune { protect, .. } = &mut effect.action {
            protect.clear();
        }
    }
    made
}

fn supersedes_for_ever(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    made.next.superseded_in_a_row = 0;
    made
}

fn tries_for_ever(app: &App, event: &Event, context: &Context) -> Step {
    let mut made = step(app, event, context);
    for verdict in made.next.verdicts.values_mut() {
        if let Verdict::Retry { failures, .. } = verdict {
            *failures = 1;
        }
    }
    made
}

fn waits_for_the_clock(app: &App, event: &Event, context: &Context) -> Step {
    let late = |verdict: &Verdict| match verdict {
        Verdict::Retry { not_before, .. } => *not_before > context.now,
        Verdict::Bad { .. } => false,
    };
    if app.verdicts.values().any(late) {
        // Set back a day, it would be a day; here it is the machine that never gets there.
        return step(app, event, &Context { now: Time(context.now.0 / 2), ..context.clone() });
    }
    step(app, event, context)
}

fn ignores_half_told(app: &App, event: &Event, context: &Context) -> Step {
    let Event::Recovered(facts) = event else { return step(app, event, context) };
    step(app, &Event::Recovered(Facts { half_told: false, ..facts.clone() }), context)
}

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
    let begins = is_switching(&made.next) && !is_switching(app);
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
    match (made.next.pipeline.group(), made.next.idle.clone()) {
        (Some(StageGroup::Live), Idle::Warm { release, .. }) if is_switching(app) => {
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
