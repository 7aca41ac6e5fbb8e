//! What bgd says that a flip cost: the truth, or nothing.

use serde_json::Value;

use crate::shop::{Plan, Stage, on_both};

/// What the history says of the deploy of a commit.
fn meter(stage: &Stage, commit: &str) -> Value {
    let history: Vec<Value> = serde_json::from_str(&stage.done(&["history", "--json"])).expect("json");
    let deploy = history.iter().find(|deploy| deploy["commit"] == commit).expect("the deploy");
    deploy.as_object().expect("an object").get("meter").expect("the key is always there").clone()
}

/// It is written just after the deploy has ended.
fn metered(stage: &Stage, commit: &str) -> Value {
    stage.eventually("the flip is measured", |stage| !meter(stage, commit).is_null());
    meter(stage, commit)
}

fn lost(meter: &Value) -> u64 {
    meter["lost"].as_u64().expect("a number")
}

#[test]
fn a_flip_says_what_it_cost_which_is_nothing() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan::of(kind)) else { return };
        let one = stage.push_live("one");
        let two = stage.push_live("two");
        let measured = metered(&stage, &two);
        assert!(measured["requests"].as_u64().is_some_and(|requests| requests > 0), "{measured}");
        assert_eq!(lost(&measured), 0, "{measured}");
        assert!(measured["longest_gap_ms"].is_u64(), "{measured}");
        assert!(meter(&stage, &one).is_null(), "before it nothing was live that could be lost");
        let shown: Value = serde_json::from_str(&stage.done(&["show", "2", "--json"])).expect("json");
        assert_eq!(shown["deploy"]["meter"], measured);
        let said = format!("0 of {} requests lost", measured["requests"]);
        assert!(stage.done(&["show", "2"]).contains(&said), "{said}");
        let column = format!("0/{}", measured["requests"]);
        assert!(stage.done(&["history"]).contains(&column), "{column}");
    });
}

#[test]
fn what_the_public_does_not_get_is_lost_whatever_the_health_check_says() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan { asked: "/page", ..Plan::of(kind) }) else { return };
        stage.push_live("one");
        let two = stage.push("two", "drops = /page");
        stage.wait_live(&two);
        let measured = metered(&stage, &two);
        assert!(lost(&measured) > 0, "{measured}");
        assert!(measured["requests"].as_u64() >= measured["lost"].as_u64(), "{measured}");
    });
}

#[test]
fn the_way_back_is_measured_as_the_way_there() {
    on_both(|kind| {
        let Some(stage) = Stage::set(Plan::of(kind)) else { return };
        let one = stage.push_live("one");
        stage.push_live("two");
        stage.until_at_rest();
        stage.done(&["flip"]);
        // The newest deploy of that commit: the first one has no figure.
        let measured = metered(&stage, &one);
        assert!(measured["requests"].as_u64().is_some_and(|requests| requests > 0), "{measured}");
        assert_eq!(lost(&measured), 0, "{measured}");
    });
}

#[test]
fn a_restart_in_the_middle_of_a_flip_leaves_no_figure() {
    on_both(|kind| {
        let Some(mut stage) = Stage::set(Plan { drain: "60s", ..Plan::of(kind) }) else { return };
        stage.push_live("one");
        stage.until_at_rest();
        let held = stage.hold_a_request();
        let two = stage.push("two", "");
        stage.until("draining", |status| {
            status["live"]["commit"] == two && status["idle"]["state"] == "draining"
        });
        stage.kill_daemon();
        stage.start_daemon();
        stage.open("held");
        held.join().unwrap();
        stage.until_at_rest();
        let three = stage.push_live("three");
        assert_eq!(lost(&metered(&stage, &three)), 0);
        assert!(meter(&stage, &two).is_null(), "{}", meter(&stage, &two));
    });
}
