//! One app on either front, with its remote and a daemon of its own. Used by the benchmarks that run for long.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::{
    Daemon, Nginx, Place, Remote, Res,
    daemon::{App, DEMO, builtin},
    place,
};

/// One app on one front.
pub struct Scene {
    pub place: Place,
    pub nginx: Option<Nginx>,
    pub remote: Remote,
    pub daemon: Daemon,
    pub public: SocketAddr,
}

/// Which front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Builtin,
    Nginx,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Builtin, Self::Nginx];

    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Nginx => "nginx",
        }
    }
}

impl Scene {
    /// With `more` in its configuration and probes this far apart; `None` where nginx is wanted and not installed.
    pub fn set(kind: Kind, more: &str, interval: &'static str) -> Res<Option<Self>> {
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
            more: more.to_owned(),
            interval,
        };
        let daemon = Daemon::start(&place, &[app])?;
        if let Some(nginx) = &nginx {
            nginx.start_with("bgd-shop.conf")?;
        }
        Ok(Some(Self { place, nginx, remote, daemon, public }))
    }

    /// Pushes a version and waits until it is live and the former one is gone.
    pub fn deploy(&self, version: &str) -> Res<()> {
        let commit = self.remote.stage_version(version)?;
        self.remote.push(commit)?;
        self.daemon.rests("shop", &commit.to_string(), "stopped")?;
        Ok(())
    }
}
