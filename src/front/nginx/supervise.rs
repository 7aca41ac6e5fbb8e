//! Looks at nginx between flips and tells what is wrong with it, so that status speaks of what is really served
//! (promise M1). Where a hand sent the traffic to a color on which nothing runs, or the file is not what nginx serves
//! from (promise F6), it has the front told again what is live.

use std::time::Duration;

use tokio::time::sleep;

use super::{Contradiction, Nginx, NginxError, Routed, Source};
use crate::{front::Daemon, os::errors::chain, rules::ids::Color};

/// Between two looks while all is well.
const CALM: Duration = Duration::from_secs(2);
/// Between two looks while something is wrong: trouble that is over is not shown for long.
const ALERT: Duration = Duration::from_millis(250);

/// What is wrong with nginx or with bgd's file for it.
struct Trouble {
    /// For people.
    said: String,
    /// After a change by hand: the color that receives the traffic.
    edited_to: Option<Color>,
    half_told: bool,
}

impl Trouble {
    fn new(said: String) -> Self {
        Self { said, edited_to: None, half_told: false }
    }
}

pub(super) async fn supervise(nginx: &Nginx, daemon: &dyn Daemon) {
    loop {
        let trouble = {
            // Not in the middle of a flip, when file and nginx differ for a moment.
            let _turn = daemon.turn().await;
            trouble(nginx).await
        };
        let nowhere = trouble.as_ref().and_then(|trouble| trouble.edited_to);
        if nowhere.is_some_and(|color| !daemon.runs(color)) {
            daemon.tell_again();
        }
        let half_told = trouble.as_ref().is_some_and(|trouble| trouble.half_told);
        let said = trouble.map(|trouble| trouble.said);
        let pause = if said.is_some() { ALERT } else { CALM };
        if daemon.trouble(said.clone()) {
            // Once: it is told until it takes it.
            if half_told {
                daemon.tell_again();
            }
            if let Some(err) = said {
                tracing::error!(app = %nginx.app, %err, "nginx is not as bgd left it");
            }
        }
        sleep(pause).await;
    }
}

async fn trouble(nginx: &Nginx) -> Option<Trouble> {
    // What it answers with is one half of what it serves, and it can't be told again.
    if let Some(err) = nginx.upgrade().err().filter(NginxError::is_divided) {
        return Some(Trouble::new(chain(&err)));
    }
    match nginx.routed().await {
        Err(err) => Some(Trouble::new(chain(&err))),
        Ok(None) => Some(Trouble::new("bgd's nginx file is gone".to_owned())),
        Ok(Some(Routed { contradiction: Some(found), color, .. })) => {
            let edited_to = color.filter(|_| matches!(found, Contradiction::Edited { .. }));
            Some(Trouble { said: found.to_string(), edited_to, half_told: found.is_half_told() })
        }
        Ok(Some(Routed { source: Source::File, .. })) => Some(Trouble::new("nginx does not run".to_owned())),
        Ok(Some(_)) => None,
    }
}
