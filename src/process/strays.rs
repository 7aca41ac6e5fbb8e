//! Processes that work in a release and are below no shim of it: what a start handed over to a manager that ran
//! already. They are known by the port that they hold and by their working directory, and ended with signals through
//! pidfds. Called by the engine for releases that nothing else runs; reads /proc.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    identity::{Identity, Stat, command_line},
    ports,
};
use crate::rules::address::Address;

/// Between two looks: nothing reports the end of a stranger's child.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// After this long KILL is said to have failed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    identity: Identity,
    /// Where it works; also when that directory was deleted meanwhile.
    pub directory: PathBuf,
    /// For people: pid, command, and who started it.
    pub named: String,
}

impl Stray {
    fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let parent = match stat.parent {
            0 | 1 => String::new(),
            parent => format!(", started by pid {parent} ({})", command_line(parent)),
        };
        let named = format!("pid {pid} ({}){parent}", command_line(pid));
        Some(Self { identity: stat.identity(), directory, named })
    }
}

/// Those that hold the address and work below this directory.
///
/// # Errors
/// When /proc or the kernel's list of sockets can't be read.
pub fn at(address: &Address, below: &Path) -> io::Result<Vec<Stray>> {
    let inodes: BTreeSet<u64> = ports::listening_at(address)?.into_iter().collect();
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let holders = ports::holders(&inodes)?.into_iter();
    Ok(holders
        .filter_map(|holder| Stray::of(holder.pid))
        .filter(|it| it.directory.starts_with(below))
        .collect())
}

/// Ends them: TERM, KILL after the grace. True when none is left.
///
/// # Errors
/// When a signal can't be sent for another reason than missing rights.
pub async fn end(strays: &[Stray], grace: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    send(strays, libc::SIGTERM)?;
    let mut killed = false;
    loop {
        let left: Vec<Stray> = strays.iter().filter(|stray| stray.identity.is_alive()).cloned().collect();
        if left.is_empty() || begun.elapsed() >= grace + KILL_LIMIT {
            return Ok(left.is_empty());
        }
        if begun.elapsed() >= grace && !killed {
            killed = true;
            send(&left, libc::SIGKILL)?;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn send(to: &[Stray], signal: i32) -> io::Result<()> {
    for stray in to {
        match stray.identity.signal(signal) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn d1_a_process_of_a_release_that_holds_its_port_is_found_and_ended_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().canonicalize().unwrap();
        let code = "import socket,time\ns=socket.socket();s.bind(('127.0.0.1',0));s.listen()\nprint(s.getsockname()[1],flush=True)\ntime.sleep(600)";
        let mut child = Command::new("python3");
        let mut child = child.args(["-c", code]).current_dir(&below).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let address = Address::Port(line.trim().parse().unwrap());
        assert_eq!(at(&address, Path::new("/no/such/release")).unwrap(), []);
        let found = at(&address, &below).unwrap();
        assert_eq!(found.len(), 1);
        let named = &found[0].named;
        assert!(named.starts_with(&format!("pid {} (", child.id())) && named.contains("python3"), "{named}");
        // The child is ours to reap, and a zombie counts as gone.
        assert!(end(&found, Duration::from_secs(5)).await.unwrap());
        child.wait().unwrap();
        assert_eq!(at(&address, &below).unwrap(), []);
    }
}
