//! Collects the figures of real traffic from the front while they are wanted: asks a front that keeps counters, and
//! listens to one that reports each request. Run by `tend`, one for each app. Requests that it misses are not counted,
//! and nothing waits for it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use super::{
    app_task::{Inbox, Message},
    interpreter::{DaemonPaths, Interpreter},
    traffic::Counted,
};
use crate::{
    config::settings::AppSettings,
    front::{hearing::Ear, traffic::RequestSample},
};

/// Between two looks at a front's counters, and between two updates of status.
const LOOK: Duration = Duration::from_secs(1);
/// Number of looks in a minute.
const MINUTE: u32 = 60;

/// The socket on which a front reports its requests; `None` when nothing counts them.
pub(super) fn socket(place: &DaemonPaths, settings: &AppSettings) -> Option<PathBuf> {
    settings.counts_traffic().then(|| place.runtime_dir.join("t").join(format!("{}.sock", settings.name)))
}

/// Counts until the app's task ends.
pub(super) async fn count(interpreter: Arc<Interpreter>, inbox: Inbox) {
    if !interpreter.settings().counts_traffic() {
        return;
    }
    let mut ear = open_ear(&interpreter);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut look, mut shown) = (0, Counted::default());
    loop {
        // Cancel-safe but for one datagram of a sender not yet known, which may go uncounted; a tick is not lost.
        tokio::select! {
            samples = hear(&mut ear, &interpreter) => for sample in samples {
                let release = interpreter.instances().known.release_on(sample.color);
                interpreter.traffic.add(&sample, release.as_ref());
            },
            _ = looks.tick() => {
                look += 1;
                interpreter.count_traffic().await;
                if look % MINUTE == 0 {
                    interpreter.traffic.minute();
                }
                let now = interpreter.traffic.counted();
                if now != shown {
                    shown = now;
                    if inbox.send(Message::Counted(now)).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Interpreter {
    /// Takes over the sums of a front that keeps counters; other fronts report each request.
    pub(super) async fn count_traffic(&self) {
        let Some(figures) = self.front.figures() else { return };
        let _turn = self.sums_turn.lock().await;
        match figures.await {
            Ok(figures) => {
                for (color, figures) in figures {
                    let release = self.instances().known.release_on(color);
                    self.traffic.take_over(color, figures, release.as_ref());
                }
            }
            // The front's supervision deals with a front that is away.
            Err(err) => tracing::debug!(app = %self.settings.name, %err, "the front told no figures"),
        }
    }
}

/// Opens the socket for requests. Without it a watch sees too little traffic, and says so.
fn open_ear(interpreter: &Interpreter) -> Option<Ear> {
    let path = interpreter.traffic_socket.as_ref().filter(|_| interpreter.front().figures().is_none())?;
    Ear::open(path)
        .inspect_err(|err| {
            let app = &interpreter.settings().name;
            tracing::error!(%app, path = %path.display(), %err, "real traffic can't be heard of");
        })
        .ok()
}

/// The next requests that the front reports; never returns for a front that reports none.
async fn hear(ear: &mut Option<Ear>, interpreter: &Interpreter) -> Vec<RequestSample> {
    loop {
        let Some(open) = ear else { return std::future::pending().await };
        match open.hear(interpreter.front()).await {
            Ok(samples) => return samples,
            Err(err) => {
                let app = &interpreter.settings().name;
                tracing::error!(%app, %err, "real traffic can't be heard of any more");
                *ear = None;
            }
        }
    }
}
