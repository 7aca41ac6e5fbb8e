//! What a real nginx tells of each request, and that it serves on when nobody listens.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bgd::{
    front::{
        nginx::{Hidden, Inclusion, SwitchedBy, report},
        traffic::RequestSample,
    },
    rules::{
        ids::Color::{Blue, Green},
        route::Route,
    },
};
use tokio::{net::UnixDatagram, time::timeout};

use super::clients::{ask, by};
use super::stage::{App, Stage, limits, same_user};

/// nginx names no longer path, and the directory for temporary files may be deep.
fn socket(stage: &Stage) -> Option<PathBuf> {
    let path = stage.path("told.sock");
    if report::can_name(&path) {
        return Some(path);
    }
    eprintln!("skipped: no socket can be named {}", path.display());
    None
}

fn bind(path: &Path) -> UnixDatagram {
    UnixDatagram::bind(path).unwrap()
}

/// What is told of the next request, of blue before of green.
async fn tries(stage: &Stage, socket: &UnixDatagram) -> Vec<RequestSample> {
    let mut text = [0; 4096];
    let read = timeout(limits().proof, socket.recv(&mut text)).await.expect("nginx tells").unwrap();
    report::parse(&text[..read], &stage.ports.into())
}

/// The same of a request that was tried once.
async fn next(stage: &Stage, socket: &UnixDatagram) -> RequestSample {
    let told = tries(stage, socket).await;
    assert_eq!(told.len(), 1, "{told:?}");
    told[0]
}

#[tokio::test]
async fn each_request_is_told_once_with_color_status_and_time() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.serve_passing_on(2).await;
    let _apps = [App::start(Blue, stage.ports.blue).await, App::start(Green, stage.ports.green).await];
    let listening = bind(&path);
    let nginx = stage.telling(&path);
    nginx.route(&stage.shared(2, 50), limits()).await.unwrap();
    for _ in 0..200 {
        let answer = ask(stage.public, "GET", vec![String::new()]).await.remove(0);
        let sample = next(&stage, &listening).await;
        assert_eq!((sample.color, sample.status), (answer.color, Some(200)));
    }
    stage.get("/slow?ms=300").await.unwrap();
    let slow = next(&stage, &listening).await;
    assert!(slow.took >= Duration::from_millis(299), "{slow:?}");
    assert_eq!(listening.try_recv(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_color_that_gives_no_answer_is_told_as_an_error_and_one_that_stood_in_with_its_answer() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.serve_passing_on(2).await;
    let listening = bind(&path);
    let nginx = stage.telling(&path);
    nginx.route(&stage.route(2, Blue), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
    let dead = next(&stage, &listening).await;
    assert!(dead.is_error() && dead.color == Blue, "{dead:?}");

    let _blue = App::start(Blue, stage.ports.blue).await;
    nginx.route(&stage.shared(3, 99), limits()).await.unwrap();
    let mut passed_on = 0;
    for _ in 0..20 {
        stage.get("/").await.unwrap();
        let told = tries(&stage, &listening).await;
        assert_eq!((told[0].color, told[0].status), (Blue, Some(200)));
        passed_on += told.iter().skip(1).filter(|it| it.color == Green && it.is_error()).count();
    }
    assert!(passed_on >= 18, "{passed_on} of 20");
}

#[tokio::test]
async fn a_backup_answers_what_the_live_color_refuses_and_nothing_else() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.serve_passing_on(2).await;
    let _blue = App::start(Blue, stage.ports.blue).await;
    let green = App::start(Green, stage.ports.green).await;
    let listening = bind(&path);
    let nginx = stage.telling(&path);
    let live = stage.route(2, Green);
    let backup = stage.route(2, Blue).live;
    nginx.route(&Route { backup, ..live }, limits()).await.unwrap();
    assert_eq!(nginx.routed().await.unwrap().unwrap().backup, Some(Blue));
    for _ in 0..20 {
        stage.get("/").await.unwrap();
        assert_eq!(next(&stage, &listening).await.color, Green);
    }
    drop(green);
    for _ in 0..20 {
        stage.get("/").await.unwrap();
        let told = tries(&stage, &listening).await;
        assert_eq!((told[0].color, told[0].status), (Blue, Some(200)));
        assert!(told[1].color == Green && told[1].is_error(), "{told:?}");
    }
    nginx.route(&stage.route(3, Green), limits()).await.unwrap();
    assert_eq!(stage.get("/").await.unwrap_err(), "status 502");
}

#[tokio::test]
async fn nothing_waits_or_fails_when_nobody_listens_and_a_listener_that_comes_back_is_told() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.write_site_with("");
    let nginx = stage.telling(&path);
    assert!(nginx.ensure_file().await.unwrap());
    stage.start_nginx(same_user()).await;
    let _apps = [App::start(Blue, stage.ports.blue).await, App::start(Green, stage.ports.green).await];
    nginx.preflight().await.unwrap();
    nginx.route(&stage.shared(1, 50), limits()).await.unwrap();
    let all = |color, answers: &[_]| by(color, answers).abs_diff(50) <= 2;
    assert!(all(Blue, &ask(stage.public, "GET", vec![String::new(); 100]).await), "with no socket");

    // Bound, and never read: its queue fills.
    let deaf = bind(&path);
    let answers = ask(stage.public, "GET", vec![String::new(); 1000]).await;
    assert_eq!(answers.len(), 1000, "with a full queue");
    drop(deaf);
    assert!(all(Green, &ask(stage.public, "GET", vec![String::new(); 100]).await), "with a dead socket");
    nginx.route(&stage.shared(2, 25), limits()).await.unwrap();

    std::fs::remove_file(&path).unwrap();
    stage.stop_nginx().await;
    stage.start_nginx(same_user()).await;
    stage.get("/").await.unwrap();
    let back = bind(&path);
    stage.get("/").await.unwrap();
    assert_eq!(next(&stage, &back).await.status, Some(200));
}

#[tokio::test]
async fn a_site_with_a_log_of_its_own_tells_with_one_line_that_is_always_valid() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    let line = format!(
        "access_log own.log; access_log syslog:server=unix:{},nohostname,tag=bgd bgd_shop if=$bgd_shop_told;",
        path.display()
    );
    stage.write_site_with(&line);
    stage.nginx.ensure_file().await.unwrap();
    stage.start_nginx(same_user()).await;
    let _blue = App::start(Blue, stage.ports.blue).await;
    let listening = bind(&path);
    stage.nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    stage.get("/").await.unwrap();
    let nginx = stage.telling(&path);
    let proof = nginx.route(&stage.route(1, Blue), limits()).await.unwrap();
    assert_eq!(proof.how, SwitchedBy::Reloaded, "to tell is another text");
    stage.get("/").await.unwrap();
    assert_eq!(next(&stage, &listening).await.color, Blue);
    assert_eq!(listening.try_recv(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(nginx.inclusion().await, Inclusion::Included);
}

#[tokio::test]
async fn nginx_keeps_the_log_that_it_writes_by_default() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.serve_passing_on(2).await;
    let nginx = stage.telling(&path);
    nginx.route(&stage.route(2, Blue), limits()).await.unwrap();
    assert!(stage.include().contains("access_log syslog:"));
    assert_eq!(nginx.hidden().await, Some(Hidden::default()));
    // The default log is outside of the stage: no site of it is to write there.
    stage.write_site_with("access_log own.log;");
    let main = std::fs::read_to_string(stage.path("nginx.conf")).unwrap();
    stage.write("nginx.conf", &main.replace("access_log access.log;", ""));
    nginx.route(&stage.route(3, Blue), limits()).await.unwrap();
    assert!(!stage.include().contains("access_log syslog:"), "{}", stage.include());
    assert!(nginx.hidden().await.unwrap().default_log);
}

#[tokio::test]
async fn doctor_sees_the_sites_that_hide_a_line_of_bgd_s_file() {
    let mut stage = stage!();
    stage.write_site_with("server_name a.example.com; add_header A b;");
    let other = "server { server_name b.example.com; listen unix:b; location / {\n include own.conf;\n \
                 proxy_pass http://shop/; } }";
    stage.write("conf.d/other.conf", other);
    stage.write("own.conf", "access_log own.log;");
    stage.nginx.ensure_file().await.unwrap();
    stage.start_nginx(same_user()).await;
    let hidden = stage.nginx.hidden().await.unwrap();
    let expected = Hidden {
        cookie: vec!["a.example.com".to_owned()],
        traffic: vec!["b.example.com".to_owned()],
        default_log: false,
    };
    assert_eq!(hidden, expected);
    let line = stage.nginx.cookie_line();
    stage.write_site_with(&format!("server_name a.example.com; add_header A b; {line}"));
    assert_eq!(stage.nginx.hidden().await.unwrap().cookie, Vec::<String>::new());
    stage.nginx.preflight().await.unwrap();
}

#[tokio::test]
async fn requests_of_other_sites_are_not_told() {
    let mut stage = stage!();
    let Some(path) = socket(&stage) else { return };
    stage.serve_passing_on(2).await;
    let _blue = App::start(Blue, stage.ports.blue).await;
    let other = stage.second_app("cart");
    let site =
        format!("server {{ listen unix:{}; location / {{ return 200 x; }} }}", stage.path("x").display());
    stage.write("conf.d/other.conf", &site);
    other.nginx.route(&other.route(1, Blue), limits()).await.unwrap();
    let listening = bind(&path);
    stage.telling(&path).route(&stage.route(2, Blue), limits()).await.unwrap();
    let mut stream = tokio::net::UnixStream::connect(stage.path("x")).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nx"), "{answer}");
    stage.get("/").await.unwrap();
    assert_eq!(next(&stage, &listening).await.color, Blue);
    assert_eq!(listening.try_recv(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
