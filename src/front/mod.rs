//! Routes the public traffic to a color: one trait, and a folder for each kind of front, which knows nothing of the
//! others. Called by the engine and by `bgd doctor`; decides nothing by itself.
//!
//! The kinds implement a trait and are not variants of an enum, so that a new kind is a folder and a line in [`of`].
//! A boxed future costs one allocation a call; a flip makes three calls.

pub mod builtin;
pub mod haproxy;
pub mod hearing;
pub mod live_link;
pub mod nginx;
pub mod traffic;

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::MutexGuard;

use self::{builtin::Builtin, haproxy::Haproxy, nginx::Nginx, traffic::RequestSample};
use crate::{
    config::settings::{AppSettings, FrontSettings},
    os::reader::Reader,
    rules::{
        address::Address,
        finding::Finding,
        ids::{AppName, Color, Generation},
        route::{Route, Standing},
        traffic::Figures,
        words::{Failure, Nature, Phase},
    },
};

/// The future of an operation on a front.
pub type Attempt<'a, T> = BoxFuture<'a, Result<T, FrontError>>;

/// The front of one app.
pub trait Front: fmt::Debug + Send + Sync {
    /// Sets up the part of the front that bgd owns: starts its process, or writes its file. Changes no route.
    fn ensure(&self) -> Attempt<'_, ()>;

    /// Fails with what would make a flip fail and can be known before a build (promises F4, F7).
    fn preflight(&self) -> Attempt<'_, ()>;

    /// Puts exactly this route in force, and proves it by effect. A route without a live color refuses the traffic.
    fn route(&self, route: Route) -> Attempt<'_, ()>;

    /// The route in force now, as the front reports it; `None` when the front has no route.
    fn standing(&self) -> Attempt<'_, Option<Standing>>;

    /// Waits until nothing is in flight on the color, at most for `limit`, then cuts the rest. Returns the number of
    /// requests or connections that were left.
    fn drained(&self, color: Color, limit: Duration) -> Attempt<'_, u64>;

    /// Supervises the front for as long as the future is polled: reports what is wrong, and asks the daemon to route
    /// again after the front lost its route.
    fn supervise<'a>(&'a self, daemon: &'a dyn FrontDaemon) -> BoxFuture<'a, ()>;

    /// The findings of `bgd doctor` about the front; changes nothing.
    fn advice<'a>(&'a self, app: &'a AppSettings) -> BoxFuture<'a, Vec<Finding>>;

    /// The generation of a newer route, for which the front refused ours; `None` where the front accepts any
    /// generation.
    fn newer_than(&self, _ours: Generation) -> BoxFuture<'_, Option<Generation>> {
        Box::pin(async { None })
    }

    /// Makes the front skip the instances at these addresses for the given time, as long as others are left. Does
    /// nothing where the front itself detects instances that are down.
    fn pass_over(&self, _addresses: Vec<Address>, _within: Duration) -> Attempt<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Ends the front's process where bgd started it.
    fn end(&self) -> Attempt<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    /// The front's traffic counters since its process began; `None` where it sends a datagram for each request instead.
    fn figures(&self) -> Option<Attempt<'_, [(Color, Figures); 2]>> {
        None
    }

    /// Parses a datagram about one request: a sample for each color that the request was tried on.
    fn samples(&self, _datagram: &[u8]) -> Vec<RequestSample> {
        Vec::new()
    }

    /// The uids that the front's workers run as, from which datagrams are accepted; empty when they can't be found.
    fn worker_uids(&self) -> BoxFuture<'_, BTreeSet<u32>> {
        Box::pin(async { BTreeSet::new() })
    }

    /// The users that read the files which the front serves by itself; empty when they can't be found.
    fn readers(&self) -> BoxFuture<'_, Vec<Reader>> {
        Box::pin(async { Vec::new() })
    }

    /// The process that connects to the app, where a security module may confine it differently from bgd; `None` when
    /// it can't be found.
    fn confined(&self) -> Option<Confined> {
        None
    }
}

/// The daemon, as a front under supervision sees it.
pub trait FrontDaemon: Send + Sync {
    /// The app that the front serves.
    fn app(&self) -> &AppName;

    /// The lock on the front: while it is held, no route is put in force.
    fn turn(&self) -> BoxFuture<'_, MutexGuard<'_, ()>>;

    /// Whether an instance runs on the color.
    fn runs(&self, color: Color) -> bool;

    /// Reports that the front lost its route, or that somebody changed it: the daemon must route again.
    fn tell_again(&self);

    /// Reports what is wrong with the front now, or `None`; returns whether that differs from the last report.
    fn trouble(&self, said: Option<String>) -> bool;

    /// Records a problem of the front that is over, for `bgd events`.
    fn note<'a>(&'a self, text: &'a str) -> BoxFuture<'a, ()>;
}

/// A process that a security module may keep from connecting to the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The program's name in messages.
    pub program: &'static str,
    /// Process id, in decimal.
    pub pid: String,
    /// SELinux booleans, each of which lets it connect to any port; the first one is the narrowest.
    pub switches: &'static [&'static str],
}

/// The failure of an operation on a front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{said}")]
pub struct FrontError {
    /// The message, with all causes.
    pub said: String,
    /// Advice for the operator, where there is more specific advice than to run `bgd doctor`.
    pub hint: Option<&'static str>,
    /// The last lines that the front itself logged.
    pub log: Vec<String>,
    /// Whether a retry can help, and what happened to the route.
    pub nature: Nature,
}

impl FrontError {
    /// Converts the error into a deploy's failure. A retry is always worth it, because the commit is not to blame.
    pub fn failure(self, phase: Phase) -> Failure {
        let hint = self.hint.unwrap_or("`bgd doctor` checks the front").to_owned();
        Failure { phase, nature: self.nature, cause: self.said, hint: Some(hint), log_tail: self.log }
    }
}

/// The paths of bgd that a front needs.
#[derive(Debug, Clone)]
pub struct Ground {
    /// bgd's own binary.
    pub exe: PathBuf,
    /// `runtime_dir` of the daemon.
    pub runtime_dir: PathBuf,
    /// The directory of the app's logs.
    pub logs: PathBuf,
    /// The link to the directory of a static site's live release.
    pub live: PathBuf,
    /// The datagram socket for reports of requests; `None` when traffic is not counted.
    pub traffic: Option<PathBuf>,
}

/// Makes the front of an app; changes nothing on the host. The one place that names the kinds.
pub fn of(app: &AppSettings, ground: Ground) -> Box<dyn Front> {
    match &app.front {
        FrontSettings::Builtin { listen, request_timeout, response_timeout } => {
            let limits = builtin::ExchangeLimits::new(*request_timeout, *response_timeout);
            Box::new(Builtin::of(&app.name, *listen, &ground).limited(limits))
        }
        FrontSettings::Nginx(nginx) => {
            Box::new(Nginx::new(nginx.clone(), app.name.clone(), app.addresses(), ground.traffic))
        }
        FrontSettings::Haproxy(haproxy) => Box::new(Haproxy::new(haproxy.clone(), app.addresses())),
    }
}

/// The `front.type` for a program that already serves, by its name; `None` when bgd has no front for it.
pub fn kind_of(program: &str) -> Option<&'static str> {
    ["nginx", "haproxy"].into_iter().find(|kind| program.contains(kind))
}
