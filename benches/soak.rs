//! bgd in the long run: many deploys under load on both fronts, what they cost in requests, descriptors, threads,
//! memory and disk; a daemon with 100 apps of which one misbehaves in every way; thousands of open connections
//! across a flip. `DEPLOYS`, `APPS` and `CONNECTIONS` make a run shorter or longer.

#[path = "soak/connections.rs"]
mod connections;
#[path = "soak/deploys.rs"]
mod deploys;
#[path = "soak/neighbours.rs"]
mod neighbours;
mod stage;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use stage::{
    Daemon, Nginx, Place, Remote, Res,
    daemon::{App, DEMO, builtin},
    place,
};

fn main() -> ExitCode {
    stage::main(run)
}

fn run() -> Res<()> {
    deploys::run(stage::count("DEPLOYS", 1_000))?;
    connections::run(stage::count("CONNECTIONS", 5_000))?;
    neighbours::run(stage::count("APPS", 100))
}

/// One app on one front.
struct Scene {
    place: Place,
    nginx: Option<Nginx>,
    remote: Remote,
    daemon: Daemon,
    public: SocketAddr,
}

/// Which front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Builtin,
    Nginx,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Builtin, Self::Nginx];

    fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Nginx => "nginx",
        }
    }
}

impl Scene {
    /// `None` where nginx is wanted and not installed.
    fn set(kind: Kind) -> Res<Option<Self>> {
        let place = Place::new()?;
        let [blue, green, public]: [u16; 3] = place::free_ports()?;
        let public = SocketAddr::from((Ipv4Addr::LOCALHOST, public));
        let (nginx, front) = match kind {
            Kind::Builtin => (None, builtin(public)),
            Kind::Nginx => {
                let Some(nginx) = Nginx::prepare(&place)? else { return Ok(None) };
                nginx.site("shop", public)?;
                let front = nginx.front("shop");
                (Some(nginx), front)
            }
        };
        let remote = Remote::create(&place.path("shop.git"))?;
        let app = App {
            name: "shop",
            remote: PathBuf::from(remote.path()),
            ports: [blue, green],
            front,
            start: DEMO,
            more: "build = \"sh build.sh\"".to_owned(),
            interval: "10ms",
        };
        let daemon = Daemon::start(&place, &[app])?;
        if let Some(nginx) = &nginx {
            nginx.start_with("bgd-shop.conf")?;
        }
        Ok(Some(Self { place, nginx, remote, daemon, public }))
    }

    /// Pushes a version and waits until it is live and the former one is gone.
    fn deploy(&self, version: &str) -> Res<()> {
        let commit = self.remote.stage_version(version)?;
        self.remote.push(commit)?;
        self.daemon.rests("shop", &commit.to_string(), "stopped")?;
        Ok(())
    }
}
