//! Two colors side by side behind a real nginx: shares, stickiness, previews, and what becomes of requests to a dead
//! one.

use std::os::unix::fs::PermissionsExt as _;

use bgd::rules::{
    address::Address,
    canary::Share,
    ids::{
        Color::{Blue, Green},
        Generation,
    },
    route::{Preview, Route},
    sticky::Sticky,
};

use tokio::net::TcpSocket;

use super::clients::{Answer, ask, by};
use super::stage::{App, Stage, limits};

const SECRET: &str = "Secret-secret_s3cret";
const COOKIE: &str = "bgd_shop";

fn sticky(route: Route, sticky: Sticky) -> Route {
    Route { sticky, ..route }
}

fn previewed(route: Route) -> Route {
    let (header, cookie) = ("X-Bgd-Preview".to_owned(), "bgd_preview".to_owned());
    Route { preview: Some(Preview { header, cookie, secret: SECRET.to_owned() }), ..route }
}

fn by_cookie(route: Route) -> Route {
    sticky(route, Sticky::Cookie(COOKIE.to_owned()))
}

fn every_kind() -> [Sticky; 3] {
    [Sticky::None, Sticky::Ip, Sticky::Cookie(COOKIE.to_owned())]
}

/// Addresses of many networks, 16 of each.
fn addresses(clients: usize) -> Vec<String> {
    let address = |at: usize| format!("203.{}.{}.{}", at / 4096 % 256, at / 16 % 256, at % 16 + 1);
    (0..clients).map(|at| format!("X-Forwarded-For: {}", address(at))).collect()
}

fn nobody(clients: usize) -> Vec<String> {
    vec![String::new(); clients]
}

/// Whether a count is what a share makes of it, within six standard deviations: once in 500 million runs it is not.
#[track_caller]
fn assert_share(canary: usize, of: usize, percent: f64) {
    let (n, p) = (of as f64, percent / 100.0);
    let (expected, bound) = (n * p, 6.0 * (n * p * (1.0 - p)).sqrt());
    assert!((canary as f64 - expected).abs() <= bound, "{canary} of {of}, not {expected} ± {bound}");
}

/// Whether the clients have, within one of hundred, the share.
#[track_caller]
fn assert_point(canary: usize, of: usize, percent: f64) {
    let got = canary as f64 * 100.0 / of as f64;
    assert!((got - percent).abs() <= 1.0, "{got} % of {of} clients, not {percent} %");
}

/// No client that was on the canary is on the other side now.
#[track_caller]
fn assert_one_way(before: &[Answer], now: &[Answer]) {
    let back = before.iter().zip(now).filter(|(was, is)| was.color == Green && is.color == Blue);
    assert_eq!(back.count(), 0, "clients went back");
}

async fn apps(stage: &Stage) -> [App; 2] {
    [App::start(Blue, stage.ports.blue).await, App::start(Green, stage.ports.green).await]
}

async fn share_by_weights(workers: usize) {
    let Some(mut stage) = Stage::new().await else { return };
    stage.serve_passing_on(workers).await;
    let _apps = apps(&stage).await;
    for (generation, share) in [(2, 5), (3, 25), (4, 50)] {
        stage.nginx.route(&stage.shared(generation, share), limits()).await.unwrap();
        let canary = by(Green, &ask(stage.public, "GET", nobody(4000)).await);
        let expected = 40 * usize::from(share);
        // Each worker counts for itself, and is at most one request off.
        assert!(canary.abs_diff(expected) <= workers, "{canary} with {workers} workers, not {expected}");
        let routed = stage.nginx.routed().await.unwrap().unwrap();
        assert_eq!((routed.color, routed.canary), (Some(Blue), Some((Green, share))));
    }
}

#[tokio::test]
async fn a_share_of_the_requests_is_exact_with_one_worker() {
    share_by_weights(1).await;
}

#[tokio::test]
async fn a_share_of_the_requests_is_exact_but_for_one_request_a_worker() {
    share_by_weights(4).await;
}

#[tokio::test]
async fn clients_kept_by_address_move_one_way_and_each_share_is_right() {
    let mut stage = stage!();
    stage.serve_passing_on(4).await;
    let _apps = apps(&stage).await;
    let mut before: Option<Vec<Answer>> = None;
    for (generation, share) in [(2, 5), (3, 25), (4, 50)] {
        let route = sticky(stage.shared(generation, share), Sticky::Ip);
        stage.nginx.route(&route, limits()).await.unwrap();
        let now = ask(stage.public, "GET", addresses(4000)).await;
        assert_point(by(Green, &now), now.len(), f64::from(share));
        assert!(now.iter().all(|answer| !answer.sets_a_cookie()));
        if let Some(before) = &before {
            assert_one_way(before, &now);
        }
        let again = ask(stage.public, "GET", addresses(500)).await;
        assert!(again.iter().zip(&now).all(|(again, now)| again.color == now.color));
        before = Some(now);
    }
    let alone = sticky(stage.route(5, Green), Sticky::Ip);
    stage.nginx.route(&alone, limits()).await.unwrap();
    assert_eq!(by(Green, &ask(stage.public, "GET", addresses(500)).await), 500);
}

/// The cookies that these answers gave, as headers; each gave one.
fn tickets(answers: &[Answer]) -> Vec<String> {
    let ticket = |answer: &Answer| format!("Cookie: a=b; {}; c=d", answer.cookie(COOKIE).expect("a ticket"));
    answers.iter().map(ticket).collect()
}

#[tokio::test]
async fn clients_kept_by_a_cookie_move_one_way_and_are_all_brought_back_when_it_is_abandoned() {
    let mut stage = stage!();
    stage.serve_passing_on(4).await;
    let _apps = apps(&stage).await;
    stage.nginx.route(&by_cookie(stage.shared(2, 5)), limits()).await.unwrap();
    let mut before = ask(stage.public, "GET", nobody(1500)).await;
    let clients = tickets(&before);
    assert_share(by(Green, &before), clients.len(), 5.0);
    for (generation, share) in [(3, 5), (4, 25), (5, 50)] {
        stage.nginx.route(&by_cookie(stage.shared(generation, share)), limits()).await.unwrap();
        let now = ask(stage.public, "GET", clients.clone()).await;
        assert_share(by(Green, &now), clients.len(), f64::from(share));
        assert_one_way(&before, &now);
        assert!(now.iter().all(|answer| !answer.sets_a_cookie()), "a ticket is for life");
        if share == 5 {
            assert!(now.iter().zip(&before).all(|(now, before)| now.color == before.color));
        }
        before = now;
    }
    stage.nginx.route(&by_cookie(stage.route(6, Blue)), limits()).await.unwrap();
    let back = ask(stage.public, "GET", clients.clone()).await;
    assert_eq!(by(Blue, &back), clients.len(), "abandoned");
    assert!(back.iter().all(|answer| !answer.sets_a_cookie()));
    stage.nginx.route(&by_cookie(stage.route(7, Green)), limits()).await.unwrap();
    assert_eq!(by(Green, &ask(stage.public, "GET", clients).await), 1500, "promoted");
}

#[tokio::test]
async fn six_thousand_tickets_are_a_share_within_a_point_and_others_for_the_next_canary() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let _apps = apps(&stage).await;
    // Not drawn at random, so that the outcome is the same each time.
    let clients: Vec<_> = (0..6_000).map(|at| format!("Cookie: bgd_shop={at:032x}")).collect();
    stage.nginx.route(&by_cookie(stage.shared(2, 5)), limits()).await.unwrap();
    let first = ask(stage.public, "GET", clients.clone()).await;
    assert_point(by(Green, &first), clients.len(), 5.0);
    let mut next = by_cookie(stage.shared(3, 5));
    next.canary.as_mut().unwrap().0.release = "20261121T101112Z-3-89abcde".parse().unwrap();
    stage.nginx.route(&next, limits()).await.unwrap();
    let second = ask(stage.public, "GET", clients).await;
    assert_point(by(Green, &second), second.len(), 5.0);
    let both = first.iter().zip(&second).filter(|(one, other)| one.color == Green && other.color == Green);
    assert!(both.count() < 60, "the same clients again");
}

#[tokio::test]
async fn a_preview_reaches_the_canary_at_any_share_and_its_secret_stays_in_a_private_file() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let _apps = apps(&stage).await;
    let shares = [0, 5, 50];
    let all = every_kind().into_iter().flat_map(|kind| shares.map(|share| (kind.clone(), share)));
    for (at, (kind, share)) in all.enumerate() {
        let route = previewed(sticky(stage.shared(2 + at as u64, share), kind.clone()));
        let proof = stage.nginx.route(&route, limits()).await.unwrap();
        assert_eq!(proof.former.addresses, [], "both may have new requests");
        let headers = [
            format!("X-Bgd-Preview: {SECRET}"),
            format!("x-bgd-preview: {SECRET}"),
            format!("Cookie: bgd_preview={SECRET}"),
            format!("Cookie: a=b; bgd_preview={SECRET}; bgd_shop=x"),
        ];
        for header in headers {
            let answers = ask(stage.public, "GET", vec![header.clone(); 20]).await;
            assert_eq!(by(Green, &answers), 20, "{kind:?} {share} {header}");
        }
        let without = ask(stage.public, "GET", addresses(600)).await;
        assert_share(by(Green, &without), 600, f64::from(share));
        let mode = std::fs::metadata(&stage.settings.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let routed = stage.nginx.routed().await.unwrap().unwrap();
    assert_eq!((routed.contradiction, routed.canary), (None, Some((Green, 50))));
    let told = std::fs::read_to_string(stage.path("error.log")).unwrap();
    assert!(!told.contains(SECRET), "{told}");
    assert!(!format!("{:?}", bgd::front::nginx::parse(&stage.include())).contains(SECRET));
}

#[tokio::test]
async fn a_wrong_secret_shows_nothing() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let _apps = apps(&stage).await;
    let route = previewed(stage.shared(2, 0));
    stage.nginx.route(&route, limits()).await.unwrap();
    let headers = [
        format!("X-Bgd-Preview: {}", SECRET.to_lowercase()),
        format!("X-Bgd-Preview: {SECRET}x"),
        format!("X-Bgd-Preview: x{SECRET}"),
        "X-Bgd-Preview: ".to_owned(),
        format!("Cookie: bgd_preview={SECRET}x"),
        format!("Cookie: xbgd_preview={SECRET}"),
        format!("Cookie: bgd_preview={}", SECRET.to_uppercase()),
        format!("Cookie: other={SECRET}"),
    ];
    for header in headers {
        assert_eq!(by(Blue, &ask(stage.public, "GET", vec![header.clone(); 3]).await), 3, "{header}");
    }
}

#[tokio::test]
async fn f10_no_request_is_lost_or_handled_twice_when_the_canary_is_dead() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let blue = App::start(Blue, stage.ports.blue).await;
    for (at, kind) in every_kind().into_iter().enumerate() {
        for previews in [false, true] {
            let route = sticky(stage.shared(2 + 2 * at as u64 + u64::from(previews), 50), kind.clone());
            let route = if previews { previewed(route) } else { route };
            stage.nginx.route(&route, limits()).await.unwrap();
            let before = blue.handled();
            for method in ["GET", "POST"] {
                let answers = ask(stage.public, method, addresses(200)).await;
                assert_eq!(by(Blue, &answers), 200, "{kind:?}");
            }
            assert_eq!(blue.handled() - before, 400, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn each_instance_of_a_color_has_its_part_and_stands_in_for_one_that_is_dead() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let mut listening = Vec::new();
    let mut route = stage.shared(2, 25);
    let (live, canary) = (route.live.as_mut().unwrap(), &mut route.canary.as_mut().unwrap().0);
    for (side, number) in [(live, 3), (canary, 2)] {
        side.addresses.clear();
        for _ in 0..number {
            let app = App::start_anywhere(side.color).await;
            side.addresses.push(Address::Port(app.port));
            listening.push(app);
        }
    }
    let all_are_reached = |listening: &[App], before: &[usize]| {
        let handled = listening.iter().map(App::handled);
        assert!(handled.zip(before).all(|(now, before)| now > before + 20), "an instance gets too little");
    };
    for (at, kind) in every_kind().into_iter().enumerate() {
        let before: Vec<usize> = listening.iter().map(App::handled).collect();
        let sticky = Route { generation: Generation(2 + at as u64), ..sticky(route.clone(), kind) };
        stage.nginx.route(&sticky, limits()).await.unwrap();
        assert_share(by(Green, &ask(stage.public, "GET", addresses(600)).await), 600, 25.0);
        all_are_reached(&listening, &before);
    }
    // Shown to nobody who does not ask for it, also when an instance of the live color is dead.
    route.canary.as_mut().unwrap().1 = Share::NONE;
    // Bound and not listening: it refuses, and nobody else gets its port.
    let dead = TcpSocket::new_v4().unwrap();
    dead.bind(([127, 0, 0, 1], 0).into()).unwrap();
    route.live.as_mut().unwrap().addresses[1] = Address::Port(dead.local_addr().unwrap().port());
    drop(listening.remove(1));
    let hidden = Route { generation: Generation(9), ..previewed(route) };
    stage.nginx.route(&hidden, limits()).await.unwrap();
    let before: Vec<usize> = listening.iter().map(App::handled).collect();
    let asked = format!("X-Bgd-Preview: {SECRET}");
    assert_eq!(by(Blue, &ask(stage.public, "POST", addresses(300)).await), 300);
    assert_eq!(by(Green, &ask(stage.public, "GET", vec![asked; 100]).await), 100);
    all_are_reached(&listening, &before);
}

#[tokio::test]
async fn f10_the_canary_stands_in_for_a_dead_live_instance() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    let green = App::start(Green, stage.ports.green).await;
    for (at, kind) in every_kind().into_iter().enumerate() {
        let route = sticky(stage.shared(2 + at as u64, 5), kind);
        stage.nginx.route(&route, limits()).await.unwrap();
        let before = green.handled();
        assert_eq!(by(Green, &ask(stage.public, "POST", addresses(200)).await), 200);
        assert_eq!(green.handled() - before, 200);
    }
}

#[tokio::test]
async fn f8_a_change_of_the_share_is_one_reload_and_the_same_share_is_none() {
    let mut stage = stage!();
    stage.serve_passing_on(2).await;
    for (generation, kind) in (2..).zip(every_kind()) {
        let route = previewed(sticky(stage.shared(generation, 5), kind));
        stage.nginx.route(&route, limits()).await.unwrap();
        let workers = stage.workers();
        let again = stage.nginx.route(&route, limits()).await.unwrap();
        assert_eq!((again.how, stage.workers()), (bgd::front::nginx::SwitchedBy::AlreadyInForce, workers));
    }
}

#[tokio::test]
async fn a_site_with_headers_of_its_own_gives_the_cookie_with_one_line_that_is_always_valid() {
    let mut stage = stage!();
    stage.write_site_with("add_header X-Mine 1; add_header Set-Cookie $bgd_shop_cookie always;");
    stage.nginx.ensure_file().await.unwrap();
    stage.start_nginx("").await;
    let _apps = apps(&stage).await;
    stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert!(!ask(stage.public, "GET", nobody(1)).await[0].sets_a_cookie());
    let kept = by_cookie(stage.shared(2, 50));
    stage.nginx.route(&kept, limits()).await.unwrap();
    for answer in ask(stage.public, "GET", nobody(20)).await {
        assert!(answer.cookie(COOKIE).is_some(), "{answer:?}");
    }
}
