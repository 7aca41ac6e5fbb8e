//! What an app's task shows to the outside: a copy of its state and of what it sees, renewed after each step.
//! `bgd status` reads only this, so that it never waits for git, a build, a disk or a remote.

use std::{collections::BTreeMap, sync::Arc};

use super::traffic::Counted;
use crate::{
    config::settings::AppSettings,
    rules::{
        app::App,
        ids::{Color, CommitId},
        time::Time,
    },
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
    /// Main processes by color.
    pub pids: BTreeMap<Color, i32>,
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

/// The remote as the poller last saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteSeen {
    /// The tip.
    pub head: Option<CommitId>,
    /// The last good look.
    pub checked_at: Option<Time>,
    /// What is wrong now.
    pub error: Option<String>,
}
