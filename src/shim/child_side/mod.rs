//! The shim, `bgd shim`: the small process that each instance, build and hook runs under, so that they outlive
//! the daemon. One thread, no tokio. Called by `main` before anything else is set up.
//!
//! It is a session leader and child subreaper: processes that its command leaves behind become its children, so "no
//! child left" is "the whole tree is gone". TERM and INT sent to the shim are a stop request (a host that shuts down
//! sends them), USR1 makes it check its socket, every other signal is ignored.

mod child;
mod ending;
mod log;
mod run;
mod socket;

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::{AsRawFd, IntoRawFd},
    process::ExitCode,
};

use nix::{
    sys::{
        prctl,
        signal::SigSet,
        signalfd::{SfdFlags, SignalFd},
    },
    unistd,
};

use super::{limits, logs, record, spec, wire};
use crate::os::lines::line;
use run::RunningShim;
use wire::{StartOrder, Started};

/// Largest order in bytes: an environment can't be larger than what the kernel takes at an exec.
const MAX_ORDER: u64 = 16 << 20;

/// Runs the shim: order on stdin, answer on stdout, then on its own until nothing is left of its command.
pub fn main() -> ExitCode {
    match oversee() {
        Ok(code) => code,
        Err(error) => {
            // The daemon may be gone; then nobody reads the answer.
            let _unread = writeln!(io::stderr(), "bgd shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn oversee() -> io::Result<ExitCode> {
    let order = read_order()?;
    let signals = detach()?;
    match RunningShim::begin(order, signals) {
        Ok(shim) => {
            answer(&Started::Running(Box::new(shim.record().clone())));
            silence()?;
            shim.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            answer(&Started::Failed(fault));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read_order() -> io::Result<StartOrder> {
    let mut text = Vec::new();
    io::stdin().lock().take(MAX_ORDER).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Sends the answer. A daemon that died meanwhile does not get it; its successor finds the record.
fn answer(started: &Started) {
    if let Ok(line) = line(started) {
        let mut out = io::stdout().lock();
        let _unread = out.write_all(&line).and_then(|()| out.flush());
    }
}

/// Leaves the daemon: own session, no directory held, no descriptor but 0 to 2, all signals by descriptor.
fn detach() -> io::Result<SignalFd> {
    close_inherited()?;
    match unistd::setsid() {
        // Already a session leader: started by hand from a shell.
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    unistd::chdir("/")?;
    prctl::set_child_subreaper(true)?;
    let mut signals = SigSet::all();
    signals.thread_block()?;
    for own in [nix::sys::signal::SIGSEGV, nix::sys::signal::SIGBUS, nix::sys::signal::SIGABRT] {
        signals.remove(own);
    }
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

fn close_inherited() -> io::Result<()> {
    let listed = fs::read_dir("/proc/self/fd")?;
    let open: Vec<i32> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: the shim has opened nothing yet that it would use again; the listing's own is closed by now.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Closes the daemon's pipes; at the end of stdout the daemon stops reading the answer.
fn silence() -> io::Result<()> {
    let nothing = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdin(&nothing)?;
    unistd::dup2_stdout(&nothing)?;
    unistd::dup2_stderr(&nothing)?;
    if nothing.as_raw_fd() <= 2 {
        // It got the number of a closed descriptor: leave it there.
        let _kept = nothing.into_raw_fd();
    }
    Ok(())
}
