//! Weights that say which server is live. HAProxy keeps nothing else for bgd, and a restart of bgd must not forget
//! who is the canary: while both colors receive traffic the live one has an odd weight and the canary an even one.
//! The sum is 201, so a share is exact to half a percent, and a canary's weight only grows with its share: a consistent
//! hash then takes no client away from it. Pure.

use super::{Pair, servers, servers::Server};
use crate::{front::route::Route, rules::ids::Color};

/// Odd, and twice as fine as percent.
const SUM: u16 = 201;
/// For a server that its configuration gives nothing.
const WHOLE: u16 = 100;

/// What a server shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Receive this weight.
    Ready(u16),
    /// Receive nothing.
    Maint,
}

impl Want {
    /// Whether the server is so.
    pub(super) fn is_met(self, server: &Server) -> bool {
        match (self, server.standing()) {
            (Self::Ready(weight), servers::Standing::Ready) => server.weight == weight,
            (Self::Maint, servers::Standing::Maint) => true,
            (Self::Ready(_) | Self::Maint, _) => false,
        }
    }

    /// What the server is now; one that drains counts as leaving.
    pub(super) fn as_it_is(server: &Server) -> Self {
        match server.standing() {
            servers::Standing::Ready => Self::Ready(server.weight),
            servers::Standing::Drain | servers::Standing::Maint => Self::Maint,
        }
    }

    pub(super) fn is_ready(self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

/// What a color shall be under the route. Alone, a server has the weight of its configuration: that is what any
/// `balance` accepts.
pub(super) fn wanted(route: &Route, color: Color, server: &Server) -> Want {
    let canary = route.canary().map(|canary| canary.color);
    match (route.color(), canary) {
        (Some(live), Some(_)) if live == color => Want::Ready(SUM - 2 * route.canary_share().min(100)),
        (_, Some(canary)) if canary == color => Want::Ready(2 * route.canary_share().min(100)),
        (Some(live), _) if live == color => alone(server),
        (_, _) => Want::Maint,
    }
}

/// A server that receives everything.
pub(super) fn alone(server: &Server) -> Want {
    Want::Ready(if server.initial_weight == 0 { WHOLE } else { server.initial_weight })
}

/// What HAProxy routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The live color; `None` when nothing receives traffic.
    pub live: Option<Color>,
    /// The color beside it, and its share in percent.
    pub canary: Option<(Color, u16)>,
}

/// Read from states and weights.
pub(super) fn standing(pair: &Pair) -> Standing {
    let ready = |color: &Color| pair.of(*color).standing() == servers::Standing::Ready;
    let mut ready = Color::ALL.into_iter().filter(ready);
    match (ready.next(), ready.next()) {
        (Some(one), Some(_)) => {
            let live = live_of_two(pair, one);
            match share(pair, live.other()) {
                Some(share) => Standing { live: Some(live), canary: Some((live.other(), share)) },
                None => Standing { live: None, canary: None },
            }
        }
        (Some(one), None) if pair.of(one).weight > 0 => Standing { live: Some(one), canary: None },
        (_, _) => Standing { live: None, canary: None },
    }
}

/// A color's part of both weights in percent, rounded; `None` when they are nothing.
fn share(pair: &Pair, color: Color) -> Option<u16> {
    let weight = |color: Color| u32::from(pair.of(color).weight);
    let both = weight(color) + weight(color.other());
    (weight(color) * 100 + both / 2).checked_div(both).and_then(|share| u16::try_from(share).ok())
}

/// Both receive traffic by weights that are not bgd's: a configuration speaks, or a hand, and neither is the live one.
pub(super) fn undecided(pair: &Pair) -> Option<Standing> {
    let receives = |color: &Color| {
        let server = pair.of(*color);
        server.standing() == servers::Standing::Ready && server.weight > 0 && server.is_up()
    };
    let [blue, green] = [pair.blue.weight % 2, pair.green.weight % 2];
    let open = blue == green && Color::ALL.iter().all(receives);
    let canary = share(pair, Color::Green).filter(|_| open)?;
    Some(Standing { live: None, canary: Some((Color::Green, canary)) })
}

/// The odd weight is the live one's. Weights that are not bgd's: the one that is up, then the heavier one, then `one`.
fn live_of_two(pair: &Pair, one: Color) -> Color {
    let odd = |color: Color| pair.of(color).weight % 2 == 1;
    let rank = |color: Color| {
        (odd(color) != odd(color.other()) && odd(color), pair.of(color).is_up(), pair.of(color).weight)
    };
    if rank(one.other()) > rank(one) { one.other() } else { one }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::servers::tests::*, *};
    use crate::{
        front::route::Backend,
        rules::{address::Address, ids::Generation},
    };

    fn route(live: Color, share: Option<u16>) -> Route {
        let backend = |color, weight| Backend {
            color,
            address: Address::Port(1),
            weight,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
        };
        let mut backends = vec![backend(live, 100 - share.unwrap_or(0))];
        backends.extend(share.map(|share| backend(live.other(), share)));
        Route::new(Generation(1), backends)
    }

    fn pair(blue: Server, green: Server) -> Pair {
        Pair { blue, green }
    }

    /// The pair after HAProxy did as wanted.
    fn told(route: &Route) -> Pair {
        let [blue, green] = Color::ALL.map(|color| match wanted(route, color, &ready("x", 1)) {
            Want::Ready(weight) => ready(color.as_str(), weight),
            Want::Maint => maint(color.as_str(), 7),
        });
        pair(blue, green)
    }

    #[test]
    fn every_share_is_read_back_as_it_was_told_whichever_color_is_live() {
        for live in Color::ALL {
            for share in 0..100 {
                let expected = Standing { live: Some(live), canary: Some((live.other(), share)) };
                assert_eq!(standing(&told(&route(live, Some(share)))), expected);
            }
            assert_eq!(standing(&told(&route(live, None))), Standing { live: Some(live), canary: None });
        }
        let none = Route::new(Generation(1), vec![]);
        assert_eq!(standing(&told(&none)), Standing { live: None, canary: None });
    }

    #[test]
    fn a_share_is_exact_to_half_a_percent() {
        for share in 0..100 {
            let weights = Color::ALL.map(|color| {
                match wanted(&route(Color::Blue, Some(share)), color, &ready("x", 1)) {
                    Want::Ready(weight) => f64::from(weight),
                    Want::Maint => panic!("both receive"),
                }
            });
            let real = weights[1] * 100.0 / (weights[0] + weights[1]);
            assert!((real - f64::from(share)).abs() <= 0.5, "{share}: {real}");
            assert!(weights.iter().all(|weight| *weight <= 256.0));
        }
    }

    #[test]
    fn alone_a_server_has_the_weight_of_its_configuration() {
        let alone = |initial_weight| {
            wanted(&route(Color::Blue, None), Color::Blue, &Server { initial_weight, ..ready("blue", 9) })
        };
        assert_eq!(alone(30), Want::Ready(30));
        assert_eq!(alone(0), Want::Ready(100));
    }

    #[test]
    fn of_two_servers_with_weights_of_a_hand_the_one_that_is_up_is_live_then_the_heavier() {
        let live = |blue, green| standing(&pair(blue, green)).live;
        assert_eq!(live(ready("blue", 100), ready("green", 100)), Some(Color::Blue));
        assert_eq!(live(ready("blue", 100), ready("green", 102)), Some(Color::Green));
        assert_eq!(live(down(ready("blue", 100)), ready("green", 100)), Some(Color::Green));
        // bgd's own weights say it whatever a check says.
        assert_eq!(live(down(ready("blue", 191)), ready("green", 10)), Some(Color::Blue));
        assert_eq!(live(ready("blue", 0), ready("green", 0)), None);
        assert_eq!(live(ready("blue", 0), maint("green", 100)), None);
    }

    #[test]
    fn two_servers_of_a_configuration_that_both_serve_leave_open_who_is_live() {
        let open = |blue, green| undecided(&pair(blue, green));
        let half = Standing { live: None, canary: Some((Color::Green, 50)) };
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
        assert!(Want::Ready(10).is_met(&ready("blue", 10)));
        assert!(!Want::Ready(10).is_met(&ready("blue", 11)));
        assert!(!Want::Ready(10).is_met(&maint("blue", 10)));
        assert!(Want::Maint.is_met(&maint("blue", 10)));
        assert!(!Want::Maint.is_met(&ready("blue", 0)));
    }
}
