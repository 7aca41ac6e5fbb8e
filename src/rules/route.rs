//! A route, in terms that the machine and every front share: the live color, the color with a share beside it, the
//! backup. Each front makes weights, maps or server states of it.

mod flat;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::flat::{FlatRoute, Weighted};
use super::{
    address::Address,
    canary::Share,
    ids::{Color, Generation, ReleaseId},
    sticky::Sticky,
};

/// A route that bgd asks of a front. Stored and sent as a [`FlatRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FlatRoute", into = "FlatRoute")]
pub struct Route {
    /// The number of the route; a higher one is newer.
    pub generation: Generation,
    /// Where the traffic goes; `None`: nowhere.
    pub live: Option<Side>,
    /// The color that receives a share of the traffic beside it; with a share of 0, only requests for a preview.
    pub canary: Option<(Side, Share)>,
    /// The color that takes requests which the live color refuses. Never beside a canary.
    pub backup: Option<Side>,
    /// What keeps a client on its side while two colors receive traffic.
    pub sticky: Sticky,
    /// How a request asks for the canary, whatever its share; `None`: it can't.
    pub preview: Option<Preview>,
    /// What the front reads from the disk by itself.
    pub files: FilesServed,
}

/// One color of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    pub color: Color,
    /// The release that runs there.
    pub release: ReleaseId,
    /// The addresses of its instances, which share the color's traffic evenly; empty only where there is a directory.
    pub addresses: Vec<Address>,
    /// The directory of a static site, which the front serves in place of instances.
    pub directory: Option<PathBuf>,
}

/// What a front reads from the disk by itself, for all colors of a route.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesServed {
    /// In the directory of a static site, the page for paths that lead to no file; relative to it.
    pub fallback: Option<PathBuf>,
    /// The only other directory to which links in a static site may lead.
    pub shared: Option<PathBuf>,
    /// Files of former releases.
    pub former: Option<FormerFiles>,
}

/// Files of former releases, for requests that the live release answers with 404.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerFiles {
    /// The path under which visitors ask for them; begins and ends with `/`.
    pub url: String,
    /// Their directory.
    pub directory: PathBuf,
}

impl FilesServed {
    /// Whether the front reads nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// How a request asks for the canary: by the header or by the cookie.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// A header with this name, whose value is the secret.
    pub header: String,
    /// A cookie with this name, whose value is the secret.
    pub cookie: String,
    /// 16 to 200 of `A-Z a-z 0-9 - _`, so that no front needs to quote it.
    pub secret: String,
}

impl std::fmt::Debug for Preview {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preview")
            .field("header", &self.header)
            .field("cookie", &self.cookie)
            .finish_non_exhaustive()
    }
}

impl Route {
    /// A route to nothing: the front turns the traffic away.
    pub fn nowhere(generation: Generation) -> Self {
        Self {
            generation,
            live: None,
            canary: None,
            backup: None,
            sticky: Sticky::None,
            preview: None,
            files: FilesServed::default(),
        }
    }

    /// A route of all traffic to one color, without stickiness, preview and backup.
    pub fn to(generation: Generation, live: Side) -> Self {
        Self { live: Some(live), ..Self::nowhere(generation) }
    }

    /// Gives another color a share of the traffic. With all of it, that color becomes the live one.
    pub fn beside(self, canary: Side, share: Share) -> Self {
        match self.live {
            Some(live) if share < Share::ALL => {
                Self { live: Some(live), canary: Some((canary, share)), ..self }
            }
            live => Self { live: Some(canary), canary: live.map(|live| (live, Share::NONE)), ..self },
        }
    }

    pub fn color(&self) -> Option<Color> {
        self.live.as_ref().map(|live| live.color)
    }

    /// The live color and the canary, each with its part of the traffic in percent.
    pub fn sides(&self) -> impl Iterator<Item = (&Side, u8)> {
        let rest = self.canary.as_ref().map_or(Share::ALL.get(), |(_, share)| share.rest());
        let live = self.live.iter().map(move |live| (live, rest));
        live.chain(self.canary.iter().map(|(canary, share)| (canary, share.get())))
    }

    /// The side of this color, if it is live or the canary.
    pub fn of(&self, color: Color) -> Option<&Side> {
        self.sides().map(|(side, _)| side).find(|side| side.color == color)
    }
}

/// What a front routes, as it reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The canary's color and share.
    pub canary: Option<(Color, Share)>,
    /// Whether there is a backup behind the live color.
    pub backup: bool,
    /// The number of the route; a higher one is newer.
    pub generation: Generation,
    /// Why the front may use another route than the last one bgd sent, for people.
    pub half_told: Option<&'static str>,
}

impl From<&Route> for Standing {
    fn from(route: &Route) -> Self {
        Self {
            live: route.color(),
            canary: route.canary.as_ref().map(|(canary, share)| (canary.color, *share)),
            backup: route.backup.is_some(),
            generation: route.generation,
            half_told: None,
        }
    }
}

impl Standing {
    /// Whether requests can reach the color.
    pub fn names(&self, color: Color) -> bool {
        self.live == Some(color) || self.canary.is_some_and(|(canary, _)| canary == color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(color: Color) -> Side {
        let release = "20261121T101112Z-1-0123456".parse().unwrap();
        Side { color, release, addresses: vec![Address::Port(1)], directory: None }
    }

    #[test]
    fn a_canary_with_all_of_the_traffic_is_live_and_what_was_is_for_previews_alone() {
        let blue = Route::to(Generation(1), side(Color::Blue));
        let parts = |route: &Route| -> Vec<(Color, u8)> {
            route.sides().map(|(side, percent)| (side.color, percent)).collect()
        };
        assert_eq!(parts(&blue), [(Color::Blue, 100)]);
        let shared = blue.clone().beside(side(Color::Green), Share::percent(10).unwrap());
        assert_eq!(parts(&shared), [(Color::Blue, 90), (Color::Green, 10)]);
        let whole = blue.beside(side(Color::Green), Share::ALL);
        assert_eq!(parts(&whole), [(Color::Green, 100), (Color::Blue, 0)]);
        assert_eq!(whole.of(Color::Blue).unwrap().color, Color::Blue);
        assert!(parts(&Route::nowhere(Generation(1))).is_empty());
    }

    #[test]
    fn the_secret_of_a_preview_is_not_shown_by_accident() {
        let secret = "s3cret-s3cret-s3cret".to_owned();
        let preview =
            Preview { header: "X-Bgd-Preview".to_owned(), cookie: "p".to_owned(), secret: secret.clone() };
        assert!(!format!("{preview:?}").contains(&secret));
    }
}
