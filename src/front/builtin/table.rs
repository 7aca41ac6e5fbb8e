//! One state of the route, as requests read it: the targets, and the choice of one for a request. Made by `switch`,
//! which replaces it as a whole.
//!
//! All of the traffic is cut into a hundred slots; the live color has the first ones, the
//! canary the last. A client keeps its slot through one canary, so that clients only move to the canary while its
//! share grows, and only away from it while it shrinks; with the next canary the slots are dealt anew.
//!
//! Within a color a request goes to the next instance in turn, or to the one after it if that has less in flight.
//! Instances that refuse connections, or that the daemon reports as hanging, are passed over.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use hyper::HeaderMap;

use super::{
    headers::ClientAddress,
    target::ProxyTarget,
    wish::{self, Password, SharePlace, Wish},
};
use crate::{
    os::hash::mixed,
    rules::{
        ids::Color,
        route::{self, FilesServed, Route},
        sticky::Sticky,
    },
};

/// Most numbers tried to find a ticket for a slot; with 100 slots about two searches in a billion fail.
const DEALT_AT_MOST: usize = 2000;

/// One state of the route.
#[derive(Default)]
pub(super) struct RouteTable {
    sides: Vec<RouteSide>,
    /// The color that takes requests when the live color refuses connections; its side has no weight.
    backup: Option<Color>,
    total: u64,
    /// Coprime to `total` and near its golden section: visits every slot once per round, well mixed.
    stride: u64,
    /// Shared from table to table, so that a route that is put in force again does not begin the round anew.
    turn: Arc<AtomicU64>,
    sticky: Sticky,
    /// The hash of this canary's release, so that other clients are the first to see the next canary.
    seed: u64,
    password: Option<Password>,
    files: Arc<FilesServed>,
    has_directories: bool,
}

/// One color of the route.
struct RouteSide {
    color: Color,
    weight: u64,
    targets: Vec<Arc<ProxyTarget>>,
    next: AtomicUsize,
}

impl RouteSide {
    /// The target for the next request; of several, one that does not refuse connections, if there is one.
    fn pick(&self, wish: &Wish) -> Option<&Arc<ProxyTarget>> {
        if let [only] = self.targets.as_slice() {
            return Some(only);
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.targets.len().max(1);
        let in_turn = || self.targets[first..].iter().chain(&self.targets[..first]);
        let mut open = in_turn().filter(|target| !target.rests() && !wish.is_passed_over(target.number));
        match (open.next(), open.next()) {
            (Some(one), Some(other)) if other.in_flight() < one.in_flight() => Some(other),
            (Some(one), _) => Some(one),
            (None, _) => in_turn().find(|it| !wish.is_passed_over(it.number)).or_else(|| in_turn().next()),
        }
    }
}

impl RouteTable {
    /// The table of a route. `targets` makes the targets of one of its sides; `turn` counts the turns taken so far.
    pub(super) fn new(
        route: &Route,
        targets: impl Fn(&route::Side) -> Vec<Arc<ProxyTarget>>,
        turn: Arc<AtomicU64>,
    ) -> Self {
        // A backup has no share of its own.
        let backup = route.backup.iter().map(|backup| (backup, 0));
        let side = |(side, percent): (&route::Side, u8)| RouteSide {
            color: side.color,
            weight: percent.into(),
            targets: targets(side),
            next: AtomicUsize::new(0),
        };
        let sides: Vec<RouteSide> = route.sides().chain(backup).map(side).collect();
        let total = sides.iter().map(|side| side.weight).sum();
        Self {
            sides,
            backup: route.backup.as_ref().map(|backup| backup.color),
            total,
            stride: stride(total),
            turn,
            sticky: route.sticky.clone(),
            seed: route
                .canary
                .as_ref()
                .map_or(0, |(canary, _)| wish::hash(canary.release.as_str().as_bytes())),
            password: route.preview.clone().map(Password::from),
            files: Arc::new(route.files.clone()),
            has_directories: route.sides().any(|(side, _)| side.directory.is_some()),
        }
    }

    /// What the front reads from the disk by itself.
    pub(super) fn files(&self) -> &Arc<FilesServed> {
        &self.files
    }

    /// Whether one of the sides is a directory.
    pub(super) fn has_directories(&self) -> bool {
        self.has_directories
    }

    /// All targets, those for previews alone included.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<ProxyTarget>> {
        self.sides.iter().flat_map(|side| &side.targets)
    }

    /// Reads where a request should go. Call it once for each request: it takes a turn.
    pub(super) fn wish(&self, headers: &HeaderMap, client: &ClientAddress) -> Wish {
        if self.sides.len() < 2 {
            return Wish::default();
        }
        if self.password.as_ref().is_some_and(|password| password.is_in(headers)) {
            return Wish::new(SharePlace::Canary);
        }
        if self.routed().nth(1).is_none() {
            return Wish::default();
        }
        match &self.sticky {
            Sticky::None => Wish::new(SharePlace::Turn(self.next_turn())),
            Sticky::Ip => Wish::new(SharePlace::Key(wish::address_key(headers, client))),
            Sticky::Cookie(name) => match wish::ticket_key(headers, name) {
                Some(key) => Wish::new(SharePlace::Key(key)),
                None => {
                    let key = self.deal();
                    let ticket = wish::ticket(name, key, headers, client);
                    Wish::new(SharePlace::Key(key)).with_ticket(ticket)
                }
            },
        }
    }

    /// The target for a wish; `None` when nothing is live.
    pub(super) fn choose(&self, wish: &Wish) -> Option<&Arc<ProxyTarget>> {
        let live = self.routed().next()?;
        let canary = || self.sides.iter().find(|side| side.color != live.color);
        let wanted = match wish.place {
            SharePlace::Live => live,
            SharePlace::Canary => return canary().unwrap_or(live).pick(wish),
            SharePlace::Turn(turn) => self.at(self.slot_of_turn(turn))?,
            SharePlace::Key(key) => self.at(self.slot_of_key(key))?,
        };
        let is_open = |side: &&RouteSide| !wish.is_refused(side.color);
        let side = if is_open(&wanted) { wanted } else { self.open().find(is_open).unwrap_or(wanted) };
        side.pick(wish)
    }

    /// The sides that the public's requests may go to, the backup last.
    fn open(&self) -> impl Iterator<Item = &RouteSide> {
        let backup = self.sides.iter().filter(|side| side.weight == 0 && Some(side.color) == self.backup);
        self.routed().chain(backup)
    }

    /// Whether a request could go to another color than this one.
    pub(super) fn has_other_than(&self, color: Color) -> bool {
        self.open().any(|side| side.color != color)
    }

    /// Whether a request could go to an instance of this color that it did not pass over.
    pub(super) fn has_more_of(&self, color: Color, wish: &Wish) -> bool {
        let of_color = self.targets().filter(|target| target.identity.color == color);
        of_color.into_iter().any(|target| !wish.is_passed_over(target.number))
    }

    fn routed(&self) -> impl Iterator<Item = &RouteSide> {
        self.sides.iter().filter(|side| side.weight > 0)
    }

    fn at(&self, mut slot: u64) -> Option<&RouteSide> {
        self.sides.iter().find(|side| {
            let here = slot < side.weight;
            slot = slot.saturating_sub(side.weight);
            here
        })
    }

    fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn slot_of_turn(&self, turn: u64) -> u64 {
        turn % self.total * self.stride % self.total
    }

    fn slot_of_key(&self, key: u64) -> u64 {
        let share = u128::from(mixed(key ^ self.seed)) * u128::from(self.total);
        // Less than the total.
        (share >> 64) as u64
    }

    /// A number for a new client. New clients take turns, so that the shares are right even for few of them.
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
        front::builtin::{
            tally::WorkerTally,
            target::{Identity, Lease},
        },
        rules::{address::Address, canary::Share, ids::Generation, route::Preview},
    };

    const SECRET: &str = "s3cret-s3cret-s3cret";

    /// A side with this many instances, on ports from `first` on.
    fn side(color: Color, (first, instances): (u16, u16), number: u64) -> route::Side {
        let release = format!("20261121T101112Z-{number}-0123456").parse().unwrap();
        route::Side {
            color,
            release,
            addresses: (first..first + instances).map(Address::Port).collect(),
            directory: None,
        }
    }

    fn of(route: &Route) -> RouteTable {
        let target = |identity| {
            Arc::new(ProxyTarget::new(identity, [WorkerTally::default()].into(), Arc::<Notify>::default()))
        };
        RouteTable::new(route, |side| Identity::all(side).map(target).collect(), Arc::default())
    }

    fn table(canary: u8, sticky: Sticky, number: u64) -> RouteTable {
        let [live, beside] = Color::ALL.map(|color| side(color, (9501, 1), number));
        let share = Share::percent(canary).unwrap();
        let mut route = Route::to(Generation(1), live).beside(beside, share);
        route.sticky = sticky;
        route.preview =
            Some(Preview { header: "x-p".to_owned(), cookie: "p".to_owned(), secret: SECRET.to_owned() });
        of(&route)
    }

    #[test]
    fn a_backup_takes_what_the_live_target_refuses_and_nothing_else() {
        let mut route = Route::to(Generation(1), side(Color::Green, (9501, 1), 2));
        route.backup = Some(side(Color::Blue, (9501, 1), 1));
        let table = of(&route);
        let mut wish = table.wish(&HeaderMap::new(), &client(1));
        assert_eq!(color(&table, &wish), Color::Green);
        assert!(wish.refuse(Color::Green));
        assert_eq!(color(&table, &wish), Color::Blue);
        assert!(table.has_other_than(Color::Green));
        route.backup = None;
        let table = of(&route);
        assert_eq!(color(&table, &wish), Color::Green);
        assert!(!table.has_other_than(Color::Green));
    }

    fn client(number: u32) -> ClientAddress {
        ClientAddress::of(std::net::Ipv4Addr::from(0x0a00_0000 + number).into())
    }

    fn headers(name: hyper::header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    fn color(table: &RouteTable, wish: &Wish) -> Color {
        table.choose(wish).unwrap().identity.color
    }

    fn goes(table: &RouteTable, headers: &HeaderMap, number: u32) -> Color {
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
        let table = table(10, Sticky::None, 1);
        let chosen = of_each(100, |_| goes(&table, &HeaderMap::new(), 1));
        assert_eq!(share(&chosen), 10.0);
        assert!((6.0..=14.0).contains(&share(&chosen[..50])), "{}", share(&chosen[..50]));
    }

    #[test]
    fn a_clients_side_moves_only_towards_the_canary_while_its_share_grows() {
        let mut before = vec![Color::Blue; 20_000];
        for canary in [0, 1, 5, 25, 50, 99] {
            let table = table(canary, Sticky::Ip, 1);
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
            let table = table(50, Sticky::Ip, number);
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
        let dealing = table(25, sticky(), 1);
        let wishes = of_each(200, |number| dealing.wish(&HeaderMap::new(), &client(number)));
        let went: Vec<_> = wishes.iter().map(|wish| color(&dealing, wish)).collect();
        assert_eq!(share(&went), 25.0);
        let grown = table(50, sticky(), 1);
        for (wish, went) in wishes.iter().zip(went) {
            let cookie = wish.greeting().unwrap();
            let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
            let back = headers(COOKIE, &format!("a=b; {pair}"));
            let again = dealing.wish(&back, &client(0));
            assert_eq!((color(&dealing, &again), again.greeting()), (went, None));
            assert!(went == Color::Blue || goes(&grown, &back, 0) == Color::Green);
        }
    }

    /// Three instances of blue and two of green.
    fn several(canary: u8) -> RouteTable {
        let share = Share::percent(canary).unwrap();
        let blue = side(Color::Blue, (1, 3), 1);
        of(&Route::to(Generation(1), blue).beside(side(Color::Green, (4, 2), 1), share))
    }

    fn port(table: &RouteTable, wish: &Wish) -> u16 {
        table.choose(wish).unwrap().identity.origin.address().unwrap().port().unwrap()
    }

    #[test]
    fn a_color_s_share_is_divided_evenly_among_its_instances() {
        let table = several(20);
        let mut times = [0; 6];
        for _ in 0..600 {
            times[usize::from(port(&table, &table.wish(&HeaderMap::new(), &client(1))))] += 1;
        }
        assert_eq!(times, [0, 160, 160, 160, 60, 60]);
    }

    #[test]
    fn an_instance_that_has_more_in_flight_is_left_for_the_next_one() {
        let table = several(0);
        let busy = table.choose(&Wish::default()).unwrap();
        let lease = Lease::new(Arc::clone(busy), 0);
        assert!((0..9).all(|_| !Arc::ptr_eq(table.choose(&Wish::default()).unwrap(), busy)));
        drop(lease);
        assert!((0..9).any(|_| Arc::ptr_eq(table.choose(&Wish::default()).unwrap(), busy)));
    }

    #[test]
    fn an_instance_that_refuses_is_passed_over_and_so_is_its_color_once_all_do() {
        let table = several(50);
        let mut wish = Wish::new(SharePlace::Live);
        let mut asked = Vec::new();
        for left in (0..3).rev() {
            let target = table.choose(&wish).unwrap();
            asked.push(target.identity.origin.address().unwrap().port().unwrap());
            wish.pass_over(target.number);
            assert_eq!(table.has_more_of(Color::Blue, &wish), left > 0);
        }
        asked.sort_unstable();
        assert_eq!(asked, [1, 2, 3]);
        wish.refuse(Color::Blue);
        assert!(port(&table, &wish) > 3);
        wish.try_all_again();
        assert!(port(&table, &wish) <= 3);
        // Others do not even try one that has just refused.
        let target = Arc::clone(table.choose(&Wish::default()).unwrap());
        target.rest(std::time::Duration::from_secs(3600));
        assert!((0..9).all(|_| !Arc::ptr_eq(table.choose(&Wish::default()).unwrap(), &target)));
    }

    #[test]
    fn a_preview_reaches_the_canary_at_any_share_and_nobody_else_at_none() {
        let asks = headers(hyper::header::HeaderName::from_static("x-p"), SECRET);
        for sticky in [Sticky::None, Sticky::Ip, Sticky::Cookie("side".to_owned())] {
            for canary in [0, 5] {
                let table = table(canary, sticky.clone(), 1);
                let previewed = of_each(200, |number| goes(&table, &asks, number));
                assert!(previewed.iter().all(|color| *color == Color::Green));
                assert_eq!(table.wish(&asks, &client(1)).greeting(), None);
            }
            let unshared = table(0, sticky, 1);
            let others = of_each(1000, |number| goes(&unshared, &HeaderMap::new(), number));
            assert!(others.iter().all(|color| *color == Color::Blue));
            assert_eq!(unshared.wish(&HeaderMap::new(), &client(1)).greeting(), None);
        }
    }

    #[test]
    fn a_color_that_refused_is_passed_over_unless_both_did() {
        let shared = table(50, Sticky::Ip, 1);
        let mut wish = shared.wish(&HeaderMap::new(), &client(7));
        let first = color(&shared, &wish);
        assert!(wish.refuse(first));
        assert_eq!(color(&shared, &wish), first.other());
        wish.refuse(first.other());
        assert_eq!(color(&shared, &wish), first);
        wish.try_all_again();
        assert!(!wish.refuse(first), "blamed once");
        assert_eq!(color(&shared, &wish), first.other());
        let unshared = table(0, Sticky::None, 1);
        let mut wish = Wish::default();
        wish.refuse(Color::Blue);
        assert_eq!(color(&unshared, &wish), Color::Blue, "the canary is for previews alone");
    }
}
