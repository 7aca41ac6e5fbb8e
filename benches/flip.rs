//! The way back while the other color is warm: from the request on the control socket to the first answer of the
//! other color, seen by a client that asks all the time, on the builtin front and behind nginx; and the whole
//! command `bgd flip`; behind nginx on ports, where it reloads, and on unix sockets, where it moves a link. Against
//! what nginx takes by itself from `nginx -s reload` to the first answer, in the same run and in rounds that take turns.

mod stage;

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

use serde_json::json;
use stage::{
    BGD, Daemon, Nginx, Place, Remote, Res, Sample, Table,
    daemon::{App, DEMO, builtin},
    figures::{ms, verdict},
    http::{self, Client},
    reserve_for_good,
};

/// Between two requests of the watching client: what its figures may be too long by.
const PAUSE: Duration = Duration::from_micros(50);

fn main() -> ExitCode {
    stage::main(run)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A client that asks all the time, on one connection, and remembers when the version last changed.
struct Watcher {
    seen: Arc<Mutex<(String, Instant)>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(front: SocketAddr) -> Res<Self> {
        let first = http::get(front, "/")?;
        let seen = Arc::new(Mutex::new((first.field("x-version").to_owned(), Instant::now())));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut client = Client::new(front);
            while !stopped.load(Ordering::Relaxed) {
                // Room for what is measured: this client and what serves it would fill two cores between them.
                sleep(PAUSE);
                // nginx closes kept connections at a reload; the next round opens another.
                let Ok(answer) = client.get("/") else { continue };
                let now = Instant::now();
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.0 != answer.field("x-version") {
                    *seen = (answer.field("x-version").to_owned(), now);
                }
            }
        });
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    fn version(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// When another version than this one was first seen.
    fn changed_from(&self, version: &str) -> Res<Instant> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let (now, at) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if now != version {
                return Ok(at);
            }
            if Instant::now() > until {
                return Err(format!("{version} still answers").into());
            }
            sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// One app under bgd, both colors up.
struct Flipped {
    name: &'static str,
    front: SocketAddr,
    commits: Vec<String>,
    first: Sample,
    command: Sample,
}

impl Flipped {
    fn app(remote: &Remote, name: &'static str, ports: [u16; 2], front: String) -> App<'static> {
        let more = "standby = \"1h\"".to_owned();
        App { name, remote: remote.path().to_owned(), ports, front, start: DEMO, more, interval: "10ms" }
    }

    /// Deploys two versions.
    fn new(daemon: &Daemon, remote: &Remote, name: &'static str, front: u16) -> Res<Self> {
        let front = local(front);
        let mut commits = Vec::new();
        for (at, idle) in ["stopped", "warm"].into_iter().enumerate() {
            let version = format!("{name}-{at}");
            let commit = remote.stage_version(&version)?;
            remote.push(commit)?;
            http::first_answer(front, &version)?;
            daemon.rests(name, &commit.to_string(), idle)?;
            commits.push(commit.to_string());
        }
        Ok(Self { name, front, commits, first: Sample::default(), command: Sample::default() })
    }

    fn rest(&self, daemon: &Daemon, version: &str) -> Res<()> {
        let at = usize::from(version.ends_with('1'));
        daemon.rests(self.name, &self.commits[1 - at], "warm").map(drop)
    }

    /// One flip by the socket, one by the command.
    fn round(&mut self, daemon: &Daemon) -> Res<()> {
        {
            let watcher = Watcher::start(self.front)?;
            let before = watcher.version();
            let call = daemon.call(&json!({"op": "flip", "app": self.name}))?;
            let sent = call.sent;
            self.first.add(watcher.changed_from(&before)? - sent);
            call.done()?;
            self.rest(daemon, &before)?;
        }
        let before = http::get(self.front, "/")?.field("x-version").to_owned();
        self.command.add(daemon.flip_command(self.name)?);
        self.rest(daemon, &before)
    }
}

/// nginx by itself, between two apps that run.
struct Reloaded {
    front: SocketAddr,
    ports: [u16; 2],
    apps: Vec<Child>,
    first: Sample,
}

impl Reloaded {
    fn new(place: &Place, ports: [u16; 3]) -> Res<Self> {
        let [blue, green, front] = ports;
        let mut apps = Vec::new();
        for (at, port) in [blue, green].into_iter().enumerate() {
            let dir = place.path(&format!("by-hand-{at}"));
            std::fs::create_dir(&dir)?;
            std::fs::write(dir.join("app.conf"), format!("version = hand-{at}\ndatabase = reachable\n"))?;
            let app = Command::new(BGD)
                .arg("demo-app")
                .env("PORT", port.to_string())
                .current_dir(&dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()?;
            apps.push(app);
            http::first_answer(local(port), &format!("hand-{at}"))?;
        }
        Ok(Self { front: local(front), ports: [blue, green], apps, first: Sample::default() })
    }

    fn round(&mut self, nginx: &Nginx, number: usize) -> Res<()> {
        let watcher = Watcher::start(self.front)?;
        let before = watcher.version();
        nginx.upstream("hand", self.ports[(number + 1) % 2], "");
        let begun = Instant::now();
        nginx.done(&["-s", "reload"]);
        self.first.add(watcher.changed_from(&before)? - begun);
        drop(watcher);
        nginx.settled();
        Ok(())
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        for app in &mut self.apps {
            let _gone = app.kill();
            let _ended = app.wait();
        }
    }
}

fn run() -> Res<()> {
    let rounds = stage::count("ROUNDS", 25);
    let place = Place::new();
    let nginx = Nginx::prepare(&place);
    let [b1, g1, f1, b2, g2, f2, b3, g3, f3, f4]: [u16; 10] = reserve_for_good();
    let remote = |name: &str| Remote::create(&place.path(&format!("{name}.git")));
    let (shop, site, link) = (remote("shop")?, remote("site")?, remote("link")?);
    let mut apps = vec![Flipped::app(&shop, "shop", [b1, g1], builtin(local(f1)))];
    if let Some(nginx) = &nginx {
        nginx.site("site", local(f2));
        nginx.site("hand", local(f3));
        nginx.upstream("hand", b3, "");
        apps.push(Flipped::app(&site, "site", [b2, g2], nginx.front("site")));
        nginx.site("link", local(f4));
        apps.push(Flipped::app(&link, "link", [0, 0], nginx.front("link")));
    }
    let daemon = Daemon::start(&place, &apps)?;
    let mut on_builtin = Flipped::new(&daemon, &shop, "shop", f1)?;
    let mut behind = None;
    if let Some(nginx) = &nginx {
        nginx.start_with("bgd-site.conf");
        let apps = [Flipped::new(&daemon, &site, "site", f2)?, Flipped::new(&daemon, &link, "link", f4)?];
        behind = Some((apps, Reloaded::new(&place, [b3, g3, f3])?, nginx));
    }
    for number in 0..rounds {
        on_builtin.round(&daemon)?;
        if let Some(([site, link], alone, nginx)) = &mut behind {
            site.round(&daemon)?;
            nginx.settled();
            link.round(&daemon)?;
            alone.round(nginx, number)?;
        }
    }
    let behind = behind.as_ref().map(|(apps, alone, _)| (apps, &alone.first));
    report(&on_builtin, behind, rounds);
    drop(daemon);
    Ok(())
}

fn report(shop: &Flipped, behind: Option<(&[Flipped; 2], &Sample)>, rounds: usize) {
    let title =
        format!("warm flip, {rounds} rounds: from the request to the first answer of the other color");
    let mut table = Table::new(&title, &["", "median", "p90", "reload = 1", "aim", ""]);
    let mut row = |name: &str, sample: &Sample, [ratio, aim, verdict]: [String; 3]| {
        let [median, p90] = sample.show();
        table.row([name.to_owned(), median, p90, ratio, aim, verdict]);
    };
    let none = String::new;
    let met = verdict(shop.first.median(), 1.0);
    row("builtin, control socket", &shop.first, [none(), "<= 1 ms".to_owned(), met]);
    row("builtin, `bgd flip` as a whole", &shop.command, [none(), none(), none()]);
    if let Some(([site, link], floor)) = behind {
        let over = |sample: &Sample| sample.median() / floor.median();
        let ratio = format!("{:.2}", over(&site.first));
        let aim = format!("<= {}", ms(floor.median() * 1.1));
        row("nginx, control socket", &site.first, [ratio, aim, verdict(over(&site.first), 1.1)]);
        let ratio = format!("{:.2}", over(&site.command));
        row("nginx, `bgd flip` as a whole", &site.command, [ratio, none(), none()]);
        let ratio = format!("{:.2}", over(&link.first));
        row("nginx, link to a unix socket", &link.first, [ratio, none(), none()]);
        let ratio = format!("{:.2}", over(&link.command));
        row("nginx, link, `bgd flip` as a whole", &link.command, [ratio, none(), none()]);
        row("nginx -s reload alone", floor, ["1.00".to_owned(), none(), none()]);
    }
    table.print();
}
