//! Random `kill -9` of the daemon, of shims and of the builtin front under load, while one push follows the other:
//! what each kill cost. `KILLS` makes the run shorter or longer, `SEED` another one.

#[path = "../tests/simulator/rng.rs"]
#[expect(dead_code, reason = "the simulator uses more of it")]
mod rng;
mod stage;

use std::{
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rng::Rng;
use stage::{
    Res, Table,
    load::{self, Load, Loss},
    proc,
    scene::{Kind, Scene},
};

/// Clients, and the pause of each between two requests: about 300 requests a second.
const CLIENTS: usize = 3;
const PAUSE: Duration = Duration::from_millis(10);
/// The longest time between two kills.
const CALM_MS: usize = 900;
/// Of the app that is deployed.
const MORE: &str = "poll = \"1s\"\nbuild = \"sh build.sh\"";

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let kills = stage::count("KILLS", 200);
    let mut rng = Rng::new(stage::count("SEED", 1) as u64);
    let mut table = Table::new(
        &format!("{kills} random kill -9 under load, pushes all the while"),
        &["front", "killed", "times", "requests lost after it", "at most", "how"],
    );
    // Half of them on each front.
    for kind in Kind::BOTH {
        let Some(scene) = Scene::set(kind, MORE, "20ms")? else { continue };
        scene.rage(kills / 2, &mut rng, &mut table)?;
    }
    table.print();
    Ok(())
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Daemon,
    /// Of the live instance, of the idle one or of a build: whichever is met.
    Shim,
    Front,
}

impl Victim {
    const ALL: [Self; 3] = [Self::Daemon, Self::Shim, Self::Front];

    fn name(self) -> &'static str {
        match self {
            Self::Daemon => "the daemon",
            Self::Shim => "a shim",
            Self::Front => "the builtin front",
        }
    }
}

/// What the kills of one victim cost.
#[derive(Default)]
struct Cost {
    times: usize,
    lost: usize,
    most: usize,
    how: Vec<Loss>,
}

impl Scene {
    fn rage(mut self, kills: usize, rng: &mut Rng, table: &mut Table) -> Res<()> {
        self.push_and_wait("0")?;
        let mut costs = [Cost::default(), Cost::default(), Cost::default()];
        let load = Load::fresh(self.public, CLIENTS, PAUSE);
        for number in 0..kills {
            let commit = self.remote.stage_version(&format!("{}", number + 1))?;
            self.remote.push(commit)?;
            sleep(calm(rng));
            let at = Instant::now();
            let Some(victim) = self.kill_one(rng)? else { continue };
            sleep(Duration::from_millis(300) + calm(rng));
            let tally = load.counts();
            let since: Vec<Loss> = tally.lost.into_iter().filter(|lost| lost.at >= at).collect();
            let Some(cost) = costs.get_mut(victim as usize) else { continue };
            cost.times += 1;
            cost.lost += since.len();
            cost.most = cost.most.max(since.len());
            cost.how.extend(since);
        }
        self.push_and_wait("last")?;
        let tally = load.end();
        let front = if self.nginx.is_some() { "nginx" } else { "builtin" };
        println!(
            "  {front}: {} requests, {} lost, longest gap {} ms; at the end the newest push is live",
            tally.total(),
            tally.lost.len(),
            tally.gap.as_millis()
        );
        for (victim, cost) in Victim::ALL.into_iter().zip(costs).filter(|(_, cost)| cost.times > 0) {
            let how = load::words(cost.how.iter().map(|lost| lost.how.as_str()));
            let [times, lost, most] = [cost.times, cost.lost, cost.most].map(|count| count.to_string());
            table.row([front.to_owned(), victim.name().to_owned(), times, lost, most, how]);
        }
        self.leftovers()
    }

    fn push_and_wait(&self, version: &str) -> Res<()> {
        let commit = self.remote.stage_version(version)?;
        self.remote.push(commit)?;
        let commit = commit.to_string();
        let until = Instant::now() + Duration::from_secs(120);
        // A deploy that a kill has ended may come before.
        loop {
            let app = self.daemon.app("shop")?;
            if app["deploy"].is_null()
                && app["live"]["commit"] == *commit
                && app["idle"]["state"] == "stopped"
            {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{version} does not go live: {app}").into());
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// `None` when there is nothing of the kind that was drawn.
    fn kill_one(&mut self, rng: &mut Rng) -> Res<Option<Victim>> {
        let kinds = if self.nginx.is_some() { 2 } else { 3 };
        let victim = match rng.below(kinds) {
            0 => Victim::Daemon,
            1 => Victim::Shim,
            _ => Victim::Front,
        };
        if victim == Victim::Daemon {
            self.daemon.kill_and_start()?;
            return Ok(Some(victim));
        }
        let role = if victim == Victim::Shim { "shim" } else { "front" };
        let found: Vec<u32> = self
            .place
            .processes()
            .into_iter()
            .map(|(pid, _)| pid)
            .filter(|pid| proc::role(*pid).as_deref() == Some(role))
            .collect();
        let Some(pid) = found.get(rng.below(found.len().max(1))) else { return Ok(None) };
        // It may have ended since it was listed; then nothing was killed.
        match kill(Pid::from_raw(i32::try_from(*pid)?), Signal::SIGKILL) {
            Ok(()) => Ok(Some(victim)),
            Err(_) => Ok(None),
        }
    }

    /// One daemon, one instance, one front, and nothing of all that was started meanwhile.
    fn leftovers(&self) -> Res<()> {
        let app = self.daemon.app("shop")?;
        let live = app["live"]["pid"].as_u64();
        let of_shims =
            |pid: &u32| proc::role(*pid).as_deref() == Some("demo-app") && Some(u64::from(*pid)) != live;
        let strays: Vec<u32> =
            self.place.processes().into_iter().map(|(pid, _)| pid).filter(of_shims).collect();
        if strays.is_empty() { Ok(()) } else { Err(format!("left running: {strays:?}; {app}").into()) }
    }
}

fn calm(rng: &mut Rng) -> Duration {
    Duration::from_millis(rng.below(CALM_MS) as u64)
}
