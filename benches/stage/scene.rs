//! One app on one front, with its remote and a daemon of its own. Used by the benchmarks that run for long.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::{
    Daemon, Haproxy, Nginx, Place, Remote, Res,
    daemon::{App, DEMO, builtin},
    haproxy, reserve_for_good,
};

/// One app on one front.
pub struct Scene {
    pub place: Place,
    pub nginx: Option<Nginx>,
    /// Kept until the end.
    pub haproxy: Option<Haproxy>,
    pub remote: Remote,
    pub daemon: Daemon,
    pub public: SocketAddr,
}

/// Which front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Builtin,
    Nginx,
    /// An nginx in front of unix sockets.
    Linked,
    Haproxy,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Builtin, Self::Nginx];
    pub const ALL: [Self; 3] = [Self::Builtin, Self::Nginx, Self::Haproxy];
    /// All ways of moving the traffic.
    pub const WAYS: [Self; 4] = [Self::Builtin, Self::Nginx, Self::Linked, Self::Haproxy];

    pub fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Nginx => "nginx",
            Self::Linked => "nginx, unix sockets",
            Self::Haproxy => "HAProxy",
        }
    }
}

/// What a scene is set with.
#[derive(Debug, Clone, Copy)]
pub struct Wants<'a> {
    pub kind: Kind,
    /// Further lines of the app's configuration.
    pub more: &'a str,
    /// `health.interval`.
    pub interval: &'static str,
    /// Further lines of nginx's site; where there are any, it keeps a log, and so can tell bgd of each request.
    pub site: &'a str,
    /// What is taken in of the shipped configuration of HAProxy.
    pub haproxy: &'a [&'a str],
}

impl Scene {
    /// With `more` in its configuration and probes this far apart; `None` where the front is wanted and not installed.
    pub fn set(kind: Kind, more: &str, interval: &'static str) -> Res<Option<Self>> {
        Self::with(Wants { kind, more, interval, site: "", haproxy: &[] })
    }

    /// With all that can be wanted.
    pub fn with(wants: Wants<'_>) -> Res<Option<Self>> {
        let place = Place::new();
        let [blue, green, public]: [u16; 3] = reserve_for_good();
        let public = SocketAddr::from((Ipv4Addr::LOCALHOST, public));
        let (mut nginx, mut running) = (None, None);
        let front = match wants.kind {
            Kind::Builtin => builtin(public),
            Kind::Nginx | Kind::Linked => {
                let Some(prepared) = Nginx::prepare(&place) else { return Ok(None) };
                prepared.site_with("shop", public, wants.site);
                if !wants.site.is_empty() {
                    prepared.keep_a_log();
                }
                nginx.insert(prepared).front("shop")
            }
            Kind::Haproxy => {
                let Some(started) = haproxy::start(&place, public, [blue, green], wants.haproxy) else {
                    return Ok(None);
                };
                running = Some(started);
                haproxy::front(&place)
            }
        };
        let remote = Remote::create(&place.path("shop.git"))?;
        let app = App {
            name: "shop",
            remote: PathBuf::from(remote.path()),
            ports: if wants.kind == Kind::Linked { [0, 0] } else { [blue, green] },
            front,
            start: DEMO,
            more: wants.more.to_owned(),
            interval: wants.interval,
        };
        let daemon = Daemon::start(&place, &[app])?;
        if let Some(nginx) = &nginx {
            nginx.start_with("bgd-shop.conf");
        }
        Ok(Some(Self { place, nginx, haproxy: running, remote, daemon, public }))
    }

    /// Pushes a version and waits until it is live and the former one is gone.
    pub fn deploy(&self, version: &str) -> Res<()> {
        let commit = self.remote.stage_version(version)?;
        self.remote.push(commit)?;
        self.daemon.rests("shop", &commit.to_string(), "stopped")?;
        Ok(())
    }
}
