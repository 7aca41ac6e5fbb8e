//! One task per app: select → step → commit → run. The task owns the app's state; everything it learns comes as
//! an event through its inbox, everything it does goes through the interpreter after the commit. Called by the
//! daemon and by a `bgd flip` that works without one.

mod acts;
mod app_task;
pub mod apps;
mod attending;
mod building;
mod counting;
mod cron_run;
mod disk;
mod gates;
mod hanging;
mod interpreter;
mod judging;
pub mod ledger;
mod meter;
mod observe;
mod poller;
mod pruning;
mod running;
mod scheduling;
mod site;
mod snapshot;
mod stopping;
mod tend;
mod traffic;
mod unconfigured;
mod working;

pub use app_task::{AppTask, DeployCounter, Deps, Inbox, Message};
pub use cron_run::CronEnd;
pub use interpreter::{DaemonPaths, Interpreter};
pub use poller::watch_remote;
pub use scheduling::{Begun, NotBegun};
pub use snapshot::{CronSeen, RemoteSeen, Snapshot};
pub use traffic::Counted;
pub use unconfigured::{Unconfigured, last_settings, unconfigured};
