//! Former workers of a HAProxy that was reloaded: they end what they have begun, and the socket of the new one knows
//! nothing of it. Seen by what the kernel knows: other processes of the same program, and their connections. Where there
//! is no other process, nothing else is looked at.

use std::{collections::HashSet, fs, path::PathBuf};

use crate::{
    os::{holders::sockets_of, process::Stat, tcp, tree, unix},
    rules::address::Address,
};

/// How many connections to the addresses other HAProxy processes than `worker` hold. None where the kernel does not
/// tell: without permission, or with HAProxy in a container of its own.
pub(super) fn connections(worker: i32, addresses: &[Address]) -> usize {
    let Some(program) = program(worker).filter(|program| program.ends_with("haproxy")) else { return 0 };
    let is_other = |pid: &i32| *pid != worker && self::program(*pid).as_ref() == Some(&program);
    let master = Stat::read(worker).map(|stat| stat.parent).filter(is_other);
    let siblings = master.and_then(|master| tree::children(master).ok());
    let siblings = siblings.map(|all| all.iter().map(|stat| stat.pid).filter(is_other).collect::<Vec<_>>());
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
    let others = siblings.unwrap_or_else(|| tree::pids().into_iter().flatten().filter(is_other).collect());
    if others.is_empty() {
        return 0;
    }
    let held: HashSet<u64> = others
        .into_iter()
        .flat_map(|pid| sockets_of(pid).into_iter().flatten())
        .map(|(_, inode)| inode)
        .collect();
    by_path + clients.iter().filter(|client| held.contains(client)).count()
}

/// The program of a process; after an upgrade of the package, the old one is named as the new.
fn program(pid: i32) -> Option<PathBuf> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_no_haproxy_has_no_former_workers() {
        assert_eq!(connections(std::process::id().cast_signed(), &[Address::Port(1)]), 0);
        assert_eq!(connections(i32::MAX, &[Address::Port(1)]), 0);
        let own = std::env::current_exe().unwrap();
        assert_eq!(program(std::process::id().cast_signed()), Some(own));
    }
}
