//! The worker itself, `bgd git-worker`: reads requests from stdin, answers on stdout, one at a time. Started by
//! `worker` only. It has no terminal, no daemon state and no rights but those of the app's user, and it dies with
//! the daemon: when stdin ends it kills itself and all processes it started, even in the middle of a request.

use std::{
    fs,
    io::{self, BufRead},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::ExitCode,
    sync::mpsc,
    thread,
};

use git2::{ConfigLevel, ErrorCode, Oid};
use nix::{
    sys::{
        signal::{Signal, killpg},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, chown, geteuid, getpid, setsid, setuid},
};

use super::{
    changes,
    checkout::{self, Budget, Job},
    credentials::Secrets,
    error::{ErrorCause, GitError, GitStep},
    fetch::{self, Terms, Tip},
    mirror::{FetchFailure, HOME, Mirror},
    program::Programs,
    proxied::Proxied,
    report::Reporter,
    schema,
    ssh_config::Routes,
    text::one_line,
    transfer::TransferContext,
    wire::{
        self, CheckedOut, Described, Fetched, Opening, RemoteHead, WantedRevision, WorkerAnswer, WorkerLine,
        WorkerRequest,
    },
};
use crate::{
    config::settings::CheckoutLimit,
    os::{
        errors::chain,
        privilege::{Account, NewPrivileges, Rights},
    },
    rules::ids::CommitId,
};

/// Bytes of libgit2's cache of unpacked objects; its default of 256 MiB is several times the daemon's whole budget.
const CACHE_BYTES: isize = 32 << 20;
/// Limit of mapped pack data, in bytes.
const MAPPED_BYTES: usize = 256 << 20;
/// Limit of open packs, far below the usual limit on descriptors.
const OPEN_PACKS: usize = 64;
/// Limit for making a TCP connection, in milliseconds.
const CONNECT_MS: i32 = 15_000;

/// Runs the worker until stdin ends.
pub fn main() -> ExitCode {
    // Fails only for a process group leader, which then has no terminal to lose either way.
    setsid().ok();
    umask(Mode::from_bits_truncate(0o022));
    // A panic becomes an error answer; its text must not reach the daemon's log without a frame.
    std::panic::set_hook(Box::new(|_| {}));
    let reporter = Reporter::default();
    let mut first = String::new();
    if !matches!(io::stdin().lock().read_line(&mut first), Ok(read) if read > 0) {
        return ExitCode::from(2);
    }
    let opened = match wire::parse::<Opening>(&first) {
        Ok(opening) => GitSession::open(opening, reporter),
        Err(err) => Err((worker_error(GitStep::Opening, &err), reporter)),
    };
    match opened {
        Ok(session) => session.serve(),
        Err((err, reporter)) => {
            reporter.line(&WorkerLine::Failed(err));
            ExitCode::FAILURE
        }
    }
}

fn worker_error(stage: GitStep, err: &dyn std::fmt::Display) -> GitError {
    GitError::Worker { stage, cause: ErrorCause::new(err) }
}

struct GitSession {
    context: TransferContext,
    mirror: Mirror,
    /// The mirror was already replaced once. If the error remains, the mirror was not its cause.
    rebuilt: bool,
}

impl GitSession {
    fn open(opening: Opening, reporter: Reporter) -> Result<Self, (GitError, Reporter)> {
        let (programs, proxied) = (Programs::default(), Proxied::default());
        let prepared = Secrets::read(&opening).and_then(|secrets| {
            trust_authorities(&opening)?;
            become_user(&opening)?;
            configure_libgit2(&opening)?;
            programs
                .register()
                .and_then(|()| proxied.register())
                .map_err(|err| worker_error(GitStep::Opening, &err.message()))?;
            let mirror = Mirror::open(&opening.mirror)?;
            Ok((secrets, mirror))
        });
        match prepared {
            Ok((secrets, mirror)) => {
                let home = opening.home.clone();
                let context = TransferContext {
                    opening,
                    secrets,
                    home,
                    reporter,
                    programs,
                    proxied,
                    routes: Routes::default(),
                };
                Ok(Self { context, mirror, rebuilt: false })
            }
            Err(err) => Err((err, reporter)),
        }
    }

    fn serve(mut self) -> ExitCode {
        self.context.reporter.line(&WorkerLine::Done(WorkerAnswer::Ready));
        for line in requests() {
            let line = match wire::parse::<WorkerRequest>(&line) {
                Ok(request) => self.reply(request),
                Err(err) => WorkerLine::Failed(worker_error(GitStep::Opening, &err)),
            };
            self.context.reporter.line(&line);
        }
        ExitCode::SUCCESS
    }

    fn reply(&mut self, request: WorkerRequest) -> WorkerLine {
        match catch_unwind(AssertUnwindSafe(|| self.answer(request))) {
            Ok(Ok(answer)) => WorkerLine::Done(answer),
            Ok(Err(err)) => WorkerLine::Failed(err),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
                WorkerLine::Failed(worker_error(GitStep::Opening, &format!("panic: {text}")))
            }
        }
    }

    fn answer(&mut self, request: WorkerRequest) -> Result<WorkerAnswer, GitError> {
        match request {
            WorkerRequest::Head => {
                let (tip, refs) = fetch::head(&self.context)?;
                Ok(WorkerAnswer::Head(RemoteHead { commit: id(tip)?, refs }))
            }
            WorkerRequest::Fetch { want, trust, accepted } => {
                let recorded = accepted.as_ref().map(oid).transpose()?;
                self.fetch(&want, Terms { trust: trust.as_ref(), recorded }).map(WorkerAnswer::Fetched)
            }
            WorkerRequest::Checkout { commit, dir, limit } => {
                self.check_out(&commit, (&dir, limit)).map(WorkerAnswer::CheckedOut)
            }
            WorkerRequest::Describe { commit } => self.describe(oid(&commit)?).map(WorkerAnswer::Described),
            WorkerRequest::Compare(between) => self
                .repaired(|session| changes::compare(&session.context, &session.mirror, &between))
                .map(WorkerAnswer::Compared),
            WorkerRequest::SchemaNews(question) => self
                .repaired(|session| schema::news(&session.context, &session.mirror, &question))
                .map(WorkerAnswer::SchemaNews),
        }
    }

    fn fetch(&mut self, want: &WantedRevision, terms: Terms<'_>) -> Result<Fetched, GitError> {
        let fetched = self.repaired(|session| session.fetch_once(want, terms))?;
        // Joining packs is housekeeping: the fetch succeeded anyway, and the next fetch tries again.
        if let Err(err) = self.mirror.tidy() {
            eprintln!("bgd git-worker: {}", chain(&err));
        }
        Ok(fetched)
    }

    fn fetch_once(&self, want: &WantedRevision, terms: Terms<'_>) -> Result<Fetched, FetchFailure> {
        let (context, mirror) = (&self.context, &self.mirror);
        let branch = |seen| fetch::branch(context, mirror, seen, terms);
        let Tip { oid, rewound, signer, accepted } = match want {
            WantedRevision::Branch => branch(None)?,
            WantedRevision::Seen(commit) => branch(Some(oid(commit)?))?,
            WantedRevision::Rev(rev) => fetch::chosen(context, mirror, rev, terms)?,
        };
        // A commit that was just fetched and can't be read is damage.
        let described = self.describe(oid).map_err(|error| FetchFailure { error, damage: true })?;
        let Described { subject, author, committed_at } = described;
        Ok(Fetched { commit: id(oid)?, subject, author, committed_at, rewound, signer, accepted })
    }

    /// Runs a fetch, and again on an empty mirror if damage of the mirror made it fail.
    fn repaired<T>(&mut self, fetch: impl Fn(&Self) -> Result<T, FetchFailure>) -> Result<T, GitError> {
        let outcome = match fetch(self) {
            Err(FetchFailure { damage: true, .. }) if !self.rebuilt => {
                self.rebuild()?;
                fetch(self)
            }
            other => other,
        };
        let done = outcome.map_err(|failed| failed.error)?;
        self.rebuilt = false;
        Ok(done)
    }

    fn rebuild(&mut self) -> Result<(), GitError> {
        self.rebuilt = true;
        self.mirror.rebuild()
    }

    fn check_out(
        &mut self,
        commit: &CommitId,
        (dir, limit): (&Path, CheckoutLimit),
    ) -> Result<CheckedOut, GitError> {
        match self.write(commit, (dir, limit)) {
            Err(GitError::Commit { .. }) if !self.rebuilt => {
                empty(dir)?;
                // A missing commit is fetched again; only an unreadable one is damage.
                let found = self.mirror.repo().find_commit(oid(commit)?);
                if !found.is_err_and(|err| err.code() == ErrorCode::NotFound) {
                    self.rebuild()?;
                }
                // No trust: its signature was verified before the daemon made a release of it.
                self.fetch(&WantedRevision::Rev(commit.to_string()), Terms { trust: None, recorded: None })?;
                self.write(commit, (dir, limit))
            }
            other => other,
        }
    }

    fn write(&self, commit: &CommitId, (dir, limit): (&Path, CheckoutLimit)) -> Result<CheckedOut, GitError> {
        let urls = [self.context.opening.remote.clone()];
        let (context, mirror) = (&self.context, &self.mirror);
        let budget = Budget::of(limit);
        checkout::write(&Job { context, mirror, urls: &urls, commit: oid(commit)?, dir, budget: &budget })
    }

    fn describe(&self, oid: Oid) -> Result<Described, GitError> {
        let unreadable = |err: git2::Error| GitError::Commit {
            commit: oid.to_string(),
            cause: ErrorCause::new(err.message()),
        };
        let commit = self.mirror.repo().find_commit(oid).map_err(unreadable)?;
        let author = commit.author();
        let name = one_line(author.name_bytes());
        let message = commit.message_bytes();
        let subject = message.trim_ascii_start().split(|c| *c == b'\n').next().unwrap_or_default();
        Ok(Described {
            subject: one_line(subject),
            author: if name.is_empty() { one_line(author.email_bytes()) } else { name },
            committed_at: commit.time().seconds(),
        })
    }
}

/// Requests in order of arrival. A thread reads them, so that it notices the end of stdin at any moment.
fn requests() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
        // The daemon died or closed this worker, so nobody reads an answer. The process group is the worker's own
        // session, so the signal also ends a git-lfs that it started.
        killpg(getpid(), Signal::SIGKILL).ok();
        std::process::exit(0);
    });
    receive
}

fn empty(dir: &Path) -> Result<(), GitError> {
    let failed = |err: io::Error| GitError::Checkout { dir: dir.to_owned(), cause: ErrorCause::new(err) };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_dir = entry.file_type().map_err(failed)?.is_dir();
        let path = entry.path();
        if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(failed)?;
    }
    Ok(())
}

fn oid(commit: &CommitId) -> Result<Oid, GitError> {
    Oid::from_str(commit.as_str()).map_err(|err| worker_error(GitStep::Opening, &err.message()))
}

fn id(oid: Oid) -> Result<CommitId, GitError> {
    oid.to_string().parse().map_err(|err| worker_error(GitStep::Opening, &err))
}

/// Gives up root for good. Before that it gives the mirror to the user; a mirror of another user is created again,
/// because changing owners as root in another user's tree is not safe.
fn become_user(opening: &Opening) -> Result<(), GitError> {
    let name = opening.user.as_deref().unwrap_or("bgd's own");
    let failed = |cause: &dyn std::fmt::Display| GitError::User {
        user: name.to_owned(),
        cause: ErrorCause::new(cause),
    };
    let account = match &opening.user {
        Some(name) => {
            Some(Account::find(name).map_err(|err| failed(&err))?.ok_or_else(|| failed(&"no such user"))?)
        }
        None => None,
    };
    if let Some(account) = account.as_ref().filter(|account| account.uid != geteuid()) {
        if !geteuid().is_root() {
            return Err(failed(&"bgd does not run as root"));
        }
        hand_over(&opening.mirror, account.uid, account.gid).map_err(|err| failed(&err))?;
    }
    let rights = Rights { account, new_privileges: NewPrivileges::Refused };
    rights.take_on().map_err(|err| failed(&err))?;
    if !geteuid().is_root() && setuid(Uid::from_raw(0)).is_ok() {
        return Err(failed(&"root could be had back"));
    }
    Ok(())
}

fn hand_over(mirror: &Path, uid: Uid, gid: Gid) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    match fs::symlink_metadata(mirror) {
        Ok(meta) if meta.uid() == uid.as_raw() => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(mirror)?,
        Ok(_) => return Err(io::Error::other(format!("not a directory: {}", mirror.display()))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(err),
    }
    if let Some(parent) = mirror.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(mirror)?;
    chown(mirror, Some(uid), Some(gid)).map_err(io::Error::from)
}

/// Loads `auth.ca_file` while the worker still has bgd's rights.
fn trust_authorities(opening: &Opening) -> Result<(), GitError> {
    let Some(file) = &opening.ca_file else { return Ok(()) };
    // SAFETY: libgit2's first use in this process, which has one thread.
    let loaded = unsafe { git2::opts::set_ssl_cert_file(file.as_path()) };
    loaded.map_err(|err| GitError::Credentials {
        path: file.clone(),
        hint: "write certificates in PEM form into it".to_owned(),
        cause: ErrorCause::new(err.message()),
    })
}

fn configure_libgit2(opening: &Opening) -> Result<(), GitError> {
    let failed = |err: git2::Error| worker_error(GitStep::Opening, &err.message());
    let levels = [ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global, ConfigLevel::ProgramData];
    // SAFETY: these change libgit2's globals, and this is its first use, in a process with one thread.
    unsafe {
        // Accept any owner: the worker opens only the app's mirror and remote.
        git2::opts::set_verify_owner_validation(false).map_err(failed)?;
        git2::opts::set_server_connect_timeout_in_milliseconds(CONNECT_MS.min(opening.read_timeout_ms))
            .map_err(failed)?;
        git2::opts::set_server_timeout_in_milliseconds(opening.read_timeout_ms).map_err(failed)?;
        git2::opts::set_cache_max_size(CACHE_BYTES).map_err(failed)?;
        git2::opts::set_mwindow_mapped_limit(MAPPED_BYTES).map_err(failed)?;
        git2::opts::set_mwindow_file_limit(OPEN_PACKS).map_err(failed)?;
        for level in levels {
            // A user's insteadOf, hooks or line-ending settings must not change what is deployed.
            git2::opts::set_search_path(level, "").map_err(failed)?;
        }
    }
    let home = opening.mirror.join(HOME);
    fs::create_dir_all(&home)
        .map_err(|err| GitError::Mirror { mirror: opening.mirror.clone(), cause: ErrorCause::new(err) })
}
