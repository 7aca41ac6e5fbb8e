//! The HAProxy front against a real HAProxy with the shipped configuration: every test has its own.

mod proven;
mod several;
mod stage;

use std::{collections::BTreeSet, task::Poll, time::Duration};

use bgd::{
    config::settings::{Addresses, HaproxyServers, HaproxySettings, Sticky},
    front::haproxy::{CutoverLimits, Haproxy, HaproxyError, Life, report},
    rules::{
        address::Address,
        ids::{
            Color::{Blue, Green},
            Generation,
        },
        route::Route,
    },
};
use stage::{Stage, read, shipped};

/// Skips, with the reason, where HAProxy is not installed.
macro_rules! stage {
    ($on:expr) => {
        match Stage::set($on) {
            Some(stage) => stage,
            None => return,
        }
    };
}

/// Nothing here fails for want of time.
fn limits() -> CutoverLimits {
    let long = Duration::from_secs(30);
    CutoverLimits { check: long, verdict: long, proof: long }
}

async fn route(stage: &Stage, to: &Route) {
    stage.haproxy.route(to, limits()).await.unwrap();
}

#[tokio::test]
async fn f8_a_flip_moves_every_request_and_reloads_nothing() {
    let stage = stage!(&[]);
    let before = stage.haproxy.process().await.unwrap();
    for live in [Blue, Green, Blue] {
        route(&stage, &stage.to(live, None)).await;
        assert_eq!(stage.colors(40), [(live.to_string(), 40)].into());
        let (standing, generation) = stage.haproxy.routed().await.unwrap();
        assert_eq!((standing.live, standing.canary, generation), (Some(live), None, Generation(1)));
    }
    route(&stage, &Route::nowhere(Generation(2))).await;
    assert_eq!(stage.get(1, "/", "").unwrap().status, 503);
    assert_eq!(stage.haproxy.routed().await.unwrap().0.live, None);
    assert_eq!(stage.haproxy.process().await.unwrap(), before);
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
}

#[tokio::test]
async fn a_canary_receives_its_share_and_a_restart_of_bgd_knows_it() {
    let stage = stage!(&[]);
    for (live, share) in [(Blue, 5), (Blue, 25), (Blue, 50), (Blue, 75), (Green, 5), (Green, 50)] {
        route(&stage, &stage.to(live, Some(share))).await;
        // Round robin is exact over one round of all weights, which sum to 201.
        let seen = stage.colors(402);
        let canary = seen.get(live.other().as_str()).copied().unwrap_or(0);
        let expected = usize::from(share) * 4;
        assert!(canary.abs_diff(expected) <= 6, "{share}: {seen:?}");
        let standing = stage.again().routed().await.unwrap().0;
        assert_eq!((standing.live, standing.canary), (Some(live), Some((live.other(), share))));
    }
}

/// The clients that the canary answers.
fn moved(stage: &Stage, heads: &[String]) -> BTreeSet<usize> {
    let asks = heads.iter().enumerate().map(|(client, head)| {
        let answer = stage.get(u32::try_from(client).unwrap(), "/", head).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.head);
        (client, answer.body)
    });
    asks.filter(|(_, color)| color == "green").map(|(client, _)| client).collect()
}

/// Shares that grow to all of it: who was moved stays moved, and the canary has about its share of the clients.
async fn grows(stage: &Stage, heads: &[String]) {
    let mut before = BTreeSet::new();
    for share in [0, 5, 25, 50, 75] {
        route(stage, &stage.to(Blue, Some(share))).await;
        let now = moved(stage, heads);
        let expected = heads.len() * usize::from(share) / 100;
        // A client is where a hash puts it: a few of a hundred more or less.
        let slack = if share == 0 { 0 } else { heads.len() / 12 };
        assert!(now.len().abs_diff(expected) <= slack, "{share} %: {} of {}", now.len(), heads.len());
        assert!(share == 0 || !now.is_empty(), "{share} %: nobody");
        assert!(now.is_superset(&before), "{share} %: back again: {:?}", before.difference(&now));
        before = now;
    }
    route(stage, &stage.to(Green, None)).await;
    assert_eq!(moved(stage, heads).len(), heads.len());
    // The next canary is abandoned: everybody is back.
    route(stage, &stage.to(Green, Some(25))).await;
    route(stage, &stage.to(Green, None)).await;
    assert_eq!(moved(stage, heads).len(), heads.len());
}

#[tokio::test]
async fn by_address_a_client_that_was_moved_to_the_canary_stays_while_its_share_grows() {
    let stage = stage!(&["canary.sticky = \"ip\""]);
    assert_eq!(stage.haproxy.advice(&Sticky::Ip).await.unwrap(), []);
    grows(&stage, &vec![String::new(); 600]).await;
}

#[tokio::test]
async fn by_cookie_a_client_that_was_moved_to_the_canary_stays_while_its_share_grows() {
    let stage = stage!(&["canary.sticky = \"cookie\""]);
    let sticky = Sticky::Cookie("bgd".to_owned());
    assert_eq!(stage.haproxy.advice(&sticky).await.unwrap(), []);
    route(&stage, &stage.to(Blue, None)).await;
    let cookie = |client| {
        let head = stage.get(client, "/", "").unwrap().head;
        let given = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("set-cookie: ").map(str::to_owned));
        let given = given.unwrap_or_else(|| panic!("no cookie: {head}"));
        format!("Cookie: {}\r\n", given.split(';').next().unwrap())
    };
    let heads: Vec<String> = (0..600).map(cookie).collect();
    assert_eq!(heads.iter().collect::<BTreeSet<_>>().len(), 600, "everybody has one of their own");
    assert!(!stage.get(1, "/", &heads[0]).unwrap().head.to_ascii_lowercase().contains("set-cookie"));
    grows(&stage, &heads).await;
}

#[tokio::test]
async fn a_backend_that_keeps_no_client_on_its_side_is_said() {
    let stage = stage!(&[]);
    assert_eq!(stage.haproxy.advice(&Sticky::None).await.unwrap(), []);
    for sticky in [Sticky::Ip, Sticky::Cookie("bgd".to_owned())] {
        let advice = stage.haproxy.advice(&sticky).await.unwrap();
        assert!(advice.len() == 1 && advice[0].said.contains("roundrobin"), "{advice:?}");
    }
}

#[tokio::test]
async fn servers_without_a_check_are_said_unless_haproxy_comes_up_as_it_was_left() {
    let unchecked = shipped(&[]).replace("default-server check", "default-server");
    let Some(stage) = Stage::with(&unchecked) else { return };
    assert_eq!(stage.haproxy.advice(&Sticky::None).await.unwrap(), [], "there is a state file");
    let servers = HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() };
    let (socket, backend) = (stage.path("h.sock"), "shop".to_owned());
    let ports = bgd::config::settings::Ports { blue: stage.blue.port, green: stage.green.port };
    let without = Haproxy::new(HaproxySettings { socket, backend, servers, state_file: None }, ports);
    for live in [Blue, Green] {
        without.route(&stage.to(live, None), limits()).await.unwrap();
        let advice = without.advice(&Sticky::None).await.unwrap();
        assert!(advice.len() == 1 && advice[0].hint.contains("`check`"), "{advice:?}");
    }
    stage.write(&shipped(&[]));
    stage.reload();
    assert_eq!(without.advice(&Sticky::None).await.unwrap(), []);
    without.route(&stage.to(Blue, None), limits()).await.unwrap();
    assert_eq!(without.advice(&Sticky::None).await.unwrap(), [], "one rests in maintenance");
}

#[tokio::test]
async fn a_preview_reaches_the_color_that_is_not_live_whatever_its_share() {
    let stage = stage!(&["preview:"]);
    let (header, cookie) =
        ("X-Bgd-Preview: change-this-secret\r\n", "Cookie: bgd-preview=change-this-secret\r\n");
    let all = |head: &str| -> BTreeSet<String> {
        (0..12).map(|client| stage.get(client, "/", head).unwrap().body).collect()
    };
    let only = |color: bgd::rules::ids::Color| BTreeSet::from([color.to_string()]);
    for (live, share) in [(Blue, 0), (Blue, 75), (Green, 0), (Green, 5)] {
        route(&stage, &stage.to(live, Some(share))).await;
        for head in [header, cookie] {
            assert_eq!(all(head), only(live.other()), "{live} {share}");
        }
        if share == 0 {
            for head in ["", "X-Bgd-Preview: change-this-secre\r\n", "X-Bgd-Preview: \r\n"] {
                assert_eq!(all(head), only(live), "{live} {head}");
            }
        }
    }
    // Without a canary there is nothing to preview.
    for live in [Blue, Green] {
        route(&stage, &stage.to(live, None)).await;
        assert_eq!(all(header), only(live));
    }
}

/// Polls so many times, then drops it: a bgd that was killed there.
async fn killed_after<T>(polls: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut left = polls;
    std::future::poll_fn(|context| match left {
        0 => Poll::Ready(None),
        _ => {
            left -= 1;
            work.as_mut().poll(context).map(Some)
        }
    })
    .await
}

#[tokio::test]
async fn r0_a_bgd_killed_at_any_point_of_a_change_leaves_somebody_serving_and_the_next_one_ends_it() {
    let stage = stage!(&[]);
    let ways =
        [(Blue, None), (Blue, Some(5)), (Blue, Some(50)), (Green, None), (Green, Some(25)), (Blue, None)];
    // Waiting for checks has no point at which more could go wrong.
    let limits = CutoverLimits { check: Duration::ZERO, ..limits() };
    let mut ended = 0;
    for polls in 1..500 {
        for (live, share) in ways {
            let to = stage.to(live, share);
            let done = killed_after(polls, stage.again().route(&to, limits)).await;
            ended += usize::from(matches!(done, Some(Ok(()))));
            assert_eq!(stage.get(1, "/", "").unwrap().status, 200, "{polls} {live} {share:?}");
            stage.again().route(&to, limits).await.unwrap();
            let standing = stage.again().routed().await.unwrap().0;
            assert_eq!((standing.live, standing.canary.map(|it| it.1)), (Some(live), share), "{polls}");
        }
        if ended >= ways.len() {
            return;
        }
        ended = 0;
    }
    panic!("never came to its end");
}

#[tokio::test]
async fn a_canary_that_dies_loses_nothing_that_comes_after() {
    let stage = stage!(&[]);
    route(&stage, &stage.to(Blue, Some(50))).await;
    stage.green.die();
    assert_eq!(stage.colors(200), [("blue".to_owned(), 200)].into());
}

#[tokio::test]
async fn a_request_in_flight_is_waited_for_and_at_the_limit_cut_and_counted() {
    let stage = stage!(&[]);
    route(&stage, &stage.to(Blue, None)).await;
    stage.blue.close();
    let mut held: Vec<_> = (0..3).map(|client| stage.send(client, "/held", "").unwrap()).collect();
    stage.eventually("they have arrived", |stage| *stage.blue.held.lock().unwrap() == 3);
    route(&stage, &stage.to(Green, None)).await;
    assert_eq!(stage.colors(10), [("green".to_owned(), 10)].into());

    // What is in flight lives on.
    let waiting = stage.haproxy.drained(Blue, Duration::from_secs(3600));
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    stage.blue.open();
    assert_eq!(waiting.await.unwrap(), 0);
    for stream in &mut held {
        assert_eq!(read(stream).unwrap().body, "blue");
    }

    stage.green.close();
    let mut cut: Vec<_> = (0..2).map(|client| stage.send(client, "/held", "").unwrap()).collect();
    stage.eventually("they have arrived", |stage| *stage.green.held.lock().unwrap() == 2);
    route(&stage, &stage.to(Blue, None)).await;
    assert_eq!(stage.haproxy.drained(Green, Duration::ZERO).await.unwrap(), 2);
    for stream in &mut cut {
        // What may be sent twice is sent to the live color.
        assert!(read(stream).map_or(true, |answer| answer.body != "green"), "it was not cut");
    }
    assert_eq!(stage.haproxy.drained(Green, Duration::from_secs(60)).await.unwrap(), 0);
}

#[tokio::test]
async fn f1_what_a_reloaded_haproxy_has_begun_is_waited_for() {
    let stage = stage!(&[]);
    route(&stage, &stage.to(Blue, None)).await;
    stage.blue.close();
    let mut held = stage.send(1, "/held", "").unwrap();
    stage.eventually("it has arrived", |stage| *stage.blue.held.lock().unwrap() == 1);
    stage.reload();
    route(&stage, &stage.to(Green, None)).await;
    assert_eq!(stage.haproxy.counters(Blue).await.unwrap().in_flight(), 0, "the new one knows nothing of it");
    assert_eq!(stage.haproxy.drained(Blue, Duration::ZERO).await.unwrap(), 1);
    let waiting = stage.haproxy.drained(Blue, Duration::from_secs(3600));
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "{early:?}");
    stage.blue.open();
    assert_eq!(waiting.await.unwrap(), 0);
    assert_eq!(read(&mut held).unwrap().body, "blue");
}

#[tokio::test]
async fn f6_a_restart_of_haproxy_is_seen_and_it_is_told_again() {
    let mut stage = stage!(&[]);
    for (live, share) in [(Green, None), (Blue, Some(25))] {
        route(&stage, &stage.to(live, share)).await;
        assert_eq!(stage.haproxy.put_back(limits()).await.unwrap(), Life::Same);
        assert_eq!(stage.again().put_back(limits()).await.unwrap(), Life::Unknown);
        stage.restart();
        assert_eq!(stage.haproxy.put_back(limits()).await.unwrap(), Life::New);
        let standing = stage.haproxy.routed().await.unwrap().0;
        assert_eq!((standing.live, standing.canary.map(|it| it.1)), (Some(live), share));
        assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
        stage.reload();
        assert_eq!(stage.haproxy.put_back(limits()).await.unwrap(), Life::New);
        assert_eq!(stage.haproxy.routed().await.unwrap().0, standing);
    }
    stage.kill();
    let err = stage.haproxy.put_back(limits()).await.unwrap_err();
    assert!(err.is_down() && err.hint().unwrap().contains("systemctl start haproxy"), "{err}");
}

#[tokio::test]
async fn haproxy_comes_up_as_it_was_left_when_bgd_does_not_run() {
    let mut stage = stage!(&["HAProxy starts as bgd left it"]);
    for (live, share) in [(Green, None), (Blue, Some(25)), (Green, Some(0)), (Blue, None)] {
        route(&stage, &stage.to(live, share)).await;
        stage.restart();
        let standing = stage.again().routed().await.unwrap().0;
        assert_eq!((standing.live, standing.canary.map(|it| it.1)), (Some(live), share));
        if share.is_none() {
            assert_eq!(stage.colors(20), [(live.to_string(), 20)].into());
        }
    }
}

#[tokio::test]
async fn a_change_by_hand_is_said_with_where_the_traffic_goes() {
    let stage = stage!(&[]);
    route(&stage, &stage.to(Blue, None)).await;
    stage.ask("set server shop/green state drain").unwrap();
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(found.said.contains("green is draining") && found.moved_to.is_none(), "{found:?}");
    stage.ask("set server shop/green state ready").unwrap();
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(found.said.contains("changed by hand: blue is ready"), "{found:?}");
    assert_eq!(found.moved_to, None, "both receive");
    stage.ask("set server shop/blue state maint").unwrap();
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(found.said.contains("blue is in maintenance, green is ready with weight 1"), "{found:?}");
    assert_eq!(found.moved_to, Some(Green));
    assert_eq!(stage.haproxy.routed().await.unwrap().0.live, Some(Green), "what is so is the truth");
    route(&stage, &stage.to(Blue, None)).await;
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
    stage.ask("set server shop/blue weight 7").unwrap();
    assert!(stage.haproxy.trouble().await.unwrap().unwrap().said.contains("weight 7"));
}

#[tokio::test]
async fn servers_on_unix_sockets_are_flipped_as_those_on_ports() {
    let mut stage = stage!(&[]);
    let file = stage.path("haproxy.cfg");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (color, port) in [(Blue, stage.blue.port), (Green, stage.green.port)] {
        let path = stage.path(&format!("{color}.sock"));
        door(&path, port);
        text = text.replace(&format!("127.0.0.1:{port}"), &format!("unix@{}", path.display()));
    }
    std::fs::write(&file, text).unwrap();
    stage.restart();
    let of = |color| Address::Socket(stage.path(&format!("{color}.sock")));
    let settings = HaproxySettings {
        socket: stage.path("h.sock"),
        backend: "shop".to_owned(),
        servers: HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() },
        state_file: None,
    };
    let haproxy = Haproxy::new(settings, Addresses { blue: of(Blue), green: of(Green), each: 1 });
    haproxy.preflight().await.unwrap();
    for live in [Blue, Green, Blue] {
        haproxy.route(&stage.to(live, None), limits()).await.unwrap();
        assert_eq!(stage.colors(20), [(live.to_string(), 20)].into());
        assert_eq!(haproxy.routed().await.unwrap().0.live, Some(live));
        assert_eq!(haproxy.drained(live.other(), Duration::from_secs(30)).await.unwrap(), 0);
    }
    let (text, hint) = {
        let err = stage.haproxy.preflight().await.unwrap_err();
        (err.to_string(), err.hint().unwrap_or_default())
    };
    let expected =
        format!("haproxy's server shop/blue is a unix socket, but blue listens on port {}", stage.blue.port);
    assert!(text == expected && hint.contains("`ports`"), "{text}: {hint}");
}

/// A way by a socket to whoever listens on the port; its threads end with the test's process.
fn door(path: &std::path::Path, port: u16) {
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for outside in listener.incoming() {
            let (Ok(outside), Ok(inside)) = (outside, std::net::TcpStream::connect(("127.0.0.1", port)))
            else {
                continue;
            };
            let (mut from, mut to) = (outside.try_clone().unwrap(), inside.try_clone().unwrap());
            let (mut back_from, mut back_to) = (inside, outside);
            std::thread::spawn(move || {
                let _ended = std::io::copy(&mut from, &mut to);
                to.shutdown(std::net::Shutdown::Write)
            });
            std::thread::spawn(move || {
                let _ended = std::io::copy(&mut back_from, &mut back_to);
                back_to.shutdown(std::net::Shutdown::Both)
            });
        }
    });
}

#[tokio::test]
async fn what_does_not_fit_is_said_with_both_sides() {
    let stage = stage!(&[]);
    let other = |backend: &str, green: &str, ports| {
        let servers = HaproxyServers { blue: "blue".to_owned(), green: green.to_owned() };
        Haproxy::new(
            HaproxySettings {
                socket: stage.path("h.sock"),
                backend: backend.to_owned(),
                servers,
                state_file: None,
            },
            ports,
        )
    };
    let ports = bgd::config::settings::Ports { blue: stage.blue.port, green: stage.green.port };
    assert!(other("shop", "green", ports).preflight().await.is_ok());
    let said = |err: HaproxyError| (err.to_string(), err.hint().unwrap_or_default());
    let (text, hint) = said(other("shp", "green", ports).preflight().await.unwrap_err());
    assert!(text.ends_with("has no backend \"shp\"") && hint.contains("haproxy.cfg"), "{text}");
    let (text, _) = said(other("shop", "gren", ports).preflight().await.unwrap_err());
    assert_eq!(text, "haproxy has no server shop/gren; in that backend are: blue, green");

    let elsewhere = bgd::config::settings::Ports { green: 1, ..ports };
    let wrong = other("shop", "green", elsewhere);
    let (text, hint) = said(wrong.preflight().await.unwrap_err());
    let expected =
        format!("haproxy's server shop/green is 127.0.0.1:{}, but green listens on port 1", ports.green);
    assert_eq!(text, expected);
    assert!(hint.contains("`ports`"), "{hint}");
    // And nothing is moved to where the app is not.
    route(&stage, &stage.to(Blue, None)).await;
    wrong.route(&stage.to(Green, None), limits()).await.unwrap_err();
    assert_eq!(stage.haproxy.routed().await.unwrap().0.live, Some(Blue));
}

#[tokio::test]
async fn a_socket_that_may_not_move_traffic_is_said() {
    let Some(stage) = Stage::with(&shipped(&[]).replace("level admin", "level operator")) else { return };
    let err = stage.haproxy.preflight().await.unwrap_err();
    assert!(err.to_string().ends_with("has level \"operator\", which may not move traffic"), "{err}");
    assert!(err.hint().unwrap().contains("level admin"));
    let err = stage.haproxy.route(&stage.to(Green, None), limits()).await.unwrap_err();
    assert!(
        matches!(&err, HaproxyError::Refused { said, .. } if said.contains("Permission denied")),
        "{err}"
    );
    assert!(err.is_closed() && err.hint().unwrap().contains("level admin"), "{err}");
}

/// It is checked, and fails.
fn until_down(stage: &Stage, server: &str) {
    stage.eventually("it is down", |stage| {
        let states = stage.ask("show servers state shop").unwrap_or_default();
        let line = states.lines().find(|line| line.split(' ').nth(3) == Some(server)).unwrap_or_default();
        let [operation, admin] =
            [5, 6].map(|at| line.split(' ').nth(at).and_then(|it| it.parse::<u8>().ok()));
        // Not in maintenance.
        operation == Some(0) && admin.is_some_and(|admin| admin & 0x63 == 0)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_a_color_that_fails_haproxys_own_check_gets_nothing_and_the_old_one_never_left() {
    let with_check = shipped(&[]).replace(
        "    default-server",
        "    timeout check 30s\n    option httpchk GET /check\n    default-server",
    );
    let Some(stage) = Stage::with(&with_check) else { return };
    route(&stage, &stage.to(Blue, None)).await;
    stage.green.fail_checks();
    let soon = CutoverLimits { verdict: Duration::ZERO, ..limits() };
    let err = stage.haproxy.route(&stage.to(Green, None), soon).await.unwrap_err();
    assert_eq!(err.to_string(), "haproxy's own check of shop/green fails: L7STS 500");
    let standing = stage.haproxy.routed().await.unwrap().0;
    assert_eq!((standing.live, standing.canary), (Some(Blue), None));
    assert_eq!(stage.haproxy.trouble().await.unwrap(), None);
    assert_eq!(stage.colors(30), [("blue".to_owned(), 30)].into());
    // What passes it after all is no failure.
    let told = tokio::spawn({
        let (haproxy, green) = (stage.haproxy.clone(), stage.to(Green, None));
        async move { haproxy.route(&green, limits()).await }
    });
    until_down(&stage, "green");
    stage.green.pass_checks();
    told.await.unwrap().unwrap();
    assert_eq!(stage.colors(30), [("green".to_owned(), 30)].into());
    route(&stage, &stage.to(Blue, None)).await;
    // A live color that fails it later is said.
    stage.blue.fail_checks();
    until_down(&stage, "blue");
    let found = stage.haproxy.trouble().await.unwrap().unwrap();
    assert!(found.said.contains("check of shop/blue fails: L7STS 500"), "{found:?}");
}

#[tokio::test]
async fn a_balance_that_can_not_change_flips_all_the_same_and_says_why_it_shares_nothing() {
    let fixed = shipped(&[]).replace("    default-server", "    balance source\n    default-server");
    let Some(stage) = Stage::with(&fixed) else { return };
    for live in [Blue, Green] {
        route(&stage, &stage.to(live, None)).await;
        assert_eq!(stage.colors(30), [(live.to_string(), 30)].into());
    }
    let err = stage.haproxy.route(&stage.to(Green, Some(5)), limits()).await.unwrap_err();
    assert!(err.hint().is_some_and(|hint| hint.contains("hash-type consistent")), "{err}");
    let standing = stage.haproxy.routed().await.unwrap().0;
    assert_eq!((standing.live, standing.canary), (Some(Green), None), "nobody was moved");
    assert_eq!(stage.colors(30), [("green".to_owned(), 30)].into());
}

#[tokio::test]
async fn errors_are_counted_for_each_server_and_requests_are_told_one_by_one() {
    let stage = stage!(&["For a verdict on real traffic"]);
    let log = stage.log_socket();
    route(&stage, &stage.to(Green, None)).await;
    let before = stage.haproxy.counters(Green).await.unwrap();
    let servers = HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() };
    let settings = HaproxySettings {
        socket: stage.path("h.sock"),
        backend: "shop".to_owned(),
        servers,
        state_file: None,
    };
    let next = || loop {
        let mut bytes = [0; 2048];
        let length = log.recv(&mut bytes).unwrap();
        if let Some(sample) = report::parse(&settings, &bytes[..length]) {
            return sample;
        }
    };
    assert_eq!(stage.get(1, "/", "").unwrap().status, 200);
    let sample = next();
    assert_eq!((sample.color, sample.status, sample.is_error()), (Green, Some(200), false));
    assert_eq!(stage.get(1, "/broken", "").unwrap().status, 500);
    assert_eq!(next().status, Some(500));
    let since = stage.haproxy.counters(Green).await.unwrap().since(&before);
    assert_eq!((since.requests, since.answers_5xx, since.errors()), (2, 1, 1));
    assert_eq!(stage.get(1, "/gone", "").unwrap().status, 502);
    let sample = next();
    assert!(sample.color == Green && sample.is_error() && sample.status.is_none(), "{sample:?}");
}
