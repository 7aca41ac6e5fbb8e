//! Which processes have a socket open, by /proc/PID/fd. Sockets are known by their inodes, which `tcp` and `unix` tell.
//! Processes of other users are seen by root only. Blocks: for milliseconds, and [`holders`], which reads all of /proc,
//! for hundreds of them on a large host.

use std::{collections::BTreeSet, fs, io};

use super::{process::command_line, tree::pids};

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its pid.
    pub pid: i32,
    /// Its command line, shortened, for messages.
    pub command: String,
    /// The sockets that it holds, of those asked for.
    pub inodes: BTreeSet<u64>,
}

/// The processes that have one of these sockets open. Looks through what every process of the host has open: for a
/// message, never on the way of a deploy that goes well.
pub fn holders(inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    holders_among(|_| true, inodes)
}

/// Those of the processes that `asked` accepts which have one of these sockets open.
pub(crate) fn holders_among(asked: impl Fn(i32) -> bool, inodes: &BTreeSet<u64>) -> io::Result<Vec<Holder>> {
    let held = pids()?.filter(|pid| asked(*pid)).map(|pid| (pid, held_by(pid, inodes)));
    let holder = |(pid, inodes)| Holder { pid, command: command_line(pid), inodes };
    Ok(held.filter(|(_, inodes)| !inodes.is_empty()).map(holder).collect())
}

/// Those of the sockets that this process has open; none when it is gone or another user's.
pub fn held_by(pid: i32, inodes: &BTreeSet<u64>) -> BTreeSet<u64> {
    let open = sockets_of(pid).into_iter().flatten();
    open.map(|(_, inode)| inode).filter(|inode| inodes.contains(inode)).collect()
}

/// The sockets that this process has open, each by its descriptor there and its inode; none when it is gone, an error
/// without the right to look.
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
