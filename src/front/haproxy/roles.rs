//! Weights that mark which color is live. HAProxy stores nothing else for bgd, and bgd must know after a restart which
//! color is the canary: while both receive traffic, the live color has odd weights and the canary even ones. With one
//! instance a color the sum is 201, so a share is exact to half a percent, and a canary's weight only grows with its
//! share: a consistent hash then takes no client away from it. Pure.

use super::{ServerSides, servers, servers::Server};
use crate::rules::{ids::Color, route::Route};

/// Sum of the weights of both colors with one instance each: odd, and in half percents.
const SUM: usize = 201;
/// HAProxy accepts 256 at most; this is the highest odd weight.
const HEAVIEST: usize = 255;
/// Weight of a server that has weight 0 in the configuration.
const WHOLE: u16 = 100;

/// The target state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerGoal {
    /// Receive traffic with this weight.
    Ready(u16),
    /// Receive nothing: maintenance.
    Maint,
}

impl ServerGoal {
    /// Whether the server is in this state.
    pub(super) fn is_met(self, server: &Server) -> bool {
        match (self, server.standing()) {
            (Self::Ready(weight), servers::Availability::Ready) => server.weight == weight,
            (Self::Maint, servers::Availability::Maint) => true,
            (Self::Ready(_) | Self::Maint, _) => false,
        }
    }

    /// The server's present state as a target; a server that drains counts as in maintenance.
    pub(super) fn as_it_is(server: &Server) -> Self {
        match server.standing() {
            servers::Availability::Ready => Self::Ready(server.weight),
            servers::Availability::Drain | servers::Availability::Maint => Self::Maint,
        }
    }

    pub(super) fn is_ready(self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

/// The target of each of a color's servers under the route; servers without an instance stay in maintenance. A color
/// that has all traffic has the weights of the configuration, which every `balance` accepts.
pub(super) fn wanted(route: &Route, color: Color, sides: &ServerSides) -> Vec<ServerGoal> {
    let instances = |color: Color| route.of(color).map_or(0, |side| side.addresses.len());
    let number = |color: Color| instances(color).min(sides.of(color).len());
    let live = route.color();
    let both = live.zip(route.canary.as_ref());
    let shared =
        both.map(|(live, (canary, share))| Weights::of(share.get(), [live, canary.color].map(number)));
    let role = |(index, server): (usize, &Server)| match shared {
        _ if index >= number(color) => ServerGoal::Maint,
        Some(weights) if live == Some(color) => ServerGoal::Ready(weights.live),
        Some(weights) => ServerGoal::Ready(weights.of_canary(index)),
        None if live == Some(color) => alone(server),
        None => ServerGoal::Maint,
    };
    sides.of(color).iter().enumerate().map(role).collect()
}

/// Weights for a live color and a canary. Where both have the same number of instances, each server has the weight that
/// it would have with one instance a color.
#[derive(Debug, Clone, Copy)]
struct Weights {
    /// Weight of each live server.
    live: u16,
    /// Half of the sum of the canary's weights, which are even, over `number` servers.
    pairs: usize,
    number: usize,
}

impl Weights {
    fn of(share: u8, numbers: [usize; 2]) -> Self {
        let [live, number] = numbers.map(|number| number.max(1));
        let (most, share) = (live.max(number), 2 * usize::from(share.min(100)));
        let parts = [(SUM - share) * most / live, share * most / number];
        let top = parts.into_iter().fold(HEAVIEST, usize::max);
        // Rounded down to odd, so that the canary's weights need not be above the heaviest.
        let each = ((parts[0] * HEAVIEST / top).max(1) - 1) | 1;
        let pairs = (each * live * share + SUM - share) / (2 * (SUM - share));
        Self { live: u16::try_from(each).unwrap_or(u16::MAX), pairs: pairs.max(share.min(1)), number }
    }

    fn of_canary(self, index: usize) -> u16 {
        let own = self.pairs / self.number + usize::from(index < self.pairs % self.number);
        u16::try_from((2 * own).min(HEAVIEST + 1)).unwrap_or(u16::MAX)
    }
}

/// The target of a server of the only color with traffic.
pub(super) fn alone(server: &Server) -> ServerGoal {
    ServerGoal::Ready(if server.initial_weight == 0 { WHOLE } else { server.initial_weight })
}

/// The route that HAProxy has in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteInForce {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The canary's color, and its share in percent.
    pub canary: Option<(Color, u16)>,
}

/// Reads the route from the servers' states and weights.
pub(super) fn standing(sides: &ServerSides) -> RouteInForce {
    let mut ready = Color::ALL.into_iter().filter(|color| ReadyServers::of(sides, *color).is_ready());
    match (ready.next(), ready.next()) {
        (Some(one), Some(_)) => {
            let live = live_of_two(sides, one);
            match share(sides, live.other()) {
                Some(share) => RouteInForce { live: Some(live), canary: Some((live.other(), share)) },
                None => RouteInForce { live: None, canary: None },
            }
        }
        (Some(one), None) if ReadyServers::of(sides, one).weight() > 0 => {
            RouteInForce { live: Some(one), canary: None }
        }
        (_, _) => RouteInForce { live: None, canary: None },
    }
}

/// The servers of a color that are in state ready.
struct ReadyServers<'s>(Vec<&'s Server>);

impl<'s> ReadyServers<'s> {
    fn of(sides: &'s ServerSides, color: Color) -> Self {
        Self(sides.of(color).iter().filter(|it| it.standing() == servers::Availability::Ready).collect())
    }

    fn is_ready(&self) -> bool {
        !self.0.is_empty()
    }

    fn weight(&self) -> u32 {
        self.0.iter().map(|server| u32::from(server.weight)).sum()
    }

    /// Whether the weights are odd. All servers have the same parity, unless somebody edited a weight: the first
    /// server's counts.
    fn is_odd(&self) -> bool {
        self.0.first().is_some_and(|server| server.weight % 2 == 1)
    }

    fn is_up(&self) -> bool {
        self.0.iter().any(|server| server.is_up())
    }
}

/// A color's part of all weights in percent, rounded; `None` when the sum of all weights is 0.
fn share(sides: &ServerSides, color: Color) -> Option<u16> {
    let weight = |color: Color| ReadyServers::of(sides, color).weight();
    let both = weight(color) + weight(color.other());
    (weight(color) * 100 + both / 2).checked_div(both).and_then(|share| u16::try_from(share).ok())
}

/// The route when both colors receive traffic by weights that bgd did not set, but the configuration or an operator:
/// then neither color is marked as live. `None` otherwise.
pub(super) fn undecided(sides: &ServerSides) -> Option<RouteInForce> {
    let [blue, green] = Color::ALL.map(|color| ReadyServers::of(sides, color));
    let receives = |load: &ReadyServers<'_>| load.weight() > 0 && load.is_up();
    let open = blue.is_odd() == green.is_odd() && receives(&blue) && receives(&green);
    let canary = share(sides, Color::Green).filter(|_| open)?;
    Some(RouteInForce { live: None, canary: Some((Color::Green, canary)) })
}

/// The live color of two that receive traffic: the one with odd weights. Where bgd did not set the weights: the one
/// that is up, then the heavier one, then `one`.
fn live_of_two(sides: &ServerSides, one: Color) -> Color {
    let [this, that] = [one, one.other()].map(|color| ReadyServers::of(sides, color));
    let rank = |load: &ReadyServers<'_>, other: &ReadyServers<'_>| {
        (load.is_odd() && !other.is_odd(), load.is_up(), load.weight())
    };
    if rank(&that, &this) > rank(&this, &that) { one.other() } else { one }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::servers::tests::*, *};
    use crate::rules::{address::Address, canary::Share, ids::Generation, route::Side};

    fn route(live: Color, share: Option<u16>) -> Route {
        several([1, 1], live, share)
    }

    /// With these numbers of instances of blue and of green.
    fn several(numbers: [u16; 2], live: Color, share: Option<u16>) -> Route {
        let number = |color| if color == Color::Blue { numbers[0] } else { numbers[1] };
        let side = |color| Side {
            color,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            addresses: vec![Address::Port(1); number(color).into()],
            directory: None,
        };
        let route = Route::to(Generation(1), side(live));
        match share {
            Some(share) => route.beside(side(live.other()), Share::capped(share)),
            None => route,
        }
    }

    fn pair(blue: Server, green: Server) -> ServerSides {
        ServerSides { blue: vec![blue], green: vec![green] }
    }

    /// The servers after HAProxy reached the target; each color has one server more than the greatest number of
    /// instances.
    fn told(route: &Route) -> ServerSides {
        let [blue, green] = Color::ALL.map(|color| {
            vec![ready(color.as_str(), 1); 1 + route.of(color).map_or(0, |side| side.addresses.len())]
        });
        let before = ServerSides { blue, green };
        let [blue, green] = Color::ALL.map(|color| {
            let each = wanted(route, color, &before).into_iter().map(|want| match want {
                ServerGoal::Ready(weight) => ready(color.as_str(), weight),
                ServerGoal::Maint => maint(color.as_str(), 7),
            });
            each.collect()
        });
        ServerSides { blue, green }
    }

    fn wants(route: &Route, color: Color) -> Vec<ServerGoal> {
        wanted(route, color, &pair(ready("blue", 1), ready("green", 1)))
    }

    #[test]
    fn every_share_is_read_back_as_it_was_told_whichever_color_is_live() {
        for live in Color::ALL {
            for share in 0..100 {
                let expected = RouteInForce { live: Some(live), canary: Some((live.other(), share)) };
                assert_eq!(standing(&told(&route(live, Some(share)))), expected);
            }
            assert_eq!(standing(&told(&route(live, None))), RouteInForce { live: Some(live), canary: None });
        }
        let none = Route::nowhere(Generation(1));
        assert_eq!(standing(&told(&none)), RouteInForce { live: None, canary: None });
    }

    #[test]
    fn of_colors_with_several_instances_each_share_is_read_back_and_only_instances_receive() {
        for share in 0..100 {
            let same = told(&several([3, 3], Color::Green, Some(share)));
            assert_eq!(standing(&same).canary, Some((Color::Blue, share)));
            let one = told(&route(Color::Green, Some(share)));
            assert_eq!(same.blue[..3], [one.blue[0].clone(), one.blue[0].clone(), one.blue[0].clone()]);
            for numbers in [[3, 2], [2, 3], [1, 3], [3, 1], [64, 63], [63, 64], [8, 1], [1, 64]] {
                let found = told(&several(numbers, Color::Blue, Some(share)));
                let RouteInForce { live, canary: Some((Color::Green, read)) } = standing(&found) else {
                    panic!("{numbers:?} {share}: {found:?}");
                };
                // Each weight is from 1 to 256.
                let slack = if numbers == [8, 1] { 3 } else { 1 };
                assert!(
                    live == Some(Color::Blue) && read.abs_diff(share) <= slack,
                    "{numbers:?} {share}: {read}"
                );
                assert_eq!(
                    (read == 0, found.all().all(|it| it.weight <= 256)),
                    (share == 0, true),
                    "{numbers:?}"
                );
                let idle = [found.blue.last().unwrap(), found.green.last().unwrap()];
                assert!(idle.into_iter().all(|it| it.standing() == servers::Availability::Maint));
            }
        }
        let alone = told(&several([3, 2], Color::Green, None));
        assert_eq!(standing(&alone), RouteInForce { live: Some(Color::Green), canary: None });
    }

    #[test]
    fn a_share_is_exact_to_half_a_percent() {
        for share in 0..100 {
            let weights = Color::ALL.map(|color| match wants(&route(Color::Blue, Some(share)), color)[..] {
                [ServerGoal::Ready(weight)] => f64::from(weight),
                _ => panic!("both receive"),
            });
            let real = weights[1] * 100.0 / (weights[0] + weights[1]);
            assert!((real - f64::from(share)).abs() <= 0.5, "{share}: {real}");
            assert!(weights.iter().all(|weight| *weight <= 256.0));
        }
    }

    #[test]
    fn alone_a_server_has_the_weight_of_its_configuration() {
        let alone = |initial_weight| {
            let blue = Server { initial_weight, ..ready("blue", 9) };
            wanted(&route(Color::Blue, None), Color::Blue, &pair(blue, maint("green", 1)))
        };
        assert_eq!(alone(30), [ServerGoal::Ready(30)]);
        assert_eq!(alone(0), [ServerGoal::Ready(100)]);
    }

    #[test]
    fn of_two_servers_with_weights_of_a_hand_the_one_that_is_up_is_live_then_the_heavier() {
        let live = |blue, green| standing(&pair(blue, green)).live;
        assert_eq!(live(ready("blue", 100), ready("green", 100)), Some(Color::Blue));
        assert_eq!(live(ready("blue", 100), ready("green", 102)), Some(Color::Green));
        assert_eq!(live(down(ready("blue", 100)), ready("green", 100)), Some(Color::Green));
        // bgd's own weights decide, not the checks.
        assert_eq!(live(down(ready("blue", 191)), ready("green", 10)), Some(Color::Blue));
        assert_eq!(live(ready("blue", 0), ready("green", 0)), None);
        assert_eq!(live(ready("blue", 0), maint("green", 100)), None);
    }

    #[test]
    fn two_servers_of_a_configuration_that_both_serve_leave_open_who_is_live() {
        let open = |blue, green| undecided(&pair(blue, green));
        let half = RouteInForce { live: None, canary: Some((Color::Green, 50)) };
        assert_eq!(open(ready("blue", 1), ready("green", 1)), Some(half));
        assert_eq!(open(ready("blue", 1), down(ready("green", 1))), None);
        assert_eq!(open(ready("blue", 1), maint("green", 1)), None);
        assert_eq!(open(ready("blue", 191), ready("green", 10)), None);
        assert_eq!(open(ready("blue", 0), ready("green", 0)), None);
    }

    proptest! {
        #[test]
        fn no_weights_of_an_answer_are_too_much(blue: u16, green: u16) {
            let found = pair(ready("blue", blue), ready("green", green));
            let _ = undecided(&found);
            prop_assert!(standing(&found).canary.is_none_or(|(_, share)| share <= 100));
        }
    }

    #[test]
    fn a_want_is_met_by_state_and_weight() {
        assert!(ServerGoal::Ready(10).is_met(&ready("blue", 10)));
        assert!(!ServerGoal::Ready(10).is_met(&ready("blue", 11)));
        assert!(!ServerGoal::Ready(10).is_met(&maint("blue", 10)));
        assert!(ServerGoal::Maint.is_met(&maint("blue", 10)));
        assert!(!ServerGoal::Maint.is_met(&ready("blue", 0)));
    }
}
