//! A HAProxy that others use too: restarted, reloaded, stopped, changed by hand and configured wrongly, with the
//! daemon there and away.

use serde_json::Value;

use crate::shop::{Kind, Plan, Stage};

fn two_live(plan: Plan) -> Option<(Stage, String, String)> {
    let stage = Stage::set(plan)?;
    let one = stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    Some((stage, one, two))
}

fn error(status: &Value) -> &str {
    status["last"]["error"].as_str().unwrap_or_default()
}

/// The states of blue and green as HAProxy tells them: `UP`, `MAINT`, `DRAIN`, …
fn states(stage: &Stage) -> [String; 2] {
    let stat = stage.ask_haproxy("show stat shop 4 -1");
    ["blue", "green"].map(|server| {
        let line = stat.lines().find(|line| line.starts_with(&format!("shop,{server},"))).unwrap_or_default();
        line.split(',').nth(17).unwrap_or_default().to_owned()
    })
}

#[test]
fn f6_a_restart_of_haproxy_is_told_again_what_is_live_with_a_warm_color_beside_it() {
    let plan = Plan { standby: "10m", ..Plan::of(Kind::Haproxy) };
    let Some((mut stage, one, two)) = two_live(plan) else { return };
    assert_eq!(stage.status()["idle"]["state"], "warm");
    let left = states(&stage);
    for _ in 0..2 {
        stage.kill_haproxy();
        stage.until("it is said", |status| status["state"] == "degraded");
        stage.run_haproxy();
        stage.eventually("it is as it was", |stage| states(stage) == left);
        let status = stage.until("all is well", |status| status["state"] == "live");
        assert_eq!(status["live"]["commit"], two, "{status:#}");
        assert!(status["hold"].is_null(), "{status:#}");
    }
    let load = stage.load();
    load.sees("two");
    stage.done(&["flip"]);
    load.sees("one");
    load.end_without_loss();
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    stage.assert_no_leftover();
}

#[test]
fn a_restart_of_haproxy_in_the_middle_of_a_deploy_sends_nobody_to_what_is_not_proven() {
    let Some((mut stage, _one, two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    stage.close("up-three");
    let three = stage.push("three", "");
    stage.until_phase(&three, "probing");
    let left = states(&stage);
    stage.kill_haproxy();
    stage.run_haproxy();
    stage.eventually("it is as it was", |stage| states(stage) == left);
    assert_eq!(stage.status()["live"]["commit"], two);
    stage.eventually("it serves", |stage| stage.served() == "two");
    stage.open("up-three");
    stage.wait_live(&three);
    stage.eventually("it serves", |stage| stage.served() == "three");
    stage.until_at_rest();
    stage.assert_no_leftover();
}

#[test]
fn f3_what_haproxy_was_switched_to_while_bgd_was_away_is_adopted() {
    let plan = Plan { standby: "10m", ..Plan::of(Kind::Haproxy) };
    let Some((mut stage, one, _two)) = two_live(plan) else { return };
    let idle = stage.value("idle.color");
    let live = stage.value("live.color");
    stage.kill_daemon();
    assert_eq!(
        stage
            .ask_haproxy(&format!("set server shop/{idle} state ready; set server shop/{live} state maint"))
            .trim(),
        ""
    );
    assert_eq!(stage.served(), "one");
    stage.start_daemon();
    let status = stage.until("it is adopted", |status| status["live"]["commit"] == one);
    assert!(!status["hold"].is_null(), "a hand's switch is kept: {status:#}");
    assert_eq!(stage.served(), "one");
    assert_eq!(stage.value("live.color"), idle);
}

#[test]
fn f6_a_restart_of_haproxy_while_bgd_was_away_is_no_switch_by_a_hand() {
    let plan = Plan { standby: "10m", ..Plan::of(Kind::Haproxy) };
    let Some((mut stage, _one, two)) = two_live(plan) else { return };
    let left = states(&stage);
    stage.kill_daemon();
    stage.kill_haproxy();
    stage.run_haproxy();
    assert!(["one", "two"].contains(&stage.served().as_str()), "its own configuration speaks");
    stage.start_daemon();
    stage.eventually("it is as it was", |stage| states(stage) == left);
    let status = stage.until("it serves", |status| status["state"] == "live");
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    assert!(status["hold"].is_null(), "{status:#}");
}

#[test]
fn f6_a_haproxy_that_starts_after_bgd_is_told_what_is_live_and_before_the_first_deploy_that_nothing_is() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Haproxy)) else { return };
    let nobody = ["MAINT".to_owned(), "MAINT".to_owned()];
    stage.eventually("nothing is live", |stage| states(stage) == nobody);
    stage.push_live("one");
    let two = stage.push_live("two");
    stage.until_at_rest();
    let left = states(&stage);
    stage.kill_daemon();
    stage.kill_haproxy();
    stage.spawn_daemon();
    stage.eventually("it is said", |stage| stage.bgd(&["status"]).stdout.contains("haproxy does not answer"));
    stage.run_haproxy();
    stage.eventually("it is as it was", |stage| states(stage) == left);
    let status = stage.until("it serves", |status| status["state"] == "live");
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    stage.assert_no_leftover();
}

#[test]
fn f3_a_hand_that_changes_the_servers_is_said_and_overruled_only_where_nothing_runs() {
    let Some((stage, _one, two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    let (live, idle) = (stage.value("live.color"), stage.value("idle.color"));
    stage.ask_haproxy(&format!("set server shop/{idle} state drain"));
    stage.eventually("it is said", |stage| {
        let said = stage.bgd(&["status"]).stdout;
        said.contains("changed by hand") && said.contains(&format!("{idle} is draining"))
    });
    stage.ask_haproxy(&format!("set server shop/{idle} state maint"));
    stage.until("it is over", |status| status["state"] == "live");

    let left = states(&stage);
    stage.ask_haproxy(&format!("set server shop/{idle} state ready; set server shop/{live} state maint"));
    stage.eventually("it is as it was", |stage| states(stage) == left);
    let status = stage.until("it serves", |status| status["state"] == "live");
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    stage.assert_no_leftover();
}

#[test]
fn a_port_that_is_not_the_apps_fails_a_deploy_before_its_build_and_names_both() {
    let Some((mut stage, _one, two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    let text = std::fs::read_to_string(stage.path("haproxy.cfg")).unwrap();
    let (green, wrong) = (stage.port("green"), 1);
    let broken = text.replace(&format!("127.0.0.1:{green}"), &format!("127.0.0.1:{wrong}"));
    std::fs::write(stage.path("haproxy.cfg"), broken).unwrap();
    stage.kill_haproxy();
    stage.run_haproxy();
    let expected = format!("server shop/green is 127.0.0.1:{wrong}, but green listens on port {green}");
    stage.eventually("it is said", |stage| stage.bgd(&["status"]).stdout.contains(&expected));
    stage.close("build");
    let three = stage.push("three", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == three);
    assert!(error(&status).contains(&expected), "{status:#}");
    assert!(status["last"]["hint"].as_str().is_some_and(|hint| hint.contains("`ports`")), "{status:#}");
    stage.open("build");
    let doctor = stage.bgd(&["doctor"]);
    assert!(doctor.stdout.contains(&expected) && doctor.code != 0, "{doctor:?}");

    std::fs::write(stage.path("haproxy.cfg"), text).unwrap();
    stage.kill_haproxy();
    stage.run_haproxy();
    let status = stage.until("all is well", |status| status["state"] == "live");
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    let doctor = stage.bgd(&["doctor"]).stdout;
    assert!(doctor.contains("haproxy can be told, and its backend shop has servers for ports"), "{doctor}");
    stage.done(&["deploy"]);
    stage.eventually("it serves", |stage| stage.served() == "three");
    stage.until_at_rest();
    stage.assert_no_leftover();
}

#[test]
fn f4_while_haproxy_takes_no_orders_a_flip_replaces_what_serves_on_its_port() {
    let Some((mut stage, one, _two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    let color = stage.value("live.color");
    let text = std::fs::read_to_string(stage.path("haproxy.cfg")).unwrap();
    std::fs::write(stage.path("haproxy.cfg"), text.replace("level admin", "level operator")).unwrap();
    stage.kill_haproxy();
    stage.run_haproxy();
    stage.eventually("it is said", |stage| stage.bgd(&["status"]).stdout.contains("Permission denied"));
    let load = stage.load();
    load.sees("two");
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    load.sees("one");
    load.end_without_loss();
    assert_eq!(stage.served(), "one");
    assert_eq!(stage.value("idle.color"), color, "haproxy routes there still");
    assert_eq!(stage.status()["last"]["replaced"], true);

    std::fs::write(stage.path("haproxy.cfg"), text).unwrap();
    stage.kill_haproxy();
    stage.run_haproxy();
    let status = stage.until("it is well but for the hold", |status| status["state"] == "held");
    assert_eq!(status["live"]["commit"], one, "{status:#}");
    stage.push_live("three");
    stage.eventually("it serves", |stage| stage.served() == "three");
    stage.until_at_rest();
    stage.assert_no_leftover();
}

#[test]
fn a_flip_without_the_daemon_moves_the_traffic_of_haproxy_by_itself() {
    let Some((mut stage, one, _two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    let load = stage.load();
    load.sees("two");
    stage.kill_daemon();
    let ran = stage.bgd(&["flip"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    load.sees("one");
    load.end_without_loss();
    stage.start_daemon();
    assert_eq!(stage.until_at_rest()["live"]["commit"], one);
    stage.assert_no_leftover();
}

#[test]
fn f7_a_haproxy_that_is_down_fails_a_deploy_and_a_later_one_goes_live() {
    let Some((mut stage, _one, two)) = two_live(Plan::of(Kind::Haproxy)) else { return };
    stage.kill_haproxy();
    let three = stage.push("three", "");
    let status = stage.until("it failed", |status| status["last"]["commit"] == three);
    assert!(error(&status).contains("haproxy does not answer on"), "{status:#}");
    assert!(status["last"]["hint"].as_str().is_some_and(|hint| hint.contains("start haproxy")), "{status:#}");
    assert_eq!(status["live"]["commit"], two, "{status:#}");
    stage.run_haproxy();
    stage.done(&["deploy"]);
    stage.eventually("it serves", |stage| stage.served() == "three");
    stage.until_at_rest();
    stage.assert_no_leftover();
}
