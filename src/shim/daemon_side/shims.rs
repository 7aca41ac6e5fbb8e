//! Starts shims and finds running ones: the daemon's access to processes. Called by the engine. Keeps nothing in
//! memory: state files and sockets are the truth, so that a new daemon knows as much as the former one.

use std::{
    collections::BTreeSet,
    fs,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};

use super::{client, handle::Handle, status::ShimError};
use crate::{
    os::{own_file, privilege, unix::LONGEST_PATH},
    rules::ids::AppName,
    shim::{
        limits::Limiter,
        record::{self, Record, now_ms},
        spec::{Role, Spec},
        wire::{MAX_REPLY, StartFault, StartOrder, StartStep, Started},
    },
};

/// Time limit from the order to the exec: normally milliseconds, but a name service or a full machine may be slow.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Why a command was not started. Nothing runs then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder for state, socket or log could not be made.
    #[error("making the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        source: io::Error,
    },
    /// The shim's socket or state file could not be made.
    #[error("making the file {path}")]
    File {
        /// The file.
        path: PathBuf,
        source: io::Error,
    },
    /// The path of the shim's socket is too long, because of the runtime directory.
    #[error("the socket path is longer than 107 bytes: {path}")]
    LongPath {
        /// The socket's path.
        path: PathBuf,
    },
    /// The shim's own program could not be started.
    #[error("starting the shim {exe} for {role}")]
    Shim {
        /// The program.
        exe: PathBuf,
        /// The role that the shim was for.
        role: Role,
        source: io::Error,
    },
    /// The shim ended without a word, or said something else.
    #[error("the shim for {role} gave no answer: {said}")]
    NoAnswer {
        /// The role that the shim was for.
        role: Role,
        /// Its error output.
        said: String,
    },
    /// The kernel refused the shim a part of its work.
    #[error("the shim could not prepare its {what} for {role}")]
    Prepare {
        /// The part of the work, as a noun.
        what: &'static str,
        /// The role that the shim was for.
        role: Role,
        source: io::Error,
    },
    /// Memory, CPU or processes can't be limited here.
    #[error("the limits of {role} can't be kept: {why}")]
    Limits {
        /// The role that the shim was for.
        role: Role,
        /// The reason, in systemd's words or bgd's.
        why: String,
    },
    /// The working directory could not be entered.
    #[error("entering the directory {path} for {role}")]
    Directory {
        /// The working directory.
        path: PathBuf,
        /// The role that the shim was for.
        role: Role,
        source: io::Error,
    },
    /// The configured user does not exist.
    #[error("no such user: {user}")]
    UnknownUser {
        /// The user's name.
        user: String,
    },
    /// The child could not become the user.
    #[error("becoming the user {user}")]
    User {
        /// The user's name.
        user: String,
        source: io::Error,
    },
    /// Another shim has run the command, or runs it.
    #[error("claiming the run of {role}: another process has it")]
    Taken {
        /// The role that the shim was for.
        role: Role,
    },
    /// The program could not be run.
    #[error("running the program {program:?}")]
    Program {
        /// The first word of the command.
        program: String,
        source: io::Error,
    },
    /// The program exists, but not the interpreter that its first line names.
    #[error("running the program {program:?}: its interpreter is missing")]
    Interpreter {
        /// The first word of the command.
        program: String,
    },
}

/// All shims of one bgd.
#[derive(Debug, Clone)]
pub struct Shims {
    exe: PathBuf,
    state_dir: PathBuf,
    sockets: PathBuf,
    limiter: Limiter,
}

impl Shims {
    /// `exe` is the bgd binary, absolute; the directories are those of the configuration, absolute.
    pub fn new(exe: PathBuf, state_dir: &Path, runtime_dir: &Path) -> Self {
        Self {
            exe,
            state_dir: state_dir.to_owned(),
            sockets: runtime_dir.join("s"),
            limiter: Limiter::default(),
        }
    }

    /// Replaces the limiter, which makes the scopes of shims with limits.
    #[must_use]
    pub fn limited_by(self, limiter: Limiter) -> Self {
        Self { limiter, ..self }
    }

    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Starts a command under a new shim; returns after the exec. Dropping the future does not cancel it: a shim that
    /// got its whole order runs, and [`Shims::find`] finds it.
    pub async fn start(&self, spec: &Spec) -> Result<Handle, StartError> {
        let order = self.order(spec)?;
        make_folder(order.record.parent(), 0o700)?;
        make_folder(Some(&self.sockets), 0o700)?;
        make_folder(spec.log.path.parent(), 0o750)?;
        match self.launch(&order).await? {
            Started::Running(record) => Ok(Handle::new(*record, order.record)),
            Started::Failed(fault) => Err(explain(&fault, order)),
        }
    }

    fn order(&self, spec: &Spec) -> Result<StartOrder, StartError> {
        let id = new_id();
        let socket = self.sockets.join(format!("{id}.sock"));
        if socket.as_os_str().as_bytes().len() > LONGEST_PATH {
            return Err(StartError::LongPath { path: socket });
        }
        let record = record::folder(&self.state_dir, &spec.app).join(format!("{id}.json"));
        Ok(StartOrder { id, record, socket, spec: spec.clone() })
    }

    /// The order goes through a pipe: neither command line nor disk may hold the environment.
    async fn launch(&self, order: &StartOrder) -> Result<Started, StartError> {
        let role = || order.spec.role.clone();
        let failed = |source| StartError::Shim { exe: self.exe.clone(), role: role(), source };
        let text = serde_json::to_vec(order).map_err(|e| failed(e.into()))?;
        let limited = order.spec.limits.any();
        let mut command = if limited {
            self.limiter.command(&self.exe, (&order.id, &order.spec))
        } else {
            let mut command = Command::new(&self.exe);
            command.env_clear();
            command
        };
        let no_scope = |why: String| StartError::Limits { role: role(), why };
        // SAFETY: between fork and exec; system calls only.
        unsafe { command.pre_exec(privilege::restore_descriptor_limit) };
        let mut child = command
            .args(["shim", order.spec.app.as_str(), &role().to_string(), &order.id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|err| match limited {
                true => no_scope(format!("running {}: {err}", self.limiter.program.display())),
                false => failed(err),
            })?;
        let said = tokio::time::timeout(START_LIMIT, converse(&mut child, &text)).await;
        if said.is_err() {
            child.start_kill().map_err(failed)?;
        }
        // While this daemon lives it is the shim's parent and must reap it.
        tokio::spawn(async move { child.wait().await });
        let (answer, errors) = said.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        serde_json::from_slice(&answer).map_err(|_| {
            let said = String::from_utf8_lossy(errors.trim_ascii()).into_owned();
            // The process was `systemd-run` before it became the shim; its error output says why it could not make the
            // scope.
            if limited { no_scope(said) } else { StartError::NoAnswer { role: role(), said } }
        })
    }

    /// All shims of an app that were not forgotten: those that run, those whose shim was killed, and those
    /// that ended, in the order of their start.
    pub async fn find(&self, app: &AppName) -> Result<Vec<Handle>, ShimError> {
        let folder = record::folder(&self.state_dir, app);
        let mut found = Vec::new();
        for path in record::files(&folder).map_err(|source| state_file(&folder, source))? {
            match Record::load(&path) {
                Ok(Some(record)) => found.push(Handle::new(record, path)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => set_aside(&path, &error)?,
                Err(source) => return Err(state_file(&path, source)),
            }
        }
        let unrecorded = self.unrecorded().await?;
        found.extend(unrecorded.into_iter().filter(|handle| handle.app() == app));
        found.sort_by_key(Handle::order);
        Ok(found)
    }

    /// All apps that have shims not forgotten yet, configured or not.
    pub async fn apps(&self) -> Result<BTreeSet<AppName>, ShimError> {
        let mut apps: BTreeSet<_> = self.unrecorded().await?.iter().map(|one| one.app().clone()).collect();
        for app in self.folders()? {
            let folder = record::folder(&self.state_dir, &app);
            if !record::files(&folder).map_err(|source| state_file(&folder, source))?.is_empty() {
                apps.insert(app);
            }
        }
        Ok(apps)
    }

    /// Shims that could not write their state file (full disk), or whose file was damaged: they are found by their
    /// sockets.
    async fn unrecorded(&self) -> Result<Vec<Handle>, ShimError> {
        let mut known = BTreeSet::new();
        for app in self.folders()? {
            let folder = record::folder(&self.state_dir, &app);
            let files = record::files(&folder).map_err(|source| state_file(&folder, source))?;
            known.extend(files.iter().filter_map(|path| path.file_stem().map(ToOwned::to_owned)));
        }
        let mut found = Vec::new();
        for socket in entries(&self.sockets)? {
            let id = socket.file_stem().map(ToOwned::to_owned);
            if id.is_none_or(|id| known.contains(&id)) {
                continue;
            }
            // A socket that does not answer is the leftover of a dead shim, or not a shim's.
            if let Ok(report) = client::introduce(&socket).await {
                let record = report.record;
                let folder = record::folder(&self.state_dir, &record.app);
                let path = folder.join(format!("{}.json", record.id));
                found.push(Handle::new(record, path));
            }
        }
        Ok(found)
    }

    fn folders(&self) -> Result<Vec<AppName>, ShimError> {
        let paths = entries(&self.state_dir)?;
        Ok(paths.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }
}

/// Writes the order, reads answer and error output; both end when the shim has closed its pipes.
async fn converse(child: &mut Child, order: &[u8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (Some(mut input), Some(output), Some(errors)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    // A shim that ends early says why on its error output, which explains more than "broken pipe".
    let sent = input.write_all(order).await;
    drop(input);
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let (mut output, mut errors) = (output.take(MAX_REPLY), errors.take(MAX_REPLY));
    let (read, heard) = tokio::join!(output.read_to_end(&mut answer), errors.read_to_end(&mut said));
    read.and(heard)?;
    if let (Err(error), true) = (sent, said.is_empty()) {
        said = error.to_string().into_bytes();
    }
    Ok((answer, said))
}

fn explain(fault: &StartFault, order: StartOrder) -> StartError {
    let source = io::Error::from_raw_os_error(fault.errno);
    let StartOrder { record, socket, spec, .. } = order;
    let Spec { role, cwd, .. } = spec;
    let program = spec.argv.into_iter().next().unwrap_or_default();
    let user = spec.user.unwrap_or_default();
    let prepare = |what, role, source| StartError::Prepare { what, role, source };
    match fault.stage {
        StartStep::Socket => StartError::File { path: socket, source },
        StartStep::Record => StartError::File { path: record, source },
        StartStep::Fork => prepare("process", role, source),
        StartStep::Session => prepare("session", role, source),
        StartStep::Priority => prepare("priority", role, source),
        StartStep::UnknownUser => StartError::UnknownUser { user },
        StartStep::User => StartError::User { user, source },
        StartStep::Directory => StartError::Directory { path: cwd, role, source },
        StartStep::Program => StartError::Program { program, source },
        StartStep::Interpreter => StartError::Interpreter { program },
        StartStep::Rights => prepare("rights", role, source),
        StartStep::Claim if fault.errno == libc::EEXIST => StartError::Taken { role },
        StartStep::Claim => StartError::File { path: spec.claim.unwrap_or(record), source },
    }
}

/// On a full disk a folder may be missing that is needed only later (a log's): a flip must still work.
fn make_folder(path: Option<&Path>, mode: u32) -> Result<(), StartError> {
    let Some(path) = path else { return Ok(()) };
    match own_file::make_folder(path, mode) {
        Err(source) if !record::is_disk_full(&source) => {
            Err(StartError::Folder { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// A damaged state file must not hide the others; the shim, if it lives, is found by its socket.
fn set_aside(path: &Path, error: &io::Error) -> Result<(), ShimError> {
    tracing::warn!(path = %path.display(), err = %error, "damaged state file set aside");
    fs::rename(path, path.with_extension("damaged")).map_err(|source| state_file(path, source))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, ShimError> {
    let listed = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|source| state_file(folder, source))?,
    };
    listed.map(|entry| Ok(entry.map_err(|source| state_file(folder, source))?.path())).collect()
}

fn state_file(path: &Path, source: io::Error) -> ShimError {
    ShimError::StateFile { path: path.to_owned(), source }
}

/// 12 hex digits: short for the socket path, and random (from the hasher's keys) so that two bgd on one host never
/// mark processes alike.
fn new_id() -> String {
    let random = RandomState::new().hash_one((std::process::id(), now_ms()));
    format!("{:012x}", random & 0xffff_ffff_ffff)
}
