//! The switch: which targets receive traffic, changed as a whole. Exact: once `apply` has returned, no new
//! request goes to a target that left the route, and its count in flight says all that is left.
//!
//! Why that holds: a request counts itself first and reads the epoch again afterwards; a flip stores the
//! table, raises the epoch, and only then reads counts. In the one total order of those operations either
//! the request sees the new epoch (and chooses again), or the reader of the counts sees the request.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use hyper::HeaderMap;
use tokio::{sync::Notify, time::Instant};

use super::{
    control::{FrontCounters, PerColor},
    headers::ClientAddress,
    table::RouteTable,
    tally::WorkerTally,
    target::{Identity, Lease, ProxyTarget},
    wish::Wish,
};
use crate::rules::{
    address::Address,
    ids::{Color, Generation},
    route::{FilesServed, Route, Side},
    traffic::Figures,
};

/// A route older than the one in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("generation {asked} is older than {current}, which is routed")]
pub(super) struct Outdated {
    pub(super) asked: Generation,
    pub(super) current: Generation,
}

/// Which targets receive traffic.
pub(super) struct Switch {
    table: ArcSwap<RouteTable>,
    epoch: AtomicU64,
    known: Mutex<KnownFront>,
    empty: Arc<Notify>,
    tallies: Arc<[WorkerTally]>,
    turn: Arc<AtomicU64>,
}

#[derive(Default)]
struct KnownFront {
    route: Option<Route>,
    /// The routed targets, and retired ones that still have requests in flight.
    targets: Vec<Arc<ProxyTarget>>,
}

impl Switch {
    /// A switch without a route.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            table: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            known: Mutex::default(),
            empty: Arc::default(),
            turn: Arc::default(),
            tallies: (0..workers).map(|_| WorkerTally::default()).collect(),
        }
    }

    /// Reads where a request should go. Call it once for each request: it takes a turn.
    pub(super) fn wish(&self, headers: &HeaderMap, client: &ClientAddress) -> Wish {
        self.table.load().wish(headers, client)
    }

    /// What the front reads from the disk by itself.
    pub(super) fn files(&self) -> Arc<FilesServed> {
        Arc::clone(self.table.load().files())
    }

    /// Whether a static site is routed.
    pub(super) fn has_directories(&self) -> bool {
        self.table.load().has_directories()
    }

    /// Whether a request could go to a target of another color instead.
    pub(super) fn has_other_than(&self, color: Color) -> bool {
        self.table.load().has_other_than(color)
    }

    /// Whether a request could go to another instance of the color instead.
    pub(super) fn has_more_of(&self, color: Color, wish: &Wish) -> bool {
        self.table.load().has_more_of(color, wish)
    }

    /// Claims a target for one request of `worker`; `None` when nothing is live.
    pub(super) fn lease(&self, worker: usize, wish: &Wish) -> Option<Lease> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let table = self.table.load();
            let lease = Lease::new(Arc::clone(table.choose(wish)?), worker);
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return Some(lease);
            }
        }
    }

    /// Puts a route in force. A lower generation than the current one is refused.
    pub(super) fn apply(&self, route: &Route) -> Result<(), Outdated> {
        let mut known = self.known();
        if let Some(current) = known.route.as_ref().map(|current| current.generation)
            && route.generation < current
        {
            return Err(Outdated { asked: route.generation, current });
        }
        let listed = self.table.load();
        let targets = |side: &Side| Identity::all(side).map(|it| self.target(&listed, it)).collect();
        let table = RouteTable::new(route, targets, Arc::clone(&self.turn));
        let current: Vec<_> = table.targets().map(Arc::clone).collect();
        let former = self.table.swap(Arc::new(table));
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let stays = |target: &Arc<ProxyTarget>| current.iter().any(|kept| Arc::ptr_eq(kept, target));
        for target in former.targets() {
            if !stays(target) {
                target.retire();
            }
        }
        known.targets.retain(|target| stays(target) || target.in_flight() > 0);
        for target in current {
            if !known.targets.iter().any(|kept| Arc::ptr_eq(kept, &target)) {
                known.targets.push(target);
            }
        }
        known.route = Some(route.clone());
        Ok(())
    }

    /// The listed target of this identity, with its connections and counts; else a new one.
    fn target(&self, listed: &RouteTable, identity: Identity) -> Arc<ProxyTarget> {
        let same = listed.targets().find(|target| target.identity == identity);
        same.map_or_else(
            || Arc::new(ProxyTarget::new(identity, Arc::clone(&self.tallies), Arc::clone(&self.empty))),
            Arc::clone,
        )
    }

    /// The route in force.
    pub(super) fn route(&self) -> Option<Route> {
        self.known().route.clone()
    }

    /// Requests in flight on all targets of each color, retired ones included.
    pub(super) fn in_flight(&self) -> PerColor<u64> {
        let known = self.known();
        PerColor::from_fn(|color| {
            known.targets.iter().filter(|t| t.identity.color == color).map(|t| t.in_flight()).sum()
        })
    }

    /// Waits until nothing is in flight on a color, at most until `deadline`; returns the number of requests left.
    pub(super) async fn drained(&self, color: Color, deadline: Instant) -> u64 {
        /// Time between two checks: a target that is still routed does not notify when its last request ends.
        const LOOK: Duration = Duration::from_millis(20);
        loop {
            let ended = self.empty.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let left = *self.in_flight().of(color);
            if left == 0 || Instant::now() >= deadline {
                return left;
            }
            // Cancel-safe: `ended` was enabled before the count was read, so no end is missed.
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)) => {}
            }
        }
    }

    /// Closes all connections to a color's targets, routed and retired; returns how many those were.
    pub(super) fn cut(&self, color: Color) -> usize {
        let known = self.known();
        known.targets.iter().filter(|target| target.identity.color == color).map(|t| t.cut()).sum()
    }

    /// Closes idle connections of `worker` that are too old.
    pub(super) fn sweep(&self, worker: usize) {
        for target in self.table.load().targets() {
            target.sweep(worker);
        }
    }

    /// Closes all idle connections of `worker`.
    pub(super) fn close_idle(&self, worker: usize) {
        for target in self.table.load().targets() {
            target.close_idle(worker);
        }
    }

    /// The plain counters since the start, summed over the workers.
    pub(super) fn counters(&self) -> PerColor<FrontCounters> {
        let sum = |color| {
            self.tallies.iter().fold(FrontCounters::default(), |sum, tally| sum.plus(&tally.counters(color)))
        };
        PerColor::from_fn(sum)
    }

    /// Passes over the targets at these addresses, and only those, for this long.
    pub(super) fn pass_over(&self, addresses: &[Address], within: Duration) {
        for target in self.table.load().targets() {
            match target.identity.origin.address().is_some_and(|at| addresses.contains(at)) {
                true => target.rest(within),
                false => target.rest_no_more(),
            }
        }
    }

    /// The figures of real traffic since the start, summed over the workers.
    pub(super) fn figures(&self) -> PerColor<Figures> {
        let sum = |color| {
            self.tallies.iter().fold(Figures::default(), |sum, tally| sum.plus(&tally.figures(color)))
        };
        PerColor::from_fn(sum)
    }

    fn known(&self) -> MutexGuard<'_, KnownFront> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::route::{FlatRoute, Weighted};

    fn route(generation: u64, shares: &[(Color, u16)]) -> Route {
        let backend = |(color, weight): &(Color, u16)| Weighted {
            color: *color,
            address: Address::Port(9501),
            weight: *weight,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
        };
        FlatRoute::new(Generation(generation), shares.iter().map(backend).collect()).into()
    }

    #[test]
    fn a_route_put_in_force_again_and_again_gives_the_canary_its_share() {
        let switch = Switch::new(1);
        let route = route(1, &[(Color::Blue, 95), (Color::Green, 5)]);
        let client = ClientAddress::of(std::net::Ipv4Addr::LOCALHOST.into());
        let color = |number| {
            if number % 10 == 0 {
                switch.apply(&route).unwrap();
            }
            let wish = switch.wish(&HeaderMap::new(), &client);
            switch.lease(0, &wish).unwrap().target().identity.color
        };
        assert_eq!((0..100).map(color).filter(|color| *color == Color::Green).count(), 5);
    }

    #[test]
    fn who_is_passed_over_is_asked_again_when_nobody_else_is_left_and_when_it_is_said() {
        let switch = Switch::new(1);
        let mut route = route(1, &[(Color::Blue, 1), (Color::Blue, 1)]);
        route.live.as_mut().unwrap().addresses[1] = Address::Port(9502);
        switch.apply(&route).unwrap();
        let all = [Address::Port(9501), Address::Port(9502)];
        let asked = || {
            let asked = (0..20).map(|_| {
                switch
                    .lease(0, &Wish::default())
                    .unwrap()
                    .target()
                    .identity
                    .origin
                    .address()
                    .cloned()
                    .unwrap()
            });
            asked.collect::<std::collections::BTreeSet<_>>()
        };
        let long = Duration::from_secs(3600);
        assert_eq!(asked().len(), 2);
        switch.pass_over(&all[..1], long);
        assert_eq!(asked(), [all[1].clone()].into());
        // A connection that is refused does not end it early.
        switch.table.load().targets().for_each(|target| target.rest(Duration::ZERO));
        assert_eq!(asked(), [all[1].clone()].into());
        switch.pass_over(&all, long);
        assert_eq!(asked().len(), 2);
        switch.pass_over(&all[1..], long);
        assert_eq!(asked(), [all[0].clone()].into());
        switch.pass_over(&[], long);
        assert_eq!(asked().len(), 2);
    }

    #[test]
    fn an_older_generation_is_refused_and_the_same_one_is_not() {
        let switch = Switch::new(1);
        switch.apply(&route(7, &[(Color::Blue, 1)])).unwrap();
        switch.apply(&route(7, &[(Color::Blue, 1)])).unwrap();
        let refused = switch.apply(&route(6, &[(Color::Green, 1)])).unwrap_err();
        assert_eq!(refused, Outdated { asked: Generation(6), current: Generation(7) });
        assert_eq!(switch.route().unwrap().color(), Some(Color::Blue));
    }

    #[test]
    fn a_retired_target_is_counted_until_its_last_lease_ends() {
        let switch = Switch::new(2);
        switch.apply(&route(1, &[(Color::Blue, 1)])).unwrap();
        let lease = switch.lease(1, &Wish::default()).unwrap();
        switch.apply(&route(2, &[(Color::Green, 1)])).unwrap();
        switch.apply(&route(3, &[(Color::Blue, 1)])).unwrap();
        assert_eq!(*switch.in_flight().of(Color::Blue), 1);
        drop(lease);
        assert_eq!(*switch.in_flight().of(Color::Blue), 0);
        switch.apply(&route(4, &[])).unwrap();
        assert!(switch.lease(0, &Wish::default()).is_none());
    }

    #[tokio::test]
    async fn drained_wakes_at_the_last_end_and_gives_up_at_the_deadline() {
        let switch = Arc::new(Switch::new(1));
        switch.apply(&route(1, &[(Color::Blue, 1)])).unwrap();
        let lease = switch.lease(0, &Wish::default()).unwrap();
        switch.apply(&route(2, &[])).unwrap();
        assert_eq!(switch.drained(Color::Blue, Instant::now()).await, 1);
        let waiting = {
            let switch = Arc::clone(&switch);
            let deadline = Instant::now() + Duration::from_secs(30);
            tokio::spawn(async move { switch.drained(Color::Blue, deadline).await })
        };
        tokio::task::yield_now().await;
        drop(lease);
        assert_eq!(waiting.await.unwrap(), 0);
    }

    #[test]
    fn a_flip_never_leaves_an_uncounted_request_behind() {
        let switch = Arc::new(Switch::new(2));
        switch.apply(&route(1, &[(Color::Blue, 1)])).unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        // For each color: set while it may receive requests at all.
        let allowed = Arc::new(PerColor::from_fn(|_| std::sync::atomic::AtomicBool::new(true)));
        let requests: Vec<_> = (0..2)
            .map(|worker| {
                let (switch, stop, allowed) = (Arc::clone(&switch), Arc::clone(&stop), Arc::clone(&allowed));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        let lease = switch.lease(worker, &Wish::default()).unwrap();
                        let color = lease.target().identity.color;
                        assert!(allowed.of(color).load(Ordering::SeqCst), "request on a stopped color");
                    }
                })
            })
            .collect();
        for generation in 2..2000 {
            let to = if generation % 2 == 0 { Color::Green } else { Color::Blue };
            allowed.of(to).store(true, Ordering::SeqCst);
            switch.apply(&route(generation, &[(to, 1)])).unwrap();
            while *switch.in_flight().of(to.other()) > 0 {
                std::thread::yield_now();
            }
            allowed.of(to.other()).store(false, Ordering::SeqCst);
        }
        stop.store(true, Ordering::SeqCst);
        for thread in requests {
            thread.join().unwrap();
        }
    }
}
