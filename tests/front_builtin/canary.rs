//! The traffic shared between two colors: by requests, by clients, by a secret, and when one of them refuses.

use std::{net::Ipv4Addr, sync::Arc};

use bgd::rules::{
    ids::{Color, Generation},
    route::{FlatRoute, Preview, Route},
    sticky::Sticky,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{self, Answer, Backend, Client, Refusing, Script, TestFront, routed, until};

const SECRET: &str = "s3cret-s3cret-s3cret";
/// So many that six deviations are few points.
const CLIENTS: u16 = 600;

/// Blue is live, green the canary.
struct Scene {
    front: TestFront,
    blue: u16,
    green: u16,
    sticky: Sticky,
    generation: u64,
}

impl Scene {
    async fn new(sticky: Sticky, blue: u16, green: u16) -> Self {
        Self { front: TestFront::start().await, blue, green, sticky, generation: 0 }
    }

    fn route(&mut self, shares: &[(Color, u16)]) -> Route {
        self.generation += 1;
        let port = |color| if color == Color::Blue { self.blue } else { self.green };
        let backend = |(color, weight): &(Color, u16)| routed(*color, port(*color), *weight);
        let preview =
            Preview { header: "X-Preview".to_owned(), cookie: "try".to_owned(), secret: SECRET.to_owned() };
        let flat = FlatRoute {
            sticky: self.sticky.clone(),
            preview: Some(preview),
            ..FlatRoute::new(Generation(self.generation), shares.iter().map(backend).collect())
        };
        flat.into()
    }

    async fn share(&mut self, canary: u16) {
        self.put(&[(Color::Blue, 100 - canary), (Color::Green, canary)]).await;
    }

    async fn put(&mut self, shares: &[(Color, u16)]) {
        let route = self.route(shares);
        self.front.front.route(&route).await.unwrap();
    }

    async fn client(&self) -> Client {
        Client::connect(self.front.address).await
    }
}

fn is_green(answer: &Answer) -> bool {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("x-rev") == Some("green")
}

/// Within six deviations of a fair choice for each client.
fn assert_share(went: &[bool], percent: u16) {
    let (clients, share) = (went.len() as f64, f64::from(percent) / 100.0);
    let found = went.iter().filter(|green| **green).count() as f64;
    let spread = 6.0 * (clients * share * (1.0 - share)).sqrt();
    println!("{percent} %: {found} of {clients} clients");
    assert!((found - clients * share).abs() <= spread, "{percent} %: {found} of {clients}");
}

fn assert_none_went_back(before: &[bool], now: &[bool]) {
    assert_eq!(before.iter().zip(now).filter(|it| *it == (&true, &false)).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_of_requests_are_exact_over_each_hundred() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::None, blue.port, green.port).await;
    for canary in [0, 1, 5, 25, 50, 99] {
        scene.share(canary).await;
        let mut clients = [scene.client().await, scene.client().await];
        for hundred in 0..3 {
            let mut greens = 0;
            for number in 0..100 {
                let client = &mut clients[number % 2];
                let answer =
                    if number % 3 == 0 { client.post("/echo", b"x").await } else { client.get("/").await };
                greens += u16::from(is_green(&answer.unwrap()));
            }
            assert_eq!(greens, canary, "of hundred {hundred}");
        }
    }
    scene.put(&[(Color::Blue, 100)]).await;
    let mut client = scene.client().await;
    for _ in 0..100 {
        assert!(!is_green(&client.get("/").await.unwrap()), "abandoned");
    }
    scene.front.end().await;
}

async fn by_address(scene: &Scene) -> Vec<bool> {
    let mut went = Vec::new();
    for number in 0..CLIENTS {
        let [high, low] = number.to_be_bytes();
        let mut client = Client::connect_from(scene.front.address, Ipv4Addr::new(127, 7, high, low)).await;
        let first = is_green(&client.get("/").await.unwrap());
        assert_eq!(is_green(&client.get("/").await.unwrap()), first, "a client moved between two requests");
        went.push(first);
    }
    went
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_keeps_its_side_by_its_address_and_only_moves_to_the_canary() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::Ip, blue.port, green.port).await;
    let mut before = vec![false; usize::from(CLIENTS)];
    for canary in [0, 5, 25, 50] {
        scene.share(canary).await;
        let now = by_address(&scene).await;
        assert_share(&now, canary);
        assert_none_went_back(&before, &now);
        before = now;
    }
    // Behind a terminator on this host the client is the one that it names, whoever connects.
    let (first, second) =
        (scene.client().await.get_with("/", "x-forwarded-for: 127.7.0.1\r\n").await, before[1]);
    assert_eq!(is_green(&first), second);
    scene.put(&[(Color::Green, 100)]).await;
    assert!(by_address(&scene).await.iter().all(|green| *green), "all of it");
    scene.put(&[(Color::Blue, 100)]).await;
    assert!(!by_address(&scene).await.iter().any(|green| *green), "gone back");
    scene.front.end().await;
}

/// Asks once for each client, all over one connection; who has no ticket keeps the one that comes.
async fn by_ticket(scene: &Scene, tickets: &mut [Option<String>]) -> Vec<bool> {
    let mut client = scene.client().await;
    let mut went = Vec::new();
    for ticket in tickets {
        let line =
            ticket.as_ref().map(|ticket| format!("cookie: a=b; {ticket}; c=d\r\n")).unwrap_or_default();
        let answer = client.get_with("/", &line).await;
        let given: Vec<_> = answer.headers("set-cookie");
        assert!(ticket.is_none() || given.is_empty(), "a second ticket: {given:?}");
        if let Some(cookie) = given.first() {
            let (pair, rest) = cookie.split_once(';').unwrap();
            assert!(pair.starts_with("side="), "{cookie}");
            assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax");
            *ticket = Some(pair.to_owned());
        }
        went.push(is_green(&answer));
    }
    went
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_keeps_its_side_by_its_ticket_and_only_moves_to_the_canary() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::Cookie("side".to_owned()), blue.port, green.port).await;
    let mut tickets = vec![None; usize::from(CLIENTS)];
    scene.share(0).await;
    assert!(!by_ticket(&scene, &mut tickets).await.iter().any(|green| *green));
    assert!(tickets.iter().all(Option::is_none), "no ticket while nothing is shared");
    let mut before = vec![false; usize::from(CLIENTS)];
    for canary in [5, 25, 50] {
        scene.share(canary).await;
        let now = by_ticket(&scene, &mut tickets).await;
        assert!(tickets.iter().all(Option::is_some));
        assert_share(&now, canary);
        assert_none_went_back(&before, &now);
        assert_eq!(by_ticket(&scene, &mut tickets).await, now, "a client moved between two requests");
        let new = by_ticket(&scene, &mut [const { None }; 100]).await;
        assert_eq!(new.iter().filter(|green| **green).count(), usize::from(canary), "of new clients exactly");
        before = now;
    }
    for (color, all) in [(Color::Green, true), (Color::Blue, false)] {
        scene.put(&[(color, 100)]).await;
        assert!(by_ticket(&scene, &mut tickets).await.iter().all(|green| *green == all));
        let mut newcomer = [None];
        by_ticket(&scene, &mut newcomer).await;
        assert_eq!(newcomer, [None], "no ticket while one color is routed");
    }
    scene.front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ticket_is_beside_the_apps_own_cookies_and_marked_secure_over_https() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::Cookie("side".to_owned()), blue.port, green.port).await;
    scene.share(50).await;
    let mut client = scene.client().await;
    let answer = client.get_with("/cookie", "x-forwarded-proto: https\r\n").await;
    let cookies = answer.headers("set-cookie");
    assert_eq!(cookies.len(), 2, "{cookies:?}");
    assert_eq!(cookies[0], "app=1; Path=/shop");
    assert!(cookies[1].starts_with("side=") && cookies[1].ends_with("; SameSite=Lax; Secure"), "{cookies:?}");
    let line = "cookie: app=1; side=0123456789abcdef; q=\"x y\"";
    let text = client.get_with("/headers", &format!("{line}\r\n")).await.text();
    assert!(text.lines().any(|found| found == line), "{text}");
    let forged = client.get_with("/", "cookie: side=everything\r\n").await;
    assert_eq!(forged.headers("set-cookie").len(), 1, "what is no ticket is replaced by one");
    scene.front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_reaches_the_canary_at_any_share() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let right = [format!("x-preview: {SECRET}\r\n"), format!("cookie: a=b; try={SECRET}\r\n")];
    let wrong = [format!("x-preview: {SECRET}x\r\n"), format!("cookie: {SECRET}; tr={SECRET}\r\n")];
    for sticky in [Sticky::None, Sticky::Ip, Sticky::Cookie("side".to_owned())] {
        let mut scene = Scene::new(sticky, blue.port, green.port).await;
        scene.put(&[(Color::Blue, 100)]).await;
        let mut client = scene.client().await;
        assert!(!is_green(&client.get_with("/", &right[0]).await), "without a canary all is live");
        for canary in [0, 5, 0] {
            scene.share(canary).await;
            for line in &right {
                for _ in 0..50 {
                    let answer = client.get_with("/", line).await;
                    assert!(is_green(&answer), "{line}");
                    assert_eq!(answer.header("set-cookie"), None);
                }
            }
        }
        for line in &wrong {
            for _ in 0..50 {
                assert!(!is_green(&client.get_with("/", line).await), "{line}");
            }
        }
        client
            .send(&format!("POST /echo HTTP/1.1\r\nhost: t\r\n{}content-length: 1\r\n\r\nx", right[0]))
            .await;
        assert!(is_green(&client.answer("POST").await.unwrap()));
        scene.front.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_color_that_refuses_loses_no_request_and_the_other_handles_each_once() {
    let refusing = Refusing::new();
    for dead in [Color::Green, Color::Blue] {
        let alive = Script::start(vec![Script::OK; 200]).await;
        let (blue, green) =
            if dead == Color::Green { (alive.port, refusing.port) } else { (refusing.port, alive.port) };
        let mut scene = Scene::new(Sticky::None, blue, green).await;
        scene.share(50).await;
        let mut client = scene.client().await;
        for number in 0..200 {
            let answer = if number % 2 == 0 { client.post("/", b"x").await } else { client.get("/").await };
            assert_eq!(answer.unwrap().status, 200, "request {number}");
        }
        assert_eq!(alive.requests(), 200);
        let counters = scene.front.front.counters().await.unwrap();
        let (of_dead, of_alive) = (counters.of(dead), counters.of(dead.other()));
        assert_eq!((of_dead.connect_failures, of_dead.requests), (100, 0));
        assert_eq!((of_alive.connect_failures, of_alive.requests, of_alive.server_errors), (0, 200, 0));
        until(async || scene.front.front.figures().await.unwrap().of(dead.other()).requests == 200).await;
        let figures = scene.front.front.figures().await.unwrap();
        let of_dead = figures.of(dead);
        assert_eq!((of_dead.requests, of_dead.errors, of_dead.took.total()), (100, 100, 0));
        assert_eq!(figures.of(dead.other()).errors, 0);
        scene.front.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_goes_to_the_color_that_does_not_refuse_and_both_refusing_is_a_502() {
    let (blue, refusing) = (Backend::start("blue").await, Refusing::new());
    let mut scene = Scene::new(Sticky::None, blue.port, refusing.port).await;
    scene.share(99).await;
    for _ in 0..3 {
        let mut tunnel = scene.client().await.upgrade("/ws").await.unwrap();
        tunnel.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        tunnel.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
    }
    assert!(scene.front.front.counters().await.unwrap().green.connect_failures > 0);
    // Who asks for the canary is not shown the live one in its place.
    let line = format!("x-preview: {SECRET}\r\n");
    assert_eq!(scene.client().await.get_with("/", &line).await.status, 502);
    let before = scene.front.front.figures().await.unwrap();
    scene.blue = refusing.port;
    scene.share(50).await;
    assert_eq!(scene.client().await.get("/").await.unwrap().status, 502);
    let after = scene.front.front.figures().await.unwrap();
    for color in Color::ALL {
        let since = after.of(color).since(before.of(color));
        assert_eq!(
            (since.requests, since.errors),
            (1, 1),
            "{color}: blamed once, however often it was tried"
        );
    }
    scene.front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_was_taken_away_gets_no_request_more_though_it_is_killed_at_zero_in_flight() {
    let blue = Backend::start("blue").await;
    let mut scene = Scene::new(Sticky::None, blue.port, 0).await;
    scene.put(&[(Color::Blue, 100)]).await;
    let (address, stop) = (scene.front.address, Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..6 {
        let stop = Arc::clone(&stop);
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            let mut greens = 0;
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let answer = match number % 3 {
                    0 => client.post("/echo", b"four").await,
                    1 => client.get("/slow?ms=2").await,
                    _ => client.get("/chunks").await,
                };
                greens += u32::from(is_green(&answer.unwrap_or_else(|error| panic!("lost: {error}"))));
            }
            greens
        });
    }
    for round in 0..100 {
        let mut green = Backend::start("green").await;
        scene.green = green.port;
        scene.share(if round % 2 == 0 { 5 } else { 50 }).await;
        let so_far = scene.front.front.figures().await.unwrap().green.requests;
        until(async || scene.front.front.figures().await.unwrap().green.requests > so_far).await;
        // Still listed for previews, or gone at once.
        if round % 3 == 0 {
            scene.share(0).await;
        } else {
            scene.put(&[(Color::Blue, 100)]).await;
        }
        let within = std::time::Duration::from_secs(20);
        assert_eq!(scene.front.front.drained(Color::Green, within).await.unwrap(), 0);
        green.kill().await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let greens: u32 = clients.join_all().await.into_iter().sum();
    assert!(greens >= 100, "{greens}");
    let failures = scene.front.front.counters().await.unwrap().green.connect_failures;
    assert_eq!(failures, 0, "a request was sent to a canary that had none in flight");
    scene.front.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_at_no_share_is_drained_and_cut_like_any_other() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::None, blue.port, green.port).await;
    scene.share(99).await;
    let mut tunnels = Vec::new();
    while scene.front.front.inflight(Color::Green).await.unwrap() == 0 {
        tunnels.push(scene.client().await.upgrade("/ws").await.unwrap());
    }
    scene.share(0).await;
    let open = scene.front.front.drained(Color::Green, std::time::Duration::from_millis(30)).await.unwrap();
    assert!(open >= 1);
    assert!(scene.front.front.cut(Color::Green).await.unwrap() >= open);
    let within = std::time::Duration::from_secs(20);
    assert_eq!(scene.front.front.drained(Color::Green, within).await.unwrap(), 0);
    assert_eq!(scene.front.front.inflight(Color::Green).await.unwrap(), 0);
    let mut client = scene.client().await;
    assert!(is_green(&client.get_with("/", &format!("x-preview: {SECRET}\r\n")).await), "previews go on");
    assert!(!is_green(&client.get("/").await.unwrap()));
    scene.front.end().await;
}

fn assert_tells_nothing(pid: u32, argument: &str) {
    let read =
        |file| String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap()).into_owned();
    let (arguments, environment) = (read("cmdline"), read("environ"));
    assert!(arguments.contains(argument) && !arguments.contains(SECRET), "{arguments}");
    assert!(!environment.contains(SECRET), "{environment}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_killed_fronts_heir_keeps_the_canarys_route_and_shows_no_secret() {
    let (blue, green) = (Backend::start("blue").await, Backend::start("green").await);
    let mut scene = Scene::new(Sticky::Cookie("side".to_owned()), blue.port, green.port).await;
    scene.share(25).await;
    let mut tickets = vec![None; 100];
    let before = by_ticket(&scene, &mut tickets).await;
    let hello = scene.front.front.ensure_running().await.unwrap();
    support::killed(hello.pid).await;
    let heir = scene.front.front.ensure_running().await.unwrap();
    assert_ne!(heir.pid, hello.pid);
    assert_eq!(heir.route, hello.route);
    assert_eq!(by_ticket(&scene, &mut tickets).await, before, "each client on its side");
    let line = format!("x-preview: {SECRET}\r\n");
    assert!(is_green(&scene.client().await.get_with("/", &line).await));
    assert_tells_nothing(heir.pid, "--bequeathed");
    // A successor is told in another way, and says as little.
    let next = scene.front.heir("bgd-2").ensure_running().await.unwrap();
    assert_eq!(next.route, hello.route);
    assert_eq!(by_ticket(&scene, &mut tickets).await, before, "each client on its side");
    assert_tells_nothing(next.pid, "--takeover");
    let log = std::fs::read_to_string(&scene.front.front.place().log).unwrap();
    assert!(log.contains("serving") && !log.contains(SECRET), "{log}");
    scene.front.end().await;
}
