//! `watch.backup`: the old color takes what a watched release that died refuses, by the front alone.

use nix::sys::signal::Signal;

use crate::{
    shop::{Kind, Plan, Stage, on_both, send},
    stage::load::CLIENTS,
};

#[test]
fn a_watched_release_that_dies_is_stood_in_for_though_bgd_sleeps() {
    on_both(|kind| {
        let plan = Plan { watch: "2s", traffic: "backup = true", ..Plan::of(kind) };
        let Some(stage) = Stage::set(plan) else { return };
        if kind == Kind::Nginx {
            let_nginx_pass_on(&stage);
        }
        let old = stage.push_live("old");
        stage.until_at_rest();
        let load = stage.load();
        let new = stage.push("new", "");
        stage.until_phase(&new, "watching");
        load.sees("new");
        let pid = stage.status()["live"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        stage.signal_daemon(Signal::SIGSTOP);
        send(pid.expect("what is live runs"), Signal::SIGKILL);
        load.sees("old");
        stage.signal_daemon(Signal::SIGCONT);
        stage.until("the traffic is back", |status| status["last"]["outcome"] == "rolled_back");
        assert_eq!(stage.until_at_rest()["live"]["commit"], old.as_str());
        // What the new release was working on, and no request that came after.
        let lost = load.end().lost;
        assert!(lost.len() <= CLIENTS, "lost {}: {lost:#?}", lost.len());
        stage.assert_no_leftover();
    });
}

/// As it does unless its site says otherwise.
fn let_nginx_pass_on(stage: &Stage) {
    let path = stage.path("conf.d/site.conf");
    let site = std::fs::read_to_string(&path).expect("the site");
    std::fs::write(&path, site.replace("proxy_next_upstream off; ", "")).expect("write the site");
}
