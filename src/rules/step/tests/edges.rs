//! All transitions between states, found by walking: every event from every state that differs in what matters.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    super::{Context, Policy, step, wanted},
    bench::{Bench, commit, failure, name},
};
use crate::rules::{
    app::{App, Idle, Instance, Kind, Serving, Stage, Telling, Until},
    canary::{CanaryStep, Share},
    event::{Ask, Done, Event, Facts, Routed, Want},
    ids::{Color, DeployId},
    time::Time,
    words::Nature,
};

/// The parts that make two states differ here; numbers and times do not.
fn key(app: &App) -> String {
    let serving = match &app.serving {
        Serving::Nothing => "nothing",
        Serving::OutOfService(_) => "out",
        Serving::Live(live) => match live.instance {
            Instance::Up { .. } => "up",
            Instance::Starting { .. } => "starting",
            Instance::Waiting { .. } => "waiting",
            Instance::Dead => "dead",
        },
    };
    let idle = match &app.idle {
        Idle::Vacant => "vacant",
        Idle::Taken => "taken",
        Idle::Warm { healthy: true, timer: None, .. } => "warm",
        Idle::Warm { healthy: true, .. } => "standby",
        Idle::Warm { .. } => "sick",
        Idle::Draining { .. } => "draining",
        Idle::Stopping { .. } => "stopping",
    };
    let kind = app.pipeline.deploy().map(|deploy| match deploy.kind {
        Kind::Push => "push",
        Kind::Manual { .. } => "manual",
        Kind::Rollback => "rollback",
        Kind::Up => "up",
    });
    let hold = app.hold.as_ref().map(|hold| hold.until == Until::Resumed);
    let head = wanted(&App { down_wanted: false, hold: None, ..app.clone() }, Time(u64::MAX)).map(drop);
    let telling = match app.pipeline.stage() {
        Some(Stage::Reverting { telling, .. }) => matches!(telling, Telling::Now { .. }),
        _ => app.rerouting.is_some(),
    };
    let canary = app.canary.as_ref().map(|canary| (canary.step, canary.by_hand));
    let asked = (canary, app.queued.is_some(), app.down_wanted, app.previous.is_some());
    format!("{} {kind:?} {serving} {idle} {hold:?} {head:?} {telling} {asked:?}", name(&app.pipeline))
}

fn events(bench: &Bench) -> Vec<Event> {
    let app = &bench.app;
    let by = || "ann".to_owned();
    let asks = [
        Ask::Deploy(Want::Tip),
        Ask::Flip,
        Ask::Hold { reason: "freeze".to_owned() },
        Ask::Resume,
        Ask::SetShare(Share::NONE),
        Ask::ResumeSteps,
        Ask::Promote,
        Ask::Down,
        Ask::Up,
    ];
    let mut events: Vec<Event> = asks.into_iter().map(|ask| Event::Asked { by: by(), ask }).collect();
    events.extend([1, 2, 3].map(|number| Event::HeadSeen(commit(number))));
    events.push(Event::FrontRestarted);
    let rerouting = app.rerouting.map(|it| it.effect);
    let awaited = [app.pipeline.awaits(), bench.idle_effect(), bench.live_effect(), rerouting];
    for effect in awaited.into_iter().flatten() {
        let good = if app.pipeline.awaits() == Some(effect) { bench.good() } else { Done::Ensured };
        events.push(Event::Done { effect, result: Ok(good) });
        events.push(Event::Done { effect, result: Err(failure(Nature::Deterministic)) });
    }
    let facts = bench.facts(Routed::Unknown);
    for (color, release) in facts.running.clone() {
        events.push(Event::InstanceDied {
            color,
            release: release.clone(),
            how: "exit 1".to_owned(),
            last_words: Vec::new(),
        });
        events.push(Event::HealthChanged { color, release, healthy: false, answer: "503".to_owned() });
    }
    for routed in [Routed::Color(Color::Blue), Routed::Color(Color::Green), Routed::Nothing] {
        let all = bench.facts(routed);
        let lost = |gone: &[Color]| {
            let running = all.running.iter().filter(|(color, _)| !gone.contains(color));
            let running = running.map(|(color, release)| (*color, release.clone())).collect();
            Event::Recovered(Facts { running, ..all.clone() })
        };
        events.extend([lost(&[]), lost(&[Color::Blue]), lost(&[Color::Green]), lost(&Color::ALL)]);
    }
    events
}

fn walk(policy: &Policy, edges: &mut BTreeMap<(&'static str, &'static str), bool>) {
    let mut seen = BTreeSet::new();
    let mut open = VecDeque::from([App::default()]);
    let mut number = 1;
    while let Some(app) = open.pop_front() {
        let bench = Bench { app: app.clone(), ..Bench::new() };
        for event in events(&bench) {
            number += 1;
            let context = Context {
                now: Time(1_000_000 + number * 1000),
                utc: "20261121T101112Z".to_owned(),
                fresh: DeployId(number),
                unrecorded: false,
                policy: policy.clone(),
            };
            let next = step(&app, &event, &context).next;
            let (from, to) = (name(&app.pipeline), name(&next.pipeline));
            let recovered = matches!(event, Event::Recovered(_));
            if from != to {
                *edges.entry((from, to)).or_insert(true) &= recovered;
            }
            if seen.insert(key(&next)) {
                open.push_back(next);
            }
        }
    }
}

#[test]
fn these_are_all_the_ways_of_a_deploy() {
    let mut edges = BTreeMap::new();
    walk(&Policy::quiet(), &mut edges);
    let standby = std::time::Duration::from_secs(60);
    walk(&Policy { before_start: true, standby, ..Policy::quiet() }, &mut edges);
    let step = CanaryStep { share: Share::NONE, hold: None };
    walk(&Policy { warmup: true, canary: vec![step, step], ..Policy::quiet() }, &mut edges);
    walk(&Policy { watch: std::time::Duration::ZERO, restart: false, ..Policy::quiet() }, &mut edges);
    let lines: Vec<String> = edges
        .iter()
        .map(|((from, to), recovered)| {
            format!("{from} -> {to}{}", if *recovered { " (after a restart)" } else { "" })
        })
        .collect();
    let text = lines.join("\n");
    println!("{text}\n");
    assert_eq!(text, include_str!("edges.txt").trim_end());
}
