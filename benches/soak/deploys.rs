//! Many deploys in a row under load: nothing lost, and nothing that grows.

use std::{
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::stage::{
    Remote, Res, Table,
    load::{self, Load},
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

pub fn run(deploys: usize) -> Res<()> {
    let mut table = Table::new(
        &format!("{deploys} deploys in a row under load, each to its end"),
        &["", "requests", "lost", "longest gap", "seconds", "", "descriptors", "threads", "memory", "disk"],
    );
    for kind in Kind::BOTH {
        let Some(scene) = Scene::set(kind, BUILD, "10ms")? else { continue };
        soak(&scene, kind, deploys, &mut table)?;
    }
    table.print();
    Ok(())
}

fn soak(scene: &Scene, kind: Kind, deploys: usize, table: &mut Table) -> Res<()> {
    scene.deploy("0")?;
    let load = Load::start(scene.public, CLIENTS, PAUSE);
    for number in 0..WARM_UP {
        scene.deploy(&format!("warm-{number}"))?;
    }
    let (before, begun) = (Look::at(scene)?, Instant::now());
    for number in 0..deploys {
        scene.deploy(&format!("{number}"))?;
        if number % 100 == 99 {
            println!("  {}: {} deploys, lost {}", kind.name(), number + 1, load.tally().lost.len());
        }
    }
    let (after, took) = (Look::at(scene)?, begun.elapsed());
    let tally = load.end();
    let head = [
        kind.name().to_owned(),
        tally.answered.to_string(),
        format!("{} {}", tally.lost.len(), load::words(&tally.lost)),
        format!("{} ms", tally.gap.as_millis()),
        took.as_secs().to_string(),
    ];
    for (name, which) in [("daemon", 0), ("git worker", 1), ("front", 2)] {
        let change = |part: fn(&Holdings) -> String| match (before.of.get(which), after.of.get(which)) {
            (Some(Some(before)), Some(Some(after))) => format!("{} > {}", part(before), part(after)),
            _ => "-".to_owned(),
        };
        let first = which == 0;
        let lead = if first { head.clone() } else { Default::default() };
        let disk = format!("{} > {}", mib(before.disk_kib), mib(after.disk_kib));
        table.row(lead.into_iter().chain([
            name.to_owned(),
            change(|held| held.descriptors.to_string()),
            change(|held| held.threads.to_string()),
            change(|held| mib(held.rss)),
            if first { disk } else { String::new() },
        ]));
    }
    Ok(())
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
