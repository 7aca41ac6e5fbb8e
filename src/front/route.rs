//! What a front is asked to route, the same for every front. Plural from the start: weights and several
//! instances per color need no other model. Only data; how a route is put in force is the front's matter.

use serde::{Deserialize, Serialize};

use crate::rules::ids::{Color, Generation, ReleaseId};

/// One place that can receive traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The color it belongs to.
    pub color: Color,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// Its share, 0 to 100, relative to the other backends; 0 receives nothing.
    pub weight: u16,
    /// What runs there.
    pub release: ReleaseId,
}

/// What a front is asked to route. No backends: nothing is live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Which state of the front this is; a higher number is newer.
    pub generation: Generation,
    /// Where the traffic goes.
    pub backends: Vec<Backend>,
}

impl Route {
    /// The heaviest backend, the first of equals; `None` when nothing receives traffic.
    pub fn live(&self) -> Option<&Backend> {
        self.backends.iter().filter(|backend| backend.weight > 0).rev().max_by_key(|backend| backend.weight)
    }

    /// The color of the heaviest backend.
    pub fn color(&self) -> Option<Color> {
        self.live().map(|backend| backend.color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(color: Color, weight: u16) -> Backend {
        Backend { color, port: 1, weight, release: "20261121T101112Z-1-0123456".parse().unwrap() }
    }

    #[test]
    fn the_heaviest_backend_is_live_and_weight_zero_never_is() {
        let route = |backends| Route { generation: Generation(1), backends };
        assert_eq!(route(vec![]).color(), None);
        assert_eq!(route(vec![backend(Color::Blue, 0)]).color(), None);
        let mixed = route(vec![backend(Color::Blue, 10), backend(Color::Green, 90)]);
        assert_eq!(mixed.color(), Some(Color::Green));
        let even = route(vec![backend(Color::Blue, 50), backend(Color::Green, 50)]);
        assert_eq!(even.color(), Some(Color::Blue));
    }
}
