//! Real processes under real shims: what they can hide, how they end, and what survives which death.
//! Needs the binary; runs as root or not.

mod inherit;
mod limits;
mod relay;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bgd::{
    config::settings::Limits,
    os::{privilege::NewPrivileges, process::Process},
    rules::{address::Address, ids::Color},
    shim::{
        Bystanders, CommandExit, ExitKind, ExpectedAddresses, Handle, Limiter, Listening, LogSpec, Main,
        Overseer, Priority, Role, ShimError, Shims, Slot, Spec, StartError, StopRequest, StopSpec,
        logs::{Follow, tail},
    },
};

use crate::stage::{copy_of_program, program};

/// Far beyond what any step needs, on a busy machine too.
const BOUND: Duration = Duration::from_secs(60);

struct House {
    dir: tempfile::TempDir,
    shims: Shims,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bgd-p").tempdir().unwrap();
        let shims = Self::shims_in(dir.path());
        Self { dir, shims }
    }

    fn shims_in(dir: &Path) -> Shims {
        Shims::new(env!("CARGO_BIN_EXE_bgd").into(), &dir.join("state"), &dir.join("run"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A `/bin/sh` script as an instance; `$D` is the test's directory.
    fn spec(&self, script: &str) -> Spec {
        Spec {
            app: "shop".parse().unwrap(),
            role: Role::Instance(Slot { color: Color::Blue, index: 0 }),
            release: "20261121T101112Z-1-0123456".parse().unwrap(),
            argv: ["/bin/sh", "-c", script].map(String::from).into(),
            cwd: self.dir.path().into(),
            env: BTreeMap::from([
                ("PATH".into(), std::env::var("PATH").unwrap()),
                ("D".into(), self.dir.path().to_str().unwrap().into()),
            ]),
            user: None,
            new_privileges: NewPrivileges::Refused,
            log: LogSpec { path: self.path("logs/app.log"), max_bytes: 1 << 20, keep: 1 },
            stop: StopSpec { how: StopRequest::Signal(libc::SIGTERM), grace: BOUND, quiet: None },
            time_limit: None,
            priority: Priority::Normal,
            limits: Limits::default(),
            siblings: 1,
            claim: None,
        }
    }

    fn build(&self, script: &str) -> Spec {
        Spec { role: Role::Build, ..self.spec(script) }
    }

    async fn start(&self, spec: &Spec) -> Handle {
        soon(self.shims.start(spec)).await.unwrap()
    }

    /// Runs to its end and returns what was written.
    async fn run(&self, spec: &Spec) -> (CommandExit, String) {
        let handle = self.start(spec).await;
        let exit = soon(handle.ended()).await;
        soon(handle.forget()).await.unwrap();
        (exit, self.log())
    }

    fn log(&self) -> String {
        String::from_utf8(tail(&self.path("logs/app.log"), 1_000_000).unwrap()).unwrap()
    }

    /// The content of a file that a script writes, once it holds a whole line.
    async fn written(&self, name: &str) -> String {
        let path = self.path(name);
        until(name, || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))).await
    }

    async fn pid(&self, name: &str) -> i32 {
        self.written(name).await.trim().parse().unwrap()
    }

    fn run_files(&self) -> usize {
        let count = |path: &str| fs::read_dir(self.path(path)).map_or(0, Iterator::count);
        count("state/shop/run") + count("run/s")
    }
}

impl Drop for House {
    /// A test that failed must not leave its processes: TERM is a stop request to a shim.
    fn drop(&mut self) {
        for entry in fs::read_dir(self.path("state/shop/run")).into_iter().flatten().flatten() {
            let record = fs::read(entry.path()).unwrap_or_default();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap_or_default();
            if let Ok(shim) = serde_json::from_value::<Process>(record["shim"].clone()) {
                let _gone = shim.signal(libc::SIGTERM);
            }
        }
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND + BOUND, work).await.expect("not within the bound")
}

async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn alive(pid: i32) -> bool {
    Process::of(pid).is_some_and(Process::is_alive)
}

fn kill(pid: i32, signal: i32) {
    assert!(Process::of(pid).unwrap().signal(signal).unwrap());
}

fn code(code: i32) -> CommandExit {
    CommandExit { how: ExitKind::Code(code), timed_out: false, out_of_memory: false }
}

fn signalled(signal: i32) -> CommandExit {
    CommandExit { how: ExitKind::Signal(signal), timed_out: false, out_of_memory: false }
}

#[tokio::test]
async fn an_exit_code_and_a_signal_are_recorded() {
    let house = House::new();
    assert_eq!(house.run(&house.spec("exit 7")).await.0, code(7));
    assert_eq!(house.run(&house.spec("kill -9 $$")).await.0, signalled(9));
    assert_eq!(house.run(&house.spec("kill -35 $$")).await.0, signalled(35));
    assert_eq!(house.run_files(), 0);
}

#[tokio::test]
async fn d6_the_environment_is_exactly_the_given_one_and_stdin_is_empty() {
    let house = House::new();
    let mut spec = house.spec("cat; env");
    spec.argv[2] = "cat; exec env".into();
    let (exit, log) = house.run(&spec).await;
    assert_eq!(exit, code(0));
    let mut names: Vec<_> = log.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    // PWD is the shell's own.
    names.retain(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    assert_eq!(names, ["D", "PATH"]);
}

#[tokio::test]
async fn d5_nothing_but_0_1_2_reaches_the_child_and_its_signals_are_the_default() {
    let house = House::new();
    let mut spec = house.spec("");
    spec.argv = ["ls", "/proc/self/fd"].map(String::from).into();
    // 3 is the listing itself.
    assert_eq!(house.run(&spec).await.1, "0\n1\n2\n3\n");
    fs::remove_file(house.path("logs/app.log")).unwrap();
    spec.argv = ["grep", "-E", "^Sig(Blk|Ign)|^ShdPnd", "/proc/self/status"].map(String::from).into();
    let log = house.run(&spec).await.1;
    for line in log.lines() {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(log.lines().count(), 3);
}

#[tokio::test]
async fn g2_children_hidden_by_setsid_and_double_fork_end_on_stop() {
    let house = House::new();
    let script = r#"
        setsid sh -c 'trap "" TERM HUP; (setsid sh -c "echo \$\$ >$D/deep; exec env -i /bin/sleep 1000" &) ; exec sleep 1000' &
        (sh -c 'echo $$ >$D/orphan; exec sleep 1000' &)
        echo $$ >$D/main; exec sleep 1000"#;
    let spec = Spec {
        stop: StopSpec { grace: Duration::from_millis(300), ..house.spec("").stop },
        ..house.spec(script)
    };
    let handle = house.start(&spec).await;
    let pids = [house.pid("deep").await, house.pid("orphan").await, house.pid("main").await];
    assert_eq!(Some(pids[2]), handle.main_pid());
    for pid in pids {
        assert!(handle.owns(pid), "{pid}");
    }
    assert!(!handle.owns(1) && !handle.owns(std::process::id().try_into().unwrap()));
    let status = soon(handle.status()).await.unwrap();
    assert!(pids.iter().all(|pid| status.tree.contains(pid)), "{status:?}");
    assert_eq!(status.overseer, Overseer::Shim);
    let stopped = soon(handle.stop()).await.unwrap();
    assert_eq!(stopped.exit, signalled(15));
    assert!(stopped.killed, "one ignores TERM");
    assert!(pids.iter().all(|pid| !alive(*pid)));
    assert_eq!(soon(handle.stop()).await.unwrap(), stopped, "idempotent");
    soon(handle.forget()).await.unwrap();
}

#[tokio::test]
async fn g3_term_ignored_means_kill_at_the_end_of_the_grace() {
    let house = House::new();
    let grace = Duration::from_millis(400);
    let spec = Spec {
        stop: StopSpec { grace, ..house.spec("").stop },
        ..house.spec("trap '' TERM; echo $$ >$D/up; while :; do sleep 0.05; done")
    };
    let handle = house.start(&spec).await;
    house.pid("up").await;
    let begun = Instant::now();
    let stopped = soon(handle.stop()).await.unwrap();
    assert!(begun.elapsed() >= grace);
    assert!(stopped.killed);
    assert_eq!(stopped.exit, signalled(9));
}

#[tokio::test]
async fn a_polite_app_ends_by_itself_and_no_kill_is_needed() {
    let house = House::new();
    let handle = house
        .start(&house.spec("trap 'echo bye; exit 3' TERM; echo >$D/up; while :; do sleep 0.05; done"))
        .await;
    house.written("up").await;
    let (first, second) = tokio::join!(soon(handle.stop()), soon(handle.stop()));
    let stopped = first.unwrap();
    assert_eq!(stopped, second.unwrap());
    assert!(!stopped.killed);
    assert_eq!(stopped.exit, code(3));
    assert_eq!(house.log(), "bye\n");
}

#[tokio::test]
async fn an_app_behind_a_shell_that_dies_of_term_is_asked_as_well() {
    let house = House::new();
    let script = "sh -c 'trap \"echo asked; exit 0\" TERM; echo >$D/up; while :; do sleep 0.05; done'; true";
    let handle = house.start(&house.spec(script)).await;
    house.written("up").await;
    let stopped = soon(handle.stop()).await.unwrap();
    assert!(!stopped.killed);
    assert_eq!(stopped.exit, signalled(15));
    assert!(house.log().contains("asked\n"));
}

#[tokio::test]
async fn an_instance_that_was_told_to_end_says_so_to_whoever_asks_and_after_its_shim_as_well() {
    let house = House::new();
    let script =
        "trap 'echo x >$D/asked' TERM; echo x >$D/ready; while ! [ -e $D/leave ]; do sleep 0.02; done";
    let handle = house.start(&house.spec(script)).await;
    house.written("ready").await;
    let status = soon(handle.status()).await.unwrap();
    assert!(status.runs() && !status.ending, "{status:?}");
    let asking = tokio::spawn({
        let handle = handle.clone();
        async move { handle.stop().await }
    });
    house.written("asked").await;
    let found = soon(House::shims_in(house.dir.path()).find(handle.app())).await.unwrap();
    let status = soon(found[0].status()).await.unwrap();
    assert!(!status.runs() && status.ending, "{status:?}");
    assert!(alive(handle.main_pid().unwrap()) && status.main == Main::Running, "{status:?}");
    // Nobody waits for it any more, and then nobody looks after it.
    asking.abort();
    let status = soon(handle.status()).await.unwrap();
    assert!(status.ending && status.overseer == Overseer::Shim, "{status:?}");
    kill(handle.shim_pid(), libc::SIGKILL);
    let status = soon(async {
        loop {
            let status = handle.status().await.unwrap();
            if status.overseer == Overseer::Lost {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let status = status.await;
    assert!(!status.runs() && status.ending, "{status:?}");
    fs::write(house.path("leave"), "").unwrap();
    soon(handle.ended()).await;
    soon(handle.forget()).await.unwrap();
}

#[tokio::test]
async fn a_stop_command_is_run_in_place_of_the_signal_and_a_failing_one_is_replaced_by_term() {
    let house = House::new();
    let stop = |script: &str| StopSpec {
        how: StopRequest::Command(["/bin/sh", "-c", script].map(String::from).into()),
        grace: BOUND,
        quiet: None,
    };
    let script = "trap 'echo term' TERM; echo >$D/up; until [ -e $D/please ]; do sleep 0.05; done; exit 4";
    let spec = Spec { stop: stop("echo stopping; touch please"), ..house.spec(script) };
    let handle = house.start(&spec).await;
    house.written("up").await;
    let stopped = soon(handle.stop()).await.unwrap();
    assert_eq!((stopped.killed, stopped.exit), (false, code(4)));
    assert_eq!(house.log(), "stopping\n");

    let handle = house.start(&Spec { stop: stop("exit 1"), ..house.spec("exec sleep 1000") }).await;
    let stopped = soon(handle.stop()).await.unwrap();
    assert_eq!((stopped.killed, stopped.exit), (false, signalled(15)));
}

#[tokio::test]
async fn d4_a_start_command_that_daemonises_is_tracked_all_the_same() {
    let house = House::new();
    let handle = house
        .start(&house.spec(
            "(setsid sh -c 'echo $$ >$D/daemon; exec sleep 1000 >/dev/null 2>&1 </dev/null' &); exit 0",
        ))
        .await;
    let daemon = house.pid("daemon").await;
    assert_eq!(soon(handle.exited()).await, code(0));
    let status = soon(handle.status()).await.unwrap();
    assert_eq!(status.main, Main::Exited(code(0)));
    assert_eq!(status.tree, [daemon]);
    assert!(handle.owns(daemon));
    assert!(matches!(soon(handle.forget()).await, Err(ShimError::StillRunning { .. })));
    let stopped = soon(handle.stop()).await.unwrap();
    assert!(!stopped.killed, "the rest is asked politely, too");
    assert!(!alive(daemon));
    assert_eq!(soon(handle.ended()).await, code(0));
}

#[tokio::test]
async fn h1_a_main_process_that_fails_takes_what_it_left_with_it() {
    let house = House::new();
    let helper = "sleep 1000 & echo $! >$D/helper; ";
    for (then, exit) in [("kill -9 $$", signalled(9)), ("exit 3", code(3))] {
        let handle = house.start(&house.spec(&format!("{helper}{then}"))).await;
        assert_eq!(soon(handle.ended()).await, exit, "{then}");
        assert!(!alive(house.pid("helper").await), "{then}");
        let stopped = soon(handle.stop()).await.unwrap();
        assert!(!stopped.killed, "what is left is asked politely: {then}");
        assert_eq!(handle.main_pid(), None);
        soon(handle.forget()).await.unwrap();
        fs::remove_file(house.path("helper")).unwrap();
    }
    // One that does not listen has its grace, and is no instance in that time.
    let deaf = "(trap '' TERM; echo x >$D/deaf; sleep 1000) & while ! [ -e $D/deaf ]; do sleep 0.02; done; ";
    let mut spec = house.spec(&format!("{deaf}{helper}exit 3"));
    spec.stop.grace = Duration::from_millis(200);
    let handle = house.start(&spec).await;
    assert_eq!(soon(handle.exited()).await, code(3));
    assert!(!soon(handle.status()).await.unwrap().runs());
    assert_eq!(soon(handle.ended()).await, code(3));
    assert!(soon(handle.stop()).await.unwrap().killed);
}

#[tokio::test]
async fn what_a_main_process_left_unseen_by_its_killed_shim_is_no_instance() {
    let house = House::new();
    let script = "sleep 1000 & echo $! >$D/helper; echo x >$D/ready; while :; do sleep 0.02; done";
    let mut spec = house.spec(script);
    // Its own: by that it is told from what other tests leave.
    spec.release = "20261121T101112Z-9-0123456".parse().unwrap();
    spec.env.insert("BGD_RELEASE".to_owned(), spec.release.to_string());
    let handle = house.start(&spec).await;
    house.written("ready").await;
    let (helper, main) = (house.pid("helper").await, handle.main_pid().unwrap());
    kill(handle.shim_pid(), libc::SIGKILL);
    until("the shim to go", || (!alive(handle.shim_pid())).then_some(())).await;
    assert!(soon(handle.status()).await.unwrap().runs());
    assert_eq!(handle.main_pid(), Some(main));
    kill(main, libc::SIGKILL);
    assert_eq!(soon(handle.exited()).await.how, ExitKind::Unknown);
    let status = soon(handle.status()).await.unwrap();
    assert!(!status.runs() && status.tree.contains(&helper), "{status:?}");
    assert_eq!(handle.main_pid(), None);
    soon(handle.stop()).await.unwrap();
    assert!(!alive(helper));
}

#[tokio::test]
async fn a_failed_main_process_with_nothing_left_is_not_stopped_by_the_stop_command() {
    let house = House::new();
    let mut spec = house.spec("exit 3");
    let command = ["/bin/sh", "-c", "echo x >$D/asked"].map(String::from).into();
    spec.stop.how = StopRequest::Command(command);
    assert_eq!(house.run(&spec).await.0, code(3));
    assert!(!house.path("asked").exists());
    spec.argv[2] = "sleep 1000 & exit 3".into();
    assert_eq!(house.run(&spec).await.0, code(3));
    assert!(house.path("asked").exists());
}

#[tokio::test]
async fn d4_the_process_that_a_daemonised_command_left_is_the_one_that_is_shown_and_whose_end_counts() {
    let house = House::new();
    let script = "sleep 1000 & echo $! >$D/worker; echo $$ >$D/master; wait";
    fs::write(house.path("master.sh"), script).unwrap();
    let handle = house.start(&house.spec("(setsid sh $D/master.sh &); exit 0")).await;
    let (worker, master) = (house.pid("worker").await, house.pid("master").await);
    assert_eq!(soon(handle.exited()).await, code(0));
    assert_eq!(handle.main_pid(), Some(master));
    assert!(soon(handle.status()).await.unwrap().runs());
    kill(master, libc::SIGKILL);
    assert_eq!(soon(handle.ended()).await, signalled(9), "and not the 0 of what started it");
    assert!(!alive(worker));
}

#[tokio::test]
async fn a_daemonised_server_that_hands_over_to_its_successor_runs_on() {
    let house = House::new();
    fs::write(house.path("next.sh"), "echo $$ >$D/next; while :; do sleep 0.02; done").unwrap();
    let script = "trap 'sh $D/next.sh & exit 0' USR1; echo $$ >$D/master; while :; do sleep 0.02; done";
    fs::write(house.path("master.sh"), script).unwrap();
    let handle = house.start(&house.spec("(setsid sh $D/master.sh &); exit 0")).await;
    let master = house.pid("master").await;
    soon(handle.exited()).await;
    kill(master, libc::SIGUSR1);
    let next = house.pid("next").await;
    until("the successor is the one that is shown", || (handle.main_pid() == Some(next)).then_some(())).await;
    assert!(!alive(master));
    // Two answers: before the second one the shim has seen for certain who is gone and who is left.
    for _ in 0..2 {
        assert!(soon(handle.status()).await.unwrap().runs());
    }
    kill(next, libc::SIGKILL);
    assert_eq!(soon(handle.ended()).await, signalled(9));
}

#[tokio::test]
async fn d2_an_instance_that_shares_a_port_with_another_process_is_seen_on_it() {
    if !std::process::Command::new("python3").arg("-V").output().is_ok_and(|ran| ran.status.success()) {
        println!("skipped: no python3 to share a port");
        return;
    }
    let house = House::new();
    let script = "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); \
                  s.bind(('127.0.0.1', int(open('port').read()))); s.listen(); print(s.getsockname()[1], flush=True); \
                  time.sleep(60)";
    fs::write(house.path("listen.py"), script).unwrap();
    let listening =
        |spec: &Spec| Spec { argv: ["python3", "listen.py"].map(String::from).into(), ..spec.clone() };
    let live = listening(&house.spec(""));
    fs::write(house.path("port"), "0").unwrap();
    let live = house.start(&live).await;
    let port: u16 = until("the live one listens", || house.log().trim().parse().ok()).await;
    fs::write(house.path("port"), port.to_string()).unwrap();
    let mut second = listening(&house.spec(""));
    second.role = Role::Instance(Slot { color: Color::Green, index: 0 });
    second.log.path = house.path("logs/green.log");
    let alone = house.start(&Spec { argv: ["sleep", "60"].map(String::from).into(), ..second.clone() }).await;
    let listens = |one: &Handle| one.listens_on(&[Address::Port(1), Address::Port(port)]).unwrap();
    assert_eq!(listens(&live), Some(Address::Port(port)));
    assert_eq!(listens(&alone), None);
    let second = house.start(&second).await;
    until("the second one listens too", || listens(&second)).await;
    // Each has a socket of its own there: neither has the port for itself.
    let places = ExpectedAddresses { own: Address::Port(port), foreign: Vec::new() };
    for one in [&live, &second] {
        assert_eq!(one.look(&places, &BTreeSet::new()).unwrap().own, Listening::Stranger);
    }
    let elsewhere = ExpectedAddresses { own: Address::Port(1), foreign: vec![Address::Port(port)] };
    let seen = second.look(&elsewhere, &BTreeSet::new()).unwrap();
    assert_eq!(seen.elsewhere, Some(Address::Port(port)));
    assert_eq!(alone.look(&elsewhere, &BTreeSet::new()).unwrap().elsewhere, None);
    assert_eq!(second.look(&elsewhere, &seen.foreign).unwrap().elsewhere, None, "looked at before");
    for handle in [live, second, alone] {
        soon(handle.kill()).await.unwrap();
        soon(handle.forget()).await.unwrap();
    }
}

/// Listens on a free port, tells it, and gives the listener to whoever connects to `pass.sock`.
const PASSES: &str = "
import socket, time
s = socket.create_server(('127.0.0.1', 0))
door = socket.socket(socket.AF_UNIX); door.bind('pass.sock'); door.listen()
print(s.getsockname()[1], flush=True)
socket.send_fds(door.accept()[0], [b'x'], [s.fileno()])
time.sleep(60)
";
/// Has as many descriptors as it is told, and takes the listener when told to go on.
const TAKES: &str = "
import socket, sys
kept = [open('/dev/null') for _ in range(int(sys.argv[1]))]
print('ready', flush=True)
sys.stdin.readline()
way = socket.socket(socket.AF_UNIX); way.connect('pass.sock')
taken = socket.recv_fds(way, 1, 1)
print('taken', flush=True)
sys.stdin.readline()
";

#[tokio::test]
async fn d1_a_listener_that_a_stranger_has_open_too_is_found_however_many_descriptors_it_has_beside() {
    if !std::process::Command::new("python3").arg("-V").output().is_ok_and(|ran| ran.status.success()) {
        println!("skipped: no python3 to pass a listener on");
        return;
    }
    for descriptors in ["10", "900"] {
        let house = House::new();
        fs::write(house.path("passes.py"), PASSES).unwrap();
        let mut stranger = std::process::Command::new("python3")
            .args(["-c", TAKES, descriptors])
            .current_dir(house.dir.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut words = std::io::BufRead::lines(std::io::BufReader::new(stranger.stdout.take().unwrap()));
        assert_eq!(words.next().unwrap().unwrap(), "ready");
        let bystanders = Bystanders::now().unwrap();
        // Behind a shell: the main process is not the one that listens.
        let handle = house.start(&house.spec("python3 passes.py; exit 0")).await;
        let port: u16 = until("the app listens", || house.log().trim().parse().ok()).await;
        let places = ExpectedAddresses { own: Address::Port(port), foreign: vec![Address::Port(1)] };
        let alone = handle.look(&places, &BTreeSet::new()).unwrap();
        let Listening::Instance { pid, sockets } = alone.own else { panic!("{alone:?}") };
        assert!(handle.owns(pid) && handle.main_pid() != Some(pid));
        assert_eq!(handle.sharer(&sockets, &bystanders).unwrap(), None);
        std::io::Write::write_all(stranger.stdin.as_mut().unwrap(), b"\n").unwrap();
        assert_eq!(words.next().unwrap().unwrap(), "taken");
        let sharer = handle.sharer(&sockets, &bystanders).unwrap().expect("the stranger");
        assert_eq!(u32::try_from(sharer.pid).unwrap(), stranger.id());
        assert_eq!(handle.stranger_at(&places.own).unwrap().map(|one| one.pid), Some(sharer.pid));
        soon(handle.kill()).await.unwrap();
        // It alone listens there now.
        assert_eq!(handle.look(&places, &BTreeSet::new()).unwrap().own, Listening::Stranger);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(handle.look(&places, &BTreeSet::new()).unwrap().own, Listening::Nobody);
        soon(handle.forget()).await.unwrap();
    }
}

#[tokio::test]
async fn k1_a_second_bgd_adopts_what_the_first_one_started() {
    let house = House::new();
    let first = house.start(&house.spec("echo one; exec sleep 1000")).await;
    let again = House::shims_in(house.dir.path());
    let app = "shop".parse().unwrap();
    let found = soon(again.find(&app)).await.unwrap();
    assert_eq!(found.len(), 1);
    let second = &found[0];
    assert_eq!(second.main_pid(), first.main_pid());
    assert_eq!((second.role(), second.release()), (first.role(), first.release()));
    assert_eq!(second.started_at(), first.started_at());
    assert_eq!(soon(again.apps()).await.unwrap().into_iter().collect::<Vec<_>>(), [app]);
    assert!(soon(again.find(&"other".parse().unwrap())).await.unwrap().is_empty());
    let (stopped, ended) = tokio::join!(soon(second.stop()), soon(first.ended()));
    assert_eq!(stopped.unwrap().exit, ended);
    let found = soon(again.find(second.app())).await.unwrap();
    let status = soon(found[0].status()).await.unwrap();
    assert_eq!(status.overseer, Overseer::Ended, "finished, not yet collected");
    assert_eq!(status.main, Main::Exited(signalled(15)));
    soon(found[0].forget()).await.unwrap();
    assert!(soon(again.apps()).await.unwrap().is_empty());
    assert_eq!(house.run_files(), 0);
}

#[tokio::test]
async fn k3_orphans_of_a_killed_shim_are_found_and_ended() {
    let house = House::new();
    let script = "(setsid sh -c 'echo $$ >$D/hidden; exec sleep 1000' &)
        env -i /bin/sh -c 'echo $$; exec sleep 1000' >$D/bare & exec sleep 1000";
    let mut spec = house.spec(script);
    spec.env.insert("BGD_RELEASE".to_owned(), spec.release.to_string());
    let handle = house.start(&spec).await;
    // The same environment below another shim is not its own.
    let argv = ["/bin/sh", "-c", "sleep 1000 & exec sleep 1000"].map(String::from).into();
    let other = house.start(&Spec { argv, ..spec.clone() }).await;
    let pids = [house.pid("hidden").await, house.pid("bare").await, handle.main_pid().unwrap()];
    kill(handle.shim_pid(), libc::SIGKILL);
    until("the shim to go", || (!alive(handle.shim_pid())).then_some(())).await;
    let mut found = soon(House::shims_in(house.dir.path()).find(handle.app())).await.unwrap();
    found.retain(|one| one.id() == handle.id());
    let status = soon(found[0].status()).await.unwrap();
    assert_eq!((status.overseer, status.main), (Overseer::Lost, Main::Running));
    let neighbours = soon(other.status()).await.unwrap().tree;
    assert!(neighbours.iter().all(|pid| !found[0].owns(*pid)));
    for pid in pids {
        assert!(status.tree.contains(&pid) && found[0].owns(pid), "{pid} {status:?}");
    }
    assert!(matches!(soon(found[0].forget()).await, Err(ShimError::StillRunning { .. })));
    let (stopped, exit) = tokio::join!(soon(found[0].stop()), soon(handle.exited()));
    assert!(!stopped.unwrap().killed);
    assert_eq!(exit.how, ExitKind::Unknown);
    assert!(pids.iter().all(|pid| !alive(*pid)));
    assert_eq!(soon(handle.ended()).await.how, ExitKind::Unknown);
    soon(handle.forget()).await.unwrap();
    assert!(!neighbours.is_empty() && neighbours.iter().all(|pid| alive(*pid)));
    soon(other.stop()).await.unwrap();
    soon(other.forget()).await.unwrap();
    assert_eq!(house.run_files(), 0);
}

#[tokio::test]
async fn a_wiped_runtime_directory_is_made_again_and_a_stopped_shim_is_woken() {
    let house = House::new();
    let handle = house.start(&house.spec("exec sleep 1000")).await;
    fs::remove_dir_all(house.path("run")).unwrap();
    assert_eq!(soon(handle.status()).await.unwrap().overseer, Overseer::Shim);
    kill(handle.shim_pid(), libc::SIGSTOP);
    assert_eq!(soon(handle.status()).await.unwrap().overseer, Overseer::Shim);
    assert_eq!(soon(handle.stop()).await.unwrap().exit, signalled(15));
}

#[tokio::test]
async fn term_to_the_shim_is_a_stop_request_and_other_signals_are_nothing() {
    let house = House::new();
    let handle = house.start(&house.spec("exec sleep 1000")).await;
    for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGUSR2, libc::SIGQUIT, libc::SIGALRM, libc::SIGUSR1] {
        kill(handle.shim_pid(), signal);
    }
    assert_eq!(soon(handle.status()).await.unwrap().main, Main::Running);
    kill(handle.shim_pid(), libc::SIGTERM);
    assert_eq!(soon(handle.ended()).await, signalled(15));
}

#[tokio::test]
async fn c1_at_the_time_limit_the_whole_tree_goes() {
    let house = House::new();
    let spec = Spec {
        time_limit: Some(Duration::from_millis(300)),
        ..house.build("trap '' TERM; (setsid sh -c 'echo $$ >$D/hidden; sleep 1000' &); sleep 1000")
    };
    let handle = house.start(&spec).await;
    let hidden = house.pid("hidden").await;
    let exit = soon(handle.ended()).await;
    assert_eq!(exit, CommandExit { timed_out: true, ..signalled(9) });
    assert_eq!(exit.to_string(), "killed at its time limit");
    assert!(!alive(hidden));
}

#[tokio::test]
async fn c3_a_child_left_behind_with_the_output_does_not_hang_a_build_and_goes() {
    let house = House::new();
    let handle =
        house.start(&house.build("(setsid sh -c 'trap \"\" TERM; echo $$ >$D/left; sleep 1000' &); until [ -s $D/left ]; do sleep 0.01; done; echo built")).await;
    assert_eq!(soon(handle.exited()).await, code(0));
    assert_eq!(soon(handle.ended()).await, code(0));
    assert!(!alive(house.pid("left").await));
    assert_eq!(house.log(), "built\n");
}

#[tokio::test]
async fn c1_background_work_is_nicer_and_the_first_to_go() {
    let house = House::new();
    let spec = Spec {
        priority: Priority::Background,
        ..house.build("cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat")
    };
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    let nice: i32 = own.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap();
    assert_eq!(house.run(&spec).await.1, format!("500\n{}\n", (nice + 10).min(19)));
}

#[tokio::test]
async fn c5_much_output_passes_quickly_and_the_log_stays_capped() {
    let house = House::new();
    let begun = Instant::now();
    let script = "head -c 50000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo the end; cat /proc/$PPID/status | grep VmHWM";
    let handle = house.start(&house.build(script)).await;
    assert_eq!(soon(handle.ended()).await, code(0));
    println!("50 MB in {:?}", begun.elapsed());
    let log = house.path("logs/app.log");
    let sizes = [log.clone(), log.with_extension("log.1")].map(|path| fs::metadata(path).unwrap().size());
    assert!(sizes.iter().all(|size| *size <= 1 << 20), "{sizes:?}");
    assert_eq!(fs::read_dir(house.path("logs")).unwrap().count(), 2);
    let tail = String::from_utf8(tail(&log, 2).unwrap()).unwrap();
    assert!(tail.contains("the end\n"), "{tail}");
}

#[tokio::test]
async fn h3_a_deleted_log_comes_back_and_can_be_followed() {
    let house = House::new();
    let handle =
        house.start(&house.spec("n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done")).await;
    let log = house.path("logs/app.log");
    let mut follow = Follow::new(&log, 1_000_000).unwrap();
    assert!(soon(follow.next()).await.unwrap().starts_with(b"line 1\n"));
    fs::remove_dir_all(house.path("logs")).unwrap();
    until("the log", || fs::read(&log).ok().filter(|text| !text.is_empty())).await;
    assert!(soon(follow.next()).await.unwrap().starts_with(b"line "));
    soon(handle.kill()).await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_says_what_and_why_and_leaves_nothing() {
    let house = House::new();
    let argv = |argv: &[&str]| Spec { argv: argv.iter().map(|s| (*s).into()).collect(), ..house.spec("") };
    fs::write(house.path("noexec"), "#!/bin/sh\n").unwrap();
    let script = house.path("lost");
    program(&script, "#!/no/such/interpreter\n");
    let cases = [
        (argv(&["no-such-program"]), "running the program \"no-such-program\"", Some("No such file")),
        (argv(&["./noexec"]), "running the program \"./noexec\"", Some("Permission denied")),
        (argv(&["./lost"]), "running the program \"./lost\": its interpreter is missing", None),
        (argv(&[]), "running the program \"\"", Some("No such file")),
        (
            Spec { cwd: "/no/dir".into(), ..house.spec("") },
            "entering the directory /no/dir for blue",
            Some("No such file"),
        ),
        (
            Spec { user: Some("no-such-user-x".into()), ..house.spec("") },
            "no such user: no-such-user-x",
            None,
        ),
    ];
    for (spec, text, cause) in cases {
        let error = soon(house.shims.start(&spec)).await.unwrap_err();
        assert_eq!(error.to_string(), text);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.is_some(), cause.is_some(), "{error:?}");
        assert!(source.unwrap_or_default().contains(cause.unwrap_or_default()), "{error:?}");
    }
    assert_eq!(house.run_files(), 0);
    let long = Shims::new("/x".into(), &house.path("state"), &house.path(&"x".repeat(100)));
    assert!(matches!(soon(long.start(&house.spec(""))).await, Err(StartError::LongPath { .. })));
    let none = Shims::new("/no/bgd".into(), &house.path("state"), &house.path("run"));
    assert!(matches!(soon(none.start(&house.spec(""))).await, Err(StartError::Shim { .. })));
    let mute = Shims::new("/bin/false".into(), &house.path("state"), &house.path("run"));
    assert!(matches!(soon(mute.start(&house.spec(""))).await, Err(StartError::NoAnswer { .. })));
}

#[tokio::test]
async fn l3_the_user_applies_with_its_groups_and_there_is_no_way_back() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: needs root");
        return;
    }
    let house = House::new();
    fs::set_permissions(house.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spec = Spec {
        user: Some("nobody".into()),
        ..house.build("id -un; id -G; grep NoNewPrivs /proc/self/status; echo again >/dev/stdout")
    };
    let (exit, log) = house.run(&spec).await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(log, format!("nobody\n{}\nNoNewPrivs:\t1\nagain\n", nobody.gid));
    assert_eq!(exit, code(0));
}

#[tokio::test]
async fn d7_no_zombies_stay_below_a_shim_nor_of_a_shim() {
    let house = House::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do (true &); done; echo >$D/up; exec sleep 1000";
    let handle = house.start(&house.spec(script)).await;
    house.written("up").await;
    let main = handle.main_pid().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", handle.shim_pid());
    until("only the main process", || {
        (fs::read_to_string(&children).unwrap().trim() == main.to_string()).then_some(())
    })
    .await;
    soon(handle.kill()).await.unwrap();
    until("the shim to be reaped", || Process::of(handle.shim_pid()).is_none().then_some(())).await;
}

#[tokio::test]
async fn a_forking_tree_can_not_outrun_kill() {
    let house = House::new();
    // Each link of the chain starts the next one and ends: the pids change all the time.
    fs::write(house.path("chain"), "[ $1 -gt 0 ] && (setsid sh $D/chain $(($1-1)) &)\necho >$D/up\n")
        .unwrap();
    let handle =
        house.start(&house.spec("for i in 1 2 3 4; do sh $D/chain 100000 & done; wait; exit 0")).await;
    house.written("up").await;
    assert!(soon(handle.kill()).await.unwrap().killed);
    assert!(soon(handle.status()).await.unwrap().tree.is_empty());
}

#[tokio::test]
async fn l1_no_value_of_the_environment_is_on_disk_or_on_a_command_line() {
    let house = House::new();
    let mut spec = house.spec("exec sleep 1000");
    spec.env.insert("TOKEN".into(), "hush-hush".into());
    let handle = house.start(&spec).await;
    for pid in [handle.shim_pid(), handle.main_pid().unwrap()] {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!line.contains("hush"), "{line}");
    }
    for entry in fs::read_dir(house.path("state/shop/run")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!fs::read_to_string(&path).unwrap().contains("hush"));
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
    soon(handle.kill()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_state_file_hides_nothing() {
    let house = House::new();
    let handle = house.start(&house.spec("exec sleep 1000")).await;
    let file = house.path("state/shop/run").join(format!("{}.json", handle.id()));
    fs::write(&file, "{").unwrap();
    let found = soon(house.shims.find(handle.app())).await.unwrap();
    assert_eq!(found.len(), 1, "found by its socket");
    assert_eq!(found[0].main_pid(), handle.main_pid());
    soon(found[0].stop()).await.unwrap();
    soon(found[0].forget()).await.unwrap();
}

#[tokio::test]
async fn h4_a_shim_takes_little_memory_and_few_descriptors() {
    let house = House::new();
    let script = "head -c 20000000 /dev/zero; echo >$D/up; exec sleep 1000";
    let (one, two) =
        (house.start(&house.spec(script)).await, house.start(&house.spec("exec sleep 1000")).await);
    house.written("up").await;
    for handle in [&one, &two] {
        soon(handle.status()).await.unwrap();
    }
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", one.shim_pid())).unwrap();
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let (dirty, clean) = (kib("Private_Dirty"), kib("Private_Clean"));
    println!("private dirty {dirty} KiB, private clean {clean} KiB, rss {} KiB", kib("Rss"));
    assert!(dirty + clean <= 4096, "{rollup}");
    let open = fs::read_dir(format!("/proc/{}/fd", one.shim_pid())).unwrap().count();
    assert!(open <= 9, "{open}");
    for handle in [one, two] {
        soon(handle.kill()).await.unwrap();
    }
}

#[tokio::test]
async fn k5_after_a_reboot_nothing_of_a_record_is_taken_for_running() {
    let house = House::new();
    let handle = house.start(&house.spec("exec sleep 1000")).await;
    let folder = house.path("state/shop/run");
    let file = folder.join(format!("{}.json", handle.id()));
    let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    record["boot"] = "another".into();
    record["id"] = "0123456789ab".into();
    record["socket"] = house.path("run/s/0123456789ab.sock").to_str().unwrap().into();
    fs::write(folder.join("0123456789ab.json"), record.to_string()).unwrap();
    let found = soon(house.shims.find(handle.app())).await.unwrap();
    let old = found.iter().find(|one| one.id() == "0123456789ab").unwrap();
    let status = soon(old.status()).await.unwrap();
    assert_eq!((status.overseer, status.tree.len()), (Overseer::Ended, 0));
    assert_eq!(soon(old.exited()).await.how, ExitKind::Unknown);
    assert!(!old.owns(handle.main_pid().unwrap()));
    soon(old.stop()).await.unwrap();
    assert!(alive(handle.main_pid().unwrap()) && alive(handle.shim_pid()));
    soon(old.forget()).await.unwrap();
    soon(handle.kill()).await.unwrap();
}

#[tokio::test]
async fn a_shim_that_answers_nobody_does_not_keep_its_app_from_being_ended() {
    let house = House::new();
    let handle = house
        .start(
            &house.spec("(env -i /bin/sh -c 'echo $$; exec setsid sleep 1000' >$D/bare &) ; exec sleep 1000"),
        )
        .await;
    let (bare, main) = (house.pid("bare").await, handle.main_pid().unwrap());
    let socket = fs::read_dir(house.path("run/s")).unwrap().next().unwrap().unwrap().path();
    let crowd: Vec<_> = (0..70).map(|_| std::os::unix::net::UnixStream::connect(&socket).unwrap()).collect();
    assert!(matches!(soon(handle.status()).await, Err(ShimError::Unreachable { .. })));
    assert!(handle.owns(bare));
    soon(handle.stop()).await.unwrap();
    assert!(!alive(bare) && !alive(main) && !alive(handle.shim_pid()));
    drop(crowd);
    soon(handle.forget()).await.unwrap();
}

#[tokio::test]
async fn only_the_topmost_of_a_daemonised_server_is_asked_to_stop() {
    let house = House::new();
    let worker = "trap \"echo worker asked\" TERM; echo >$D/up; until [ -e $D/done ]; do sleep 0.05; done";
    let master =
        format!("trap \"echo master asked; touch $D/done; wait; exit 0\" TERM; sh -c '{worker}' & wait");
    fs::write(house.path("master"), master).unwrap();
    let handle = house.start(&house.spec("(setsid sh $D/master &); exit 0")).await;
    soon(handle.exited()).await;
    house.written("up").await;
    assert!(!soon(handle.stop()).await.unwrap().killed);
    assert_eq!(house.log(), "master asked\n");
}

/// A small file system of its own, so that it can be filled.
struct Small(PathBuf);

impl Small {
    fn mount(at: PathBuf) -> Option<Self> {
        use nix::mount::{MsFlags, mount};
        fs::create_dir_all(&at).unwrap();
        let options = Some("size=256k");
        mount(Some("bgd-test"), &at, Some("tmpfs"), MsFlags::empty(), options).ok().map(|()| Self(at))
    }

    fn fill(&self) {
        use std::io::Write;
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _busy = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn i6_on_a_full_disk_an_instance_starts_is_found_ends_and_its_exit_is_kept_until_asked_for() {
    let house = House::new();
    let Some(disk) = Small::mount(house.path("state")) else {
        println!("skipped: may not mount");
        return;
    };
    disk.fill();
    let log = LogSpec { path: house.path("state/shop/logs/app.log"), max_bytes: 1000, keep: 1 };
    let script = "echo lost; echo >$D/up; until [ -e $D/go ]; do sleep 0.01; done; exit 5";
    let handle = house.start(&Spec { log, ..house.spec(script) }).await;
    house.written("up").await;
    let found = soon(House::shims_in(house.dir.path()).find(handle.app())).await.unwrap();
    assert_eq!(found.iter().map(Handle::main_pid).collect::<Vec<_>>(), [handle.main_pid()]);
    let status = soon(found[0].status()).await.unwrap();
    assert_eq!(status.dropped, 5);
    fs::write(house.path("go"), "").unwrap();
    assert_eq!(soon(handle.ended()).await, code(5));
    assert_eq!(soon(found[0].ended()).await, code(5), "kept, although it can't be written");
    disk.empty();
    soon(handle.forget()).await.unwrap();
    until("the shim to go", || (!alive(handle.shim_pid())).then_some(())).await;
}
