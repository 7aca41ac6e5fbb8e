//! What bgd costs while nothing happens: resident memory of the daemon with 1 and with 100 apps, its processor
//! time per 1,000 polls of a local remote, and the memory of a shim that nothing else would use.

mod stage;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use stage::{
    Daemon, Place, Remote, Res, Sample, Table,
    daemon::{App, DEMO, builtin},
    figures::verdict,
    proc::{self, Memory, mib},
};

fn main() -> ExitCode {
    stage::main(run)
}

/// Long enough for a poll each second to show against the kernel's steps of 10 ms.
const LOOK: Duration = Duration::from_secs(10);

fn run() -> Res<()> {
    let many = stage::count("APPS", 100);
    let one = measure(1, "1s")?;
    let all = measure(many, "1s")?;
    let rarely = measure(many, "1h")?;
    let mut table = Table::new("footprint, every app live on its builtin front", &["", "figure", "aim", ""]);
    let limit = |kib: u64, most: f64| {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let value = kib as f64 / 1024.0;
        [mib(kib), format!("<= {most} MiB"), verdict(value, most)]
    };
    let with = |name: String, [a, b, c]: [String; 3]| [name, a, b, c];
    let plain = |name: String, figure: String| [name, figure, String::new(), String::new()];
    table.row(with("daemon with 1 app, resident".to_owned(), limit(one.daemon.rss, 15.0)));
    table.row(plain("  of it not shared".to_owned(), mib(one.daemon.unique)));
    table.row(plain(format!("daemon with {many} apps, resident"), mib(all.daemon.rss)));
    table.row(plain("  of it not shared".to_owned(), mib(all.daemon.unique)));
    table.row(with("shim, not shared (median)".to_owned(), limit(all.median("shim"), 1.5)));
    table.row(plain("front, not shared (median)".to_owned(), mib(all.median("front"))));
    if all.count("git-worker") > 0 {
        let name = format!("git worker, not shared (median of {})", all.count("git-worker"));
        table.row(plain(name, mib(all.median("git-worker"))));
    }
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let per_poll = all.cpu_ms.saturating_sub(rarely.cpu_ms) as f64 / (many as f64 * LOOK.as_secs_f64());
    let name = "processor time per 1,000 polls, local remote".to_owned();
    table.row(plain(name, format!("{:.0} ms", per_poll * 1000.0)));
    let name = format!("processor time of {many} apps without polls, per minute");
    table.row(plain(name, format!("{} ms", rarely.cpu_ms * 60 / LOOK.as_secs())));
    table.print();
    Ok(())
}

struct Measured {
    daemon: Memory,
    cpu_ms: u64,
    others: Vec<(String, Memory)>,
}

impl Measured {
    fn median(&self, role: &str) -> u64 {
        let mut sample = Sample::default();
        for (_, memory) in self.others.iter().filter(|(name, _)| name == role) {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            sample.add_value(memory.unique as f64);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a whole number")]
        let median = sample.median() as u64;
        median
    }

    fn count(&self, role: &str) -> usize {
        self.others.iter().filter(|(name, _)| name == role).count()
    }
}

fn measure(apps: usize, poll: &str) -> Res<Measured> {
    let place = Place::new()?;
    let ports = ports(apps)?;
    let names: Vec<String> = (0..apps).map(|at| format!("app{at}")).collect();
    // One remote each: on a shared one every look of an app would wake the watches of all others.
    let mut commits = Vec::new();
    for name in &names {
        let remote = Remote::create(&place.path(&format!("{name}.git")))?;
        let commit = remote.stage_version("1")?;
        remote.push(commit)?;
        commits.push(commit.to_string());
    }
    let app = |(name, [blue, green, front]): (_, [u16; 3])| App {
        name,
        remote: place.path(&format!("{name}.git")),
        ports: [blue, green],
        front: builtin(SocketAddr::from((Ipv4Addr::LOCALHOST, front))),
        start: DEMO,
        more: format!("poll = \"{poll}\""),
        interval: "100ms",
    };
    let all: Vec<App<'_>> = names.iter().map(String::as_str).zip(ports).map(app).collect();
    let daemon = Daemon::start(&place, &all)?;
    for (name, commit) in names.iter().zip(&commits) {
        daemon.rests(name, commit, "stopped")?;
    }
    // What a deploy needed is given back within moments; then nothing but polls and health checks is left.
    sleep(Duration::from_secs(3));
    let before = proc::cpu_ms(daemon.pid())?;
    let begun = Instant::now();
    sleep(LOOK);
    let cpu_ms = proc::cpu_ms(daemon.pid())? - before;
    if begun.elapsed() > LOOK + LOOK / 10 {
        println!("  (the machine was busy: {:?} instead of {LOOK:?})", begun.elapsed());
    }
    let mut others = Vec::new();
    for pid in proc::children(daemon.pid()) {
        // One that ends meanwhile is no part of the picture.
        if let (Some(role), Ok(memory)) = (proc::role(pid), Memory::of(pid)) {
            others.push((role, memory));
        }
    }
    Ok(Measured { daemon: Memory::of(daemon.pid())?, cpu_ms, others })
}

/// All at once, so that they differ.
fn ports(apps: usize) -> Res<Vec<[u16; 3]>> {
    let mut held = Vec::with_capacity(apps * 3);
    for _ in 0..apps * 3 {
        held.push(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
    }
    let mut ports = Vec::with_capacity(apps);
    for three in held.chunks_exact(3) {
        let mut of_app = [0; 3];
        for (port, listener) in of_app.iter_mut().zip(three) {
            *port = listener.local_addr()?.port();
        }
        ports.push(of_app);
    }
    Ok(ports)
}
