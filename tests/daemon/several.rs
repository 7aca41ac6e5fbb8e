//! Three instances of each color: deployed and flipped together, each on a port of its own; one that dies is started
//! again while the others serve.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    shop::{Kind, Plan, Stage, on_each, send},
    stage::{http, load::CLIENTS},
};

const INSTANCES: u16 = 3;

fn pids(side: &Value) -> Vec<Option<u64>> {
    let each = side["instances"].as_array().expect("instances").iter();
    each.map(|one| one["pid"].as_u64()).collect()
}

fn are_well(side: &Value) -> bool {
    side["instances"].as_array().is_some_and(|all| all.iter().all(|one| one["healthy"] == true))
}

/// Each port of the live color is answered by a process of its own, all of the same revision.
fn each_serves(stage: &Stage, rev: &str) {
    let live = &stage.until("all are well", |status| are_well(&status["live"]))["live"];
    let first = stage.port(live["color"].as_str().expect("a color"));
    assert_eq!(live["port"], first);
    for (index, (one, pid)) in
        (0..).zip(live["instances"].as_array().expect("instances").iter().zip(pids(live)))
    {
        let port = first + index;
        assert_eq!(one["port"], port);
        let answer = http::get(([127, 0, 0, 1], port).into(), "/").expect("an answer");
        assert_eq!(
            (answer.head["x-rev"].as_str(), answer.head["x-pid"].parse().ok()),
            (rev, pid),
            "port {port}"
        );
    }
    assert_eq!(pids(live).len(), usize::from(INSTANCES));
    stage.eventually("nothing else is left", |stage| stage.shims().len() == usize::from(INSTANCES));
}

fn three(kind: Kind) -> Option<Stage> {
    Stage::set(Plan { instances: INSTANCES, ..Plan::of(kind) })
}

#[test]
fn three_instances_are_deployed_flipped_and_stopped_together_without_loss() {
    on_each(&[Kind::Builtin, Kind::Nginx, Kind::Haproxy], |kind| {
        let Some(mut stage) = three(kind) else { return };
        stage.push_live("one");
        each_serves(&stage, "one");
        let load = stage.load();
        load.sees("one");
        stage.push_live("two");
        load.sees("two");
        stage.until_at_rest();
        each_serves(&stage, "two");
        // One of three that does not come up fails the deploy, and nothing of it is left.
        let failed = stage.push("three", "start = second_exits");
        let status =
            stage.until("the deploy has failed", |status| status["last"]["commit"] == failed.as_str());
        assert_eq!(status["last"]["outcome"], "failed");
        let error = status["last"]["error"].as_str().expect("an error");
        assert!(error.starts_with("instance 2 of 3: ") && error.contains("exit code 3"), "{error}");
        let hint = status["last"]["hint"].as_str().expect("a hint");
        assert!(hint.contains("--instance 2"), "{hint}");
        stage.until_at_rest();
        each_serves(&stage, "two");
        // Another daemon adopts all of them, and the way back starts all of the former.
        let before = pids(&stage.status()["live"]);
        stage.kill_daemon();
        stage.start_daemon();
        stage.until("the same ones after a restart", |status| pids(&status["live"]) == before);
        stage.done(&["flip"]);
        load.sees("one");
        stage.until_at_rest();
        each_serves(&stage, "one");
        load.end_without_loss();
        let lines = stage.done(&["logs", "-n", "3"]);
        for instance in 1..=INSTANCES {
            assert!(lines.contains(&format!("[{instance}] rev one listens")), "{lines}");
        }
        stage.done(&["down", "--yes"]);
        stage.eventually("all are gone", |stage| stage.shims().is_empty());
    });
}

#[test]
fn g1_a_release_whose_second_instance_keeps_dying_is_replaced_and_its_others_finish_what_they_work_on() {
    let plan = Plan { instances: INSTANCES, drain: "60s", ..Plan::of(Kind::Builtin) };
    let Some(stage) = Stage::set(plan) else { return };
    let commit = stage.push("one", "start = second_dies_when_told");
    stage.wait_live(&commit);
    stage.until_at_rest();
    stage.close("die-one");
    stage.until("it waits for its next start", |status| {
        let restarted = stage.done(&["events", "--since", "0"]).matches("died (instance 2 of 3").count();
        status["state"] == "degraded" && pids(&status["live"])[1].is_none() && restarted > 2
    });
    let held = stage.hold_a_request();
    stage.push("two", "");
    stage.until("the next one is live", |status| {
        status["live"]["subject"] == "Make two" && status["idle"]["state"] == "draining"
    });
    stage.open("held");
    held.join().expect("it was answered");
    stage.until_at_rest();
    each_serves(&stage, "two");
}

#[test]
fn another_number_of_instances_takes_effect_with_the_next_deploy_and_what_runs_is_kept_and_ended_whole() {
    let Some(mut stage) = three(Kind::Builtin) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    each_serves(&stage, "one");
    stage.set_instances(2);
    let load = stage.load();
    load.sees("one");
    // The third of them is no instance of the new configuration, and is looked after all the same.
    let before = pids(&stage.until("still three", |status| pids(&status["live"]).len() == 3)["live"]);
    send(u32::try_from(before[2].expect("a pid")).expect("a pid"), Signal::SIGKILL);
    stage.until("it is started again", |status| {
        let now = pids(&status["live"]);
        now[..2] == before[..2] && now[2].is_some() && now[2] != before[2] && are_well(&status["live"])
    });
    assert!(load.end().lost.len() <= CLIENTS);
    stage.push_live("two");
    stage.until_at_rest();
    let live = stage.until("all are well", |status| are_well(&status["live"]))["live"].clone();
    assert_eq!(pids(&live).len(), 2);
    stage.eventually("all three are gone", |stage| stage.shims().len() == 2);
    assert_eq!(stage.served(), "two");
}

#[test]
fn h1_one_of_three_that_is_killed_is_started_again_while_the_others_serve() {
    on_each(&[Kind::Builtin, Kind::Nginx, Kind::Haproxy], |kind| {
        let Some(stage) = three(kind) else { return };
        let commit = stage.push("one", "start = waits");
        stage.wait_live(&commit);
        stage.until_at_rest();
        each_serves(&stage, "one");
        let before = pids(&stage.status()["live"]);
        let load = stage.load();
        load.sees("one");
        stage.close("boot");
        send(u32::try_from(before[1].expect("a pid")).expect("a pid"), Signal::SIGKILL);
        let status = stage.until("it is started again and not up", |status| {
            let now = pids(&status["live"]);
            status["state"] == "degraded" && now[1].is_some() && now[1] != before[1]
        });
        assert_eq!((pids(&status["live"])[0], pids(&status["live"])[2]), (before[0], before[2]));
        let said = stage.bgd(&["status"]).stdout;
        assert!(said.contains("2 of 3 instances are healthy"), "{said}");
        let lost = load.counts().lost.len();
        load.sees("one");
        load.sees("one");
        stage.open("boot");
        stage.until("it is back", |status| status["state"] == "live" && are_well(&status["live"]));
        each_serves(&stage, "one");
        // What the dead one was working on, and nothing that came after.
        let counts = load.end();
        assert!(lost <= CLIENTS && counts.lost.len() <= CLIENTS, "{:#?}", counts.lost);
        let events = stage.done(&["events", "--since", "0"]);
        assert!(events.contains("died (instance 2 of 3"), "{events}");
        assert!(events.contains("instance 2 of 3 runs again"), "{events}");
    });
}

#[test]
fn h1_one_of_three_that_hangs_is_passed_over_and_started_again_while_the_others_serve() {
    on_each(&[Kind::Builtin, Kind::Nginx], |kind| {
        let Some(stage) = three(kind) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        each_serves(&stage, "one");
        let before = pids(&stage.status()["live"]);
        let hung = before[1].expect("a pid");
        send(u32::try_from(hung).expect("a pid"), Signal::SIGSTOP);
        stage.until("it is known to hang", |status| status["live"]["instances"][1]["healthy"] == false);
        if kind == Kind::Builtin {
            // Nobody is sent to it who would have to wait.
            for _ in 0..30 {
                let answer = http::get(stage.public(), "/").expect("an answer");
                assert_ne!(answer.head["x-pid"], hung.to_string());
            }
        }
        let status = stage.until("it is started again", |status| {
            let now = pids(&status["live"]);
            let hangs = now[1] == before[1];
            assert!(!hangs || status["live"]["instances"][1]["healthy"] == false, "{status:#}");
            now[1].is_some() && !hangs && status["state"] == "live" && are_well(&status["live"])
        });
        let now = pids(&status["live"]);
        assert_eq!((now[0], now[2]), (before[0], before[2]), "and no other");
        each_serves(&stage, "one");
        let events = stage.done(&["events", "--since", "0"]);
        assert!(events.contains("ended by bgd, for it hung: no answer within 2s"), "{events}");
        // It is sent to again.
        stage.eventually("the new one serves", |stage| {
            let answer = http::get(stage.public(), "/").expect("an answer");
            answer.head["x-pid"].parse().ok() == now[1]
        });
    });
}
