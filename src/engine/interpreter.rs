//! Carries effects out: one function an action, each idempotent, each saying in a `Failure` what was attempted
//! and what to do next. Knows nothing of the machine's state; what it needs stands in the action.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::sync::{Mutex, broadcast};

use super::{counting, disk::Disk, pruning::RemovalTurn, stopping::Led, traffic::Traffic};
use crate::{
    command::{AppCommands, CommandError, Places, failure, trouble},
    config::settings::AppSettings,
    front::{self, Front},
    instance::Instances,
    os::errors::chain,
    release::git,
    rules::{
        barrier::{Landmarks, SchemaNews},
        effect::Action,
        event::{Done, Want},
        ids::CommitId,
        words::{Failure, Nature, Phase},
    },
    shim::Shims,
    store::{AppRecord, Store, record::EventRecord},
    worker::Workers,
};

/// Carries the effects of one app out.
#[derive(Debug)]
pub struct Interpreter {
    pub(super) settings: Arc<AppSettings>,
    pub(super) places: Places,
    pub(super) commands: AppCommands,
    pub(super) git: git::GitWorker,
    pub(super) front: Box<dyn Front>,
    pub(super) instances: Instances,
    pub(super) workers: Arc<Workers>,
    pub(super) traffic: Traffic,
    /// The socket on which a front reports its requests; `None` when nothing counts them.
    pub(super) traffic_socket: Option<PathBuf>,
    pub(super) store: Arc<Store>,
    pub(super) record: AppRecord,
    /// Held for a route, for its proof and for the look before a stop: one at a time.
    pub(super) front_turn: Mutex<()>,
    /// Held while the front's sums are read and taken over: out of order they would shrink, as after a restart of the
    /// front.
    pub(super) sums_turn: Mutex<()>,
    /// Added to recorded generations before the front gets them: a lost record counts from 1 again, and a front refuses
    /// a generation older than the one it routes.
    pub(super) ahead: AtomicU64,
    pub(super) led: std::sync::Mutex<Led>,
    /// Allows one removal of the app's releases at a time.
    pub(super) removals: Arc<RemovalTurn>,
    /// The disk that the releases lie on.
    pub(super) disk: Arc<Disk>,
}

/// The daemon's paths.
#[derive(Debug)]
pub struct DaemonPaths {
    /// The bgd binary, which is run again for its other roles.
    pub exe: PathBuf,
    /// `state_dir` of the daemon.
    pub state_dir: PathBuf,
    /// `runtime_dir` of the daemon.
    pub runtime_dir: PathBuf,
}

impl Interpreter {
    /// Makes the app's directories and the parts of the interpreter; starts nothing.
    ///
    /// # Errors
    /// When a directory can't be made.
    pub fn new(
        settings: Arc<AppSettings>,
        (store, events): (Arc<Store>, broadcast::Sender<EventRecord>),
        (place, disk): (&DaemonPaths, Arc<Disk>),
    ) -> Result<Self, CommandError> {
        let places = Places::new(&place.state_dir, &settings.name);
        places.create()?;
        if let Err(err) = places.give_to(settings.user.as_deref()) {
            // The live release must be supervised all the same; each deploy tries again and reports the error.
            tracing::error!(app = %settings.name, err = %chain(&err), "nothing can be deployed");
        }
        let source = git::GitSource::of(&settings, places.mirror());
        let traffic_socket = counting::socket(place, &settings);
        let ground = front::Ground {
            exe: place.exe.clone(),
            runtime_dir: place.runtime_dir.clone(),
            logs: places.logs(),
            live: places.live(),
            traffic: traffic_socket.clone(),
        };
        let shims = Shims::new(place.exe.clone(), &place.state_dir, &place.runtime_dir);
        let commands = AppCommands { settings: settings.clone(), places: places.clone(), shims };
        let record = AppRecord::new(store.clone(), settings.name.clone(), events);
        Ok(Self {
            git: git::GitWorker::new(place.exe.clone(), source, git::GitLimits::default()),
            front: front::of(&settings, ground),
            workers: Arc::new(Workers::new(commands.clone(), record.clone())),
            instances: Instances::new(commands.clone(), record.clone(), place.exe.clone()),
            commands,
            record,
            traffic: Traffic::default(),
            traffic_socket,
            front_turn: Mutex::new(()),
            sums_turn: Mutex::new(()),
            ahead: AtomicU64::new(0),
            led: std::sync::Mutex::default(),
            removals: disk.removals(&settings.name),
            disk,
            places,
            store,
            settings,
        })
    }

    pub fn instances(&self) -> &Instances {
        &self.instances
    }

    pub(crate) fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    pub fn front(&self) -> &dyn Front {
        &*self.front
    }

    pub fn git(&self) -> &git::GitWorker {
        &self.git
    }

    pub fn settings(&self) -> &Arc<AppSettings> {
        &self.settings
    }

    /// The app's directories.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Carries one action out.
    pub(super) async fn carry_out(&self, action: &Action) -> Result<Done, Failure> {
        match action {
            Action::Fetch { want, landmarks } => return self.fetch(want, landmarks).await,
            Action::CheckOut { release, color } => self.check_out(release, *color).await?,
            Action::Build { release, color } => self.build(release, *color).await?,
            Action::RunHook { hook, release, color, failure, deploy } => {
                self.run_hook(*hook, (release, *color), (failure.as_ref(), *deploy)).await?;
            }
            Action::RunTask { task, when, release, color } => {
                return self.run_task((task, *when), (release, *color)).await;
            }
            Action::ForgetTask { task, release } => self.forget_task(task, release).await?,
            Action::Start { release, color } => {
                self.restore(release, *color).await?;
                self.keep_assets(release).await?;
                return self.instances.start(release, *color).await;
            }
            Action::Probe { release, color } => {
                self.prove_readable(release).await?;
                self.instances.probe(release, *color).await?;
            }
            Action::Replace { color, out, release } => {
                self.refuse_in_place()?;
                self.instances.replace(*color, out, release).await?;
            }
            Action::StandIn { color, out, release } => {
                self.refuse_in_place()?;
                self.instances.stand_in(*color, out, release).await?;
            }
            Action::Route { generation, to, canary, backup } => {
                self.route(*generation, (to.as_ref(), backup.as_ref()), canary.as_ref()).await?;
            }
            Action::WarmUp { release, color } => self.instances.warm_up(release, *color).await?,
            Action::Watch { release, color, period } => {
                return self.instances.watch(release, *color, *period, || self.judge(release, *color)).await;
            }
            Action::Drain { color } => self.drain(*color).await?,
            Action::Stop { color, release } => self.stop(*color, release).await?,
            Action::Discard { color, release } => self.discard(*color, release.as_ref()).await?,
            Action::Workers(_) => self.workers.arrange().await?,
            Action::Wake { after } => tokio::time::sleep(*after).await,
            Action::Prune { before, protect } => self.prune(*before, protect).await?,
            // The task ends the effect itself: only it knows which one runs.
            Action::Cancel(_) => {}
        }
        Ok(Done::Ensured)
    }

    /// Fetches a commit, and looks for migrations in it.
    pub(crate) async fn fetch(&self, want: &Want, landmarks: &Landmarks) -> Result<Done, Failure> {
        // The app's directories may have been deleted by hand.
        let made = self.places.create();
        let given = made.and_then(|()| self.places.give_to(self.settings.user.as_deref()));
        given
            .map_err(|err| Failure { hint: Some(err.hint().to_owned()), ..trouble(Phase::Fetching, &err) })?;
        let ruled = self.git.source().only_forward();
        let asked = match want {
            // A push: the branch decides whether this commit may follow the last accepted one.
            Want::Commit(commit) if ruled => git::WantedRevision::Seen(commit.clone()),
            Want::Tip => git::WantedRevision::Branch,
            Want::Rev(rev) => git::WantedRevision::Rev(rev.clone()),
            Want::Commit(commit) => git::WantedRevision::Rev(commit.as_str().to_owned()),
        };
        let line = self.git.source().line();
        let accepted = match ruled {
            true => self.store.accepted(&self.settings.name, &line),
            false => Ok(None),
        };
        let accepted = accepted.map_err(|err| trouble(Phase::Fetching, &err))?;
        let found = self.git.fetch_after(accepted, asked).await;
        let found = found.map_err(|err| git_failure(Phase::Fetching, &err))?;
        // Recorded even if no rule asks for it: a rule that is switched on later needs the branch's last commit.
        if found.accepted || matches!(want, Want::Commit(_)) {
            self.accept(line, found.commit.clone()).await?;
        }
        if let Some(signer) = &found.signer {
            tracing::info!(app = %self.settings.name, rev = %found.commit, %signer, "the commit is signed");
        }
        let news = self.schema_news(&found.commit, landmarks).await?;
        Ok(Done::Fetched { commit: found.commit, subject: found.subject, author: found.author, news })
    }

    /// What the commit changes in the database since what is live. Git is asked only for an app that guards migrations,
    /// or that did when its barrier was set.
    async fn schema_news(&self, commit: &CommitId, landmarks: &Landmarks) -> Result<SchemaNews, Failure> {
        let rules = self.settings.migration.as_ref();
        if rules.is_none() && landmarks.barrier.is_none() {
            return Ok(SchemaNews::default());
        }
        let looking = self.git.schema_news(commit, landmarks, rules);
        looking.await.map_err(|err| git_failure(Phase::Fetching, &err))
    }

    /// Records the commit that the branch may go on from; the step that ends the fetch flushes it.
    async fn accept(&self, line: String, commit: CommitId) -> Result<(), Failure> {
        let (store, app) = (self.store.clone(), self.settings.name.clone());
        let kept = tokio::task::spawn_blocking(move || store.accept(&app, &line, &commit)).await;
        kept.map_err(|err| trouble(Phase::Fetching, &err))?.map_err(|err| trouble(Phase::Fetching, &err))
    }
}

pub(super) fn git_failure(phase: Phase, err: &git::GitError) -> Failure {
    // Access and network may be mended without a new commit; a faulty commit needs one.
    let nature = match err.kind() {
        git::Reaction::Permanent | git::Reaction::Refused => Nature::Deterministic,
        git::Reaction::Transient
        | git::Reaction::Auth
        | git::Reaction::HostKey
        | git::Reaction::BranchMissing
        | git::Reaction::Empty
        | git::Reaction::Stalled => Nature::Transient,
    };
    let failure = failure(phase, nature, chain(err));
    Failure { hint: err.hint().or(failure.hint), ..failure }
}
