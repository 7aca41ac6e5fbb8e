//! A real nginx with its own prefix, small apps that can die at once, and a client that counts what is lost.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use bgd::{
    config::settings::{NginxSettings, Ports},
    front::nginx::{Nginx, ReloadLimits},
    rules::{
        address::Address,
        canary::Share,
        ids::{Color, Generation, ReleaseId},
        route::{Route, Side},
    },
};
use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UnixListener},
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep},
};

pub use crate::stage::{
    GENEROUS,
    nginx::{same_user, workers_of},
    send,
};
use crate::stage::{
    Nginx as Web, Place, http,
    load::{Client, Counts, Load},
    ports::{self, Port},
    processes,
};

pub fn limits() -> ReloadLimits {
    ReloadLimits { command: GENEROUS, proof: GENEROUS }
}

pub fn soon() -> Instant {
    Instant::now() + GENEROUS
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = soon();
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub struct Stage {
    pub nginx: Nginx,
    pub settings: NginxSettings,
    pub ports: Ports,
    pub public: SocketAddr,
    web: Web,
    running: Option<Child>,
    /// The master of an nginx in the background.
    detached: Option<u32>,
    place: Place,
    _reserved: Vec<Port>,
}

/// Another app on the same nginx.
pub struct SecondApp {
    pub nginx: Nginx,
    ports: Ports,
    _reserved: [Port; 2],
}

impl SecondApp {
    pub fn route(&self, generation: u64, color: Color) -> Route {
        route(self.ports, generation, color)
    }
}

/// Undoes a mount.
pub struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    }
}

impl Stage {
    pub async fn new() -> Option<Self> {
        let place = Place::new();
        let web = Web::at(place.dir().to_owned())?;
        let reserved = ports::reserve_all(3);
        let ports = Ports { blue: reserved[0].number, green: reserved[1].number };
        let settings = NginxSettings {
            upstream: "shop".into(),
            file: web.conf("bgd-shop.conf"),
            test: web.words(&["-t"]),
            reload: web.words(&["-s", "reload"]),
            pid_file: web.pid_file(),
        };
        let front = Nginx::new(settings.clone(), "shop".parse().unwrap(), ports, None);
        let public = SocketAddr::from(([127, 0, 0, 1], reserved[2].number));
        Some(Self {
            nginx: front,
            settings,
            ports,
            public,
            web,
            running: None,
            detached: None,
            place,
            _reserved: reserved,
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        self.place.write(name, text);
    }

    pub fn write_site(&self) {
        self.write_site_with("proxy_next_upstream off;");
    }

    /// The site with more in its server block. It believes whom a client says to be.
    pub fn write_site_with(&self, more: &str) {
        let site = format!(
            "server {{ listen {}; set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For; {more} \
             location / {{ proxy_pass http://shop; }} }}\n",
            self.public
        );
        self.write("conf.d/site.conf", &site);
    }

    pub fn include(&self) -> String {
        fs::read_to_string(&self.settings.file).unwrap()
    }

    pub fn release(&self) -> ReleaseId {
        release()
    }

    pub fn route(&self, generation: u64, color: Color) -> Route {
        route(self.ports, generation, color)
    }

    pub fn empty(&self, generation: u64) -> Route {
        Route::nowhere(Generation(generation))
    }

    /// The same front with other settings.
    pub fn with(&self, settings: NginxSettings) -> Nginx {
        Nginx::new(settings, "shop".parse().unwrap(), self.ports, None)
    }

    /// The same front, which tells a socket of each request.
    pub fn telling(&self, socket: &Path) -> Nginx {
        Nginx::new(self.settings.clone(), "shop".parse().unwrap(), self.ports, Some(socket.to_owned()))
    }

    /// Blue live beside green with a share.
    pub fn shared(&self, generation: u64, share: u16) -> Route {
        let side = |color, release: &str| {
            let release = release.parse().unwrap();
            Side { color, addresses: vec![Address::Port(self.ports.of(color))], release, directory: None }
        };
        let live = side(Color::Blue, "20261121T101112Z-1-0123456");
        let canary = side(Color::Green, "20261121T101112Z-2-89abcde");
        Route::to(Generation(generation), live).beside(canary, Share::capped(share))
    }

    /// The same front for another app.
    pub fn renamed(&self, app: &str) -> Nginx {
        Nginx::new(self.settings.clone(), app.parse().unwrap(), self.ports, None)
    }

    pub fn second_app(&self, app: &str) -> SecondApp {
        let reserved = [ports::reserve(), ports::reserve()];
        let ports = Ports { blue: reserved[0].number, green: reserved[1].number };
        let file = self.web.conf(&format!("bgd-{app}.conf"));
        let settings = NginxSettings { upstream: app.into(), file, ..self.settings.clone() };
        let nginx = Nginx::new(settings, app.parse().unwrap(), ports, None);
        SecondApp { nginx, ports, _reserved: reserved }
    }

    /// Starts nginx and waits until it can be trusted with a reload.
    pub async fn start_nginx(&mut self, main: &str) {
        self.start_nginx_with(main, 2).await;
    }

    async fn start_nginx_with(&mut self, main: &str, workers: usize) {
        self.web.configure_small(main, workers);
        self.running = Some(self.web.spawn());
        eventually("nginx has started its workers", || {
            self.web.master().is_some() && self.workers().len() == workers
        })
        .await;
        assert!(self.path("error.log").exists());
    }

    /// nginx with so many workers and a site that passes a failed request on, routed to blue, generation 1.
    pub async fn serve_passing_on(&mut self, workers: usize) {
        self.write_site_with("");
        self.nginx.ensure_file().await.unwrap();
        self.start_nginx_with(same_user(), workers).await;
        self.nginx.route(&self.route(1, Color::Blue), limits()).await.unwrap();
    }

    /// nginx with the site, routed to a color, generation 1.
    pub async fn serve(&mut self, color: Color) {
        self.write_site();
        self.nginx.ensure_file().await.unwrap();
        self.start_nginx("").await;
        self.nginx.route(&self.route(1, color), limits()).await.unwrap();
        eventually("the first workers are gone", || self.workers().len() == 2).await;
    }

    pub async fn stop_nginx(&mut self) {
        if let Some(mut child) = self.running.take() {
            send(child.id(), Signal::SIGTERM);
            eventually("nginx has ended", || child.try_wait().unwrap().is_some()).await;
        }
    }

    /// Pids of all workers, shutting down or not.
    pub fn workers(&self) -> Vec<u32> {
        let master = self.running.as_ref().map(Child::id).or(self.detached);
        master.map_or_else(Vec::new, workers_of)
    }

    /// As [`Stage::serve`], with nginx in the background: what a terminal or a test has for a child is not upgraded.
    pub async fn serve_detached(&mut self, color: Color) {
        self.serve(color).await;
        self.stop_nginx().await;
        let started = Command::new(whole_path("nginx")).args(&self.web.words(&[])[1..]).status().unwrap();
        assert!(started.success());
        let pid = || self.web.master();
        eventually("nginx serves", || pid().is_some_and(|pid| workers_of(pid).len() == 2)).await;
        self.detached = pid();
    }

    /// The master of an nginx in the background.
    pub fn master(&self) -> u32 {
        self.detached.expect("nginx runs in the background")
    }

    /// Upgrades the binary as far as to two masters, which both serve; the new one's pid.
    pub async fn begin_upgrade(&self) -> u32 {
        send(self.master(), Signal::SIGUSR2);
        let pid = || self.web.master();
        let is_new = |pid: u32| pid != self.master() && workers_of(pid).len() == self.workers().len();
        eventually("two masters serve", || pid().is_some_and(is_new)).await;
        pid().unwrap()
    }

    /// Nothing but the includes themselves lies in the include directory.
    pub fn assert_tidy(&self) {
        let hidden = fs::read_dir(self.path("conf.d")).unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with('.').then_some(name)
        });
        assert_eq!(hidden.collect::<Vec<_>>(), Vec::<String>::new());
    }

    pub async fn get(&self, path: &str) -> Result<String, String> {
        get(self.public, path).await
    }

    pub fn bind_over_include(&self) -> Option<Mounted> {
        let source = self.path("bound.conf");
        fs::copy(&self.settings.file, &source).unwrap();
        mount(Some(&source), &self.settings.file, None)
    }

    pub fn small_disk_under_includes(&self) -> Option<Mounted> {
        mount(None, &self.path("conf.d"), Some("size=64k"))
    }

    pub fn fill_disk(&self) {
        let filler = self.path("conf.d/.filler");
        let mut file = fs::File::create(filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(master) = self.detached {
            end_nginx(master);
        }
        if let Some(mut child) = self.running.take() {
            processes::end(&mut child);
        }
    }
}

/// To upgrade its binary, nginx starts itself by the name that it was started by.
fn whole_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(program));
    all.find(|path| path.exists()).unwrap_or_else(|| program.into())
}

/// Ends a process of an nginx, unless it is gone and its pid another's.
pub fn end_nginx(pid: u32) {
    if fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("nginx: ")) {
        send(pid, Signal::SIGTERM);
    }
}

fn mount(source: Option<&Path>, target: &Path, options: Option<&str>) -> Option<Mounted> {
    use nix::mount::MsFlags;
    let (kind, flags) = match source {
        Some(_) => (None, MsFlags::MS_BIND),
        None => (Some("tmpfs"), MsFlags::empty()),
    };
    nix::mount::mount(source, target, kind, flags, options).ok()?;
    Some(Mounted(target.to_owned()))
}

fn release() -> ReleaseId {
    "20261121T101112Z-1-0123456".parse().unwrap()
}

fn route(ports: Ports, generation: u64, color: Color) -> Route {
    let live =
        Side { color, addresses: vec![Address::Port(ports.of(color))], release: release(), directory: None };
    Route::to(Generation(generation), live)
}

/// An app that dies, when told, with everything it has open.
pub struct App {
    pub color: Color,
    pub port: u16,
    in_flight: Arc<AtomicUsize>,
    handled: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl App {
    pub async fn start(color: Color, port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        Self::on(color, listener.local_addr().unwrap().port(), Door::Port(listener))
    }

    /// On a unix socket.
    pub fn at(color: Color, path: PathBuf) -> Self {
        let _stale = fs::remove_file(&path);
        Self::on(color, 0, Door::Socket(UnixListener::bind(path).unwrap()))
    }

    /// On a port that is free.
    pub async fn start_anywhere(color: Color) -> Self {
        Self::start(color, 0).await
    }

    fn on(color: Color, port: u16, door: Door) -> Self {
        let in_flight = Arc::new(AtomicUsize::new(0));
        let handled = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(serve(door, color, in_flight.clone(), handled.clone()));
        Self { color, port, in_flight, handled, serving }
    }

    /// How many requests it has read.
    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Ends it at once; afterwards its port is free.
    pub async fn kill(mut self) {
        self.serving.abort();
        let _ = (&mut self.serving).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

enum Door {
    Port(TcpListener),
    Socket(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Door {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Port(listener) => Box::new(listener.accept().await?.0),
            Self::Socket(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn serve(door: Door, color: Color, in_flight: Arc<AtomicUsize>, handled: Arc<AtomicUsize>) {
    // Dropped with this task: each connection ends at once.
    let mut open = JoinSet::new();
    while let Ok(stream) = door.accept().await {
        let (in_flight, handled) = (in_flight.clone(), handled.clone());
        open.spawn(async move {
            in_flight.fetch_add(1, Ordering::SeqCst);
            let _ = answer(stream, color, &handled).await;
            in_flight.fetch_sub(1, Ordering::SeqCst);
        });
        while open.try_join_next().is_some() {}
    }
}

async fn answer(stream: Box<dyn Stream>, color: Color, handled: &AtomicUsize) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    handled.fetch_add(1, Ordering::SeqCst);
    if let Some((_, rest)) = first.split_once("?ms=") {
        sleep(Duration::from_millis(rest.split(' ').next().unwrap().parse().unwrap())).await;
    }
    let text = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{color}", color.as_str().len());
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// One GET on a fresh connection; the body, or what went wrong.
pub async fn get(to: SocketAddr, path: &str) -> Result<String, String> {
    let path = path.to_owned();
    spawn_blocking(move || body(http::get(to, &path))).await.unwrap()
}

fn body(answer: io::Result<http::Answer>) -> Result<String, String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(format!("status {}", answer.status)),
        Err(err) => Err(err.to_string()),
    }
}

/// One request whose body trickles in: nginx connects to the app only when it has all of it.
fn upload(to: SocketAddr) -> io::Result<http::Answer> {
    let mut stream = http::connect(to)?;
    stream.get_mut().write_all(b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\n")?;
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(40));
        stream.get_mut().write_all(b"a")?;
    }
    http::answer(&mut stream)
}

/// Clients that ask without pause, each on a fresh connection: quick, slow, and uploading ones.
pub fn load(to: SocketAddr, clients: usize) -> Load {
    let client = |number: usize| {
        Box::new(move || match number % 3 {
            0 => body(http::get(to, "/")),
            1 => body(http::get(to, "/slow?ms=150")),
            _ => body(upload(to)),
        }) as Client
    };
    Load::of((0..clients).map(client), Duration::ZERO)
}

/// Ends it while the apps go on.
pub async fn end(load: Load) -> Counts {
    spawn_blocking(|| load.end()).await.unwrap()
}

/// A command line for the shell.
pub fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}
