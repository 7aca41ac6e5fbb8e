//! The builtin front as a reverse proxy beside nginx, as bgd configures it and with kept connections to the app, and
//! HAProxy with the configuration of `contrib`, all before the same backend, in rounds that take turns: kept and new
//! connections, uploads and streams, each with what clients wait and the processor time of the front's processes; and
//! the memory of each with 5,000 connections that ask for nothing. Clients and backend share the machine with what is
//! measured, so that only the ratios of one round mean something. `ROUNDS` and `SECONDS` (of a turn) make a run shorter
//! or longer.

mod stage;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    process::ExitCode,
    thread::sleep,
    time::Duration,
};

use bgd::{
    front::{
        builtin::{Builtin, FrontPlace},
        nginx::Include,
    },
    rules::{
        address::Address,
        ids::{Color, Generation},
        route::{Route, Side},
    },
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use stage::{
    BGD, Nginx, Place, Res, Sample, Table, backend,
    figures::{ms, verdict},
    haproxy,
    proc::{self, Memory, mib},
    reserve_for_good,
    work::{self, Work},
};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
};

/// Connections that ask once and then stay.
const IDLE: usize = 5_000;
/// Until fronts have given back what connections needed for their answers; builtin does so every 10 s.
const REST: Duration = Duration::from_secs(12);

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let (rounds, turn) = (stage::count("ROUNDS", 6), Duration::from_secs(stage::count("SECONDS", 3) as u64));
    let place = Place::new();
    let Some(nginx) = Nginx::prepare(&place) else { return Ok(()) };
    let idle = IDLE.min(open_files()?);
    let [app, by_builtin, by_kept, by_nginx, by_haproxy, proof]: [u16; 6] = reserve_for_good();
    let _serving = backend::serve(app)?;
    nginx.site("kept", local(by_kept));
    nginx.upstream("kept", app, "keepalive 64; keepalive_requests 100000000;");
    nginx.site("shop", local(by_nginx));
    fs::write(nginx.conf("bgd-shop.conf"), include(app, proof)?.render())?;
    nginx.start();
    let nginx = proc::family(nginx.master().ok_or("no nginx")?);
    let haproxy = haproxy::start(&place, local(by_haproxy), [app, app], &[]);
    let clients = Builder::new_current_thread().enable_all().build()?;
    let front = clients.block_on(front(&place, by_builtin, app))?;
    let pid = clients.block_on(front.hello())?.ok_or("no front")?.pid;

    let mut subjects = vec![
        Subject::new(BUILTIN, by_builtin, vec![pid]),
        Subject::new(KEPT, by_kept, nginx.clone()),
        Subject::new(AS_CONFIGURED, by_nginx, nginx),
    ];
    subjects.extend(haproxy.iter().map(|it| Subject::new(HAPROXY, by_haproxy, proc::family(it.master()))));
    report_memory(&clients, &subjects, idle)?;
    subjects.push(Subject::new("the backend itself", app, Vec::new()));
    for work in Work::ALL {
        let rounds = (0..=rounds).map(|_| round(&subjects, work, turn)).collect::<Res<Vec<_>>>()?;
        // The first one warms up.
        report(work, &subjects, rounds.get(1..).unwrap_or_default());
    }
    clients.block_on(front.stop())?;
    Ok(())
}

const BUILTIN: &str = "builtin";
const KEPT: &str = "nginx, keepalive 64";
const AS_CONFIGURED: &str = "nginx as bgd configures it";
const HAPROXY: &str = "HAProxy";

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Each idle connection is held twice on this side at most; how many that leaves room for.
fn open_files() -> Res<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard.saturating_sub(500) / 2).unwrap_or(IDLE))
}

fn route(app: u16) -> Res<Route> {
    let release = "20261121T101112Z-1-0123456".parse()?;
    let blue = Side { color: Color::Blue, addresses: vec![Address::Port(app)], release, directory: None };
    Ok(Route::to(Generation(1), blue))
}

/// What bgd writes for nginx.
fn include(app: u16, proof: u16) -> Res<Include> {
    Ok(Include {
        app: "shop".parse()?,
        upstream: "shop".to_owned(),
        route: route(app)?,
        parking: Address::Port(app),
        proof: SocketAddrV4::new(Ipv4Addr::LOCALHOST, proof),
        traffic: None,
        link: None,
    })
}

async fn front(place: &Place, listen: u16, app: u16) -> Res<Builtin> {
    let at = FrontPlace {
        app: "shop".parse()?,
        listen: local(listen),
        control: place.path("front.sock"),
        log: place.path("front.log"),
    };
    let front = Builtin::new(BGD.into(), at);
    front.ensure_running().await?;
    front.route(&route(app)?).await?;
    Ok(front)
}

/// So many connections, each of which has had one answer.
async fn hold(to: SocketAddr, count: usize) -> Res<Vec<TcpStream>> {
    let (mut held, request) = (Vec::with_capacity(count), Work::Kept.request(to));
    for _ in 0..count {
        let mut stream = work::connect(to).await?;
        work::exchange(&mut stream, &request).await?;
        held.push(stream);
    }
    Ok(held)
}

/// Who is asked in turn.
struct Subject {
    name: &'static str,
    at: SocketAddr,
    /// Its processes. Their threads stay, so that no processor time is missed.
    pids: Vec<u32>,
}

/// Requests a second, processor time for 1,000 of them in milliseconds, median, p99 and p99.9 of what clients wait.
type Figures = [f64; 5];

impl Subject {
    fn new(name: &'static str, port: u16, pids: Vec<u32>) -> Self {
        Self { name, at: local(port), pids }
    }

    fn turn(&self, work: Work, turn: Duration) -> Res<Figures> {
        let before = proc::run_seconds(&self.pids);
        let done =
            work.run(self.at, turn).map_err(|err| format!("{}: {}: {err}", work.words(), self.name))?;
        let used = proc::run_seconds(&self.pids) - before;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let count = done.count as f64;
        let [median, p99, p999] = [0.5, 0.99, 0.999].map(|part| done.took.quantile(part));
        // Milliseconds for a thousand are seconds for a million.
        Ok([count / done.within.as_secs_f64(), used * 1e6 / count, median, p99, p999])
    }
}

fn round(subjects: &[Subject], work: Work, turn: Duration) -> Res<Vec<Figures>> {
    subjects.iter().map(|subject| subject.turn(work, turn)).collect()
}

/// What each did, and below it the ratios of the rounds.
fn report(work: Work, subjects: &[Subject], rounds: &[Vec<Figures>]) {
    let title = format!("fronts: {}, {} rounds", work.words(), rounds.len());
    let what = if work == Work::Events { "events/s" } else { "requests/s" };
    let columns = ["", what, "CPU of 1,000", "median", "p99", "p99.9", "aim"];
    let mut table = Table::new(&title, &columns);
    for (at, subject) in subjects.iter().enumerate() {
        let [rate, cpu, waits @ ..] = samples(rounds.iter().filter_map(|round| round.get(at).copied()));
        let cpu = if subject.pids.is_empty() { String::new() } else { ms(cpu.median()) };
        let figures = [format!("{:.0}", rate.median()), cpu].into_iter();
        table.row(
            [subject.name.to_owned()].into_iter().chain(figures).chain(waits.map(|one| ms(one.median()))),
        );
    }
    let place = |name| subjects.iter().position(|subject| subject.name == name);
    for (one, other) in [(BUILTIN, KEPT), (BUILTIN, AS_CONFIGURED), (BUILTIN, HAPROXY), (HAPROXY, KEPT)] {
        let (Some(one_at), Some(other_at)) = (place(one), place(other)) else { continue };
        let ratios = samples(rounds.iter().filter_map(|round| {
            let (one, other) = (round.get(one_at)?, round.get(other_at)?);
            Some(std::array::from_fn(|column| one[column] / other[column]))
        }));
        let aim = if (one, other) == (BUILTIN, KEPT) { aim(work, &ratios) } else { String::new() };
        let cells = ratios.map(|ratio| {
            format!("{:.2} [{:.2}..{:.2}]", ratio.median(), ratio.quantile(0.0), ratio.quantile(1.0))
        });
        table.row([format!("{one} : {other}")].into_iter().chain(cells).chain([aim]));
    }
    table.print();
}

/// Each column of the rounds.
fn samples(rounds: impl Iterator<Item = Figures>) -> [Sample; 5] {
    let mut samples: [Sample; 5] = Default::default();
    for figures in rounds {
        samples.iter_mut().zip(figures).for_each(|(sample, figure)| sample.add_value(figure));
    }
    samples
}

/// Of the ratios to nginx that keeps its connections.
fn aim(work: Work, [rate, cpu, ..]: &[Sample; 5]) -> String {
    let most = match work {
        Work::Kept => 1.0,
        Work::New => 1.1,
        Work::Paced | Work::Upload | Work::Events => return String::new(),
    };
    let (rate, cpu) = (verdict(0.95, rate.median()), verdict(cpu.median(), most));
    format!("requests >= 0.95 {rate}, CPU <= {most:.2} {cpu}")
}

/// Of each front's processes, before, as soon as all connections are open, and after a rest.
fn report_memory(clients: &Runtime, subjects: &[Subject], idle: usize) -> Res<()> {
    let title = format!(
        "memory with {idle} idle connections (all processes, shared pages counted once), after {REST:?}"
    );
    let columns = ["", "before", "at once", "a connection", "later", "a connection"];
    let mut table = Table::new(&title, &columns);
    // The other nginx has the same processes.
    for subject in subjects.iter().filter(|subject| subject.name != AS_CONFIGURED) {
        let before = Memory::sum(&subject.pids)?.pss;
        let held = clients.block_on(hold(subject.at, idle))?;
        let at_once = Memory::sum(&subject.pids)?.pss;
        sleep(REST);
        let later = Memory::sum(&subject.pids)?.pss;
        drop(held);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let each =
            |after: u64| format!("{:.1} KiB", after.saturating_sub(before) as f64 / idle.max(1) as f64);
        let name = subject.name.to_owned();
        table.row([name, mib(before), mib(at_once), each(at_once), mib(later), each(later)]);
    }
    table.print();
    Ok(())
}
