//! The front for an nginx that is already there. bgd owns one include file; a flip replaces it and reloads,
//! and counts only when it is proven by effect. Called by the engine, by `bgd flip` without a daemon, and by
//! `bgd doctor`. It never starts, stops or configures nginx beyond that file, and it does not decide what is
//! live: it tells what nginx serves, and puts a given route in force or leaves the old one untouched.
//!
//! ```text
//! include   the file's text: render, parse       place     the file on disk: symlinks, whole replacement
//! master    processes: master, workers            effect    the proof address: what is truly in force
//! command   test and reload, with limits          errorlog  what the master complained about
//! cutover   route(): the flip, proven or undone   standing  routed(): what nginx serves now
//! placed    the new text until it is proven       drain     waiting for former workers
//! syntax    a look into nginx's language          inspect   what doctor wants to know
//! sides     which of two colors a request is for  report    what nginx tells of each request
//! sites     what the sites hide of the include    link      the live socket behind a link: flips without reload
//! reach     whether the workers get to a socket   ensure    the file before the first route, and after a kill
//! front     its verbs behind the seam             supervise what is looked after between flips
//! doctor    what `bgd doctor` says
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

pub use cutover::{How, Proof};
pub use drain::{Drained, Former};
pub use error::{Aftermath, Fault, NginxError, RouteError};
pub use include::{Found, Include, IncludeError, Integrity, parse};
pub use inspect::{Inclusion, Permission};
pub use place::PlaceError;
pub use sites::Hidden;
pub use standing::{Contradiction, Routed, Source};

use crate::{
    config::settings::{Addresses, NginxSettings},
    front::traffic::Sample,
    rules::{
        address::Address,
        ids::{AppName, Color, Generation},
        route::Route,
    },
};
use link::{Lead, Link};
use place::Place;

/// How long the steps of a cutover may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One run of the test or reload command.
    pub command: Duration,
    /// From the reload to the proof.
    pub proof: Duration,
}

impl Default for Limits {
    /// 30 s for a command: many hundred virtual hosts with certificates take several. 15 s for the proof:
    /// nginx itself tries a failing bind again for 2.5 s.
    fn default() -> Self {
        Self { command: Duration::from_secs(30), proof: Duration::from_secs(15) }
    }
}

/// One app's part in an nginx.
#[derive(Debug, Clone)]
pub struct Nginx {
    settings: NginxSettings,
    app: AppName,
    addresses: Addresses,
    traffic: Option<PathBuf>,
    /// One cutover at a time on one nginx, whichever app it is for: workers of two at once can't be told apart.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The workers that the last cutover left behind; `None` after a restart of bgd.
    former: Arc<tokio::sync::Mutex<Option<Former>>>,
}

type Turns = std::sync::Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>;

/// By pid file, which is what makes an nginx one nginx. One entry for each nginx of the configuration.
static TURNS: LazyLock<Turns> = LazyLock::new(Turns::default);

/// The include file as it stands.
struct Present {
    place: Place,
    text: Option<String>,
    /// `None` too when the file is empty, or bgd's and damaged.
    found: Option<Found>,
}

impl Nginx {
    /// The front of one app; touches nothing. Of each request, nginx tells the unix datagram socket `traffic`, whether
    /// or not it is there; `None`: nobody.
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

    /// The request that a datagram tells of.
    pub fn samples(&self, datagram: &[u8]) -> Vec<Sample> {
        report::parse_by(datagram, |to, took| self.color_at(to, took))
    }

    /// The color that a request went to; behind a link that was moved since it began, the one before.
    fn color_at(&self, to: &str, took: Option<Duration>) -> Option<Color> {
        if let Some(color) = report::color(&self.addresses, to) {
            return Some(color);
        }
        let link =
            Link::on_the_way(&Place::find(&self.settings.file).ok()?, Path::new(to.strip_prefix("unix:")?))?;
        let Lead::Told { color, .. } = link.read(&self.addresses).ok()? else { return None };
        let since = link.moved()?.elapsed().unwrap_or_default();
        Some(if took? > since { color.other() } else { color })
    }

    /// Everything that would make a flip fail and can be known before a build. Changes nothing.
    pub async fn preflight(&self) -> Result<(), NginxError> {
        self.upgraded().await?;
        let master = master::master(&self.settings.pid_file)?;
        self.alone(master).await?;
        let present = self.present()?;
        present.place.check()?;
        self.within_reach(master, &present.place)?;
        match self.test(&present, Limits::default().command).await {
            // Before the first deploy the site names an upstream that only bgd's file will define.
            Err(Refusal::Unknown(_)) if present.text.is_none() => Ok(()),
            Err(refusal) => Err(self.judge(refusal)),
            Ok(()) => Ok(()),
        }
    }

    /// The include for a route, under a proof address.
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

    /// The include for whatever a link leads to.
    fn linked(&self, link: &Link, (number, proof): (Generation, SocketAddrV4)) -> Include {
        let link = Some(Address::Socket(link.path().to_owned()));
        Include { link, ..self.include(&Route::nowhere(number), proof) }
    }

    /// The include that routes nowhere.
    fn parked(&self, proof: SocketAddrV4) -> Include {
        self.include(&Route::nowhere(Generation::default()), proof)
    }

    /// The file as it stands; refuses one that is not this app's.
    fn present(&self) -> Result<Present, NginxError> {
        let place = Place::find(&self.settings.file)?;
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
        Ok(Present { place, text, found })
    }

    /// Runs the configured test.
    async fn test(&self, present: &Present, limit: Duration) -> Result<(), Refusal> {
        let ended = command::run(&self.settings.test, limit).await.map_err(Refusal::NotRun)?;
        if ended.status.success() {
            return Ok(());
        }
        let fault = command::fault(&ended);
        let unknown = format!("host not found in upstream \"{}\"", self.settings.upstream);
        let absent = format!("open() \"{}\" failed (2:", self.settings.file.display());
        Err(if fault.quote.contains(&unknown) || fault.quote.contains(&absent) {
            Refusal::Unknown(fault)
        } else if fault.file.as_ref().is_some_and(|file| self.is_own(&present.place, file)) {
            Refusal::Own(fault)
        } else {
            Refusal::Foreign(fault)
        })
    }

    fn is_own(&self, place: &Place, file: &Path) -> bool {
        *file == self.settings.file || std::fs::canonicalize(file).is_ok_and(|file| file == place.path())
    }

    fn judge(&self, refusal: Refusal) -> NginxError {
        match refusal {
            Refusal::NotRun(err) => err,
            Refusal::Own(fault) => NginxError::OwnConfig(fault),
            Refusal::Unknown(fault) => NginxError::NotIncluded { path: self.settings.file.clone(), fault },
            Refusal::Foreign(fault) => NginxError::ForeignConfig(fault),
        }
    }
}

/// Why the test did not pass.
enum Refusal {
    /// It could not be run to its end.
    NotRun(NginxError),
    /// bgd's file is blamed.
    Own(Fault),
    /// nginx does not know the upstream, so it does not see bgd's file.
    Unknown(Fault),
    /// Somebody else's file is blamed, or something that is in no file.
    Foreign(Fault),
}
