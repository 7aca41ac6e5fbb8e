//! What bgd costs while nothing happens, all of it together: daemon, git workers, fronts and shims, with 1 and with 50
//! apps at the default settings, each live on its builtin front. Memory as the share of what is resident (PSS), and
//! processor time an hour. The apps themselves are not counted.

mod stage;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use stage::{
    Daemon, Place, Remote, Res, Table,
    daemon::{App, DEMO, INTERVAL, builtin},
    figures::verdict,
    proc::{self, Memory, mib},
};

/// bgd's own processes beside the daemon.
const ROLES: [&str; 3] = ["git-worker", "front", "shim"];

fn main() -> ExitCode {
    stage::main(run)
}

/// What one size has to keep to: PSS of all in MiB, processor seconds an hour of all.
struct Aims {
    pss: f64,
    cpu: f64,
}

fn run() -> Res<()> {
    let many = stage::count("APPS", 50);
    let seconds = u64::try_from(stage::count("SECONDS", 60))?;
    // Until what a deploy needed is given back: workers end after a minute of rest.
    let rest = u64::try_from(stage::count("REST", 90))?;
    for (apps, aims) in [(1, Aims { pss: 14.0, cpu: 1.0 }), (many, Aims { pss: 110.0, cpu: 20.0 })] {
        let measured = measure(apps, Duration::from_secs(rest), Duration::from_secs(seconds))?;
        report(apps, &measured, &aims, seconds);
    }
    Ok(())
}

fn report(apps: usize, measured: &[Group], aims: &Aims, seconds: u64) {
    let title = format!("{apps} apps at rest, {seconds} s looked at");
    let columns = ["", "processes", "resident", "PSS", "not shared", "CPU seconds an hour", "aim", ""];
    let mut table = Table::new(&title, &columns);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let in_mib = |kib: u64| kib as f64 / 1024.0;
    for group in measured {
        let (aim, met) = match group.name {
            "daemon" if apps == 1 => {
                ("<= 15 MiB resident".to_owned(), verdict(in_mib(group.memory.rss), 15.0))
            }
            "all" => (
                format!("<= {} MiB PSS, <= {} s", aims.pss, aims.cpu),
                verdict(in_mib(group.memory.pss).max(aims.pss * group.cpu / aims.cpu), aims.pss),
            ),
            _ => Default::default(),
        };
        table.row([
            group.name.to_owned(),
            group.pids.len().to_string(),
            mib(group.memory.rss),
            mib(group.memory.pss),
            mib(group.memory.unique),
            format!("{:.2}", group.cpu),
            aim,
            met,
        ]);
    }
    table.print();
}

/// Processes of one role.
struct Group {
    name: &'static str,
    pids: Vec<u32>,
    memory: Memory,
    /// Processor seconds an hour.
    cpu: f64,
}

fn measure(apps: usize, rest: Duration, look: Duration) -> Res<Vec<Group>> {
    let place = Place::new();
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
        more: String::new(),
        interval: INTERVAL,
    };
    let all: Vec<App<'_>> = names.iter().map(String::as_str).zip(ports).map(app).collect();
    let daemon = Daemon::start(&place, &all)?;
    for (name, commit) in names.iter().zip(&commits) {
        daemon.rests(name, commit, "stopped")?;
    }
    sleep(rest);
    let mut groups = vec![("daemon", vec![daemon.pid()])];
    for role in ROLES {
        let of_role = |pid: &u32| proc::role(*pid).as_deref() == Some(role);
        groups.push((role, proc::children(daemon.pid()).into_iter().filter(of_role).collect()));
    }
    groups.push(("all", groups.iter().flat_map(|(_, pids)| pids.clone()).collect()));
    let used = |groups: &[(_, Vec<u32>)]| -> Vec<f64> {
        groups.iter().map(|(_, pids)| proc::run_seconds(pids)).collect()
    };
    let (before, begun) = (used(&groups), Instant::now());
    sleep(look);
    let (after, hours) = (used(&groups), begun.elapsed().as_secs_f64() / 3600.0);
    let group = |((name, pids), (before, after)): ((&'static str, Vec<u32>), (f64, f64))| {
        Ok(Group { name, memory: Memory::sum(&pids)?, pids, cpu: (after - before) / hours })
    };
    groups.into_iter().zip(before.into_iter().zip(after)).map(group).collect()
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
