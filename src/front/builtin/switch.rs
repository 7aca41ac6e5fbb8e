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
use tokio::{sync::Notify, time::Instant};

use super::{
    control::{Counters, PerColor},
    target::{Identity, Lease, Target},
};
use crate::{
    front::route::Route,
    rules::ids::{Color, Generation},
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
    table: ArcSwap<Table>,
    epoch: AtomicU64,
    known: Mutex<Known>,
    empty: Arc<Notify>,
    workers: usize,
    tallies: Box<[Tally]>,
}

#[derive(Default)]
struct Known {
    route: Option<Route>,
    /// Routed now, and retired ones that still have requests in flight.
    targets: Vec<Arc<Target>>,
}

/// What one worker counted since the start.
#[repr(align(128))]
#[derive(Default)]
struct Tally {
    requests: PerColor<AtomicU64>,
    server_errors: PerColor<AtomicU64>,
    connect_failures: PerColor<AtomicU64>,
}

/// One state of the route, as requests read it.
#[derive(Default)]
struct Table {
    entries: Vec<(Arc<Target>, u64)>,
    total: u64,
    /// Coprime to `total` and near its golden section: visits every slot once per round, well mixed.
    stride: u64,
    ticket: AtomicU64,
}

impl Table {
    fn new(entries: Vec<(Arc<Target>, u64)>) -> Self {
        let total = entries.iter().map(|(_, weight)| weight).sum();
        Self { entries, total, stride: stride(total), ticket: AtomicU64::new(0) }
    }

    fn choose(&self) -> Option<&Arc<Target>> {
        if let [(only, _)] = self.entries.as_slice() {
            return Some(only);
        }
        if self.total == 0 {
            return None;
        }
        let ticket = self.ticket.fetch_add(1, Ordering::Relaxed) % self.total;
        let mut slot = ticket * self.stride % self.total;
        self.entries.iter().find_map(|(target, weight)| {
            if slot < *weight {
                return Some(target);
            }
            slot -= weight;
            None
        })
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

impl Switch {
    /// Routes nothing yet.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            table: ArcSwap::default(),
            epoch: AtomicU64::new(0),
            known: Mutex::default(),
            empty: Arc::default(),
            workers,
            tallies: (0..workers).map(|_| Tally::default()).collect(),
        }
    }

    /// Claims a target for one request of `worker`; `None` when nothing is live.
    pub(super) fn lease(&self, worker: usize) -> Option<Lease> {
        loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let table = self.table.load();
            let lease = Lease::new(Arc::clone(table.choose()?), worker);
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
        let table = Table::new(self.entries(route));
        let current: Vec<_> = table.entries.iter().map(|(target, _)| Arc::clone(target)).collect();
        let former = self.table.swap(Arc::new(table));
        self.epoch.fetch_add(1, Ordering::SeqCst);
        let stays = |target: &Arc<Target>| current.iter().any(|kept| Arc::ptr_eq(kept, target));
        for (target, _) in &former.entries {
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

    /// Targets of the backends with weight; those already routed keep their connections and counts.
    fn entries(&self, route: &Route) -> Vec<(Arc<Target>, u64)> {
        let routed = self.table.load();
        let weighty = route.backends.iter().filter(|backend| backend.weight > 0);
        weighty
            .map(|backend| {
                let identity = Identity::from(backend);
                let same = routed.entries.iter().find(|(target, _)| target.identity == identity);
                let target = match same {
                    Some((target, _)) => Arc::clone(target),
                    None => Arc::new(Target::new(identity, self.workers, Arc::clone(&self.empty))),
                };
                (target, u64::from(backend.weight))
            })
            .collect()
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

    /// Waits until nothing is in flight on a color, at most until `deadline`; answers what is left.
    pub(super) async fn drained(&self, color: Color, deadline: Instant) -> u64 {
        /// A routed target does not announce its end, so it is looked at again this often.
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

    /// Closes what is open on a color's former targets, and on its current one when it is routed; answers
    /// how many connections those were.
    pub(super) fn cut(&self, color: Color) -> usize {
        let known = self.known();
        known.targets.iter().filter(|target| target.identity.color == color).map(|t| t.cut()).sum()
    }

    /// Closes idle connections of `worker` that are too old.
    pub(super) fn sweep(&self, worker: usize) {
        for (target, _) in &self.table.load().entries {
            target.sweep(worker);
        }
    }

    /// A request was answered by a color with this status.
    pub(super) fn count_answer(&self, lease: &Lease, status: u16) {
        let tally = &self.tallies[lease.worker()];
        let color = lease.target().identity.color;
        tally.requests.of(color).fetch_add(1, Ordering::Relaxed);
        if status >= 500 {
            tally.server_errors.of(color).fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A color could not be connected.
    pub(super) fn count_connect_failure(&self, lease: &Lease) {
        let tally = &self.tallies[lease.worker()];
        tally.connect_failures.of(lease.target().identity.color).fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the start.
    pub(super) fn counters(&self) -> PerColor<Counters> {
        let sum = |of: &dyn Fn(&Tally) -> &AtomicU64| {
            self.tallies.iter().map(|tally| of(tally).load(Ordering::Relaxed)).sum()
        };
        PerColor::from_fn(|color| Counters {
            requests: sum(&|tally| tally.requests.of(color)),
            server_errors: sum(&|tally| tally.server_errors.of(color)),
            connect_failures: sum(&|tally| tally.connect_failures.of(color)),
        })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::route::Backend;

    fn route(generation: u64, shares: &[(Color, u16)]) -> Route {
        let backend = |(color, weight): &(Color, u16)| Backend {
            color: *color,
            port: 9501,
            weight: *weight,
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
        };
        Route::new(Generation(generation), shares.iter().map(backend).collect())
    }

    #[test]
    fn weights_are_exact_over_one_round_and_mixed_within_it() {
        let switch = Switch::new(1);
        switch.apply(&route(1, &[(Color::Blue, 90), (Color::Green, 10)])).unwrap();
        let chosen: Vec<_> = (0..100).map(|_| switch.lease(0).unwrap().target().identity.color).collect();
        assert_eq!(chosen.iter().filter(|color| **color == Color::Green).count(), 10);
        let first_half = chosen[..50].iter().filter(|color| **color == Color::Green).count();
        assert!((3..=7).contains(&first_half), "{first_half}");
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
        let lease = switch.lease(1).unwrap();
        switch.apply(&route(2, &[(Color::Green, 1)])).unwrap();
        switch.apply(&route(3, &[(Color::Blue, 1)])).unwrap();
        assert_eq!(*switch.in_flight().of(Color::Blue), 1);
        drop(lease);
        assert_eq!(*switch.in_flight().of(Color::Blue), 0);
        switch.apply(&route(4, &[])).unwrap();
        assert!(switch.lease(0).is_none());
    }

    #[tokio::test]
    async fn drained_wakes_at_the_last_end_and_gives_up_at_the_deadline() {
        let switch = Arc::new(Switch::new(1));
        switch.apply(&route(1, &[(Color::Blue, 1)])).unwrap();
        let lease = switch.lease(0).unwrap();
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
                        let lease = switch.lease(worker).unwrap();
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
