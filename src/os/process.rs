//! The identity of a process: pid plus start time (plus the boot id in stored records), so that a reused pid is never
//! taken for ours. Signals go through a pidfd for the same reason.
//! Used by the shim as well: nothing here allocates much or needs a runtime.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    time::{ClockId, clock_gettime},
    unistd::{SysconfVar, sysconf},
};
use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process, pidfd_getfd, pidfd_open, pidfd_send_signal,
    },
};
use serde::{Deserialize, Serialize};

/// Longer than any line of /proc/PID/stat: 52 numbers and a name.
const LONGEST: usize = 2048;

/// The fields of /proc/PID/stat that bgd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub pid: i32,
    pub state: u8,
    pub parent: i32,
    pub session: i32,
    pub threads: u64,
    pub start: u64,
}

impl Stat {
    /// Reads the line of one process; `None` when it does not exist.
    pub fn read(pid: i32) -> Option<Self> {
        Self::read_at(Path::new(&format!("/proc/{pid}/stat")))
    }

    /// Reads the stat file of a process or a thread. The kernel returns it at once, so one read is enough; reading a
    /// file of unknown size takes six.
    pub(crate) fn read_at(path: &Path) -> Option<Self> {
        let mut line = [0; LONGEST];
        let count = File::open(path).ok()?.read(&mut line).ok()?;
        Self::parse(line.get(..count)?)
    }

    /// Parses the line; the command name in it may hold any character, so fields are counted from its last `)`.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let end = line.iter().rposition(|c| *c == b')')?;
        let pid = text(line.get(..line.iter().position(|c| *c == b'(')?)?)?.trim().parse().ok()?;
        let fields: Vec<&str> = text(line.get(end + 1..)?)?.split_ascii_whitespace().collect();
        Some(Self {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            threads: fields.get(17)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it lives. A zombie does not, unless only its first thread has ended while others run.
    pub fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.threads > 1
    }

    pub fn process(&self) -> Process {
        Process { pid: self.pid, start: self.start }
    }
}

/// The state of a thread, by its letter in /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// Runs, or is ready to.
    Ready,
    /// Waits interruptibly, for any length of time.
    Asleep,
    /// Waits for a disk or for memory; no signal interrupts it.
    Uninterruptible,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// Ended, perhaps not reaped.
    Ended,
}

impl ThreadState {
    /// Reads the state from a line of /proc/PID/task/TID/stat.
    pub fn parse(line: &[u8]) -> Option<Self> {
        Some(match Stat::parse(line)?.state {
            b'R' => Self::Ready,
            b'D' => Self::Uninterruptible,
            b'T' | b't' => Self::Stopped,
            b'Z' | b'X' | b'x' => Self::Ended,
            _ => Self::Asleep,
        })
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A process that can't be confused with a later one of the same pid, within one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of /proc/PID/stat).
    pub start: u64,
}

impl Process {
    /// The process that has this pid now, dead but not reaped ones included.
    pub fn of(pid: i32) -> Option<Self> {
        Stat::read(pid).map(|stat| stat.process())
    }

    /// Whether this very process still runs (a zombie does not).
    pub fn is_alive(self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start == self.start && stat.alive())
    }

    /// Time since its start, in the clock that counts a sleep of the host and ignores changes of the wall clock.
    pub fn age(self) -> Duration {
        let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return Duration::ZERO };
        let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100)).unwrap_or(100);
        let start = Duration::from_millis(self.start.saturating_mul(1000) / ticks.max(1));
        Duration::from(now).saturating_sub(start)
    }

    /// Start time by the wall clock as it is set now; exact to a clock tick.
    pub fn started(self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(self.age())
    }

    /// Sends a signal to this very process; `Ok(false)` when it is gone.
    pub fn signal(self, signal: i32) -> io::Result<bool> {
        self.signal_if(signal, |_| true)
    }

    /// Opens its pidfd; `None` when the process is gone.
    pub fn pidfd(self) -> io::Result<Option<PidFd>> {
        let pidfd = match PidFd::open(self.pid) {
            Err(error) if names_nobody(&error) => return Ok(None),
            pidfd => pidfd?,
        };
        Ok(Self::of(self.pid).is_some_and(|now| now == self).then_some(pidfd))
    }

    /// Sends a signal if `belongs` still holds once the process is pinned by its pidfd.
    /// Order matters: pin first, look after, so that a pid given out in between is never hit.
    pub(crate) fn signal_if(self, signal: i32, belongs: impl Fn(&Stat) -> bool) -> io::Result<bool> {
        let pinned = match PidFd::open(self.pid) {
            Ok(pidfd) => Some(pidfd),
            Err(error) if names_nobody(&error) => return Ok(false),
            // A container's filter refuses pidfd_open: check right before the signal, the closest that is left.
            Err(error) if is_filtered(&error) => None,
            Err(error) => return Err(error),
        };
        match Stat::read(self.pid) {
            Some(stat) if stat.start == self.start && belongs(&stat) => match pinned {
                Some(pidfd) => pidfd.signal(signal),
                None => sent(kill_process(number(self.pid)?, named(signal)?)),
            },
            _ => Ok(false),
        }
    }
}

/// A descriptor of one process, readable once the process has ended. While it is open the pid may be reused, but the
/// descriptor never refers to the new process.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this pid now.
    pub fn open(pid: i32) -> io::Result<Self> {
        Ok(Self(pidfd_open(number(pid)?, PidfdFlags::empty())?))
    }

    /// Duplicates the descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Sends a signal; `Ok(false)` when the process has ended.
    pub fn signal(&self, signal: i32) -> io::Result<bool> {
        sent(pidfd_send_signal(&self.0, named(signal)?))
    }

    /// Whether the process has ended, reaped or not.
    pub fn has_ended(&self) -> io::Result<bool> {
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut waiting, PollTimeout::ZERO)? > 0)
    }

    /// Duplicates a descriptor of that process into this one; needs ptrace rights over it.
    pub fn duplicate(&self, descriptor: i32) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.0, descriptor, PidfdGetfdFlags::empty())?)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

fn number(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| Errno::INVAL.into())
}

fn named(signal: i32) -> io::Result<Signal> {
    Signal::from_named_raw(signal).ok_or_else(|| Errno::INVAL.into())
}

fn sent(result: rustix::io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn names_nobody(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
}

fn is_filtered(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// The id of this boot of the host; a stored pid of another boot means nothing. Read once per process, since a process
/// does not outlive its boot.
pub fn boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(BOOT.get_or_init(|| read.trim().to_owned()))
}

/// The user id that a process runs as; `None` when it is gone.
pub(crate) fn user_of(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|about| about.uid())
}

/// The program name, which the kernel cuts to 15 bytes; `None` when the process is gone.
pub(crate) fn name_of(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The command line of a process with spaces between the words, at most 200 characters, for messages.
/// Empty when it is gone or hidden.
pub fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = raw.split(|c| *c == 0).filter(|word| !word.is_empty()).collect();
    String::from_utf8_lossy(&words.join(&b' ')).chars().map(printable).take(200).collect()
}

fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_brackets_and_spaces_does_not_confuse_the_fields() {
        let line = b"42 (a) b (c) S 7 42 40 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 123456 1 2\n";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { pid: 42, state: b'S', parent: 7, session: 40, threads: 9, start: 123_456 });
    }

    #[test]
    fn garbage_is_not_a_process() {
        for bad in [&b""[..], b")", b"1 (x)", b"1 (x) S", b"x (x) S 1 2 3", b"\xff(\xff)\xff"] {
            assert_eq!(Stat::parse(bad), None);
        }
    }

    #[test]
    fn this_process_is_alive_and_one_with_another_start_time_is_not() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(me.signal(libc::SIGCONT).unwrap());
        let other = Process { start: me.start + 1, ..me };
        assert!(!other.is_alive());
        assert!(!other.signal(libc::SIGKILL).unwrap());
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process::of(pid).unwrap();
        let pidfd = process.pidfd().unwrap().unwrap();
        let mut waiting = [PollFd::new(pidfd.0.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut waiting, 10_000u16), Ok(1));
        assert!(pidfd.has_ended().unwrap());
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
