//! `static = { dir, fallback }`: a site of files, which the front serves by itself. No process runs for such an app, so the
//! keys of instances are refused.

use std::path::PathBuf;

use super::{app::RawApp, front::FrontSettings};
use crate::config::{
    judge::Judge,
    read::{Given, Written},
    span::Span,
};

table! {
    /// `[app.NAME.static]`.
    RawStatic { dir: String, fallback: String }
}

/// The site of an app without instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticSite {
    /// The directory that is served, relative to the release; empty for the whole release.
    pub dir: PathBuf,
    /// The page for paths that lead to no file, relative to `dir`; `None`: such paths are answered with 404.
    pub fallback: Option<PathBuf>,
}

impl Judge<'_> {
    /// Checks `static`, and notes keys that an app without instances can't have.
    pub(super) fn static_site(&mut self, raw: &RawApp) -> Option<StaticSite> {
        let written = raw.site.value()?;
        self.refuse_keys_of_instances(raw);
        let Given::Value(dir) = &written.value.dir else {
            if matches!(written.value.dir, Given::Absent) {
                let hint = "the directory of the release that is served, such as \"dist\"";
                self.notes.error(&written.value.at.absent("dir"), "is required", hint);
            }
            return Some(StaticSite { dir: PathBuf::new(), fallback: None });
        };
        let fallback = written.value.fallback.value().and_then(|fallback| self.release_file(fallback));
        Some(StaticSite { dir: self.site_dir(dir).unwrap_or_default(), fallback })
    }

    /// A directory of the release; `.` is the whole release.
    fn site_dir(&mut self, written: &Written<String>) -> Option<PathBuf> {
        if matches!(written.value.as_str(), "." | "./") {
            return Some(PathBuf::new());
        }
        self.release_dir(written)
    }

    fn refuse_keys_of_instances(&mut self, raw: &RawApp) {
        let keys = [
            raw.start.span(),
            raw.protocol.span(),
            raw.listen.span(),
            raw.ports.span(),
            raw.instances.span(),
            raw.stop.span(),
            raw.warmup.span(),
            raw.preview.span(),
            raw.memory_check.span(),
        ];
        let backup = raw.watch.value().and_then(|watch| watch.value.backup.span());
        let hint = "leave it out: no process runs for a static site; or take `static` out";
        self.refuse(keys.into_iter().chain([backup]), "has no effect with `static`", hint);
        for at in [raw.health.span(), raw.drain.span(), raw.standby.span()].into_iter().flatten() {
            let hint = "leave it out: bgd checks that the front can read the files";
            self.notes.warn(at, "has no effect with `static`", hint);
        }
    }

    /// Notes what the front can't do with files: HAProxy serves none, and only the builtin front a static site.
    pub(super) fn files_are_served(
        &mut self,
        (site, assets): (Option<&Span>, Option<&Span>),
        front: Option<&FrontSettings>,
    ) {
        let Some(front) = front else { return };
        for (at, refusal) in [(site, front.no_site()), (assets, front.no_files())] {
            if let (Some(at), Some((what, hint))) = (at, refusal) {
                self.notes.error(at, what, hint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("static = { dir = \"dist\" }", "3 app.shop.start", "has no effect with `static`"),
        ("assets = { dir = \"/x\" }", "4 app.shop.assets.dir", "is absolute"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    fn site(keys: &str) -> String {
        format!("[app.site]\nremote = \"/r\"\n{keys}\n")
    }

    #[test]
    fn a_static_site_needs_no_start_and_takes_no_ports() {
        let blog = "[app.blog]\nremote = \"/b\"\nstart = \"b\"\nfront.listen = \"127.0.0.1:8081\"\n";
        let text = site("static = { dir = \"./dist/\", fallback = \"index.html\" }") + blog;
        let loaded = load(&text).unwrap();
        let app = &loaded.settings.apps[&"site".parse().unwrap()];
        let whole = app.site.clone().unwrap();
        assert_eq!((whole.dir.as_path(), app.instances), (Path::new("dist"), 0));
        assert_eq!(whole.fallback.as_deref(), Some(Path::new("index.html")));
        assert_eq!(app.addresses().all(crate::rules::ids::Color::Blue).count(), 0);
        assert!(!warnings(&site("static.dir = \"dist\"")).iter().any(|said| said.contains("health")));
        let root = load(&site("static.dir = \".\"")).unwrap();
        assert_eq!(root.settings.apps[&"site".parse().unwrap()].site.clone().unwrap().dir, Path::new(""));
    }

    #[test]
    fn what_a_static_site_can_not_have_is_refused() {
        let refused = |keys: &str| errors(&site(&format!("static.dir = \"dist\"\n{keys}")));
        for (keys, key) in [
            ("start = \"x\"", "start"),
            ("ports = [1, 2]", "ports"),
            ("listen = \"unix\"", "listen"),
            ("instances = 2", "instances"),
            ("stop.signal = \"TERM\"", "stop"),
            ("warmup.paths = [\"/\"]", "warmup"),
        ] {
            let found = refused(keys);
            let said = format!("app.site.{key}: has no effect with `static`");
            assert!(found.iter().any(|found| found.ends_with(&said)), "{keys}: {found:?}");
        }
        let haproxy = "front.type = \"haproxy\"";
        assert!(refused(haproxy)[0].contains("app.site.static: needs a front that serves files"));
        assert!(
            errors(&with(&format!("assets = {{ dir = \"a\" }}\n{haproxy}")))[0].contains("app.shop.assets")
        );
        assert!(refused("front.type = \"nginx\"")[0].contains("app.site.static: needs the builtin front"));
        assert!(load(&with("assets.dir = \"a\"\nfront.type = \"nginx\"")).is_ok());
        assert!(load(&site("static.dir = \"dist\"\ncanary.steps = [\"5%:1m\"]")).is_ok());
        let backup = refused("watch.backup = true\nwatch.for = \"1m\"");
        assert!(backup[0].contains("app.site.watch.backup: has no effect with `static`"), "{backup:?}");
        assert!(errors(&site("static = {}"))[0].contains("app.site.static.dir: is required"));
        assert!(errors(&site("static.dir = \"../x\""))[0].contains("leaves the release"));
        let warned = warnings(&site("static.dir = \"dist\"\nhealth.path = \"/up\""));
        assert!(warned[0].contains("app.site.health: has no effect with `static`"), "{warned:?}");
    }
}
