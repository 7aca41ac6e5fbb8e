//! Copies of the texts that configure one app, so that bgd still knows the app after they were removed or broken. The
//! daemon stores them; commands read them for an app that is in no file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    load::{app_file, surroundings, text},
    parse::{SourceFile, parse},
    settings::{AppSettings, Settings},
};
use crate::rules::ids::AppName;

#[derive(Serialize, Deserialize)]
struct Texts {
    file: PathBuf,
    main: String,
    /// The text of the app's own file, if it has one.
    own: Option<String>,
}

/// The texts of an app now on disk; `None` if they can't be read.
pub fn remember(file: &Path, app: &AppName) -> Option<String> {
    let kept = |file: &Path| text(file).map(|text| without_user_info(&text));
    let texts = Texts { file: file.to_owned(), main: kept(file)?, own: kept(&app_file(file, app)) };
    serde_json::to_string(&texts).ok()
}

/// Parses remembered texts; `None` if they are not valid.
pub fn recall(texts: &str, app: &AppName) -> Option<Arc<AppSettings>> {
    let Texts { file, main, own } = serde_json::from_str(texts).ok()?;
    let own: Vec<_> = own.into_iter().map(|text| SourceFile { file: app_file(&file, app), text }).collect();
    let main = SourceFile { text: main, file: file.clone() };
    parse(&main, &own, &surroundings(&file)).ok()?.settings.apps.get(app).cloned()
}

/// The settings last in force of the configuration at `file`, from the texts of its apps, the newest first; `None` if
/// they are not valid.
pub fn recall_all(file: &Path, kept: &[(AppName, String)]) -> Option<Settings> {
    let read =
        |(app, texts): &(AppName, String)| Some((app.clone(), serde_json::from_str::<Texts>(texts).ok()?));
    let kept = || kept.iter().filter_map(read).filter(|(_, texts)| is_same(&texts.file, file));
    let main = kept().next()?.1.main;
    // Only texts with the newest main file: an older one contains apps that were removed since.
    let own = kept().filter(|(_, texts)| texts.main == main);
    let own =
        own.filter_map(|(app, texts)| Some(SourceFile { file: app_file(file, &app), text: texts.own? }));
    let mut own: Vec<_> = own.collect();
    own.sort_by(|one, other| one.file.cmp(&other.file));
    let main = SourceFile { text: main, file: file.to_owned() };
    let surroundings = surroundings(file);
    let there: Vec<_> = own.iter().filter(|source| source.file.exists()).cloned().collect();
    // An app without its file was removed, unless the rest is not valid without it.
    let loaded = parse(&main, &there, &surroundings).or_else(|_| parse(&main, &own, &surroundings));
    Some(loaded.ok()?.settings)
}

/// Passwords and tokens in URLs are not recorded; nothing is fetched by recalled settings.
fn without_user_info(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut pieces = text.split("://");
    kept.extend(pieces.next());
    for piece in pieces {
        let end =
            piece.find(|c: char| matches!(c, '/' | '"' | '\'') || c.is_whitespace()).unwrap_or(piece.len());
        let host = piece[..end].rfind('@').map_or(0, |at| at + 1);
        kept.extend(["://", &piece[host..]]);
    }
    kept
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path| fs::canonicalize(path).ok();
    one == other || (real(one).is_some() && real(one) == real(other))
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

    #[test]
    fn l1_what_stands_in_a_url_before_the_host_is_not_kept() {
        for (text, kept) in [
            (
                "remote = \"https://ann:secret@git.example.com/a@b.git\"",
                "remote = \"https://git.example.com/a@b.git\"",
            ),
            ("remote='https://token@h/x'\nmail=\"a@b\"", "remote='https://h/x'\nmail=\"a@b\""),
            ("url = \"http://h\" # a@b", "url = \"http://h\" # a@b"),
            ("http://u:p@h", "http://h"),
            ("remote = \"git@h:x.git\"", "remote = \"git@h:x.git\""),
        ] {
            assert_eq!(without_user_info(text), kept);
        }
    }

    #[test]
    fn the_last_good_configuration_has_the_apps_that_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bgd.toml");
        let app = |front: u16| {
            let ports = [front + 1000, front + 2000];
            format!(
                "remote = \"/srv/a.git\"\nstart = \"true\"\nports = {ports:?}\nfront = {{ listen = \"127.0.0.1:{front}\" }}\n"
            )
        };
        std::fs::create_dir(dir.path().join("apps.d")).unwrap();
        let own = |name: &str| dir.path().join(format!("apps.d/{name}.toml"));
        std::fs::write(own("blog"), app(8082)).unwrap();
        std::fs::write(own("wiki"), app(8083)).unwrap();
        let [blog, shop, shed, wiki]: [AppName; 4] =
            ["blog", "shop", "shed", "wiki"].map(|name| name.parse().unwrap());
        let two = format!("[app.shop]\n{}[app.shed]\n{}", app(8081), app(8084));
        std::fs::write(&file, two).unwrap();
        let before = (shed.clone(), remember(&file, &shed).unwrap());
        std::fs::write(&file, format!("[daemon]\nstate_dir = \"s\"\n[app.shop]\n{}", app(8081))).unwrap();
        let mut kept: Vec<_> =
            [blog, shop, wiki].map(|app| (app.clone(), remember(&file, &app).unwrap())).into();
        kept.push(before);
        std::fs::write(&file, "[app.shop]\nnonsense").unwrap();
        std::fs::write(own("blog"), "nonsense").unwrap();
        std::fs::remove_file(own("wiki")).unwrap();
        let settings = recall_all(&file, &kept).unwrap();
        assert_eq!(settings.apps.keys().map(AppName::as_str).collect::<Vec<_>>(), ["blog", "shop"]);
        assert_eq!(settings.daemon.state_dir, dir.path().join("s"));
        assert_eq!(recall_all(&dir.path().join("other.toml"), &kept), None, "another configuration");
        let wiki = file.with_file_name("only.toml");
        std::fs::write(&wiki, "").unwrap();
        let texts =
            serde_json::to_string(&Texts { file: wiki.clone(), main: String::new(), own: Some(app(8083)) });
        let only = recall_all(&wiki, &[("wiki".parse().unwrap(), texts.unwrap())]).unwrap();
        assert_eq!(only.apps.len(), 1, "its file is gone, and nothing is left without it");
        assert_eq!(recall_all(&file, &[]), None);
    }
}
