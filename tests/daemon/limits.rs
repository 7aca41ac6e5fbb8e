//! Limits on a host that can't keep them: a deploy fails before anything is touched, and what is live serves on.

use bgd::shim::Limiter;
use nix::sys::signal::{Signal, kill};

use crate::shop::{Kind, Plan, Stage};

#[test]
fn limits_that_can_not_be_kept_fail_the_deploy_and_never_what_is_live() {
    if Limiter::default().obstacle().is_none() {
        eprintln!("skipped: this host can keep limits");
        return;
    }
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    stage.push_live("one");
    stage.until_at_rest();
    stage.configure("limits = { memory = \"64M\" }\n");
    stage.eventually("the limits are in force", |stage| {
        stage.bgd(&["reload"]).stdout.contains("nothing changed")
    });
    let ran = stage.bgd(&["deploy"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(stage.value("last.error").contains("the limits of shop can't be kept on this host"), "{ran:?}");
    assert_eq!(stage.value("last.phase"), "checking_out");
    assert_eq!(stage.served(), "one");

    // One that served and died serves again all the same, and that is said.
    let pid: i32 = stage.value("live.pid").parse().unwrap();
    kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    stage.eventually("it runs again", |stage| {
        !["", &pid.to_string()].contains(&stage.value("live.pid").as_str())
    });
    stage.eventually("it serves again", |stage| stage.served() == "one");
    let events = stage.done(&["events", "--since", "0"]);
    assert!(events.contains("limits_not_kept"), "{events}");
    stage.assert_no_leftover();
}
