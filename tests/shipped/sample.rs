//! A daemon of its own for one sample: a directory, a bare remote, free ports, clients that count, and an end that
//! leaves nothing behind, also when a test fails.

use std::{
    cell::RefCell,
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use toml::{Table, Value};

const GENEROUS: Duration = Duration::from_secs(60);
/// Between two looks at what can't be awaited, and between two requests of a client.
const LOOK: Duration = Duration::from_millis(20);

/// What routes the traffic of a sample.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Front {
    Builtin,
    Nginx,
    Haproxy,
}

/// One directory of `contrib/`, by its name, and what has to differ here.
pub struct Sample<'a> {
    pub name: &'a str,
    /// Where the app tells its commit.
    pub path: &'a str,
    pub front: Front,
    /// The app: files, and their names in the repository.
    pub files: &'a [(PathBuf, &'a str)],
    /// In place of a build that needs the network.
    pub build: Option<&'a str>,
    /// In place of a start that is not for who runs the tests.
    pub start: Option<&'a str>,
    pub env: &'a [(&'a str, &'a str)],
}

impl<'a> Sample<'a> {
    pub fn of(name: &'a str) -> Self {
        Self { name, path: "/up", front: Front::Builtin, files: &[], build: None, start: None, env: &[] }
    }
}

pub fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// Whether all of them are; says which one is missing.
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$1\"", "sh", program])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success();
        if !found {
            eprintln!("skipped: no {program}");
        }
        found
    })
}

/// Sets a key by its dotted path.
pub fn set(root: &mut Value, path: &str, value: Value) {
    let (keys, last) = path.rsplit_once('.').unwrap();
    let mut at = root;
    for key in keys.split('.') {
        let table = at.as_table_mut().unwrap();
        at = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    }
    at.as_table_mut().unwrap().insert(last.to_owned(), value);
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// What the clients saw.
pub struct Seen {
    pub answered: usize,
    pub lost: Vec<String>,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Load {
    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen { answered: 0, lost: Vec::new() };
        for client in self.clients {
            let seen = client.join().unwrap();
            all.answered += seen.answered;
            all.lost.extend(seen.lost);
        }
        all
    }
}

/// What is kept running.
pub struct Kept {
    stop: Arc<AtomicBool>,
    runs: JoinHandle<()>,
}

impl Kept {
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.runs.join().unwrap();
    }
}

pub struct Stage {
    dir: TempDir,
    public: u16,
    processes: RefCell<Vec<Child>>,
}

impl Stage {
    pub fn set(sample: &Sample<'_>) -> Self {
        let dir = tempfile::Builder::new().prefix("bgd-contrib-").tempdir().unwrap();
        let [blue, green, public] = free_ports();
        let stage = Self { dir, public, processes: RefCell::default() };
        stage.configure(sample, [blue, green]);
        stage.make_repositories(sample);
        match sample.front {
            Front::Builtin => {}
            Front::Nginx => stage.start_nginx(),
            Front::Haproxy => stage.start_haproxy(sample, [blue, green]),
        }
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The shipped file with this machine's places in it.
    fn configure(&self, sample: &Sample<'_>, ports: [u16; 2]) {
        let text = fs::read_to_string(contrib(sample.name).join("bgd.toml")).unwrap();
        let mut root: Value = toml::from_str(&text).unwrap();
        let app = root["app"]["shop"].as_table_mut().unwrap();
        // The account that runs the tests will do.
        app.remove("user");
        let ports = ports.map(|port| Value::from(i64::from(port)));
        set(&mut root, "app.shop.ports", Value::Array(ports.to_vec()));
        set(&mut root, "app.shop.remote", Value::from(self.text("shop.git")));
        set(&mut root, "app.shop.watch.for", Value::from("500ms"));
        set(&mut root, "app.shop.health.interval", Value::from("100ms"));
        set(&mut root, "daemon.state_dir", Value::from(self.text("state")));
        set(&mut root, "daemon.runtime_dir", Value::from(self.text("run")));
        for (name, value) in sample.env {
            set(&mut root, &format!("app.shop.env.{name}"), Value::from(*value));
        }
        if let Some(build) = sample.build {
            set(&mut root, "app.shop.build", Value::from(build));
        }
        if let Some(start) = sample.start {
            set(&mut root, "app.shop.start", Value::from(start));
        }
        match sample.front {
            Front::Builtin => {
                let listen = format!("127.0.0.1:{}", self.public);
                set(&mut root, "app.shop.front.listen", Value::from(listen));
            }
            Front::Nginx => {
                set(&mut root, "app.shop.front.file", Value::from(self.text("conf.d/bgd-shop.conf")));
                set(&mut root, "app.shop.front.test", self.nginx(&["-t"]));
                set(&mut root, "app.shop.front.reload", self.nginx(&["-s", "reload"]));
                set(&mut root, "app.shop.front.pid_file", Value::from(self.text("nginx.pid")));
            }
            Front::Haproxy => {
                set(&mut root, "app.shop.front.socket", Value::from(self.text("h.sock")));
            }
        }
        fs::write(self.path("bgd.toml"), toml::to_string(&root).unwrap()).unwrap();
    }

    fn nginx(&self, arguments: &[&str]) -> Value {
        let prefix = format!("{}/", self.dir.path().display());
        let all = ["nginx", "-p", &prefix, "-c", "nginx.conf"];
        Value::Array(all.iter().chain(arguments).map(|word| Value::from(*word)).collect())
    }

    fn make_repositories(&self, sample: &Sample<'_>) {
        self.git(&["init", "-q", "--bare", "-b", "main", &self.text("shop.git")]);
        self.git(&["init", "-q", "-b", "main", &self.text("work")]);
        for (from, to) in sample.files {
            let to = self.path("work").join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
    }

    /// An nginx of its own, without the site so far.
    fn start_nginx(&self) {
        let dir = self.dir.path().display();
        fs::create_dir(self.path("conf.d")).unwrap();
        let conf = format!(
            "daemon off; pid {dir}/nginx.pid; error_log {dir}/error.log; worker_processes 1;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2;\n\
             fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;\n\
             include {dir}/conf.d/*.conf; }}\n"
        );
        fs::write(self.path("nginx.conf"), conf).unwrap();
        let prefix = format!("{dir}/");
        let nginx = Command::new("nginx").args(["-p", &prefix, "-c", "nginx.conf"]).spawn().unwrap();
        self.processes.borrow_mut().push(nginx);
        let pid_file = self.path("nginx.pid");
        self.eventually("nginx runs", || fs::read(&pid_file).is_ok_and(|pid| !pid.is_empty()));
    }

    /// A HAProxy of its own with the shipped configuration.
    fn start_haproxy(&self, sample: &Sample<'_>, [blue, green]: [u16; 2]) {
        let mut text = fs::read_to_string(contrib(sample.name).join("haproxy.cfg")).unwrap();
        for (shipped, here) in [
            ("/run/haproxy/admin.sock", self.text("h.sock")),
            ("bind :80", format!("bind 127.0.0.1:{}", self.public)),
            ("127.0.0.1:9501", format!("127.0.0.1:{blue}")),
            ("127.0.0.1:9502", format!("127.0.0.1:{green}")),
        ] {
            assert!(text.contains(shipped), "{shipped}");
            text = text.replace(shipped, &here);
        }
        fs::write(self.path("haproxy.cfg"), text).unwrap();
        let mut haproxy = Command::new("/usr/sbin/haproxy");
        haproxy.arg("-db").arg("-f").arg(self.path("haproxy.cfg"));
        self.processes.borrow_mut().push(haproxy.stdin(Stdio::null()).spawn().unwrap());
        self.eventually("haproxy listens", || TcpStream::connect(("127.0.0.1", self.public)).is_ok());
    }

    /// The last step with an nginx that is already there: its site gets the shipped `proxy_pass`.
    pub fn open_site(&self, sample: &Sample<'_>) {
        if sample.front != Front::Nginx {
            return;
        }
        let site = fs::read_to_string(contrib(sample.name).join("site.conf")).unwrap();
        assert!(site.contains("listen 80;"), "{site}");
        let site = site.replace("listen 80;", &format!("listen 127.0.0.1:{};", self.public));
        fs::write(self.path("conf.d/shop.conf"), site).unwrap();
        let prefix = format!("{}/", self.dir.path().display());
        for arguments in [&["-t"][..], &["-s", "reload"]] {
            let mut nginx = Command::new("nginx");
            let output = nginx.args(["-p", &prefix, "-c", "nginx.conf"]).args(arguments).output().unwrap();
            assert!(output.status.success(), "nginx {arguments:?}: {output:?}");
        }
        self.eventually("the site is open", || TcpStream::connect(("127.0.0.1", self.public)).is_ok());
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Ann", "-c", "user.email=ann@example.com"])
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A commit, pushed; returns its name.
    pub fn push(&self, message: &str) -> String {
        let work = self.text("work");
        fs::write(self.path("work/NOTES"), message).unwrap();
        self.git(&["-C", &work, "add", "-A"]);
        self.git(&["-C", &work, "commit", "-q", "-m", message]);
        self.git(&["-C", &work, "push", "-q", &self.text("shop.git"), "main"]);
        self.git(&["-C", &work, "rev-parse", "HEAD"])
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bgd"));
        command.arg("--config").arg(self.path("bgd.toml")).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn start_daemon(&self) {
        let log = fs::File::create(self.path("daemon.log")).unwrap();
        let daemon = self.command(&["daemon"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.processes.borrow_mut().push(daemon);
        // 4: can't be reached; anything else is an answer.
        self.eventually("the daemon answers", || self.try_bgd(&["status"]).status.code() != Some(4));
    }

    fn try_bgd(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that has to succeed; tells all there is to know when it does not.
    pub fn bgd(&self, arguments: &[&str]) -> String {
        let output = self.try_bgd(arguments);
        if !output.status.success() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let said = text(&output.stderr) + &text(&output.stdout);
            let status = text(&self.try_bgd(&["status"]).stdout);
            let events = text(&self.try_bgd(&["events"]).stdout);
            let show = text(&self.try_bgd(&["show", "1"]).stdout);
            panic!("bgd {arguments:?}: {}\n{said}\n{status}\n{events}\n{show}", output.status);
        }
        String::from_utf8(output.stdout).unwrap()
    }

    /// Until nothing is under way any more: the abandoned instance is drained and stopped.
    pub fn wait_until_settled(&self) {
        self.eventually("nothing is under way", || {
            let phase = self.try_bgd(&["status", "-o", "deploy.phase"]);
            phase.status.success() && phase.stdout.trim_ascii().is_empty()
        });
    }

    fn eventually(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + GENEROUS;
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            thread::sleep(LOOK);
        }
    }

    /// One request on a connection of its own: the body, or why there is none.
    pub fn get(&self, path: &str) -> Result<String, String> {
        get(self.public, path)
    }

    /// Three clients, until told to end.
    pub fn load(&self, path: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = [(); 3].map(|()| {
            let (stop, path, port) = (stop.clone(), path.to_owned(), self.public);
            thread::spawn(move || ask(port, &path, &stop))
        });
        Load { stop, clients: clients.into() }
    }

    /// Runs a command of bgd's again whenever it ends, until told to end.
    pub fn keep_running(&self, words: &[&str]) -> Kept {
        let stop = Arc::new(AtomicBool::new(false));
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (config, stopped) = (self.path("bgd.toml"), stop.clone());
        let runs = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bgd"));
                command.arg("--config").arg(&config).args(&words).stdin(Stdio::null());
                let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
                while child.try_wait().unwrap().is_none() {
                    if stopped.load(Ordering::Relaxed) {
                        let _gone = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
                    }
                    thread::sleep(LOOK);
                }
            }
        });
        Kept { stop, runs }
    }

    /// Until the worker has noted that this commit did the job.
    pub fn until_done(&self, job: &str, commit: &str) {
        let note = self.path("state/shop/shared/done").join(job);
        self.eventually(&format!("job {job} is done by {commit}"), || {
            fs::read_to_string(&note).is_ok_and(|by| by == commit)
        });
    }

    /// With a job after the other, for the former worker may take some yet.
    pub fn until_done_anew(&self, job: &str, commit: &str) {
        let note = self.path("state/shop/shared/done").join(job);
        self.eventually(&format!("a job {job} is done by {commit}"), || {
            if fs::read_to_string(&note).is_ok_and(|by| by == commit) {
                return true;
            }
            self.get(&format!("/job/{job}")).expect("the app answers");
            false
        });
    }

    /// Takes the app out of service, so that it is the daemon that ends it.
    pub fn clear(self) {
        self.bgd(&["down", "--yes"]);
    }

    /// Everything that was started from this directory or speaks of it.
    fn left(&self) -> Vec<Pid> {
        let dir = self.text("");
        let mentions = |pid: &str| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let about = [read("cmdline"), read("environ")].concat();
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            cwd.starts_with(self.dir.path()) || about.windows(dir.len()).any(|bytes| bytes == dir.as_bytes())
        };
        let all =
            fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        all.filter(|name| name.parse::<u32>().is_ok_and(|pid| pid != std::process::id()) && mentions(name))
            .map(|pid| Pid::from_raw(pid.parse().unwrap()))
            .collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.path("daemon.log")).unwrap_or_default());
        }
        for process in self.processes.get_mut().iter_mut().rev() {
            // Gone already is as good.
            let _gone = kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGTERM);
            let _ended = process.wait();
        }
        // The builtin front outlives its daemon by design; shims of a failed test do as well.
        let deadline = Instant::now() + GENEROUS;
        loop {
            let left = self.left();
            if left.is_empty() || Instant::now() > deadline {
                break;
            }
            for pid in left {
                let _gone = kill(pid, Signal::SIGKILL);
            }
            thread::sleep(LOOK);
        }
    }
}

fn ask(port: u16, path: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen { answered: 0, lost: Vec::new() };
    while !stop.load(Ordering::Relaxed) {
        match get(port, path) {
            Ok(_) => seen.answered += 1,
            Err(why) => seen.lost.push(why),
        }
        thread::sleep(LOOK);
    }
    seen
}

fn get(port: u16, path: &str) -> Result<String, String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(GENEROUS)).map_err(failed("limit"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example.com\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed("send"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed("read"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("no head: {answer:?}"))?;
    // HAProxy passes on the version that the app speaks.
    let is_good = head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200");
    if is_good { Ok(body.to_owned()) } else { Err(answer) }
}
