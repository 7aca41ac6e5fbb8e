//! Former workers of a HAProxy that was reloaded: they end what they have begun, and the socket of the new one knows
//! nothing of it. Seen by what the kernel knows: other processes of the same program, and their connections.

use std::{collections::HashSet, fs, path::PathBuf};

use crate::{rules::address::Address, unix_sockets};

/// How many connections to the addresses other HAProxy processes than `worker` hold. None where the kernel does not
/// tell: without permission, or with HAProxy in a container of its own.
pub(super) fn connections(worker: u32, addresses: &[Address]) -> usize {
    let Some(program) = program(worker).filter(|program| program.ends_with("haproxy")) else { return 0 };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|pid| *pid != worker && self::program(*pid).as_ref() == Some(&program));
    let sockets: HashSet<u64> = others.flat_map(sockets).collect();
    if sockets.is_empty() {
        return 0;
    }
    // Clients of a unix socket have no name, so it is asked of the other end: all that are open count.
    let paths = addresses.iter().filter_map(Address::socket);
    let by_path: usize = paths.map(|path| unix_sockets::connections(path).unwrap_or(0)).sum();
    let ports: HashSet<u16> = addresses.iter().filter_map(Address::port).collect();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines());
    let to_ports = lines.filter_map(established).filter(|(remote, _)| ports.contains(remote));
    by_path + to_ports.filter(|(_, inode)| sockets.contains(inode)).count()
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

/// Remote port and inode of an established connection, from a line of `/proc/net/tcp`.
fn established(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_whitespace().skip(2);
    let (remote, state, inode) = (fields.next()?, fields.next()?, fields.nth(5)?);
    let port = u16::from_str_radix(remote.rsplit_once(':')?.1, 16).ok()?;
    (state == "01").then_some((port, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_count_with_their_remote_port() {
        let line = "   3: 0100007F:C3A2 0100007F:251E 01 00000000:00000000 00:00000000 00000000    33        0 77123 1";
        assert_eq!(established(line), Some((9502, 77123)));
        assert_eq!(established(&line.replace(" 01 ", " 06 ")), None);
        assert_eq!(established("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn a_process_that_is_no_haproxy_has_no_former_workers() {
        assert_eq!(connections(std::process::id(), &[Address::Port(1)]), 0);
        assert_eq!(connections(u32::MAX, &[Address::Port(1)]), 0);
        let own = std::env::current_exe().unwrap();
        assert_eq!(program(std::process::id()), Some(own));
    }
}
