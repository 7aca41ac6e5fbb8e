//! The parts of the daemon that connections use; also, which refusals are recorded and which app a request means.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
};

use super::{
    access::{Access, Caller, Peer},
    connection,
    refusal::refusal,
    wire::{DaemonReport, Exit, Refusal},
};
use crate::{
    engine::apps::{AppHandle, Apps},
    rules::{ids::AppName, words::EventKind},
};

/// Least time between two recorded refusals of one user.
const REFUSALS_APART: Duration = Duration::from_secs(60);

/// The parts of the daemon that every connection uses.
#[derive(Debug)]
pub struct Services {
    pub apps: Arc<Apps>,
    /// The daemon, as status shows it.
    pub daemon: watch::Receiver<DaemonReport>,
    /// Who may do what.
    pub access: Access,
    /// Time of the last recorded refusal, by user id: a flood of requests must not push other events out of the
    /// record.
    pub refused: Mutex<BTreeMap<u32, Instant>>,
    /// Requests to reload the configuration, each with the channel for its answer.
    pub reload: mpsc::Sender<oneshot::Sender<Result<String, Refusal>>>,
}

impl Services {
    /// Logs and records a refused request, at most once in `REFUSALS_APART` for each user.
    pub(super) fn note_refusal(&self, peer: &Peer, request: &str) {
        if self.is_news(peer.caller.uid) {
            tracing::warn!(by = %peer.described(), request, "refused: not permitted");
            self.apps.note_act(peer.event(EventKind::Refused, &format!("{request}: not permitted")));
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

    /// Refuses a caller who may do nothing, before the request is read.
    pub(super) fn turn_away(&self, stream: &UnixStream, caller: &Caller) {
        connection::send_away(stream, self.access.no_entry(caller));
        if self.is_news(caller.uid) {
            let peer = caller.clone().peer();
            tracing::warn!(by = %peer.described(), "refused: not permitted");
            self.apps.note_act(peer.event(EventKind::Refused, "a connection: not permitted"));
        }
    }
}

/// The app of a request, which may leave it out when only one is configured.
///
/// # Errors
/// When there is no such app, or several to choose from.
pub(super) fn handle_of(services: &Services, app: Option<&AppName>) -> Result<AppHandle, Refusal> {
    let apps = services.apps.all();
    let names = || {
        let names: Vec<&str> = apps.iter().map(|handle| handle.settings().name.as_str()).collect();
        names.join(", ")
    };
    match (app, apps.as_slice()) {
        (Some(name), _) => services.apps.get(name).ok_or_else(|| {
            let hint = format!("configured are: {}", names());
            Refusal { hint: Some(hint), ..refusal(Exit::Usage, format!("no such app: {name}"), None) }
        }),
        (None, [handle]) => Ok(handle.clone()),
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
