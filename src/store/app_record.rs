//! The record of one app, for the rooms that read it and add to it. A failed read or write is logged and stops
//! nothing.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;

use super::{HookRun, Store, clock, record::EventRecord};
use crate::{
    os::{blocking::blocking, errors::chain},
    rules::{
        app::Release,
        ids::{AppName, DeployId, ReleaseId},
        task::Ran,
        words::{EventKind, Fate},
    },
};

/// Access to the record of one app.
#[derive(Debug, Clone)]
pub struct AppRecord {
    store: Arc<Store>,
    app: AppName,
    events: broadcast::Sender<EventRecord>,
}

impl AppRecord {
    /// Reads nothing yet. Events that are recorded go to the subscribers of `events`.
    pub fn new(store: Arc<Store>, app: AppName, events: broadcast::Sender<EventRecord>) -> Self {
        Self { store, app, events }
    }

    /// Records an event that belongs to no step of the machine, and sends it to subscribers.
    pub(crate) async fn note(&self, kind: EventKind, deploy: Option<DeployId>, text: &str) {
        let mut event = EventRecord::new(kind, clock::now(), text);
        (event.app, event.deploy) = (Some(self.app.clone()), deploy);
        let store = self.store.clone();
        match blocking(move || store.log(event)).await {
            // The event may have no subscribers.
            Ok(event) => drop(self.events.send(event)),
            Err(err) => tracing::warn!(app = %self.app, err = %chain(&err), "an event was not recorded"),
        }
    }

    /// Records the newest probe answers of a deploy, for `bgd show`.
    pub(crate) async fn keep_probes(&self, deploy: DeployId, answers: Vec<String>) {
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.keep_probes(deploy, &answers)).await {
            tracing::warn!(app = %self.app, err = %chain(&err), "probe answers were not recorded");
        }
    }

    /// Records that a hook runs, for `bgd show` and `bgd logs`.
    pub(crate) async fn begin_hook(&self, run: &HookRun) {
        let (store, app, run) = (self.store.clone(), self.app.clone(), run.clone());
        if let Err(err) = blocking(move || store.begin_hook(&app, &run, clock::now())).await {
            tracing::warn!(app = %self.app, err = %chain(&err), "the run of a hook was not recorded");
        }
    }

    /// Records how a hook ended, and how long it took.
    pub(crate) async fn end_hook(&self, run: HookRun, ran: Ran, took: Duration) {
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.end_hook(&run, &ran, (clock::now(), took))).await {
            tracing::warn!(app = %self.app, err = %chain(&err), "the end of a hook was not recorded");
        }
    }

    /// The releases with their fates, newest first; empty when the record can't be read.
    pub(crate) fn releases(&self) -> Vec<(Release, Fate)> {
        self.store.releases(&self.app).unwrap_or_else(|err| {
            tracing::warn!(app = %self.app, err = %chain(&err), "no previous release is known");
            Vec::new()
        })
    }

    /// Whether the release went live at some time and was not rolled back.
    pub(crate) fn served_well(&self, release: &ReleaseId) -> bool {
        self.releases().iter().any(|(one, fate)| one.id == *release && *fate == Fate::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::time::Time;

    #[tokio::test]
    async fn an_event_that_belongs_to_no_step_is_recorded_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path(), Time(0)).unwrap().0);
        let (events, mut followed) = broadcast::channel(4);
        let app: AppName = "shop".parse().unwrap();
        let record = AppRecord::new(store.clone(), app.clone(), events);
        record.note(EventKind::Trouble, None, "it was deleted").await;
        let told = followed.recv().await.unwrap();
        assert_eq!((told.app.as_ref(), told.text.as_str()), (Some(&app), "it was deleted"));
        assert_eq!(store.events(Some(&app), Some(0)).unwrap(), [told]);
    }
}
