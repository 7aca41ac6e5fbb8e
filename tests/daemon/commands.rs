//! What the commands print and how they end, against the contract.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::shop::{Kind, Plan, Stage, on_both};

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn expect(value: &Value, names: &str) {
    assert_eq!(keys(value), names.split(' ').collect(), "{value:#}");
}

#[test]
fn a_push_goes_live_by_itself_and_the_next_one_loses_nothing() {
    a_push_goes_live(Kind::Builtin);
}

#[test]
fn a_push_goes_live_by_itself_behind_nginx_and_the_next_one_loses_nothing() {
    a_push_goes_live(Kind::Nginx);
}

#[test]
fn a_push_goes_live_by_itself_behind_haproxy_and_the_next_one_loses_nothing() {
    a_push_goes_live(Kind::Haproxy);
}

fn a_push_goes_live(kind: Kind) {
    let Some(stage) = Stage::set(Plan::of(kind)) else { return };
    let status = stage.status();
    assert_eq!(status["state"], "empty");
    assert_eq!(stage.bgd(&["status"]).code, 3);
    stage.assert_status_is_true();

    let first = stage.push_live("one");
    assert_eq!(stage.served(), "one");
    let load = stage.load();
    load.sees("one");
    let second = stage.push_live("two");
    load.sees("two");
    let status = stage.until_at_rest();
    assert_eq!(load.end_without_loss().answered.len(), 2);
    status_is_as_in_the_contract(&stage, &first, &second);
    assert_eq!(status["rollback"]["to"], first);
    the_other_commands_tell_the_same(&stage, &second);
    stage.assert_no_leftover();
}

fn status_is_as_in_the_contract(stage: &Stage, first: &str, second: &str) {
    let whole: Value = serde_json::from_str(&stage.done(&["status", "--json"])).unwrap();
    expect(&whole, "schema daemon unconfigured apps");
    assert_eq!(whole["schema"], 1);
    expect(&whole["daemon"], "running version pid started_at config_refused");
    assert_eq!(whole["daemon"]["pid"], stage.daemon_pid());
    let app = &whole["apps"][0];
    expect(
        app,
        "name state trouble live idle deploy canary hold remote last rollback why gate schema_ahead workers tasks \
         cron",
    );
    expect(&app["why"], "code text hint again_at");
    let live = "color port socket release commit subject author pid healthy since instances given_up \
                restarts up_since restart_wait_ms memory_bytes cpu_percent";
    expect(&app["live"], live);
    expect(
        &app["idle"],
        "color port socket release commit pid state instances backup memory_bytes cpu_percent",
    );
    expect(&app["remote"], "branch head checked_at error hint next_at refs");
    expect(&app["last"], "id commit outcome phase error hint finished_at steps replaced");
    expect(&app["last"]["steps"][0], "name ms");
    expect(&app["rollback"], "possible to warm automatic barrier");
    assert_eq!(app["state"], "live");
    assert_eq!(app["live"]["commit"], second);
    assert_eq!(app["live"]["color"], "green");
    assert_eq!(app["live"]["port"], stage.port("green"));
    assert_eq!(app["live"]["subject"], "Make two");
    assert_eq!(app["live"]["author"], "Ann");
    assert_eq!(app["live"]["healthy"], true);
    assert_eq!(app["idle"]["state"], "stopped");
    assert_eq!(app["deploy"], Value::Null);
    assert_eq!(app["hold"], Value::Null);
    assert_eq!(app["remote"]["head"], second);
    assert_eq!(app["last"]["outcome"], "live");
    assert_eq!(app["rollback"]["to"], first);
}

fn the_other_commands_tell_the_same(stage: &Stage, second: &str) {
    assert_eq!(stage.value("live.commit"), second);
    assert_eq!(stage.value("hold"), "");
    assert!(stage.done(&["status", "--oneline"]).contains(&second[..7]));
    assert_eq!(stage.done(&["status", "--oneline"]).lines().count(), 1);
    assert_eq!(stage.bgd(&["status", "-o", "live.nonsense"]).code, 2);

    let history: Value = serde_json::from_str(&stage.done(&["history", "--json"])).unwrap();
    let deploys = history.as_array().or_else(|| history["deploys"].as_array()).expect("a list");
    assert_eq!(deploys.len(), 2, "{history:#}");
    assert_eq!(deploys[0]["outcome"], "live");
    assert_eq!(deploys[0]["replaced"], false);
    assert!(stage.done(&["history"]).contains(&second[..7]));
    let id = stage.value("last.id");
    let shown = stage.done(&["show", &id]);
    assert!(shown.contains(&second[..7]) && shown.contains("build"), "{shown}");
    assert_eq!(stage.bgd(&["show", "999"]).code, 2);

    let events = stage.done(&["events"]);
    assert!(events.contains("live"), "{events}");
    let lines = stage.done(&["events", "--json", "--since", "0"]);
    for line in lines.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|err| panic!("{err}: {line}"));
    }
    assert!(stage.done(&["logs"]).contains("rev two listens on"));
    assert!(stage.done(&["logs", "--build"]).contains("building two"));
    assert!(!stage.done(&["why"]).is_empty());
    stage.done(&["wait", "--for", "live", "--timeout", "5s"]);
    let never = format!("rev={}", "0".repeat(40));
    assert_eq!(stage.bgd(&["wait", "--for", &never, "--timeout", "300ms"]).code, 8);
    let port = stage.value("live.port");
    let said = stage.done(&["exec", "--", "sh", "-c", "cat app.conf; echo $PORT $BGD_COLOR $BGD_COMMIT"]);
    assert!(said.contains("rev = two") && said.ends_with(&format!("{port} green {second}")), "{said}");
    assert_eq!(stage.bgd(&["exec", "--", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(stage.bgd(&["down"]).code, 2);
    assert_eq!(stage.bgd(&["status", "nonesuch"]).code, 2);
    stage.done(&["check"]);
}

#[test]
fn the_exit_code_of_a_deploy_is_its_outcome() {
    let Some(stage) = Stage::set(Plan { deadline: "3s", watch: "60s", ..Plan::of(Kind::Builtin) }) else {
        return;
    };
    stage.done(&["hold", "-m", "until all are pushed"]);
    let dying = stage.push("dying", "start = dies_when_told");
    let erring = stage.push("erring", "up = 500");
    let good = stage.push("good", "");
    stage.until("seen", |status| status["remote"]["head"] == good);
    stage.done(&["resume"]);
    stage.promote(&good);
    let failed = stage.bgd(&["deploy", "--rev", &erring]);
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(failed.stderr.contains("last words of erring"), "{failed:?}");
    let rolled_back = stage.begin(&["deploy", "--rev", &dying]);
    stage.until_phase(&dying, "watching");
    stage.close("die-dying");
    let rolled_back = rolled_back.end();
    assert_eq!(rolled_back.code, 6, "{rolled_back:?}");
    assert_eq!(stage.served(), "good");
    let begun: u64 = stage.done(&["deploy", "--detach"]).parse().expect("a number");
    stage.until("it is watched", |status| status["deploy"]["phase"] == "watching");
    stage.done(&["promote"]);
    stage.until("it has ended", |status| status["last"]["id"] == begun);
    assert_eq!(stage.value("last.outcome"), "live");
    stage.assert_no_leftover();
}

#[test]
fn a11_a_newer_push_supersedes_the_one_that_is_built() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("good");
        stage.close("build");
        let older = stage.push("older", "");
        stage.until_phase(&older, "building");
        let newer = stage.push("newer", "");
        stage.until_phase(&newer, "building");
        stage.open("build");
        stage.wait_live(&newer);
        let history: Value = serde_json::from_str(&stage.done(&["history", "--json"])).unwrap();
        let deploys = history.as_array().or_else(|| history["deploys"].as_array()).expect("a list");
        let of_older = deploys.iter().find(|deploy| deploy["commit"] == older).expect("recorded");
        assert_eq!(of_older["outcome"], "superseded", "{history:#}");
        stage.assert_no_leftover();
    });
}

#[test]
fn a_live_release_that_turns_unhealthy_serves_on_and_is_called_degraded() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan::of(kind)) else { return };
        stage.push_live("good");
        stage.until_at_rest();
        stage.close("up");
        let status = stage.until("unhealthy", |status| status["live"]["healthy"] == false);
        assert_eq!(status["state"], "degraded");
        stage.assert_status_is_true();
        assert_eq!(stage.bgd(&["status"]).code, 20);
        assert_eq!(stage.served(), "good");
        stage.open("up");
        stage.until("live again", |status| status["state"] == "live");
        assert_eq!(stage.bgd(&["status"]).code, 0);
    });
}
