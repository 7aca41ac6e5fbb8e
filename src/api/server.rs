//! The server's end of the control socket: who asks, what for, and the answer, line by line. Requests that change
//! something go to the app's machine; reading never waits for it. A caller without any right is sent away before its
//! request is read, and one that sends no request, after a few seconds.

use std::{
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, BufReader},
    net::{UnixListener, UnixStream},
    sync::oneshot,
};

use super::{
    access::{Caller, Peer, Right},
    acting,
    connection::{Connection, send_away},
    reading,
    refusal::{closing, refusal},
    scheduled,
    services::{Services, handle_of},
    visitors::{Rank, Seat, SpareFiles, Visitors},
    wire::{Answer, EventRecord, Exit, Refusal, Reply, Request},
};
use crate::{
    engine::apps::AppHandle,
    os::{
        door::{Door, Name},
        errors::chain,
        lines::read_line,
    },
    rules::{ids::WorkerName, words::EventKind},
};

/// The longest request line in bytes; requests are names, revisions and one reason.
const LONGEST: u64 = 64 << 10;

/// Why the control socket can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file that is not a socket is at its path.
    #[error("the control socket's path is taken by something that is not a socket: {}", path.display())]
    Taken { path: PathBuf },
    /// The socket can't be made.
    #[error("making the control socket: {}", path.display())]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Time between two checks that the socket is still at its path.
const LOOK: Duration = Duration::from_secs(1);
/// Wait after a failed accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Limit from the connection to the complete request, which a command sends at once.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// The listening socket and the name it is found under.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    mode: u32,
    door: Door,
    listener: UnixListener,
}

/// Makes the socket with the mode that [`Access::socket_mode`] says; the daemon's lock is held, so that a socket
/// found there is a leftover.
///
/// # Errors
/// When the path is taken by something else, or can't be bound.
pub fn bind(path: &Path, mode: u32) -> Result<ControlSocket, ServerError> {
    let failed = |source| ServerError::Bind { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::Taken { path: path.to_owned() });
        }
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(failed(err)),
        Ok(_) | Err(_) => {}
    }
    let (door, listener) = Name { path, mode, folder_mode: 0o755 }.listen().map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    Ok(ControlSocket { path: path.to_owned(), mode, door, listener })
}

impl ControlSocket {
    /// Makes the socket again when the runtime directory was wiped: without it no command reaches the daemon.
    fn restore(&mut self) {
        match bind(&self.path, self.mode) {
            Ok(again) => {
                tracing::warn!(path = %self.path.display(), "the control socket was gone and is back");
                *self = again;
            }
            Err(err) => tracing::error!(err = %chain(&err), "the control socket is gone"),
        }
    }
}

/// Serves until dropped.
pub async fn serve(mut socket: ControlSocket, services: Arc<Services>) {
    let mut look = tokio::time::interval(LOOK);
    let (visitors, mut spare) = (Visitors::new(), SpareFiles::default());
    loop {
        // Both arms are cancel-safe: an accept takes nothing when dropped, an interval keeps its time.
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            _ = look.tick() => {
                if !socket.door.is_in_place() {
                    socket.restore();
                }
                spare.refill();
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => receive(stream, &services, &visitors),
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
fn receive(stream: UnixStream, services: &Arc<Services>, visitors: &Arc<Visitors>) {
    let caller = match Caller::of(&stream) {
        Ok(caller) => caller,
        Err(err) => return tracing::debug!(%err, "the kernel does not say who connected"),
    };
    if services.access.right_of(&caller) == Right::None {
        services.turn_away(&stream, &caller);
        return;
    }
    let rank = if services.access.is_first(&caller) { Rank::First } else { Rank::Other };
    let Some(seat) = visitors.seat(caller.uid, rank) else {
        return send_away(&stream, too_many());
    };
    let services = services.clone();
    tokio::spawn(async move {
        if let Err(err) = converse(stream, &services, (caller, seat)).await {
            tracing::debug!(%err, "a client of the control socket went away");
        }
    });
}

fn too_many() -> Refusal {
    let message = "there are too many connections to the daemon already".to_owned();
    refusal(
        Exit::Held,
        message,
        Some("end commands that follow something (`logs -f`, `events -f`), then again"),
    )
}

async fn converse(stream: UnixStream, services: &Services, (caller, seat): (Caller, Seat)) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut read = BufReader::new(read);
    // Cancel-safe: a request that was not read completely is dropped with its connection.
    let asked = tokio::select! {
        asked = tokio::time::timeout(REQUEST_WITHIN, request(&mut read)) => asked,
        () = seat.dismissed() => {
            send_away(write.as_ref(), too_many());
            return Ok(());
        }
    };
    seat.heard();
    let mut client = Connection { write, read, peer: caller.peer() };
    match asked.unwrap_or_else(|_| Ok(Some(Err(too_late()))))? {
        None => Ok(()),
        Some(Ok(request)) => match services.access.admit(&client.peer, &request) {
            Ok(()) => answer(request, &mut client, services).await,
            Err(refusal) => {
                services.note_refusal(&client.peer, request.verb());
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

/// The one request of a connection, which may come in pieces; `None` when the client closed without one.
///
/// # Errors
/// When the connection fails. A line that is not a request, or is longer than 64 KiB, is a refusal.
pub async fn request(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<Result<Request, Refusal>>> {
    let line = read_line(stream, LONGEST).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(
        serde_json::from_slice(&line)
            .map_err(|err| refusal(Exit::Usage, format!("this daemon can't read the request: {err}"), None)),
    ))
}

async fn answer(request: Request, client: &mut Connection, services: &Services) -> io::Result<()> {
    let reply = match request {
        Request::Status { app } => reading::status(services, app.as_ref()).await,
        Request::History { app, limit } => reading::history(services, (app.as_ref(), limit)).await,
        Request::Show { id } => {
            let right = services.access.right_of(&client.peer.caller);
            reading::show(services, id)
                .await
                .map(|answer| if right == Right::Act { answer } else { without_output(answer) })
        }
        Request::Why { app } => handle_of(services, app.as_ref()).map(|handle| reading::why(&handle)),
        Request::Exec { app, worker } => handle_of(services, app.as_ref())
            .and_then(|handle| exec((services, &client.peer), &handle, worker.as_ref())),
        Request::Logs { app, lines, follow, source, instance } => {
            let wanted = reading::LogsWanted { lines, follow, source, instance };
            return match handle_of(services, app.as_ref()) {
                Ok(handle) => reading::logs(client, services, (&handle, wanted)).await,
                Err(refusal) => client.send(&Reply::Refused(refusal)).await,
            };
        }
        Request::Events { app, since, follow } => {
            return reading::events(client, services, (app, since, follow)).await;
        }
        Request::RunCron { app, name } => {
            return scheduled::run(client, services, (app, name)).await;
        }
        Request::Poll { app } => handle_of(services, app.as_ref()).map(|handle| {
            handle.look_now();
            Answer::Said("the remote is looked at".to_owned())
        }),
        Request::Reload => {
            services.apps.note_act(client.peer.event(EventKind::Asked, "reload"));
            reload(services).await
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
        | Request::Up { .. } => return acting::act(request, client, services).await,
    };
    client.send(&closing(reply)).await
}

fn exec(
    (services, peer): (&Services, &Peer),
    handle: &AppHandle,
    worker: Option<&WorkerName>,
) -> Result<Answer, Refusal> {
    let event =
        EventRecord { app: Some(handle.settings().name.clone()), ..peer.event(EventKind::Asked, "exec") };
    services.apps.note_act(event);
    reading::exec(handle, worker)
}

/// Removes the app's output, which only callers with the right to act may see.
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

async fn reload(services: &Services) -> Result<Answer, Refusal> {
    let ending = || refusal(Exit::Unreachable, "the daemon is ending".to_owned(), Some("bgd status"));
    let (reply, answer) = oneshot::channel();
    services.reload.send(reply).await.map_err(|_| ending())?;
    answer.await.map_err(|_| ending())?.map(Answer::Said)
}
