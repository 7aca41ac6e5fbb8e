//! Keeps the front's process running: restarts a killed one at once, with its route, and ends one that hangs.

use std::time::Duration;

use tokio::time::sleep;

use super::{Builtin, BuiltinError, silence::Silence};
use crate::{front::FrontDaemon, os::errors::chain};

/// Pause between two attempts to reach or start a front.
const SOON: Duration = Duration::from_millis(250);
/// Time between two health checks; the end of the process is noticed at once.
const GREETING: Duration = Duration::from_secs(3);

pub(super) async fn supervise(front: &Builtin, daemon: &dyn FrontDaemon) {
    let app = daemon.app();
    let mut known = None;
    let mut silence = Silence::default();
    loop {
        let answer = match front.hello().await {
            Ok(Some(hello)) => Ok(hello),
            Ok(None) => front.ensure_running().await,
            Err(err) => Err(err),
        };
        match &answer {
            Err(BuiltinError::Silent { .. }) => {
                if let Some(cause) = silence.goes_on(app, front).await {
                    daemon
                        .note(&format!(
                            "the front hung ({cause}) and was ended, so that another takes its place"
                        ))
                        .await;
                }
            }
            Ok(_) | Err(_) => silence.broken(),
        }
        let trouble = match &answer {
            Ok(hello) => hello.trouble.clone(),
            Err(err) => Some(chain(err)),
        };
        if daemon.trouble(trouble.clone())
            && let Some(err) = trouble
        {
            tracing::error!(%app, %err, "the front does not run as it should");
        }
        // Without a running front there is no process to wait for: pause, then try again.
        let Ok(hello) = answer else {
            sleep(SOON).await;
            continue;
        };
        // A handover passes the route on, so only a front that started without a route needs it.
        if known.is_some_and(|pid| pid != hello.pid) {
            tracing::warn!(%app, pid = hello.pid, "the front had ended and serves again");
            if hello.route.is_none() {
                daemon.tell_again();
            }
        }
        known = Some(hello.pid);
        front.ended(hello.pid, GREETING).await;
    }
}
