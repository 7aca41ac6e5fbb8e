//! The shim's loop: one `poll` over signals, output pipe and socket; then reap, log, end, answer. Owns the
//! record. Everything here is non-blocking except writing to disk.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signalfd::SignalFd,
    unistd,
};

use super::{
    child::Launch,
    ending::{Ending, Outcome},
    limits,
    log::Log,
    record::{CommandExit, ExitKind, MARKS, Record, is_disk_full, now_ms},
    socket::ShimSocket,
    spec::{Role, Spec, StopRequest},
    wire::{MAX_TREE, ShimReply, ShimReport, ShimRequest, StartFault, StartOrder, StartStep},
};

use crate::{
    config::settings::Limits,
    os::{
        own_file,
        process::{Process, boot_id},
        tree,
    },
};

/// Bytes of one read of the output pipe; this also bounds the shim's memory.
const CHUNK: usize = 32 * 1024;

/// Reads per round, so that an endless output can't keep the shim from its other work.
const CHUNKS: usize = 32;

/// Time between two attempts to save a record on a full disk.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Pause after a system call failed that never should (no memory, no descriptors).
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

/// A running shim.
pub(super) struct RunningShim {
    record: Record,
    path: PathBuf,
    saving: Saving,
    signals: SignalFd,
    output: OwnedFd,
    /// Kept open, so that the pipe never reports its end; the shim waits for the end of the tree instead.
    input: OwnedFd,
    buffer: Box<[u8]>,
    log: Log,
    socket: ShimSocket,
    ending: Ending,
    /// The process that replaces the main process of an instance whose command went into the background.
    heir: Option<Process>,
    grace: Duration,
    stop_command: Option<Launch>,
    quiet: Option<i32>,
    limit: Option<Instant>,
    timed_out: bool,
    limits: Limits,
    claim: Option<PathBuf>,
}

/// Whether the record on disk is the one in memory.
enum Saving {
    Done,
    Due(Instant),
}

impl RunningShim {
    /// Binds, records, starts the command. On failure nothing is left behind.
    pub fn begin(order: StartOrder, signals: SignalFd) -> Result<Self, StartFault> {
        let StartOrder { id, record: path, socket, spec } = order;
        let launch = Launch::new(&spec, &spec.argv)?;
        let stop_command = match &spec.stop.how {
            StopRequest::Signal(_) => None,
            StopRequest::Command(argv) => Some(Launch::new(&spec, argv)?),
        };
        let (output, input) = pipe().map_err(|e| fault(StartStep::Fork, &e))?;
        let socket_path = socket.clone();
        let socket = ShimSocket::bind(socket).map_err(|e| fault(StartStep::Socket, &e))?;
        let record = new_record(id, socket_path, &spec).map_err(|e| fault(StartStep::Record, &e))?;
        let mut shim = Self {
            ending: Ending::new(record.shim.pid, record.stop_signal),
            saving: Saving::Done,
            heir: None,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            log: Log::new(spec.log),
            grace: spec.stop.grace,
            limit: spec.time_limit.and_then(|limit| Instant::now().checked_add(limit)),
            record,
            path,
            signals,
            output,
            input,
            socket,
            stop_command,
            quiet: spec.stop.quiet,
            timed_out: false,
            limits: spec.limits,
            claim: spec.claim,
        };
        match shim.start(&launch) {
            Ok(()) => Ok(shim),
            Err(fault) => {
                shim.undo();
                Err(fault)
            }
        }
    }

    /// The record as known so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Saves the record before and after the start: a shim that is killed in between can still be found.
    fn start(&mut self, launch: &Launch) -> Result<(), StartFault> {
        self.save_or_retry().map_err(|e| fault(StartStep::Record, &e))?;
        // After the record: who finds the claim finds the shim too, unless a power cut came between.
        if let Some(claim) = &self.claim {
            own_file::make_claim(claim).map_err(|e| fault(StartStep::Claim, &e))?;
        }
        if !matches!(self.record.role, Role::Build) {
            // The log of a build belongs to one release alone.
            self.log.begin(&self.record.release);
        }
        self.record.main = Some(launch.start(self.input.as_fd()).inspect_err(|_| self.give_up_claim())?);
        self.record.started_ms = now_ms();
        // From here on the command runs: a failure to write is retried, not returned.
        if self.save_or_retry().is_err() {
            self.saving = Saving::Due(Instant::now() + SAVE_AGAIN);
        }
        Ok(())
    }

    /// The command did not run: somebody may try again.
    fn give_up_claim(&self) {
        let _left = self.claim.as_ref().map(fs::remove_file);
    }

    /// Removes the files of a failed start. A file that can't be removed does no harm: its shim is gone, so the daemon
    /// ignores it.
    fn undo(&self) {
        let _left = fs::remove_file(&self.path);
        let _left = self.socket.remove();
    }

    /// Runs until no descendant is left and that is recorded. While the command runs nothing ends the shim: an error
    /// goes to the log, since there is nobody else to report it to, and the round is tried again.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            match self.round() {
                Ok(()) if self.is_over() => return self.socket.remove(),
                Ok(()) => {}
                Err(error) if self.record.ended_ms.is_some() => return Err(error),
                Err(error) => {
                    self.log.write(format!("bgd: trouble in the shim: {error}\n").as_bytes());
                    std::thread::sleep(TROUBLE_PAUSE);
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.record.ended_ms.is_some() && matches!(self.saving, Saving::Done)
    }

    /// Order matters: log the output before the exit is seen, and save the exit before a client learns of it.
    fn round(&mut self) -> io::Result<()> {
        self.wait()?;
        self.take_signals()?;
        self.copy_output();
        self.reap()?;
        self.keep_time()?;
        self.serve()
    }

    fn wait(&self) -> io::Result<()> {
        let fixed = [self.signals.as_fd(), self.output.as_fd()];
        let mut polled: Vec<PollFd<'_>> = fixed
            .into_iter()
            .chain(self.socket.descriptors())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn timeout(&self) -> PollTimeout {
        let save = match self.saving {
            Saving::Due(at) => Some(at),
            Saving::Done => None,
        };
        let Some(next) = [self.ending.next(), self.limit, save].into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // One millisecond more: rounding down would spin until the moment has come.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            match i32::try_from(info.ssi_signo) {
                Ok(libc::SIGTERM | libc::SIGINT) => self.ask_to_stop(),
                // On failure (no room for a socket) the daemon sees that the socket is missing, and goes by pid.
                Ok(libc::SIGUSR1) => drop(self.socket.restore()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the available output into the log.
    fn copy_output(&mut self) {
        for _ in 0..CHUNKS {
            match unistd::read(&self.output, &mut self.buffer) {
                Ok(count) if count > 0 => self.log.write(self.buffer.get(..count).unwrap_or_default()),
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    fn reap(&mut self) -> io::Result<()> {
        let mut news = false;
        loop {
            let mut status = 0;
            // Not nix's wait: it has no name for the real-time signals, and would lose the pid of a process that died
            // of one.
            // SAFETY: the status is ours to write; -1 is any child of ours.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
            match Errno::result(pid) {
                Ok(0) if news => return self.look_after_the_rest(),
                Ok(0) => return Ok(()),
                Ok(pid) if libc::WIFSIGNALED(status) => {
                    self.child_gone(pid, ExitKind::Signal(libc::WTERMSIG(status)));
                    news = true;
                }
                Ok(pid) => {
                    self.child_gone(pid, ExitKind::Code(libc::WEXITSTATUS(status)));
                    news = true;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => {
                    self.all_gone();
                    return Ok(());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn child_gone(&mut self, pid: i32, how: ExitKind) {
        let outcome = if how == ExitKind::Code(0) { Outcome::Worked } else { Outcome::Failed };
        self.ending.reaped(pid, outcome);
        if self.record.main.is_some_and(|main| main.pid == pid) && self.record.exit.is_none() {
            self.main_gone(how, outcome);
            self.limit = None;
            if self.record.role.ends_with_main() {
                self.ending.kill();
            }
        } else if self.heir.is_some_and(|heir| heir.pid == pid) {
            self.heir = None;
            // Its exit during a requested stop is not the command's result.
            if self.ending.is_idle() {
                self.main_gone(how, outcome);
            }
        }
    }

    fn main_gone(&mut self, how: ExitKind, outcome: Outcome) {
        // A client that learns of the exit must find the last output in the log.
        self.copy_output();
        let failed = outcome == Outcome::Failed && self.limits.memory.is_some();
        let out_of_memory = failed && limits::has_run_out_of_memory();
        self.record.exit = Some(CommandExit { how, timed_out: self.timed_out, out_of_memory });
        self.saving = Saving::Due(Instant::now());
    }

    /// Handles processes that outlived an instance's main process. If the main process failed, so has the instance:
    /// the rest (a helper, workers without their master) is asked to end, and only then can the instance start again.
    /// If it exited with 0 it went into the background, and the one process that it left takes its place; of several,
    /// none is known to be the main one.
    fn look_after_the_rest(&mut self) -> io::Result<()> {
        let Some(exit) = self.record.exit else { return Ok(()) };
        if self.record.role.ends_with_main() || !self.ending.is_idle() || self.heir.is_some() {
            return Ok(());
        }
        if !exit.success() {
            self.ask_to_stop();
        } else if let [heir] = tree::tops(self.record.shim.pid)?[..] {
            self.heir = Some(heir);
        }
        Ok(())
    }

    fn all_gone(&mut self) {
        if self.record.ended_ms.is_none() {
            self.copy_output();
            self.record.exit.get_or_insert(CommandExit::UNKNOWN);
            self.record.killed = self.ending.killed();
            self.record.ended_ms = Some(now_ms());
            self.saving = Saving::Due(Instant::now());
        }
    }

    fn keep_time(&mut self) -> io::Result<()> {
        if self.record.ended_ms.is_none() {
            if self.limit.is_some_and(|limit| Instant::now() >= limit) {
                self.limit = None;
                self.timed_out = true;
                self.ending.kill();
            }
            // The first signal goes before anything is written: a disk may stall.
            self.note_ending();
            let main = self.record.main.filter(|_| self.record.exit.is_none());
            self.ending.advance(main)?;
        }
        if matches!(self.saving, Saving::Due(at) if Instant::now() >= at) {
            self.save()?;
        }
        Ok(())
    }

    /// Records that the end has begun: if this shim is killed too, a new bgd must not take the rest of the tree for an
    /// instance that stays.
    fn note_ending(&mut self) {
        if !self.ending.is_idle() && !self.record.ending {
            self.record.ending = true;
            self.saving = Saving::Due(Instant::now());
        }
    }

    /// While the command runs, no failure to save may end the shim.
    fn save(&mut self) -> io::Result<()> {
        match self.save_or_retry() {
            Err(error) if self.record.ended_ms.is_some() => Err(error),
            Err(_) => {
                self.saving = Saving::Due(Instant::now() + SAVE_AGAIN);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn save_or_retry(&mut self) -> io::Result<()> {
        match self.record.save(&self.path) {
            Ok(()) => self.saving = Saving::Done,
            Err(error) if is_disk_full(&error) => self.saving = Saving::Due(Instant::now() + SAVE_AGAIN),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn ask_to_stop(&mut self) {
        if self.ending.is_idle() && self.record.ended_ms.is_none() {
            let command = self.stop_command.as_ref();
            // A stop command that can't be started counts as failed: the signal is sent instead.
            let running = command.and_then(|launch| launch.start(self.input.as_fd()).ok());
            self.ending.ask(self.grace, running);
        }
    }

    /// Notes when the tree is killed at the latest: a new bgd shows it, and keeps to it if this shim is killed.
    fn note_told(&mut self) {
        if self.record.ends_by_ms.is_none() && self.record.ended_ms.is_none() {
            self.record.ends_by_ms = Some(now_ms().saturating_add(self.record.grace_ms));
            self.saving = Saving::Due(Instant::now());
        }
    }

    /// Sends the signal once, to the main process only.
    fn quiet(&mut self) -> io::Result<()> {
        let main = self.record.main.filter(|_| self.record.exit.is_none()).or(self.heir);
        let (Some(signal), Some(main)) = (self.quiet, main) else { return Ok(()) };
        if self.record.quieted || !self.ending.is_idle() {
            return Ok(());
        }
        self.record.quieted = true;
        self.saving = Saving::Due(Instant::now());
        match tree::signal(self.record.shim.pid, main, signal) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        let asked = self.socket.serve();
        for request in &asked {
            match request {
                ShimRequest::Stop => {
                    self.note_told();
                    self.ask_to_stop();
                }
                ShimRequest::Quiet => self.quiet()?,
                ShimRequest::Kill => self.ending.kill(),
                ShimRequest::Forget if self.record.ended_ms.is_some() => self.saving = Saving::Done,
                _ => {}
            }
        }
        if asked
            .iter()
            .any(|request| matches!(request, ShimRequest::Stop | ShimRequest::Kill | ShimRequest::Quiet))
        {
            self.keep_time()?;
        }
        let due: Vec<ShimRequest> = asked.into_iter().filter(|request| self.is_due(*request)).collect();
        if !due.is_empty() {
            let reply = ShimReply::Report(Box::new(self.report()?));
            self.socket.answer(&due, &reply);
        }
        Ok(())
    }

    fn is_due(&self, request: ShimRequest) -> bool {
        let ended = self.record.ended_ms.is_some();
        match request {
            ShimRequest::Status | ShimRequest::Quiet | ShimRequest::Forget => true,
            ShimRequest::WaitExit => self.record.exit.is_some(),
            ShimRequest::WaitEnd => ended,
            ShimRequest::Stop | ShimRequest::Kill => ended || self.ending.has_failed(Instant::now()),
        }
    }

    fn report(&self) -> io::Result<ShimReport> {
        let tree = tree::descendants(self.record.shim.pid)?.into_iter().map(|one| one.pid);
        let tree = tree.take(MAX_TREE).collect();
        Ok(ShimReport { record: self.record.clone(), tree, dropped: self.log.dropped() })
    }
}

fn fault(stage: StartStep, error: &io::Error) -> StartFault {
    StartFault { stage, errno: error.raw_os_error().unwrap_or(0) }
}

/// Only our end is non-blocking; the app's must behave as it expects.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (output, input) = unistd::pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((output, input))
}

fn marks(spec: &Spec) -> BTreeMap<String, String> {
    let known = |name: &&str| spec.env.get(*name).map(|value| ((*name).to_owned(), value.clone()));
    MARKS.iter().filter_map(known).collect()
}

fn new_record(id: String, socket: PathBuf, spec: &Spec) -> io::Result<Record> {
    Ok(Record {
        id,
        boot: boot_id()?.to_owned(),
        app: spec.app.clone(),
        role: spec.role.clone(),
        release: spec.release.clone(),
        socket,
        log: spec.log.path.clone(),
        stop_signal: spec.stop.how.signal(),
        grace_ms: u64::try_from(spec.stop.grace.as_millis()).unwrap_or(u64::MAX),
        shim: Process::of(unistd::getpid().as_raw()).ok_or(io::ErrorKind::NotFound)?,
        main: None,
        started_ms: now_ms(),
        exit: None,
        ended_ms: None,
        killed: false,
        ending: false,
        ends_by_ms: None,
        quieted: false,
        marks: marks(spec),
        siblings: spec.siblings,
    })
}
