//! Many deploys in a row under load, on a host with very many descriptors that are none of bgd's: nothing lost, nothing
//! that grows, and the last deploys as quick as the first ones.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::crowd::Crowd;
use super::stage::{
    Remote, Res, Sample, Table,
    daemon::INTERVAL,
    figures::{ms, verdict},
    http,
    load::Load,
    proc::{self, Holdings, mib},
    scene::{Kind, Scene},
};

/// Of the app that is deployed.
const BUILD: &str = "build = \"sh build.sh\"";
/// Deploys before the first look: caches and pools have their size by then.
const WARM_UP: usize = 20;
/// Clients, and the pause of each between two requests: about 200 requests a second.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// Deploys measured without the foreign descriptors, before them.
const ALONE: usize = 20;
/// How much slower the last tenth of the deploys may be than the first, and all of them than those before the foreign
/// descriptors came.
const GROWTH: f64 = 1.2;

pub fn run(deploys: usize, foreign: usize) -> Res<()> {
    let mut table = Table::new(
        &format!(
            "{deploys} deploys in a row under load, each to its end, beside {foreign} foreign descriptors"
        ),
        &["", "requests", "lost", "longest gap", "seconds", "", "descriptors", "threads", "memory", "disk"],
    );
    for kind in Kind::BOTH {
        let Some(scene) = Scene::set(kind, BUILD, INTERVAL)? else { continue };
        let growth = soak(&scene, kind, (deploys, foreign), &mut table)?;
        growth.print();
    }
    table.print();
    Ok(())
}

/// What deploys took and cost.
#[derive(Default)]
struct Cost {
    live: Sample,
    cpu: Sample,
}

impl Cost {
    fn deploy(&mut self, scene: &Scene, version: &str) -> Res<()> {
        let before = proc::cpu_with_children_ms(scene.daemon.pid())?;
        let commit = scene.remote.stage_version(version)?;
        let pushed = scene.remote.push(commit)?;
        self.live.add(http::first_answer(scene.public, version)? - pushed);
        scene.daemon.rests("shop", &commit.to_string(), "stopped")?;
        let cpu = proc::cpu_with_children_ms(scene.daemon.pid())?.saturating_sub(before);
        self.cpu.add(Duration::from_millis(cpu));
        Ok(())
    }

    fn row(&self, name: &str, base: &Self, table: &mut Table) {
        let ratio = self.live.median() / base.live.median();
        table.row([
            name.to_owned(),
            ms(self.live.median()),
            ms(self.live.quantile(0.9)),
            format!("{ratio:.2}"),
            format!("<= {GROWTH}"),
            verdict(ratio, GROWTH),
            ms(self.cpu.median()),
        ]);
    }
}

fn soak(scene: &Scene, kind: Kind, (deploys, foreign): (usize, usize), table: &mut Table) -> Res<Table> {
    scene.deploy("0")?;
    let load = Load::fresh(scene.public, CLIENTS, PAUSE);
    for number in 0..WARM_UP {
        scene.deploy(&format!("warm-{number}"))?;
    }
    let (mut alone, mut first, mut last) = (Cost::default(), Cost::default(), Cost::default());
    for number in 0..ALONE {
        alone.deploy(scene, &format!("alone-{number}"))?;
    }
    let crowd = Crowd::with(u64::try_from(foreign)?)?;
    let (before, begun) = (Look::at(scene)?, Instant::now());
    let tenth = (deploys / 10).max(1);
    for number in 0..deploys {
        let version = format!("{number}");
        match number {
            _ if number < tenth => first.deploy(scene, &version)?,
            _ if number >= deploys - tenth => last.deploy(scene, &version)?,
            _ => scene.deploy(&version)?,
        }
        if number % 100 == 99 {
            println!("  {}: {} deploys, lost {}", kind.name(), number + 1, load.counts().lost.len());
        }
    }
    let (after, took) = (Look::at(scene)?, begun.elapsed());
    drop(crowd);
    let tally = load.end();
    let columns = ["", "push to live", "p90", "alone = 1", "aim", "", "CPU a deploy"];
    let mut growth = Table::new(&format!("{}: what a deploy costs", kind.name()), &columns);
    alone.row("before the foreign descriptors", &alone, &mut growth);
    first.row("the first tenth beside them", &alone, &mut growth);
    last.row("the last tenth", &alone, &mut growth);
    let head = [
        kind.name().to_owned(),
        tally.total().to_string(),
        format!("{} {}", tally.lost.len(), tally.losses()),
        format!("{} ms", tally.gap.as_millis()),
        took.as_secs().to_string(),
    ];
    for (name, which) in [("daemon", 0), ("git worker", 1), ("front", 2)] {
        let change = |part: fn(&Holdings) -> String| match (before.of.get(which), after.of.get(which)) {
            (Some(Some(before)), Some(Some(after))) => format!("{} > {}", part(before), part(after)),
            _ => "-".to_owned(),
        };
        let leads = which == 0;
        let lead = if leads { head.clone() } else { Default::default() };
        let disk = format!("{} > {}", mib(before.disk_kib), mib(after.disk_kib));
        table.row(lead.into_iter().chain([
            name.to_owned(),
            change(|held| held.descriptors.to_string()),
            change(|held| held.threads.to_string()),
            change(|held| mib(held.rss)),
            if leads { disk } else { String::new() },
        ]));
    }
    Ok(growth)
}

/// One look at what may grow.
struct Look {
    /// Daemon, git worker, front (of nginx: its master).
    of: [Option<Holdings>; 3],
    /// Everything below the state directory.
    disk_kib: u64,
}

impl Look {
    fn at(scene: &Scene) -> Res<Self> {
        let daemon = scene.daemon.pid();
        let below = |role: &str| {
            let found =
                proc::children(daemon).into_iter().find(|pid| proc::role(*pid).as_deref() == Some(role));
            found.and_then(|pid| Holdings::of(pid).ok())
        };
        let front = match scene.nginx.as_ref().and_then(|nginx| nginx.master()) {
            Some(master) => Holdings::of(master).ok(),
            None => below("front"),
        };
        let of = [Some(Holdings::of(daemon)?), below("git-worker"), front];
        Ok(Self { of, disk_kib: size(&scene.place.path("state"))? / 1024 })
    }
}

/// Bytes below a directory in which a release may just be pruned.
fn size(dir: &Path) -> Res<u64> {
    let mut measured = Remote::size_of(dir);
    for _ in 0..20 {
        if measured.is_ok() {
            break;
        }
        sleep(Duration::from_millis(100));
        measured = Remote::size_of(dir);
    }
    Ok(measured?.1)
}
