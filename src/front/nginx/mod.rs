//! The front for an nginx that is already there. bgd owns one include file; a flip replaces it and reloads,
//! and counts only when it is proven by effect. Called by the engine, by `bgd flip` without a daemon, and by
//! `bgd doctor`. It never starts, stops or configures nginx beyond that file, and it does not decide what is
//! live: it reports what nginx serves, and puts a given route in force or leaves the old one untouched.
//!
//! ```text
//! include   the file's text: render, parse       place     the file on disk: symlinks, whole replacement
//! master    processes: master, workers            effect    the proof address: what is truly in force
//! command   test and reload, with limits          errorlog  what the master complained about
//! cutover   route(): the flip, proven or undone   standing  routed(): what nginx serves now
//! placed    the new text until it is proven       drain     waiting for former workers
//! syntax    parses nginx's configuration          inspect   checks that only doctor needs
//! sides     which of two colors a request is for  report    nginx's log line about each request
//! sites     site lines that hide the include's    link      the live socket behind a link: flips without reload
//! reach     whether workers may reach the sockets ensure    the file before the first route, and after a kill
//! front     implements the trait `Front`          supervise looks at nginx between flips
//! doctor    the findings of `bgd doctor`
//! ```

mod beside;
mod command;
mod cutover;
mod doctor;
mod drain;
mod effect;
mod ensure;
mod error;
mod errorlog;
mod front;
pub mod include;
mod inspect;
mod link;
mod master;
mod place;
mod placed;
mod reach;
pub mod report;
mod sides;
mod sites;
mod standing;
mod supervise;
mod syntax;

use std::{
    collections::HashMap,
    net::SocketAddrV4,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, PoisonError},
    time::Duration,
};

pub use cutover::{Proof, SwitchedBy};
pub use drain::{Drained, Former};
pub use error::{Aftermath, ConfigFault, NginxError, RouteError};
pub use include::{Include, IncludeError, Integrity, ParsedInclude, parse};
pub use inspect::{Inclusion, Permission};
pub use place::PlaceError;
pub use sites::Hidden;
pub use standing::{Contradiction, NginxRoute, RouteSource};

use crate::{
    config::settings::{Addresses, NginxSettings},
    front::traffic::RequestSample,
    rules::{
        address::Address,
        ids::{AppName, Color, Generation},
        route::Route,
    },
};
use link::{Lead, SocketLink};
use place::IncludeFile;

/// How long the steps of a cutover may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReloadLimits {
    /// Limit of one run of the test or reload command.
    pub command: Duration,
    /// From the reload to the proof.
    pub proof: Duration,
}

impl Default for ReloadLimits {
    /// 30 s for a command: many hundred virtual hosts with certificates take several. 15 s for the proof:
    /// nginx itself tries a failing bind again for 2.5 s.
    fn default() -> Self {
        Self { command: Duration::from_secs(30), proof: Duration::from_secs(15) }
    }
}

/// The front of one app: its upstream in an nginx.
#[derive(Debug, Clone)]
pub struct Nginx {
    settings: NginxSettings,
    app: AppName,
    addresses: Addresses,
    traffic: Option<PathBuf>,
    /// Allows one cutover at a time on one nginx, for all apps together: with two at once, bgd could not tell which
    /// workers belong to which.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The workers from before the last cutover; `None` after a restart of bgd.
    former: Arc<tokio::sync::Mutex<Option<Former>>>,
}

type Turns = std::sync::Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>;

/// One lock for each nginx of the configuration, by its pid file, which identifies an nginx.
static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);

/// The include file as it is on disk.
struct PresentInclude {
    place: IncludeFile,
    text: Option<String>,
    /// The parsed file; `None` when there is no file, when it is empty, or when it is bgd's and damaged.
    found: Option<ParsedInclude>,
}

impl Nginx {
    /// Makes the front of one app; changes nothing on the host. nginx reports each request to the unix datagram socket
    /// `traffic`, whether or not it exists; `None` for no reports.
    pub fn new(
        settings: NginxSettings,
        app: AppName,
        addresses: impl Into<Addresses>,
        traffic: Option<PathBuf>,
    ) -> Self {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = turns.entry(settings.pid_file.clone()).or_default().clone();
        Self { settings, app, addresses: addresses.into(), traffic, turn, former: Arc::default() }
    }

    /// Parses a datagram about one request: a sample for each color that the request was tried on.
    pub fn samples(&self, datagram: &[u8]) -> Vec<RequestSample> {
        report::parse_by(datagram, |to, took| self.color_at(to, took))
    }

    /// The color that a request went to. Behind a link it is the link's color, or the other one if the link was moved
    /// after the request began.
    fn color_at(&self, to: &str, took: Option<Duration>) -> Option<Color> {
        if let Some(color) = report::color(&self.addresses, to) {
            return Some(color);
        }
        let link = SocketLink::on_the_way(
            &IncludeFile::find(&self.settings.file).ok()?,
            Path::new(to.strip_prefix("unix:")?),
        )?;
        let Lead::Told { color, .. } = link.read(&self.addresses).ok()? else { return None };
        let since = link.moved()?.elapsed().unwrap_or_default();
        Some(if took? > since { color.other() } else { color })
    }

    /// Fails with what would make a flip fail and can be known before a build. Changes nothing.
    pub async fn preflight(&self) -> Result<(), NginxError> {
        self.upgraded().await?;
        let master = master::master(&self.settings.pid_file)?;
        self.alone(master).await?;
        let present = self.present()?;
        present.place.check()?;
        self.within_reach(master, &present.place)?;
        match self.test(&present, ReloadLimits::default().command).await {
            // Before the first deploy the site names an upstream that only bgd's file will define.
            Err(TestFailure::Unknown(_)) if present.text.is_none() => Ok(()),
            Err(refusal) => Err(self.judge(refusal)),
            Ok(()) => Ok(()),
        }
    }

    /// The include for a route, with this proof address.
    fn include(&self, route: &Route, proof: SocketAddrV4) -> Include {
        Include {
            app: self.app.clone(),
            upstream: self.settings.upstream.clone(),
            route: route.clone(),
            parking: self.addresses.blue.clone(),
            proof,
            traffic: self.traffic.clone(),
            link: None,
        }
    }

    /// The include whose upstream names the link, which leads to the live sockets.
    fn linked(&self, link: &SocketLink, (number, proof): (Generation, SocketAddrV4)) -> Include {
        let link = Some(Address::Socket(link.path().to_owned()));
        Include { link, ..self.include(&Route::nowhere(number), proof) }
    }

    /// The include that routes nowhere.
    fn parked(&self, proof: SocketAddrV4) -> Include {
        self.include(&Route::nowhere(Generation::default()), proof)
    }

    /// Reads the include file; refuses one that is not this app's.
    fn present(&self) -> Result<PresentInclude, NginxError> {
        let place = IncludeFile::find(&self.settings.file)?;
        let text = place.read()?;
        let path = || self.settings.file.clone();
        let found = match text.as_deref().filter(|text| !text.trim().is_empty()).map(parse) {
            Some(Ok(found)) if found.include.app != self.app => {
                let app = found.include.app.to_string();
                return Err(NginxError::OtherApp { path: path(), app });
            }
            Some(Err(source @ IncludeError::NotOurs)) => {
                return Err(NginxError::Include { path: path(), source });
            }
            Some(Ok(found)) => Some(found),
            Some(Err(IncludeError::LineMissing { .. } | IncludeError::State(_))) | None => None,
        };
        Ok(PresentInclude { place, text, found })
    }

    async fn test(&self, present: &PresentInclude, limit: Duration) -> Result<(), TestFailure> {
        let ended = command::run(&self.settings.test, limit).await.map_err(TestFailure::NotRun)?;
        if ended.status.success() {
            return Ok(());
        }
        let fault = command::fault(&ended);
        let unknown = format!("host not found in upstream \"{}\"", self.settings.upstream);
        let absent = format!("open() \"{}\" failed (2:", self.settings.file.display());
        Err(if fault.quote.contains(&unknown) || fault.quote.contains(&absent) {
            TestFailure::Unknown(fault)
        } else if fault.file.as_ref().is_some_and(|file| self.is_own(&present.place, file)) {
            TestFailure::Own(fault)
        } else {
            TestFailure::Foreign(fault)
        })
    }

    fn is_own(&self, place: &IncludeFile, file: &Path) -> bool {
        *file == self.settings.file || std::fs::canonicalize(file).is_ok_and(|file| file == place.path())
    }

    fn judge(&self, refusal: TestFailure) -> NginxError {
        match refusal {
            TestFailure::NotRun(err) => err,
            TestFailure::Own(fault) => NginxError::OwnConfig(fault),
            TestFailure::Unknown(fault) => {
                NginxError::NotIncluded { path: self.settings.file.clone(), fault }
            }
            TestFailure::Foreign(fault) => NginxError::ForeignConfig(fault),
        }
    }
}

/// Why nginx's test of the configuration did not pass.
enum TestFailure {
    /// The test could not be run to its end.
    NotRun(NginxError),
    /// nginx blames bgd's file.
    Own(ConfigFault),
    /// nginx does not know the upstream, so it does not see bgd's file.
    Unknown(ConfigFault),
    /// nginx blames another file, or names no file.
    Foreign(ConfigFault),
}
