//! What an app's task shows to the outside: a copy of its state and of what it sees, renewed after each step.
//! `bgd status` reads only this, so that it never waits for git, a build, a disk or a remote.

use std::{collections::BTreeMap, sync::Arc};

use super::traffic::Counted;
use crate::{
    config::settings::AppSettings,
    instance::Seen,
    rules::{
        app::App,
        ids::{Color, CommitId},
        time::Time,
    },
    shim::Slot,
    store::record::DeployRecord,
};

/// One moment of an app.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The settings in force.
    pub settings: Arc<AppSettings>,
    /// The machine's state.
    pub app: App,
    /// False until the daemon has looked at the world once; before that this is the record's view.
    pub observed: bool,
    /// The instances that run.
    pub instances: BTreeMap<Slot, Seen>,
    /// How many each color was last given.
    pub given: BTreeMap<Color, u16>,
    /// The deploy that ended last.
    pub last: Option<DeployRecord>,
    /// What keeps the record from being written, if anything: the app serves on, and nothing else happens.
    pub unrecorded: Option<String>,
    /// Trouble with the front that is not over.
    pub front_error: Option<String>,
    /// Requests since the route last changed, while somebody wants to know.
    pub counted: Counted,
    /// The remote as the poller last saw it.
    pub remote: RemoteSeen,
}

impl Snapshot {
    /// How many instances a color has; what is configured where that is not known.
    pub fn number_on(&self, color: Color) -> u16 {
        self.given.get(&color).copied().unwrap_or(self.settings.instances)
    }

    /// How many of them run.
    pub fn running_on(&self, color: Color) -> usize {
        self.on(color).count()
    }

    /// How many of them are known to be healthy.
    pub fn serving_on(&self, color: Color) -> usize {
        self.on(color).filter(|seen| seen.healthy == Some(true)).count()
    }

    fn on(&self, color: Color) -> impl Iterator<Item = &Seen> {
        self.instances.iter().filter(move |(slot, _)| slot.color == color).map(|(_, seen)| seen)
    }
}

/// The remote as the poller last saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteSeen {
    /// The tip.
    pub head: Option<CommitId>,
    /// The last good look.
    pub checked_at: Option<Time>,
    /// What is wrong now.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// How many refs it lists at each look, where it is therefore asked more seldom than `poll` says.
    pub crowd: Option<u64>,
    /// The next look, unless something calls for one before.
    pub next_at: Option<Time>,
}
