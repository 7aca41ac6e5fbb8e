//! Waits until nginx's former workers are gone. Nothing less is safe: a worker that is shutting down may still
//! open a connection to the old port for a request whose body it has just completed, so a connection count
//! of zero proves nothing. Former workers are identified by pid and start time, so the wait survives a restart of bgd.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Nginx, NginxError, master, master::Accepting};
use crate::{
    os::{
        holders::sockets_of,
        process::{Process, boot_id},
        tcp, unix,
    },
    rules::{address::Address, ids::Color},
};

/// The workers that served before a cutover, and the addresses to which they may still send requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The boot their start times belong to.
    pub boot: String,
    /// The workers, by pid and start time.
    pub workers: Vec<Process>,
    /// The app's addresses that receive no new requests.
    pub addresses: Vec<Address>,
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Pids of former workers that are still there; empty when all is drained.
    pub left_workers: Vec<i32>,
    /// Connections to the former addresses that are open now, which stopping the color would cut; `None` when the
    /// kernel does not show them.
    pub connections: Option<usize>,
}

impl Drained {
    /// Whether nothing is in flight any more.
    pub fn is_complete(&self) -> bool {
        self.left_workers.is_empty()
    }
}

/// Pauses between two looks, at first and in a long wait; a look costs one small file.
const SOON: Duration = Duration::from_millis(10);
const LATER: Duration = Duration::from_millis(50);

impl Former {
    pub(super) fn new(workers: Vec<Process>, addresses: Vec<Address>) -> Self {
        Self { boot: boot_id().unwrap_or_default().to_owned(), workers, addresses }
    }

    /// Connections that are open on the former sockets. Behind a link the workers stay after a flip, so waiting for
    /// their end is not enough; on ports it is, and this is 0.
    fn open(&self) -> usize {
        self.addresses
            .iter()
            .filter_map(Address::socket)
            .filter_map(|path| unix::connections(path).ok())
            .sum()
    }

    /// The number of consecutive looks that must find nothing.
    fn looks(&self) -> u32 {
        if self.addresses.iter().any(|address| address.socket().is_some()) { 2 } else { 1 }
    }

    /// The workers that still run.
    pub fn left(&self) -> Vec<Process> {
        let same_boot = self.boot == boot_id().unwrap_or_default();
        self.workers.iter().copied().filter(|worker| same_boot && worker.is_alive()).collect()
    }
}

impl Nginx {
    /// The workers that nginx itself marks as shutting down. Before a color stops, bgd waits for them when the proof of
    /// the last cutover is lost.
    pub fn leaving(&self, color: Color) -> Result<Former, NginxError> {
        let workers = master::workers(master::master(&self.settings.pid_file)?)?;
        let leaving = workers.into_iter().filter(|worker| worker.standing == Accepting::Leaving);
        Ok(Former::new(leaving.map(|worker| worker.process).collect(), self.addresses.all(color).collect()))
    }

    /// Waits until every former worker is gone, or until the deadline. Dropping the future changes nothing.
    pub async fn drained(&self, former: &Former, deadline: Instant) -> Drained {
        let (mut pause, mut empty) = (SOON, 0);
        loop {
            let left = former.left();
            let open = if left.is_empty() { former.open() } else { 0 };
            // Twice on sockets: a request may have chosen the socket and not be connected yet.
            empty = if left.is_empty() && open == 0 { empty + 1 } else { 0 };
            if empty >= former.looks() {
                return Drained { left_workers: Vec::new(), connections: Some(0) };
            }
            let now = Instant::now();
            if now >= deadline {
                let left_workers = left.iter().map(|worker| worker.pid).collect();
                return Drained { left_workers, connections: connections(&left, &former.addresses) };
            }
            sleep(pause.min(deadline - now)).await;
            pause = (pause * 2).min(LATER);
        }
    }
}

/// The number of connections of these workers to the addresses; read once, at the end of a drain that took too long.
fn connections(workers: &[Process], addresses: &[Address]) -> Option<usize> {
    let ports: Vec<u16> = addresses.iter().filter_map(Address::port).collect();
    if ports.is_empty() && !addresses.is_empty() {
        return open_on_sockets(addresses);
    }
    let own: Option<HashSet<u64>> = workers.iter().try_fold(HashSet::new(), |mut all, worker| {
        all.extend(sockets_of(worker.pid).ok()?.map(|(_, inode)| inode));
        Some(all)
    });
    let clients = ports.iter().map(|port| tcp::clients_of(*port).ok());
    let clients: Vec<_> = clients.collect::<Option<Vec<_>>>()?.concat();
    // Without permission to see the workers' own sockets, every client of the port counts.
    let is_theirs = |inode: &u64| own.as_ref().is_none_or(|own| own.contains(inode));
    Some(clients.iter().filter(|client| is_theirs(&client.inode)).count())
}

/// Counts the app's ends of open connections, of all clients: the client's end of a unix socket has no name.
fn open_on_sockets(addresses: &[Address]) -> Option<usize> {
    let paths = addresses.iter().filter_map(Address::socket);
    paths.map(|path| unix::connections(path).ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_an_earlier_boot_is_gone() {
        let pid = std::process::id().cast_signed();
        let own = Process::of(pid).unwrap();
        let mut former = Former::new(vec![own], vec![]);
        assert_eq!(former.left(), [own]);
        former.boot = "another".into();
        assert_eq!(former.left(), []);
    }

    #[test]
    fn own_connections_are_found_by_their_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _open = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let own = Process::of(std::process::id().cast_signed()).unwrap();
        assert_eq!(connections(&[own], &[Address::Port(port)]), Some(1));
    }
}
