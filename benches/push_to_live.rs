//! From a push to the first answer of the new version, less the app's own build and boot: bgd on the builtin
//! front and behind nginx, against the same steps by hand with git and `nginx -s reload`, in rounds that take
//! turns. A push is the moment at which the branch of the local remote moves. All settings that cost time are the
//! default ones. Apps that take 300 and 1,000 ms longer to boot show what bgd's own looking adds to it.

mod stage;

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use stage::{
    BGD, Daemon, Nginx, Place, Remote, Res, Sample, Table,
    daemon::{App, DEMO, INTERVAL, builtin},
    figures::{ms, verdict},
    http, proc, reserve_for_good,
};

/// Before the apps that boot slowly begin to do so, in milliseconds.
const LATE: [u64; 2] = [300, 1_000];
/// From the push to the first answer, less the app's own, whatever its boot.
const AIM: f64 = 60.0;
/// Processor time of a deploy on the builtin front.
const CPU_AIM: f64 = 40.0;

fn main() -> ExitCode {
    stage::main(run)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One app under bgd.
struct Watched {
    name: String,
    /// `start`, as TOML.
    start: String,
    remote: Remote,
    front: SocketAddr,
    took: Sample,
    /// Of the daemon and what it waited for, a deploy.
    cpu: Sample,
    steps: BTreeMap<String, Sample>,
}

impl Watched {
    fn new(place: &Place, name: &str, front: u16) -> Res<Self> {
        Ok(Self {
            name: name.to_owned(),
            start: DEMO.to_owned(),
            remote: Remote::create(&place.path(&format!("{name}.git")))?,
            front: local(front),
            took: Sample::default(),
            cpu: Sample::default(),
            steps: BTreeMap::new(),
        })
    }

    /// One that boots so much later.
    fn late(place: &Place, late: u64, front: u16) -> Res<Self> {
        let start = format!("[\"sh\", \"-c\", \"sleep {}; exec {BGD} demo-app\"]", late as f64 / 1e3);
        Ok(Self { start, ..Self::new(place, &format!("late-{late}"), front)? })
    }

    fn app(&self, ports: [u16; 2], front: String) -> App<'_> {
        let remote = self.remote.path().to_owned();
        let more = "build = \"sh build.sh\"".to_owned();
        App { name: &self.name, remote, ports, front, start: &self.start, more, interval: INTERVAL }
    }

    fn round(&mut self, daemon: &Daemon, number: usize) -> Res<()> {
        let version = format!("{}-{number}", self.name);
        let commit = self.remote.stage_version(&version)?;
        let before = proc::cpu_with_children_ms(daemon.pid())?;
        let pushed = self.remote.push(commit)?;
        let live = http::first_answer(self.front, &version)?;
        let app = daemon.rests(&self.name, &commit.to_string(), "stopped")?;
        let cpu = proc::cpu_with_children_ms(daemon.pid())?.saturating_sub(before);
        // The first deploy finds no cache of anything, and no former color.
        if number > 0 {
            self.took.add(live - pushed);
            self.cpu.add(Duration::from_millis(cpu));
            for step in app["last"]["steps"].as_array().unwrap_or(&Vec::new()) {
                let name = step["name"].as_str().unwrap_or_default().to_owned();
                let ms = step["ms"].as_f64().unwrap_or_default();
                self.steps.entry(name).or_default().add_value(ms);
            }
        }
        Ok(())
    }
}

/// The same by hand.
struct ByHand {
    remote: Remote,
    mirror: PathBuf,
    dir: PathBuf,
    front: SocketAddr,
    ports: [u16; 2],
    running: Option<(Child, PathBuf)>,
    took: Sample,
    build: Sample,
    boot: Sample,
    reload: Sample,
}

impl ByHand {
    fn new(place: &Place, ports: [u16; 3]) -> Res<Self> {
        let [blue, green, front] = ports;
        let remote = Remote::create(&place.path("hand.git"))?;
        let dir = place.path("hand");
        fs::create_dir(&dir)?;
        let mirror = place.path("hand-mirror.git");
        git(place.dir(), &["init", "-q", "--bare", &mirror.to_string_lossy()])?;
        let none = Sample::default;
        Ok(Self {
            remote,
            mirror,
            dir,
            front: local(front),
            ports: [blue, green],
            running: None,
            took: none(),
            build: none(),
            boot: none(),
            reload: none(),
        })
    }

    fn round(&mut self, nginx: &Nginx, number: usize) -> Res<()> {
        let version = format!("hand-{number}");
        let port = self.ports[number % 2];
        let release = self.dir.join(number.to_string());
        let commit = self.remote.stage_version(&version)?;
        let pushed = self.remote.push(commit)?;
        let from = self.remote.path().to_string_lossy().into_owned();
        git(&self.mirror, &["fetch", "-q", &from, "+refs/heads/main:refs/heads/main"])?;
        git(
            &self.mirror,
            &["worktree", "add", "-q", "--detach", &release.to_string_lossy(), &commit.to_string()],
        )?;
        let building = Instant::now();
        let built = Command::new("bash")
            .args(["-eo", "pipefail", "-c", "sh build.sh"])
            .current_dir(&release)
            .stdin(Stdio::null())
            .status()?;
        let booting = Instant::now();
        let app = Command::new(BGD)
            .arg("demo-app")
            .env("PORT", port.to_string())
            .current_dir(&release)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let healthy = healthy(local(port))?;
        nginx.upstream("hand", port, "");
        nginx.done(&["-t"]);
        let reloading = Instant::now();
        nginx.done(&["-s", "reload"]);
        let live = http::first_answer(self.front, &version)?;
        if !built.success() {
            return Err("the build by hand failed".into());
        }
        if number > 0 {
            self.took.add(live - pushed);
            self.build.add(booting - building);
            self.boot.add(healthy - booting);
            self.reload.add(live - reloading);
        }
        nginx.settled();
        self.retire(Some((app, release)))
    }

    /// Stops the former app and removes its files.
    fn retire(&mut self, next: Option<(Child, PathBuf)>) -> Res<()> {
        if let Some((mut former, release)) = std::mem::replace(&mut self.running, next) {
            former.kill()?;
            former.wait()?;
            git(&self.mirror, &["worktree", "remove", "--force", &release.to_string_lossy()])?;
        }
        Ok(())
    }

    fn own(&self) -> f64 {
        self.build.median() + self.boot.median()
    }
}

fn git(dir: &Path, words: &[&str]) -> Res<()> {
    let output = Command::new("git").args(words).current_dir(dir).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("git {words:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn healthy(app: SocketAddr) -> Res<Instant> {
    let until = Instant::now() + Duration::from_secs(10);
    while !http::get(app, "/up").is_ok_and(|answer| answer.status == 200) {
        if Instant::now() > until {
            return Err("the app by hand does not boot".into());
        }
        sleep(Duration::from_micros(500));
    }
    Ok(Instant::now())
}

fn run() -> Res<()> {
    let rounds = stage::count("ROUNDS", 15);
    let place = Place::new();
    let Some(nginx) = Nginx::prepare(&place) else { return Ok(()) };
    let ports: [u16; 15] = reserve_for_good();
    let [b1, g1, f1, b2, g2, f2, b3, g3, f3, b4, g4, f4, b5, g5, f5] = ports;
    let mut shop = Watched::new(&place, "shop", f1)?;
    let mut site = Watched::new(&place, "site", f2)?;
    let [first, second] = LATE;
    let (mut late, mut later) = (Watched::late(&place, first, f4)?, Watched::late(&place, second, f5)?);
    let mut hand = ByHand::new(&place, [b3, g3, f3])?;
    nginx.site("site", site.front);
    nginx.site("hand", hand.front);
    nginx.upstream("hand", b3, "");
    let apps = [
        shop.app([b1, g1], builtin(shop.front)),
        site.app([b2, g2], nginx.front("site")),
        late.app([b4, g4], builtin(late.front)),
        later.app([b5, g5], builtin(later.front)),
    ];
    let daemon = Daemon::start(&place, &apps)?;
    nginx.start_with("bgd-site.conf");
    for number in 0..=rounds {
        shop.round(&daemon, number)?;
        site.round(&daemon, number)?;
        late.round(&daemon, number)?;
        later.round(&daemon, number)?;
        hand.round(&nginx, number)?;
    }
    hand.retire(None)?;
    report(&shop, &site, [&late, &later], &hand);
    drop(daemon);
    Ok(())
}

fn report(shop: &Watched, site: &Watched, late: [&Watched; 2], hand: &ByHand) {
    let title = format!(
        "push to live, {} rounds; health.interval {INTERVAL}, successes 2; the app's own build {} and boot {} are taken off",
        shop.took.len(),
        ms(hand.build.median()),
        ms(hand.boot.median()),
    );
    let columns = ["", "median", "p90", "by hand = 1", "aim", "", "CPU", "aim", ""];
    let mut table = Table::new(&title, &columns);
    let base = hand.took.median() - hand.own();
    let floor = hand.reload.median();
    let mut row = |name: &str, own: f64, of: &Watched, aims: (f64, Option<f64>)| {
        let over = of.took.median() - own;
        table.row([
            name.to_owned(),
            ms(over),
            ms(of.took.quantile(0.9) - own),
            format!("{:.2}", over / base),
            format!("<= {}", ms(aims.0)),
            verdict(over, aims.0),
            ms(of.cpu.median()),
            aims.1.map_or_else(String::new, |aim| format!("<= {}", ms(aim))),
            aims.1.map_or_else(String::new, |aim| verdict(of.cpu.median(), aim)),
        ]);
    };
    row("bgd, builtin", hand.own(), shop, (AIM, Some(CPU_AIM)));
    for (of, ms) in late.iter().zip(LATE) {
        row(&format!("bgd, builtin, boot + {ms} ms"), hand.own() + ms as f64, of, (AIM, None));
    }
    row("bgd, nginx", hand.own(), site, (floor + 100.0, None));
    table.row([
        "by hand, nginx".to_owned(),
        ms(base),
        ms(hand.took.quantile(0.9) - hand.own()),
        "1.00".to_owned(),
    ]);
    table.print();
    println!("  `nginx -s reload` alone, to the first answer: {}", ms(floor));
    let mut table = Table::new("where it goes (medians of `bgd show`)", &["step", "builtin", "nginx"]);
    for (name, sample) in &shop.steps {
        let other = site.steps.get(name).map_or(0.0, Sample::median);
        table.row([name.clone(), ms(sample.median()), ms(other)]);
    }
    table.print();
}
