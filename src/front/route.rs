//! What a front is asked to route, the same for every front. Plural from the start: weights and several
//! instances per color need no other model. Only data; how a route is put in force is the front's matter.

use serde::{Deserialize, Serialize};

use crate::{
    config::settings::Sticky,
    rules::{
        address::Address,
        ids::{Color, Generation, ReleaseId},
    },
};

/// One place that can receive traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The color it belongs to.
    pub color: Color,
    /// Where it listens.
    #[serde(flatten)]
    pub address: Address,
    /// Its share, relative to the other backends, of which a color may have several; 0 receives nothing.
    pub weight: u16,
    /// What runs there.
    pub release: ReleaseId,
}

/// What a front is asked to route. No backends: nothing is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which state of the front this is; a higher number is newer.
    pub generation: Generation,
    /// Where the traffic goes. The first one with a weight is live; the others are canaries, which receive their
    /// weight, and at weight 0 only what asks for a preview.
    pub backends: Vec<Backend>,
    /// What keeps a client on its side while two colors receive traffic.
    #[serde(default)]
    pub sticky: Sticky,
    /// How a request asks for the canary, whatever its weight; `None`: it can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// What takes the requests that the live color refuses to take; their weight counts for nothing. Never beside a
    /// canary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup: Vec<Backend>,
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
    /// To these, with neither stickiness nor preview nor backup.
    pub fn new(generation: Generation, backends: Vec<Backend>) -> Self {
        Self { generation, backends, sticky: Sticky::None, preview: None, backup: Vec::new() }
    }

    /// The first live backend: the first with a weight; `None` when nothing receives traffic.
    pub fn live(&self) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.weight > 0)
    }

    /// The color of the live backend.
    pub fn color(&self) -> Option<Color> {
        self.live().map(|backend| backend.color)
    }

    /// The first backend beside the live ones, of the other color.
    pub fn canary(&self) -> Option<&Backend> {
        let live = self.color()?;
        self.backends.iter().find(|backend| backend.color != live)
    }

    /// All of a color's.
    pub fn of(&self, color: Color) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |backend| backend.color == color)
    }

    /// The weight of all of a color's.
    pub fn weight_of(&self, color: Color) -> u32 {
        self.of(color).map(|backend| u32::from(backend.weight)).sum()
    }

    /// The canary's share of the traffic in percent, rounded.
    pub fn canary_share(&self) -> u16 {
        let total: u32 = self.backends.iter().map(|backend| u32::from(backend.weight)).sum();
        let canary = self.canary().map_or(0, |canary| self.weight_of(canary.color));
        u16::try_from((canary * 100 + total / 2).checked_div(total).unwrap_or(0)).unwrap_or(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(color: Color, weight: u16) -> Backend {
        Backend {
            color,
            address: Address::Port(1),
            weight,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
        }
    }

    fn route(backends: Vec<Backend>) -> Route {
        Route::new(Generation(1), backends)
    }

    #[test]
    fn the_first_backend_with_a_weight_is_live_and_the_other_color_is_the_canary() {
        assert_eq!(route(vec![]).color(), None);
        assert_eq!(route(vec![backend(Color::Blue, 0)]).color(), None);
        let mixed = route(vec![backend(Color::Blue, 10), backend(Color::Green, 90)]);
        assert_eq!(mixed.color(), Some(Color::Blue));
        assert_eq!((mixed.canary().map(|it| it.color), mixed.canary_share()), (Some(Color::Green), 90));
        let previewed = route(vec![backend(Color::Green, 100), backend(Color::Blue, 0)]);
        assert_eq!((previewed.color(), previewed.canary_share()), (Some(Color::Green), 0));
        assert_eq!(previewed.canary().map(|it| it.color), Some(Color::Blue));
        // Three of blue, two of green.
        let several = [(Color::Blue, 180), (Color::Green, 30)].map(|(color, weight)| backend(color, weight));
        let [blue, green] = several;
        let several = route(vec![blue.clone(), blue.clone(), blue, green.clone(), green]);
        assert_eq!((several.color(), several.canary_share()), (Some(Color::Blue), 10));
    }

    #[test]
    fn the_secret_of_a_preview_is_not_shown_by_accident() {
        let secret = "s3cret-s3cret-s3cret".to_owned();
        let preview =
            Preview { header: "X-Bgd-Preview".to_owned(), cookie: "p".to_owned(), secret: secret.clone() };
        assert!(!format!("{preview:?}").contains(&secret));
    }

    #[test]
    fn a_port_is_written_and_read_as_ever_and_a_socket_stands_in_its_place() {
        let of = |address| Backend { address, ..backend(Color::Blue, 100) };
        let (port, socket) = (of(Address::Port(9501)), of(Address::Socket("/run/b.sock".into())));
        let rest = r#""weight":100,"release":"20261121T101112Z-1-0123456"}"#;
        for (backend, address) in [(port, r#""port":9501"#), (socket, r#""socket":"/run/b.sock""#)] {
            let text = format!(r#"{{"color":"blue",{address},{rest}"#);
            assert_eq!(serde_json::to_string(&backend).unwrap(), text);
            assert_eq!(serde_json::from_str::<Backend>(&text).unwrap(), backend);
        }
    }
}
