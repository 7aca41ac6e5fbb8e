//! The fake world: a remote with pushes, release directories on a disk that forgets what was not flushed, processes
//! on two ports, strangers, a front. It obeys the actions of the machine as the real interpreter would, including
//! its refusals, and writes down what must never have happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bgd::rules::{
    app::Release,
    barrier::Landmarks,
    effect::{Action, Hook},
    event::{Done, Want},
    ids::{Color, CommitId, ReleaseId},
    words::{Failure, Nature, Phase},
};

use crate::{
    defects::Habit,
    front::{Front, Kind, Route, Wanted},
    guarding::Schema,
    tasking::TaskRuns,
    working::Working,
};

/// How a commit behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Good,
    BuildBroken,
    /// Its build fails each time, for reasons outside of it.
    BuildUnlucky,
    StartBroken,
    NeverHealthy,
    /// Passes its probes, then dies within the watch.
    DiesWatched,
    /// Passes its probes, then turns unhealthy within the watch.
    SickWatched,
    /// Can't be warmed up.
    FailsCold,
    /// Is healthy, and answers the public with errors.
    FailsTraffic,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub color: Color,
    pub release: Release,
    pub healthy: bool,
    /// Its probes have passed in this life.
    pub proven: bool,
    /// It was told to end.
    pub ending: bool,
    /// It is no instance, and passes everything on to the other color.
    pub passes_on: bool,
}

/// A release directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Directory {
    pub built: bool,
    /// What the build made is on disk.
    pub flushed: bool,
}

pub struct World {
    /// Every commit ever pushed; the index is its name.
    pub pushed: Vec<Quality>,
    pub tip: Option<usize>,
    pub directories: BTreeMap<ReleaseId, Directory>,
    /// Builds that left their verdict; whether in this boot.
    pub builds: BTreeMap<ReleaseId, bool>,
    pub processes: Vec<Process>,
    /// Ports that somebody else listens on.
    pub strangers: BTreeSet<Color>,
    pub disk_full: bool,
    pub front: Front,
    /// Nothing breaks by itself any more.
    pub healed: bool,
    /// What must never have happened.
    pub crimes: Vec<String>,
    /// Instances that ended by our hand or their own since last asked.
    pub ended: Vec<(Color, ReleaseId)>,
    /// Whether what is live is being told to the front once more, or has to be: nobody knows where it routes.
    pub told_again: bool,
    pub schema: Schema,
    pub working: Working,
    /// The tasks that ran.
    pub task_runs: TaskRuns,
    habit: Habit,
}

/// Longer than any schedule.
pub const UNTIL_CALLED_OFF: Duration = Duration::from_secs(u32::MAX as u64);

pub fn commit(index: usize) -> CommitId {
    format!("{index:07x}{:033x}", 0).parse().unwrap()
}

pub fn index_of(commit: &CommitId) -> usize {
    usize::from_str_radix(commit.short(), 16).unwrap()
}

pub fn failure(phase: Phase, nature: Nature, cause: &str) -> Failure {
    Failure { phase, nature, cause: cause.to_owned(), hint: None, log_tail: Vec::new() }
}

impl World {
    pub fn new(front: Kind, habit: Habit) -> Self {
        Self {
            pushed: Vec::new(),
            tip: None,
            directories: BTreeMap::new(),
            builds: BTreeMap::new(),
            processes: Vec::new(),
            strangers: BTreeSet::new(),
            disk_full: false,
            front: Front::new(front),
            healed: false,
            crimes: Vec::new(),
            ended: Vec::new(),
            told_again: false,
            schema: Schema::default(),
            working: Working::new(),
            task_runs: TaskRuns::default(),
            habit,
        }
    }

    pub fn habit(&self) -> Habit {
        self.habit
    }

    pub fn push(&mut self, quality: Quality) {
        self.pushed.push(quality);
        self.tip = Some(self.pushed.len() - 1);
    }

    pub fn quality(&self, release: &Release) -> Quality {
        self.pushed[index_of(&release.commit)]
    }

    pub fn on(&self, color: Color) -> Option<&Process> {
        self.processes.iter().rfind(|process| process.color == color)
    }

    pub fn runs(&self, color: Color, release: &ReleaseId) -> bool {
        self.processes.iter().any(|process| process.color == color && process.release.id == *release)
    }

    pub fn on_mut(&mut self, color: Color, release: &ReleaseId) -> Option<&mut Process> {
        self.processes.iter_mut().find(|it| it.color == color && it.release.id == *release)
    }

    pub fn kill(&mut self, color: Color) {
        self.kill_if(|process| process.color == color);
    }

    pub fn kill_if(&mut self, dies: impl Fn(&Process) -> bool) {
        let ended = self.processes.iter().filter(|process| dies(process));
        self.ended.extend(ended.map(|process| (process.color, process.release.id.clone())));
        self.processes.retain(|process| !dies(process));
    }

    /// Runs an action to its end.
    pub fn obey(&mut self, action: &Action) -> Result<Done, Failure> {
        match action {
            Action::Fetch { want, landmarks } => self.fetch(want, landmarks),
            Action::CheckOut { release, .. } => self.check_out(release),
            Action::Build { release, .. } => self.build(release),
            // Pruning needs the record: see `Daemon::prune`.
            Action::Prune { .. } => self.room(Phase::Stopping),
            Action::RunHook { hook: Hook::BeforeStart, release, .. } => {
                self.schema.migrate(release);
                Ok(Done::Ensured)
            }
            Action::RunTask { .. } => self.run_task(action),
            Action::ForgetTask { task, release } => {
                self.forget_task(task, release);
                Ok(Done::Ensured)
            }
            Action::RunHook { .. }
            | Action::Drain { .. }
            | Action::Workers(_)
            | Action::Wake { .. }
            | Action::Cancel(_) => Ok(Done::Ensured),
            Action::Start { release, color } => match self.begin_start(release, *color)? {
                Begun::Adopted => Ok(Done::Ensured),
                Begun::Cleared => self.spawn(release, *color),
            },
            Action::Probe { release, color } => self.probe(release, *color, Phase::Probing),
            Action::Watch { release, color, .. } => self.watch(release, *color),
            Action::WarmUp { release, color } => self.warm_up(release, *color),
            Action::Route { generation, to, canary, backup } => {
                let wanted = (to.as_ref(), canary.as_ref(), backup.as_ref());
                self.front.begin(Route::new(*generation, wanted))?;
                self.finish_route(wanted);
                Ok(Done::Ensured)
            }
            Action::Replace { color, out, release } => self.replace(*color, out, release),
            Action::StandIn { color, release, .. } => self.stand_in(*color, release),
            Action::Stop { color, release } => {
                self.begin_stop(*color, release)?;
                self.end_stop(*color);
                Ok(Done::Ensured)
            }
            Action::Discard { color, release } => self.discard(*color, release.as_ref()),
        }
    }

    fn fetch(&mut self, want: &Want, landmarks: &Landmarks) -> Result<Done, Failure> {
        let missing = || failure(Phase::Fetching, Nature::Deterministic, "no such revision");
        let commit_id = match want {
            Want::Commit(commit) => commit.clone(),
            Want::Tip => commit(self.tip.ok_or_else(missing)?),
            Want::Rev(text) => text.parse().map_err(|_| missing())?,
        };
        if index_of(&commit_id) >= self.pushed.len() {
            return Err(missing());
        }
        let news = self.schema.news(&commit_id, landmarks);
        let (subject, author) = ("subject".to_owned(), "author".to_owned());
        Ok(Done::Fetched { commit: commit_id, subject, author, news })
    }

    fn room(&self, phase: Phase) -> Result<Done, Failure> {
        if self.disk_full {
            return Err(failure(phase, Nature::Transient, "the disk is full"));
        }
        Ok(Done::Ensured)
    }

    fn check_out(&mut self, release: &Release) -> Result<Done, Failure> {
        self.room(Phase::CheckingOut)?;
        self.directories.insert(release.id.clone(), Directory::default());
        Ok(Done::Ensured)
    }

    /// Done by the shim alone, whoever still waits for it.
    pub fn build_by_shim(&mut self, release: &Release) {
        if !self.directories.contains_key(&release.id) {
            self.crimes.push(format!("build of {} without its directory", release.id));
        }
        if self.builds.contains_key(&release.id) {
            return;
        }
        self.builds.insert(release.id.clone(), true);
        let built = !matches!(self.quality(release), Quality::BuildBroken | Quality::BuildUnlucky);
        self.directories.insert(release.id.clone(), Directory { built, flushed: false });
    }

    fn build(&mut self, release: &Release) -> Result<Done, Failure> {
        self.room(Phase::Building)?;
        self.build_by_shim(release);
        // Its verdict is taken from the shim, and forgotten.
        self.builds.remove(&release.id);
        match self.quality(release) {
            Quality::BuildBroken => {
                return Err(failure(Phase::Building, Nature::Deterministic, "the build failed"));
            }
            Quality::BuildUnlucky => {
                return Err(failure(Phase::Building, Nature::Transient, "the build was killed"));
            }
            _ => {}
        }
        if self.habit != Habit::FlushesNoBuild
            && let Some(directory) = self.directories.get_mut(&release.id)
        {
            directory.flushed = true;
        }
        Ok(Done::Ensured)
    }

    /// The first half of a start: nothing else of ours is on the port, and nobody else.
    pub fn begin_start(&mut self, release: &Release, color: Color) -> Result<Begun, Failure> {
        if self.habit == Habit::StartsBesideItself {
            return Ok(Begun::Cleared);
        }
        let proven = |other: &&Process| other.healthy && other.proven && other.release.id != release.id;
        let healthy = self.on(color).filter(proven);
        if let Some(other) = healthy.filter(|_| self.front.truth.names(color) && self.front.hand.is_none()) {
            self.crimes.push(format!("start of {} on {color} in place of {}", release.id, other.release.id));
        }
        // One that was told to end is never adopted: its shim says so.
        self.kill_if(|it| it.color == color && (it.release.id != release.id || it.ending || it.passes_on));
        if self.runs(color, &release.id) {
            return Ok(Begun::Adopted);
        }
        if self.strangers.contains(&color) {
            return Err(failure(Phase::Starting, Nature::Transient, "the port is held by a stranger"));
        }
        Ok(Begun::Cleared)
    }

    /// The second half.
    pub fn spawn(&mut self, release: &Release, color: Color) -> Result<Done, Failure> {
        if !self.directories.get(&release.id).is_some_and(|directory| directory.built) {
            self.crimes.push(format!("start of {}, which is not built or was deleted", release.id));
        }
        if let Some(other) = self.on(color) {
            self.crimes.push(format!("{} and {} share the port of {color}", release.id, other.release.id));
        }
        self.schema.migrate(release);
        if self.quality(release) == Quality::StartBroken {
            return Err(failure(Phase::Starting, Nature::Deterministic, "the start failed"));
        }
        let healthy = self.quality(release) != Quality::NeverHealthy;
        let release = release.clone();
        self.processes.push(Process {
            color,
            release,
            healthy,
            proven: false,
            ending: false,
            passes_on: false,
        });
        Ok(Done::Ensured)
    }

    fn probe(&mut self, release: &Release, color: Color, phase: Phase) -> Result<Done, Failure> {
        match self.on_mut(color, &release.id) {
            None => Err(failure(phase, Nature::Deterministic, "the instance ended")),
            Some(process) if !process.healthy => {
                Err(failure(phase, Nature::Deterministic, "the instance is not healthy"))
            }
            Some(process) => {
                process.proven = true;
                Ok(Done::Ensured)
            }
        }
    }

    fn warm_up(&mut self, release: &Release, color: Color) -> Result<Done, Failure> {
        if self.quality(release) == Quality::FailsCold {
            return Err(failure(Phase::Warming, Nature::Deterministic, "it was not warmed up"));
        }
        self.probe(release, color, Phase::Warming)
    }

    fn watch(&mut self, release: &Release, color: Color) -> Result<Done, Failure> {
        if self.errs(release, color) {
            return Err(failure(Phase::Watching, Nature::Deterministic, "too many errors"));
        }
        self.probe(release, color, Phase::Watching)
    }

    /// Whether the public gets errors from it.
    pub fn errs(&self, release: &Release, color: Color) -> bool {
        self.quality(release) == Quality::FailsTraffic && self.front.truth.reaches(color)
    }

    pub fn finish_route(&mut self, (to, canary, backup): Wanted<'_>) {
        // Where nothing healthy serves, what is ending is as good as nobody.
        let serves = self.front.truth.live.is_some_and(|color| self.on(color).is_some_and(|it| it.healthy));
        let named = [to, canary.map(|canary| &canary.backend), backup];
        // Where the traffic goes already it is not moved to.
        let ending = |it: &&Process| {
            let anew = !self.front.truth.reaches(it.color);
            anew && named.iter().flatten().any(|to| it.color == to.color && it.release.id == to.release)
        };
        if let Some(process) = self.processes.iter().filter(ending).find(|it| it.ending && serves) {
            let (release, color) = (&process.release.id, process.color);
            self.crimes.push(format!("the front is moved to {release} on {color}, which is being stopped"));
        }
        self.front.finish();
        if let Some(to) = to {
            self.working.note_routed(&to.release);
        }
    }

    /// In the place of what the front routes to.
    fn replace(&mut self, color: Color, out: &ReleaseId, release: &Release) -> Result<Done, Failure> {
        if out != &release.id {
            self.kill_if(|process| process.color == color && process.release.id == *out);
        }
        if let Begun::Cleared = self.begin_start(release, color)? {
            self.spawn(release, color)?;
        }
        self.probe(release, color, Phase::Switching)
    }

    /// What comes to the color is passed on to the other one.
    fn stand_in(&mut self, color: Color, release: &Release) -> Result<Done, Failure> {
        if self.strangers.contains(&color) {
            return Err(failure(Phase::Switching, Nature::Transient, "the port is held by a stranger"));
        }
        let stays = |it: &Process| it.passes_on && it.release.id == release.id && !it.ending;
        self.kill_if(|it| it.color == color && !stays(it));
        if self.on(color).is_none() {
            let release = release.clone();
            self.processes.push(Process {
                color,
                release,
                healthy: true,
                proven: true,
                ending: false,
                passes_on: true,
            });
        }
        Ok(Done::Ensured)
    }

    /// The first half of a stop; refused while the front routes to the color (promise F3), or nobody knows where.
    pub fn begin_stop(&mut self, color: Color, release: &ReleaseId) -> Result<(), Failure> {
        let runs = self.on(color).is_some();
        // While the front is told again the machine can't know better; the look does.
        let refused = self.front.seen().names(color) || self.front.half_told();
        let saved_by_the_look = self.told_again && refused;
        if runs && self.front.truth.names(color) && self.front.hand.is_none() && !saved_by_the_look {
            self.crimes.push(format!("{release} was to be stopped while the front routes there"));
        }
        if refused && self.habit != Habit::StopsWithoutLooking {
            return Err(failure(Phase::Stopping, Nature::Transient, "the front routes there"));
        }
        if runs && self.front.truth.names(color) && self.front.seen().names(color) {
            self.crimes.push(format!("{release} is stopped although a hand made the front route there"));
        }
        // Whatever it is: what a flip without a record started is named by nobody.
        for process in self.processes.iter_mut().filter(|process| process.color == color) {
            process.ending = true;
            process.healthy = false;
        }
        Ok(())
    }

    pub fn end_stop(&mut self, color: Color) {
        self.kill_if(|process| process.color == color && process.ending);
    }

    fn discard(&mut self, color: Color, release: Option<&ReleaseId>) -> Result<Done, Failure> {
        let Some(release) = release else { return Ok(Done::Ensured) };
        self.builds.remove(release);
        if self.runs(color, release) {
            self.begin_stop(color, release)?;
            self.end_stop(color);
        }
        Ok(Done::Ensured)
    }

    /// Everything that ran is gone, and so is what was not flushed: `lost` says of what it is true.
    pub fn lose_power(&mut self, mut lost: impl FnMut() -> bool) {
        self.processes.clear();
        self.working.lose_power();
        self.ended.clear();
        // A verdict is flushed by the shim that writes it.
        for of_this_boot in self.builds.values_mut() {
            *of_this_boot = false;
        }
        for directory in self.directories.values_mut() {
            directory.built &= directory.flushed || !lost();
        }
        self.front.reboot();
    }
}

/// How far the first half of a start got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It runs already.
    Adopted,
    /// Nothing is in its way.
    Cleared,
}

/// How long an action takes at least.
pub fn takes(action: &Action) -> Duration {
    match action {
        Action::Wake { after } => *after,
        Action::Watch { period, .. } => period.unwrap_or(UNTIL_CALLED_OFF),
        Action::WarmUp { .. } => Duration::from_secs(1),
        _ => Duration::ZERO,
    }
}
