//! What routes the public traffic to a color: one seam, and a folder for each kind of front, which knows nothing of
//! the others. Called by the engine and by `bgd doctor`; decides nothing by itself.
//!
//! The kinds stand behind a trait and not in an enum, so that another one is a folder and a line in [`of`]. A future
//! in a box costs an allocation a call, of which a flip has three.

pub mod builtin;
pub mod haproxy;
pub mod hearing;
pub mod nginx;
pub mod traffic;

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::MutexGuard;

use self::{builtin::Builtin, haproxy::Haproxy, nginx::Nginx, traffic::Sample};
use crate::{
    config::settings::{AppSettings, FrontSettings},
    rules::{
        address::Address,
        finding::Finding,
        ids::{AppName, Color, Generation},
        route::{Route, Standing},
        traffic::Figures,
        words::{Failure, Nature, Phase},
    },
};

/// What a front does when it is asked to.
pub type Attempt<'a, T> = BoxFuture<'a, Result<T, FrontError>>;

/// The front of one app.
pub trait Front: fmt::Debug + Send + Sync {
    /// Has it there as far as that is bgd's to do: its process runs, its file is in place. Routes nothing.
    fn ensure(&self) -> Attempt<'_, ()>;

    /// What would make a flip fail and can be known before a build (promises F4, F7).
    fn preflight(&self) -> Attempt<'_, ()>;

    /// Routes exactly so, proven by effect; without a live color the traffic is turned away.
    fn route(&self, route: Route) -> Attempt<'_, ()>;

    /// What is truly routed now; `None` when the front knows of no route.
    fn standing(&self) -> Attempt<'_, Option<Standing>>;

    /// Waits until nothing is in flight on the color, at most for `limit`; what is left then is cut. Returns how
    /// many requests or connections that were.
    fn drained(&self, color: Color, limit: Duration) -> Attempt<'_, u64>;

    /// Looks after it for as long as it is polled: tells what is wrong, and has it told again after it was lost.
    fn supervise<'a>(&'a self, daemon: &'a dyn Daemon) -> BoxFuture<'a, ()>;

    /// What `bgd doctor` says of it; changes nothing.
    fn advice<'a>(&'a self, app: &'a AppSettings) -> BoxFuture<'a, Vec<Finding>>;

    /// The number of the route that it refused ours for; `None` where it takes any.
    fn newer_than(&self, _ours: Generation) -> BoxFuture<'_, Option<Generation>> {
        Box::pin(async { None })
    }

    /// Has instances at these addresses passed over for so long, as far as others are not. Nothing to do where the
    /// front finds out by itself.
    fn pass_over(&self, _addresses: Vec<Address>, _within: Duration) -> Attempt<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Ends it where it is bgd's to end.
    fn end(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// What it counted of the traffic since its process began; `None`: it tells of each request by a datagram.
    fn figures(&self) -> Option<Attempt<'_, [(Color, Figures); 2]>> {
        None
    }

    /// The request that a datagram tells of: a sample of each color that it was tried on.
    fn samples(&self, _datagram: &[u8]) -> Vec<Sample> {
        Vec::new()
    }

    /// The users that those run as that tell of requests; none while the front can't be asked.
    fn worker_uids(&self) -> BoxFuture<'_, BTreeSet<u32>> {
        Box::pin(async { BTreeSet::new() })
    }

    /// The process that connects to the app, where a security module may confine it otherwise than bgd; `None` when it
    /// can't be found.
    fn confined(&self) -> Option<Confined> {
        None
    }
}

/// What a front that is looked after may ask of the daemon and tells it.
pub trait Daemon: Send + Sync {
    /// The app that the front is of.
    fn app(&self) -> &AppName;

    /// The turn at the front: while it is held, no route is put in force.
    fn turn(&self) -> BoxFuture<'_, MutexGuard<'_, ()>>;

    /// Whether an instance runs on the color.
    fn runs(&self, color: Color) -> bool;

    /// The front lost its route, or somebody changed it: it is to be told again what is live.
    fn tell_again(&self);

    /// What is wrong with the front now; true when that is not what was said before.
    fn trouble(&self, said: Option<String>) -> bool;

    /// Records what went wrong with the front and is over, for `bgd events`.
    fn note<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()>;
}

/// A process that a security module may keep from the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// What people call it.
    pub program: &'static str,
    /// Its process.
    pub pid: String,
    /// SELinux booleans, each of which lets it connect to any port; the first one is the narrowest.
    pub switches: &'static [&'static str],
}

/// What went wrong with a front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct FrontError {
    /// For people, with all causes.
    pub said: String,
    /// What to do about it, where more is known than that the front is unwell.
    pub hint: Option<&'static str>,
    /// Its own last words.
    pub log: Vec<String>,
    /// Whether another try can help, and what it did to the route.
    pub nature: Nature,
}

impl FrontError {
    /// As a deploy's failure: always worth another try, because the commit is not to blame.
    pub fn failure(self, phase: Phase) -> Failure {
        let hint = self.hint.unwrap_or("`bgd doctor` checks the front").to_owned();
        Failure { phase, nature: self.nature, cause: self.said, hint: Some(hint), log_tail: self.log }
    }
}

/// Where a front has what it needs of bgd's.
#[derive(Debug, Clone)]
pub struct Ground {
    /// This binary.
    pub exe: PathBuf,
    /// `runtime_dir` of the daemon.
    pub runtime_dir: PathBuf,
    /// The directory of the app's logs.
    pub logs: PathBuf,
    /// The datagram socket for what is told of requests; `None` when nobody wants to know.
    pub traffic: Option<PathBuf>,
}

/// The front of an app; touches nothing. The one place that names the kinds.
pub fn of(app: &AppSettings, ground: Ground) -> Box<dyn Front> {
    match &app.front {
        FrontSettings::Builtin { listen, request_timeout, response_timeout } => {
            let limits = builtin::Limits::new(*request_timeout, *response_timeout);
            Box::new(Builtin::of(&app.name, *listen, &ground).limited(limits))
        }
        FrontSettings::Nginx(nginx) => {
            Box::new(Nginx::new(nginx.clone(), app.name.clone(), app.addresses(), ground.traffic))
        }
        FrontSettings::Haproxy(haproxy) => Box::new(Haproxy::new(haproxy.clone(), app.addresses())),
    }
}

/// The `front.type` for a program that serves already, by its name; `None` when bgd has no front for it.
pub fn kind_of(program: &str) -> Option<&'static str> {
    ["nginx", "haproxy"].into_iter().find(|kind| program.contains(kind))
}
