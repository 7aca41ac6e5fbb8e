//! Whose listening socket is at an instance's address: of its own tree, and of nobody beside it. Called by the engine
//! while it probes and before a flip. Reads what the own tree has open; of other processes only what can have the same
//! socket: those of the users that the socket belongs to, and root's. Blocks: call it aside.

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
    /// Nobody.
    Nobody,
    /// The instance has every socket open that listens there.
    Instance {
        /// Its main process if that has them all, else the one with the lowest pid.
        pid: i32,
        /// The inodes of the sockets.
        sockets: BTreeSet<u64>,
    },
    /// Somebody else, alone or beside the instance with a socket of their own.
    Stranger,
}

/// Where an instance is looked for.
#[derive(Debug, Clone)]
pub struct Places {
    /// Where it belongs.
    pub own: Address,
    /// Where it must not listen.
    pub foreign: Vec<Address>,
}

/// What a look at the places found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Who listens where the instance belongs.
    pub own: Listening,
    /// The first of the foreign places where the instance listens, beside whoever else does.
    pub elsewhere: Option<Address>,
    /// The sockets at the foreign places.
    pub foreign: BTreeSet<u64>,
}

impl Handle {
    /// Looks at the places, once. `passed` are sockets at the foreign ones that a former look found not to be the
    /// instance's: only who else listens there now is looked at. Reads /proc and does not wait for the shim.
    pub fn look(&self, places: &Places, passed: &BTreeSet<u64>) -> io::Result<Look> {
        let mut all = places.foreign.clone();
        all.push(places.own.clone());
        let (own, foreign): (Vec<_>, Vec<_>) =
            ports::listening_at_any(&all)?.into_iter().partition(|(place, _)| *place == places.own);
        let new: BTreeSet<u64> =
            foreign.iter().map(|(_, socket)| *socket).filter(|it| !passed.contains(it)).collect();
        let held = if new.is_empty() { BTreeMap::new() } else { self.sockets_of_tree(&new)? };
        let elsewhere = foreign.iter().find(|(_, socket)| held.contains_key(socket));
        Ok(Look {
            own: self.listening(own.into_iter().map(|(_, socket)| socket).collect())?,
            elsewhere: elsewhere.map(|(place, _)| place.clone()),
            foreign: foreign.into_iter().map(|(_, socket)| socket).collect(),
        })
    }

    /// Who has these sockets of one address, as far as the own tree tells.
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

    /// Somebody outside of the tree who has one of these sockets of the tree open as well: by a descriptor that was
    /// passed on. `bystanders` are as they were before the instance was started.
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
        // One that was born since the tree was read is the tree's own.
        Ok(holders_among(can_matter, sockets)?.into_iter().find(|holder| !self.owns(holder.pid)))
    }

    /// Somebody outside of the tree who listens there, for a message.
    pub fn stranger_at(&self, address: &Address) -> io::Result<Option<Holder>> {
        let sockets = ports::listening_at(address)?.into_iter().collect();
        Ok(holders(&sockets)?.into_iter().find(|holder| !self.owns(holder.pid)))
    }

    /// Where processes of the tree listen, whatever the port.
    pub fn listens_at_all(&self) -> io::Result<BTreeSet<SocketAddr>> {
        let listeners = tcp::listening(0)?;
        let held = self.sockets_of_tree(&listeners.iter().map(|one| one.inode).collect())?;
        let own = listeners.into_iter().filter(|one| held.contains_key(&one.inode));
        Ok(own.map(|one| one.local).collect())
    }

    /// Which of these sockets processes of the tree have open, each with the lowest pid that does.
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
