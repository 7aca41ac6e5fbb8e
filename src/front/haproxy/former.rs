//! Former workers of a HAProxy that was reloaded: they finish their requests, which the new worker's socket does not
//! report. bgd finds them through the kernel: other processes of the same program, and their connections. Where there
//! is only one process, nothing else is looked at.

use std::{collections::HashSet, fs, path::PathBuf};

use crate::{
    os::{holders::sockets_of, process::Stat, tcp, tree, unix},
    rules::address::Address,
};

/// The number of connections to the addresses that HAProxy processes other than `worker` hold. 0 where the kernel does
/// not show them: without permission, or with HAProxy in a container.
pub(super) fn connections(worker: i32, addresses: &[Address]) -> usize {
    let Some(program) = program(worker).filter(|program| program.ends_with("haproxy")) else { return 0 };
    let is_other = |pid: &i32| *pid != worker && self::program(*pid).as_ref() == Some(&program);
    let master = Stat::read(worker).map(|stat| stat.parent).filter(is_other);
    let siblings = master.and_then(|master| tree::children(master).ok());
    let siblings = siblings.map(|all| all.iter().map(|stat| stat.pid).filter(is_other).collect::<Vec<_>>());
    if siblings.as_ref().is_some_and(Vec::is_empty) {
        return 0;
    }
    // The client's end of a unix socket has no name, so the app's end is counted: every open connection counts.
    let paths = addresses.iter().filter_map(Address::socket);
    let by_path: usize = paths.map(|path| unix::connections(path).unwrap_or(0)).sum();
    let ports = addresses.iter().filter_map(Address::port);
    let clients = ports.flat_map(|port| tcp::clients_of(port).unwrap_or_default());
    let clients: Vec<u64> = clients.map(|client| client.inode).collect();
    if by_path == 0 && clients.is_empty() {
        return 0;
    }
    // Without a master process, a former worker may be any process.
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

/// The program of a process, without the kernel's mark ` (deleted)`: after an upgrade of the package, the old and the
/// new program have the same name.
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
