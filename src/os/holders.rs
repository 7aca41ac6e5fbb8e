//! Finds the processes that have a socket open, in /proc/PID/fd. Sockets are given by their inodes, which `tcp` and
//! `unix` return. Only root sees processes of other users. Blocks: for milliseconds, and [`holders`], which reads all
//! of /proc, for hundreds of milliseconds on a large host.

use std::{collections::BTreeSet, fs, io};

use super::{process::command_line, tree::pids};

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub pid: i32,
    /// Its command line, shortened, for messages.
    pub command: String,
    /// Inodes of the given sockets that it has open.
    pub inodes: BTreeSet<u64>,
}

/// The processes that have one of these sockets open. Reads the descriptors of every process of the host: for a
/// message, never in the course of a successful deploy.
pub fn holders(inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    holders_among(|_| true, inodes)
}

/// The processes accepted by `asked` that have one of these sockets open.
pub(crate) fn holders_among(asked: impl Fn(i32) -> bool, inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    let held = pids()?.filter(|pid| asked(*pid)).map(|pid| (pid, held_by(pid, inodes)));
    let holder = |(pid, inodes)| Holder { pid, command: command_line(pid), inodes };
    Ok(held.filter(|(_, inodes)| !inodes.is_empty()).map(holder).collect())
}

/// The inodes, of those given, that this process has open; empty when it is gone or another user's.
pub fn held_by(pid: i32, inodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let open = sockets_of(pid).into_iter().flatten();
    open.map(|(_, inode)| inode).filter(|inode| inodes.contains(inode)).collect()
}

/// The open sockets of this process, as descriptor and inode; none when it is gone, an error without the right to
/// look.
pub(crate) fn sockets_of(pid: i32) -> io::Result<impl Iterator<Item = (i32, u64)>> {
    let open = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        open => Some(open?),
    };
    let socket = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let descriptor = entry.file_name().to_str()?.parse().ok()?;
        let link = fs::read_link(entry.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()?;
        Some((descriptor, inode))
    };
    Ok(open.into_iter().flatten().filter_map(socket))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::os::tcp;

    #[test]
    fn d1_a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let found = tcp::listening(address.port()).unwrap();
        assert_eq!(found.iter().map(|one| one.local).collect::<Vec<_>>(), [address]);
        let (me, inodes) = (std::process::id().cast_signed(), BTreeSet::from([found[0].inode]));
        let holders = holders(&inodes).unwrap();
        assert!(holders.iter().any(|holder| holder.pid == me && !holder.command.is_empty()));
        assert_eq!(held_by(me, &inodes), inodes);
        assert_eq!(tcp::owners(&inodes).unwrap(), BTreeSet::from([nix::unistd::geteuid().as_raw()]));
        assert_eq!(sockets_of(i32::MAX).unwrap().count(), 0);
    }
}
