//! The sample worker: this very test binary, started by bgd as the one test `shop::worker::works_as_its_release_says`.
//! It takes jobs from a queue of plain files, which is the ledger too: a job is taken by a rename, so that nobody else
//! takes it, and its end is one line. TERM lets it finish its job; USR1 lets it take no new one.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::exit,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use super::{Stage, app::GATES};
use crate::stage::LOOK;

/// A gate that stays closed is passed after this long, so that nothing is held for ever.
const GATE_LIMIT: Duration = Duration::from_secs(60);

static TOLD_TO_LEAVE: AtomicBool = AtomicBool::new(false);
static TOLD_TO_BE_QUIET: AtomicBool = AtomicBool::new(false);

extern "C" fn told(signal: i32) {
    match signal {
        libc::SIGTERM => TOLD_TO_LEAVE.store(true, Ordering::SeqCst),
        _ => TOLD_TO_BE_QUIET.store(true, Ordering::SeqCst),
    }
}

/// The line that starts it, for `start`.
pub fn start() -> String {
    let exe = std::env::current_exe().expect("this binary").display().to_string();
    let words =
        [&exe, "shop::worker::works_as_its_release_says", "--exact", "--nocapture", "--test-threads=1"];
    serde_json::to_string(&words).expect("a list of strings")
}

#[test]
fn works_as_its_release_says() {
    let Some(gates) = std::env::var_os(GATES) else { return };
    let flags = SaFlags::SA_RESTART;
    for signal in [Signal::SIGTERM, Signal::SIGUSR1] {
        let action = SigAction::new(SigHandler::Handler(told), flags, SigSet::empty());
        // SAFETY: the handler only stores to atomics.
        unsafe { sigaction(signal, &action) }.expect("a handler");
    }
    Worker::new(Path::new(&gates)).work()
}

struct Worker {
    gates: PathBuf,
    jobs: PathBuf,
    rev: String,
    /// What `app.conf` says of workers.
    manner: String,
    name: String,
}

impl Worker {
    fn new(gates: &Path) -> Self {
        assert!(std::env::var_os("PORT").is_none(), "a worker has no port");
        let text = fs::read_to_string("app.conf").expect("app.conf in the release");
        let get = |key: &str| {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned()).next_back()
        };
        let directory = std::env::var("BGD_RELEASE_DIR").expect("a release");
        assert_eq!(std::env::current_dir().expect("a directory"), Path::new(&directory));
        Self {
            gates: gates.to_owned(),
            jobs: gates.with_file_name("jobs"),
            rev: get("rev").expect("a revision"),
            manner: get("worker").unwrap_or_default(),
            name: std::env::var("BGD_WORKER").expect("a name"),
        }
    }

    fn work(self) -> ! {
        self.say("begins");
        if self.manner == "dies" {
            println!("last words: no such table");
            exit(3);
        }
        if self.name == "clock" {
            self.tick();
        }
        loop {
            if TOLD_TO_LEAVE.load(Ordering::SeqCst) && self.manner != "deaf" {
                self.leave(0);
            }
            let took = !TOLD_TO_BE_QUIET.load(Ordering::SeqCst) && self.take_one();
            if took && self.manner == "once" {
                self.leave(0);
            }
            if !took {
                thread::sleep(LOOK);
            }
        }
    }

    fn leave(&self, code: i32) -> ! {
        self.say("ends");
        exit(code)
    }

    fn take_one(&self) -> bool {
        for entry in fs::read_dir(self.jobs.join("queue")).expect("a queue").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let busy = self.jobs.join(format!("busy/{name}"));
            if fs::rename(entry.path(), &busy).is_ok() {
                println!("job {name}");
                self.do_it(&name);
                fs::remove_file(busy).expect("the job is done");
                return true;
            }
        }
        false
    }

    /// A job whose name begins with the name of a gate waits there.
    fn do_it(&self, name: &str) {
        let gate = self.gates.join(name.split('-').next().unwrap_or_default());
        let until = Instant::now() + GATE_LIMIT;
        while gate.exists() && Instant::now() < until {
            thread::sleep(LOOK);
        }
        // Read late: the release must still be there.
        let conf = fs::read_to_string(Path::new(&std::env::var("BGD_RELEASE_DIR").unwrap()).join("app.conf"));
        self.append("done", &format!("{name} {} {}\n", self.rev, conf.is_ok()));
    }

    /// Alone by a lock that only one process can have.
    fn tick(&self) -> ! {
        let file =
            fs::File::options().create(true).append(true).open(self.jobs.join("lock")).expect("a lock");
        let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            self.say("is not alone");
            exit(4);
        };
        while !TOLD_TO_LEAVE.load(Ordering::SeqCst) {
            self.append("ticks", &format!("{}\n", self.rev));
            thread::sleep(LOOK * 5);
        }
        // A moment of cleaning up, as schedulers have.
        thread::sleep(LOOK * 10);
        self.leave(0)
    }

    fn say(&self, what: &str) {
        println!("{} of {} {what}", self.name, self.rev);
        let pid = std::process::id();
        let quiet = if TOLD_TO_BE_QUIET.load(Ordering::SeqCst) { " quiet" } else { "" };
        self.append("said", &format!("{} of {} {what}{quiet} {pid}\n", self.name, self.rev));
    }

    /// One write, so that lines of several processes stay whole.
    fn append(&self, file: &str, line: &str) {
        let mut options = fs::File::options();
        let mut file =
            options.append(true).create(true).mode(0o644).open(self.jobs.join(file)).expect("a ledger");
        file.write_all(line.as_bytes()).expect("write");
    }
}

/// The jobs of a stage.
pub struct Jobs {
    dir: PathBuf,
}

impl Jobs {
    pub fn of(stage: &Stage) -> Self {
        let dir = stage.path("jobs");
        fs::create_dir_all(dir.join("queue")).expect("a queue");
        fs::create_dir_all(dir.join("busy")).expect("jobs");
        Self { dir }
    }

    pub fn add(&self, name: &str) {
        // Made elsewhere first: a worker takes whatever is in the queue.
        let new = self.dir.join(format!("new-{name}"));
        fs::write(&new, "").expect("a job");
        fs::rename(new, self.dir.join("queue").join(name)).expect("a job");
    }

    pub fn is_busy(&self, name: &str) -> bool {
        self.dir.join("busy").join(name).exists()
    }

    /// The jobs that were done: each with the revision that did it, and whether its release was there to the end.
    pub fn done(&self) -> Vec<(String, String, bool)> {
        let word = |words: &mut std::str::SplitWhitespace<'_>| words.next().unwrap_or_default().to_owned();
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            (word(&mut words), word(&mut words), words.next() == Some("true"))
        };
        self.lines("done").iter().map(|text| line(text)).collect()
    }

    /// Who did the job; empty while nobody has.
    pub fn done_by(&self, name: &str) -> String {
        let found = self.done().into_iter().find(|(job, ..)| job == name);
        found.map_or(String::new(), |(_, rev, _)| rev)
    }

    /// What workers said of themselves: `queue of one begins`, with their pids left out.
    pub fn said(&self) -> Vec<String> {
        let cut = |line: &String| line.rsplit_once(' ').map_or(line.clone(), |(said, _)| said.to_owned());
        self.lines("said").iter().map(cut).collect()
    }

    /// The revision of the newest tick.
    pub fn ticks(&self) -> Vec<String> {
        self.lines("ticks")
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Adds a job every few milliseconds until it is ended.
    pub fn feed(&self) -> Feed {
        let (ended, dir) = (std::sync::Arc::new(AtomicBool::new(false)), self.dir.clone());
        let over = ended.clone();
        let feeder = thread::spawn(move || {
            let jobs = Self { dir };
            let mut number = 0;
            while !over.load(Ordering::SeqCst) {
                number += 1;
                jobs.add(&format!("fed-{number}"));
                thread::sleep(LOOK * 2);
            }
            number
        });
        Feed { ended, feeder }
    }
}

pub struct Feed {
    ended: std::sync::Arc<AtomicBool>,
    feeder: thread::JoinHandle<u32>,
}

impl Feed {
    /// Waits until all fed jobs are done, each once.
    pub fn end(self, stage: &Stage, jobs: &Jobs) {
        self.ended.store(true, Ordering::SeqCst);
        let fed = self.feeder.join().expect("the feeder");
        let all =
            || jobs.done().into_iter().filter(|(name, ..)| name.starts_with("fed-")).collect::<Vec<_>>();
        let number = usize::try_from(fed).expect("a number");
        stage.eventually("all jobs are done", |_| all().len() >= number);
        let mut names: Vec<String> = all().into_iter().map(|(name, ..)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!((names.len(), all().len()), (number, number), "no job is lost or done twice");
    }
}
