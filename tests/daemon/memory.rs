//! Memory and processor of the instances, and a host that has no room for a second copy of the app.

use crate::shop::{Kind, Plan, Stage};

/// Less than any process needs.
const NOTHING_FREE: &str = "MemTotal: 2097152 kB\nMemFree: 64 kB\nMemAvailable: 64 kB\n";

#[test]
fn status_says_what_each_color_uses_and_null_of_what_does_not_run() {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    let status = stage.until_at_rest();
    let (live, idle) = (&status["live"], &status["idle"]);
    let first = &live["instances"][0];
    assert!(first["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "{status}");
    assert!(first["cpu_percent"].as_f64().is_some_and(|percent| percent >= 0.0), "{status}");
    assert!(live["memory_bytes"].is_u64() && live["cpu_percent"].is_f64(), "{status}");
    for none in [idle, &idle["instances"][0]] {
        let none = none.as_object().expect("an object");
        assert!(none["memory_bytes"].is_null() && none["cpu_percent"].is_null(), "{status}");
    }
    assert!(stage.done(&["status"]).contains("% of a core"), "{}", stage.done(&["status"]));
}

#[test]
fn a_second_copy_for_which_memory_is_short_is_warned_of_or_refused_before_its_start() {
    let Some(mut stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    stage.end_daemon();
    if stage.start_daemon_with_proc("/proc/meminfo", NOTHING_FREE).is_none() {
        stage.start_daemon();
        return;
    }
    stage.push_live("two");
    stage.until_at_rest();
    let said = "a second copy of shop needs about";
    assert!(stage.done(&["events", "--since", "0"]).contains(said), "the warning is an event");

    stage.configure("memory_check = \"refuse\"\n");
    stage.eventually("it is in force", |stage| stage.bgd(&["reload"]).stdout.contains("nothing changed"));
    let three = stage.push("three", "");
    stage.until("it is refused", |status| {
        status["last"]["commit"] == *three && !status["last"]["error"].is_null()
    });
    assert!(stage.value("last.error").contains(said), "{}", stage.value("last.error"));
    assert_eq!((stage.value("last.phase"), stage.served()), ("starting".to_owned(), "two".to_owned()));

    // The way back is never refused, although its release does not run any more.
    let back = stage.bgd(&["flip"]);
    assert_eq!((back.code, stage.served()), (0, "one".to_owned()), "{back:?}");
}
