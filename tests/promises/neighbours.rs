//! Two apps in one daemon, one behind nginx and one on the builtin front: the trouble of one stays its own.

use std::fs;

use serde_json::Value;

use crate::{
    shop::app,
    shop::host::SmallDisk,
    shop::{Kind, Plan, Stage},
    stage::http,
    stage::ports::{self, Port},
};

/// The other app, `zoo`: its releases come from the branch of that name.
struct Zoo {
    ports: [Port; 3],
}

impl Zoo {
    fn beside(stage: &Stage) -> Self {
        let zoo = Self { ports: [ports::reserve(), ports::reserve(), ports::reserve()] };
        let [blue, green, public] = [0, 1, 2].map(|at| zoo.ports[at].number);
        let start = serde_json::to_string(&app::command()).unwrap();
        let text = format!(
            "remote = \"{remote}\"\nbranch = \"zoo\"\npoll = \"1s\"\nports = [{blue}, {green}]\n\
             build = \"sh build.sh\"\nstart = [\"sh\", \"-c\", \"sh storm.sh; exec \\\"$@\\\"\", \"sh\", {start}\n\
             env = {{ {gates} = \"{dir}/gates\" }}\ndrain = \"1s\"\nstop = {{ signal = \"TERM\", grace = \"1s\" }}\n\
             [health]\npath = \"/up\"\ninterval = \"50ms\"\ndeadline = \"20s\"\n[watch]\nfor = \"200ms\"\n\
             [front]\nlisten = \"127.0.0.1:{public}\"\n",
            remote = stage.path("remote.git").display(),
            start = &start[1..],
            gates = app::GATES,
            dir = stage.path("gates").parent().unwrap().display(),
        );
        fs::create_dir(stage.path("apps.d")).unwrap();
        fs::write(stage.path("apps.d/zoo.toml"), text).unwrap();
        stage.done(&["reload"]);
        zoo
    }

    fn push(stage: &Stage, rev: &str, (conf, build, storm): (&str, &str, &str)) -> String {
        let write = |name: &str, text: String| fs::write(stage.path("work").join(name), text).unwrap();
        write("app.conf", format!("rev = {rev}\n{conf}\n"));
        write("build.sh", format!("{build}\n"));
        write("storm.sh", format!("{storm}\n"));
        stage.git(&["add", "-A"]);
        stage.git(&["commit", "-q", "-m", &format!("Make {rev}")]);
        stage.git(&["push", "-q", "-f", "origin", "HEAD:zoo"]);
        stage.git(&["rev-parse", "HEAD"])
    }

    fn served(&self) -> String {
        let answer = http::get(([127, 0, 0, 1], self.ports[2].number).into(), "/");
        answer.ok().and_then(|answer| answer.head.get("x-rev").cloned()).unwrap_or_default()
    }
}

fn status_of(stage: &Stage, app: &str) -> Value {
    let ran = stage.bgd(&["status", app, "--json"]);
    let whole: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|err| panic!("{err}: {ran:?}"));
    whole["apps"][0].clone()
}

/// A push to the well-behaved app goes live as ever.
fn shop_deploys(stage: &Stage, rev: &str) {
    let commit = stage.push(rev, "");
    let wait = format!("rev={commit}");
    let ran = stage.bgd(&["wait", "shop", "--for", &wait, "--timeout", "60s"]);
    assert_eq!(ran.code, 0, "{rev}: {ran:?}");
    assert_eq!(stage.served(), rev);
}

#[test]
fn n7_an_app_taken_out_of_the_files_is_shown_and_can_be_ended_also_after_a_restart() {
    let Some(mut stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }) else { return };
    stage.push_live("shop-one");
    let zoo = Zoo::beside(&stage);
    Zoo::push(&stage, "zoo-one", ("", "true", "true"));
    stage.eventually("the other app serves", |_| zoo.served() == "zoo-one");
    stage.eventually("it rests", |stage| status_of(stage, "zoo")["deploy"].is_null());
    fs::remove_file(stage.path("apps.d/zoo.toml")).unwrap();
    stage.done(&["reload"]);
    stage.end_daemon();
    stage.start_daemon();
    assert_eq!(zoo.served(), "zoo-one", "nobody asked for its end");
    let whole: Value = serde_json::from_str(&stage.done(&["status", "--json"])).unwrap();
    let others = whole["unconfigured"].as_array().unwrap();
    assert_eq!((others.len(), &others[0]["name"]), (1, &"zoo".into()), "{whole:#}");
    assert_eq!(others[0]["port"], zoo.ports[usize::from(others[0]["color"] == "green")].number, "{whole:#}");
    assert!(others[0]["pid"].is_u64() && others[0]["since"].is_string(), "{whole:#}");
    assert!(stage.done(&["status"]).contains("`bgd down zoo --yes` ends it"));
    assert!(stage.bgd(&["doctor"]).stdout.contains("zoo: runs on"));
    stage.done(&["down", "zoo", "--yes"]);
    assert!(http::connect(([127, 0, 0, 1], zoo.ports[2].number).into()).is_err(), "its front is gone");
    let whole: Value = serde_json::from_str(&stage.done(&["status", "--json"])).unwrap();
    assert_eq!(whole["unconfigured"], serde_json::json!([]), "{whole:#}");
    assert_eq!(stage.bgd(&["down", "nobody", "--yes"]).code, 2);
    assert_eq!(stage.served(), "shop-one");
    stage.assert_no_leftover();
}

#[test]
fn k7_one_apps_trouble_stays_its_own() {
    let Some(stage) = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Nginx) }) else { return };
    stage.push_live("shop-one");
    let zoo = Zoo::beside(&stage);
    Zoo::push(&stage, "zoo-one", ("", "true", "true"));
    stage.eventually("the other app serves", |_| zoo.served() == "zoo-one");
    let load = stage.load();
    load.sees("shop-one");

    // Builds that fail one after the other, and one that floods its log.
    for number in 0..4 {
        Zoo::push(&stage, &format!("unbuildable-{number}"), ("", "exit 4", "true"));
    }
    Zoo::push(&stage, "flood", ("", "yes | head -c 60000000; exit 4", "true"));
    stage.eventually("it builds", |stage| status_of(stage, "zoo")["deploy"]["phase"] == "building");
    shop_deploys(&stage, "shop-two");
    stage.eventually("the builds have failed", |stage| {
        let status = status_of(stage, "zoo");
        status["deploy"].is_null() && status["last"]["outcome"] == "failed"
    });
    assert_eq!(zoo.served(), "zoo-one");

    // Forks, tens of them, in sessions of their own.
    let storm = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do setsid sleep 300 & done";
    let stormy = Zoo::push(&stage, "stormy", ("", "true", storm));
    shop_deploys(&stage, "shop-three");
    stage.eventually("it is live all the same", |stage| {
        let status = status_of(stage, "zoo");
        status["live"]["commit"] == stormy && status["deploy"].is_null()
    });

    // A live instance that dies again and again.
    let dying = Zoo::push(&stage, "dying", ("start = dies_when_told", "true", "true"));
    stage.eventually("the next one is live", |stage| {
        let status = status_of(stage, "zoo");
        status["live"]["commit"] == dying && status["deploy"].is_null()
    });
    stage.close("die-dying");
    stage.eventually("it crashes in a loop", |stage| {
        let events = stage.done(&["events", "zoo", "--since", "0"]);
        events.lines().filter(|line| line.contains("exit code 9")).count() >= 3
    });
    shop_deploys(&stage, "shop-four");
    stage.done(&["flip", "shop"]);
    assert_eq!(stage.served(), "shop-three");
    load.end_without_loss();
    stage.open("die-dying");

    stage.done(&["down", "zoo", "--yes"]);
    fs::remove_file(stage.path("apps.d/zoo.toml")).unwrap();
    stage.done(&["reload"]);
    let left = |stage: &Stage| stage.pids("sleep 300").len();
    stage.eventually("nothing of the storm is left", |stage| left(stage) == 0);
    assert_eq!(stage.served(), "shop-three");
}

#[test]
fn j1_n1_a_disk_that_one_app_fills_has_room_again_for_its_next_push_and_for_a_neighbour() {
    let mut stage = Stage::set(Plan { watch: "200ms", ..Plan::of(Kind::Builtin) }).unwrap();
    stage.end_daemon();
    let _ = fs::remove_dir_all(stage.path("state"));
    let Some(_disk) = SmallDisk::mount(stage.path("state"), "240m") else { return };
    stage.start_daemon();
    stage.push_live("one");
    let zoo = Zoo::beside(&stage);
    Zoo::push(&stage, "zoo-one", ("", "true", "true"));
    stage.eventually("the other app serves", |_| zoo.served() == "zoo-one");
    // Fills all of it: the tree goes by itself, the log stays.
    let full = stage.push_with("full", "", "echo much to write; head -c 900M /dev/zero > much");
    let why = failed(&stage, &full);
    assert!(why.contains("the build failed") && why.contains("is full"), "{why}");
    assert!(stage.done(&["logs", "shop", "--build"]).contains("much to write"));
    shop_deploys(&stage, "two");
    // Fails for another reason, and what it leaves is as much as a neighbour wants to build.
    let heavy = stage.push_with("heavy", "", "head -c 120M /dev/zero > much; exit 3");
    assert!(failed(&stage, &heavy).contains("exit code 3"));
    Zoo::push(&stage, "zoo-two", ("", "head -c 120M /dev/zero > much", "true"));
    stage
        .eventually("the neighbour is deployed on what the failure had taken", |_| zoo.served() == "zoo-two");
    assert_eq!(stage.served(), "two");
    assert!(stage.done(&["logs", "shop", "--build"]).contains("exit code 3"), "its log stays");
}

/// Why the deploy of a commit failed.
fn failed(stage: &Stage, commit: &str) -> String {
    let mut why = String::new();
    stage.eventually("the deploy has failed", |stage| {
        let last = status_of(stage, "shop")["last"].clone();
        why = last["error"].as_str().unwrap_or_default().to_owned();
        last["commit"] == commit && last["outcome"] == "failed"
    });
    why
}
