//! The front for a HAProxy that is already there: a backend of its configuration has a server for each color, and
//! bgd moves the traffic by the runtime API of its socket. Nothing of HAProxy's is written and nothing reloaded. Called by the
//! engine, by `bgd flip` without a daemon, and by `bgd doctor`. It never starts, stops or configures HAProxy, and it
//! does not decide what is live: it tells what HAProxy serves, and puts a given route in force.
//!
//! ```text
//! socket   one command, one answer                  servers  `show servers state`: parsing, and what a state means
//! figures  `show stat`, `show info`: parsing        roles    weights that tell the live server from the canary
//! cutover  route(): told, read back, or undone      standing routed(), trouble(): what HAProxy serves now
//! drain    waiting for requests in flight           inspect  what doctor wants to know
//! former   what reloaded HAProxies still work on
//! report   a line of the traffic log                keep     the states on disk, for HAProxy's own start
//! ```
//! While it runs, HAProxy keeps no number and no release for bgd, so nothing of a route is stored there but states and weights.

mod cutover;
mod drain;
mod error;
mod figures;
mod former;
mod inspect;
mod keep;
pub mod report;
mod roles;
mod servers;
mod socket;
mod standing;

use std::{
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use cutover::Life;
pub use error::HaproxyError;
pub use figures::{Counters, Process};
pub use inspect::{Balance, Finding};
pub use roles::Standing;
pub use standing::Discord;

use crate::{
    config::settings::{Addresses, HaproxySettings},
    front::traffic::Sample,
    rules::ids::{Color, Generation},
};
use roles::Want;
use servers::Server;
use socket::Socket;

/// How long the steps of a cutover may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For HAProxy's own check of a server that is about to receive traffic, while another one serves.
    pub check: Duration,
    /// For that check to pass after all, when it failed at first.
    pub verdict: Duration,
    /// From the command to the state that it asks for.
    pub proof: Duration,
}

impl Default for Limits {
    /// 3 s for a check: HAProxy's default is one every 2 s, and to be up again after one that failed takes two that pass;
    /// 8 s are time for one more. 5 s for the proof: HAProxy acts on a command before it answers, so only a machine that
    /// hardly runs takes any time.
    fn default() -> Self {
        let [check, verdict, proof] = [3, 8, 5].map(Duration::from_secs);
        Self { check, verdict, proof }
    }
}

/// One app's part in a HAProxy.
#[derive(Debug, Clone)]
pub struct Haproxy {
    settings: HaproxySettings,
    addresses: Addresses,
    socket: Socket,
    /// What this process knows of HAProxy's present life.
    told: Arc<Mutex<Option<Told>>>,
}

/// How a HAProxy process was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    process: Process,
    blue: Want,
    green: Want,
    generation: Generation,
}

impl Told {
    fn of(&self, color: Color) -> Want {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }
}

/// Both servers of an app, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    blue: Server,
    green: Server,
}

impl Pair {
    fn of(&self, color: Color) -> &Server {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

impl Haproxy {
    /// The front of one app; touches nothing.
    pub fn new(settings: HaproxySettings, addresses: impl Into<Addresses>) -> Self {
        let socket = Socket::new(settings.socket.clone());
        Self { settings, addresses: addresses.into(), socket, told: Arc::default() }
    }

    /// Everything that would make a flip fail and can be known before a build. Changes nothing.
    pub async fn preflight(&self) -> Result<(), HaproxyError> {
        let level = self.socket.ask("show cli level").await?;
        if level.trim() != "admin" {
            let path = self.settings.socket.clone();
            return Err(HaproxyError::Level { path, level: level.trim().to_owned() });
        }
        self.pair().await.map(drop)
    }

    /// Which process answers, so that a restart can be told.
    pub async fn process(&self) -> Result<Process, HaproxyError> {
        figures::process(&self.socket.ask("show info").await?)
            .ok_or_else(|| self.garbled("show info", "neither Pid nor start"))
    }

    /// Whom it runs as; `None` where that can't be seen, as of one in a container.
    pub async fn uid(&self) -> Option<u32> {
        let pid = self.process().await.ok()?.pid;
        let process = std::fs::metadata(format!("/proc/{pid}")).ok()?;
        Some(std::os::unix::fs::MetadataExt::uid(&process))
    }

    /// The request that a datagram of its log tells of.
    pub fn sample(&self, datagram: &[u8]) -> Option<Sample> {
        report::parse(&self.settings, datagram)
    }

    /// Both servers as they are, if they are the app's.
    async fn pair(&self) -> Result<Pair, HaproxyError> {
        let command = format!("show servers state {}", self.settings.backend);
        let text = self.socket.ask(&command).await?;
        self.read_pair(&command, &text)
    }

    /// The same, and which process says so: while HAProxy is reloaded, one connection reaches the former worker and
    /// the next one the new.
    async fn look(&self) -> Result<(Process, Pair), HaproxyError> {
        let command = format!("show info; show servers state {}", self.settings.backend);
        let text = self.socket.ask(&command).await?;
        let garbled = || self.garbled(&command, "not the two answers");
        let (info, states) = text.split_once("\n\n").ok_or_else(garbled)?;
        Ok((figures::process(info).ok_or_else(garbled)?, self.read_pair(&command, states)?))
    }

    fn read_pair(&self, command: &str, text: &str) -> Result<Pair, HaproxyError> {
        if text.contains("Can't find backend") {
            return Err(HaproxyError::NoBackend {
                path: self.settings.socket.clone(),
                backend: self.settings.backend.clone(),
            });
        }
        let servers = servers::parse(text).map_err(|what| self.garbled(command, &what))?;
        Ok(Pair { blue: self.server(Color::Blue, &servers)?, green: self.server(Color::Green, &servers)? })
    }

    fn server(&self, color: Color, servers: &[Server]) -> Result<Server, HaproxyError> {
        let name = self.name(color);
        let Some(found) = servers.iter().find(|server| server.name == name) else {
            let there = servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(HaproxyError::NoServer { server: self.path(color), there });
        };
        let wanted = self.addresses.of(color);
        if !found.is_at(wanted) {
            let (server, address) = (self.path(color), found.place());
            return Err(HaproxyError::OtherAddress { server, address, color, wanted: wanted.clone() });
        }
        Ok(found.clone())
    }

    fn name(&self, color: Color) -> &str {
        match color {
            Color::Blue => &self.settings.servers.blue,
            Color::Green => &self.settings.servers.green,
        }
    }

    /// As the runtime API names it.
    fn path(&self, color: Color) -> String {
        format!("{}/{}", self.settings.backend, self.name(color))
    }

    fn garbled(&self, command: &str, what: &str) -> HaproxyError {
        HaproxyError::Garbled {
            path: self.settings.socket.clone(),
            command: command.to_owned(),
            what: what.to_owned(),
        }
    }

    fn told(&self) -> Option<Told> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

/// Whether the address is one of this host: only such an address can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}
