//! The record lost, damaged or from the future, and the runtime directory wiped, while the apps run.

use std::{fs, path::Path};

use crate::shop::{Kind, Plan, Stage};

const BOTH: [Kind; 2] = [Kind::Builtin, Kind::Nginx];

enum Harm {
    Deleted,
    Garbage,
    Newer,
}

#[test]
fn k6_a_lost_damaged_or_newer_record_is_rebuilt_from_what_runs() {
    for kind in BOTH {
        for harm in [Harm::Deleted, Harm::Garbage, Harm::Newer] {
            let Some(mut stage) = Stage::set(Plan { standby: "5m", ..Plan::of(kind) }) else { return };
            stage.push_live("one");
            let two = stage.push_live("two");
            let before = stage.until_at_rest();
            let load = stage.load();
            load.sees("two");
            stage.kill_daemon();
            let db = stage.path("state/bgd.db");
            match harm {
                Harm::Deleted => {
                    for name in ["bgd.db", "bgd.db-wal", "bgd.db-shm"] {
                        let _ = fs::remove_file(stage.path("state").join(name));
                    }
                }
                Harm::Garbage => fs::write(&db, vec![0x5a; 9000]).unwrap(),
                Harm::Newer => newer(&db),
            }
            stage.start_daemon();
            let status = stage.until("two is live", |status| status["live"]["commit"] == two);
            assert_eq!(status["live"]["pid"], before["live"]["pid"], "{status:#}");
            assert_eq!(status["live"]["color"], before["live"]["color"], "{status:#}");
            load.sees("two");
            let three = stage.push_live("three");
            assert_eq!(stage.until_at_rest()["live"]["commit"], three);
            load.end_without_loss();
            stage.assert_no_leftover();
        }
    }
}

/// A schema that this bgd does not know.
fn newer(db: &std::path::Path) {
    let done = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version=99'); c.commit()"])
        .arg(db)
        .status()
        .unwrap();
    assert!(done.success());
}

#[test]
fn k6_a_flip_without_a_daemon_works_with_the_record_lost() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan { standby: "5m", ..Plan::of(kind) }) else { return };
        stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        stage.kill_daemon();
        fs::write(stage.path("state/bgd.db"), vec![0x5a; 9000]).unwrap();
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{kind:?} {ran:?}");
        assert_eq!(stage.served(), "one");
        load.end_without_loss();
        stage.assert_status_is_true();
    }
}

#[test]
fn k1_a_record_deleted_under_a_running_daemon_costs_nothing() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        for name in ["bgd.db", "bgd.db-wal", "bgd.db-shm"] {
            let _ = fs::remove_file(stage.path("state").join(name));
        }
        let three = stage.push("three", "");
        stage.until("three is live", |status| status["live"]["commit"] == three);
        stage.until_at_rest();
        stage.end_daemon();
        stage.start_daemon();
        assert_eq!(stage.until_at_rest()["live"]["commit"], three);
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}

#[test]
fn n12_a_hold_placed_after_the_record_was_deleted_outlives_a_killed_daemon() {
    for harm in [&["bgd.db", "bgd.db-wal", "bgd.db-shm"][..], &["bgd.db-wal"]] {
        let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
        let one = stage.push_live("one");
        stage.until_at_rest();
        for name in harm {
            fs::remove_file(stage.path("state").join(name)).unwrap();
        }
        stage.done(&["hold", "-m", "freeze"]);
        stage.kill_daemon();
        stage.start_daemon();
        let status = stage.until_at_rest();
        assert_eq!(
            (status["hold"]["reason"].as_str(), &status["live"]["commit"]),
            (Some("freeze"), &one.into())
        );
        assert!(stage.done(&["events"]).contains("written anew"), "{status:#}");
        assert!(stage.done(&["history"]).contains("Make one"), "what was before is there too");
        // Deleted while nothing is written.
        fs::remove_file(stage.path("state/bgd.db")).unwrap();
        stage.eventually("the record is back", |stage| stage.path("state/bgd.db").exists());
        stage.assert_no_leftover();
    }
}

/// In one go: emptied file by file, it would be filled again meanwhile.
fn wipe(directory: &Path) {
    let gone = directory.with_extension("gone");
    fs::rename(directory, &gone).unwrap();
    fs::remove_dir_all(gone).unwrap();
}

#[test]
fn k1_a_wiped_runtime_directory_costs_nothing() {
    for kind in BOTH {
        let Some(mut stage) = Stage::set(Plan { standby: "0s", ..Plan::of(kind) }) else { return };
        stage.push_live("one");
        stage.push_live("two");
        let before = stage.until_at_rest();
        let load = stage.load();
        load.sees("two");
        wipe(&stage.path("run"));
        stage.eventually("the daemon answers again", |stage| stage.bgd(&["status"]).code == 0);
        if kind == Kind::Builtin {
            // Without it a drain would not be waited for.
            stage.eventually("the front can be asked again", |stage| stage.path("run/f/shop.sock").exists());
        }
        assert_eq!(stage.status()["live"]["pid"], before["live"]["pid"]);
        let three = stage.push_live("three");
        stage.until_at_rest();
        assert_eq!(stage.value("live.commit"), three);
        wipe(&stage.path("run"));
        let ran = stage.bgd(&["flip"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(stage.served(), "two");
        stage.until_at_rest();
        wipe(&stage.path("run"));
        stage.kill_daemon();
        stage.start_daemon();
        stage.until_at_rest();
        stage.push_live("four");
        stage.until_at_rest();
        load.end_without_loss();
        stage.assert_no_leftover();
    }
}
