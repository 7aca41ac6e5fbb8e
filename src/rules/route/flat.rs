//! A route in the form that fronts store and receive: a flat list of addresses, each with a weight. The form is fixed:
//! fronts and daemons of other builds read it, also from files that older builds wrote.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{FilesServed, Preview, Route, Side};
use crate::rules::{
    address::Address,
    canary::Share,
    ids::{Color, Generation, ReleaseId},
    sticky::Sticky,
};

/// A flat route. Without backends nothing is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlatRoute {
    /// The number of the route.
    pub generation: Generation,
    /// The first backend with a weight above 0 belongs to the live color; backends of the other color are the canary's.
    pub backends: Vec<Weighted>,
    /// What keeps a client on its side.
    #[serde(default)]
    pub sticky: Sticky,
    /// How a request asks for the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// The backup's addresses; their weights are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup: Vec<Weighted>,
    /// Directories of static sites, which receive traffic as `backends` do; at most one for each color.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<WeightedDirectory>,
    /// What the front reads from the disk by itself.
    #[serde(default, skip_serializing_if = "FilesServed::is_none")]
    pub files: FilesServed,
}

/// One address with its part of the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weighted {
    pub color: Color,
    /// The instance's address.
    #[serde(flatten)]
    pub address: Address,
    /// Its weight, relative to the others; with 0 it receives nothing.
    pub weight: u16,
    /// The release that runs there.
    pub release: ReleaseId,
}

/// A directory with its part of the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedDirectory {
    pub color: Color,
    /// The directory, absolute.
    pub directory: PathBuf,
    /// Its part of the traffic in percent.
    pub weight: u16,
    /// The release that it belongs to.
    pub release: ReleaseId,
    /// Whether its color is the canary, and the other color is live.
    pub canary: bool,
}

impl FlatRoute {
    /// A route without stickiness, preview and backup.
    pub fn new(generation: Generation, backends: Vec<Weighted>) -> Self {
        Self {
            generation,
            backends,
            sticky: Sticky::None,
            preview: None,
            backup: Vec::new(),
            directories: Vec::new(),
            files: FilesServed::default(),
        }
    }

    fn of(&self, color: Color) -> impl Iterator<Item = &Weighted> {
        self.backends.iter().filter(move |backend| backend.color == color)
    }

    fn directory(&self, color: Color) -> Option<&WeightedDirectory> {
        self.directories.iter().find(|one| one.color == color)
    }

    /// The side of a color; `None` where it has neither addresses nor a directory.
    fn side(&self, color: Color) -> Option<Side> {
        let directory = self.directory(color).map(|one| Side {
            color,
            release: one.release.clone(),
            addresses: Vec::new(),
            directory: Some(one.directory.clone()),
        });
        directory.or_else(|| side(self.of(color)))
    }

    /// The canary's share, rounded to percent: at least 1 where it has a weight, and at most 99.
    fn share(&self, canary: Color) -> Share {
        let sum = |color| {
            let directory = self.directory(color).map_or(0, |it| u32::from(it.weight));
            directory + self.of(color).map(|it| u32::from(it.weight)).sum::<u32>()
        };
        let (part, all) = (sum(canary), sum(canary) + sum(canary.other()));
        let percent = ((part * 100 + all / 2) / all.max(1)).clamp(u32::from(part > 0), 99);
        Share::capped(u16::try_from(percent).unwrap_or(u16::MAX))
    }
}

/// One entry for each instance. A color's part is divided evenly among its instances; where the two colors have
/// different numbers of them, the weights compensate.
impl From<Route> for FlatRoute {
    fn from(route: Route) -> Self {
        let common = route.sides().map(|(side, _)| count(side)).fold(1, lcm);
        let each = |(side, percent): (&Side, u8)| weighted(side, u16::from(percent) * (common / count(side)));
        let backends = route.sides().flat_map(each).collect();
        let backup = route.backup.iter().flat_map(|backup| weighted(backup, 0)).collect();
        let live = route.color();
        let directory = |(side, percent): (&Side, u8)| {
            let directory = side.directory.clone()?;
            let (color, release) = (side.color, side.release.clone());
            let (weight, canary) = (u16::from(percent) * common, Some(color) != live);
            Some(WeightedDirectory { color, directory, weight, release, canary })
        };
        let directories = route.sides().filter_map(directory).collect();
        let Route { generation, sticky, preview, files, .. } = route;
        Self { generation, backends, sticky, preview, backup, directories, files }
    }
}

impl From<FlatRoute> for Route {
    fn from(flat: FlatRoute) -> Self {
        let backend = || flat.backends.iter().find(|backend| backend.weight > 0).map(|backend| backend.color);
        let live = flat.directories.iter().find(|one| !one.canary).map(|one| one.color).or_else(backend);
        let canary = live.map(Color::other);
        Self {
            live: live.and_then(|color| flat.side(color)),
            canary: canary.and_then(|color| Some((flat.side(color)?, flat.share(color)))),
            backup: side(flat.backup.iter()),
            generation: flat.generation,
            sticky: flat.sticky,
            preview: flat.preview,
            files: flat.files,
        }
    }
}

/// The side that these addresses of one color form; `None` when there are none.
fn side<'a>(mut backends: impl Iterator<Item = &'a Weighted>) -> Option<Side> {
    let first = backends.next()?;
    let others = backends.map(|backend| backend.address.clone());
    let addresses = std::iter::once(first.address.clone()).chain(others).collect();
    Some(Side { color: first.color, release: first.release.clone(), addresses, directory: None })
}

fn weighted(side: &Side, weight: u16) -> Vec<Weighted> {
    let of = |address: &Address| Weighted {
        color: side.color,
        address: address.clone(),
        weight,
        release: side.release.clone(),
    };
    side.addresses.iter().map(of).collect()
}

fn count(side: &Side) -> u16 {
    u16::try_from(side.addresses.len()).unwrap_or(u16::MAX).max(1)
}

/// Least common multiple, by search: the numbers are at most 64.
fn lcm(a: u16, b: u16) -> u16 {
    (a..).step_by(a.into()).find(|multiple| multiple % b == 0).unwrap_or(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(color: Color, port: u16, weight: u16) -> Weighted {
        let release = "20261121T101112Z-1-0123456".parse().unwrap();
        Weighted { color, address: Address::Port(port), weight, release }
    }

    fn read(backends: &[Weighted]) -> Route {
        FlatRoute::new(Generation(1), backends.to_vec()).into()
    }

    /// The live color, and the canary with its share in percent.
    fn parts(backends: &[Weighted]) -> (Option<Color>, Option<(Color, u8)>) {
        let route = read(backends);
        (route.color(), route.canary.map(|(side, share)| (side.color, share.get())))
    }

    #[test]
    fn the_first_backend_with_a_weight_is_live_and_the_other_color_is_the_canary() {
        use Color::{Blue, Green};
        assert_eq!(parts(&[]), (None, None));
        assert_eq!(parts(&[backend(Blue, 1, 0)]), (None, None));
        assert_eq!(parts(&[backend(Blue, 1, 10), backend(Green, 2, 90)]), (Some(Blue), Some((Green, 90))));
        assert_eq!(parts(&[backend(Green, 1, 100), backend(Blue, 2, 0)]), (Some(Green), Some((Blue, 0))));
        assert_eq!(parts(&[backend(Blue, 1, 0), backend(Green, 2, 9)]), (Some(Green), Some((Blue, 0))));
        assert_eq!(parts(&[backend(Blue, 1, 999), backend(Green, 2, 1)]), (Some(Blue), Some((Green, 1))));
        assert_eq!(parts(&[backend(Blue, 1, 1), backend(Green, 2, 999)]), (Some(Blue), Some((Green, 99))));
    }

    #[test]
    fn a_share_is_divided_evenly_among_any_numbers_of_instances_and_read_back() {
        let side = |color, number: u16| {
            let backends: Vec<_> = (1..=number).map(|port| backend(color, port, 1)).collect();
            side(backends.iter()).unwrap()
        };
        for numbers in [[1, 1], [3, 3], [3, 2], [4, 2], [1, 64], [64, 63]] {
            let [live, canary] = numbers;
            for share in 0..100 {
                let route = Route::to(Generation(1), side(Color::Blue, live))
                    .beside(side(Color::Green, canary), Share::percent(share).unwrap());
                let flat = FlatRoute::from(route.clone());
                let sum = |color| flat.of(color).map(|it| u32::from(it.weight)).sum::<u32>();
                let (blue, green) = (sum(Color::Blue), sum(Color::Green));
                assert_eq!(green * u32::from(100 - share), blue * u32::from(share), "{numbers:?} {share}");
                assert_eq!(Route::from(flat), route);
            }
        }
        let alone = FlatRoute::from(Route::to(Generation(1), side(Color::Blue, 3)));
        assert!(alone.backends.iter().all(|backend| backend.weight == 100));
    }

    #[test]
    fn a_port_is_written_and_read_as_ever_and_a_socket_stands_in_its_place() {
        let of = |address| Weighted { address, ..backend(Color::Blue, 1, 100) };
        let (port, socket) = (of(Address::Port(9501)), of(Address::Socket("/run/b.sock".into())));
        let rest = r#""weight":100,"release":"20261121T101112Z-1-0123456"}"#;
        for (backend, address) in [(port, r#""port":9501"#), (socket, r#""socket":"/run/b.sock""#)] {
            let text = format!(
                r#"{{"generation":3,"backends":[{{"color":"blue",{address},{rest}],"sticky":"none"}}"#
            );
            let route = Route::from(FlatRoute::new(Generation(3), vec![backend]));
            assert_eq!(serde_json::to_string(&route).unwrap(), text);
            assert_eq!(serde_json::from_str::<Route>(&text).unwrap(), route);
        }
    }

    #[test]
    fn a_directory_is_read_back_alone_beside_another_and_beside_instances() {
        let directory = |color: Color| Side {
            color,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            addresses: Vec::new(),
            directory: Some(format!("/state/site/releases/{color}").into()),
        };
        let instances = Side {
            addresses: vec![Address::Port(1), Address::Port(2)],
            directory: None,
            ..directory(Color::Blue)
        };
        let of_share = |live: &Side, percent| {
            Route::to(Generation(1), live.clone())
                .beside(directory(Color::Green), Share::percent(percent).unwrap())
        };
        let files = FilesServed { fallback: Some("index.html".into()), ..FilesServed::default() };
        for route in [
            Route { files, ..Route::to(Generation(1), directory(Color::Green)) },
            of_share(&directory(Color::Blue), 0),
            of_share(&directory(Color::Blue), 70),
            of_share(&instances, 70),
            Route::to(Generation(1), directory(Color::Green)).beside(instances, Share::percent(20).unwrap()),
        ] {
            let text = serde_json::to_string(&route).unwrap();
            assert_eq!(serde_json::from_str::<Route>(&text).unwrap(), route, "{text}");
        }
        let plain = serde_json::to_string(&read(&[backend(Color::Blue, 1, 1)])).unwrap();
        assert!(
            !plain.contains("files") && !plain.contains("directories"),
            "as every build reads it: {plain}"
        );
    }
}
