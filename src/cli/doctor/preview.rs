//! Whether previews of a canary work as `[app.x.preview]` says: the secret can be read, and is fit for one.

use super::finding::Finding;
use crate::{
    config::{SecretError, settings::AppSettings},
    os::errors::chain,
};

/// Nothing for an app without a preview. The secret itself is never shown.
pub fn check(app: &AppSettings) -> Option<Finding> {
    let preview = app.preview.as_ref()?;
    let what = match preview.secret() {
        Ok(_) => {
            let (header, cookie) = (&preview.header, &preview.cookie);
            let what =
                format!("{}: a preview is asked for by the header {header} or the cookie {cookie}", app.name);
            return Some(Finding::ok(what));
        }
        Err(error) => error,
    };
    let path = preview.secret_file.display();
    let hint = match &what {
        SecretError::Read { .. } => {
            format!("create {path}, readable for this user; until then there is no preview")
        }
        SecretError::Unfit { .. } => format!("openssl rand -hex 24 > {path}; until then there is no preview"),
    };
    Some(Finding::fail(format!("{}: {}", app.name, chain(&what)), hint))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::{
        cli::doctor::finding::Level,
        config::{fixture, settings::PreviewSettings},
    };

    #[test]
    fn l1_a_secret_that_is_missing_or_too_short_is_found_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let (_, plain) = fixture::settings(Path::new("/var/lib/bgd"));
        assert_eq!(check(&plain), None);
        let secret_file = dir.path().join("preview");
        let preview = PreviewSettings {
            header: "X-Look".to_owned(),
            cookie: "look".to_owned(),
            secret_file: secret_file.clone(),
        };
        let app = AppSettings { preview: Some(preview), ..(*plain).clone() };
        let found = check(&app).unwrap();
        assert!(found.level == Level::Fail && found.what.contains("can't read"), "{found:?}");
        fs::write(&secret_file, "hunter2\n").unwrap();
        let found = check(&app).unwrap();
        assert!(found.level == Level::Fail && found.hint.as_ref().unwrap().contains("openssl"), "{found:?}");
        assert!(!format!("{found:?}").contains("hunter2"));
        fs::write(&secret_file, "hunter2_hunter2_hunter2\n").unwrap();
        let found = check(&app).unwrap();
        assert!(found.level == Level::Ok && found.what.contains("X-Look"), "{found:?}");
        assert!(!format!("{found:?}").contains("hunter2"));
    }
}
