//! A full disk: the apps serve, a flip works, one deploy fails, and the next push after space is freed deploys.

use crate::{
    host::SmallDisk,
    stage::{Kind, Plan, Stage},
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
