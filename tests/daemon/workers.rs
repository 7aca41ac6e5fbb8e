//! Workers follow the live release: with a ledger of jobs, none of which is lost or done twice.

use std::{fs, path::Path};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{
    Kind, Plan, Stage, send,
    worker::{self, Jobs},
};

/// A stage whose app has these workers, each with more lines of its table.
fn stage(plan: Plan, workers: &[(&str, &str)]) -> Option<(Stage, Jobs)> {
    let mut stage = Stage::empty(plan)?;
    let jobs = Jobs::of(&stage);
    configure(&stage, "", workers);
    stage.start_daemon();
    Some((stage, jobs))
}

fn configure(stage: &Stage, app: &str, workers: &[(&str, &str)]) {
    let start = worker::start();
    let table = |(name, more): &(&str, &str)| format!("[app.shop.worker.{name}]\nstart = {start}\n{more}\n");
    let tables: String = workers.iter().map(table).collect();
    stage.configure(&format!("{app}\n{tables}"));
}

fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["workers"].as_array().expect("workers").iter();
    all.clone().find(|one| one["name"] == name).unwrap_or(&Value::Null)
}

/// The pids of the ones that work.
fn pids(status: &Value, name: &str) -> Vec<u64> {
    let instances = of(status, name)["instances"].as_array().cloned().unwrap_or_default();
    instances.iter().filter_map(|one| one["pid"].as_u64()).collect()
}

fn leaving(status: &Value, name: &str) -> Vec<Value> {
    of(status, name)["leaving"].as_array().cloned().unwrap_or_default()
}

/// Waits until so many of that worker work for that commit, and none leaves.
fn until_at_work(stage: &Stage, name: &str, commit: &str, number: usize) -> Value {
    stage.until(&format!("{number} of {name} work for {commit}"), |status| {
        let one = of(status, name);
        let all = one["instances"].as_array().map_or(0, Vec::len);
        one["commit"] == commit && all == number && pids(status, name).len() == number
    })
}

fn until_none_leaves(stage: &Stage) {
    stage.until("none leaves", |status| {
        let all = status["workers"].as_array().expect("workers");
        all.iter().all(|one| one["leaving"].as_array().is_some_and(Vec::is_empty))
    });
}

fn events(stage: &Stage) -> String {
    stage.done(&["events", "--since", "0"])
}

fn is_alive(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
        && !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().contains(") Z ")
}

#[test]
fn workers_follow_the_live_release_and_finish_their_jobs_while_deploys_go_on() {
    let plan = Plan { grace: "1s", deadline: "1s", ..Plan::of(Kind::Builtin) };
    let queue = "instances = 2\nquiet = \"USR1\"\nstop = { signal = \"TERM\", grace = \"50s\" }";
    let Some((stage, jobs)) = stage(plan, &[("queue", queue)]) else { return };
    configure(&stage, "keep = 1", &[("queue", queue)]);
    stage.done(&["reload"]);
    stage.until("no worker works while nothing is live", |status| {
        status["workers"][0]["instances"] == serde_json::json!([])
    });
    let one = stage.push_live("one");
    let status = until_at_work(&stage, "queue", &one, 2);
    let release = status["live"]["release"].as_str().unwrap().to_owned();
    let load = stage.load();
    load.sees("one");
    let feed = jobs.feed();
    // A release that is never healthy takes no job.
    let sick = stage.push("sick", "up = 500");
    stage.until("it failed", |status| {
        status["last"]["commit"] == sick.as_str() && status["last"]["outcome"] == "failed"
    });
    // One job is under way at the flip, and longer than the app's own grace.
    stage.close("long");
    jobs.add("long-job");
    stage.eventually("the long job is taken", |_| jobs.is_busy("long-job"));
    let two = stage.push_live("two");
    stage.until_at_rest();
    until_at_work(&stage, "queue", &two, 2);
    let fed = jobs.done().len();
    stage.eventually("the new ones take jobs", |_| jobs.done()[fed..].iter().any(|(_, rev, _)| rev == "two"));
    let status = stage.until("one leaves", |status| leaving(status, "queue").len() == 1);
    let left = &leaving(&status, "queue")[0];
    assert_eq!((&left["commit"], &left["release"]), (&one.clone().into(), &release.clone().into()));
    assert!(left["ends_by"].is_string() && is_alive(left["pid"].as_u64().unwrap()), "{status:#}");
    assert!(
        stage.bgd(&["status"]).stdout.contains("workers   queue ×2; 1 of "),
        "{}",
        stage.done(&["status"])
    );
    // Nobody waits for it, and its release stays for it although one is kept.
    for rev in ["three", "four"] {
        stage.push_live(rev);
        stage.until_at_rest();
    }
    load.sees("four");
    assert_eq!((jobs.done_by("long-job").as_str(), jobs.is_busy("long-job")), ("", true));
    let directory = stage.path("state/shop/releases").join(&release);
    assert!(directory.join("app.conf").exists());
    stage.open("long");
    stage.eventually("the long job is done", |_| jobs.done_by("long-job") == "one");
    until_none_leaves(&stage);
    stage.eventually("its release goes", |_| !directory.exists());
    feed.end(&stage, &jobs);
    load.end_without_loss();
    let done = jobs.done();
    assert!(done.iter().all(|(_, rev, there)| rev != "sick" && *there), "{done:?}");
    let said = jobs.said();
    assert!(!said.iter().any(|line| line.contains("sick")), "{said:?}");
    // Each was told to take no new work before it was told to leave.
    let left: Vec<_> = said.iter().filter(|line| line.contains(" ends")).collect();
    assert!(left.len() >= 6 && left.iter().all(|line| line.ends_with(" quiet")), "{said:?}");
    let events = events(&stage);
    for word in ["worker_started", "worker_leaving", "worker_ended"] {
        assert!(events.contains(word), "{word}: {events}");
    }
    assert!(!events.contains("worker_died") && !events.contains("worker_killed"), "{events}");
    assert_eq!(stage.status()["state"], "live");
}

#[test]
fn an_exclusive_worker_is_never_there_twice_whatever_happens() {
    let clock = "exclusive = true\nstop = { signal = \"TERM\", grace = \"30s\" }";
    let Some((mut stage, jobs)) = stage(Plan::of(Kind::Builtin), &[("clock", clock)]) else { return };
    let ticks = |stage: &Stage, rev: &str| {
        let before = jobs.ticks().len();
        stage.eventually(&format!("the clock of {rev} ticks"), |_| {
            jobs.ticks().get(before..).is_some_and(|new| new.last().is_some_and(|last| last == rev))
        });
    };
    for number in 0..4 {
        let (rev, former) = (format!("r{number}"), format!("r{}", number.max(1) - 1));
        stage.push_live(&rev);
        if number == 2 {
            stage.kill_daemon();
            stage.start_daemon();
        }
        ticks(&stage, &rev);
        if number % 2 == 1 {
            stage.done(&["flip"]);
            ticks(&stage, &former);
            stage.kill_daemon();
            // Whoever is dead or alive, the clock goes on.
            ticks(&stage, &former);
            stage.start_daemon();
            ticks(&stage, &former);
        }
    }
    // Killed from outside, it is started again.
    let pid = pids(&stage.status(), "clock")[0];
    send(u32::try_from(pid).unwrap(), Signal::SIGKILL);
    stage.until("another one works", |status| pids(status, "clock").first().is_some_and(|new| *new != pid));
    let said = jobs.said();
    assert!(!said.iter().any(|line| line.contains("is not alone")), "{said:?}");
    stage.assert_status_is_true();
}

#[test]
fn a_leaving_worker_ends_by_its_deadline_although_bgd_and_its_shim_are_killed() {
    let queue = "stop = { signal = \"TERM\", grace = \"4s\" }";
    let Some((mut stage, jobs)) = stage(Plan::of(Kind::Builtin), &[("queue", queue)]) else { return };
    let one = stage.push("one", "worker = deaf");
    stage.wait_live(&one);
    let first = pids(&until_at_work(&stage, "queue", &one, 1), "queue")[0];
    // Its shim keeps the deadline while there is no daemon.
    let two = stage.push("two", "worker = deaf");
    stage.wait_live(&two);
    let status = stage.until("one leaves", |status| leaving(status, "queue").len() == 1);
    let ends_by = leaving(&status, "queue")[0]["ends_by"].clone();
    stage.kill_daemon();
    let without = stage.status();
    assert!(leaving(&without, "queue").iter().all(|one| one["ends_by"] == ends_by), "{without:#}");
    stage.start_daemon();
    let status = stage.status();
    assert!(leaving(&status, "queue").iter().all(|one| one["ends_by"] == ends_by), "{status:#}");
    stage.eventually("it is killed", |_| !is_alive(first));
    stage.eventually("that is said", |stage| events(stage).contains("was killed"));
    // Both are killed: the next daemon keeps to the deadline.
    let second = pids(&until_at_work(&stage, "queue", &two, 1), "queue")[0];
    let three = stage.push_live("three");
    let status = stage.until("it leaves", |status| leaving(status, "queue").len() == 1);
    let ends_by = leaving(&status, "queue")[0]["ends_by"].clone();
    stage.kill_daemon();
    let stat = fs::read_to_string(format!("/proc/{second}/stat")).unwrap_or_default();
    let shim = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
    if let Some(shim) = shim.filter(|pid| stage.shims().contains(pid)) {
        send(shim, Signal::SIGKILL);
    }
    stage.start_daemon();
    let status = until_at_work(&stage, "queue", &three, 1);
    assert!(leaving(&status, "queue").iter().all(|one| one["ends_by"] == ends_by), "{status:#}");
    stage.eventually("it is killed too", |_| !is_alive(second));
    until_none_leaves(&stage);
    let begun = jobs.said().iter().filter(|line| line.contains("begins")).count();
    assert_eq!(begun, 3, "{:?}", jobs.said());
}

#[test]
fn a_worker_that_dies_takes_the_release_back_and_one_that_ends_well_is_started_again() {
    let plan = Plan { watch: "50s", ..Plan::of(Kind::Builtin) };
    let Some((stage, jobs)) = stage(plan, &[("queue", "instances = 2")]) else { return };
    let one = stage.push("one", "worker = once");
    stage.promote(&one);
    until_at_work(&stage, "queue", &one, 2);
    let two = stage.push("two", "worker = dies");
    let status = stage.until("it went back", |status| status["last"]["commit"] == two.as_str());
    assert_eq!(
        (&status["last"]["outcome"], &status["live"]["commit"]),
        (&"rolled_back".into(), &one.clone().into())
    );
    assert!(status["last"]["error"].as_str().unwrap().contains("worker queue"), "{status:#}");
    let status = until_at_work(&stage, "queue", &one, 2);
    assert!(pids(&status, "queue").iter().all(|pid| is_alive(*pid)), "{status:#}");
    // Those that end after each job are started again, and nothing is wrong.
    for number in 0..6 {
        jobs.add(&format!("job-{number}"));
    }
    stage.eventually("all are done", |_| jobs.done().len() == 6);
    assert!(jobs.done().iter().all(|(_, rev, _)| rev == "one"), "{:?}", jobs.done());
    let status = until_at_work(&stage, "queue", &one, 2);
    assert_eq!(stage.bgd(&["status"]).code, 0, "{status:#}");
    let counted: u64 = of(&status, "queue")["instances"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["restarts"].as_u64())
        .sum();
    assert!(counted >= 4, "{status:#}");
    assert!(events(&stage).contains("worker_died"), "{}", events(&stage));
    // One that dies again and again degrades the app, which serves on.
    let live = status["live"]["pid"].clone();
    let degraded = |status: &Value| status["state"] == "degraded";
    for _ in 0..6 {
        let status = stage.status();
        if degraded(&status) {
            break;
        }
        if let Some(pid) = pids(&status, "queue").first() {
            send(u32::try_from(*pid).unwrap(), Signal::SIGKILL);
            stage.until("it is gone", |status| !pids(status, "queue").contains(pid));
        }
    }
    let status = stage.until("it is degraded", degraded);
    assert!(status["trouble"].as_str().unwrap().contains("worker queue"), "{status:#}");
    assert_eq!((stage.bgd(&["status"]).code, &status["live"]["pid"]), (20, &live));
}

#[test]
fn workers_go_by_the_file_and_by_down_and_up_and_outlive_the_daemon() {
    let Some((mut stage, jobs)) = stage(Plan::of(Kind::Builtin), &[("queue", "instances = 3"), ("mail", "")])
    else {
        return;
    };
    let one = stage.push_live("one");
    until_at_work(&stage, "queue", &one, 3);
    let two = stage.push_live("two");
    stage.until_at_rest();
    let status = until_at_work(&stage, "queue", &two, 3);
    let (first, mail) = (pids(&status, "queue")[0], pids(&until_at_work(&stage, "mail", &two, 1), "mail")[0]);
    // Fewer, and one kind less: the others are not touched.
    configure(&stage, "", &[("queue", "instances = 1")]);
    stage.done(&["reload"]);
    let status = until_at_work(&stage, "queue", &two, 1);
    assert_eq!(pids(&status, "queue"), [first]);
    stage.eventually("those that are too many have left", |stage| {
        let workers =
            stage.processes().into_iter().filter(|(_, line)| line.contains("works_as_its_release_says"));
        !is_alive(mail) && workers.filter(|(_, line)| !line.contains(" shim ")).count() == 1
    });
    let environment = stage.done(&["exec", "--worker", "queue", "--", "env"]);
    assert!(
        environment.contains("BGD_WORKER=queue\n") && environment.contains("BGD_INSTANCE=1\n"),
        "{environment}"
    );
    assert!(!environment.contains("\nPORT="), "{environment}");
    assert!(stage.done(&["logs", "--worker", "queue"]).contains("queue of two begins"));
    let unknown = stage.bgd(&["logs", "--worker", "nobody"]);
    assert!(
        unknown.code == 2 && unknown.stderr.contains("shop has no worker nobody: it has queue"),
        "{unknown:?}"
    );
    // Out of service and back.
    stage.done(&["down", "shop", "--yes"]);
    stage.eventually("it has left", |_| !is_alive(first));
    assert_eq!(of(&stage.status(), "queue")["release"], Value::Null);
    stage.done(&["up"]);
    let status = until_at_work(&stage, "queue", &two, 1);
    stage.until_at_rest();
    // A daemon that was killed: what works stays, and is the next daemon's.
    let pid = pids(&status, "queue")[0];
    stage.kill_daemon();
    let status = stage.status();
    assert_eq!((pids(&status, "queue"), &of(&status, "queue")["commit"]), (vec![pid], &two.clone().into()));
    assert!(stage.done(&["logs", "--worker", "queue", "-n", "1"]).contains("of two begins"));
    stage.start_daemon();
    assert_eq!(pids(&until_at_work(&stage, "queue", &two, 1), "queue"), [pid], "it was adopted");
    jobs.add("last-job");
    stage.eventually("it works", |_| jobs.done_by("last-job") == "two");
    stage.assert_status_is_true();
}

#[test]
fn a_flip_without_the_daemon_gives_the_work_back() {
    let Some((mut stage, jobs)) =
        stage(Plan::of(Kind::Nginx), &[("queue", ""), ("clock", "exclusive = true")])
    else {
        return;
    };
    let one = stage.push_live("one");
    until_at_work(&stage, "queue", &one, 1);
    stage.until_at_rest();
    let two = stage.push_live("two");
    stage.until_at_rest();
    until_at_work(&stage, "clock", &two, 1);
    stage.kill_daemon();
    stage.done(&["flip"]);
    jobs.add("after-the-flip");
    stage.eventually("the former release works again", |_| jobs.done_by("after-the-flip") == "one");
    stage.start_daemon();
    until_at_work(&stage, "queue", &one, 1);
    until_at_work(&stage, "clock", &one, 1);
    until_none_leaves(&stage);
    let said = jobs.said();
    assert!(!said.iter().any(|line| line.contains("is not alone")), "{said:?}");
    stage.assert_status_is_true();
}
