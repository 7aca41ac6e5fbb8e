//! Many apps in one daemon, one of which misbehaves in every way, one after the other: what the others notice. Ten
//! of them are deployed while it does; their time to live stands against the same without a misbehaving neighbour.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

use super::stage::{
    BGD, Daemon, Place, Remote, Res, Sample, Table,
    daemon::{App, DEMO, builtin},
    figures::ms,
    load::Load,
    proc::{Holdings, mib},
    reserve_for_good,
};

/// Neighbours that are deployed in each round.
const DEPLOYED: usize = 10;
/// `health.deadline` and the like of the bad one leave it this long to do its worst before it is looked at.
const WORST: Duration = Duration::from_secs(2);

/// A way to misbehave: its name, `build.sh`, `start.sh` before the app itself.
const WAYS: &[(&str, &str, &str)] = &[
    ("well-behaved", "", ""),
    ("a build that never ends", "sleep 600", ""),
    ("a build that floods its log", "yes | head -c 200000000", ""),
    ("a build that starts 200 processes", "for i in $(seq 200); do sleep 30 & done; wait", ""),
    ("exits at once", "", "exit 1"),
    ("never opens its port", "", "sleep 600"),
    ("floods its log", "", "yes & "),
    ("dies every second", "", "(sleep 1; kill $$) &"),
    ("ignores TERM", "", "trap '' TERM; sleep 600 & wait"),
];

pub fn run(apps: usize) -> Res<()> {
    let place = Place::new();
    let names: Vec<String> = (0..apps).map(|at| format!("app{at}")).collect();
    let remotes: Vec<Remote> =
        names.iter().map(|name| Remote::create(&place.path(&format!("{name}.git")))).collect::<Res<_>>()?;
    let ports: Vec<[u16; 3]> = (0..apps).map(|_| reserve_for_good()).collect();
    let start = "[\"sh\", \"start.sh\"]";
    let made: Vec<App<'_>> = (names.iter().zip(&remotes).zip(&ports).enumerate())
        .map(|(at, ((name, remote), [blue, green, front]))| App {
            name,
            remote: PathBuf::from(remote.path()),
            ports: [*blue, *green],
            front: builtin(public(*front)),
            start: if at == 0 { start } else { DEMO },
            more: "poll = \"1s\"\nbuild = \"sh build.sh\"\nstop = { grace = \"1s\" }".to_owned(),
            interval: "50ms",
        })
        .collect();
    let daemon = Daemon::start(&place, &made)?;
    let Some((bad, good)) = remotes.split_first() else { return Ok(()) };
    push_bad(bad, ("", ""))?;
    for (remote, name) in good.iter().zip(names.iter().skip(1)) {
        let commit = remote.stage_version("0")?;
        remote.push(commit)?;
        daemon.rests(name, &commit.to_string(), "stopped")?;
    }
    let mut table = Table::new(
        &format!("{apps} apps in one daemon, {DEPLOYED} deployed while one of the others misbehaves"),
        &["the other one", "push to rest", "requests", "lost", "daemon", "threads", "descriptors"],
    );
    for (round, (way, build, begin)) in WAYS.iter().enumerate() {
        push_bad(bad, (build, begin))?;
        sleep(WORST);
        let neighbours = names.iter().zip(&remotes).zip(&ports).skip(1).take(DEPLOYED);
        let mut took = Sample::default();
        let (mut answered, mut lost) = (0, 0);
        for ((name, remote), [_, _, front]) in neighbours {
            let load = Load::fresh(public(*front), 2, Duration::from_millis(10));
            let commit = remote.stage_version(&format!("{}", round + 1))?;
            let pushed = remote.push(commit)?;
            daemon.rests(name, &commit.to_string(), "stopped")?;
            took.add(Instant::now().duration_since(pushed));
            let tally = load.end();
            answered += tally.total();
            lost += tally.lost.len();
        }
        let held = Holdings::of(daemon.pid())?;
        table.row([
            (*way).to_owned(),
            ms(took.median()),
            answered.to_string(),
            lost.to_string(),
            mib(held.rss),
            held.threads.to_string(),
            held.descriptors.to_string(),
        ]);
    }
    table.print();
    Ok(())
}

fn public(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn push_bad(remote: &Remote, (build, begin): (&str, &str)) -> Res<()> {
    let start = format!("{begin}\nexec {BGD} demo-app\n");
    let conf = "version = bad\npage = hello\ndatabase = reachable\n";
    let build = format!("{build}\n");
    let commit = remote.stage(&[
        ("app.conf", conf.as_bytes()),
        ("build.sh", build.as_bytes()),
        ("start.sh", start.as_bytes()),
    ])?;
    remote.push(commit)?;
    Ok(())
}
