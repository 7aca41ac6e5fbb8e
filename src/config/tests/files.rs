//! Reading real files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::with;
use crate::config::{concerns, load, sources};

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_main_file_and_apps_d_are_read_and_what_editors_leave_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let main = write(dir.path(), "bgd.toml", with("health.path = \"/\""));
    let blog = "remote = \"blog.git\"\nstart = \"x\"\nports = [1, 2]\nfront.listen = \"127.0.0.1:81\"\nhealth.path = \"/\"";
    let blog = write(dir.path(), "apps.d/blog.toml", blog);
    write(dir.path(), "blog.git/HEAD", "ref: refs/heads/main");
    write(dir.path(), "apps.d/.blog.toml", "garbage = =");
    write(dir.path(), "apps.d/blog.toml~", "garbage = =");
    write(dir.path(), "apps.d/README", "garbage = =");
    let loaded = load(&main).unwrap();
    assert_eq!(loaded.settings.files, [main, blog]);
    assert_eq!(loaded.warnings, []);
    let remote = &loaded.settings.apps.values().next().unwrap().remote;
    assert_eq!(Path::new(remote), dir.path().join("blog.git"));
}

#[test]
fn files_that_cannot_be_read_are_problems_beside_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let absent = load(&dir.path().join("bgd.toml")).unwrap_err().0;
    assert!(absent.len() == 1 && absent[0].what.contains("can't be read"), "{absent:#?}");
    let main = write(dir.path(), "bgd.toml", with("keep = 0"));
    write(dir.path(), "apps.d/latin.toml", b"# one\nremote = \"\xe4\"");
    fs::create_dir(dir.path().join("apps.d/dir.toml")).unwrap();
    let problems = load(&main).unwrap_err().0;
    let found: Vec<_> = problems.iter().map(|p| (p.line, p.what.as_str())).collect();
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.contains(&(Some(2), "is not UTF-8")), "{found:#?}");
    assert!(found.contains(&(Some(4), "must be 1 or more: 0")), "{found:#?}");
    let directory = load(dir.path()).unwrap_err().0;
    assert!(directory[0].what.contains("is not a configuration"), "{directory:#?}");
}

#[test]
fn l1_secrets_open_to_others_and_files_that_are_missing_are_warned_about_without_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, mode| {
        let path = write(dir.path(), name, "KEY=x");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    open("token", 0o644);
    open("env", 0o640);
    open("preview", 0o604);
    let text = with("auth.token_file = \"token\"\nenv_file = \"env\"\nhealth.path = \"/\"");
    let main = write(dir.path(), "bgd.toml", text.replace("\"env\"", "\"gone\""));
    let shown: Vec<String> = load(&main).unwrap().warnings.iter().map(|w| w.what.clone()).collect();
    assert_eq!(shown.len(), 2, "{shown:#?}");
    assert!(shown[0].starts_with("is open to others: mode 644"), "{shown:#?}");
    assert_eq!(shown[1], "there is no such file");
    open("token", 0o640);
    fs::write(&main, text).unwrap();
    assert_eq!(load(&main).unwrap().warnings, []);
    let preview = with("health.path = \"/\"\ncanary.steps = [\"0%\"]\npreview.secret_file = \"preview\"");
    fs::write(&main, preview).unwrap();
    let shown = load(&main).unwrap().warnings;
    assert!(shown.len() == 1 && shown[0].what.starts_with("is open to others: mode 604"), "{shown:#?}");
}

#[test]
fn n8_a_file_of_variables_is_read_by_check_and_no_value_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let said = |variables: &str| {
        let path = write(dir.path(), "env", variables);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let main = write(dir.path(), "bgd.toml", with("env_file = \"env\"\nhealth.path = \"/\""));
        load(&main).unwrap().warnings.iter().map(|w| w.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said("export A='1'\nB=\"two words\"\nTOKEN=pa$$word\n"), Vec::<String>::new());
    let wrong = said("A=1\nhunter2: x\n");
    assert!(
        wrong.len() == 1 && wrong[0].starts_with("line 2: no `=`") && !wrong[0].contains("hunter2"),
        "{wrong:?}"
    );
    let shell = said("PATH=/opt/hunter2:$PATH\n");
    assert_eq!(shell, ["PATH in it has $PATH, and values are given as they are"]);
}

#[test]
fn changes_are_watched_by_directory_and_only_those_of_the_configuration_matter() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let real = write(&dir, "real/bgd.toml", "");
    let file = dir.join("bgd.toml");
    std::os::unix::fs::symlink(&real, &file).unwrap();
    assert_eq!(sources(&file), [dir.clone(), dir.join("real")]);
    write(&dir, "apps.d/a.toml", "");
    assert_eq!(sources(&file), [dir.clone(), dir.join("apps.d"), dir.join("real")]);
    for changed in ["bgd.toml", "real/bgd.toml", "apps.d", "apps.d/a.toml", "apps.d/new.toml"] {
        assert!(concerns(&file, &dir.join(changed)), "{changed}");
    }
    for changed in ["other.toml", "apps.d/.a.toml.swp", "apps.d/x/a.toml", "bgd.toml~", "real/a.toml"] {
        assert!(!concerns(&file, &dir.join(changed)), "{changed}");
    }
}

#[test]
fn a_path_without_a_repository_and_a_file_of_auth_that_is_of_no_use_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("plain")).unwrap();
    write(dir.path(), "bundle", "# v2 git bundle\n");
    write(dir.path(), "work/.git/HEAD", "ref: refs/heads/main");
    let warnings = |remote: &str, auth: &str| {
        let text = format!("[app.shop]\nremote = \"{remote}\"\nstart = \"x\"\nhealth.path = \"/\"\n{auth}");
        let loaded = load(&write(dir.path(), "bgd.toml", text)).unwrap();
        loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (remote, what) in [
        ("git.example.com/acme/shop", "a URL begins with https://"),
        ("gone.git", "there is no git repository"),
        ("plain", "there is no git repository"),
        ("bundle", "is a file, not a git repository"),
        ("git@h:2222/acme/shop.git", "write ssh://git@h:2222/acme/shop.git"),
    ] {
        let found = warnings(remote, "");
        assert!(found.len() == 1 && found[0].contains(what) && found[0].contains("remote"), "{found:#?}");
    }
    assert_eq!(warnings("work", ""), Vec::<String>::new());
    let key = write(dir.path(), "key.pub", "ssh-ed25519 AAAA me\n");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let token = write(dir.path(), "token", "");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    write(dir.path(), "ca.der", b"\x30\x82");
    for (remote, auth, what) in [
        ("git@h:x", "auth.ssh_key = \"key.pub\"", "is a public key"),
        ("https://h/x", "auth.token_file = \"token\"", "is empty"),
        ("https://h/x", "auth.ca_file = \"ca.der\"", "holds no certificate"),
    ] {
        let found = warnings(remote, auth);
        assert!(found.len() == 1 && found[0].contains(what) && found[0].contains("auth"), "{found:#?}");
    }
}
