//! Runs a command in its own session, with its own terminal where the caller has one: changes to that terminal
//! (pushed keystrokes, modes) never reach the caller's shell (promise N12). Used by `exec`. The caller's terminal is
//! left as it was found.

use std::{
    fs::File,
    io::{self, IsTerminal, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{Winsize, openpty},
    sys::{
        prctl,
        signal::{SigSet, SigmaskHow, Signal, kill, killpg, pthread_sigmask},
        signalfd::{SfdFlags, SignalFd},
        termios::{
            LocalFlags, OutputFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr,
            tcsetattr,
        },
    },
    unistd::{Pid, fchown, getpgrp, setsid, tcgetpgrp},
};

use crate::os::privilege::Rights;

nix::ioctl_read_bad!(get_size, libc::TIOCGWINSZ, Winsize);
nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(take_control, libc::TIOCSCTTY);

/// Signals to this process that are passed on to the command; the caller's keys arrive by the terminal.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];
/// Bytes of one read of a terminal.
const PIECE: usize = 16 << 10;

/// How the caller is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallerConnection {
    /// Without a terminal: under a supervisor, in a job.
    None,
    /// With a terminal, but none of the standard streams is one.
    Elsewhere,
    /// With a terminal on at least one standard stream.
    Terminal,
}

/// Runs the command to its end; returns the exit code that a shell would give. Without a terminal the command
/// replaces this process, so that a supervisor watches the command itself.
///
/// # Errors
/// When it can't be run.
pub fn run(mut command: Command, rights: Rights) -> io::Result<u8> {
    match caller() {
        CallerConnection::None => {
            // SAFETY: run by the one thread that is left when the command replaces this process.
            unsafe { command.pre_exec(move || rights.prepare_child()) };
            Err(command.exec())
        }
        CallerConnection::Elsewhere => {
            // SAFETY: system calls only, between fork and exec.
            unsafe { command.pre_exec(move || enter(None, &rights)) };
            let signals = signals()?;
            let child = command.spawn()?;
            Relay::new(child, signals).run()
        }
        CallerConnection::Terminal => on_a_terminal(command, rights),
    }
}

fn caller() -> CallerConnection {
    if terminals().next().is_some() {
        CallerConnection::Terminal
    } else if File::open("/dev/tty").is_ok() {
        CallerConnection::Elsewhere
    } else {
        CallerConnection::None
    }
}

/// The standard streams that are a terminal: stdout, stderr, stdin, in this order.
fn terminals() -> impl Iterator<Item = BorrowedFd<'static>> {
    // SAFETY: the standard streams stay open as long as the process.
    let all = [1, 2, 0].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    all.into_iter().filter(IsTerminal::is_terminal)
}

/// In the child: leaves the caller's session, and dies with this process, as if it had replaced it. A change of user
/// clears the death signal, so that signal is set last.
fn enter(terminal: Option<RawFd>, rights: &Rights) -> io::Result<()> {
    setsid()?;
    if let Some(terminal) = terminal {
        // SAFETY: takes integers only; the parent holds the descriptor until the command runs.
        unsafe { take_control(terminal, 0) }?;
    }
    rights.prepare_child()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

fn on_a_terminal(mut command: Command, rights: Rights) -> io::Result<u8> {
    let Some(theirs) = terminals().next() else { return Err(io::ErrorKind::NotFound.into()) };
    let keys = Keys::find();
    let pair = openpty(size_of(theirs).as_ref(), Some(&modes(theirs, keys.as_ref())?))?;
    if let Some(account) = rights.account.as_ref().filter(|account| !account.is_own()) {
        // So that the command may open its terminal by name.
        fchown(&pair.slave, Some(account.uid), None)?;
    }
    let streams: [fn(&mut Command, Stdio) -> &mut Command; 3] =
        [Command::stdin, Command::stdout, Command::stderr];
    for fd in terminals() {
        let stream = streams[usize::try_from(fd.as_raw_fd()).unwrap_or(0)];
        stream(&mut command, Stdio::from(pair.slave.try_clone()?));
    }
    let slave = pair.slave.as_raw_fd();
    // SAFETY: system calls only, between fork and exec.
    unsafe { command.pre_exec(move || enter(Some(slave), &rights)) };
    let signals = signals()?;
    let child = command.spawn()?;
    // The command's own copies are the last: when they are closed, reading ends.
    drop((command, pair.slave));
    set_nonblocking(&pair.master)?;
    Relay { master: Some(File::from(pair.master)), keys, ..Relay::new(child, signals) }.run()
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The modes of the command's terminal: those of the caller's terminal, without processing that the latter still
/// does.
fn modes(theirs: BorrowedFd<'_>, keys: Option<&Keys>) -> io::Result<Termios> {
    let mut modes = tcgetattr(theirs)?;
    if keys.is_none_or(|keys| keys.before.is_none()) {
        modes.output_flags.remove(OutputFlags::OPOST);
        modes.local_flags.remove(LocalFlags::ECHO);
    }
    Ok(modes)
}

fn size_of(terminal: BorrowedFd<'_>) -> Option<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel fills exactly this struct.
    unsafe { get_size(terminal.as_raw_fd(), &raw mut size) }.ok()?;
    Some(size)
}

fn signals() -> io::Result<SignalFd> {
    let mut wanted: SigSet = PASSED_ON.into_iter().collect();
    wanted.add(Signal::SIGCHLD);
    wanted.add(Signal::SIGWINCH);
    let mut blocked = wanted;
    // Giving the terminal its modes back must not stop a command in the background.
    blocked.add(Signal::SIGTTOU);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
    Ok(SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The caller's keyboard.
struct Keys {
    /// The modes of the caller's terminal before; `None` when they are not changed, because output does not go there
    /// alone.
    before: Option<Termios>,
    open: bool,
}

impl Keys {
    /// `None` when standard input is not a terminal, or is another job's.
    fn find() -> Option<Self> {
        let stdin = io::stdin();
        let ours = stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(|group| group == getpgrp());
        let raw = ours && io::stdout().is_terminal();
        ours.then(|| Self { before: tcgetattr(&stdin).ok().filter(|_| raw), open: true })
    }

    /// Switches the caller's terminal to raw mode: from here on every key goes to the command.
    fn take(&self) -> io::Result<()> {
        let Some(before) = &self.before else { return Ok(()) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Fails only if the terminal is gone, which then needs no modes.
            let _gone = tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// Passes keys, output and signals between the caller and the command.
struct Relay {
    child: Child,
    signals: SignalFd,
    /// Our end of the command's terminal; non-blocking, so that a command that reads nothing stalls nothing.
    master: Option<File>,
    keys: Option<Keys>,
    /// Keys that the command's terminal has not accepted yet.
    typed: Vec<u8>,
}

/// The sources that are ready.
struct Ready {
    told: bool,
    output: bool,
    room: bool,
    keys: bool,
}

impl Relay {
    fn new(child: Child, signals: SignalFd) -> Self {
        Self { child, signals, master: None, keys: None, typed: Vec::new() }
    }

    fn run(mut self) -> io::Result<u8> {
        if let Some(keys) = &self.keys {
            keys.take()?;
        }
        loop {
            let ready = self.wait()?;
            if ready.output {
                self.pass_output()?;
            }
            if ready.keys {
                self.read_keys()?;
            }
            if ready.room || ready.keys {
                self.pass_keys();
            }
            if ready.told && self.heed()? {
                let status = self.child.wait()?;
                self.pass_rest()?;
                return Ok(code(status));
            }
        }
    }

    /// Waits for a signal, output of the command, room for keys, or a key.
    fn wait(&self) -> io::Result<Ready> {
        let stdin = io::stdin();
        let mut of_master = PollFlags::POLLIN;
        of_master.set(PollFlags::POLLOUT, !self.typed.is_empty());
        let keys = self.keys.as_ref().is_some_and(|keys| keys.open) && self.typed.is_empty();
        let mut wanted = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(self.master.as_ref().map(|master| PollFd::new(master.as_fd(), of_master)));
        if keys && self.master.is_some() {
            wanted.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let seen = |at: usize| wanted.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let master = if self.master.is_some() { seen(1) } else { PollFlags::empty() };
        Ok(Ready {
            told: !seen(0).is_empty(),
            output: master.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR),
            room: master.contains(PollFlags::POLLOUT),
            keys: self.master.is_some() && !seen(2).is_empty(),
        })
    }

    fn pass_output(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE];
        let read = self.master.as_mut().map_or(Ok(0), |master| master.read(&mut piece));
        match read {
            Ok(read) if read > 0 => {
                if let Some(terminal) = terminals().next() {
                    File::from(terminal.try_clone_to_owned()?).write_all(&piece[..read])?;
                }
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
            // EIO: no process has the command's side open any more.
            Ok(_) | Err(_) => self.master = None,
        }
        Ok(())
    }

    /// Passes on the output that was there when the command ended, without waiting for children that it left behind.
    fn pass_rest(&mut self) -> io::Result<()> {
        while let Some(master) = &self.master {
            let mut wanted = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut wanted, PollTimeout::ZERO)? == 0 {
                return Ok(());
            }
            self.pass_output()?;
        }
        Ok(())
    }

    fn read_keys(&mut self) -> io::Result<()> {
        let mut piece = [0; PIECE];
        let (Some(master), Some(keys)) = (&self.master, &mut self.keys) else { return Ok(()) };
        match nix::unistd::read(io::stdin(), &mut piece) {
            Ok(0) => {
                // The caller's terminal turned the end-of-input key into an end: pass the key itself on.
                keys.open = keys.before.is_none();
                self.typed.push(tcgetattr(master)?.control_chars[SpecialCharacterIndices::VEOF as usize]);
            }
            Ok(read) => self.typed.extend(&piece[..read]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The terminal is gone; SIGHUP follows.
            Err(_) => keys.open = false,
        }
        Ok(())
    }

    fn pass_keys(&mut self) {
        match self.master.as_mut().map(|master| master.write(&self.typed)) {
            Some(Ok(written)) => drop(self.typed.drain(..written)),
            Some(Err(err)) if err.kind() == io::ErrorKind::WouldBlock => {}
            // Nothing reads the keys any more.
            Some(Err(_)) | None => self.typed.clear(),
        }
    }

    /// Passes signals on; true when the command has ended.
    fn heed(&mut self) -> io::Result<bool> {
        let mut ended = false;
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            match Signal::try_from(number)? {
                Signal::SIGCHLD => ended |= self.child.try_wait()?.is_some(),
                Signal::SIGWINCH => self.resize(),
                signal => self.signal(signal),
            }
        }
        Ok(ended)
    }

    fn resize(&self) {
        let size = terminals().next().and_then(size_of);
        if let (Some(master), Some(size)) = (&self.master, size) {
            // SAFETY: the kernel reads exactly this struct. One that is refused changes nothing but the look.
            let _kept = unsafe { set_size(master.as_raw_fd(), &raw const size) };
        }
    }

    /// Signals the foreground group of the command's terminal, as a key would; without a terminal, the command.
    fn signal(&self, signal: Signal) {
        let group = self.master.as_ref().and_then(|master| tcgetpgrp(master).ok());
        let child = Pid::from_raw(self.child.id().cast_signed());
        // Fails if the process has ended, which then needs no signal.
        let _gone = match group {
            Some(group) if group.as_raw() > 0 => killpg(group, signal),
            Some(_) | None => killpg(child, signal).or_else(|_| kill(child, signal)),
        };
    }
}

/// The exit code that a shell would give.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
