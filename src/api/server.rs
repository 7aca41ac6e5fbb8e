//! The server's end of the control socket: who asks, what for, and the answer, line by line. Requests that change
//! something go to the app's machine; reading never waits for it. Who may do nothing is sent away before it has
//! said a word, and who says nothing after a while.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
};

use super::{
    access::{Access, Caller, Peer, Right},
    acting, reading,
    visitors::{Rank, Seat, Spare, Visitors},
    wire::{Answer, DaemonReport, EventRecord, Exit, Refusal, Reply, Request},
};
use crate::{
    engine::fleet::{Fleet, Member},
    rules::ids::AppName,
};

/// The longest request line in bytes; requests are names, revisions and one reason.
const LONGEST: u64 = 64 << 10;

/// Why the control socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something else is at its path.
    #[error("the control socket's path is taken by something that is no socket: {}", path.display())]
    Taken {
        /// The path.
        path: PathBuf,
    },
    /// The socket can't be made.
    #[error("making the control socket: {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What every connection is served from.
#[derive(Debug)]
pub struct Desk {
    /// The apps.
    pub fleet: Arc<Fleet>,
    /// The daemon, as status shows it.
    pub daemon: watch::Receiver<DaemonReport>,
    /// Who may do what.
    pub access: Access,
    /// When somebody was refused last, by user id: a flood of requests must not push the record out.
    pub refused: Mutex<BTreeMap<u32, Instant>>,
    /// `bgd reload`: asks, and where the answer goes.
    pub reload: mpsc::Sender<tokio::sync::oneshot::Sender<Result<String, Refusal>>>,
}

/// Between two refusals of one user that are recorded.
const REFUSALS_APART: Duration = Duration::from_secs(60);
/// Between two looks whether the socket is still to be found under its name.
const LOOK: Duration = Duration::from_secs(1);
/// Before the next try of an accept that failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// From the connection to the whole request, which a command sends at once.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// The listening socket and the name it is found under.
#[derive(Debug)]
pub struct Door {
    path: PathBuf,
    mode: u32,
    listener: UnixListener,
    inode: (u64, u64),
}

/// Makes the socket with the mode that [`Access::socket_mode`] says; the daemon's lock is held, so that a socket
/// found there is a leftover.
///
/// # Errors
/// When the path is taken by something else, or can't be bound.
pub fn bind(path: &Path, mode: u32) -> Result<Door, ServerError> {
    let failed = |source| ServerError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(ServerError::Taken { path: path.to_owned() }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(failed(err)),
    }
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    let made = std::fs::symlink_metadata(path).map_err(failed)?;
    Ok(Door { path: path.to_owned(), mode, listener, inode: (made.dev(), made.ino()) })
}

impl Door {
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode)
    }

    /// A runtime directory may be wiped while the daemon lives: without its socket it could not be told anything.
    fn restore(&mut self) {
        match bind(&self.path, self.mode) {
            Ok(door) => {
                tracing::warn!(path = %self.path.display(), "the control socket was gone and is back");
                *self = door;
            }
            Err(err) => tracing::error!(err = %crate::os::errors::chain(&err), "the control socket is gone"),
        }
    }
}

/// Serves until dropped.
pub async fn serve(mut door: Door, desk: Arc<Desk>) {
    let mut look = tokio::time::interval(LOOK);
    let (visitors, mut spare) = (Visitors::new(), Spare::default());
    loop {
        // Both arms are cancel-safe: an accept takes nothing when dropped, an interval keeps its time.
        let accepted = tokio::select! {
            accepted = door.listener.accept() => accepted,
            _ = look.tick() => {
                if !door.is_in_place() {
                    door.restore();
                }
                spare.refill();
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => receive(stream, &desk, &visitors),
            Err(err)
                if matches!(err.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && spare.give_up() =>
            {
                tracing::warn!(%err, "the control socket takes a spare descriptor");
            }
            Err(err) => {
                tracing::warn!(%err, "the control socket can't accept; trying again");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Decides at once who may stay; nothing here waits, so that a flood of strangers delays nobody.
fn receive(stream: UnixStream, desk: &Arc<Desk>, visitors: &Arc<Visitors>) {
    let caller = match Caller::of(&stream) {
        Ok(caller) => caller,
        Err(err) => return tracing::debug!(%err, "the kernel does not say who connected"),
    };
    if desk.access.right_of(&caller) == Right::None {
        desk.turn_away(&stream, &caller);
        return;
    }
    let rank = if desk.access.is_first(&caller) { Rank::First } else { Rank::Other };
    let Some(seat) = visitors.seat(caller.uid, rank) else {
        return send_away(&stream, too_many());
    };
    let desk = desk.clone();
    tokio::spawn(async move {
        if let Err(err) = converse(stream, &desk, (caller, seat)).await {
            tracing::debug!(%err, "a client of the control socket went away");
        }
    });
}

/// One line without waiting: a client that does not take it has lost only the reason.
fn send_away(stream: &UnixStream, why: Refusal) {
    if let Ok(line) = line(&Reply::Refused(why)) {
        let _untold = stream.try_write(&line);
    }
}

fn too_many() -> Refusal {
    let message = "there are too many connections to the daemon already".to_owned();
    refusal(
        Exit::Held,
        message,
        Some("end commands that follow something (`logs -f`, `events -f`), then again"),
    )
}

async fn converse(stream: UnixStream, desk: &Desk, (caller, seat): (Caller, Seat)) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read);
    // All arms are cancel-safe as to what matters: a request that was not read whole is of no use.
    let asked = tokio::select! {
        asked = tokio::time::timeout(REQUEST_WITHIN, request(&mut read)) => asked,
        () = seat.dismissed() => {
            send_away(write.as_ref(), too_many());
            return Ok(());
        }
    };
    seat.heard();
    let mut client = Client { write, read, peer: caller.peer() };
    match asked.unwrap_or_else(|_| Ok(Some(Err(too_late()))))? {
        None => Ok(()),
        Some(Ok(request)) => match desk.access.admit(&client.peer, &request) {
            Ok(()) => answer(request, &mut client, desk).await,
            Err(refusal) => {
                desk.note_refusal(&client.peer, request.verb());
                client.send(&Reply::Refused(refusal)).await
            }
        },
        Some(Err(refusal)) => client.send(&Reply::Refused(refusal)).await,
    }
}

fn too_late() -> Refusal {
    let message = format!("no whole request within {} s", REQUEST_WITHIN.as_secs());
    refusal(Exit::TimedOut, message, Some("bgd status"))
}

/// The one request of a connection, in whatever pieces it comes; `None` when the client went without a word.
///
/// # Errors
/// When the connection fails. A line that is no request, or longer than 64 KiB, is a refusal.
pub async fn request(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Result<Request, Refusal>>> {
    let mut line = Vec::new();
    stream.take(LONGEST).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        serde_json::from_slice(&line)
            .map_err(|err| refusal(Exit::Usage, format!("this daemon can't read the request: {err}"), None)),
    ))
}

impl Desk {
    /// Records what somebody was refused, once a while for each user.
    fn note_refusal(&self, peer: &Peer, request: &str) {
        if self.is_news(peer.caller.uid) {
            tracing::warn!(by = %peer.described(), request, "refused: not permitted");
            self.fleet.note_act(peer.event("refused", &format!("{request}: not permitted")));
        }
    }

    fn is_news(&self, uid: u32) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.get(&uid).is_some_and(|last| last.elapsed() < REFUSALS_APART) {
            return false;
        }
        refused.insert(uid, Instant::now());
        true
    }

    /// Tells somebody who may do nothing so, whatever the request would have been.
    fn turn_away(&self, stream: &UnixStream, caller: &Caller) {
        send_away(stream, self.access.no_entry(caller));
        if self.is_news(caller.uid) {
            let peer = caller.clone().peer();
            tracing::warn!(by = %peer.described(), "refused: not permitted");
            self.fleet.note_act(peer.event("refused", "a connection: not permitted"));
        }
    }
}

fn line(reply: &Reply) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    Ok(line)
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    write: OwnedWriteHalf,
    read: BufReader<OwnedReadHalf>,
    /// Who it is.
    pub peer: Peer,
}

impl Client {
    /// Sends one reply line.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        self.write.write_all(&line(reply)?).await
    }

    /// Resolves when the client has gone. Cancel-safe: what it might still send is of no use.
    pub async fn gone(&mut self) {
        let mut rest = [0; 64];
        while let Ok(read) = self.read.read(&mut rest).await {
            if read == 0 {
                return;
            }
        }
    }
}

async fn answer(request: Request, client: &mut Client, desk: &Desk) -> io::Result<()> {
    let reply = match request {
        Request::Status { app } => reading::status(desk, app.as_ref()).await,
        Request::History { app, limit } => reading::history(desk, (app.as_ref(), limit)).await,
        Request::Show { id } => {
            let right = desk.access.right_of(&client.peer.caller);
            reading::show(desk, id)
                .await
                .map(|answer| if right == Right::Act { answer } else { without_output(answer) })
        }
        Request::Why { app } => member(desk, app.as_ref()).map(|member| reading::why(&member)),
        Request::Exec { app } => {
            member(desk, app.as_ref()).and_then(|member| exec(desk, &client.peer, &member))
        }
        Request::Logs { app, lines, follow, source, instance } => {
            let wanted = reading::LogsWanted { lines, follow, source, instance };
            return match member(desk, app.as_ref()) {
                Ok(member) => reading::logs(client, &member, wanted).await,
                Err(refusal) => client.send(&Reply::Refused(refusal)).await,
            };
        }
        Request::Events { app, since, follow } => {
            return reading::events(client, desk, (app, since, follow)).await;
        }
        Request::Poll { app } => member(desk, app.as_ref()).map(|member| {
            member.look_now();
            Answer::Said("the remote is looked at".to_owned())
        }),
        Request::Reload => {
            desk.fleet.note_act(client.peer.event("asked", "reload"));
            reload(desk).await
        }
        Request::Hold { .. }
        | Request::Resume { .. }
        | Request::SetShare { .. }
        | Request::ResumeSteps { .. }
        | Request::NextStep { .. }
        | Request::Promote { .. }
        | Request::Deploy { .. }
        | Request::DeployDetached { .. }
        | Request::Flip { .. }
        | Request::Down { .. }
        | Request::Up { .. } => return acting::act(request, client, desk).await,
    };
    client.send(&closing(reply)).await
}

fn exec(desk: &Desk, peer: &Peer, member: &Member) -> Result<Answer, Refusal> {
    let event = EventRecord { app: Some(member.settings().name.clone()), ..peer.event("asked", "exec") };
    desk.fleet.note_act(event);
    reading::exec(member)
}

/// What the app said is for those who may act.
fn without_output(answer: Answer) -> Answer {
    match answer {
        Answer::Show(mut detail) => {
            detail.log_tail.clear();
            detail.probes.clear();
            Answer::Show(detail)
        }
        other => other,
    }
}

/// The last line of an answer.
pub fn closing(answer: Result<Answer, Refusal>) -> Reply {
    match answer {
        Ok(answer) => Reply::Done(answer),
        Err(refusal) => Reply::Refused(refusal),
    }
}

async fn reload(desk: &Desk) -> Result<Answer, Refusal> {
    let ending = || refusal(Exit::Unreachable, "the daemon is ending".to_owned(), Some("bgd status"));
    let (reply, answer) = tokio::sync::oneshot::channel();
    desk.reload.send(reply).await.map_err(|_| ending())?;
    answer.await.map_err(|_| ending())?.map(Answer::Said)
}

/// The app meant; it may be left out when there is one.
///
/// # Errors
/// When there is no such app, or several to choose from.
pub fn member(desk: &Desk, app: Option<&AppName>) -> Result<Member, Refusal> {
    let apps = desk.fleet.apps();
    let names = || {
        let names: Vec<&str> = apps.iter().map(|member| member.settings().name.as_str()).collect();
        names.join(", ")
    };
    match (app, apps.as_slice()) {
        (Some(name), _) => desk.fleet.app(name).ok_or_else(|| {
            let hint = format!("configured are: {}", names());
            Refusal { hint: Some(hint), ..refusal(Exit::Usage, format!("no such app: {name}"), None) }
        }),
        (None, [member]) => Ok(member.clone()),
        (None, []) => Err(refusal(Exit::Usage, "no app is configured".to_owned(), Some("bgd init"))),
        (None, _) => {
            let hint = format!("name one of: {}", names());
            Err(Refusal {
                hint: Some(hint),
                ..refusal(Exit::Usage, "there are several apps".to_owned(), None)
            })
        }
    }
}

/// A refusal with an optional next command.
pub fn refusal(exit: Exit, message: String, hint: Option<&str>) -> Refusal {
    Refusal { exit, message, hint: hint.map(str::to_owned) }
}
