//! Looks at nginx between flips and reports problems, so that status shows what nginx really serves (promise M1). Where
//! somebody moved the traffic to a color on which nothing runs, or nginx does not have the file in force (promise F6),
//! it asks the daemon to route again.

use std::time::Duration;

use tokio::time::sleep;

use super::{Contradiction, Nginx, NginxError, NginxRoute, RouteSource};
use crate::{front::FrontDaemon, os::errors::chain, rules::ids::Color};

/// Pause between two looks while nothing is wrong.
const CALM: Duration = Duration::from_secs(2);
/// Pause between two looks while something is wrong, so that status does not show a past problem for long.
const ALERT: Duration = Duration::from_millis(250);

/// A problem of nginx or of bgd's file for it.
struct Trouble {
    /// The problem, as a message.
    said: String,
    /// After a manual edit: the color that receives the traffic.
    edited_to: Option<Color>,
    half_told: bool,
}

impl Trouble {
    fn new(said: String) -> Self {
        Self { said, edited_to: None, half_told: false }
    }
}

pub(super) async fn supervise(nginx: &Nginx, daemon: &dyn FrontDaemon) {
    loop {
        let trouble = {
            // Waits for the end of a flip, during which file and nginx differ.
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
            // Once is enough: the daemon repeats the route until nginx has it.
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
    // During an upgrade nginx's answer is one master's only, and a new route would not reach the other.
    if let Some(err) = nginx.upgrade().err().filter(NginxError::is_divided) {
        return Some(Trouble::new(chain(&err)));
    }
    match nginx.routed().await {
        Err(err) => Some(Trouble::new(chain(&err))),
        Ok(None) => Some(Trouble::new("bgd's nginx file is gone".to_owned())),
        Ok(Some(NginxRoute { contradiction: Some(found), color, .. })) => {
            let edited_to = color.filter(|_| matches!(found, Contradiction::Edited { .. }));
            Some(Trouble { said: found.to_string(), edited_to, half_told: found.is_half_told() })
        }
        Ok(Some(NginxRoute { source: RouteSource::File, .. })) => {
            Some(Trouble::new("nginx does not run".to_owned()))
        }
        Ok(Some(_)) => None,
    }
}
