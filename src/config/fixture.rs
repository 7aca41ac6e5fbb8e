//! Settings for tests above the configuration.

use std::{path::Path, sync::Arc};

use crate::config::{
    self,
    settings::{AppSettings, Settings},
};

/// One app with everything at its default, in this state directory.
pub(crate) fn settings(state_dir: &Path) -> (Settings, Arc<AppSettings>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("bgd.toml");
    let text = format!(
        "[daemon]\nstate_dir = {state_dir:?}\nruntime_dir = \"/run/bgd\"\n\
         [app.shop]\nremote = \"/srv/shop.git\"\nstart = \"true\"\n"
    );
    std::fs::write(&file, text).expect("a file");
    let loaded = config::load(&file).expect("a good configuration");
    let app = loaded.settings.apps.values().next().cloned().expect("one app");
    (loaded.settings, app)
}
