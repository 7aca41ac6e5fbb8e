//! Looks at HAProxy between flips. A restart or reload gives HAProxy the states of its configuration: bgd sets the last
//! route again at once, and asks the daemon to route again, which may know a newer one. It also asks when somebody
//! moved the traffic to a color on which nothing runs. Other problems are reported for status.

use std::time::Duration;

use tokio::time::sleep;

use super::{CutoverLimits, Discord, Haproxy, HaproxyError, Life};
use crate::{
    front::FrontDaemon,
    os::errors::chain,
    rules::{
        ids::{Color, Generation},
        route::Route,
    },
};

/// Pause between two looks, which are the only way to notice a restart.
const LOOK: Duration = Duration::from_millis(250);

pub(super) async fn supervise(haproxy: &Haproxy, daemon: &dyn FrontDaemon) {
    let app = daemon.app();
    loop {
        let (life, trouble) = {
            // Waits for the end of a flip, which is several commands.
            let _turn = daemon.turn().await;
            (put_back(haproxy, daemon).await, haproxy.trouble().await)
        };
        let trouble = trouble.unwrap_or_else(|err| Some(Discord { said: chain(&err), moved_to: None }));
        let nowhere = trouble.as_ref().and_then(|trouble| trouble.moved_to);
        if matches!(life, Ok(Life::New | Life::Unknown)) || nowhere.is_some_and(|color| !daemon.runs(color)) {
            tracing::warn!(%app, "haproxy was not as bgd left it, and is told again");
            daemon.tell_again();
        }
        let said = life.err().map(|err| chain(&err)).or(trouble.map(|trouble| trouble.said));
        if daemon.trouble(said.clone())
            && let Some(err) = said
        {
            tracing::error!(%app, %err, "something is wrong with haproxy");
        }
        sleep(LOOK).await;
    }
}

async fn put_back(haproxy: &Haproxy, daemon: &dyn FrontDaemon) -> Result<Life, HaproxyError> {
    let limits = CutoverLimits::default();
    let life = haproxy.put_back(limits).await;
    if matches!(life, Ok(Life::Unknown)) && !Color::ALL.into_iter().any(|color| daemon.runs(color)) {
        // Nothing is live, or the daemon routes next: no request shall reach a release before it is proven.
        let nothing = Route::nowhere(Generation::default());
        if let Err(err) = haproxy.route(&nothing, limits).await {
            tracing::error!(app = %daemon.app(), err = %chain(&err), "haproxy was not told that nothing is live");
        }
    }
    life
}
