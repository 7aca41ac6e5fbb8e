//! The record of one app, as far as the rooms read it and add to it. What can't be read or written is said in the log and
//! stops nobody.

use std::sync::Arc;

use super::{Store, clock, record::EventRecord};
use crate::{
    os::{blocking::blocking, errors::chain},
    rules::{
        app::Release,
        ids::{AppName, DeployId, ReleaseId},
        words::{EventKind, Fate},
    },
};

/// What is recorded of one app.
#[derive(Debug, Clone)]
pub struct AppRecord {
    store: Arc<Store>,
    app: AppName,
}

impl AppRecord {
    /// Reads nothing yet.
    pub fn new(store: Arc<Store>, app: AppName) -> Self {
        Self { store, app }
    }

    /// An event outside of any step of the machine, for `bgd events`.
    pub(crate) async fn note(&self, kind: EventKind, deploy: Option<DeployId>, text: &str) {
        let mut event = EventRecord::new(kind, clock::now(), text);
        (event.app, event.deploy) = (Some(self.app.clone()), deploy);
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.log(event)).await {
            tracing::warn!(app = %self.app, err = %chain(&err), "an event was not recorded");
        }
    }

    /// The newest probe answers of a deploy, for `bgd show`.
    pub(crate) async fn keep_probes(&self, deploy: DeployId, answers: Vec<String>) {
        let store = self.store.clone();
        if let Err(err) = blocking(move || store.keep_probes(deploy, &answers)).await {
            tracing::warn!(app = %self.app, err = %chain(&err), "probe answers were not recorded");
        }
    }

    /// The releases with their fates, newest first; none where the record can't be read.
    pub(crate) fn releases(&self) -> Vec<(Release, Fate)> {
        self.store.releases(&self.app).unwrap_or_else(|err| {
            tracing::warn!(app = %self.app, err = %chain(&err), "no previous release is known");
            Vec::new()
        })
    }

    /// It served well at some time.
    pub(crate) fn served_well(&self, release: &ReleaseId) -> bool {
        self.releases().iter().any(|(one, fate)| one.id == *release && *fate == Fate::Good)
    }
}
