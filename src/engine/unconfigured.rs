//! Finds instances that bgd started and that still run although no file has their app any more (promise N7). Only
//! looks; asked by the status.

use std::{collections::BTreeSet, path::Path, time::UNIX_EPOCH};

use crate::{
    config::{recall, settings::AppSettings},
    os::errors::chain,
    rules::{
        ids::{AppName, Color},
        time::Time,
    },
    shim::Shims,
    store::Store,
};

/// One instance of an app that is not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconfigured {
    pub name: AppName,
    pub color: Color,
    /// Its port, if known.
    pub port: Option<u16>,
    /// Its main process.
    pub pid: Option<i32>,
    /// The time of its start.
    pub since: Time,
}

/// All unconfigured instances, by app; those that can't be looked at are left out and logged.
pub async fn unconfigured(
    (state_dir, runtime_dir): (&Path, &Path),
    store: Option<&Store>,
    configured: &BTreeSet<AppName>,
) -> Vec<Unconfigured> {
    let shims = Shims::new("/proc/self/exe".into(), state_dir, runtime_dir);
    let apps = shims.apps().await.unwrap_or_else(|err| {
        tracing::debug!(err = %chain(&err), "apps that are not configured can't be looked for");
        Default::default()
    });
    let mut found = Vec::new();
    for app in apps.into_iter().filter(|app| !configured.contains(app)) {
        let settings = store.and_then(|store| last_settings(store, &app));
        for handle in shims.find(&app).await.unwrap_or_default() {
            let runs = handle.status().await.is_ok_and(|status| status.runs());
            let Some(slot) = handle.role().slot().filter(|_| runs) else { continue };
            let since = handle.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
            found.push(Unconfigured {
                name: app.clone(),
                color: slot.color,
                port: settings.as_ref().and_then(|known| known.address_at(slot.color, slot.index).port()),
                pid: handle.main_pid(),
                since: Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            });
        }
    }
    found
}

/// The app's last known configuration; `None` if unknown.
pub fn last_settings(store: &Store, app: &AppName) -> Option<std::sync::Arc<AppSettings>> {
    match store.configured(app) {
        Ok(texts) => recall(&texts?, app),
        Err(err) => {
            tracing::warn!(%app, err = %chain(&err), "how the app was configured can't be read");
            None
        }
    }
}
