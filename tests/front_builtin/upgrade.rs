//! Builds of bgd that know nothing of two colors: a front of such a build is followed, and such a daemon can start
//! a front of this build.

use std::{
    io::IoSlice,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex},
};

use bgd::{
    front::builtin::control,
    rules::{
        ids::{Color, Generation},
        route::{FlatRoute, Preview},
        sticky::Sticky,
    },
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::support::{self, Backend, Client, TestFront, routed, until};

/// A route as it was written before there were canaries.
fn former_route(port: u16) -> String {
    format!(
        r#"{{"generation":3,"backends":[{{"color":"blue","port":{port},"weight":100,"release":"20261121T101112Z-1-0123456"}}]}}"#
    )
}

/// The process that serves, in the words of a former build: it hands its socket over, has one request in flight on
/// blue, and refuses what it does not know.
struct Former {
    heard: Arc<Mutex<Vec<String>>>,
    attending: tokio::task::JoinHandle<()>,
}

impl Former {
    fn at(control: &std::path::Path, public: std::net::TcpListener, port: u16) -> Self {
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let (words, desk) = (Arc::clone(&heard), UnixListener::bind(control).unwrap());
        public.set_nonblocking(true).unwrap();
        let public = Arc::new(OwnedFd::from(public));
        let attending = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = desk.accept().await.unwrap();
                connections.spawn(converse(stream, Arc::clone(&words), Arc::clone(&public), port));
            }
        });
        Self { heard, attending }
    }

    fn heard(&self, word: &str) -> bool {
        self.heard.lock().unwrap().iter().any(|line| line.contains(word))
    }
}

async fn converse(stream: UnixStream, heard: Arc<Mutex<Vec<String>>>, public: Arc<OwnedFd>, port: u16) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap() == 0 {
            return;
        }
        heard.lock().unwrap().push(line.clone());
        let route = former_route(port);
        let answer = match line.trim() {
            r#"{"do":"hello"}"# => {
                format!(
                    r#"{{"hello":{{"version":"0.0.9","build":"1","pid":1,"started_at_ms":1,"listen":"127.0.0.1:0","bound":"127.0.0.1:1","route":{route},"inflight":{{"blue":0,"green":0}}}}}}"#
                )
            }
            r#"{"do":"handover"}"# => {
                let answer = format!("{{\"heritage\":{route}}}\n");
                let fds = [public.as_raw_fd()];
                let (parts, message) = ([IoSlice::new(answer.as_bytes())], [ControlMessage::ScmRights(&fds)]);
                let fd = stream.get_ref().as_raw_fd();
                assert_eq!(
                    sendmsg::<()>(fd, &parts, &message, MsgFlags::empty(), None).unwrap(),
                    answer.len()
                );
                continue;
            }
            r#"{"do":"leave"}"# => r#""leaving""#.to_owned(),
            r#"{"do":"inflight"}"# => r#"{"inflight":{"blue":1,"green":0}}"#.to_owned(),
            text if text.starts_with(r#"{"do":"route""#) => r#"{"applied":4}"#.to_owned(),
            _ => r#"{"refused":"not a line of the front's protocol"}"#.to_owned(),
        };
        stream.get_mut().write_all(format!("{answer}\n").as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_front_of_a_former_build_is_followed_and_led_though_it_has_no_figures() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::start("blue").await;
    let public = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = public.local_addr().unwrap();
    let former = Former::at(&dir.path().join("c"), public, backend.port);
    let started = support::front_at(dir.path(), "127.0.0.1:0".parse().unwrap());
    let hello = started.ensure_running().await.unwrap();
    let control = dir.path().join("c");
    let scene = TestFront::found(dir, control).await;
    let front = &scene.front;
    assert!(former.heard("leave"));
    assert_eq!(hello.bound, address);
    let route = hello.route.unwrap();
    assert_eq!((route.color(), route.sticky, route.preview), (Some(Color::Blue), Sticky::None, None));
    assert_eq!(Client::connect(address).await.get("/").await.unwrap().status, 200);
    until(async || front.figures().await.unwrap().blue.requests == 1).await;
    assert!(former.heard("figures"));
    assert_eq!(front.inflight(Color::Blue).await.unwrap(), 1, "it is led on after it refused");
    let green = Backend::start("green").await;
    let mut next = FlatRoute::new(
        Generation(4),
        vec![routed(Color::Blue, backend.port, 95), routed(Color::Green, green.port, 5)],
    );
    next.sticky = Sticky::Cookie("side".to_owned());
    front.route(&next.into()).await.unwrap();
    assert!(former.heard(r#""weight":5"#));
    former.attending.abort();
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_of_a_former_build_can_start_an_heir() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::start("blue").await;
    let public = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let control = dir.path().join("c");
    let mut command = tokio::process::Command::new(support::exe());
    command.args(["front", "--app", "shop", "--listen", "127.0.0.1:0", "--control"]).arg(&control);
    command.arg("--log").arg(dir.path().join("log"));
    command.args(["--heir", "--route", &former_route(backend.port)]);
    command.stdin(Stdio::from(public.as_fd().try_clone_to_owned().unwrap()));
    let mut heir = command.kill_on_drop(true).spawn().unwrap();
    let front = TestFront::found(dir, control).await;
    assert_eq!(front.address, public.local_addr().unwrap());
    assert_eq!(front.get("/").await.header("x-rev"), Some("blue"));
    let (stopped, ended) = tokio::join!(front.front.stop(), heir.wait());
    stopped.unwrap();
    assert!(ended.unwrap().success());
}

/// What a former build reads of what this one writes: it looks over what it does not know.
#[test]
fn a_former_build_can_read_a_route_with_a_canary() {
    #[derive(serde::Deserialize)]
    #[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
    enum Request {
        Route { route: Former },
    }
    #[derive(serde::Deserialize)]
    struct Former {
        generation: u64,
        backends: Vec<Place>,
    }
    #[derive(serde::Deserialize)]
    struct Place {
        color: String,
        weight: u16,
    }
    let backends = vec![routed(Color::Blue, 1, 100), routed(Color::Green, 2, 0)];
    let preview = Preview { header: "x".to_owned(), cookie: "y".to_owned(), secret: "z".repeat(16) };
    let sticky = Sticky::Cookie("side".to_owned());
    let route = FlatRoute { sticky, preview: Some(preview), ..FlatRoute::new(Generation(7), backends) };
    let line = control::line(&control::Request::Route { route: Box::new(route.into()) });
    let Request::Route { route } = serde_json::from_slice(&line).unwrap();
    let told: Vec<_> = route.backends.iter().map(|place| (place.color.as_str(), place.weight)).collect();
    assert_eq!((route.generation, told), (7, vec![("blue", 100), ("green", 0)]));
}
