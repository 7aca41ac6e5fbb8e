//! How many may be connected to the control socket at once, so that nobody's connections use up what deploys and
//! other users need (promise N1). Used by `server` for each connection; knows neither requests nor rights.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Notify;

/// Connections of one user: a person has a few, a dashboard that asks for each app some dozens.
const OF_ONE_USER: usize = 64;
/// Connections of all users but root and the daemon's own.
const OF_ALL: usize = 256;
/// Divisor of the limit of open files: connections may take a quarter.
const PART: usize = 4;
/// Descriptors kept open for connections alone, for when apps have used up all others.
const SPARE: usize = 8;

/// The connections of the control socket.
#[derive(Debug)]
pub(super) struct Visitors {
    most: usize,
    present: Mutex<PresentVisitors>,
}

#[derive(Debug, Default)]
struct PresentVisitors {
    next: u64,
    /// Oldest first.
    all: Vec<ApiVisitor>,
}

#[derive(Debug)]
struct ApiVisitor {
    number: u64,
    uid: u32,
    /// Notified when it has to leave; `None` once its request was read.
    silent: Option<Arc<Notify>>,
}

/// Whether the limit of all connections together applies to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rank {
    /// Root and the daemon's own user: strangers' connections never keep them out.
    First,
    Other,
}

/// One connection's place, until dropped.
#[derive(Debug)]
pub(super) struct Seat {
    visitors: Arc<Visitors>,
    number: u64,
    leave: Arc<Notify>,
}

impl Visitors {
    pub fn new() -> Arc<Self> {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let part = usize::try_from(files).unwrap_or(usize::MAX) / PART;
        Arc::new(Self { most: part.clamp(1, OF_ALL), present: Mutex::default() })
    }

    /// A place for one more connection. At a limit, the oldest connection that has not sent its request is dismissed;
    /// `None` when all have.
    pub fn seat(self: &Arc<Self>, uid: u32, rank: Rank) -> Option<Seat> {
        let mut present = self.lock();
        if present.all.iter().filter(|one| one.uid == uid).count() >= OF_ONE_USER {
            present.dismiss(|one| one.uid == uid)?;
        }
        if rank == Rank::Other && present.all.len() >= self.most {
            present.dismiss(|_| true)?;
        }
        let (number, leave) = (present.next, Arc::new(Notify::new()));
        present.next += 1;
        present.all.push(ApiVisitor { number, uid, silent: Some(leave.clone()) });
        Some(Seat { visitors: self.clone(), number, leave })
    }

    fn lock(&self) -> MutexGuard<'_, PresentVisitors> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PresentVisitors {
    fn dismiss(&mut self, meant: impl Fn(&ApiVisitor) -> bool) -> Option<()> {
        let at = self.all.iter().position(|one| one.silent.is_some() && meant(one))?;
        if let Some(leave) = self.all.remove(at).silent {
            leave.notify_one();
        }
        Some(())
    }
}

impl Seat {
    /// Resolves when the connection has to make room. Cancel-safe.
    pub async fn dismissed(&self) {
        self.leave.notified().await;
    }

    /// Called once the request was read: from now on the connection is not dismissed.
    pub fn heard(&self) {
        let mut present = self.visitors.lock();
        if let Some(visitor) = present.all.iter_mut().find(|one| one.number == self.number) {
            visitor.silent = None;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.visitors.lock().all.retain(|one| one.number != self.number);
    }
}

/// Descriptors held in reserve, to be closed when connections need them.
#[derive(Debug, Default)]
pub(super) struct SpareFiles(Vec<File>);

impl SpareFiles {
    /// Opens up to `SPARE` descriptors, or as many as the process still may.
    pub fn refill(&mut self) {
        while self.0.len() < SPARE {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                // None is free; the next look tries again.
                Err(_) => return,
            }
        }
    }

    /// Gives one up; false when there is none.
    pub fn give_up(&mut self) -> bool {
        self.0.pop().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n1_silent_connections_of_a_user_make_room_for_its_next_and_for_nobody_elses() {
        let visitors = Visitors::new();
        let silent: Vec<_> = (0..OF_ONE_USER).map(|_| visitors.seat(7, Rank::Other).unwrap()).collect();
        let other = visitors.seat(8, Rank::Other).unwrap();
        let next = visitors.seat(7, Rank::Other).unwrap();
        assert!(Arc::strong_count(&silent[0].leave) == 1, "the oldest has no place any more");
        assert!(Arc::strong_count(&silent[1].leave) == 2 && Arc::strong_count(&other.leave) == 2);
        for seat in silent.iter().chain([&next]) {
            seat.heard();
        }
        assert!(visitors.seat(7, Rank::Other).is_none(), "those that asked for something stay");
        assert!(visitors.seat(8, Rank::Other).is_some());
        drop(silent);
        assert!(visitors.seat(7, Rank::Other).is_some());
    }

    #[test]
    fn n1_root_gets_in_however_many_others_are_there() {
        let visitors = Visitors::new();
        let mut seats = Vec::new();
        for uid in 0..u32::try_from(OF_ALL).unwrap() {
            if let Some(seat) = visitors.seat(1000 + uid, Rank::Other) {
                seat.heard();
                seats.push(seat);
            }
        }
        assert!(seats.len() <= OF_ALL && visitors.seat(2000, Rank::Other).is_none());
        assert!(visitors.seat(0, Rank::First).is_some());
    }

    #[test]
    fn n1_spare_descriptors_are_given_up_one_by_one_and_come_back() {
        let mut spare = SpareFiles::default();
        spare.refill();
        assert_eq!((0..=SPARE).filter(|_| spare.give_up()).count(), SPARE);
        spare.refill();
        assert!(spare.give_up());
    }
}
