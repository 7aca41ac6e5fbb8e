//! The texts that configure one app, kept so that bgd still knows the app when they are gone or broken. Used by the
//! daemon, which keeps them, and by whoever has to do with an app that no file names.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    load::{app_file, surroundings, text},
    parse::{Source, parse},
    settings::AppSettings,
};
use crate::rules::ids::AppName;

#[derive(Serialize, Deserialize)]
struct Texts {
    file: PathBuf,
    main: String,
    /// Of the app's own file, where it has one.
    own: Option<String>,
}

/// The texts of an app as they are on disk now; `None` when they can't be read.
pub fn remember(file: &Path, app: &AppName) -> Option<String> {
    let texts = Texts { file: file.to_owned(), main: text(file)?, own: text(&app_file(file, app)) };
    serde_json::to_string(&texts).ok()
}

/// The settings that such texts make; `None` when they make none.
pub fn recall(texts: &str, app: &AppName) -> Option<Arc<AppSettings>> {
    let Texts { file, main, own } = serde_json::from_str(texts).ok()?;
    let own: Vec<_> = own.into_iter().map(|text| Source { file: app_file(&file, app), text }).collect();
    let main = Source { text: main, file: file.clone() };
    parse(&main, &own, &surroundings(&file)).ok()?.settings.apps.get(app).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n7_an_app_is_known_by_its_texts_when_its_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bgd.toml");
        let app = |front: u16, ports: &str| {
            format!(
                "remote = \"/srv/a.git\"\nstart = \"true\"\nports = {ports}\nfront = {{ listen = \"127.0.0.1:{front}\" }}\n"
            )
        };
        std::fs::write(&file, format!("[app.shop]\n{}", app(8081, "[9601, 9602]"))).unwrap();
        std::fs::create_dir(dir.path().join("apps.d")).unwrap();
        let own = dir.path().join("apps.d/blog.toml");
        std::fs::write(&own, app(8082, "[9701, 9702]")).unwrap();
        let [blog, shop]: [AppName; 2] = ["blog", "shop"].map(|name| name.parse().unwrap());
        let texts = [&blog, &shop].map(|app| remember(&file, app).unwrap());
        std::fs::remove_file(own).unwrap();
        std::fs::remove_file(&file).unwrap();
        let ports = |texts: &str, app| recall(texts, app).unwrap().ports.blue;
        assert_eq!((ports(&texts[0], &blog), ports(&texts[1], &shop)), (9701, 9601));
        assert_eq!(recall("no texts", &blog), None);
    }
}
