//! A real HAProxy for one test, in a directory of its own: `contrib/haproxy/haproxy.cfg` with this machine's places in
//! it, apps inside the test that say their color, one or several of each, and clients with an address of their choice.
//! Nothing listens on a port but the apps: the site is a unix socket that takes the PROXY protocol.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use bgd::{
    config::settings::{Addresses, HaproxyServers, HaproxySettings, Ports},
    front::haproxy::Haproxy,
    rules::{
        address::Address,
        canary::Share,
        ids::{Color, Generation},
        route::{Route, Side},
    },
};
use nix::sys::signal::Signal;

pub use crate::stage::haproxy::shipped;
use crate::stage::{
    GENEROUS, LOOK, Place,
    haproxy::{self, Haproxy as Process},
    send, until,
};

pub struct Stage {
    place: Place,
    process: Option<Process>,
    pub haproxy: Haproxy,
    pub blue: App,
    pub green: App,
    /// The second, third, … instance of each color, on the ports behind the first one's.
    pub others: BTreeMap<Color, Vec<App>>,
}

impl Stage {
    /// `None`, with the reason printed, where HAProxy is not installed. `on` are first words of comments of the
    /// shipped configuration: the settings below them are taken in.
    pub fn set(on: &[&str]) -> Option<Self> {
        Self::with(&shipped(on))
    }

    /// With a configuration that differs from the shipped one.
    pub fn with(text: &str) -> Option<Self> {
        Self::several(text, 1)
    }

    /// With so many instances of each color.
    pub fn several(text: &str, instances: usize) -> Option<Self> {
        if !haproxy::is_installed() {
            return None;
        }
        let place = Place::new();
        let [mut blue, mut green] = [Color::Blue, Color::Green].map(|color| App::row(color, instances));
        let (first_blue, first_green) = (blue.remove(0), green.remove(0));
        let others = BTreeMap::from([(Color::Blue, blue), (Color::Green, green)]);
        let ports = Ports { blue: first_blue.port, green: first_green.port };
        let addresses = Addresses { each: u16::try_from(instances).expect("few"), ..ports.into() };
        let haproxy = Haproxy::new(settings(place.dir()), addresses);
        let mut stage = Self { place, process: None, haproxy, blue: first_blue, green: first_green, others };
        stage.write(text);
        stage.start();
        Some(stage)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    /// The front of a bgd that was started again.
    pub fn again(&self) -> Haproxy {
        self.again_with(1 + self.others[&Color::Blue].len())
    }

    /// Of a bgd whose configuration has so many instances.
    pub fn again_with(&self, instances: usize) -> Haproxy {
        let ports = Ports { blue: self.blue.port, green: self.green.port };
        let each = u16::try_from(instances).expect("few");
        Haproxy::new(settings(self.place.dir()), Addresses { each, ..ports.into() })
    }

    /// Puts this machine's places into the configuration.
    pub fn write(&self, text: &str) {
        let dir = self.place.dir();
        let bind = format!("unix@{}/web.sock accept-proxy", dir.display());
        let mut text = haproxy::placed(text, dir, &bind, [self.blue.port, self.green.port]);
        for (color, apps) in &self.others {
            for (app, number) in apps.iter().zip(2..) {
                text += &format!("    server {color}-{number} 127.0.0.1:{}\n", app.port);
            }
        }
        text = text.replace("/run/bgd/t/shop.sock", &self.place.text("log.sock"));
        text = text.replace("/var/lib/bgd/haproxy-shop.state", &self.place.text("shop.state"));
        self.place.write("haproxy.cfg", &text);
    }

    pub fn start(&mut self) {
        let started = Process::start(self.place.dir());
        assert!(self.process.replace(started).is_none(), "one at a time");
    }

    /// `kill -9` of master and worker, and a new one.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// As `systemctl reload haproxy`: the old worker ends what it has begun.
    pub fn reload(&self) {
        let process = self.process.as_ref().expect("it runs");
        let before = process.worker().expect("an answer");
        let mut looks = 0u32;
        self.eventually("a new worker answers", |_| {
            // A master that is busy starting loses the signal: it is sent again.
            if looks.is_multiple_of(200) {
                send(process.master(), Signal::SIGUSR2);
            }
            looks += 1;
            process.worker().is_some_and(|pid| pid != before)
        });
    }

    /// What HAProxy's socket answers to a command.
    pub fn ask(&self, command: &str) -> io::Result<String> {
        haproxy::ask(self.place.dir(), command)
    }

    pub fn eventually(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        until(what, || holds(self));
    }

    /// To one color, alone or beside a canary with a share.
    pub fn to(&self, live: Color, share: Option<u16>) -> Route {
        let side = |color: Color| {
            let port = if color == Color::Blue { self.blue.port } else { self.green.port };
            let addresses = vec![Address::Port(port); 1 + self.others[&color].len()];
            Side {
                color,
                addresses,
                release: "20261121T101112Z-1-0123456".parse().expect("a release"),
                directory: None,
            }
        };
        let route = Route::to(Generation(1), side(live));
        match share {
            Some(share) => route.beside(side(live.other()), Share::capped(share)),
            None => route,
        }
    }

    /// One request of the client with that number.
    pub fn get(&self, client: u32, path: &str, head: &str) -> io::Result<Answer> {
        let mut stream = self.send(client, path, head)?;
        read(&mut stream)
    }

    /// One request; the answer is read later.
    pub fn send(&self, client: u32, path: &str, head: &str) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.path("web.sock"))?;
        stream.set_read_timeout(Some(GENEROUS))?;
        let address = Ipv4Addr::from(0x0A00_0000 + client * 7);
        let text = format!(
            "PROXY TCP4 {address} 10.255.0.1 4000 80\r\nGET {path} HTTP/1.1\r\nHost: shop\r\n{head}Connection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes())?;
        Ok(stream)
    }

    /// Where so many clients end up, one request each.
    pub fn colors(&self, clients: u32) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for client in 0..clients {
            let color = self.get(client, "/", "").map_or_else(|err| err.to_string(), |answer| answer.body);
            *seen.entry(color).or_default() += 1;
        }
        seen
    }

    /// How many of so many requests each instance of a color answers, counted from 1.
    pub fn instances(&self, requests: u32) -> BTreeMap<(String, usize), u32> {
        let mut seen = BTreeMap::new();
        for client in 0..requests {
            let answer = self.get(client, "/", "").expect("an answer");
            let number = answer.head.lines().find_map(|line| line.strip_prefix("instance: ")?.parse().ok());
            *seen.entry((answer.body, number.expect("its number"))).or_default() += 1;
        }
        seen
    }

    /// The next datagrams of the traffic log.
    pub fn log_socket(&self) -> UnixDatagram {
        let socket = UnixDatagram::bind(self.path("log.sock")).expect("the log's socket");
        socket.set_read_timeout(Some(GENEROUS)).expect("a limit");
        socket
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for app in [&self.blue, &self.green].into_iter().chain(self.others.values().flatten()) {
            app.open();
        }
    }
}

fn settings(dir: &Path) -> HaproxySettings {
    HaproxySettings {
        socket: dir.join("h.sock"),
        backend: "shop".to_owned(),
        servers: HaproxyServers { blue: "blue".to_owned(), green: "green".to_owned() },
        state_file: Some(dir.join("shop.state")),
    }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn read(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::other(format!("the answer is cut short: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A server on a port of its own that says its color.
pub struct App {
    pub port: u16,
    closed: Arc<AtomicBool>,
    /// What `/check` answers.
    status: Arc<Mutex<&'static str>>,
    /// Requests that wait at `/held`.
    pub held: Arc<Mutex<u32>>,
    dead: Arc<AtomicBool>,
}

impl App {
    /// So many on ports that follow each other.
    fn row(color: Color, instances: usize) -> Vec<Self> {
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
        let row = || {
            let first = bind(0)?;
            let port = first.local_addr().ok()?.port();
            let others = (1..instances).map(|at| bind(port.checked_add(u16::try_from(at).ok()?)?));
            std::iter::once(Some(first)).chain(others).collect::<Option<Vec<_>>>()
        };
        let listeners = (0..1000).find_map(|_| row()).expect("ports that follow each other");
        listeners
            .into_iter()
            .zip(1..)
            .map(|(listener, number)| Self::start(color, (listener, number)))
            .collect()
    }

    fn start(color: Color, (listener, number): (TcpListener, usize)) -> Self {
        let port = listener.local_addr().expect("its address").port();
        let app = Self {
            port,
            closed: Arc::default(),
            status: Arc::new(Mutex::new("200 OK")),
            held: Arc::default(),
            dead: Arc::default(),
        };
        let (closed, status, held, dead) =
            (app.closed.clone(), app.status.clone(), app.held.clone(), app.dead.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if dead.load(Ordering::Relaxed) {
                    return;
                }
                let (closed, status, held) = (closed.clone(), status.clone(), held.clone());
                // A client that breaks off is its own affair.
                thread::spawn(move || converse(stream, (color, number), (&closed, &status, &held)).ok());
            }
        });
        app
    }

    /// `/held` waits from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.closed.store(false, Ordering::Relaxed);
    }

    pub fn fail_checks(&self) {
        *self.status.lock().expect("the status") = "500 Broken";
    }

    pub fn pass_checks(&self) {
        *self.status.lock().expect("the status") = "200 OK";
    }

    /// Nothing listens on the port any more.
    pub fn die(&self) {
        self.dead.store(true, Ordering::Relaxed);
        let until = Instant::now() + GENEROUS;
        // Each connection wakes the listener, until it is gone.
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
            assert!(Instant::now() < until, "it still listens");
            thread::sleep(LOOK);
        }
    }
}

fn converse(
    stream: TcpStream,
    (color, number): (Color, usize),
    (closed, status, held): (&AtomicBool, &Mutex<&'static str>, &Mutex<u32>),
) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = first.clone();
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let mut answer = "200 OK";
    match path {
        "/check" => answer = *status.lock().expect("the status"),
        "/broken" => answer = "500 Broken",
        "/gone" => return Ok(()),
        "/held" => {
            *held.lock().expect("the count") += 1;
            while closed.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
            }
        }
        _ => {}
    }
    let stream = reader.get_mut();
    write!(
        stream,
        "HTTP/1.1 {answer}\r\nConnection: close\r\nInstance: {number}\r\nContent-Length: {}\r\n\r\n{color}",
        color.as_str().len()
    )?;
    stream.shutdown(Shutdown::Write)
}
