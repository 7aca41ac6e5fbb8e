//! Starts one command as a child of the shim: own session, empty stdin, output into the shim's pipe, default
//! signals, its user and priority, exactly its environment. Called when the shim starts, and for a stop
//! command. The forked half may only make system calls and must never return.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{self, ForkResult},
};

use super::{
    spec::{Priority, Spec},
    wire::{StartFault, StartStep},
};
use crate::os::{
    privilege::{self, Account, NewPrivileges, Rights},
    process::Process,
};

/// Searched when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Added to the nice value of background work: clearly behind the live app, still moving.
const BACKGROUND_NICE: i32 = 10;

/// Best-effort class (2), lowest level (7); the idle class could starve a build for ever on a busy disk.
const BACKGROUND_IO: i32 = (2 << 13) | 7;

/// Half of the scale: goes before any app, but a small build still not before a runaway one.
const BACKGROUND_OOM: i32 = 500;

/// A command ready to be started, any number of times.
pub(super) struct Launch {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: PathBuf,
    user: Option<String>,
    new_privileges: NewPrivileges,
    priority: Priority,
}

impl Launch {
    /// The command of an order; `argv` may differ from the spec's own (a stop command).
    pub fn new(spec: &Spec, argv: &[String]) -> Result<Self, StartFault> {
        let words = argv.iter().map(|word| c_string(word)).collect::<Result<Vec<_>, _>>()?;
        let program =
            argv.first().filter(|name| !name.is_empty()).ok_or(fault(StartStep::Program, Errno::ENOENT))?;
        let pairs = spec.env.iter().map(|(name, value)| c_string(&format!("{name}={value}")));
        Ok(Self {
            candidates: candidates(program, &spec.env)?,
            argv: words,
            env: pairs.collect::<Result<_, _>>()?,
            cwd: spec.cwd.clone(),
            user: spec.user.clone(),
            new_privileges: spec.new_privileges,
            priority: spec.priority,
        })
    }

    /// Forks and waits until the program was exec'd. The shim's only thread must be the caller.
    pub fn start(&self, output: BorrowedFd<'_>) -> Result<Process, StartFault> {
        let (problem, sender) = unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| fault(StartStep::Fork, e))?;
        // SAFETY: the shim has one thread, so the child may do whatever its parent may.
        match unsafe { unistd::fork() }.map_err(|e| fault(StartStep::Fork, e))? {
            ForkResult::Child => self.become_command(output, sender),
            ForkResult::Parent { child } => {
                drop(sender);
                let process = Process::of(child.as_raw());
                let Some(problem) = read_fault(problem) else {
                    // Only the shim reaps an exec'd child, so it must be in /proc.
                    return process.ok_or(fault(StartStep::Fork, Errno::ESRCH));
                };
                nix::sys::wait::waitpid(child, None).map_err(|e| fault(StartStep::Fork, e))?;
                Err(problem)
            }
        }
    }

    fn become_command(&self, output: BorrowedFd<'_>, problem: OwnedFd) -> ! {
        let fault = match self.prepare(output) {
            Ok(()) => self.exec(),
            Err(fault) => fault,
        };
        // If even this fails the shim sees a child that exited with 127, as from a shell.
        let _unsent = File::from(problem).write_all(&fault.to_bytes());
        // SAFETY: ends this forked half at once, without running the exit handlers of the shim.
        unsafe { libc::_exit(127) }
    }

    fn prepare(&self, output: BorrowedFd<'_>) -> Result<(), StartFault> {
        unistd::setsid().map_err(|e| fault(StartStep::Session, e))?;
        connect(output).map_err(|e| fault(StartStep::Session, e))?;
        privilege::reset_signals().map_err(|e| fault(StartStep::Session, e))?;
        privilege::shed_daemon().map_err(|e| io_fault(StartStep::Priority, &e))?;
        if self.priority == Priority::Background {
            step_back().map_err(|e| io_fault(StartStep::Priority, &e))?;
        }
        self.take_on_rights()?;
        // After the change of user, since the user's right to enter counts.
        unistd::chdir(self.cwd.as_path()).map_err(|e| fault(StartStep::Directory, e))
    }

    /// The user is looked up here and not in the shim, whose memory would otherwise keep the name service libraries.
    fn take_on_rights(&self) -> Result<(), StartFault> {
        let stage = if self.user.is_some() { StartStep::User } else { StartStep::Rights };
        let account = match self.user.as_deref().map(Account::find).transpose() {
            Ok(Some(None)) => return Err(StartFault { stage: StartStep::UnknownUser, errno: 0 }),
            Ok(found) => found.flatten(),
            Err(errno) => return Err(fault(StartStep::UnknownUser, errno)),
        };
        if let Some(account) = account.as_ref().filter(|account| !account.is_own()) {
            // Lets the app open /dev/stdout again by name.
            unistd::fchown(io::stdout(), Some(account.uid), Some(account.gid))
                .map_err(|e| fault(stage, e))?;
        }
        Rights { account, new_privileges: self.new_privileges }.take_on().map_err(|e| fault(stage, e))
    }

    /// Does what execvp does, but with the PATH of the command's own environment. Returns only on failure.
    fn exec(&self) -> StartFault {
        let mut worst = fault(StartStep::Program, Errno::ENOENT);
        for path in &self.candidates {
            let errno = match unistd::execve(path, &self.argv, &self.env) {
                Err(Errno::ENOEXEC) => self.exec_by_shell(path),
                Err(errno) => errno,
            };
            match errno {
                Errno::ENOENT if as_path(path).exists() => return fault(StartStep::Interpreter, errno),
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => worst = fault(StartStep::Program, errno),
                errno => return fault(StartStep::Program, errno),
            }
        }
        worst
    }

    /// Runs a script whose first line does not name an interpreter, with `/bin/sh`. Returns only on failure.
    fn exec_by_shell(&self, path: &CString) -> Errno {
        let mut argv = vec![c"/bin/sh".to_owned(), path.clone()];
        argv.extend(self.argv.iter().skip(1).cloned());
        match unistd::execve(c"/bin/sh", &argv, &self.env) {
            Err(errno) => errno,
        }
    }
}

fn as_path(path: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

fn fault(stage: StartStep, errno: Errno) -> StartFault {
    StartFault { stage, errno: errno as i32 }
}

fn io_fault(stage: StartStep, error: &io::Error) -> StartFault {
    StartFault { stage, errno: error.raw_os_error().unwrap_or(0) }
}

fn c_string(text: &str) -> Result<CString, StartFault> {
    CString::new(text).map_err(|_| fault(StartStep::Program, Errno::EINVAL))
}

fn candidates(program: &str, env: &BTreeMap<String, String>) -> Result<Vec<CString>, StartFault> {
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let folders = path.split(':').map(|folder| if folder.is_empty() { "." } else { folder });
    folders.map(|folder| c_string(&format!("{folder}/{program}"))).collect()
}

/// The fault that the child reported before it gave up; `None` once it was exec'd, which closes the pipe.
fn read_fault(problem: OwnedFd) -> Option<StartFault> {
    let mut said = Vec::new();
    match File::from(problem).read_to_end(&mut said) {
        Ok(0) => None,
        Ok(_) => Some(StartFault::from_bytes(&said).unwrap_or(fault(StartStep::Fork, Errno::EPROTO))),
        Err(error) => Some(io_fault(StartStep::Fork, &error)),
    }
}

/// Descriptors 0, 1 and 2; all others of the shim are close-on-exec.
fn connect(output: BorrowedFd<'_>) -> nix::Result<()> {
    let nothing = nix::fcntl::open("/dev/null", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    unistd::dup2_stdin(nothing.as_fd())?;
    unistd::dup2_stdout(output)?;
    unistd::dup2_stderr(output)
}

fn step_back() -> io::Result<()> {
    // SAFETY: three calls with plain integers about the calling process.
    unsafe {
        let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
        Errno::result(libc::setpriority(libc::PRIO_PROCESS, 0, nice.saturating_add(BACKGROUND_NICE)))?;
        // 1 is "this process"; a kernel without IO priorities (ENOSYS) has nothing to set.
        match Errno::result(libc::syscall(libc::SYS_ioprio_set, 1, 0, BACKGROUND_IO)) {
            Err(errno) if errno != Errno::ENOSYS => return Err(errno.into()),
            _ => {}
        }
    }
    privilege::raise_oom_score(BACKGROUND_OOM)
}
