//! The daemon's side of the worker: starts it, sends one request at a time, holds it to its limits, and replaces
//! it when it stalls, dies or has grown. Called by the engine. Never touches a repository itself.

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
    error::{Cause, GitError, Stage},
    mirror::HOME,
    stall::Stall,
    text::redact,
    verify::Trust,
    wire::{self, Answer, CheckedOut, Described, Fetched, Head, Line, Opening, Request, Want},
};
use crate::{
    config::settings::{AppSettings, Auth, CheckoutLimit, Verify},
    os::privilege,
    rules::ids::CommitId,
};

/// A worker with more resident memory than this after a request is replaced before the next.
const HEAVY_BYTES: u64 = 64 << 20;
/// A worker that has answered this often is replaced before the next: whatever libgit2 should keep for good ends with
/// it. Some hundred deploys, or hours of polls.
const MOST_ANSWERS: u32 = 500;
/// What a worker inherits besides HOME; nothing of git's own variables is among it.
const INHERITED: [&str; 8] =
    ["PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// What others take a proxy from; here it is only named where a remote can't be reached.
const PROXY_VARIABLES: [&str; 6] =
    ["https_proxy", "http_proxy", "all_proxy", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"];

/// What an app's git work is about.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The bare repository that bgd keeps for the app; made when missing.
    pub mirror: PathBuf,
    /// As configured: URL or path.
    pub remote: String,
    /// Without `refs/heads/`.
    pub branch: String,
    /// Credentials of the remote.
    pub auth: Auth,
    /// Run as this user; needs root.
    pub user: Option<String>,
    /// Refuse a tip that does not descend from the last one.
    pub fast_forward_only: bool,
    /// Refuse commits that are not signed by these; then the tip has to descend from the last one as well, or
    /// an old signed commit could be brought back by a forced push.
    pub verify: Option<Verify>,
    /// Refuse a commit that brings more.
    pub checkout_limit: CheckoutLimit,
}

impl Source {
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

    /// Names the branch; tips of another one are nothing to compare with.
    pub fn line(&self) -> String {
        wire::line_of(&self.branch, &self.remote)
    }

    /// Whether the branch may only go on, and not back or elsewhere.
    pub fn only_forward(&self) -> bool {
        self.fast_forward_only || self.verify.is_some()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = redact(&self.remote);
        f.debug_struct("Source")
            .field("remote", &remote)
            .field("branch", &self.branch)
            .finish_non_exhaustive()
    }
}

/// How long git work may take, and a worker without any be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of asking for the head.
    pub ask: Duration,
    /// Without progress, in any request.
    pub stall: Duration,
    /// All of one fetch or checkout.
    pub total: Duration,
    /// A worker that had nothing to do for this long ends: each one holds some MiB.
    pub rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ask: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            total: Duration::from_secs(15 * 60),
            rest: Duration::from_secs(60),
        }
    }
}

/// An app's git worker. Requests wait for each other; a request that is dropped ends the worker's process.
#[derive(Debug)]
pub struct Worker {
    exe: PathBuf,
    source: Source,
    limits: Limits,
    idle: Arc<Mutex<Idle>>,
}

/// The place of a worker that waits for the next request.
#[derive(Debug, Default)]
struct Idle {
    running: Option<Running>,
    /// The end of the last request.
    since: Option<Instant>,
    /// Somebody looks after the worker's rest.
    guarded: bool,
}

impl Idle {
    /// What is left of the rest; `None` when it is over.
    fn left(&self, rest: Duration) -> Option<Duration> {
        rest.checked_sub(self.since?.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Ends the worker once it has rested for long enough. Holds no place, so that one that is dropped takes its worker
/// with it.
async fn guard(place: Weak<Mutex<Idle>>, rest: Duration) {
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

impl Worker {
    /// A worker that runs `exe git-worker`. Nothing is started yet.
    pub fn new(exe: PathBuf, source: Source, limits: Limits) -> Self {
        Self { exe, source, limits, idle: Arc::default() }
    }

    /// What it works on.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The tip of the branch at the remote.
    pub async fn head(&self) -> Result<Head, GitError> {
        match self.call(&Request::Head, self.limits.ask).await? {
            Answer::Head(head) => Ok(head),
            other => Err(unexpected(&other)),
        }
    }

    /// Brings a revision into the mirror, and refuses it if it has to be signed and is not. A branch's tip is compared
    /// with the one that the mirror accepted last.
    pub async fn fetch(&self, want: Want) -> Result<Fetched, GitError> {
        self.fetch_after(None, want).await
    }

    /// The same, where the tip that was `accepted` last is known: then the mirror is not asked for it.
    pub async fn fetch_after(&self, accepted: Option<CommitId>, want: Want) -> Result<Fetched, GitError> {
        let trust = self.trust().await?;
        match self.call(&Request::Fetch { want, trust, accepted }, self.limits.total).await? {
            Answer::Fetched(fetched) => Ok(fetched),
            other => Err(unexpected(&other)),
        }
    }

    /// Whom to trust at this moment. Read here and not by the worker, which may not be allowed to read the lists,
    /// and on another thread, which a hanging file system may keep.
    async fn trust(&self) -> Result<Option<Trust>, GitError> {
        let Some(verify) = self.source.verify.clone() else { return Ok(None) };
        let reading = tokio::task::spawn_blocking(move || Trust::read(&verify));
        let read = tokio::time::timeout(self.limits.ask, reading).await;
        let broken = |cause| GitError::Worker { stage: Stage::Verifying, cause };
        read.map_err(|_| broken(Cause::new("the list of signers can't be read in time")))?
            .map_err(|err| broken(Cause::new(err)))?
            .map(Some)
    }

    /// Writes a commit's files into `dir`, which is made here and must not exist; its parent must. They are not
    /// flushed to the disk. After an error the directory is incomplete, and the caller's to delete.
    pub async fn checkout(&self, commit: &CommitId, dir: &Path) -> Result<CheckedOut, GitError> {
        self.make_dir(dir)
            .map_err(|err| GitError::Checkout { dir: dir.to_owned(), cause: Cause::new(err) })?;
        let request = Request::Checkout {
            commit: commit.clone(),
            dir: dir.to_owned(),
            limit: self.source.checkout_limit,
        };
        match self.call(&request, self.limits.total).await? {
            Answer::CheckedOut(checked_out) => Ok(checked_out),
            other => Err(unexpected(&other)),
        }
    }

    /// Who and what a commit in the mirror is.
    pub async fn describe(&self, commit: &CommitId) -> Result<Described, GitError> {
        match self.call(&Request::Describe { commit: commit.clone() }, self.limits.ask).await? {
            Answer::Described(described) => Ok(described),
            other => Err(unexpected(&other)),
        }
    }

    /// The pid of the process that waits for the next request, if one does.
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

    /// One request on the waiting worker, or on a new one. The worker is taken out of its place meanwhile: if
    /// this future is dropped half-way the worker is dropped, and so killed, with its unfinished request.
    async fn call(&self, request: &Request, total: Duration) -> Result<Answer, GitError> {
        let mut idle = self.idle.lock().await;
        let until = Instant::now() + total;
        // Only a new worker can make the mirror again: it begins with bgd's rights, and gives them up.
        let fit = idle.running.take().and_then(Running::still_alive).filter(|_| self.source.mirror.exists());
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

    fn rest(&self, idle: &mut Idle, running: Running) {
        idle.running = Some(running);
        idle.since = Some(Instant::now());
        if !std::mem::replace(&mut idle.guarded, true) {
            tokio::spawn(guard(Arc::downgrade(&self.idle), self.limits.rest));
        }
    }

    async fn start(&self, until: Instant) -> Result<Running, GitError> {
        let mut running = self.spawn().map_err(|cause| GitError::Worker { stage: Stage::Opening, cause })?;
        let clock = self.clock(until, self.limits.total);
        match running.exchange(&self.opening(), clock).await {
            Ok(Ok(Answer::Ready)) => Ok(running),
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

    fn spawn(&self) -> Result<Running, Cause> {
        let mut command = Command::new(&self.exe);
        command.arg("git-worker").env_clear().current_dir("/");
        let inherited = INHERITED.iter().filter(|name| !(self.changes_user() && **name == "SSH_AUTH_SOCK"));
        command.envs(inherited.filter_map(|name| Some((name, std::env::var_os(name)?))));
        // A HOME of its own: libgit2 finds there the known hosts it is meant to see, and no settings.
        command.env("HOME", self.source.mirror.join(HOME));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        // SAFETY: between fork and exec; system calls only.
        unsafe { command.pre_exec(privilege::restore_descriptor_limit) };
        let mut child =
            command.spawn().map_err(|err| Cause::new(format!("{}: {err}", self.exe.display())))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.ok_or_else(|| Cause::new("no pipe to the worker"))?;
        Ok(Running { child, input, output: BufReader::new(output).lines(), answers: 0 })
    }

    fn changes_user(&self) -> bool {
        let name = self.source.user.as_deref();
        name.is_some_and(|name| User::from_name(name).ok().flatten().is_none_or(|user| user.uid != geteuid()))
    }

    fn opening(&self) -> Opening {
        let Source { mirror, remote, branch, auth, user, fast_forward_only, verify, checkout_limit: _ } =
            self.source.clone();
        let rules = [("verify", verify.is_some()), ("fast_forward_only", fast_forward_only)];
        let rule = rules.iter().find(|(_, set)| *set).map(|(name, _)| (*name).to_owned());
        let account = match &user {
            Some(name) => User::from_name(name).ok().flatten(),
            None => User::from_uid(geteuid()).ok().flatten(),
        };
        let own = std::env::var_os("HOME").map(PathBuf::from).filter(|_| user.is_none());
        let home = own.or_else(|| account.map(|user| user.dir)).unwrap_or_else(|| PathBuf::from("/"));
        // A little less than the limit, so that a silent peer mostly ends in an answer and not in a kill.
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

fn unexpected(answer: &Answer) -> GitError {
    let cause = Cause::new(format!("an answer to another request: {answer:?}"));
    GitError::Worker { stage: Stage::Opening, cause }
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
struct Running {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// To requests, the one to the opening left out.
    answers: u32,
}

impl Running {
    fn still_alive(mut self) -> Option<Self> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    /// Sends a message and waits for its answer. The outer error means that the worker is of no use any more.
    async fn exchange<T: serde::Serialize>(
        &mut self,
        message: &T,
        clock: Clock<'_>,
    ) -> Result<Result<Answer, GitError>, GitError> {
        let mut stall = Stall::new(clock.stall, Instant::now());
        let broken = |stage, err: &dyn fmt::Display| GitError::Worker { stage, cause: Cause::new(err) };
        let line = wire::print(message).map_err(|err| broken(Stage::Opening, &err))?;
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
                    Ok(Line::Progress(progress)) => stall.note(progress, Instant::now()),
                    Ok(Line::Done(answer)) => return Ok(Ok(answer)),
                    Ok(Line::Failed(err)) => return Ok(Err(err)),
                    Err(err) => return Err(broken(stall.stage(), &err)),
                },
            }
        }
    }

    /// How a worker that closed its output ended.
    async fn ended(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(1), self.child.wait()).await {
            Ok(Ok(status)) => format!("it ended by itself: {status}"),
            Ok(Err(err)) => format!("it ended by itself: {err}"),
            Err(_) => "it closed its output".to_owned(),
        }
    }

    /// `None` once the process is gone.
    fn resident_bytes(&self) -> Option<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()?)).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        Some(pages * 4096)
    }

    /// Ends the worker and what it started, and waits until it is gone: the mirror has one owner at a time.
    async fn kill(mut self) {
        self.signal();
        // Fails only when the process was waited for already.
        self.child.kill().await.ok();
    }

    fn signal(&mut self) {
        // An id is there as long as the process was not waited for, so it can't be anybody else's.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // Fails when the worker has not made its own session yet; then it has started nothing either, and
            // the child itself is killed by `kill` or on drop.
            killpg(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

impl Drop for Running {
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
