//! A full disk: the apps serve, a flip works, one deploy fails, and the next push after space is freed deploys.

use crate::{
    shop::host::SmallDisk,
    shop::{Kind, Plan, Stage},
};

#[test]
fn j1_i6_a_full_disk_fails_that_deploy_only_and_a_flip_works_on_it() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        stage.end_daemon();
        let _ = std::fs::remove_dir_all(stage.path("state"));
        let Some(disk) = SmallDisk::mount(stage.path("state"), "100m") else { return };
        stage.start_daemon();
        stage.push_live("one");
        stage.push_live("two");
        let three = stage.push_live("three");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("three");
        disk.fill();
        let four = stage.push("four", "");
        let seen =
            |status: &serde_json::Value| status["last"]["commit"] == four || status["state"] == "degraded";
        let status = stage.until("the deploy has failed", seen);
        assert_eq!(status["live"]["commit"], three, "{kind:?}: {status:#}");
        disk.fill();
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        let now = stage.served();
        assert!(now == "two" || now == "three", "{kind:?}: {now}: {ran:?}");
        if now == "three" {
            // It called the deploy off; the next one goes back.
            let ran = stage.bgd(&["flip"]);
            assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        }
        assert_eq!(stage.served(), "two", "{kind:?}");
        // Once more, with no byte left for sure.
        disk.fill();
        stage.until("the old color is stopped", |status| status["idle"]["state"] == "stopped");
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        assert_eq!(stage.served(), "three", "{kind:?}");
        disk.free();
        let five = stage.push_live("five");
        assert_eq!(stage.until_at_rest()["live"]["commit"], five);
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn i6_a_flip_works_on_a_full_disk_without_a_daemon() {
    for kind in [Kind::Builtin, Kind::Nginx] {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { continue };
        stage.end_daemon();
        let _ = std::fs::remove_dir_all(stage.path("state"));
        let Some(disk) = SmallDisk::mount(stage.path("state"), "100m") else { return };
        stage.start_daemon();
        stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        let _ = std::fs::remove_file(stage.path("state/reserve"));
        disk.fill();
        // Ended in order or not: the record's own files differ then.
        if kind == Kind::Builtin {
            stage.kill_daemon()
        } else {
            stage.end_daemon()
        }
        disk.fill();
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?}: {ran:?}");
        assert_eq!(stage.served(), "one", "{kind:?}: {ran:?}");
        disk.free();
        stage.start_daemon();
        stage.push_live("three");
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn j1_without_inodes_that_deploy_alone_fails_and_the_next_push_deploys() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.end_daemon();
    let _ = std::fs::remove_dir_all(stage.path("state"));
    let Some(_disk) = SmallDisk::mount(stage.path("state"), "200m,nr_inodes=4000") else { return };
    stage.start_daemon();
    stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("two");
    let ballast = stage.path("state/ballast");
    std::fs::create_dir(&ballast).unwrap();
    let made = (0..4_000).take_while(|n| std::fs::File::create(ballast.join(n.to_string())).is_ok()).count();
    assert!(made < 4_000, "there was an end to the inodes");
    let three = stage.push("three", "");
    let seen =
        |status: &serde_json::Value| status["last"]["commit"] == three || status["state"] == "degraded";
    let status = stage.until("the deploy has failed", seen);
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    assert_eq!(stage.bgd(&["flip"]).code, 0);
    stage.eventually("what serves is one of the two", |stage| {
        ["one", "two"].contains(&stage.served().as_str())
    });
    std::fs::remove_dir_all(&ballast).unwrap();
    let four = stage.push_live("four");
    assert_eq!(stage.until_at_rest()["live"]["commit"], four);
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn j1_a_daemon_started_on_a_full_disk_serves_on_and_deploys_when_there_is_room() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.end_daemon();
    let _ = std::fs::remove_dir_all(stage.path("state"));
    let Some(disk) = SmallDisk::mount(stage.path("state"), "100m") else { return };
    stage.start_daemon();
    let one = stage.push_live("one");
    stage.until_at_rest();
    let load = stage.load();
    load.sees("one");
    stage.kill_daemon();
    disk.fill();
    stage.start_daemon();
    let status = stage.until("it says what serves", |status| status["live"]["commit"] == one);
    assert_eq!(stage.served(), "one", "{status:#}");
    load.sees("one");
    disk.free();
    stage.push_live("two");
    load.end_without_loss();
    stage.assert_no_leftover();
}
