//! The client's end of the control socket: one request line out, reply lines in. Used by `cli`.
//!
//! It tells three kinds of silence apart, because the remedy differs: nobody listens ([`CallError::Absent`]),
//! somebody accepts and never answers ([`CallError::Hung`]), somebody went away in the middle
//! ([`CallError::Gone`]). It decides nothing and prints nothing.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::{
    socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt},
    time::TimeVal,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use crate::{
    api::wire::{Answer, Exit, Progress, Refusal, Reply, Request},
    os::blocking::blocking,
};

/// A daemon that is silent for this long counts as hung (contract: 2 s).
pub const PATIENCE: Duration = Duration::from_secs(2);

/// In a long call, silence for this long after the first reply makes the client ask whether the daemon still
/// lives. Builds are silent for minutes, so this is about noticing, not about speed.
const SILENCE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens on the socket.
    #[error("the daemon can't be reached at {}", socket.display())]
    Absent {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The socket is there, but its mode does not permit this user.
    #[error("not permitted to use {}", socket.display())]
    NotPermitted {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Connected, but silent.
    #[error("the daemon at {} does not answer within {} s: it hangs, or has too much to do", socket.display(), limit.as_secs_f32())]
    Hung { socket: PathBuf, limit: Duration },
    /// The daemon lives, but has not answered within the limit.
    #[error("the daemon at {} lives and has not answered within {} s: {why}", socket.display(), limit.as_secs())]
    Slow {
        socket: PathBuf,
        limit: Duration,
        /// What delays it.
        why: String,
    },
    /// The connection ended before the answer was complete.
    #[error("the daemon at {} went away before its answer was complete", socket.display())]
    Gone {
        socket: PathBuf,
        /// The error of reading or writing, if there was one.
        #[source]
        source: Option<io::Error>,
    },
    /// The answer can't be understood.
    #[error("the daemon at {} answered what this bgd {} can't read", socket.display(), env!("CARGO_PKG_VERSION"))]
    Garbled {
        socket: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The daemon refused the request.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

impl CallError {
    /// The exit code of the contract.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Absent { .. }
            | Self::Hung { .. }
            | Self::Slow { .. }
            | Self::Gone { .. }
            | Self::Garbled { .. } => Exit::Unreachable,
            Self::NotPermitted { .. } => Exit::NotPermitted,
            Self::Refused(refusal) => refusal.exit,
        }
    }

    /// The next thing to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Absent { .. } => Some("start it: `systemctl start bgd`, or `bgd daemon` in the foreground; the apps serve on without it".to_owned()),
            Self::NotPermitted { .. } => {
                Some("`sudo bgd …`, or join the group that owns the socket: `usermod -aG bgd NAME`".to_owned())
            }
            Self::Hung { .. } => {
                Some("`systemctl restart bgd`; the apps serve on meanwhile, and `bgd flip` works without it".to_owned())
            }
            Self::Slow { .. } => {
                Some("it may still do it; `systemctl kill -s KILL bgd`, then `bgd flip` works without it".to_owned())
            }
            Self::Gone { .. } => Some("`bgd status` tells where things stand".to_owned()),
            Self::Garbled { .. } => {
                Some("daemon and command line differ in version: restart the daemon".to_owned())
            }
            Self::Refused(refusal) => refusal.hint.clone(),
        }
    }

    /// Whether the daemon can't act, so that the record has to be read without it.
    pub fn without_daemon(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::Hung { .. })
    }
}

/// One part of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// More will follow.
    Progress(Progress),
    /// The last part, with the answer.
    Done(Answer),
}

/// Where to call, and how patiently.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, patience: PATIENCE }
    }

    /// This client, with another limit for the first reply.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request that the daemon answers without waiting: the whole answer is due within the limit.
    pub async fn ask(&self, request: &Request) -> Result<Answer, CallError> {
        match self.ask_once(request).await {
            // A daemon that is just ending still accepts a connection and drops it; a second try gives a clearer
            // error.
            Err(CallError::Gone { .. }) if changes_nothing(request) => self.ask_once(request).await,
            other => other,
        }
    }

    async fn ask_once(&self, request: &Request) -> Result<Answer, CallError> {
        let whole = async {
            let mut call = self.open(request).await?;
            loop {
                // Progress of a request that never waits is not expected, and harmless.
                if let Part::Done(answer) = call.read().await? {
                    return Ok(answer);
                }
            }
        };
        timeout(self.patience, whole).await.unwrap_or_else(|_| Err(self.hung()))
    }

    /// Sends a request that may take long; read the parts with [`Call::next`].
    pub async fn open(&self, request: &Request) -> Result<Call, CallError> {
        let (read, mut write) = self.connect().await?.into_split();
        let line = request_line(request);
        let sent = timeout(self.patience, write.write_all(line.as_bytes())).await.map_err(|_| self.hung())?;
        let lines = BufReader::new(read).lines();
        let mut call =
            Call { client: self.clone(), lines, _write: write, silence: self.patience, first: None };
        match sent {
            Ok(()) => Ok(call),
            // The daemon refuses a caller without rights before it reads the request; that refusal may be there to
            // read.
            Err(source) => match timeout(self.patience, call.read()).await {
                Ok(Err(refused @ CallError::Refused(_))) => Err(refused),
                Ok(_) | Err(_) => Err(self.gone(Some(source))),
            },
        }
    }

    async fn connect(&self) -> Result<UnixStream, CallError> {
        match timeout(self.patience, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => Ok(stream),
            // The socket's queue is full: wait in a blocking connect, which the kernel admits before later tries.
            Ok(Err(err)) if err.kind() == io::ErrorKind::WouldBlock => {
                let (socket, patience) = (self.socket.clone(), self.patience);
                let connected = blocking(move || wait_in_line(&socket, patience)).await;
                connected.and_then(UnixStream::from_std).map_err(|source| self.unconnected(source))
            }
            Ok(Err(source)) => Err(self.unconnected(source)),
            Err(_) => Err(self.hung()),
        }
    }

    /// Asks, and waits for the first part, which [`Call::next`] then returns: an error here means that the daemon has
    /// not begun to answer.
    pub async fn begin(&self, request: &Request) -> Result<Call, CallError> {
        let mut call = self.open(request).await?;
        call.begun().await?;
        Ok(call)
    }

    /// Whether the daemon answers at all.
    async fn alive(&self) -> Result<(), CallError> {
        match self.ask(&Request::Status { app: None }).await {
            Ok(_) | Err(CallError::Refused(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn unconnected(&self, source: io::Error) -> CallError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => CallError::NotPermitted { socket, source },
            // The backlog is full: it listens, and has stopped accepting.
            io::ErrorKind::WouldBlock => self.hung(),
            _ => CallError::Absent { socket, source },
        }
    }

    fn hung(&self) -> CallError {
        CallError::Hung { socket: self.socket.clone(), limit: self.patience }
    }

    fn gone(&self, source: Option<io::Error>) -> CallError {
        CallError::Gone { socket: self.socket.clone(), source }
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Call {
    client: Client,
    lines: Lines<BufReader<OwnedReadHalf>>,
    // Held open: the daemon takes a closed writing side for a client that has left.
    _write: OwnedWriteHalf,
    silence: Duration,
    first: Option<Part>,
}

impl Call {
    /// Waits for the first part, which [`Call::next`] then returns. May be called again after [`CallError::Hung`].
    pub async fn begun(&mut self) -> Result<(), CallError> {
        if self.first.is_none() {
            self.first = Some(self.next().await?);
        }
        Ok(())
    }

    /// The next part. While the daemon is silent, the client checks now and then that it still answers.
    pub async fn next(&mut self) -> Result<Part, CallError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            // `next_line` keeps what it has read when it is dropped, so the timeout loses nothing.
            match timeout(self.silence, self.read()).await {
                Ok(part) => {
                    self.silence = SILENCE;
                    return part;
                }
                Err(_) => {
                    self.client.alive().await?;
                    self.silence = SILENCE;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Part, CallError> {
        let line = match self.lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => return Err(self.client.gone(None)),
            Err(source) => return Err(self.client.gone(Some(source))),
        };
        let reply = serde_json::from_str(&line)
            .map_err(|source| CallError::Garbled { socket: self.client.socket.clone(), source })?;
        match reply {
            Reply::Progress(progress) => Ok(Part::Progress(progress)),
            Reply::Done(answer) => Ok(Part::Done(answer)),
            Reply::Refused(refusal) => Err(CallError::Refused(refusal)),
        }
    }
}

/// Connects as soon as the queue has room, within the limit.
fn wait_in_line(socket: &Path, limit: Duration) -> io::Result<StdStream> {
    let line = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit =
        TimeVal::new(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), limit.subsec_micros().into());
    socket::setsockopt(&line, sockopt::SendTimeout, &limit)?;
    socket::connect(line.as_raw_fd(), &UnixAddr::new(socket)?)?;
    let stream = StdStream::from(line);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

fn changes_nothing(request: &Request) -> bool {
    use Request as R;
    match request {
        R::Status { .. } | R::History { .. } | R::Show { .. } | R::Why { .. } | R::Exec { .. } => true,
        R::Poll { .. } => true,
        R::Logs { .. } | R::Events { .. } => true,
        R::Deploy { .. } | R::DeployDetached { .. } | R::Flip { .. } | R::Hold { .. } => false,
        R::SetShare { .. } | R::ResumeSteps { .. } | R::NextStep { .. } | R::Promote { .. } => false,
        R::Resume { .. } | R::Down { .. } | R::Up { .. } | R::RunCron { .. } | R::Reload => false,
    }
}

fn request_line(request: &Request) -> String {
    // Plain data with string keys; if this fails the types are wrong.
    let mut line = serde_json::to_string(request).expect("a request is plain data");
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use tokio::{net::UnixListener, task::JoinHandle};

    use super::*;
    use crate::api::wire::{Status, Why};

    /// A patience that keeps the tests short.
    const SHORT: Duration = Duration::from_millis(150);

    struct Fake {
        _dir: tempfile::TempDir,
        client: Client,
        server: JoinHandle<Vec<String>>,
    }

    /// A server that answers each connection with the next of `scripts`; `None` is silence. Ends with the
    /// requests it has read.
    fn fake(scripts: Vec<Option<&'static str>>) -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bgd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let (mut requests, mut held) = (Vec::new(), Vec::new());
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                requests.push(lines.next_line().await.unwrap().unwrap());
                if let Some(text) = script {
                    write.write_all(text.as_bytes()).await.unwrap();
                } else {
                    held.push((lines, write));
                }
            }
            for (lines, _write) in &mut held {
                // Silent until the client gives up.
                lines.next_line().await.unwrap();
            }
            requests
        });
        Fake { _dir: dir, client: Client::new(socket).with_patience(SHORT), server }
    }

    const SAID: &str = "{\"done\":{\"said\":\"fine\"}}\n";
    const LINE: &str = "{\"progress\":{\"line\":\"one\"}}\n";

    #[tokio::test]
    async fn a_request_is_one_line_and_its_answer_comes_back() {
        let fake = fake(vec![Some(SAID)]);
        let answer = fake.client.ask(&Request::Resume { app: None }).await.unwrap();
        assert_eq!(answer, Answer::Said("fine".to_owned()));
        assert_eq!(fake.server.await.unwrap(), [r#"{"op":"resume","app":null}"#]);
    }

    #[tokio::test]
    async fn progress_comes_before_the_end() {
        let text = "{\"progress\":{\"line\":\"one\"}}\n{\"done\":{\"said\":\"fine\"}}\n";
        let fake = fake(vec![Some(text)]);
        let mut call = fake.client.begin(&Request::Reload).await.unwrap();
        assert_eq!(call.next().await.unwrap(), Part::Progress(Progress::Line("one".to_owned())));
        assert_eq!(call.next().await.unwrap(), Part::Done(Answer::Said("fine".to_owned())));
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_exit_code_and_hint() {
        let fake =
            fake(vec![Some("{\"refused\":{\"exit\":\"Held\",\"message\":\"no\",\"hint\":\"wait\"}}\n")]);
        let error = fake.client.ask(&Request::Reload).await.unwrap_err();
        assert_eq!((error.exit(), error.hint().as_deref()), (Exit::Held, Some("wait")));
        assert!(!error.without_daemon());
    }

    #[tokio::test]
    async fn nobody_there_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Client::new(dir.path().join("bgd.sock"));
        let error = missing.ask(&Request::Reload).await.unwrap_err();
        assert!(matches!(error, CallError::Absent { .. }), "{error}");
        // Bound once and left behind, as after a kill -9.
        drop(UnixListener::bind(missing.socket()).unwrap());
        let error = missing.ask(&Request::Reload).await.unwrap_err();
        assert!(matches!(error, CallError::Absent { .. }), "{error}");
        assert_eq!(error.exit() as u8, 4);
    }

    #[tokio::test]
    async fn i6_a_daemon_that_accepts_and_is_silent_is_hung() {
        let fake = fake(vec![None]);
        let error = fake.client.ask(&Request::Status { app: None }).await.unwrap_err();
        assert!(matches!(error, CallError::Hung { .. }), "{error}");
        assert!(error.without_daemon());
    }

    #[tokio::test]
    async fn i6_a_daemon_that_never_accepts_is_hung_even_with_a_full_backlog() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bgd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // SAFETY: plain system call on a listening socket that lives to the end of the test.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 1) }, 0);
        let client = Client::new(socket).with_patience(SHORT);
        let mut held = Vec::new();
        for _ in 0..4 {
            match client.open(&Request::Reload).await {
                Ok(call) => held.push(call),
                Err(error) => {
                    assert!(matches!(error, CallError::Hung { .. }), "{error}");
                    return;
                }
            }
        }
        panic!("the backlog took everything");
    }

    #[tokio::test]
    async fn a_long_silence_is_no_hang_while_the_daemon_answers_others() {
        // The flip is silent, the question whether the daemon lives is answered, then the flip is silent on.
        let fake = fake(vec![None, Some(SAID)]);
        let mut call = fake.client.open(&Request::Flip { app: None, force: false }).await.unwrap();
        let more = timeout(SHORT * 4, call.next()).await;
        assert!(more.is_err(), "still waiting: {more:?}");
        drop(call);
        let requests = fake.server.await.unwrap();
        assert_eq!(requests[1], r#"{"op":"status","app":null}"#);
    }

    #[tokio::test]
    async fn i6_a_long_silence_is_a_hang_when_the_daemon_answers_nobody() {
        let fake = fake(vec![None, None]);
        let mut call = fake.client.open(&Request::Flip { app: None, force: false }).await.unwrap();
        let error = call.next().await.unwrap_err();
        assert!(matches!(error, CallError::Hung { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_leaves_in_the_middle_is_gone() {
        let fake = fake(vec![Some(LINE)]);
        let mut call = fake.client.open(&Request::Reload).await.unwrap();
        call.next().await.unwrap();
        let error = call.next().await.unwrap_err();
        assert!(matches!(error, CallError::Gone { .. }), "{error}");
        assert_eq!(error.exit() as u8, 4);
    }

    #[tokio::test]
    async fn a_question_to_an_ending_daemon_is_asked_again_and_an_order_is_not() {
        let fake = fake(vec![Some(""), Some(SAID), Some("")]);
        let answer = fake.client.ask(&Request::Why { app: None }).await.unwrap();
        assert_eq!(answer, Answer::Said("fine".to_owned()));
        let error = fake.client.ask(&Request::Resume { app: None }).await.unwrap_err();
        assert!(matches!(error, CallError::Gone { .. }), "{error}");
        assert_eq!(fake.server.await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn nonsense_is_garbled() {
        let fake = fake(vec![Some("{}\n")]);
        let error = fake.client.ask(&Request::Reload).await.unwrap_err();
        assert!(matches!(error, CallError::Garbled { .. }), "{error}");
    }

    #[test]
    fn every_answer_survives_the_wire() {
        let why = Why {
            code: crate::rules::words::WhyCode::Held,
            text: "a hold".to_owned(),
            hint: None,
            again_at: None,
        };
        let line = serde_json::to_string(&Reply::Done(Answer::Why(why.clone()))).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), Reply::Done(Answer::Why(why)));
        let daemon = crate::api::wire::DaemonReport {
            running: true,
            version: None,
            pid: None,
            started_at: None,
            config_refused: None,
        };
        let status = Reply::Done(Answer::Status(Status {
            schema: 1,
            daemon,
            unconfigured: Vec::new(),
            apps: Vec::new(),
        }));
        let line = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Reply>(&line).unwrap(), status);
    }
}
