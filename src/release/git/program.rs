//! libgit2's smart protocol over the pipes of a program: `ssh` if OpenSSH's configuration has settings for the host,
//! and `git upload-pack` for repositories on this machine that libgit2 can't read. Used by `transfer` inside the
//! worker; the program ends with its connection.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use git2::{
    Error, Remote,
    transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport},
};

/// The scheme under which libgit2 knows these remotes.
const SCHEME: &str = "bgd-program";
/// Bytes of a program's standard error that are kept, from its end.
const LONGEST_SAYING: usize = 8 << 10;
/// How long to wait for the standard error of a program that closed its output.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program with its arguments and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// Its path, as found on the PATH.
    pub program: OsString,
    /// All its arguments.
    pub args: Vec<OsString>,
    /// Variables in addition to those of the worker.
    pub env: Vec<(OsString, OsString)>,
}

/// Passes an [`Invocation`] to the transport, which libgit2 constructs itself.
#[derive(Clone, Default)]
pub struct Programs {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    next: Option<Invocation>,
    said: Vec<u8>,
}

impl Programs {
    /// Registers the transport with libgit2. Call it once in a process, before the first connection.
    pub fn register(&self) -> Result<(), Error> {
        let programs = self.clone();
        // SAFETY: the worker has one thread that uses libgit2's transports, and this is before their first use.
        unsafe {
            git2::transport::register(SCHEME, move |remote: &Remote<'_>| {
                Transport::smart(remote, false, Pipes { programs: programs.clone() })
            })
        }
    }

    /// Sets the program of the next connection, and returns the URL for libgit2.
    pub fn arm(&self, invocation: &Invocation) -> String {
        *self.shared() = Shared { next: Some(invocation.clone()), said: Vec::new() };
        format!("{SCHEME}://remote")
    }

    /// The standard error of the last program.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.shared().said).into_owned()
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, bytes: &[u8]) {
        let said = &mut self.shared().said;
        said.extend_from_slice(bytes);
        let surplus = said.len().saturating_sub(LONGEST_SAYING);
        said.drain(..surplus);
    }
}

struct Pipes {
    programs: Programs,
}

impl SmartSubtransport for Pipes {
    fn action(&self, _: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        if !matches!(service, Service::UploadPackLs | Service::UploadPack) {
            return Err(Error::from_str("nothing is ever pushed"));
        }
        let invocation = self.programs.shared().next.clone();
        let invocation = invocation.ok_or_else(|| Error::from_str("no program to run"))?;
        let running = RunningProgram::start(&invocation, &self.programs);
        let shown = invocation.program.to_string_lossy();
        running
            .map(|running| Box::new(running) as _)
            .map_err(|err| Error::from_str(&format!("{shown}: {err}")))
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

struct RunningProgram {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    listener: JoinHandle<()>,
}

impl RunningProgram {
    fn start(invocation: &Invocation, programs: &Programs) -> io::Result<Self> {
        let mut command = Command::new(&invocation.program);
        command.args(&invocation.args).envs(invocation.env.iter().cloned());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
        let ((input, output), mut errors) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
        let programs = programs.clone();
        let listener = thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = errors.read(&mut bytes) {
                programs.keep(&bytes[..read]);
            }
        });
        Ok(Self { child, input, output, listener })
    }
}

impl Read for RunningProgram {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.output.read(into)?;
        if read == 0 {
            // Wait for the rest of standard error, so that the error's cause is complete.
            let until = Instant::now() + LAST_WORDS;
            while !self.listener.is_finished() && Instant::now() < until {
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(read)
    }
}

impl Write for RunningProgram {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.input.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
