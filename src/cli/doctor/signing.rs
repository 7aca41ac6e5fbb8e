//! Whether signatures can be checked as `[app.x.verify]` wants it: the lists of keys, who else may write them, and
//! the programs that judge.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use nix::unistd::User;

use super::{finding::Finding, host::is_installed};
use crate::{
    config::settings::{AppSettings, Verify},
    os::errors::chain,
    release::git::Trust,
};

/// Findings about the app's keys; none for an app that accepts any commit.
pub fn check(app: &AppSettings) -> Vec<Finding> {
    let Some(verify) = &app.verify else { return Vec::new() };
    let mut found = vec![lists(app, verify)];
    found.extend(verify.signers.iter().chain(&verify.keyring).filter_map(|path| writable(app, path)));
    let wanted = [("ssh-keygen", "openssh-client", &verify.signers), ("gpgv", "gpgv", &verify.keyring)];
    let wanted = wanted.into_iter().filter(|(_, _, list)| list.is_some());
    found.extend(wanted.filter_map(|(program, package, _)| missing(app, program, package)));
    found
}

fn lists(app: &AppSettings, verify: &Verify) -> Finding {
    match Trust::read(verify) {
        Ok(trust) => Finding::ok(format!("{}: signatures are checked against {}", app.name, trust.lists())),
        Err(error) => Finding::fail(
            format!("{}: {}", app.name, chain(&error)),
            error.hint().unwrap_or_else(|| "correct `verify`".to_owned()),
        ),
    }
}

/// Warns when others may write a list of keys: they could add their own.
fn writable(app: &AppSettings, path: &Path) -> Option<Finding> {
    let found = fs::metadata(path).ok()?;
    let user = app.user.as_deref().and_then(|name| User::from_name(name).ok().flatten());
    let owned = user.is_some_and(|user| user.uid.as_raw() == found.uid() && !user.uid.is_root());
    let mode = found.permissions().mode();
    let who = match (mode & 0o002, mode & 0o020) {
        (0, 0) if !owned => return None,
        (0, 0) => "the app itself",
        (0, _) => "its group",
        _ => "everybody",
    };
    Some(Finding::warn(
        format!("{}: {who} can write {}, and so decide whom bgd trusts", app.name, path.display()),
        format!("chown root: {0} && chmod go-w {0}", path.display()),
    ))
}

fn missing(app: &AppSettings, program: &str, package: &str) -> Option<Finding> {
    (!is_installed(program)).then(|| {
        Finding::fail(
            format!("{}: {program} is not installed, so no signature can be checked", app.name),
            format!("install the package {package}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::doctor::finding::Level, config::fixture, config::settings::VerifyRange};

    fn app(list: &Path) -> AppSettings {
        let (_, app) = fixture::settings(Path::new("/var/lib/bgd"));
        let verify = Verify { signers: Some(list.to_owned()), keyring: None, range: VerifyRange::Tip };
        AppSettings { verify: Some(verify), ..(*app).clone() }
    }

    #[test]
    fn a_list_that_is_missing_or_open_to_writing_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("allowed_signers");
        let app = app(&list);
        let level = || check(&app).iter().map(|found| found.level).max();
        assert_eq!(level(), Some(Level::Fail));
        fs::write(&list, "ann ssh-ed25519 AAAA\n").unwrap();
        fs::set_permissions(&list, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(lists(&app, app.verify.as_ref().unwrap()).level, Level::Ok);
        assert_eq!(writable(&app, &list), None);
        for (mode, who) in [(0o664, "its group"), (0o666, "everybody")] {
            fs::set_permissions(&list, fs::Permissions::from_mode(mode)).unwrap();
            assert!(writable(&app, &list).unwrap().what.contains(who));
        }
    }

    #[test]
    fn an_app_that_takes_any_commit_is_asked_nothing_and_a_missing_program_is_named() {
        let (_, any) = fixture::settings(Path::new("/var/lib/bgd"));
        assert_eq!(check(&any), []);
        let found = missing(&any, "no-such-program-here", "its-package").unwrap();
        assert_eq!(found.level, Level::Fail);
        assert!(found.hint.unwrap().contains("its-package"));
    }
}
