//! The three kinds of front behind one set of verbs: ensure, route, routed, drained. Turns their errors into
//! failures that name what serves and what to do next.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::{
    counting,
    interpreter::{Place, failure},
};
use crate::{
    command::Places,
    config::settings::{AppSettings, FrontSettings},
    front::{
        builtin::{self, BuiltinError},
        haproxy::{self, Haproxy, HaproxyError},
        nginx::{self, Contradiction, Former, Nginx, NginxError, RouteError, Routed, Source},
        route::Route,
        traffic::Sample,
    },
    os::errors::chain,
    rules::{
        address::Address,
        canary::Share,
        ids::{Color, Generation},
        words::{Failure, Nature, Phase},
    },
};

/// What routes an app's public traffic.
#[derive(Debug)]
pub enum AppFront {
    /// bgd's own proxy process.
    Builtin(builtin::Front),
    /// An nginx that is already there.
    Nginx {
        /// The front.
        nginx: Nginx,
        /// The workers that the last cutover left behind; `None` after a restart of bgd.
        former: Mutex<Option<Former>>,
    },
    /// A HAProxy that is already there.
    Haproxy(Haproxy),
}

/// What a front routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The color beside it, and its share in percent.
    pub canary: Option<(Color, Share)>,
    /// Whether there is a backup behind the live color.
    pub backup: bool,
    /// Which state of the front.
    pub generation: Generation,
    /// nginx's file has another route, which it was never brought to take up.
    pub half_told: bool,
}

impl Standing {
    fn of(route: &Route) -> Self {
        let canary = route.canary().map(|canary| (canary.color, share(route.canary_share())));
        let backup = !route.backup.is_empty();
        Self { live: route.color(), canary, backup, generation: route.generation, half_told: false }
    }

    /// Whether requests can reach the color.
    pub fn names(&self, color: Color) -> bool {
        self.live == Some(color) || self.canary.is_some_and(|(canary, _)| canary == color)
    }
}

/// What is wrong with an nginx or a HAProxy between flips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// For people.
    pub said: String,
    /// After a change by hand: the color that receives the traffic.
    pub edited_to: Option<Color>,
    /// Its file has a route that nginx was never brought to take up.
    pub half_told: bool,
}

impl Trouble {
    fn new(said: String) -> Self {
        Self { said, edited_to: None, half_told: false }
    }
}

/// What went wrong with a front.
#[derive(Debug, thiserror::Error)]
pub enum FrontTrouble {
    /// With the builtin front.
    #[error(transparent)]
    Builtin(#[from] BuiltinError),
    /// With nginx.
    #[error(transparent)]
    Nginx(#[from] NginxError),
    /// With a cutover of nginx.
    #[error(transparent)]
    Cutover(#[from] RouteError),
    /// With HAProxy.
    #[error(transparent)]
    Haproxy(#[from] HaproxyError),
}

impl FrontTrouble {
    fn nature(&self) -> Nature {
        match self {
            Self::Cutover(
                RouteError::ForeignConfig(_) | RouteError::Untouched(NginxError::ForeignConfig(_)),
            )
            | Self::Nginx(NginxError::ForeignConfig(_)) => Nature::FrontStuck,
            Self::Cutover(RouteError::Untouched(err)) | Self::Nginx(err) if err.is_divided() => {
                Nature::FrontStuck
            }
            Self::Haproxy(err) if err.is_closed() => Nature::FrontStuck,
            Self::Cutover(err) if err.left_as_it_was() => Nature::FrontUnmoved,
            Self::Haproxy(err) if err.left_as_it_was() => Nature::FrontUnmoved,
            Self::Builtin(_) | Self::Nginx(_) | Self::Cutover(_) | Self::Haproxy(_) => Nature::Transient,
        }
    }

    /// As a deploy's failure: always worth another try, because the commit is not to blame.
    pub fn failure(&self, phase: Phase) -> Failure {
        let (hint, log_tail) = match self {
            Self::Builtin(err) => (err.hint(), Vec::new()),
            Self::Nginx(err) => (err.hint(), Vec::new()),
            Self::Cutover(err) => (err.hint(), err.log().to_vec()),
            Self::Haproxy(err) => (err.hint(), Vec::new()),
        };
        let hint = Some(hint.unwrap_or("`bgd doctor` checks the front").to_owned());
        Failure { hint, log_tail, ..failure(phase, self.nature(), chain(self)) }
    }
}

impl AppFront {
    /// The front of an app; touches nothing.
    pub fn new(settings: &AppSettings, place: &Place, places: &Places) -> Self {
        match &settings.front {
            FrontSettings::Builtin { listen, request_timeout, response_timeout } => {
                let front = builtin::FrontPlace {
                    app: settings.name.clone(),
                    listen: *listen,
                    control: control_socket(place, settings),
                    log: places.logs().join("front.log"),
                };
                let limits = builtin::Limits::new(*request_timeout, *response_timeout);
                Self::Builtin(builtin::Front::new(place.exe.clone(), front).limited(limits))
            }
            FrontSettings::Nginx(nginx) => Self::Nginx {
                nginx: Nginx::new(
                    nginx.clone(),
                    settings.name.clone(),
                    settings.addresses(),
                    counting::socket(place, settings),
                ),
                former: Mutex::new(None),
            },
            FrontSettings::Haproxy(haproxy) => {
                Self::Haproxy(Haproxy::new(haproxy.clone(), settings.addresses()))
            }
        }
    }

    /// Has instances at these addresses passed over for so long, as far as others are not; only bgd's own front can.
    pub async fn pass_over(&self, addresses: Vec<Address>, within: Duration) -> Result<(), FrontTrouble> {
        match self {
            Self::Builtin(front) => Ok(front.pass_over(addresses, within).await?),
            Self::Nginx { .. } | Self::Haproxy(_) => Ok(()),
        }
    }

    /// Ends the builtin front; nginx and HAProxy are not bgd's to end.
    pub async fn end(&self) -> Result<(), FrontTrouble> {
        match self {
            Self::Builtin(front) => Ok(front.stop().await?),
            Self::Nginx { .. } | Self::Haproxy(_) => Ok(()),
        }
    }

    /// Has the builtin front running, or nginx's include file in place, or HAProxy answering.
    pub async fn ensure(&self) -> Result<(), FrontTrouble> {
        match self {
            Self::Builtin(front) => drop(front.ensure_running().await?),
            Self::Nginx { nginx, .. } => drop(nginx.ensure_file().await?),
            Self::Haproxy(haproxy) => haproxy.preflight().await?,
        }
        Ok(())
    }

    /// What would make a flip fail and can be known before a build (promises F4, F7).
    pub async fn preflight(&self) -> Result<(), FrontTrouble> {
        match self {
            Self::Builtin(front) => drop(front.ensure_running().await?),
            Self::Nginx { nginx, .. } => {
                nginx.ensure_file().await?;
                nginx.preflight().await?;
            }
            Self::Haproxy(haproxy) => haproxy.preflight().await?,
        }
        Ok(())
    }

    /// What is wrong with nginx, bgd's file for it, or HAProxy, and whether traffic goes where a hand sent it.
    /// The builtin front is looked after by its own process.
    pub async fn trouble(&self) -> Option<Trouble> {
        let nginx = match self {
            Self::Builtin(_) => return None,
            Self::Nginx { nginx, .. } => nginx,
            Self::Haproxy(haproxy) => return discord(haproxy).await,
        };
        // What it answers with is one half of what it serves, and it can't be told again.
        if let Some(err) = nginx.upgrade().err().filter(NginxError::is_divided) {
            return Some(Trouble::new(chain(&err)));
        }
        match nginx.routed().await {
            Err(err) => Some(Trouble::new(chain(&err))),
            Ok(None) => Some(Trouble::new("bgd's nginx file is gone".to_owned())),
            Ok(Some(Routed { contradiction: Some(found), color, .. })) => {
                let edited_to = color.filter(|_| matches!(found, Contradiction::Edited { .. }));
                let half_told = is_half_told(&found);
                Some(Trouble { said: found.to_string(), edited_to, half_told })
            }
            Ok(Some(Routed { source: Source::File, .. })) => {
                Some(Trouble::new("nginx does not run".to_owned()))
            }
            Ok(Some(_)) => None,
        }
    }

    /// What is truly routed now; `None` when the front knows of no route.
    pub async fn standing(&self) -> Result<Option<Standing>, FrontTrouble> {
        Ok(match self {
            Self::Builtin(front) => front.routed().await?.as_ref().map(Standing::of),
            Self::Nginx { nginx, .. } => nginx.routed().await?.map(|routed| Standing {
                live: routed.color,
                canary: routed.canary.map(|(color, percent)| (color, share(percent))),
                backup: routed.backup.is_some(),
                generation: routed.generation,
                half_told: routed.contradiction.as_ref().is_some_and(is_half_told),
            }),
            Self::Haproxy(haproxy) => {
                let (routed, generation) = haproxy.routed().await?;
                let canary = routed.canary.map(|(color, percent)| (color, share(percent)));
                Some(Standing { live: routed.live, canary, backup: false, generation, half_told: false })
            }
        })
    }

    /// The number of the route that a front refused ours for; nginx and HAProxy take any.
    pub async fn newer_than(&self, ours: Generation) -> Option<Generation> {
        let Self::Builtin(front) = self else { return None };
        let route = front.routed().await.ok().flatten()?;
        (route.generation > ours).then_some(route.generation)
    }

    /// Routes exactly so, proven by effect; no backends turn the traffic away.
    pub async fn route(&self, route: Route) -> Result<(), FrontTrouble> {
        match self {
            Self::Builtin(front) => match front.route(&route).await {
                Err(BuiltinError::NotRunning { .. }) => {
                    front.ensure_running().await?;
                    front.route(&route).await?;
                }
                done => done?,
            },
            Self::Nginx { nginx, former } => {
                let (generation, stands) = number(nginx, &route).await?;
                let wanted = Route { generation, ..route };
                match nginx.route(&wanted, nginx::Limits::default()).await {
                    Ok(proof) => *former.lock().await = Some(proof.former),
                    // Nothing was to be changed: file and nginx, or with nginx down the file, say so already.
                    Err(RouteError::Untouched(err)) if stands && err.is_down() => {
                        tracing::warn!(err = %chain(&err), "nginx can't be reached; its file has the wanted route");
                    }
                    Err(err) => return Err(err.into()),
                }
            }
            Self::Haproxy(haproxy) => haproxy.route(&route, haproxy::Limits::default()).await?,
        }
        Ok(())
    }

    /// Waits until nothing is in flight on the color, at most for `limit`; what is left then is cut. Returns how
    /// much that was.
    pub async fn drained(&self, color: Color, limit: Duration) -> Result<u64, FrontTrouble> {
        match self {
            Self::Builtin(front) => {
                let left = front.drained(color, limit).await?;
                if left > 0 {
                    front.cut(color).await?;
                }
                Ok(left)
            }
            Self::Nginx { nginx, former } => {
                let former = match former.lock().await.clone() {
                    Some(former) => former,
                    // bgd was restarted since: those that nginx itself calls leaving.
                    None => nginx.leaving(color)?,
                };
                let drained = nginx.drained(&former, Instant::now() + limit).await;
                let left = drained.connections.unwrap_or(drained.left_workers.len());
                Ok(u64::try_from(left).unwrap_or(u64::MAX))
            }
            Self::Haproxy(haproxy) => Ok(haproxy.drained(color, limit).await?),
        }
    }
}

impl AppFront {
    /// The request that a datagram tells of: a sample of each color that it was tried on.
    pub(super) fn samples(&self, datagram: &[u8]) -> Vec<Sample> {
        match self {
            Self::Builtin(_) => Vec::new(),
            Self::Nginx { nginx, .. } => nginx.samples(datagram),
            Self::Haproxy(haproxy) => haproxy.sample(datagram).into_iter().collect(),
        }
    }

    /// Whom those run as that tell of requests; none while the front can't be asked.
    pub(super) async fn worker_uids(&self) -> BTreeSet<u32> {
        match self {
            Self::Builtin(_) => BTreeSet::new(),
            Self::Nginx { nginx, .. } => nginx.worker_uids(),
            Self::Haproxy(haproxy) => haproxy.uid().await.into_iter().collect(),
        }
    }
}

/// What is wrong with HAProxy.
async fn discord(haproxy: &Haproxy) -> Option<Trouble> {
    match haproxy.trouble().await {
        Ok(found) => found.map(|found| Trouble { edited_to: found.moved_to, ..Trouble::new(found.said) }),
        Err(err) => Some(Trouble::new(chain(&err))),
    }
}

/// The number of a route, and whether the same one is in force already: under its own number it reloads nothing (F8).
/// Another route gets a number that nothing in force has, which after routes without a record has to be looked for: or
/// a file as it was before a hand changed it would pass for what nginx has.
async fn number(nginx: &Nginx, wanted: &Route) -> Result<(Generation, bool), FrontTrouble> {
    let Some(routed) = nginx.routed().await? else { return Ok((wanted.generation, false)) };
    let same = routed.contradiction.is_none()
        && routed.color == wanted.color()
        && routed.release.as_ref() == wanted.live().map(|live| &live.release)
        && routed.canary == wanted.canary().map(|canary| (canary.color, wanted.canary_share()))
        && routed.backup == wanted.backup.first().map(|backup| backup.color);
    let next = Generation(routed.generation.0.saturating_add(1));
    Ok(if same { (routed.generation, true) } else { (wanted.generation.max(next), false) })
}

/// What nginx routes by is not what it was told, so that it has to be told again.
fn is_half_told(contradiction: &Contradiction) -> bool {
    matches!(contradiction, Contradiction::FileDiffers { .. } | Contradiction::LinkLost { .. })
}

/// What a front says is never more than the whole.
fn share(percent: u16) -> Share {
    u8::try_from(percent).ok().and_then(Share::percent).unwrap_or(Share::ALL)
}

/// Beside the daemon's own socket, with a short name: a unix socket's path must fit 107 bytes.
fn control_socket(place: &Place, settings: &AppSettings) -> PathBuf {
    place.runtime_dir.join("f").join(format!("{}.sock", settings.name))
}
