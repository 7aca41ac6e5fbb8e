//! Processes of a release that are below no shim of it: a start handed them over to a manager that ran already. They
//! are recognised by the port that they hold, and by their working directory or bgd's variables, and ended with signals
//! through pidfds. Called by `exits`, which decides which of them are ours; reads /proc.

use std::{
    collections::BTreeSet,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    os::{
        holders::holders,
        process::{Process, Stat, command_line},
    },
    process::ports,
    rules::address::Address,
};

/// Between two looks: nothing reports the end of a process that is not a child.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long KILL may take before it counts as failed.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process of a release below no shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    process: Process,
    pub pid: i32,
    /// Its working directory, even if that was deleted meanwhile.
    pub directory: PathBuf,
    /// `BGD_APP` and `BGD_RELEASE` of its environment, if they were passed on.
    pub marks: Option<(String, String)>,
    /// Its pid, command and parent, for people.
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
        Some(Self { process: stat.process(), pid, directory, marks: marks(pid), named })
    }

    /// The time since its start.
    pub fn age(&self) -> Duration {
        self.process.age()
    }
}

fn marks(pid: i32) -> Option<(String, String)> {
    // Another user's environment can't be read; that process is then known by its directory alone.
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let mut pairs = environment.split(|byte| *byte == 0);
        let value = pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Some((value("BGD_APP")?, value("BGD_RELEASE")?))
}

/// The processes that hold the address.
///
/// # Errors
/// When /proc or the kernel's list of sockets can't be read.
pub fn at(address: &Address) -> io::Result<Vec<Stray>> {
    let inodes: BTreeSet<u64> = ports::listening_at(address)?.into_iter().collect();
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let holders = holders(&inodes)?.into_iter();
    Ok(holders.filter_map(|holder| Stray::of(holder.pid)).collect())
}

/// Ends processes: TERM, and KILL after the grace. True when none is left.
///
/// # Errors
/// When a signal can't be sent for another reason than missing rights.
pub async fn end(strays: &[Stray], grace: Duration) -> io::Result<bool> {
    let begun = Instant::now();
    send(strays, libc::SIGTERM)?;
    let mut killed = false;
    loop {
        let left: Vec<Stray> = strays.iter().filter(|stray| stray.process.is_alive()).cloned().collect();
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
        match stray.process.signal(signal) {
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
    async fn d1_a_process_that_holds_a_port_is_found_with_what_tells_whose_it_is_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().canonicalize().unwrap();
        let code = "import socket,time\ns=socket.socket();s.bind(('127.0.0.1',0));s.listen()\nprint(s.getsockname()[1],flush=True)\ntime.sleep(600)";
        let mut child = Command::new("python3");
        child.args(["-c", code]).current_dir(&below).env("BGD_APP", "shop").env("BGD_RELEASE", "r1");
        let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        let address = Address::Port(line.trim().parse().unwrap());
        let found = at(&address).unwrap();
        assert_eq!((found.len(), &found[0].directory), (1, &below));
        assert_eq!(found[0].marks, Some(("shop".to_owned(), "r1".to_owned())));
        let named = &found[0].named;
        assert!(named.starts_with(&format!("pid {} (", child.id())) && named.contains("python3"), "{named}");
        // The child is ours to reap, and a zombie counts as gone.
        assert!(end(&found, Duration::from_secs(5)).await.unwrap());
        child.wait().unwrap();
        assert_eq!(at(&address).unwrap(), []);
    }
}
