//! The files of `systemd/`, judged by systemd's own tools, which need no running systemd. Skipped, with the reason,
//! where they are not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Tenths of systemd's exposure level; 96 is a unit without any hardening. What keeps it from falling further is
/// written down at the top of the unit: the apps live in it.
const EXPOSURE: &str = "60";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn text_of(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap()
}

/// The tool's output, or `None` with a printed reason where it is missing.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).stdin(Stdio::null()).env("SYSTEMD_PAGER", "").output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: {program}: {error}");
            None
        }
    }
}

fn assert_done(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
}

/// The unit with the binary under test in place of the installed one, which `verify` wants to find.
fn unit_here() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bgd.service");
    let text =
        text_of("bgd.service").replace("=/usr/local/bin/bgd ", concat!("=", env!("CARGO_BIN_EXE_bgd"), " "));
    fs::write(&path, text).unwrap();
    (dir, path.to_str().unwrap().to_owned())
}

/// The values of a key of the unit, in their order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let (_dir, unit) = unit_here();
    // Without --man=no the page would have to be installed.
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", "--recursive-errors=no", &unit]) else {
        return;
    };
    assert_done(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("bgd.service"), "a warning is an error here: {said}");
}

#[test]
fn systemd_finds_the_unit_hardened() {
    let (_dir, unit) = unit_here();
    let threshold = format!("--threshold={EXPOSURE}");
    let arguments = ["security", "--no-pager", "--offline=true", &threshold, &unit];
    if let Some(output) = run("systemd-analyze", &arguments) {
        assert_done(&output);
    }
}

#[test]
fn k1_a_restart_of_the_unit_leaves_apps_and_their_sockets_alone() {
    let unit = text_of("bgd.service");
    for (key, value) in [
        ("KillMode", "process"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("OOMPolicy", "continue"),
        ("Restart", "always"),
        ("Type", "notify"),
        ("StartLimitIntervalSec", "0"),
        ("AssertPathExists", "/etc/bgd/bgd.toml"),
    ] {
        assert_eq!(values(&unit, key), [value], "{key}");
    }
    assert_eq!(values(&unit, "WatchdogSec").len(), 1);
}

#[test]
fn what_bgd_needs_to_give_rights_up_is_not_taken_from_it() {
    let unit = text_of("bgd.service");
    let dropped = values(&unit, "CapabilityBoundingSet");
    assert!(dropped.iter().all(|list| list.starts_with('~')), "{dropped:?}");
    let dropped = dropped.join(" ").replace('~', "");
    // Changing user and emptying the bounding set, owning releases, ending apps, who holds a port, OOM scores.
    let needed =
        "SETUID SETGID SETPCAP CHOWN FOWNER DAC_OVERRIDE KILL SYS_PTRACE SYS_RESOURCE NET_BIND_SERVICE";
    for name in needed.split(' ') {
        assert!(!dropped.split_whitespace().any(|one| one == format!("CAP_{name}")), "{name}");
    }
}

#[test]
fn apps_that_compile_while_they_run_are_not_forbidden_to() {
    let unit = text_of("bgd.service");
    for key in ["MemoryDenyWriteExecute", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID", "PrivateDevices"] {
        assert!(values(&unit, key).is_empty(), "{key} would reach every app");
    }
    // A list of refusals ages well, a list of permissions breaks the next runtime.
    assert!(values(&unit, "SystemCallFilter").iter().all(|filter| filter.starts_with('~')));
}

#[test]
fn the_group_and_the_directories_can_be_made() {
    let root = tempfile::tempdir().unwrap();
    let at = format!("--root={}", root.path().display());
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.path().join("etc/group"), "root:x:0:\n").unwrap();
    let Some(output) = run("systemd-sysusers", &[&at, shipped("bgd.sysusers").to_str().unwrap()]) else {
        return;
    };
    assert_done(&output);
    let groups = fs::read_to_string(root.path().join("etc/group")).unwrap();
    assert!(groups.lines().any(|line| line.starts_with("bgd:")), "{groups}");

    let tmpfiles = shipped("bgd.tmpfiles");
    let arguments = [&at, "--create", tmpfiles.to_str().unwrap()];
    let Some(output) = run("systemd-tmpfiles", &arguments) else { return };
    if nix::unistd::geteuid().is_root() {
        assert_done(&output);
        for dir in ["etc/bgd/apps.d", "var/lib/bgd", "run/bgd"] {
            assert!(root.path().join(dir).is_dir(), "{dir}");
        }
    } else {
        eprintln!("skipped: only root may give directories to a group");
    }
}

/// As on a bare Debian 12, where `/etc/sysusers.d` is missing: each line of the unit's head that copies a file.
#[test]
fn the_lines_that_install_the_unit_make_the_directories_that_are_missing() {
    let root = tempfile::tempdir().unwrap();
    let at = |dir: &str| root.path().join(dir).display().to_string();
    fs::create_dir_all(at("usr/local/bin")).unwrap();
    let unit = text_of("bgd.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("#   install "));
    let mut installed = 0;
    for line in lines {
        let copy = line.split(" && ").next().unwrap();
        let copy = copy
            .replace("target/release/bgd", env!("CARGO_BIN_EXE_bgd"))
            .replace(" /etc/", &format!(" {}/", at("etc")))
            .replace(" /usr/", &format!(" {}/", at("usr")));
        let mut install = Command::new("install");
        let output =
            install.args(copy.split_whitespace()).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{copy}: {output:?}");
        installed += 1;
    }
    assert_eq!(installed, 4);
    for file in ["usr/local/bin/bgd", "etc/sysusers.d/bgd.conf", "etc/tmpfiles.d/bgd.conf"] {
        assert!(root.path().join(file).is_file(), "{file}");
    }
    assert!(root.path().join("etc/systemd/system/bgd.service").is_file());
}

#[test]
fn the_unit_starts_the_command_that_exists() {
    let unit = text_of("bgd.service");
    for key in ["ExecStart", "ExecReload"] {
        let [line] = values(&unit, key)[..] else { panic!("one {key}") };
        let mut words = line.split_whitespace();
        assert_eq!(words.next(), Some("/usr/local/bin/bgd"), "{key}");
        let output = Command::new(env!("CARGO_BIN_EXE_bgd")).args(words).arg("--help").output().unwrap();
        assert!(output.status.success(), "{line} --help");
    }
}
