//! The builtin front as a reverse proxy against nginx, both before the same backend: requests a second and the
//! slowest hundredth with kept connections, in rounds that take turns, and the memory of both with 5,000
//! connections that ask for nothing. Client and backend share the machine with what is measured, so that only
//! the ratio means something.

mod stage;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bgd::{
    front::{
        builtin::{Front, FrontPlace},
        route::{Backend, Route},
    },
    rules::{
        address::Address,
        ids::{Color, Generation},
    },
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use stage::{
    BGD, Nginx, Place, Res, Sample, Table,
    figures::ms,
    place,
    proc::{self, Memory, mib},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// Connections that ask without a pause.
const CLIENTS: usize = 32;
/// Connections that ask once and then stay.
const IDLE: usize = 5_000;
/// One turn of one front.
const TURN: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    let rounds = stage::count("ROUNDS", 6);
    let place = Place::new()?;
    let Some(nginx) = Nginx::prepare(&place)? else { return Ok(()) };
    let idle = IDLE.min(open_files()?);
    let [backend, by_nginx, by_builtin]: [u16; 3] = place::free_ports()?;
    nginx.site("shop", local(by_nginx))?;
    nginx.upstream("shop", backend, "keepalive 64; keepalive_requests 100000000;")?;
    nginx.start()?;
    let _serving = serve(backend)?;
    let clients = Builder::new_current_thread().enable_all().build()?;
    let front = clients.block_on(front(&place, by_builtin, backend))?;
    let pid = clients.block_on(front.hello())?.ok_or("no front")?.pid;

    let mut all = [Load::default(), Load::default(), Load::default()];
    for number in 0..=rounds {
        for (load, port) in all.iter_mut().zip([by_builtin, by_nginx, backend]) {
            let (rate, latency) = clients.block_on(ask(local(port), TURN))?;
            // The first round warms up.
            if number > 0 {
                load.rate.add_value(rate);
                load.median.add_value(latency.median());
                load.slowest.add_value(latency.quantile(0.99));
            }
        }
    }
    report(&all, rounds);
    let before = (Memory::of(pid)?, Memory::sum(&of_nginx(&nginx)?)?);
    let held = clients.block_on(hold(local(by_builtin), idle))?;
    let ours = Memory::of(pid)?;
    drop(held);
    let held = clients.block_on(hold(local(by_nginx), idle))?;
    let theirs = Memory::sum(&of_nginx(&nginx)?)?;
    drop(held);
    report_memory(before, (ours, theirs), idle);
    clients.block_on(front.stop())?;
    Ok(())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Each idle connection is held twice on this side at most; how many that leaves room for.
fn open_files() -> Res<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard.saturating_sub(500) / 2).unwrap_or(IDLE))
}

fn of_nginx(nginx: &Nginx) -> Res<Vec<u32>> {
    let master = nginx.master().ok_or("no nginx")?;
    let mut all = proc::children(master);
    all.push(master);
    Ok(all)
}

async fn front(place: &Place, listen: u16, backend: u16) -> Res<Front> {
    let at = FrontPlace {
        app: "shop".parse()?,
        listen: local(listen),
        control: place.path("front.sock"),
        log: place.path("front.log"),
    };
    let front = Front::new(BGD.into(), at);
    front.ensure_running().await?;
    let release = "20261121T101112Z-1-0123456".parse()?;
    let backends =
        vec![Backend { color: Color::Blue, address: Address::Port(backend), weight: 100, release }];
    front.route(&Route::new(Generation(1), backends)).await?;
    Ok(front)
}

/// A backend on threads of its own that answers at once; ends with the runtime.
fn serve(port: u16) -> Res<Runtime> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind(local(port)))?;
    runtime.spawn(async move {
        // Accepting fails only when descriptors run out; then the clients say so.
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { drop(answer(stream).await) });
        }
    });
    Ok(runtime)
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let body = "x".repeat(512);
    let text = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 512\r\n\r\n{body}");
    let (mut bytes, mut have) = ([0; 4096], 0);
    loop {
        match stream.read(&mut bytes[have..]).await? {
            0 => return Ok(()),
            count => have += count,
        }
        if bytes[..have].ends_with(b"\r\n\r\n") {
            stream.write_all(text.as_bytes()).await?;
            have = 0;
        }
    }
}

/// What one front did in its turns.
#[derive(Default)]
struct Load {
    rate: Sample,
    median: Sample,
    slowest: Sample,
}

/// All clients for a while: requests a second, and how long each took.
async fn ask(to: SocketAddr, turn: Duration) -> Res<(f64, Sample)> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CLIENTS {
        clients.spawn(client(to, Arc::clone(&stop)));
    }
    tokio::time::sleep(turn).await;
    stop.store(true, Ordering::Relaxed);
    let elapsed = begun.elapsed();
    let mut all = Sample::default();
    while let Some(ended) = clients.join_next().await {
        for took in ended?? {
            all.add(took);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = all.len() as f64 / elapsed.as_secs_f64();
    Ok((rate, all))
}

async fn client(to: SocketAddr, stop: Arc<AtomicBool>) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut took = Vec::with_capacity(20_000);
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        exchange(&mut stream, to).await?;
        took.push(begun.elapsed());
    }
    Ok(took)
}

/// One request and its answer, whose body is 512 bytes.
async fn exchange(stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
    stream
        .write_all(format!("GET /page HTTP/1.1\r\nHost: {to}\r\nUser-Agent: bench\r\n\r\n").as_bytes())
        .await?;
    let (mut bytes, mut have) = ([0; 4096], 0);
    loop {
        match stream.read(&mut bytes[have..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
        if let Some(end) = bytes[..have].windows(4).position(|four| four == b"\r\n\r\n")
            && have >= end + 4 + 512
        {
            let fine = bytes.starts_with(b"HTTP/1.1 200");
            return if fine { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
    }
}

/// So many connections, each of which has had one answer.
async fn hold(to: SocketAddr, count: usize) -> Res<Vec<TcpStream>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(to).await?;
        exchange(&mut stream, to).await?;
        held.push(stream);
    }
    // What a connection needed for its answer is given back a moment later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(held)
}

fn report(all: &[Load; 3], rounds: usize) {
    let [builtin, nginx, direct] = all;
    let title = format!("fronts, {CLIENTS} kept connections, {rounds} turns of {TURN:?} each");
    let mut table =
        Table::new(&title, &["", "requests/s", "nginx = 1", "aim", "", "median", "p99", "p99, nginx = 1"]);
    let mut row = |name: &str, load: &Load, aim: [String; 2]| {
        let ratio = load.rate.median() / nginx.rate.median();
        let [aim, met] = aim;
        table.row([
            name.to_owned(),
            format!("{:.0}", load.rate.median()),
            format!("{ratio:.2}"),
            aim,
            met,
            ms(load.median.median()),
            ms(load.slowest.median()),
            format!("{:.2}", load.slowest.median() / nginx.slowest.median()),
        ]);
    };
    let met = if builtin.rate.median() >= 0.9 * nginx.rate.median() { "met" } else { "MISSED" };
    row("builtin", builtin, [">= 0.90".to_owned(), met.to_owned()]);
    row("nginx", nginx, Default::default());
    row("the backend itself", direct, Default::default());
    table.print();
}

fn report_memory(before: (Memory, Memory), after: (Memory, Memory), idle: usize) {
    let title =
        format!("memory with {idle} idle connections (nginx: all its processes, shared pages counted once)");
    let mut table = Table::new(&title, &["", "before", "resident", "nginx = 1", "a connection"]);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let each = |before: u64, after: u64| {
        format!("{:.1} KiB", after.saturating_sub(before) as f64 / idle.max(1) as f64)
    };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let ratio = |pss: u64| format!("{:.2}", pss as f64 / after.1.pss as f64);
    for (name, before, after) in [("builtin", before.0, after.0), ("nginx", before.1, after.1)] {
        table.row([
            name.to_owned(),
            mib(before.pss),
            mib(after.pss),
            ratio(after.pss),
            each(before.pss, after.pss),
        ]);
    }
    table.print();
}
