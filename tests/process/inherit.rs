//! What a command inherits from bgd, asked of the kernel in the command itself: `/proc/self/status` under real
//! shims, as root and as an ordinary user.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, process::Command};

use super::*;

/// The lines of a status that are about rights.
const ASK: &str = "grep -E '^(Cap|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status";

/// `Name: value` lines of a status.
fn status(text: &str) -> BTreeMap<&str, &str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name, value.trim())).collect()
}

fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

fn may_empty_bounding_set() -> bool {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let effective = u64::from_str_radix(status(&own)["CapEff"], 16).unwrap();
    effective & (1 << 8) != 0
}

fn open_to_all(house: &House) {
    fs::set_permissions(house.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Shims whose bgd is started through a script: what it does to itself is what bgd has to give.
fn shims_through(house: &House, script: &str) -> Shims {
    let wrapper = house.path("wrapper");
    program(&wrapper, &format!("#!/bin/sh\n{script} {} \"$@\"\n", env!("CARGO_BIN_EXE_bgd")));
    Shims::new(wrapper, &house.path("state"), &house.path("run"))
}

#[tokio::test]
async fn l3_a_command_with_a_user_has_no_capability_and_no_way_to_one() {
    if !is_root() {
        return;
    }
    let house = House::new();
    open_to_all(&house);
    let log = house.run(&Spec { user: Some("nobody".into()), ..house.build(ASK) }).await.1;
    let has = status(&log);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if set == "CapBnd" && !may_empty_bounding_set() {
            println!("not asked: this root may not empty the bounding set (no CAP_SETPCAP)");
            continue;
        }
        assert_eq!(has[set], "0000000000000000", "{set}\n{log}");
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let all = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join("\t");
    assert_eq!(has["Uid"], all(nobody.uid.as_raw()));
    assert_eq!(has["Gid"], all(nobody.gid.as_raw()));
    assert_eq!(has["Groups"], nobody.gid.to_string());
    assert_eq!(has["NoNewPrivs"], "1");
}

#[tokio::test]
async fn l3_a_command_without_a_user_keeps_who_it_is_and_can_gain_nothing() {
    let house = House::new();
    let log = house.run(&house.spec(ASK)).await.1;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let (has, own) = (status(&log), status(&own));
    assert_eq!(has["NoNewPrivs"], "1");
    assert_eq!((has["Uid"], has["Groups"]), (own["Uid"], own["Groups"]));
    assert_eq!((has["CapInh"], has["CapAmb"]), ("0000000000000000", "0000000000000000"));
    if nix::unistd::Uid::effective().is_root() {
        // An app that is run as root may do what root may, as it would from a shell.
        assert_eq!((has["CapPrm"], has["CapBnd"]), (own["CapPrm"], own["CapBnd"]));
    } else {
        assert_eq!(has["CapPrm"], "0000000000000000");
    }
}

#[tokio::test]
async fn l3_a_capability_given_to_an_ordinary_bgd_is_not_given_to_its_apps() {
    if !is_root() {
        return;
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        println!("skipped: no setpriv");
        return;
    }
    let house = House::new();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    for name in ["", "state", "state/shop", "state/shop/run", "run", "run/s", "logs"] {
        fs::create_dir_all(house.path(name)).unwrap();
        nix::unistd::chown(&house.path(name), Some(nobody.uid), Some(nobody.gid)).unwrap();
    }
    // As `User=` and `AmbientCapabilities=` of a unit do it, so that bgd's own front may use port 80.
    let give = format!(
        "exec setpriv --reuid {} --regid {} --clear-groups --inh-caps +net_bind_service \
         --ambient-caps +net_bind_service",
        nobody.uid, nobody.gid
    );
    let shims = shims_through(&house, &give);
    let script = format!("{ASK}; grep CapPrm /proc/$PPID/status >&2");
    let handle = soon(shims.start(&house.build(&script))).await.unwrap();
    soon(handle.ended()).await;
    let log = house.log();
    assert!(log.ends_with("CapPrm:\t0000000000000400\n"), "the shim was given one: {log}");
    let has = status(log.rsplit_once("CapPrm").unwrap().0);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(has[set], "0000000000000000", "{set}\n{log}");
    }
}

#[tokio::test]
async fn l3_a_setuid_program_gives_nothing_unless_new_privileges_are_allowed() {
    if !is_root() {
        return;
    }
    let house = House::new();
    open_to_all(&house);
    copy_of_program(Path::new("/usr/bin/id"), &house.path("id"), "4755");
    let spec =
        Spec { user: Some("nobody".into()), ..house.build("$D/id -u; grep NoNewPrivs /proc/self/status") };
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(house.run(&spec).await.1, format!("{}\nNoNewPrivs:\t1\n", nobody.uid));
    if status(&fs::read_to_string("/proc/self/status").unwrap())["NoNewPrivs"] != "0" {
        println!("not tried: these tests themselves may gain nothing any more");
        return;
    }
    let allowed = Spec { new_privileges: NewPrivileges::Allowed, ..spec };
    fs::remove_file(house.path("logs/app.log")).unwrap();
    let log = house.run(&allowed).await.1;
    assert!(log.ends_with("NoNewPrivs:\t0\n"), "{log}");
    let nosuid = nix::sys::statvfs::statvfs(house.dir.path()).unwrap();
    if nosuid.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID) {
        println!("not tried: the directory for temporary files takes no setuid programs");
    } else {
        assert!(log.starts_with("0\n"), "{log}");
    }
}

#[tokio::test]
async fn c1_a_protected_bgd_does_not_protect_its_apps_from_the_oom_killer() {
    if !is_root() {
        return;
    }
    let protect = "echo -500 >/proc/self/oom_score_adj";
    if !Command::new("sh").args(["-c", protect]).status().unwrap().success() {
        println!("skipped: this root may not protect a process (no CAP_SYS_RESOURCE)");
        return;
    }
    let house = House::new();
    let shims = shims_through(&house, &format!("{protect} && exec"));
    let script = "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj";
    let handle = soon(shims.start(&house.build(script))).await.unwrap();
    soon(handle.ended()).await;
    assert_eq!(house.log(), "0\n-500\n", "the command's and the shim's");
}

#[tokio::test]
async fn a_readier_bgd_stays_ready_to_be_killed_for_memory() {
    let house = House::new();
    let shims = shims_through(&house, "echo 700 >/proc/self/oom_score_adj && exec");
    let spec = Spec { priority: Priority::Background, ..house.build("cat /proc/self/oom_score_adj; umask") };
    let handle = soon(shims.start(&spec)).await.unwrap();
    assert_eq!(soon(handle.ended()).await, code(0));
    assert_eq!(house.log(), "700\n0022\n");
}
