//! Tasks and hooks of a deploy: each at its moment, once, with a limit, a step and a log of its own; across `kill -9` of
//! the daemon and what a power cut leaves.

use std::{fs, thread, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{Kind, Plan, Stage, app, send};

/// Each writes its name, its moment and its port into a file of the stage.
fn task(name: &str, when: &str, more: &str) -> String {
    format!(
        "[[app.shop.task]]\nname = \"{name}\"\nrun = \"sh task.sh {{color}}\"\nwhen = \"{when}\"\n{more}\n"
    )
}

/// A stage with these tasks, whose script does this.
fn stage_with(plan: Plan, tasks: &[String], script: &str) -> Option<Stage> {
    let stage = Stage::set(plan)?;
    write_script(&stage, script);
    stage.amend("[app.shop.front]", &format!("{}\n[app.shop.front]", tasks.concat()));
    stage.done(&["reload"]);
    Some(stage)
}

fn write_script(stage: &Stage, script: &str) {
    let ran = stage.path("ran").display().to_string();
    let line = "$BGD_TASK $BGD_EVENT $1 $BGD_COLOR ${PORT:+port} $BGD_COMMIT";
    fs::write(stage.path("work/task.sh"), format!("echo \"{line}\" >>{ran}\n{script}\n")).expect("task.sh");
}

/// What ran for a commit, as `task moment`.
fn ran_of(stage: &Stage, commit: &str) -> Vec<String> {
    let text = fs::read_to_string(stage.path("ran")).unwrap_or_default();
    let own = text.lines().filter(|line| line.ends_with(commit));
    own.map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn last_id(status: &Value) -> String {
    status["last"]["id"].to_string()
}

fn shown(stage: &Stage, id: &str) -> Value {
    serde_json::from_str(&stage.done(&["show", id, "--json"])).expect("JSON")
}

fn run_of<'a>(shown: &'a Value, name: &str) -> &'a Value {
    let all = shown["tasks"].as_array().expect("a list");
    all.iter().find(|task| task["name"] == name).unwrap_or_else(|| panic!("no {name} in {shown:#}"))
}

const ALL: [&str; 5] = ["after_build", "before_start", "before_switch", "after_live", "after_watch"];

#[test]
fn each_task_runs_once_at_its_moment_and_a_way_back_runs_none() {
    let mut tasks: Vec<String> = ALL.iter().rev().map(|when| task(&format!("at-{when}"), when, "")).collect();
    tasks.push(task("second", "before_start", "again = false"));
    let plan = Plan { hook: true, ..Plan::of(Kind::Builtin) };
    let Some(stage) = stage_with(plan, &tasks, "echo said by $BGD_TASK; sleep 0.05") else { return };
    let one = stage.push_live("one");
    let until_all = |commit: &str, count: usize| {
        stage.eventually("all tasks ran", |stage| ran_of(stage, commit).len() >= count);
        stage.until("no task is under way", |status| {
            status["tasks"]
                .as_array()
                .is_some_and(|all| all.iter().all(|task| task["last"]["commit"] == commit))
        })
    };
    let status = until_all(&one, 6);
    let wanted = ["at-after_build after_build", "at-before_start before_start", "second before_start"];
    let wanted = [&wanted[..], &["at-before_switch before_switch", "at-after_live after_live"]].concat();
    let ran = ran_of(&stage, &one);
    assert_eq!(ran[..5], wanted, "{ran:?}");
    assert_eq!(ran[5], "at-after_watch after_watch");
    let text = fs::read_to_string(stage.path("ran")).unwrap();
    assert!(text.lines().all(|line| line.contains(" blue blue port ")), "{text}");

    // The record, for people and for scripts.
    let id = last_id(&status);
    let detail = shown(&stage, &id);
    let names: Vec<&str> =
        detail["tasks"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names[1], "before_start", "the hook comes before the tasks of its moment: {names:?}");
    let first = run_of(&detail, "at-before_start");
    assert_eq!((&first["outcome"], &first["exit"], &first["try"]), (&"done".into(), &0.into(), &1.into()));
    assert!(first["ms"].as_u64().unwrap() >= 50 && first["host"].is_null(), "{first}");
    assert!(first["tail"].to_string().contains("said by at-before_start"), "{first}");
    let steps: Vec<&str> = detail["deploy"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    for step in ["task:second", "hook:before_start", "start", "task:at-after_watch"] {
        assert!(steps.contains(&step), "{step} in {steps:?}");
    }
    let hook = stage.done(&["logs", "--task", "before_start", "--deploy", &id]);
    assert_eq!(hook.lines().last(), Some("hook of one"), "{hook}");
    assert!(stage.done(&["logs", "--task", "second"]).contains("said by second"));
    let last = &status["tasks"][5]["last"];
    assert_eq!(
        (&status["tasks"][5]["name"], &last["by"]),
        (&"second".into(), &"poller".into()),
        "{status:#}"
    );
    let events = stage.done(&["events", "--since", "0"]);
    assert!(events.contains("task_started") && events.contains("task_ended"), "{events}");

    // The same commit again: all but the one that is not to; then another one, and ways back.
    stage.done(&["deploy"]);
    stage.eventually("all but one ran again", |stage| ran_of(stage, &one).len() == 11);
    let two = stage.push_live("two");
    until_all(&two, 6);
    let before = fs::read_to_string(stage.path("ran")).unwrap();
    stage.done(&["flip"]);
    stage.until_at_rest();
    stage.done(&["down", "--yes"]);
    stage.done(&["up"]);
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    assert_eq!(fs::read_to_string(stage.path("ran")).unwrap(), before, "neither flip nor up runs a task");
    stage.assert_no_leftover();
}

#[test]
fn a_task_that_fails_or_hangs_ends_its_deploy_and_says_its_own_words_only() {
    let tasks = [task("migrate", "before_start", "timeout = \"2s\""), task("smoke", "before_switch", "")];
    let Some(stage) = stage_with(Plan::of(Kind::Builtin), &tasks, "echo fine $BGD_TASK") else { return };
    let one = stage.push_live("one");
    let pid = stage.value("live.pid");
    let load = stage.load();
    load.sees("one");
    let failed = |script: &str| {
        write_script(&stage, script);
        let commit = stage.push(&format!("broken {}", script.len()), "");
        let status = stage.until("it failed", |status| status["last"]["commit"] == commit);
        assert_eq!(
            (&status["last"]["outcome"], &status["live"]["commit"]),
            (&"failed".into(), &one.clone().into())
        );
        (commit, status)
    };
    let (commit, status) = failed("[ $BGD_TASK = migrate ] || exit 0; echo no such table; exit 7");
    assert_eq!(ran_of(&stage, &commit), ["migrate before_start"], "nothing of it was started");
    assert_eq!(status["last"]["phase"], "starting");
    assert!(
        status["last"]["error"].as_str().unwrap().contains("task migrate failed: exit code 7"),
        "{status:#}"
    );
    let detail = shown(&stage, &last_id(&status));
    assert_eq!(
        detail["log_tail"].as_array().unwrap().last().unwrap().as_str().map(|it| it.contains("exit code 7")),
        Some(true)
    );
    assert!(detail["log_tail"].to_string().contains("no such table"), "{detail:#}");
    assert!(!detail["log_tail"].to_string().contains("fine"), "{detail:#}");
    assert_eq!(
        (&run_of(&detail, "migrate")["outcome"], &run_of(&detail, "migrate")["exit"]),
        (&"failed".into(), &7.into())
    );

    let (_, status) = failed("[ $BGD_TASK = migrate ] || exit 0; trap '' TERM; sleep 300 & sleep 300");
    let error = status["last"]["error"].as_str().unwrap();
    assert!(error.contains("task migrate was still running after 2s and was ended"), "{error}");
    assert_eq!(run_of(&shown(&stage, &last_id(&status)), "migrate")["outcome"], "timed_out");

    let (_, status) = failed(
        "[ $BGD_TASK = smoke ] || exit 0; yes | head -c 3000000; head -c 100000 /dev/zero | tr '\\\\0' x; exit 1",
    );
    assert_eq!(status["last"]["phase"], "probing");
    let detail = shown(&stage, &last_id(&status));
    assert!(run_of(&detail, "smoke")["tail"].to_string().len() < 30_000);
    assert_eq!(stage.value("live.pid"), pid, "what serves was left alone");
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn a_task_runs_once_whenever_the_daemon_is_killed() {
    let tasks = [task("migrate", "before_start", ""), task("purge", "after_live", "")];
    let script = format!("{}echo end $BGD_COMMIT >>{{ended}}", app::wait_at("task"));
    let Some(mut stage) = stage_with(Plan::of(Kind::Builtin), &tasks, "true") else { return };
    let ended = stage.path("ended").display().to_string();
    write_script(&stage, &script.replace("{ended}", &ended));
    stage.push_live("zero");
    let times = |stage: &Stage, commit: &str| {
        let text = fs::read_to_string(stage.path("ended")).unwrap_or_default();
        (ran_of(stage, commit), text.lines().filter(|line| line.ends_with(commit)).count())
    };
    for at in 0..8u64 {
        stage.close("task");
        let commit = stage.push(&format!("rev{at}"), "");
        if at < 4 {
            stage.until("it runs", |status| status["deploy"]["task"] == "migrate");
            stage.eventually("it has begun", |stage| at == 0 || ran_of(stage, &commit).len() == 1);
        } else {
            // Anywhere between push and end.
            stage.open("task");
            thread::sleep(Duration::from_millis(40 * (at - 3)));
        }
        if at == 3 {
            stage.open("task");
        }
        stage.kill_daemon();
        if at < 3 {
            stage.open("task");
        }
        if at == 2 {
            stage.eventually("it ended while nobody looked", |stage| times(stage, &commit).1 == 1);
        }
        stage.start_daemon();
        stage.wait_live(&commit);
        stage.eventually("both ran", |stage| times(stage, &commit).1 == 2);
        stage.until_at_rest();
        let (ran, ends) = times(&stage, &commit);
        assert_eq!(
            (ran, ends),
            (vec!["migrate before_start".to_owned(), "purge after_live".to_owned()], 2),
            "{at}"
        );
    }
    stage.assert_no_leftover();
}

#[test]
fn a_task_that_a_power_cut_ended_is_repeated_only_if_it_may_be() {
    for repeat in ["unsafe", "safe"] {
        let tasks = [task("migrate", "before_start", &format!("repeat = \"{repeat}\""))];
        let Some(mut stage) = stage_with(Plan::of(Kind::Builtin), &tasks, "true") else { return };
        let one = stage.push_live("one");
        stage.close("task");
        write_script(&stage, &app::wait_at("task"));
        let two = stage.push("two", "");
        stage.eventually("it has begun", |stage| ran_of(stage, &two).len() == 1);
        lose_power(&mut stage);
        stage.open("task");
        stage.start_daemon();
        if repeat == "safe" {
            stage.wait_live(&two);
            assert_eq!(ran_of(&stage, &two).len(), 2);
            let id = last_id(&stage.until_at_rest());
            assert_eq!(run_of(&shown(&stage, &id), "migrate")["try"], 2);
        } else {
            let status = stage.until("it failed", |status| status["last"]["commit"] == two);
            assert_eq!(
                (&status["last"]["outcome"], &status["live"]["commit"]),
                (&"failed".into(), &one.into())
            );
            assert!(
                status["last"]["error"].as_str().unwrap().contains("task migrate was cut off"),
                "{status:#}"
            );
            assert_eq!(run_of(&shown(&stage, &last_id(&status)), "migrate")["outcome"], "unknown");
            assert_eq!(ran_of(&stage, &two).len(), 1, "it was not run again");
        }
        stage.assert_no_leftover();
    }
}

/// What a power cut leaves of a task: no process, and no record of the shim that was not flushed.
fn lose_power(stage: &mut Stage) {
    stage.kill_daemon();
    let of_task = |line: &str| line.contains(" shim shop migrate") || line.contains("task.sh");
    let victims = stage.processes().into_iter().filter(|(_, line)| of_task(line));
    let victims: Vec<u32> = victims.map(|(pid, _)| pid).collect();
    for pid in &victims {
        send(*pid, Signal::SIGKILL);
    }
    stage.eventually("its processes are gone", |stage| {
        stage.processes().iter().all(|(pid, _)| !victims.contains(pid))
    });
    for entry in fs::read_dir(stage.path("state/shop/run")).expect("the records").flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("\"task\"") {
            fs::remove_file(entry.path()).expect("lose the record");
        }
    }
}
