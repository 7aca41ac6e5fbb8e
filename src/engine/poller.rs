//! Watches the remote of one app: asks at `poll`, at once when a local bare repository changes or somebody asks
//! for it, with backoff and jitter while it fails. Only tells what it saw; the machine decides.

use std::sync::Arc;

use tokio::{sync::Notify, time::sleep};

use super::{
    app_task::{Inbox, Message},
    interpreter::Interpreter,
    snapshot::RemoteSeen,
};
use crate::{
    os::{errors::chain, hash::fnv},
    release::git::{self, GitError, LocalWatch},
    rules::{backoff, event::Event, ids::CommitId},
    store::clock,
};

/// Runs until the app's task ends. `kick` asks for a look at once.
pub async fn watch_remote(interpreter: Arc<Interpreter>, inbox: Inbox, kick: Arc<Notify>) {
    let settings = interpreter.settings().clone();
    let local = git::local_path(&settings.remote);
    let watch = local.as_ref().map(|path| LocalWatch::start(path.clone()));
    // Spreads the apps that failed together.
    let seed = fnv(settings.name.as_str().as_bytes());
    let mut seen = RemoteSeen::default();
    let (mut failures, mut every) = (0, settings.poll);
    loop {
        match look(&interpreter, local.as_deref()).await {
            Ok((head, refs)) => {
                failures = 0;
                every = settings.poll.max(backoff::listing_wait(refs.unwrap_or(0)));
                seen = RemoteSeen {
                    head: Some(head.clone()),
                    checked_at: Some(clock::now()),
                    crowd: refs.filter(|_| every > settings.poll),
                    ..RemoteSeen::default()
                };
                if inbox.send(Message::Event(Event::HeadSeen(head))).is_err() {
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
        // All arms are cancel-safe: a sleep, a notification that is kept for the next wait, a watch's signal.
        tokio::select! {
            () = sleep(wait) => {}
            () = kick.notified() => {}
            () = changed(watch.as_ref()) => {}
        }
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
