//! The fake world: a remote with pushes, release directories, one process per color, a front. It obeys the
//! actions of the machine as the real interpreter would, including its refusals.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bgd::rules::{
    app::Release,
    effect::{Action, Backend},
    event::{Done, Want},
    ids::{Color, CommitId, Generation, ReleaseId},
    words::{Failure, Nature, Phase},
};

/// How a commit behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quality {
    Good,
    BuildBroken,
    StartBroken,
    NeverHealthy,
    /// Passes its probes, then dies within the watch.
    DiesWatched,
    /// Passes its probes, then turns unhealthy within the watch.
    SickWatched,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub release: Release,
    pub healthy: bool,
    /// Its probes have passed in this life.
    pub proven: bool,
}

#[derive(Debug, Clone)]
pub struct Front {
    pub to: Option<Color>,
    pub generation: Generation,
    /// Takes no route for now.
    pub broken: bool,
}

pub struct World {
    /// Every commit ever pushed; the index is its name.
    pub pushed: Vec<Quality>,
    pub tip: Option<usize>,
    /// Release directories; true once built.
    pub directories: BTreeMap<ReleaseId, bool>,
    /// Builds that run or left their verdict.
    pub builds: BTreeSet<ReleaseId>,
    pub processes: BTreeMap<Color, Process>,
    pub front: Front,
    /// Nothing breaks by itself any more.
    pub healed: bool,
    /// What must never have happened.
    pub crimes: Vec<String>,
    /// Instances that ended by our hand or their own since last asked.
    pub ended: Vec<(Color, ReleaseId)>,
}

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
    pub fn new() -> Self {
        Self {
            pushed: Vec::new(),
            tip: None,
            directories: BTreeMap::new(),
            builds: BTreeSet::new(),
            processes: BTreeMap::new(),
            front: Front { to: None, generation: Generation(0), broken: false },
            healed: false,
            crimes: Vec::new(),
            ended: Vec::new(),
        }
    }

    pub fn push(&mut self, quality: Quality) {
        self.pushed.push(quality);
        self.tip = Some(self.pushed.len() - 1);
    }

    pub fn quality(&self, release: &Release) -> Quality {
        self.pushed[index_of(&release.commit)]
    }

    pub fn kill(&mut self, color: Color) {
        if let Some(process) = self.processes.remove(&color) {
            self.ended.push((color, process.release.id));
        }
    }

    /// Runs an action to its end.
    pub fn obey(&mut self, action: &Action) -> Result<Done, Failure> {
        match action {
            Action::Fetch(want) => self.fetch(want),
            Action::CheckOut { release, .. } => {
                self.directories.insert(release.id.clone(), false);
                self.builds.remove(&release.id);
                Ok(Done::Ensured)
            }
            Action::Build { release, .. } => self.build(release),
            Action::RunHook { .. } | Action::Drain { .. } | Action::Wake { .. } | Action::Cancel(_) => {
                Ok(Done::Ensured)
            }
            Action::Start { release, color } => self.start(release, *color),
            Action::Probe { release, color } => self.probe(release, *color, Phase::Probing),
            Action::Watch { release, color } => self.probe(release, *color, Phase::Watching),
            Action::Route { generation, to } => self.route(*generation, to.as_ref()),
            Action::Replace { color, out, release } => self.replace(*color, out, release),
            Action::Stop { color, release } => self.stop(*color, Some(release)),
            Action::Discard { color, release } => {
                if let Some(release) = release {
                    self.builds.remove(release);
                }
                self.stop(*color, release.as_ref())
            }
            // Pruning needs to know when it was asked for: see `Daemon::prune`.
            Action::Prune { .. } => Ok(Done::Ensured),
        }
    }

    fn fetch(&self, want: &Want) -> Result<Done, Failure> {
        let missing = || failure(Phase::Fetching, Nature::Deterministic, "no such revision");
        let commit_id = match want {
            Want::Commit(commit) => commit.clone(),
            Want::Tip => commit(self.tip.ok_or_else(missing)?),
            Want::Rev(text) => text.parse().map_err(|_| missing())?,
        };
        if index_of(&commit_id) >= self.pushed.len() {
            return Err(missing());
        }
        Ok(Done::Fetched { commit: commit_id, subject: "subject".to_owned(), author: "author".to_owned() })
    }

    fn build(&mut self, release: &Release) -> Result<Done, Failure> {
        if !self.directories.contains_key(&release.id) {
            self.crimes.push(format!("build of {} without its directory", release.id));
        }
        self.builds.insert(release.id.clone());
        if self.quality(release) == Quality::BuildBroken {
            return Err(failure(Phase::Building, Nature::Deterministic, "the build failed"));
        }
        self.directories.insert(release.id.clone(), true);
        Ok(Done::Ensured)
    }

    fn start(&mut self, release: &Release, color: Color) -> Result<Done, Failure> {
        if self.processes.get(&color).is_some_and(|process| process.release.id == release.id) {
            return Ok(Done::Ensured);
        }
        if self.directories.get(&release.id) != Some(&true) {
            self.crimes.push(format!("start of {}, which is not built or was deleted", release.id));
        }
        if let Some(other) = self.processes.get(&color)
            && self.front.to == Some(color)
            && other.healthy
        {
            self.crimes.push(format!("start of {} on {color} in place of {}", release.id, other.release.id));
        }
        self.kill(color);
        if self.quality(release) == Quality::StartBroken {
            return Err(failure(Phase::Starting, Nature::Deterministic, "the start failed"));
        }
        let healthy = self.quality(release) != Quality::NeverHealthy;
        self.processes.insert(color, Process { release: release.clone(), healthy, proven: false });
        Ok(Done::Ensured)
    }

    fn probe(&mut self, release: &Release, color: Color, phase: Phase) -> Result<Done, Failure> {
        match self.processes.get_mut(&color).filter(|process| process.release.id == release.id) {
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

    fn route(&mut self, generation: Generation, to: Option<&Backend>) -> Result<Done, Failure> {
        let phase = Phase::Switching;
        if self.front.broken {
            // Half of the time for a reason that a way back does without the front for.
            let nature = if generation.0.is_multiple_of(2) { Nature::FrontStuck } else { Nature::Transient };
            return Err(failure(phase, nature, "the front does not take it"));
        }
        if generation <= self.front.generation {
            return Err(failure(phase, Nature::Transient, "the front knows a newer route"));
        }
        self.front.generation = generation;
        self.front.to = to.map(|backend| backend.color);
        Ok(Done::Ensured)
    }

    /// In the place of what the front routes to.
    fn replace(&mut self, color: Color, out: &ReleaseId, release: &Release) -> Result<Done, Failure> {
        if self.processes.get(&color).is_some_and(|process| process.release.id == *out) {
            self.kill(color);
        }
        self.start(release, color)?;
        self.probe(release, color, Phase::Switching)
    }

    /// Refused while the front routes to the color (promise F3).
    fn stop(&mut self, color: Color, release: Option<&ReleaseId>) -> Result<Done, Failure> {
        let runs = self.processes.get(&color).is_some_and(|process| Some(&process.release.id) == release);
        if self.front.to == Some(color) {
            if runs {
                self.crimes.push(format!("{release:?} was to be stopped while the front routes there"));
            }
            return Err(failure(Phase::Stopping, Nature::Transient, "the front routes there"));
        }
        if runs {
            self.kill(color);
        }
        Ok(Done::Ensured)
    }
}

/// How long an action takes at least.
pub fn takes(action: &Action, watch: Duration) -> Duration {
    match action {
        Action::Wake { after } => *after,
        Action::Watch { .. } => watch,
        _ => Duration::ZERO,
    }
}
