//! The way back on each front: from the request on the control socket to bgd's word that the traffic has moved, which
//! it gives when the front has proven it and the record has it. Under light load, the fronts in turns; ends badly when
//! a request is lost. `ROUNDS` is the number of flips of each.

mod stage;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;
use stage::{
    Res, Sample, Table,
    figures::ms,
    load::Load,
    scene::{Kind, Scene},
};

/// Clients, and the pause of each between two requests: less than 200 requests a second on each front.
const CLIENTS: usize = 2;
const PAUSE: Duration = Duration::from_millis(10);
/// Of the app: the color that was left stays warm, so that a flip starts nothing.
const MORE: &str = "standby = \"1h\"";

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let rounds = stage::count("ROUNDS", 50);
    let mut fronts = Vec::new();
    for kind in Kind::WAYS {
        fronts.extend(Flipped::set(kind)?);
    }
    for _ in 0..rounds {
        for front in &mut fronts {
            front.round()?;
        }
    }
    report(fronts, rounds)
}

/// One front with both colors up.
struct Flipped {
    kind: Kind,
    // Before the scene: it ends first.
    load: Load,
    scene: Scene,
    /// The live one last.
    commits: [String; 2],
    took: Sample,
}

impl Flipped {
    fn set(kind: Kind) -> Res<Option<Self>> {
        let Some(scene) = Scene::set(kind, MORE, "20ms")? else { return Ok(None) };
        let mut commits = [String::new(), String::new()];
        for (commit, (version, idle)) in commits.iter_mut().zip([("one", "stopped"), ("two", "warm")]) {
            let staged = scene.remote.stage_version(version)?;
            scene.remote.push(staged)?;
            *commit = staged.to_string();
            scene.daemon.rests("shop", commit, idle)?;
        }
        let load = Load::fresh(scene.public, CLIENTS, PAUSE);
        Ok(Some(Self { kind, load, scene, commits, took: Sample::default() }))
    }

    fn round(&mut self) -> Res<()> {
        let begun = Instant::now();
        self.scene.daemon.call(&json!({"op": "flip", "app": "shop"}))?.done()?;
        self.took.add(begun.elapsed());
        self.commits.swap(0, 1);
        let [_, live] = &self.commits;
        self.scene.daemon.rests("shop", live, "warm")?;
        Ok(())
    }
}

fn report(fronts: Vec<Flipped>, rounds: usize) -> Res<()> {
    let title = format!("{rounds} flips each, from the request to the proof that the traffic has moved");
    let columns =
        ["front", "median", "p95", "median, builtin = 1", "p95, builtin = 1", "requests", "lost", "how"];
    let mut table = Table::new(&title, &columns);
    let builtin = fronts.iter().find(|front| front.kind == Kind::Builtin);
    let [median, p95] =
        builtin.map(|front| [front.took.median(), front.took.quantile(0.95)]).ok_or("no builtin front")?;
    let mut all = 0;
    for Flipped { kind, load, took, .. } in fronts {
        let tally = load.end();
        let lost = tally.lost.len();
        all += lost;
        table.row([
            kind.name().to_owned(),
            ms(took.median()),
            ms(took.quantile(0.95)),
            format!("{:.1}", took.median() / median),
            format!("{:.1}", took.quantile(0.95) / p95),
            (tally.total() + lost as u64).to_string(),
            lost.to_string(),
            tally.losses(),
        ]);
    }
    table.print();
    if all == 0 { Ok(()) } else { Err(format!("{all} requests were lost").into()) }
}
