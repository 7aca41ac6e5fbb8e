//! Reads the route that nginx serves now. nginx's own answer on the proof address comes first; the file counts only
//! when nginx does not answer, and [`RouteSource`] says so. Every disagreement between the two is reported, never resolved
//! here: the engine decides, and the next `route()` makes them agree.

use std::{path::PathBuf, time::Duration};

use super::{
    Include, Integrity, Lead, Nginx, NginxError, ParsedInclude, PresentInclude, SocketLink, effect,
    effect::ProofAnswer, master, master::Accepting, place::IncludeFile,
};
use crate::rules::{
    address::Address,
    ids::{Color, Generation, ReleaseId},
    route::Route,
};

/// Resolution of a process's start time, which the kernel rounds down: `sed -i … && nginx -s reload` takes less time.
const TICK: Duration = Duration::from_millis(10);

/// The route that nginx serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NginxRoute {
    /// The live color; `None` when nothing receives traffic.
    pub color: Option<Color>,
    /// The canary's color, and its share in percent.
    pub canary: Option<(Color, u16)>,
    /// The color that gets the requests that the live color refuses.
    pub backup: Option<Color>,
    /// The route's generation.
    pub generation: Generation,
    /// The live color's release.
    pub release: Option<ReleaseId>,
    /// Where this was read.
    pub source: RouteSource,
    /// A disagreement between the file and nginx.
    pub contradiction: Option<Contradiction>,
}

/// Where a route was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteSource {
    /// nginx itself answered: the route is in force.
    Effect,
    /// nginx did not answer; the route is the file's, which nginx would serve.
    File,
}

/// A disagreement between the file and nginx.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// The file was changed by hand: its upstream block differs from its header.
    #[error("bgd's file was changed by hand and now names {}", listed(addresses))]
    Edited {
        /// The addresses on this machine in the upstream block.
        addresses: Vec<Address>,
    },
    /// A flip was interrupted between writing and reloading, or somebody replaced the file.
    #[error("the file says generation {generation}, which nginx does not have in force")]
    FileDiffers {
        /// The live color in the file.
        color: Option<Color>,
        /// The file's generation.
        generation: Generation,
    },
    /// The link to the live sockets leads nowhere: nginx serves nothing until it is set again.
    #[error("the link to the live socket leads nowhere: {}", path.display())]
    LinkLost {
        /// The path of the link.
        path: PathBuf,
    },
    /// nginx serves a file that is lost or can't be read; its next restart would fail or lose the route.
    #[error("nginx serves from bgd's file, which is missing or damaged on disk")]
    FileLost,
    /// nginx runs and does not have the file in force: it was never reloaded, or does not include the file. The text is
    /// the reason why the proof address did not answer for this app.
    #[error("nginx runs, but does not have bgd's file in force: {0}")]
    NotLoaded(String),
}

impl Contradiction {
    /// Whether nginx does not have bgd's last route in force, so that the daemon must route again.
    pub(super) fn is_half_told(&self) -> bool {
        matches!(self, Self::FileDiffers { .. } | Self::LinkLost { .. })
    }
}

impl Nginx {
    /// Reads the route that nginx serves now; `None` when neither nginx nor a file knows this app. During a flip the
    /// file may be ahead of nginx.
    pub async fn routed(&self) -> Result<Option<NginxRoute>, NginxError> {
        let present = self.present()?;
        let address =
            present.found.as_ref().map_or(effect::usual(&self.addresses), |found| found.include.proof);
        let answer = effect::ask(address).await;
        let lost = present.found.is_none();
        let link = self.link(&present);
        Ok(match (answer, present.found) {
            (Ok(effect), found) if effect.app == self.app => {
                let linked = effect.link;
                let (by_hand, contradiction) = match found {
                    Some(found) => {
                        let by_hand = self.color_by_hand(&present.place, &found.integrity);
                        (by_hand, differs(&effect, found))
                    }
                    None => (None, lost.then_some(Contradiction::FileLost)),
                };
                let routed = in_force(effect, contradiction).moved(by_hand);
                Some(if linked { self.behind_link(&link, routed) } else { routed })
            }
            (_, None) => None,
            (answer, Some(found)) => {
                let reason = match answer {
                    Ok(other) => format!("app {} answers on {address}", other.app),
                    Err(err) => err.to_string(),
                };
                let edited = edited(found.integrity);
                let running = master::master(&self.settings.pid_file).is_ok();
                let unloaded = || running.then_some(Contradiction::NotLoaded(reason));
                let by_hand = match &edited {
                    Some(Contradiction::Edited { addresses }) if !running => self.one_color(addresses),
                    _ => None,
                };
                let linked = found.include.link.is_some();
                let routed = on_file(&found.include, edited.or_else(unloaded)).moved(by_hand);
                Some(if linked { self.behind_link(&link, routed) } else { routed })
            }
        })
    }

    /// The link that the file names, or else the one that a file with a link would name.
    fn link(&self, present: &PresentInclude) -> SocketLink {
        let named = present.found.as_ref().and_then(|found| found.include.link.as_ref()?.socket());
        let named = named.and_then(|path| SocketLink::on_the_way(&present.place, path));
        named.unwrap_or_else(|| SocketLink::of(&present.place, self.addresses.each.into()))
    }

    /// Adds the link's live color to a route; leaves the route of a file that was changed by hand.
    fn behind_link(&self, link: &SocketLink, routed: NginxRoute) -> NginxRoute {
        if matches!(routed.contradiction, Some(Contradiction::Edited { .. })) {
            return routed;
        }
        match link.read(&self.addresses) {
            Ok(Lead::Told { color, generation, release }) => {
                NginxRoute { color: Some(color), generation, release: Some(release), ..routed }
            }
            Ok(Lead::ByHand(path)) => {
                let address = Address::Socket(path);
                let color = self.addresses.color(&address);
                let contradiction = Some(Contradiction::Edited { addresses: vec![address] });
                NginxRoute { color, contradiction, ..routed }
            }
            Ok(Lead::Nowhere) | Err(_) => {
                let contradiction = Some(Contradiction::LinkLost { path: link.path().to_owned() });
                NginxRoute { contradiction, ..routed }
            }
        }
    }

    /// The color that a manually edited file routes to, once nginx has it in force; `None` before. An edit does not
    /// change the proof address's answer, so bgd compares times: nginx has the edit in force when all its workers are
    /// younger than the change (a single one may have been replaced after a crash).
    fn color_by_hand(&self, place: &IncludeFile, integrity: &Integrity) -> Option<Color> {
        let Integrity::Edited { addresses } = integrity else { return None };
        let changed = place.changed()?;
        let workers = master::workers(master::master(&self.settings.pid_file).ok()?).ok()?;
        let serving = workers.iter().filter(|worker| worker.standing == Accepting::Serving);
        let oldest = serving.filter_map(|worker| worker.process.started()).min()?;
        if oldest + TICK > changed { self.one_color(addresses) } else { None }
    }

    /// The color of the addresses, when they are all of one color.
    fn one_color(&self, addresses: &[Address]) -> Option<Color> {
        let mut colors = addresses.iter().map(|address| self.addresses.color(address));
        let first = colors.next()??;
        colors.all(|color| color == Some(first)).then_some(first)
    }
}

fn listed(addresses: &[Address]) -> String {
    let named: Vec<String> = addresses.iter().map(Address::named).collect();
    if named.is_empty() { "nothing of this machine".to_owned() } else { named.join(" and ") }
}

impl NginxRoute {
    /// Changes the route to one color, where a manual edit sends all traffic to it.
    fn moved(self, to: Option<Color>) -> Self {
        match to {
            Some(color) => Self { color: Some(color), canary: None, backup: None, ..self },
            None => self,
        }
    }
}

fn in_force(effect: ProofAnswer, contradiction: Option<Contradiction>) -> NginxRoute {
    let ProofAnswer { color, canary, share, backup, generation, release, .. } = effect;
    let canary = canary.map(|canary| (canary, share));
    NginxRoute { color, canary, backup, generation, release, source: RouteSource::Effect, contradiction }
}

/// A route's canary and its share in percent.
pub(super) fn canary_of(route: &Route) -> Option<(Color, u16)> {
    route.canary.as_ref().map(|(canary, share)| (canary.color, share.get().into()))
}

fn on_file(include: &Include, contradiction: Option<Contradiction>) -> NginxRoute {
    NginxRoute {
        color: include.route.color(),
        canary: canary_of(&include.route),
        backup: include.route.backup.as_ref().map(|backup| backup.color),
        generation: include.route.generation,
        release: include.route.live.as_ref().map(|live| live.release.clone()),
        source: RouteSource::File,
        contradiction,
    }
}

fn edited(integrity: Integrity) -> Option<Contradiction> {
    match integrity {
        Integrity::Intact => None,
        Integrity::Edited { addresses } => Some(Contradiction::Edited { addresses }),
    }
}

/// Compares nginx with the file, by the sum in the file: a text by an older bgd may differ from the text that this bgd
/// would write.
fn differs(effect: &ProofAnswer, found: ParsedInclude) -> Option<Contradiction> {
    let (color, generation) = (found.include.route.color(), found.include.route.generation);
    let differs = || (effect.sum != found.sum).then_some(Contradiction::FileDiffers { color, generation });
    edited(found.integrity).or_else(differs)
}
