//! What a command of an app inherits from bgd, in one list, for builds, hooks, instances, stop commands, health
//! commands, `bgd exec` and (only its rights) the git worker. Called between fork and exec, or in a process with one
//! thread: except for [`Account::find`] it only makes system calls and allocates nothing. Knows nothing of the
//! command's purpose.
//!
//! | inherited | as |
//! |---|---|
//! | descriptors | 0, 1 and 2; no other ([`seal_descriptors`]) |
//! | environment | the documented one, nothing of bgd's own (`command::environment`) |
//! | user and groups | `user` with all its groups; without `user`, bgd's own |
//! | gaining rights by exec (setuid programs, file capabilities) | off for good, unless `new_privileges` |
//! | capabilities | none, in none of the five sets; an app that runs as root keeps those of root, none inheritable |
//! | keyring | a session keyring of its own when the user changes |
//! | session, terminal | a session of its own, without a terminal (a health command: a process group) |
//! | signals | all at their defaults, none blocked |
//! | umask | 022 |
//! | OOM score | bgd's, but never less than 0: bgd may be protected, an app is not; a build at least 500 |
//! | priority | bgd's; a build is nicer |
//! | resource limits | those that bgd was started with ([`raise_descriptor_limit`]) |

use std::{
    ffi::CString,
    fs::{File, Metadata},
    io::{self, Read, Write},
    os::unix::fs::MetadataExt,
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::{SigSet, SigmaskHow, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, User, geteuid, getgrouplist, getresuid, setgroups, setresgid, setresuid},
};
use serde::{Deserialize, Serialize};

/// Descriptors marked one by one where the kernel can't mark them all at once (before 5.11); the usual limit is 1024.
const MARKED: i32 = 4096;

/// `KEYCTL_JOIN_SESSION_KEYRING`.
const JOIN_SESSION: i32 = 1;

/// More capabilities than any kernel has; the loop ends at the first unknown one.
const CAPABILITIES: libc::c_ulong = 64;

/// The limit of open files that this process was started with, once it has raised it; 0 before.
static STARTED_WITH: AtomicU64 = AtomicU64::new(0);

/// The kernel's range is -1000 to 1000.
const SCORE_BYTES: usize = 8;

/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Whether a command may gain rights by running a setuid program (sudo, ping, a mail submission program).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewPrivileges {
    /// Neither the command nor its descendants ever gain rights (`no_new_privs`).
    #[default]
    Refused,
    /// A setuid program gives rights as it does in a shell.
    Allowed,
}

/// A user of this host, with all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    groups: Vec<Gid>,
}

impl Account {
    /// Looks a user up by name; `None` when there is no such user.
    ///
    /// # Errors
    /// When the name service fails.
    pub fn find(name: &str) -> nix::Result<Option<Self>> {
        let Some(user) = User::from_name(name)? else { return Ok(None) };
        let c_name = CString::new(name).map_err(|_| Errno::EINVAL)?;
        Ok(Some(Self { uid: user.uid, gid: user.gid, groups: getgrouplist(&c_name, user.gid)? }))
    }

    /// Whether the mode of a file gives this user all of `wanted`: the last digit of a mode, such as 5 for `r-x`.
    pub fn may(&self, meta: &Metadata, wanted: u32) -> bool {
        let (owner, group) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        let digit = match () {
            () if self.uid.is_root() => return true,
            () if self.uid == owner => meta.mode() >> 6,
            () if self.gid == group || self.groups.contains(&group) => meta.mode() >> 3,
            () => meta.mode(),
        };
        digit & wanted == wanted
    }

    /// Whether bgd already runs as this user without root: then there is nothing to change, and no right to.
    pub fn is_own(&self) -> bool {
        !geteuid().is_root() && geteuid() == self.uid
    }

    /// Groups first: without root they could not be changed any more.
    fn enter(&self) -> nix::Result<()> {
        leave_keyring()?;
        setgroups(&self.groups)?;
        setresgid(self.gid, self.gid, self.gid)?;
        setresuid(self.uid, self.uid, self.uid)?;
        let now = getresuid()?;
        let switched = [now.real, now.effective, now.saved].iter().all(|uid| *uid == self.uid);
        if switched { Ok(()) } else { Err(Errno::EPERM) }
    }
}

/// The rights that a command runs with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    /// The user and groups to run as; `None` is bgd's own user.
    pub account: Option<Account>,
    pub new_privileges: NewPrivileges,
}

impl Rights {
    /// Takes on the whole list at once, for a child that has no other task: descriptors, signals, umask, score and
    /// rights.
    ///
    /// # Errors
    /// When the kernel refuses a step; the command must not be run then.
    pub fn prepare_child(&self) -> io::Result<()> {
        seal_descriptors()?;
        reset_signals()?;
        restore_descriptor_limit()?;
        shed_daemon()?;
        Ok(self.take_on()?)
    }

    /// Drops all other rights, for good and for all descendants; call it on the thread that execs.
    ///
    /// # Errors
    /// When the kernel refuses a step; the command must not be run then.
    pub fn take_on(&self) -> nix::Result<()> {
        let own = geteuid();
        let root = self.account.as_ref().map_or(own, |account| account.uid).is_root();
        if self.new_privileges == NewPrivileges::Refused {
            prctl::set_no_new_privs()?;
            if !root {
                // Before the change of user, which takes away the right to do so. With `new_privileges` the set stays:
                // sudo would become a root without capabilities.
                empty_bounding_set()?;
            }
        }
        if let Some(account) = self.account.as_ref().filter(|account| !account.is_own()) {
            account.enter()?;
        }
        lower_capabilities(root)
    }
}

/// Resets what is bgd's but not a right: umask and OOM score. Call before [`Rights::take_on`], which takes away the
/// right to write the score.
///
/// # Errors
/// When the kernel refuses a step.
pub fn shed_daemon() -> io::Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    raise_oom_score(0)
}

/// Raises the OOM score of this process to `least`; a higher score stays, since lowering it needs a privilege.
///
/// # Errors
/// When the score can't be read or written.
pub fn raise_oom_score(least: i32) -> io::Result<()> {
    let file = "/proc/self/oom_score_adj";
    let mut text = [0; SCORE_BYTES];
    let length = File::open(file)?.read(&mut text)?;
    let score = std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
    let score: i32 = score.ok_or(io::ErrorKind::InvalidData)?;
    if score >= least {
        return Ok(());
    }
    let mut room = &mut text[..];
    write!(room, "{least}")?;
    let length = SCORE_BYTES - room.len();
    File::options().write(true).open(file)?.write_all(&text[..length])
}

/// Sets all signals to their defaults and unblocks them; a parent that waits for signals has them blocked. By system
/// call, because the C library refuses to touch 32 and 33, which an ancestor may have ignored.
///
/// # Errors
/// When the kernel refuses.
pub fn reset_signals() -> nix::Result<()> {
    // A zeroed kernel sigaction (at most 32 bytes everywhere) is the default action.
    let default = [0_u64; 4];
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let no_old = std::ptr::null_mut::<u64>();
        // SAFETY: the kernel reads one sigaction from `default` and writes nothing; 8 is the size of its set.
        let done = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, 8) };
        Errno::result(done)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Marks every descriptor but 0, 1 and 2 to be closed at an exec, also those that bgd itself inherited.
///
/// # Errors
/// When the kernel refuses for another reason than its age.
pub fn seal_descriptors() -> io::Result<()> {
    // SAFETY: marks descriptors only; those that are closed on exec already are not harmed.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match Errno::result(marked) {
        Ok(_) => Ok(()),
        // Too old a kernel, or a container's filter that knows only older ones.
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM) => {
            for fd in 3..MARKED {
                // SAFETY: sets a flag of a descriptor; one that is not open (EBADF) needs none.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
            Ok(())
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Raises this process's limit of open files to the hard limit. Its children get the former limit back by
/// [`restore_descriptor_limit`], because programs that use `select` break above 1,024.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_descriptor_limit() -> nix::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    STARTED_WITH.store(soft, Ordering::Relaxed);
    Ok(())
}

/// Gives a child the limit of open files that bgd itself was started with. A limit below the child's open descriptors
/// is harmless.
///
/// # Errors
/// When the kernel refuses.
pub fn restore_descriptor_limit() -> io::Result<()> {
    let soft = STARTED_WITH.load(Ordering::Relaxed);
    if soft > 0 {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    }
    Ok(())
}

/// Leaves the inherited session keyring: its holder may use root's keys. Where the call is missing or filtered there
/// is no keyring to leave.
fn leave_keyring() -> nix::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for a new keyring without one; no memory of ours is touched.
    match Errno::result(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION, anonymous) }) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn empty_bounding_set() -> nix::Result<()> {
    for capability in 0..CAPABILITIES {
        // SAFETY: takes integers only.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) }) {
            Ok(_) => {}
            // EINVAL: past the last capability. EPERM: an ordinary user, who can gain nothing from the bounding set.
            Err(Errno::EINVAL | Errno::EPERM) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The kernel's layout: one struct for the low half of the capabilities, one for the high half.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Root keeps its permitted set, inheritable by nobody: only being root passes it on. Other users keep nothing. The
/// ambient set can't outlive the inheritable one.
fn lower_capabilities(root: bool) -> nix::Result<()> {
    let mut header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [Sets::default(); 2];
    if root {
        // SAFETY: header and both halves are ours, of the layout that this version names, and live during the call.
        Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
        sets = sets.map(|half| Sets { inheritable: 0, ..half });
    }
    // SAFETY: as above; the kernel only reads them.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_groups_and_a_stranger_is_none() {
        let root = Account::find("root").unwrap().unwrap();
        assert!(root.uid.is_root() && root.groups.contains(&root.gid));
        assert_eq!(Account::find("no-such-user-x").unwrap(), None);
        assert_eq!(Account::find("with\0nul").unwrap(), None);
    }

    #[test]
    fn an_oom_score_is_raised_and_never_lowered() {
        let score = || std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        let before = score();
        raise_oom_score(-1000).unwrap();
        assert_eq!(score(), before);
    }
}
