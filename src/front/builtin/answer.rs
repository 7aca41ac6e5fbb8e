//! The control socket: accepts, reads one line, answers one line. Mode 0600; it comes back when its file is
//! deleted (a runtime directory is emptied when a service restarts). Run by `role` on the main thread.

use std::{io, os::fd::AsFd, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::{
    control::{self, ControlAnswer, ControlRequest, LONGEST},
    handover,
    stage::{FrontProcess, Phase},
};
use crate::os::{
    door::{Door, Name},
    lines::read_line,
};

/// Time between two checks whether the socket's file is still there; the daemon waits a second longer for it to come
/// back.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after a failed accept (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A listening control socket.
pub(super) struct Desk {
    listener: UnixListener,
    door: Door,
}

impl Desk {
    /// Listens at `path`, and replaces a front that listens there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (door, listener) = Name { path, mode: 0o600, folder_mode: 0o755 }.take_over()?;
        Ok(Self { listener: UnixListener::from_std(listener)?, door })
    }

    /// Answers until the process leaves or stops; then removes the socket's file, unless it is a successor's.
    pub(super) async fn attend(mut self, stage: Arc<FrontProcess>) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            // Cancel-safe: all three arms may be dropped and awaited again without loss.
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        tokio::spawn(serve(stream, Arc::clone(&stage)));
                    }
                    Err(error) => {
                        stage.journal.warn(format_args!("can't accept on the control socket: {error}"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                _ = look.tick() => self.come_back(&stage),
                () = stage.no_longer_serving() => break,
            }
        }
        // A leftover file does no harm: the next start finds it stale.
        let _left_behind = self.door.remove();
    }

    /// Listens again when the file is gone, unless another process listens there.
    fn come_back(&mut self, stage: &FrontProcess) {
        if self.door.is_missing()
            && let Ok(again) = Self::open(&stage.control)
        {
            stage.journal.warn(format_args!("the control socket was gone and is back"));
            *self = again;
        }
    }
}

/// Answers the requests of one connection. When the process leaves, only the connection of the successor stays; when
/// that one ends too, the process stops.
async fn serve(stream: UnixStream, stage: Arc<FrontProcess>) {
    let mut stream = BufReader::new(stream);
    let mut is_successor = false;
    loop {
        // Cancel-safe: the connection is dropped in the other arm.
        let line = tokio::select! {
            line = read_line(&mut stream, LONGEST as u64) => line,
            () = stage.no_longer_serving(), if !is_successor => return,
        };
        let Some(line) = line.ok().filter(|line| line.ends_with(b"\n")) else { break };
        let answered = match control::parse(&line) {
            Ok(ControlRequest::Handover) => give(&stream, &stage).await,
            Ok(request) => {
                is_successor |= request == ControlRequest::Leave;
                let answer = stage.answer(request).await;
                stream.get_mut().write_all(&control::line(&answer)).await
            }
            Err(bad) => {
                stream.get_mut().write_all(&control::line(&ControlAnswer::Refused(bad.to_string()))).await
            }
        };
        if answered.is_err() {
            break;
        }
    }
    if is_successor {
        stage.close(Phase::Stopping);
    }
}

async fn give(stream: &BufReader<UnixStream>, stage: &FrontProcess) -> io::Result<()> {
    let listener = stage.listener().as_ref().map(|socket| socket.as_fd().try_clone_to_owned()).transpose()?;
    let stream = stream.get_ref();
    match listener {
        Some(socket) => {
            let line = control::line(&ControlAnswer::Heritage(stage.switch.route().map(Box::new)));
            handover::give(stream, &line, socket.as_fd()).await
        }
        None => {
            let line = control::line(&ControlAnswer::Refused("already handed over".to_owned()));
            stream.writable().await?;
            stream.try_write(&line).map(drop)
        }
    }
}
