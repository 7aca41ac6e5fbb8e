//! The daemon's side of the worker: starts it, sends one request at a time, enforces its limits, and replaces it when
//! it stalls, dies or has grown. Called by the engine. Never touches a repository itself.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Pid, User, chown, geteuid},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    time::timeout_at,
};

use super::{
    error::{ErrorCause, GitError, GitStep},
    mirror::HOME,
    stall::Stall,
    text::redact,
    verify::Trust,
    wire::{
        self, Between, CheckedOut, Compared, Described, Fetched, Opening, RemoteHead, SchemaQuestion,
        WantedRevision, WorkerAnswer, WorkerLine, WorkerRequest,
    },
};
use crate::{
    config::settings::{AppSettings, Auth, CheckoutLimit, MigrationRules, Verify},
    os::privilege,
    rules::{
        barrier::{Landmarks, SchemaNews},
        ids::CommitId,
    },
};

/// A worker with more resident memory than this after a request is replaced before the next.
const HEAVY_BYTES: u64 = 64 << 20;
/// A worker with this many answers is replaced before the next request, which ends any leak in libgit2. Equals some
/// hundred deploys, or hours of polls.
const MOST_ANSWERS: u32 = 500;
/// Environment variables that a worker inherits; HOME is set separately. None of git's own variables.
const INHERITED: [&str; 8] =
    ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Variables that other programs take a proxy from. bgd only names them in the error of an unreachable remote.
const PROXY_VARIABLES: [&str; 6] =
    ["https_proxy", "http_proxy", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

/// The settings of an app's git work.
#[derive(Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The bare repository that bgd keeps for the app; created if missing.
    pub mirror: PathBuf,
    /// The remote as configured: URL or path.
    pub remote: String,
    /// The branch without `refs/heads/`.
    pub branch: String,
    /// Credentials of the remote.
    pub auth: Auth,
    /// Run as this user; needs root.
    pub user: Option<String>,
    /// Refuse a tip that does not descend from the last one.
    pub fast_forward_only: bool,
    /// Refuse commits that these keys did not sign. The tip then must also descend from the last one, or a forced push
    /// could bring back an old signed commit.
    pub verify: Option<Verify>,
    /// Refuse a commit that exceeds this.
    pub checkout_limit: CheckoutLimit,
}

impl GitSource {
    /// An app's source, with its mirror at `mirror`.
    pub fn of(app: &AppSettings, mirror: PathBuf) -> Self {
        Self {
            mirror,
            remote: app.remote.clone(),
            branch: app.branch.clone(),
            auth: app.auth.clone(),
            user: app.user.clone(),
            fast_forward_only: app.fast_forward_only,
            verify: app.verify.clone(),
            checkout_limit: app.checkout_limit,
        }
    }

    /// Key of the branch and remote; tips are compared only under the same key.
    pub fn line(&self) -> String {
        wire::line_of(&self.branch, &self.remote)
    }

    /// Whether a new tip must descend from the last one.
    pub fn only_forward(&self) -> bool {
        self.fast_forward_only || self.verify.is_some()
    }
}

impl fmt::Debug for GitSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = redact(&self.remote);
        f.debug_struct("Source")
            .field("remote", &remote)
            .field("branch", &self.branch)
            .finish_non_exhaustive()
    }
}

/// Limits of git work, and of the time that an idle worker is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GitLimits {
    /// For a whole request for the head or for a description.
    pub ask: Duration,
    /// Without progress, during any request.
    pub stall: Duration,
    /// For one whole fetch or checkout.
    pub total: Duration,
    /// A worker that is idle for this long is ended, because each one holds some MiB.
    pub rest: Duration,
}

impl Default for GitLimits {
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            total: Duration::from_secs(15 * 60),
            rest: Duration::from_secs(60),
        }
    }
}

/// An app's git worker. Requests run one after the other; dropping a request kills the worker's process.
#[derive(Debug)]
pub struct GitWorker {
    exe: PathBuf,
    source: GitSource,
    limits: GitLimits,
    idle: Arc<Mutex<IdleWorker>>,
}

/// Slot for a worker process that waits for the next request.
#[derive(Debug, Default)]
struct IdleWorker {
    running: Option<WorkerProcess>,
    /// When the last request ended.
    since: Option<Instant>,
    /// A [`guard`] task is watching the slot.
    guarded: bool,
}

impl IdleWorker {
    /// The remaining idle time; `None` when it is over.
    fn left(&self, rest: Duration) -> Option<Duration> {
        rest.checked_sub(self.since?.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Ends the worker process after it was idle for `rest`. Holds the slot weakly, so that dropping the [`Worker`] ends
/// its process at once.
async fn guard(place: Weak<Mutex<IdleWorker>>, rest: Duration) {
    let mut wait = rest;
    loop {
        tokio::time::sleep(wait).await;
        let Some(place) = place.upgrade() else { return };
        let mut idle = place.lock().await;
        match idle.left(rest).filter(|_| idle.running.is_some()) {
            Some(left) => wait = left,
            None => {
                idle.guarded = false;
                let ended = idle.running.take();
                drop(idle);
                if let Some(running) = ended {
                    running.kill().await;
                }
                return;
            }
        }
    }
}

impl GitWorker {
    /// A worker that runs `exe git-worker`. The process starts with the first request.
    pub fn new(exe: PathBuf, source: GitSource, limits: GitLimits) -> Self {
        Self { exe, source, limits, idle: Arc::default() }
    }

    pub fn source(&self) -> &GitSource {
        &self.source
    }

    /// The tip of the branch at the remote.
    pub async fn head(&self) -> Result<RemoteHead, GitError> {
        match self.call(&WorkerRequest::Head, self.limits.ask).await? {
            WorkerAnswer::Head(head) => Ok(head),
            other => Err(unexpected(&other)),
        }
    }

    /// Fetches a revision into the mirror. Refuses it if a required signature is missing. A branch's tip is compared
    /// with the last one that the mirror accepted.
    pub async fn fetch(&self, want: WantedRevision) -> Result<Fetched, GitError> {
        self.fetch_after(None, want).await
    }

    /// Like [`Self::fetch`], but compares with `accepted`, if given, instead of the mirror's last accepted tip.
    pub async fn fetch_after(
        &self,
        accepted: Option<CommitId>,
        want: WantedRevision,
    ) -> Result<Fetched, GitError> {
        let trust = self.trust().await?;
        match self.call(&WorkerRequest::Fetch { want, trust, accepted }, self.limits.total).await? {
            WorkerAnswer::Fetched(fetched) => Ok(fetched),
            other => Err(unexpected(&other)),
        }
    }

    /// The keys that are trusted now. The daemon reads them, because the worker may not have the right to, and does so
    /// on another thread, because a hanging file system may block it.
    async fn trust(&self) -> Result<Option<Trust>, GitError> {
        let Some(verify) = self.source.verify.clone() else { return Ok(None) };
        let reading = tokio::task::spawn_blocking(move || Trust::read(&verify));
        let read = tokio::time::timeout(self.limits.ask, reading).await;
        let broken = |cause| GitError::Worker { stage: GitStep::Verifying, cause };
        read.map_err(|_| broken(ErrorCause::new("the list of signers can't be read in time")))?
            .map_err(|err| broken(ErrorCause::new(err)))?
            .map(Some)
    }

    /// Writes a commit's files into `dir`, which must not exist but whose parent must. Does not flush them to the
    /// disk. After an error the directory is incomplete, and the caller deletes it.
    pub async fn checkout(&self, commit: &CommitId, dir: &Path) -> Result<CheckedOut, GitError> {
        self.make_dir(dir)
            .map_err(|err| GitError::Checkout { dir: dir.to_owned(), cause: ErrorCause::new(err) })?;
        let request = WorkerRequest::Checkout {
            commit: commit.clone(),
            dir: dir.to_owned(),
            limit: self.source.checkout_limit,
        };
        match self.call(&request, self.limits.total).await? {
            WorkerAnswer::CheckedOut(checked_out) => Ok(checked_out),
            other => Err(unexpected(&other)),
        }
    }

    /// Subject, author and time of a commit in the mirror.
    pub async fn describe(&self, commit: &CommitId) -> Result<Described, GitError> {
        match self.call(&WorkerRequest::Describe { commit: commit.clone() }, self.limits.ask).await? {
            WorkerAnswer::Described(described) => Ok(described),
            other => Err(unexpected(&other)),
        }
    }

    /// Fetches two commits into the mirror, without accepting either as the branch's tip, and tells what lies between
    /// them.
    pub async fn compare(&self, between: Between) -> Result<Compared, GitError> {
        match self.call(&WorkerRequest::Compare(between), self.limits.total).await? {
            WorkerAnswer::Compared(compared) => Ok(compared),
            other => Err(unexpected(&other)),
        }
    }

    /// What a commit in the mirror changes in the database since what is live, and whether it contains the contract of
    /// the barrier.
    pub async fn schema_news(
        &self,
        commit: &CommitId,
        landmarks: &Landmarks,
        rules: Option<&MigrationRules>,
    ) -> Result<SchemaNews, GitError> {
        let (commit, landmarks) = (commit.clone(), landmarks.clone());
        let question = SchemaQuestion { commit, landmarks, rules: rules.cloned() };
        match self.call(&WorkerRequest::SchemaNews(question), self.limits.total).await? {
            WorkerAnswer::SchemaNews(news) => Ok(news),
            other => Err(unexpected(&other)),
        }
    }

    /// The pid of the idle worker process, if there is one.
    pub async fn pid(&self) -> Option<u32> {
        self.idle.lock().await.running.as_ref().and_then(|running| running.child.id())
    }

    fn make_dir(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir(dir)?;
        if let (Some(name), true) = (&self.source.user, geteuid().is_root())
            && let Some(user) = User::from_name(name)?
        {
            chown(dir, Some(user.uid), Some(user.gid))?;
        }
        Ok(())
    }

    /// Sends one request to the idle worker process, or to a new one. During the request the process is not in its
    /// slot: dropping this future drops and so kills the process with its unfinished request.
    async fn call(&self, request: &WorkerRequest, total: Duration) -> Result<WorkerAnswer, GitError> {
        let mut idle = self.idle.lock().await;
        let until = Instant::now() + total;
        // Only a new worker can recreate the mirror: it starts with bgd's rights, and gives them up.
        let fit =
            idle.running.take().and_then(WorkerProcess::still_alive).filter(|_| self.source.mirror.exists());
        let mut running = match fit {
            Some(running) => running,
            None => self.start(until).await?,
        };
        let clock = self.clock(until, total);
        let outcome = match running.exchange(request, clock).await {
            Ok(outcome) => outcome,
            Err(err) => {
                running.kill().await;
                return Err(err);
            }
        };
        running.answers += 1;
        match running.resident_bytes() {
            Some(bytes) if bytes <= HEAVY_BYTES && running.answers < MOST_ANSWERS => {
                self.rest(&mut idle, running);
            }
            _ => running.kill().await,
        }
        outcome
    }

    fn rest(&self, idle: &mut IdleWorker, running: WorkerProcess) {
        idle.running = Some(running);
        idle.since = Some(Instant::now());
        if !std::mem::replace(&mut idle.guarded, true) {
            tokio::spawn(guard(Arc::downgrade(&self.idle), self.limits.rest));
        }
    }

    async fn start(&self, until: Instant) -> Result<WorkerProcess, GitError> {
        let mut running =
            self.spawn().map_err(|cause| GitError::Worker { stage: GitStep::Opening, cause })?;
        let clock = self.clock(until, self.limits.total);
        match running.exchange(&self.opening(), clock).await {
            Ok(Ok(WorkerAnswer::Ready)) => Ok(running),
            Ok(Ok(other)) => Err(unexpected(&other)),
            Ok(Err(err)) | Err(err) => {
                running.kill().await;
                Err(err)
            }
        }
    }

    fn clock(&self, until: Instant, total: Duration) -> Clock<'_> {
        Clock { remote: &self.source.remote, until, total, stall: self.limits.stall }
    }

    fn spawn(&self) -> Result<WorkerProcess, ErrorCause> {
        let mut command = Command::new(&self.exe);
        command.arg("git-worker").env_clear().current_dir("/");
        let inherited = INHERITED.iter().filter(|name| !(self.changes_user() && **name == "SSH_AUTH_SOCK"));
        command.envs(inherited.filter_map(|name| Some((name, std::env::var_os(name)?))));
        // A private HOME: libgit2 finds the gathered known hosts there, and no user settings.
        command.env("HOME", self.source.mirror.join(HOME));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        // SAFETY: between fork and exec; system calls only.
        unsafe { command.pre_exec(privilege::restore_descriptor_limit) };
        let mut child =
            command.spawn().map_err(|err| ErrorCause::new(format!("{}: {err}", self.exe.display())))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| ErrorCause::new("no pipe to the worker"))?;
        Ok(WorkerProcess { child, input, output: BufReader::new(output).lines(), answers: 0 })
    }

    fn changes_user(&self) -> bool {
        let name = self.source.user.as_deref();
        name.is_some_and(|name| User::from_name(name).ok().flatten().is_none_or(|user| user.uid != geteuid()))
    }

    fn opening(&self) -> Opening {
        let GitSource { mirror, remote, branch, auth, user, fast_forward_only, verify, checkout_limit: _ } =
            self.source.clone();
        let rules = [("verify", verify.is_some()), ("fast_forward_only", fast_forward_only)];
        let rule = rules.iter().find(|(_, set)| *set).map(|(name, _)| (*name).to_owned());
        let account = match &user {
            Some(name) => User::from_name(name).ok().flatten(),
            None => User::from_uid(geteuid()).ok().flatten(),
        };
        let own = std::env::var_os("HOME").map(PathBuf::from).filter(|_| user.is_none());
        let home = own.or_else(|| account.map(|user| user.dir)).unwrap_or_else(|| PathBuf::from("/"));
        // Slightly below the limit, so that a silent peer usually ends in an error answer and not in a kill.
        let read_timeout_ms = i32::try_from(self.limits.stall.as_millis() * 9 / 10).unwrap_or(i32::MAX);
        let Auth { ssh_key, known_hosts, token_file, ca_file, proxy } = auth;
        let set = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let idle_proxy = PROXY_VARIABLES.iter().find(set).map(|name| (*name).to_owned());
        Opening {
            mirror,
            remote,
            branch,
            fast_forward_only: rule,
            ssh_key,
            known_hosts,
            token_file,
            ca_file,
            proxy,
            idle_proxy,
            user,
            home,
            read_timeout_ms,
        }
    }
}

fn unexpected(answer: &WorkerAnswer) -> GitError {
    let cause = ErrorCause::new(format!("an answer to another request: {answer:?}"));
    GitError::Worker { stage: GitStep::Opening, cause }
}

/// The limits of one exchange.
struct Clock<'a> {
    remote: &'a str,
    until: Instant,
    total: Duration,
    stall: Duration,
}

/// A worker process between or during requests.
#[derive(Debug)]
struct WorkerProcess {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// Number of requests answered, not counting the opening.
    answers: u32,
}

impl WorkerProcess {
    fn still_alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// Sends a message and waits for its answer. The outer error means that the worker process is not usable any more.
    async fn exchange<T: serde::Serialize>(
        &mut self,
        message: &T,
        clock: Clock<'_>,
    ) -> Result<Result<WorkerAnswer, GitError>, GitError> {
        let mut stall = Stall::new(clock.stall, Instant::now());
        let broken = |stage, err: &dyn fmt::Display| GitError::Worker { stage, cause: ErrorCause::new(err) };
        let line = wire::print(message).map_err(|err| broken(GitStep::Opening, &err))?;
        let sent = timeout_at(clock.until.into(), self.input.write_all(line.as_bytes())).await;
        match sent {
            Ok(Ok(())) => {}
            Ok(Err(err)) => return Err(broken(stall.stage(), &err)),
            Err(_) => return Err(clock.expired(&stall, Instant::now())),
        }
        loop {
            let until = stall.until().min(clock.until);
            match timeout_at(until.into(), self.output.next_line()).await {
                Err(_) => return Err(clock.expired(&stall, until)),
                Ok(Err(err)) => return Err(broken(stall.stage(), &err)),
                Ok(Ok(None)) => return Err(broken(stall.stage(), &self.ended().await)),
                Ok(Ok(Some(line))) => match wire::parse(&line) {
                    Ok(WorkerLine::Progress(progress)) => stall.note(progress, Instant::now()),
                    Ok(WorkerLine::Done(answer)) => return Ok(Ok(answer)),
                    Ok(WorkerLine::Failed(err)) => return Ok(Err(err)),
                    Err(err) => return Err(broken(stall.stage(), &err)),
                },
            }
        }
    }

    /// The exit of a worker that closed its output, as text.
    async fn ended(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => format!("it ended by itself: {status}"),
            Ok(Err(err)) => format!("it ended by itself: {err}"),
            Err(_) => "it closed its output".to_owned(),
        }
    }

    /// Resident memory of the process; `None` if it has ended.
    fn resident_bytes(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()?)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// Kills the worker and its children, and waits for its end: the mirror has one owner at a time.
    async fn kill(mut self) {
        self.signal();
        // Fails only when the process was waited for already.
        self.child.kill().await.ok();
    }

    fn signal(&mut self) {
        // `id` is `None` once the process was waited for, so the pid can't belong to another process.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Fails if the worker has not called setsid yet. Then it has no children, and `kill` or drop ends the
            // worker itself.
            killpg(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        self.signal();
    }
}

impl Clock<'_> {
    fn expired(&self, stall: &Stall, at: Instant) -> GitError {
        let (remote, stage) = (redact(self.remote), stall.stage());
        if at >= self.until {
            GitError::TooSlow { remote, stage, after: self.total }
        } else {
            GitError::Stalled { remote, stage, after: self.stall }
        }
    }
}
