//! What a front routes, in the words that the machine and every front share: which color is live, which has a share
//! beside it, which one backs it up. How that becomes weights, maps or states is the front's matter.

mod flat;

use serde::{Deserialize, Serialize};

pub use self::flat::{FlatRoute, Weighted};
use super::{
    address::Address,
    canary::Share,
    ids::{Color, Generation, ReleaseId},
    sticky::Sticky,
};

/// What a front is asked to route. Kept and sent as a [`FlatRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FlatRoute", into = "FlatRoute")]
pub struct Route {
    /// Which state of the front this is; a higher number is newer.
    pub generation: Generation,
    /// Where the traffic goes; `None`: nowhere.
    pub live: Option<Side>,
    /// What receives a share of the traffic beside it; with none, only what asks for a preview.
    pub canary: Option<(Side, Share)>,
    /// What takes the requests that the live color refuses to take. Never beside a canary.
    pub backup: Option<Side>,
    /// What keeps a client on its side while two colors receive traffic.
    pub sticky: Sticky,
    /// How a request asks for the canary, whatever its share; `None`: it can't.
    pub preview: Option<Preview>,
}

/// One color of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The color.
    pub color: Color,
    /// What runs there.
    pub release: ReleaseId,
    /// Where its instances listen; never none. The color's traffic is divided evenly among them.
    pub addresses: Vec<Address>,
}

/// How a request asks for the canary. Either is enough.
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
    /// To nobody: the traffic is turned away.
    pub fn nowhere(generation: Generation) -> Self {
        Self { generation, live: None, canary: None, backup: None, sticky: Sticky::None, preview: None }
    }

    /// All of the traffic to one color, with neither stickiness nor preview nor backup.
    pub fn to(generation: Generation, live: Side) -> Self {
        Self { live: Some(live), ..Self::nowhere(generation) }
    }

    /// With a share of the traffic for another color. With all of it, that one is live.
    pub fn beside(self, canary: Side, share: Share) -> Self {
        match self.live {
            Some(live) if share < Share::ALL => {
                Self { live: Some(live), canary: Some((canary, share)), ..self }
            }
            live => Self { live: Some(canary), canary: live.map(|live| (live, Share::NONE)), ..self },
        }
    }

    /// The live color.
    pub fn color(&self) -> Option<Color> {
        self.live.as_ref().map(|live| live.color)
    }

    /// Live color and canary, each with its part of the traffic in percent.
    pub fn sides(&self) -> impl Iterator<Item = (&Side, u8)> {
        let rest = self.canary.as_ref().map_or(Share::ALL.get(), |(_, share)| share.rest());
        let live = self.live.iter().map(move |live| (live, rest));
        live.chain(self.canary.iter().map(|(canary, share)| (canary, share.get())))
    }

    /// The side of a color that is live or a canary.
    pub fn of(&self, color: Color) -> Option<&Side> {
        self.sides().map(|(side, _)| side).find(|side| side.color == color)
    }
}

/// The answer to "what is routed".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The color beside it, and its share.
    pub canary: Option<(Color, Share)>,
    /// Whether there is a backup behind the live color.
    pub backup: bool,
    /// Which state of the front; a higher number is newer.
    pub generation: Generation,
    /// Why the front may route by something else than the route that it was told last, for people.
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
        Side { color, release, addresses: vec![Address::Port(1)] }
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
