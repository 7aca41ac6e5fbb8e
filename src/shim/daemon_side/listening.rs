//! Checks whose socket listens at an instance's address: it must be of the instance's tree, and not shared with
//! another process. Called by the engine while it probes and before a flip. Reads the descriptors of the tree; of
//! other processes only those that can have the same socket: of the socket's users and of root. Blocks: call it on a
//! blocking thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
};

use super::{bystanders::Bystanders, handle::Handle};
use crate::{
    os::{
        holders::{Holder, held_by, holders, holders_among},
        process::user_of,
        tcp, tree,
    },
    process::ports,
    rules::address::Address,
};

const ROOT: u32 = 0;

/// Who listens at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listening {
    Nobody,
    /// The instance has every socket open that listens there.
    Instance {
        /// Its main process if that has them all, else the one with the lowest pid.
        pid: i32,
        /// The inodes of the sockets.
        sockets: BTreeSet<u64>,
    },
    /// Another process, alone or beside the instance with a socket of its own.
    Stranger,
}

/// The addresses to check for an instance.
#[derive(Debug, Clone)]
pub struct ExpectedAddresses {
    /// The instance's own address.
    pub own: Address,
    /// Addresses where it must not listen.
    pub foreign: Vec<Address>,
}

/// The result of a look at the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListeningLook {
    /// The listener at the instance's own address.
    pub own: Listening,
    /// The first foreign address where the instance listens, perhaps beside another process.
    pub elsewhere: Option<Address>,
    /// Inodes of the sockets at the foreign addresses.
    pub foreign: BTreeSet<u64>,
}

impl Handle {
    /// Looks at the addresses once. `passed` are sockets at foreign addresses that a former look found not to be the
    /// instance's; only the others are checked. Reads /proc and does not wait for the shim.
    pub fn look(&self, places: &ExpectedAddresses, passed: &BTreeSet<u64>) -> io::Result<ListeningLook> {
        let mut all = places.foreign.clone();
        all.push(places.own.clone());
        let (own, foreign): (Vec<_>, Vec<_>) =
            ports::listening_at_any(&all)?.into_iter().partition(|(place, _)| *place == places.own);
        let new: BTreeSet<u64> =
            foreign.iter().map(|(_, socket)| *socket).filter(|it| !passed.contains(it)).collect();
        let held = if new.is_empty() { BTreeMap::new() } else { self.sockets_of_tree(&new)? };
        let elsewhere = foreign.iter().find(|(_, socket)| held.contains_key(socket));
        Ok(ListeningLook {
            own: self.listening(own.into_iter().map(|(_, socket)| socket).collect())?,
            elsewhere: elsewhere.map(|(place, _)| place.clone()),
            foreign: foreign.into_iter().map(|(_, socket)| socket).collect(),
        })
    }

    /// The holder of these sockets of one address, by the descriptors of the instance's tree alone.
    fn listening(&self, sockets: BTreeSet<u64>) -> io::Result<Listening> {
        if sockets.is_empty() {
            return Ok(Listening::Nobody);
        }
        if let Some(pid) = self.main_pid().filter(|pid| self.owns(*pid))
            && held_by(pid, &sockets) == sockets
        {
            return Ok(Listening::Instance { pid, sockets });
        }
        let held = self.sockets_of_tree(&sockets)?;
        Ok(match held.values().min() {
            Some(pid) if held.len() == sockets.len() => Listening::Instance { pid: *pid, sockets },
            _ => Listening::Stranger,
        })
    }

    /// A process outside the tree that has one of the tree's sockets open too, by an inherited or passed descriptor.
    /// `bystanders` were recorded before the instance started.
    pub fn sharer(&self, sockets: &BTreeSet<u64>, bystanders: &Bystanders) -> io::Result<Option<Holder>> {
        let tree: BTreeSet<i32> = self.processes()?.into_iter().collect();
        let mut users: BTreeSet<u32> = tree.iter().filter_map(|pid| user_of(*pid)).collect();
        users.extend(tcp::owners(sockets)?);
        users.insert(ROOT);
        let can_matter = |pid: i32| {
            !tree.contains(&pid)
                && user_of(pid).is_some_and(|user| users.contains(&user))
                && !bystanders.slept(pid)
        };
        // A process that was born after the tree was read belongs to the tree.
        Ok(holders_among(can_matter, sockets)?.into_iter().find(|holder| !self.owns(holder.pid)))
    }

    /// A process outside the tree that listens there, for a message.
    pub fn stranger_at(&self, address: &Address) -> io::Result<Option<Holder>> {
        let sockets = ports::listening_at(address)?.into_iter().collect();
        Ok(holders(&sockets)?.into_iter().find(|holder| !self.owns(holder.pid)))
    }

    /// All addresses that processes of the tree listen at.
    pub fn listens_at_all(&self) -> io::Result<BTreeSet<SocketAddr>> {
        let listeners = tcp::listening(0)?;
        let held = self.sockets_of_tree(&listeners.iter().map(|one| one.inode).collect())?;
        let own = listeners.into_iter().filter(|one| held.contains_key(&one.inode));
        Ok(own.map(|one| one.local).collect())
    }

    /// The sockets, of those given, that the tree has open, each with the lowest pid that has it.
    pub(super) fn sockets_of_tree(&self, sockets: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, i32>> {
        let mut found = BTreeMap::new();
        let mut pids = self.processes()?;
        pids.sort_unstable();
        for pid in pids {
            for socket in held_by(pid, sockets) {
                found.entry(socket).or_insert(pid);
            }
        }
        Ok(found)
    }

    /// The living processes of the tree. Reads /proc and does not wait for the shim.
    fn processes(&self) -> io::Result<Vec<i32>> {
        if self.overseen() {
            return Ok(tree::descendants(self.shim_pid())?.into_iter().map(|one| one.pid).collect());
        }
        let all = tree::snapshot()?.into_iter().filter(|stat| stat.alive());
        Ok(all.map(|stat| stat.pid).filter(|pid| self.owns(*pid)).collect())
    }
}
