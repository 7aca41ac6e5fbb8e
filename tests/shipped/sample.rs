//! A sample of `contrib/` on a stage: its files in the repository, its configuration with this machine's places in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::sys::signal::Signal;
use toml::{Table, Value};

use crate::{
    shop::{Kind, Plan, Stage},
    stage::{
        LOOK, haproxy, http,
        load::{Client, Load, PAUSE},
        send, until,
    },
};

/// One directory of `contrib/`, by its name, and what has to differ here.
pub struct Sample<'a> {
    pub name: &'a str,
    /// Where the app tells its commit.
    pub path: &'a str,
    pub front: Kind,
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
        Self { name, path: "/up", front: Kind::Builtin, files: &[], build: None, start: None, env: &[] }
    }
}

pub fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

/// Whether all of them are; says which one is missing.
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let mut look = Command::new("sh");
        look.args(["-c", "command -v \"$1\"", "sh", program]).stdout(Stdio::null());
        let found = look.status().unwrap().success();
        if !found {
            eprintln!("skipped: no {program}");
        }
        found
    })
}

/// Sets a key by its dotted path.
pub fn set(root: &mut Value, path: &str, value: impl Into<Value>) {
    let (keys, last) = path.rsplit_once('.').unwrap();
    let mut at = root;
    for key in keys.split('.') {
        let table = at.as_table_mut().unwrap();
        at = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    }
    at.as_table_mut().unwrap().insert(last.to_owned(), value.into());
}

/// Keeps a command running.
pub struct Supervisor {
    stop: Arc<AtomicBool>,
    runs: JoinHandle<()>,
}

impl Supervisor {
    pub fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.runs.join().unwrap();
    }
}

/// The stage with the sample on it.
pub struct SampleStage(pub Stage);

impl SampleStage {
    /// `None`, with the reason printed, where the front is not installed.
    pub fn set(sample: &Sample<'_>) -> Option<Self> {
        let mut stage = Stage::empty(Plan::of(sample.front))?;
        configure(&stage, sample);
        for (from, to) in sample.files {
            let to = stage.path("work").join(to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
        match sample.front {
            Kind::Builtin => {}
            Kind::Nginx => {
                // Without the site so far.
                fs::remove_file(stage.path("conf.d/site.conf")).unwrap();
                stage.nginx = Some(stage.web().spawn());
                until("nginx runs", || stage.web().master().is_some());
            }
            Kind::Haproxy => {
                let text = fs::read_to_string(contrib(sample.name).join("haproxy.cfg")).unwrap();
                let ports = ["blue", "green"].map(|color| stage.port(color));
                let text = haproxy::placed(&text, &stage.path(""), &stage.public().to_string(), ports);
                fs::write(stage.path("haproxy.cfg"), text).unwrap();
                stage.run_haproxy();
            }
        }
        Some(Self(stage))
    }

    /// The last step with an nginx that is already there: its site gets the shipped `proxy_pass`.
    pub fn open_site(&self, sample: &Sample<'_>) {
        if sample.front != Kind::Nginx {
            return;
        }
        let site = fs::read_to_string(contrib(sample.name).join("site.conf")).unwrap();
        assert!(site.contains("listen 80;"), "{site}");
        let site = site.replace("listen 80;", &format!("listen {};", self.0.public()));
        fs::write(self.0.path("conf.d/shop.conf"), site).unwrap();
        self.0.web().done(&["-t"]);
        self.0.web().done(&["-s", "reload"]);
        until("the site is open", || http::connect(self.0.public()).is_ok());
    }

    /// A commit, pushed; returns its name.
    pub fn push(&self, message: &str) -> String {
        fs::write(self.0.path("work/NOTES"), message).unwrap();
        self.0.push_all(message)
    }

    /// One request on a connection of its own: the body, or why there is none.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let answer = http::get(self.0.public(), path).and_then(http::Answer::good);
        answer.map(|answer| answer.body).map_err(|err| err.to_string())
    }

    /// Three clients.
    pub fn load(&self, path: &str) -> Load {
        let (to, path) = (self.0.public(), path.to_owned());
        let client = |()| {
            let path = path.clone();
            Box::new(move || match http::get(to, &path).and_then(http::Answer::good) {
                Ok(answer) => Ok(answer.body),
                Err(err) => Err(err.to_string()),
            }) as Client
        };
        Load::of([(); 3].map(client), PAUSE)
    }

    /// Runs a command of bgd's again whenever it ends, until told to end.
    pub fn keep_running(&self, words: &[&str]) -> Supervisor {
        let stop = Arc::new(AtomicBool::new(false));
        let mut command = self.0.command(&[]);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stopped = stop.clone();
        let runs = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut child = command.spawn().unwrap();
                while child.try_wait().unwrap().is_none() {
                    if stopped.load(Ordering::Relaxed) {
                        send(child.id(), Signal::SIGTERM);
                    }
                    thread::sleep(LOOK);
                }
            }
        });
        Supervisor { stop, runs }
    }

    /// Until the worker has noted that this commit did the job.
    pub fn until_done(&self, job: &str, commit: &str) {
        until(&format!("job {job} is done by {commit}"), || self.is_done(job, commit));
    }

    /// With a job after the other, for the former worker may take some yet.
    pub fn until_done_anew(&self, job: &str, commit: &str) {
        until(&format!("a job {job} is done by {commit}"), || {
            self.is_done(job, commit) || {
                self.get(&format!("/job/{job}")).expect("the app answers");
                false
            }
        });
    }

    fn is_done(&self, job: &str, commit: &str) -> bool {
        let note = self.0.path("state/shop/shared/done").join(job);
        fs::read_to_string(note).is_ok_and(|by| by == commit)
    }
}

/// The shipped file with this machine's places in it.
fn configure(stage: &Stage, sample: &Sample<'_>) {
    let text = fs::read_to_string(contrib(sample.name).join("bgd.toml")).unwrap();
    let mut root: Value = toml::from_str(&text).unwrap();
    let place = |name: &str| stage.path(name).to_str().unwrap().to_owned();
    // The account that runs the tests will do.
    root["app"]["shop"].as_table_mut().unwrap().remove("user");
    set(&mut root, "daemon.state_dir", place("state"));
    set(&mut root, "daemon.runtime_dir", place("run"));
    let mut app = |key: &str, value: Value| set(&mut root, &format!("app.shop.{key}"), value);
    app("ports", ["blue", "green"].map(|color| i64::from(stage.port(color))).to_vec().into());
    app("remote", place("remote.git").into());
    app("watch.for", "500ms".into());
    app("health.interval", "100ms".into());
    for (name, value) in sample.env {
        app(&format!("env.{name}"), (*value).into());
    }
    for (key, value) in [("build", sample.build), ("start", sample.start)] {
        value.into_iter().for_each(|value| app(key, value.into()));
    }
    match sample.front {
        Kind::Builtin => app("front.listen", stage.public().to_string().into()),
        Kind::Nginx => {
            app("front.file", place("conf.d/bgd-shop.conf").into());
            app("front.test", stage.web().words(&["-t"]).into());
            app("front.reload", stage.web().words(&["-s", "reload"]).into());
            app("front.pid_file", place("nginx.pid").into());
        }
        Kind::Haproxy => app("front.socket", place("h.sock").into()),
    }
    fs::write(stage.path("bgd.toml"), toml::to_string(&root).unwrap()).unwrap();
}
