//! A real nginx with its own prefix, small apps that can die at once, and a client that counts what is lost.

use std::{
    fs,
    net::{SocketAddr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bgd::{
    config::settings::{NginxSettings, Ports},
    front::{
        nginx::{Limits, Nginx},
        route::{Backend, Route},
    },
    rules::{
        address::Address,
        ids::{Color, Generation, ReleaseId},
    },
};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

pub const GENEROUS: Duration = Duration::from_secs(30);

pub fn limits() -> Limits {
    Limits { command: GENEROUS, proof: GENEROUS }
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
    running: Option<Child>,
    /// The master of an nginx in the background.
    detached: Option<u32>,
    dir: TempDir,
}

/// Another app on the same nginx.
pub struct SecondApp {
    pub nginx: Nginx,
    ports: Ports,
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
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: no nginx");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("bgd-nginx-").tempdir().unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let [blue, green, public] = free_ports();
        let ports = Ports { blue, green };
        let nginx = |arguments: &[&str]| {
            let prefix = format!("{}/", dir.path().display());
            let all = ["nginx", "-p", &prefix, "-c", "nginx.conf"];
            all.iter().chain(arguments).map(|text| (*text).to_owned()).collect::<Vec<_>>()
        };
        let settings = NginxSettings {
            upstream: "shop".into(),
            file: dir.path().join("conf.d/bgd-shop.conf"),
            test: nginx(&["-t"]),
            reload: nginx(&["-s", "reload"]),
            pid_file: dir.path().join("nginx.pid"),
        };
        let front = Nginx::new(settings.clone(), "shop".parse().unwrap(), ports, None);
        let public = SocketAddr::from(([127, 0, 0, 1], public));
        Some(Self { nginx: front, settings, ports, public, running: None, detached: None, dir })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
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
        Route::new(Generation(generation), Vec::new())
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
        let backend = |color, weight, release: &str| {
            let release = release.parse().unwrap();
            Backend { color, address: Address::Port(self.ports.of(color)), weight, release }
        };
        let live = backend(Color::Blue, 100 - share, "20261121T101112Z-1-0123456");
        let canary = backend(Color::Green, share, "20261121T101112Z-2-89abcde");
        Route::new(Generation(generation), vec![live, canary])
    }

    /// The same front for another app.
    pub fn renamed(&self, app: &str) -> Nginx {
        Nginx::new(self.settings.clone(), app.parse().unwrap(), self.ports, None)
    }

    pub fn second_app(&self, app: &str) -> SecondApp {
        let [blue, green, _] = free_ports();
        let ports = Ports { blue, green };
        let file = self.path(&format!("conf.d/bgd-{app}.conf"));
        let settings = NginxSettings { upstream: app.into(), file, ..self.settings.clone() };
        SecondApp { nginx: Nginx::new(settings, app.parse().unwrap(), ports, None), ports }
    }

    /// Starts nginx and waits until it can be trusted with a reload.
    pub async fn start_nginx(&mut self, main: &str) {
        self.start_nginx_with(main, 2).await;
    }

    async fn start_nginx_with(&mut self, main: &str, workers: usize) {
        let config = format!(
            "{main}\nworker_processes {workers};\npid nginx.pid;\nerror_log error.log notice;\n\
             events {{ worker_connections 512; }}\n\
             http {{ access_log access.log; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; \
             scgi_temp_path s; uwsgi_temp_path u; include conf.d/*.conf; }}\n"
        );
        self.write("nginx.conf", &config);
        let prefix = format!("{}/", self.dir.path().display());
        let child = Command::new("nginx")
            .args(["-p", &prefix, "-c", "nginx.conf", "-g", "daemon off;"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(child);
        let log = self.path("error.log");
        let pid_file = self.settings.pid_file.clone();
        eventually("nginx has started its workers", || {
            let ready = fs::read_to_string(&pid_file).is_ok_and(|pid| !pid.trim().is_empty());
            ready && self.workers().len() == workers
        })
        .await;
        assert!(log.exists());
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
            end(&child);
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
        let prefix = format!("{}/", self.dir.path().display());
        let nginx = whole_path("nginx");
        let started = Command::new(nginx).args(["-p", &prefix, "-c", "nginx.conf"]).status().unwrap();
        assert!(started.success());
        let pid = || fs::read_to_string(&self.settings.pid_file).ok()?.trim().parse().ok();
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
        let pid = || fs::read_to_string(&self.settings.pid_file).ok()?.trim().parse().ok();
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
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(master) = self.detached {
            end_nginx(master);
        }
        if let Some(mut child) = self.running.take() {
            end(&child);
            let _ = child.wait();
        }
    }
}

/// To upgrade its binary, nginx starts itself by the name that it was started by.
fn whole_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(program));
    all.find(|path| path.exists()).unwrap_or_else(|| program.into())
}

fn end(child: &Child) {
    send(child.id(), Signal::SIGTERM);
}

/// Ends a process of an nginx, unless it is gone and its pid another's.
pub fn end_nginx(pid: u32) {
    if fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with("nginx: ")) {
        send(pid, Signal::SIGTERM);
    }
}

pub fn send(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = nix::sys::signal::kill(pid, signal);
}

pub fn workers_of(master: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
    let worker = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("worker process"))
    };
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(worker).collect()
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
    let backend = Backend { color, address: Address::Port(ports.of(color)), weight: 100, release: release() };
    Route::new(Generation(generation), vec![backend])
}

/// Below the range of outgoing connections (which `bind(0)` hands out too): under load, one of nginx's own
/// connections would otherwise take the port of an app that is down for a moment.
fn free_ports() -> [u16; 3] {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = std::process::id() as usize * 97;
    [(); 3].map(|()| {
        (0..8_000)
            .map(|_| 10_000 + u16::try_from((start + NEXT.fetch_add(1, Ordering::SeqCst)) % 9_000).unwrap())
            .find(|port| StdListener::bind(("127.0.0.1", *port)).is_ok())
            .expect("a free port")
    })
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
        Self::on(color, TcpListener::bind(("127.0.0.1", port)).await.unwrap())
    }

    /// On a port that is free.
    pub async fn start_anywhere(color: Color) -> Self {
        Self::on(color, TcpListener::bind(("127.0.0.1", 0)).await.unwrap())
    }

    fn on(color: Color, listener: TcpListener) -> Self {
        let port = listener.local_addr().unwrap().port();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let handled = Arc::new(AtomicUsize::new(0));
        let serving = tokio::spawn(serve(listener, color, in_flight.clone(), handled.clone()));
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

async fn serve(listener: TcpListener, color: Color, in_flight: Arc<AtomicUsize>, handled: Arc<AtomicUsize>) {
    // Dropped with this task: each connection ends at once.
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (in_flight, handled) = (in_flight.clone(), handled.clone());
        open.spawn(async move {
            in_flight.fetch_add(1, Ordering::SeqCst);
            let _ = answer(stream, color, &handled).await;
            in_flight.fetch_sub(1, Ordering::SeqCst);
        });
        while open.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, color: Color, handled: &AtomicUsize) -> std::io::Result<()> {
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
    let head = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    exchange(to, &head, &[]).await
}

/// One request whose body trickles in: nginx connects to the app only when it has all of it.
async fn upload(to: SocketAddr) -> Result<String, String> {
    let pieces = ["a"; 5];
    let head = "POST / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 5\r\n\r\n";
    exchange(to, head, &pieces).await
}

async fn exchange(to: SocketAddr, head: &str, pieces: &[&str]) -> Result<String, String> {
    let all = async {
        let mut stream = TcpStream::connect(to).await.map_err(|err| format!("connect: {err}"))?;
        stream.write_all(head.as_bytes()).await.map_err(|err| format!("send: {err}"))?;
        for piece in pieces {
            sleep(Duration::from_millis(40)).await;
            stream.write_all(piece.as_bytes()).await.map_err(|err| format!("body: {err}"))?;
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(|err| format!("answer: {err}"))?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {text:?}"))?;
        match head.split(' ').nth(1) {
            Some("200") => Ok(body.to_owned()),
            status => Err(format!("status {}", status.unwrap_or("?"))),
        }
    };
    timeout(GENEROUS, all).await.unwrap_or_else(|_| Err("timeout".into()))
}

/// Clients that ask without pause, each on a fresh connection: quick, slow, and uploading ones.
pub struct Load {
    stop: tokio::sync::watch::Sender<()>,
    clients: JoinSet<Told>,
}

#[derive(Default)]
pub struct Told {
    pub answered: usize,
    pub lost: Vec<String>,
}

impl Load {
    pub fn start(to: SocketAddr, clients: usize) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(());
        let mut all = JoinSet::new();
        for client in 0..clients {
            all.spawn(ask(to, client, stopped.clone()));
        }
        Self { stop, clients: all }
    }

    pub async fn stop(mut self) -> Told {
        drop(self.stop);
        let mut sum = Told::default();
        while let Some(told) = self.clients.join_next().await {
            let told = told.unwrap();
            sum.answered += told.answered;
            sum.lost.extend(told.lost);
        }
        sum
    }
}

async fn ask(to: SocketAddr, client: usize, stopped: tokio::sync::watch::Receiver<()>) -> Told {
    let mut told = Told::default();
    while stopped.has_changed().is_ok() {
        let result = match client % 3 {
            0 => get(to, "/").await,
            1 => get(to, "/slow?ms=150").await,
            _ => upload(to).await,
        };
        match result {
            Ok(_) => told.answered += 1,
            Err(why) => told.lost.push(why),
        }
    }
    told
}

/// A line with which root's nginx keeps its workers root, so that they reach a socket in whatever directory.
pub fn same_user() -> &'static str {
    if nix::unistd::Uid::effective().is_root() { "user root;" } else { "" }
}

/// A command line for the shell.
pub fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}
