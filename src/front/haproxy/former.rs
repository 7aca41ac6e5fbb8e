//! Former workers of a HAProxy that was reloaded: they end what they have begun, and the socket of the new one knows
//! nothing of it. Seen by what the kernel knows: other processes of the same program, and their connections. Where there
//! is no other process, nothing else is looked at.

use std::{collections::HashSet, fs, path::PathBuf};

use crate::{
    os::{tcp, unix},
    rules::address::Address,
};

/// How many connections to the addresses other HAProxy processes than `worker` hold. None where the kernel does not
/// tell: without permission, or with HAProxy in a container of its own.
pub(super) fn connections(worker: u32, addresses: &[Address]) -> usize {
    let Some(program) = program(worker).filter(|program| program.ends_with("haproxy")) else { return 0 };
    let is_other = |pid: &u32| *pid != worker && self::program(*pid).as_ref() == Some(&program);
    let siblings = parent(worker).filter(is_other).and_then(children);
    let siblings = siblings.map(|all| all.into_iter().filter(is_other).collect::<Vec<_>>());
    if siblings.as_ref().is_some_and(Vec::is_empty) {
        return 0;
    }
    // Clients of a unix socket have no name, so it is asked of the other end: all that are open count.
    let paths = addresses.iter().filter_map(Address::socket);
    let by_path: usize = paths.map(|path| unix::connections(path).unwrap_or(0)).sum();
    let ports = addresses.iter().filter_map(Address::port);
    let clients = ports.flat_map(|port| tcp::clients_of(port).unwrap_or_default());
    let clients: Vec<u64> = clients.map(|client| client.inode).collect();
    if by_path == 0 && clients.is_empty() {
        return 0;
    }
    // Without a master process, former workers are anywhere.
    let others = siblings.unwrap_or_else(|| all().into_iter().filter(is_other).collect());
    if others.is_empty() {
        return 0;
    }
    let held: HashSet<u64> = others.into_iter().flat_map(sockets).collect();
    by_path + clients.iter().filter(|client| held.contains(client)).count()
}

fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// `None` where the kernel keeps no list.
fn children(pid: u32) -> Option<Vec<u32>> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    Some(list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// The program of a process; after an upgrade of the package, the old one is named as the new.
fn program(pid: u32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).into())
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    entries.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_no_haproxy_has_no_former_workers() {
        assert_eq!(connections(std::process::id(), &[Address::Port(1)]), 0);
        assert_eq!(connections(u32::MAX, &[Address::Port(1)]), 0);
        let own = std::env::current_exe().unwrap();
        assert_eq!(program(std::process::id()), Some(own));
    }
}
