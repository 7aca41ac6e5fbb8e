//! A schedule: what happens, as a list. Each happening has its own chance, so that one can be left out and the
//! others stay what they are.

use std::time::Duration;

use bgd::rules::{
    canary::Share,
    event::{Ask, Event, Want},
    ids::Color,
    time::Time,
};

use crate::{
    daemon::Daemon,
    front::{Hand, Kind},
    oracle::Oracle,
    rng::Rng,
    world::{self, Quality},
};

/// Things that happen in one schedule before the world is healed.
const LENGTH: usize = 400;
/// The farthest that a wall clock jumps.
const JUMP: u64 = 2 * 24 * 3600 * 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Read,
    Act,
    Poll,
    Push,
    Operate,
    TimePasses,
    NatureActs,
    FrontRestarts,
    FrontBreaksOrHeals,
    FrontIsEdited,
    ClockJumps,
    DiskFillsOrEmpties,
    StrangerComesOrGoes,
    LateReport,
    Crash,
    PowerLoss,
}

/// Kinds that a schedule may do without.
const TROUBLES: [What; 9] = [
    What::NatureActs,
    What::FrontRestarts,
    What::FrontBreaksOrHeals,
    What::FrontIsEdited,
    What::ClockJumps,
    What::DiskFillsOrEmpties,
    What::StrangerComesOrGoes,
    What::Crash,
    What::PowerLoss,
];

/// What there is more of where the disk is full all the time.
const CRAMPED: [What; 4] = [What::DiskFillsOrEmpties, What::Operate, What::Operate, What::Operate];

/// One thing that happens, with the seed of all chance in it.
#[derive(Debug, Clone, Copy)]
pub struct Happening {
    pub what: What,
    seed: u64,
}

/// What happens, and the seed of what follows.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub happenings: Vec<Happening>,
    rest: u64,
}

impl Schedule {
    /// Each schedule leaves some kinds of trouble out altogether: those that are left get room to unfold.
    pub fn new(rng: &mut Rng, bustle: usize) -> Self {
        let left_out: Vec<What> = TROUBLES.into_iter().filter(|_| rng.percent(50)).collect();
        let cramped = rng.percent(15);
        let happening = |_| {
            let what = choose(rng, bustle);
            let what = if left_out.contains(&what) { What::Act } else { what };
            let what = if cramped && rng.percent(12) { rng.pick(&CRAMPED) } else { what };
            Happening { what, seed: rng.next() }
        };
        let happenings = (0..LENGTH).map(happening).collect();
        Self { happenings, rest: rng.next() }
    }

    pub fn of(&self, happenings: Vec<Happening>) -> Self {
        Self { happenings, rest: self.rest }
    }

    /// Lets it all happen, then heals the world: it has to come to rest with the newest good commit live. The error
    /// is what went wrong, and after how many happenings.
    pub fn run(&self, daemon: &mut Daemon) -> Result<(), (usize, String)> {
        for (at, happening) in self.happenings.iter().enumerate() {
            daemon.rng = Rng::new(happening.seed);
            daemon.tell(|_| format!("[{at}] {:?}", happening.what));
            happening.what.happen(daemon).map_err(|what| (at + 1, what))?;
        }
        daemon.rng = Rng::new(self.rest);
        come_to_rest(daemon).map_err(|what| (self.happenings.len(), what))
    }
}

fn come_to_rest(daemon: &mut Daemon) -> Result<(), String> {
    daemon.heal();
    daemon.settle()?;
    daemon.ask(Ask::Resume)?;
    daemon.ask(Ask::Up)?;
    daemon.world.push(Quality::Good);
    daemon.settle()?;
    Oracle::judge_newest(daemon.app(), &daemon.world)
}

fn choose(rng: &mut Rng, bustle: usize) -> What {
    match rng.below(100) {
        0..31 => What::Read,
        31..64 => What::Act,
        64..71 => What::Poll,
        71..75 => What::Push,
        _ if !rng.percent(bustle) => What::Act,
        75..79 => What::Operate,
        79..88 => What::TimePasses,
        88..92 => What::NatureActs,
        92 => What::FrontRestarts,
        93..95 => What::FrontBreaksOrHeals,
        95 => rng.pick(&[What::FrontIsEdited, What::ClockJumps]),
        96 => rng.pick(&[What::DiskFillsOrEmpties, What::DiskFillsOrEmpties, What::StrangerComesOrGoes]),
        97 => What::LateReport,
        _ => rng.pick(&[What::Crash, What::Crash, What::PowerLoss]),
    }
}

impl What {
    fn happen(self, daemon: &mut Daemon) -> Result<(), String> {
        match self {
            Self::Read => read(daemon),
            Self::Act => act(daemon),
            Self::Poll => daemon.poll(),
            Self::Push => {
                push(daemon);
                Ok(())
            }
            Self::Operate => operate(daemon),
            Self::TimePasses => {
                let wait = Duration::from_millis(daemon.rng.next() % 20_000);
                daemon.advance(wait);
                daemon.unseen |= daemon.world.front.hand.is_some();
                daemon.hear(Event::Ticked)
            }
            Self::NatureActs => nature_acts(daemon),
            Self::FrontRestarts => {
                restart_front(daemon);
                Ok(())
            }
            Self::FrontBreaksOrHeals => {
                let front = &mut daemon.world.front;
                front.broken = !front.broken && daemon.rng.percent(50);
                daemon.figures.front_broken += u64::from(front.broken);
                Ok(())
            }
            Self::FrontIsEdited => {
                edit_front(daemon);
                Ok(())
            }
            Self::ClockJumps => {
                jump(daemon);
                Ok(())
            }
            Self::DiskFillsOrEmpties => {
                daemon.world.disk_full = !daemon.world.disk_full && daemon.rng.percent(50);
                daemon.figures.disk_full += u64::from(daemon.world.disk_full);
                Ok(())
            }
            Self::StrangerComesOrGoes => {
                stranger(daemon);
                Ok(())
            }
            Self::LateReport => {
                daemon.repeat_late();
                Ok(())
            }
            Self::Crash => daemon.crash(),
            Self::PowerLoss => daemon.power_loss(),
        }
    }
}

/// What the front was half told comes in force whenever somebody reloads it.
fn read(daemon: &mut Daemon) -> Result<(), String> {
    if daemon.world.front.half_told() && !daemon.is_routing() && daemon.rng.percent(20) {
        restart_front(daemon);
    }
    daemon.read().map(drop)
}

/// Half way through a route is where a daemon dies most often.
fn act(daemon: &mut Daemon) -> Result<(), String> {
    daemon.act()?;
    let dies = if daemon.world.disk_full { 80 } else { 10 * daemon.setup.crashes };
    if daemon.is_routing() && daemon.rng.percent(dies) {
        return daemon.crash();
    }
    Ok(())
}

fn push(daemon: &mut Daemon) {
    let broken = [
        Quality::BuildBroken,
        Quality::BuildUnlucky,
        Quality::StartBroken,
        Quality::NeverHealthy,
        Quality::DiesWatched,
        Quality::DiesWatched,
        Quality::SickWatched,
        Quality::SickWatched,
        Quality::FailsCold,
        Quality::FailsTraffic,
        Quality::FailsTraffic,
    ];
    let quality = if daemon.rng.percent(60) { Quality::Good } else { daemon.rng.pick(&broken) };
    daemon.world.push(quality);
    if daemon.setup.migrates && daemon.rng.percent(25) {
        daemon.world.schema.contracts.insert(daemon.world.pushed.len() - 1);
    }
    if daemon.rng.percent(10) {
        // A forced push: the branch goes back.
        daemon.world.tip = Some(daemon.rng.below(daemon.world.pushed.len()));
    }
}

fn operate(daemon: &mut Daemon) -> Result<(), String> {
    // The one thing that does without room for a record.
    let ask = match daemon.rng.below(20) {
        _ if daemon.world.disk_full && daemon.rng.percent(50) => Ask::Flip,
        0..2 => Ask::Deploy(Want::Tip),
        2..4 => Ask::Deploy(some_revision(daemon)),
        4..7 => Ask::Flip,
        7 => Ask::Hold { reason: "freeze".to_owned() },
        8..10 => Ask::Resume,
        10 => Ask::Down,
        11 => Ask::Up,
        12..14 => {
            let percent = daemon.rng.pick(&[0, 1, 20, 50, 99, 100]);
            Ask::SetShare(Share::percent(percent).unwrap())
        }
        14 => Ask::ResumeSteps,
        15 => Ask::NextStep,
        16 => Ask::ForceFlip,
        17 => Ask::ForceDeploy(some_revision(daemon)),
        _ => Ask::Promote,
    };
    daemon.ask(ask)
}

fn some_revision(daemon: &mut Daemon) -> Want {
    let known = daemon.world.pushed.len() + 1;
    Want::Rev(world::commit(daemon.rng.below(known)).as_str().to_owned())
}

/// A process ends or changes its mind by itself.
fn nature_acts(daemon: &mut Daemon) -> Result<(), String> {
    daemon.world.kill_if(|process| process.ending);
    let color = daemon.rng.pick(&Color::ALL);
    let Some(process) = daemon.world.on(color).cloned() else { return daemon.after() };
    let doomed = process.proven && daemon.world.front.truth.reaches(color);
    match daemon.world.quality(&process.release) {
        Quality::DiesWatched if doomed => daemon.world.kill(color),
        Quality::SickWatched if doomed && process.healthy => daemon.set_health(color, false),
        Quality::NeverHealthy => {}
        _ if daemon.rng.percent(20) => daemon.world.kill(color),
        _ if daemon.rng.percent(20) => daemon.set_health(color, !process.healthy),
        _ => {}
    }
    daemon.figures.deaths += daemon.world.ended.len() as u64;
    daemon.after()
}

/// A builtin front that came up empty is told; an nginx reads its files again, and nobody hears of it.
fn restart_front(daemon: &mut Daemon) {
    daemon.figures.front_restarts += 1;
    daemon.world.front.restart();
    if daemon.setup.front == Kind::Builtin {
        daemon.inbox.push(Event::FrontRestarted);
    }
    daemon.unseen = true;
}

fn edit_front(daemon: &mut Daemon) {
    if daemon.setup.front == Kind::Builtin {
        return;
    }
    daemon.figures.edits += 1;
    let hands = [Hand::To(Color::Blue), Hand::To(Color::Green), Hand::ToNobody, Hand::Garbage].map(Some);
    match daemon.rng.pick(&[hands[0], hands[1], hands[2], hands[3], None]) {
        Some(hand) => {
            daemon.tell(|_| format!("  {hand:?}"));
            daemon.world.front.edit(hand);
        }
        None => daemon.mend_front(),
    }
    daemon.unseen = true;
}

fn jump(daemon: &mut Daemon) {
    let by = daemon.rng.next() % JUMP;
    daemon.figures.jumps += 1;
    let back = daemon.rng.percent(50);
    daemon.wall = Time(if back { daemon.wall.0.saturating_sub(by) } else { daemon.wall.0 + by });
}

fn stranger(daemon: &mut Daemon) {
    let color = daemon.rng.pick(&Color::ALL);
    if !daemon.world.strangers.remove(&color) && daemon.world.on(color).is_none() {
        daemon.figures.strangers += 1;
        daemon.world.strangers.insert(color);
    }
}
