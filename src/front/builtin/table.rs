//! One state of the route, as requests read it: which targets there are, and which of them a request goes to. Made
//! by `switch`, which replaces it as a whole.
//!
//! All of the traffic is cut into as many slots as the weights add up to; the live color has the first ones, the
//! canary the last. A client keeps its slot through one canary, so that clients only move to the canary while its
//! share grows, and only away from it while it shrinks; with the next canary the slots are dealt anew.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hyper::HeaderMap;

use super::{
    headers::Client,
    target::Target,
    wish::{self, Password, Place, Wish},
};
use crate::{config::settings::Sticky, front::route::Route};

/// Numbers tried for a ticket that belongs to a slot; with 100 slots all but one in a billion times enough.
const DEALT_AT_MOST: usize = 2000;

/// One state of the route.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<(Arc<Target>, u64)>,
    /// What takes the requests that the live target refuses; one of the entries, without a weight.
    backup: Option<Arc<Target>>,
    total: u64,
    /// Coprime to `total` and near its golden section: visits every slot once per round, well mixed.
    stride: u64,
    /// Goes on from table to table: a route that is put in force once more does not begin the round anew.
    turn: Arc<AtomicU64>,
    sticky: Sticky,
    /// Of this canary alone: other clients are the first to see the next one.
    seed: u64,
    password: Option<Password>,
}

impl Table {
    /// From a route, the targets of its backends, each with its weight, and the turns taken so far.
    pub(super) fn new(route: &Route, entries: Vec<(Arc<Target>, u64)>, turn: Arc<AtomicU64>) -> Self {
        let total = entries.iter().map(|(_, weight)| weight).sum();
        let color = route.backup.as_ref().map(|backup| backup.color);
        let backup = entries.iter().map(|(target, _)| target).find(|it| Some(it.identity.color) == color);
        Self {
            backup: backup.cloned(),
            entries,
            total,
            stride: stride(total),
            turn,
            sticky: route.sticky.clone(),
            seed: route.canary().map_or(0, |canary| wish::hash(canary.release.as_str().as_bytes())),
            password: route.preview.clone().map(Password::from),
        }
    }

    /// All targets, those for previews alone included.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.entries.iter().map(|(target, _)| target)
    }

    /// Reads where a request wants to go. Each request is to be asked once: it takes its turn.
    pub(super) fn wish(&self, headers: &HeaderMap, client: &Client) -> Wish {
        if self.entries.len() < 2 {
            return Wish::default();
        }
        if self.password.as_ref().is_some_and(|password| password.is_in(headers)) {
            return Wish::new(Place::Canary);
        }
        if self.routed().nth(1).is_none() {
            return Wish::default();
        }
        match &self.sticky {
            Sticky::None => Wish::new(Place::Turn(self.next_turn())),
            Sticky::Ip => Wish::new(Place::Key(wish::address_key(headers, client))),
            Sticky::Cookie(name) => match wish::ticket_key(headers, name) {
                Some(key) => Wish::new(Place::Key(key)),
                None => {
                    let key = self.deal();
                    let ticket = wish::ticket(name, key, headers, client);
                    Wish::new(Place::Key(key)).with_ticket(ticket)
                }
            },
        }
    }

    /// The target for a wish; `None` when nothing is live.
    pub(super) fn choose(&self, wish: &Wish) -> Option<&Arc<Target>> {
        let live = self.routed().next()?;
        let canary = || self.targets().find(|target| target.identity.color != live.identity.color);
        let wanted = match wish.place {
            Place::Live => live,
            Place::Canary => return canary().or(Some(live)),
            Place::Turn(turn) => self.at(self.slot_of_turn(turn))?,
            Place::Key(key) => self.at(self.slot_of_key(key))?,
        };
        let is_open = |target: &&Arc<Target>| !wish.is_refused(target.identity.color);
        Some(if is_open(&wanted) { wanted } else { self.open().find(is_open).unwrap_or(wanted) })
    }

    /// Whether a request could go to another target than this one.
    pub(super) fn has_other_than(&self, target: &Target) -> bool {
        self.open().any(|other| other.identity.color != target.identity.color)
    }

    /// All that the public's requests may go to, the backup last.
    fn open(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.routed().chain(&self.backup)
    }

    fn routed(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.entries.iter().filter(|(_, weight)| *weight > 0).map(|(target, _)| target)
    }

    fn at(&self, mut slot: u64) -> Option<&Arc<Target>> {
        self.entries.iter().find_map(|(target, weight)| {
            if slot < *weight {
                return Some(target);
            }
            slot -= weight;
            None
        })
    }

    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn slot_of_turn(&self, turn: u64) -> u64 {
        turn % self.total * self.stride % self.total
    }

    fn slot_of_key(&self, key: u64) -> u64 {
        let share = u128::from(wish::mix(key ^ self.seed)) * u128::from(self.total);
        // Less than the total, which is a sum of few small weights.
        (share >> 64) as u64
    }

    /// A number for a new client. New clients take turns, so that few of them are shared out right as well.
    fn deal(&self) -> u64 {
        let slot = self.slot_of_turn(self.next_turn());
        let mut numbers = wish::numbers();
        let fits = numbers.by_ref().take(DEALT_AT_MOST).find(|key| self.slot_of_key(*key) == slot);
        fits.or_else(|| numbers.next()).unwrap_or_default()
    }
}

fn stride(total: u64) -> u64 {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    (total * 618 / 1000..total).find(|step| gcd(*step, total) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use hyper::header::COOKIE;
    use tokio::sync::Notify;

    use super::*;
    use crate::{
        front::{
            builtin::target::Identity,
            route::{Backend, Preview},
        },
        rules::ids::{Color, Generation},
    };

    const SECRET: &str = "s3cret-s3cret-s3cret";

    fn backend(color: Color, weight: u16, number: u64) -> Backend {
        let release = format!("20261121T101112Z-{number}-0123456").parse().unwrap();
        Backend { color, port: 9501, weight, release }
    }

    fn of(route: &Route) -> Table {
        let target = |backend| {
            Arc::new(Target::new(Identity::from(backend), Arc::default(), Arc::<Notify>::default()))
        };
        let backends = route.backends.iter().chain(&route.backup);
        let entries = backends.map(|one| (target(one), u64::from(one.weight))).collect();
        Table::new(route, entries, Arc::default())
    }

    fn table(live: u16, canary: u16, sticky: Sticky, number: u64) -> Table {
        let backends = vec![backend(Color::Blue, live, number), backend(Color::Green, canary, number)];
        let mut route = Route::new(Generation(1), backends);
        route.sticky = sticky;
        route.preview =
            Some(Preview { header: "x-p".to_owned(), cookie: "p".to_owned(), secret: SECRET.to_owned() });
        of(&route)
    }

    #[test]
    fn a_backup_takes_what_the_live_target_refuses_and_nothing_else() {
        let mut route = Route::new(Generation(1), vec![backend(Color::Green, 100, 2)]);
        route.backup = Some(backend(Color::Blue, 0, 1));
        let table = of(&route);
        let mut wish = table.wish(&HeaderMap::new(), &client(1));
        assert_eq!(color(&table, &wish), Color::Green);
        assert!(wish.refuse(Color::Green));
        assert_eq!(color(&table, &wish), Color::Blue);
        assert!(table.has_other_than(table.choose(&Wish::default()).unwrap()));
        route.backup = None;
        let table = of(&route);
        assert_eq!(color(&table, &wish), Color::Green);
        assert!(!table.has_other_than(table.choose(&wish).unwrap()));
    }

    fn client(number: u32) -> Client {
        Client::of(std::net::Ipv4Addr::from(0x0a00_0000 + number).into())
    }

    fn headers(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    fn color(table: &Table, wish: &Wish) -> Color {
        table.choose(wish).unwrap().identity.color
    }

    fn goes(table: &Table, headers: &HeaderMap, number: u32) -> Color {
        color(table, &table.wish(headers, &client(number)))
    }

    fn of_each<T>(clients: u32, go: impl Fn(u32) -> T) -> Vec<T> {
        (0..clients).map(go).collect()
    }

    fn share(went: &[Color]) -> f64 {
        let there = went.iter().filter(|color| **color == Color::Green).count();
        there as f64 * 100.0 / went.len() as f64
    }

    #[test]
    fn weights_are_exact_over_one_round_and_mixed_within_it() {
        let table = table(90, 10, Sticky::None, 1);
        let chosen = of_each(100, |_| goes(&table, &HeaderMap::new(), 1));
        assert_eq!(share(&chosen), 10.0);
        assert!((6.0..=14.0).contains(&share(&chosen[..50])), "{}", share(&chosen[..50]));
    }

    #[test]
    fn a_clients_side_moves_only_towards_the_canary_while_its_share_grows() {
        let mut before = vec![Color::Blue; 20_000];
        for canary in [0, 1, 5, 25, 50, 99] {
            let table = table(100 - canary, canary, Sticky::Ip, 1);
            let now = of_each(20_000, |number| goes(&table, &HeaderMap::new(), number));
            let back = before.iter().zip(&now).filter(|it| *it == (&Color::Green, &Color::Blue)).count();
            assert_eq!(back, 0, "{canary} %");
            // Nothing here is random: these clients are always shared out like this.
            assert!((share(&now) - f64::from(canary)).abs() <= 1.0, "{canary} %: {}", share(&now));
            before = now;
        }
    }

    #[test]
    fn other_clients_are_the_first_to_see_the_next_canary() {
        let first = |number| {
            let table = table(50, 50, Sticky::Ip, number);
            of_each(5000, |client| goes(&table, &HeaderMap::new(), client))
        };
        let (one, two) = (first(1), first(2));
        assert_eq!(one, first(1), "constant through one canary");
        let twice = one.iter().zip(&two).filter(|it| *it == (&Color::Green, &Color::Green)).count();
        assert!((1066..=1434).contains(&twice), "{twice} of 5000, 1250 expected");
    }

    #[test]
    fn new_clients_are_dealt_out_exactly_and_their_tickets_lead_them_back() {
        let sticky = || Sticky::Cookie("side".to_owned());
        let dealing = table(75, 25, sticky(), 1);
        let wishes = of_each(200, |number| dealing.wish(&HeaderMap::new(), &client(number)));
        let went: Vec<_> = wishes.iter().map(|wish| color(&dealing, wish)).collect();
        assert_eq!(share(&went), 25.0);
        let grown = table(50, 50, sticky(), 1);
        for (wish, went) in wishes.iter().zip(went) {
            let cookie = wish.greeting().unwrap();
            let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            let back = headers(COOKIE, &format!("a=b; {pair}"));
            let again = dealing.wish(&back, &client(0));
            assert_eq!((color(&dealing, &again), again.greeting()), (went, None));
            assert!(went == Color::Blue || goes(&grown, &back, 0) == Color::Green);
        }
    }

    #[test]
    fn a_preview_reaches_the_canary_at_any_share_and_nobody_else_at_none() {
        let asks = headers(hyper::header::HeaderName::from_static("x-p"), SECRET);
        for sticky in [Sticky::None, Sticky::Ip, Sticky::Cookie("side".to_owned())] {
            for canary in [0, 5] {
                let table = table(100 - canary, canary, sticky.clone(), 1);
                let previewed = of_each(200, |number| goes(&table, &asks, number));
                assert!(previewed.iter().all(|color| *color == Color::Green));
                assert_eq!(table.wish(&asks, &client(1)).greeting(), None);
            }
            let unshared = table(100, 0, sticky, 1);
            let others = of_each(1000, |number| goes(&unshared, &HeaderMap::new(), number));
            assert!(others.iter().all(|color| *color == Color::Blue));
            assert_eq!(unshared.wish(&HeaderMap::new(), &client(1)).greeting(), None);
        }
    }

    #[test]
    fn a_color_that_refused_is_passed_over_unless_both_did() {
        let shared = table(50, 50, Sticky::Ip, 1);
        let mut wish = shared.wish(&HeaderMap::new(), &client(7));
        let first = color(&shared, &wish);
        assert!(wish.refuse(first));
        assert_eq!(color(&shared, &wish), first.other());
        wish.refuse(first.other());
        assert_eq!(color(&shared, &wish), first);
        wish.try_all_again();
        assert!(!wish.refuse(first), "blamed once");
        assert_eq!(color(&shared, &wish), first.other());
        let unshared = table(100, 0, Sticky::None, 1);
        let mut wish = Wish::default();
        wish.refuse(Color::Blue);
        assert_eq!(color(&unshared, &wish), Color::Blue, "the canary is for previews alone");
    }
}
