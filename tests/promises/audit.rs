//! What an operator was promised and a look from outside found missing: forced pushes, exits at once, the
//! environment, adopted pids, new files of apps, exit codes.

use std::fs;

use crate::{
    shop::{Kind, Plan, Stage},
    stage::ports,
};

fn stage() -> Option<Stage> {
    Stage::set(Plan::of(Kind::Builtin))
}

#[test]
fn a5_a_forced_push_is_refused_where_only_fast_forwards_are_allowed() {
    let Some(stage) = stage() else { return };
    let two = stage.push_live("two");
    // Where the branch was counts from the first push on, also for a rule that comes later.
    stage.configure("fast_forward_only = true");
    stage.done(&["reload"]);
    let force = |subject: &str| {
        stage.git(&["commit", "-q", "--amend", "-m", subject]);
        stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
        let forced = stage.git(&["rev-parse", "HEAD"]);
        let status = stage.until("the forced push is refused", |status| status["last"]["commit"] == *forced);
        assert_eq!(status["last"]["outcome"], "failed");
        assert!(status["last"]["error"].as_str().unwrap().contains("rewound"), "{status:#}");
    };
    force("Make another two");
    fs::remove_dir_all(stage.path("state/shop/mirror.git")).unwrap();
    force("Make a third two");
    assert_eq!(stage.value("live.commit"), two);
    assert!(stage.done(&["why"]).contains("rewound"));
    // The branch put right is followed again.
    stage.git(&["reset", "-q", "--hard", &two]);
    stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
    stage.push_live("three");
}

#[test]
fn d3_an_app_that_exits_at_once_always_tells_its_exit_code() {
    let Some(stage) = stage() else { return };
    for rev in ["one", "two", "three"] {
        let commit = stage.push(rev, "start = exits");
        let status = stage.until("it has failed", |status| status["last"]["commit"] == *commit);
        let error = status["last"]["error"].as_str().unwrap();
        assert!(error.starts_with("the app ended before it was healthy: exit code 3"), "{error}");
        assert!(stage.done(&["why"]).contains("marked bad"));
    }
    assert!(!stage.done(&["events"]).contains("trouble"));
}

#[test]
fn d6_a_build_sees_the_documented_environment_alone() {
    let Some(stage) = stage() else { return };
    let commit = stage.push_with("one", "", "env -0 | cut -z -d= -f1 | sort -z | tr '\\0' ' ' >names");
    stage.wait_live(&commit);
    let names = stage.done(&["exec", "--", "cat", "names"]);
    let shell = ["PWD", "OLDPWD", "SHLVL", "_", "TZ"];
    let names: Vec<_> = names.split_whitespace().filter(|name| !shell.contains(name)).collect();
    let wanted = "BGD_APP BGD_COLOR BGD_COMMIT BGD_RELEASE BGD_RELEASE_DIR BGD_SHARED_DIR HOME LANG PATH PORT \
                  SAMPLE_GATES";
    assert_eq!(names, wanted.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn k1_the_pid_is_known_after_a_reload_and_after_a_restart() {
    let Some(mut stage) = stage() else { return };
    stage.push_live("one");
    let pid = stage.until_at_rest()["live"]["pid"].clone();
    assert!(pid.is_u64());
    stage.configure("keep = 3");
    stage.done(&["reload"]);
    stage.until("the same process after the reload", |status| status["live"]["pid"] == pid);
    stage.kill_daemon();
    stage.start_daemon();
    stage.until("the same process after the restart", |status| status["live"]["pid"] == pid);
}

#[test]
fn a_first_file_of_apps_d_is_noticed() {
    let Some(stage) = stage() else { return };
    fs::create_dir(stage.path("apps.d")).unwrap();
    let (text, _ports) = ports::app_file(&stage.path("remote.git"));
    fs::write(stage.path("apps.d/blog.toml"), text).unwrap();
    stage.eventually("the new app is known", |stage| stage.bgd(&["status", "blog"]).code != 2);
    assert_eq!(stage.bgd(&["status", "blog"]).code, 3);
    assert_eq!(stage.bgd(&["flip"]).code, 2, "there are two apps now");
}

#[test]
fn m3_the_exit_code_says_whether_anything_serves() {
    let Some(stage) = stage() else { return };
    let commit = stage.push_with("one", "", "exit 7");
    stage.until("it has failed", |status| status["last"]["commit"] == *commit);
    let ran = stage.bgd(&["deploy"]);
    assert_eq!(ran.code, 3, "nothing is live: {ran:?}");
    stage.push_live("two");
    let commit = stage.push_with("three", "", "exit 7");
    stage.until("it has failed", |status| status["last"]["commit"] == *commit);
    assert_eq!(stage.bgd(&["deploy"]).code, 1);
    let ran = stage.bgd(&["up"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "the app is in service"));
}

#[test]
fn the_fetch_is_the_first_step_of_a_push() {
    let Some(stage) = stage() else { return };
    stage.push_live("one");
    assert_eq!(stage.status()["last"]["steps"][0]["name"], "fetch");
}

#[test]
fn l3_an_unknown_user_is_said_in_the_status_and_fails_the_deploy() {
    let Some(stage) = stage() else { return };
    stage.configure("user = \"no-such-user\"");
    stage.done(&["reload"]);
    let commit = stage.push("one", "");
    let status = stage.until("it has failed", |status| status["last"]["commit"] == *commit);
    assert!(status["last"]["error"].as_str().unwrap().contains("no-such-user"), "{status:#}");
    assert_eq!(stage.bgd(&["doctor"]).code, 1);
}
