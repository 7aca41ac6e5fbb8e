//! Watches the remote of one app: asks at `poll`, at once when a local bare repository changes or somebody asks
//! for it, with backoff and jitter while it fails. Only tells what it saw; the machine decides.

use std::sync::Arc;

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use super::{
    app_task::{Inbox, Message},
    gates::Gatekeeper,
    interpreter::Interpreter,
    snapshot::{RemoteSeen, Snapshot},
};
use crate::{
    os::{errors::chain, hash::fnv},
    release::git::{self, GitError, LocalWatch},
    rules::{backoff, event::Event, ids::CommitId},
    store::clock,
};

/// Runs until the app's task ends. `kick` asks for a look at once.
pub async fn watch_remote(
    interpreter: Arc<Interpreter>,
    (inbox, shown): (Inbox, watch::Receiver<Snapshot>),
    kick: Arc<Notify>,
) {
    let settings = interpreter.settings().clone();
    let local = git::local_path(&settings.remote);
    let watch = local.as_ref().map(|path| LocalWatch::start(path.clone()));
    let mut gates = Gatekeeper::of(&interpreter, &shown);
    // Spreads the apps that failed together.
    let seed = fnv(settings.name.as_str().as_bytes());
    let mut seen = RemoteSeen::default();
    let (mut failures, mut every) = (0, settings.poll);
    loop {
        let looked = match look(&interpreter, local.as_deref()).await {
            Ok((head, refs)) => {
                every = settings.poll.max(backoff::listing_wait(refs.unwrap_or(0)));
                seen = RemoteSeen {
                    head: Some(head.clone()),
                    checked_at: Some(clock::now()),
                    crowd: refs.filter(|_| every > settings.poll),
                    ..RemoteSeen::default()
                };
                // Gates may take their time.
                if gates.is_some() && inbox.send(Message::Remote(seen.clone())).is_err() {
                    return;
                }
                ask(&mut gates, head).await
            }
            Err(err) => Err(err),
        };
        match looked {
            Ok(event) => {
                failures = 0;
                if inbox.send(Message::Event(event)).is_err() {
                    return;
                }
            }
            Err(err) => {
                failures += 1;
                let text = chain(&err);
                if seen.error.as_ref() != Some(&text) {
                    tracing::warn!(app = %settings.name, err = text, "the remote can't be read; the live release serves on");
                }
                (seen.error, seen.hint) = (Some(text), err.hint());
            }
        }
        let wait = backoff::poll_wait(every, failures, seed);
        seen.next_at = Some(clock::now().plus(wait));
        if inbox.send(Message::Remote(seen.clone())).is_err() {
            return;
        }
        let next = Instant::now() + wait;
        loop {
            // All arms are cancel-safe: a sleep, a notification that is kept for the next wait, a watch's signal, and the
            // gatekeeper's own wait.
            tokio::select! {
                () = sleep_until(next) => break,
                () = kick.notified() => break,
                () = changed(watch.as_ref()) => break,
                () = due(gates.as_mut()) => {}
            }
            let Some(head) = seen.head.clone() else { break };
            // The next look at the remote reports an error that lasts.
            let Ok(event) = ask(&mut gates, head).await else { break };
            if inbox.send(Message::Event(event)).is_err() {
                return;
            }
        }
    }
}

/// The event of a tip that was seen, with what the gates say about it.
async fn ask(gates: &mut Option<Gatekeeper>, head: CommitId) -> Result<Event, GitError> {
    match gates {
        Some(gates) => Ok(Event::GatesSeen(Box::new(gates.ask(&head).await?))),
        None => Ok(Event::HeadSeen(head)),
    }
}

async fn due(gates: Option<&mut Gatekeeper>) {
    match gates {
        Some(gates) => gates.due().await,
        None => std::future::pending().await,
    }
}

async fn changed(watch: Option<&LocalWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// Reads the ref of a local bare repository without git; any other remote is the worker's.
async fn look(
    interpreter: &Interpreter,
    local: Option<&std::path::Path>,
) -> Result<(CommitId, Option<u64>), GitError> {
    let branch = &interpreter.settings().branch;
    if let Some(path) = local
        && let Ok(Some(head)) = git::local_head(path, branch)
    {
        return Ok((head, None));
    }
    // Absent, or unreadable this way: the worker's answer has the reason.
    interpreter.git().head().await.map(|head| (head.commit, head.refs))
}
