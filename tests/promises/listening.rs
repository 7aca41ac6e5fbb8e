//! Where an app listens, where probes go, and when a release counts as ready.

use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    shop::{Kind, Plan, Stage},
    stage::ports,
};

fn stage(deadline: &'static str) -> Stage {
    let plan = Plan { watch: "200ms", deadline, ..Plan::of(Kind::Builtin) };
    Stage::set(plan).expect("the builtin front needs nothing")
}

#[test]
fn d2_an_app_that_ignores_its_port_is_refused_with_where_it_listens_instead() {
    let stage = stage("3s");
    let good = stage.push_live("good");
    let own = ports::reserve();
    let load = stage.load();
    load.sees("good");
    let commit = stage.push("ignores", &format!("listen = 127.0.0.1:{}", own.number));
    let error = stage.until_failed(&commit);
    assert!(error.contains(&format!("did not listen on port {}", stage.port("green"))), "{error}");
    assert!(error.contains(&format!("it listens on 127.0.0.1:{} instead", own.number)), "{error}");
    assert_eq!(stage.until_at_rest()["live"]["commit"], good);
    load.end_without_loss();
    stage.assert_no_leftover();
}

#[test]
fn d2_an_app_on_another_address_of_its_port_is_refused_with_that_address() {
    let stage = stage("3s");
    let good = stage.push_live("good");
    let commit = stage.push("elsewhere", "listen = 127.0.0.2:$PORT");
    let error = stage.until_failed(&commit);
    let port = stage.port("green");
    assert!(error.contains(&format!("connection refused on 127.0.0.1:{port}")), "{error}");
    assert!(error.contains(&format!("it listens on 127.0.0.2:{port}")), "{error}");
    assert_eq!(stage.until_at_rest()["live"]["commit"], good);
    stage.assert_no_leftover();
}

#[test]
fn d2_an_app_that_shares_the_live_port_is_refused_at_once_with_that_port() {
    // Without a deadline to end it: what takes the live color's traffic is not waited for.
    let stage = stage("10m");
    let good = stage.push("good", "listen = 127.0.0.1:$PORT");
    stage.wait_live(&good);
    let live = stage.port("blue");
    for (rev, listen) in
        [("both", format!("127.0.0.1:$PORT, 127.0.0.1:{live}")), ("live-only", format!("127.0.0.1:{live}"))]
    {
        let commit = stage.push(rev, &format!("listen = {listen}\nup = 500"));
        let error = stage.until_failed(&commit);
        assert!(
            error.contains(&format!("listens on port {live}, which is the other color's")),
            "{rev}: {error}"
        );
        assert_eq!(stage.until_at_rest()["live"]["commit"], good);
        assert_eq!(stage.served(), "good");
    }
    stage.assert_no_leftover();
}

#[test]
fn e1_a_release_is_promoted_as_soon_as_it_is_ready_whatever_the_interval() {
    let stage = stage("20m");
    stage.amend("interval = \"50ms\"", "interval = \"10m\"");
    stage.done(&["reload"]);
    // Ready at once: two successes, and no wait of ten minutes between them.
    stage.push_live("one");
    stage.push_live("two");
    assert_eq!(stage.served(), "two");
}

/// How often a release was asked for its health.
fn asked(stage: &Stage, rev: &str) -> usize {
    let output =
        ["blue", "green"].map(|color| stage.bgd(&["logs", "--color", color, "-n", "1000"]).stdout).concat();
    output.matches(&format!("rev {rev} is asked for /up")).count()
}

#[test]
fn e1_an_app_that_opens_its_port_late_is_promoted_as_soon_as_it_does_and_asked_a_few_times_only() {
    let stage = stage("20m");
    stage.amend("interval = \"50ms\"", "interval = \"10m\"");
    stage.done(&["reload"]);
    stage.close("boot");
    let commit = stage.push("late", "start = waits\ntells = yes");
    stage.until_phase(&commit, "probing");
    assert_eq!(asked(&stage, "late"), 0);
    stage.open("boot");
    stage.wait_live(&commit);
    // Two before the flip, two in the watch of 200 ms, one to know the health of what is live.
    assert!((2..=5).contains(&asked(&stage, "late")), "{}", asked(&stage, "late"));
}

#[test]
fn e1_an_answer_that_is_not_good_is_followed_by_the_interval_and_the_deadline_is_waited_for() {
    let stage = stage("3s");
    stage.amend("interval = \"50ms\"", "interval = \"10m\"");
    stage.done(&["reload"]);
    let commit = stage.push("sick", "up = 500\ntells = yes");
    let error = stage.until_failed(&commit);
    assert!(error.contains("not healthy within 3s") && error.contains("500"), "{error}");
    assert_eq!(asked(&stage, "sick"), 1);
}

#[test]
fn e1_both_limits_stand_in_the_error() {
    let stage = stage("3s");
    for (rev, conf) in [("hanging", "start = hangs"), ("sick", "up = 500")] {
        let commit = stage.push(rev, conf);
        let error = stage.until_failed(&commit);
        assert!(error.contains("within 3s (one probe: 2s)"), "{error}");
    }
}

#[test]
fn e5_an_app_on_the_ipv6_loopback_alone_is_refused_because_probes_go_to_127_0_0_1() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    let stage = stage("3s");
    let commit = stage.push("six", "listen = [::1]:$PORT");
    let error = stage.until_failed(&commit);
    assert!(error.contains(&format!("127.0.0.1:{}", stage.port("blue"))), "{error}");
    assert!(error.contains(&format!("it listens on [::1]:{}", stage.port("blue"))), "{error}");
    // On both it is fine.
    let both = stage.push("both", "listen = [::1]:$PORT, 127.0.0.1:$PORT");
    stage.wait_live(&both);
    assert_eq!(stage.served(), "both");
}

#[test]
fn e5_what_the_host_calls_localhost_changes_nothing() {
    let mut stage = stage("20s");
    std::fs::write(stage.path("hosts"), "192.0.2.1 localhost\n").unwrap();
    let mount = format!("mount --bind {} /etc/hosts", stage.path("hosts").display());
    let possible = Command::new("unshare").args(["-m", "sh", "-c", &mount]).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mounts of one's own are permitted here");
        return;
    }
    stage.restart_daemon_as(|stage, command| {
        let script = format!("{mount} && exec \"$@\"");
        let mut shell = Command::new("unshare");
        shell.args(["-m", "sh", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.current_dir(stage.path("")).stdin(Stdio::null());
        shell
    });
    let commit = stage.push_with("one", "", "grep -q '^192.0.2.1 localhost$' /etc/hosts");
    stage.wait_live(&commit);
    assert_eq!(stage.served(), "one");
}

#[test]
fn e6_a_proxy_in_the_daemons_environment_is_asked_nothing_by_probes_and_reaches_no_child() {
    let mut stage = stage("20s");
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = trap.local_addr().unwrap();
    let caught = Arc::<AtomicUsize>::default();
    let count = caught.clone();
    thread::spawn(move || {
        for peer in trap.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::SeqCst);
            let mut peer: TcpStream = peer;
            let _ = peer.read(&mut [0; 1024]);
        }
    });
    let proxy = format!("http://{address}");
    let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
    stage.restart_daemon_with(&names.map(|name| (name, proxy.as_str())));
    let look = "if env | grep -qi proxy; then echo a proxy; exit 1; fi";
    let one = stage.push_with("one", "", look);
    stage.wait_live(&one);
    stage.push_live("two");
    stage.done(&["flip"]);
    assert_eq!(stage.served(), "one");
    assert_eq!(caught.load(Ordering::SeqCst), 0, "the proxy was asked");
}
