//! The front for a HAProxy that is already there: a backend of its configuration has a server for each instance of
//! each color, and bgd moves the traffic through the runtime API on HAProxy's socket. bgd writes none of HAProxy's
//! files and does not reload it. Called by the engine, by `bgd flip` without a daemon, and by `bgd doctor`. It never
//! starts, stops or configures HAProxy, and it does not decide what is live: it reports what HAProxy serves, and puts
//! a given route in force.
//!
//! ```text
//! socket   one command, one answer                  servers  `show servers state`: parsing, and what a state means
//! figures  `show stat`, `show info`: parsing        roles    weights that tell the live server from the canary
//! cutover  route(): set, read back, or undone       standing routed(), trouble(): what HAProxy serves now
//! drain    waits for requests in flight             inspect  checks that only doctor needs
//! former   connections of former workers
//! report   a line of the traffic log                keep     the states on disk, for HAProxy's own start
//! front    implements the trait `Front`             supervise looks at HAProxy between flips
//! doctor   the findings of `bgd doctor`
//! ```
//! HAProxy can't store a generation or a release for bgd, so it holds nothing of a route but states and weights.

mod cutover;
mod doctor;
mod drain;
mod error;
mod figures;
mod former;
mod front;
mod inspect;
mod keep;
pub mod report;
mod roles;
mod servers;
mod socket;
mod standing;
mod supervise;

use std::{
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use cutover::Life;
pub use error::HaproxyError;
pub use figures::{HaproxyProcess, ServerCounters};
pub use inspect::{Balance, ConfigDefect};
pub use roles::RouteInForce;
pub use standing::Discord;

use crate::{
    config::settings::{Addresses, HaproxySettings, MOST_INSTANCES},
    rules::ids::{Color, Generation},
};
use roles::ServerGoal;
use servers::Server;
use socket::AdminSocket;

/// How long the steps of a cutover may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutoverLimits {
    /// For the first result of HAProxy's own check of a server that is about to receive traffic.
    pub check: Duration,
    /// For that check to pass, when it failed at first.
    pub verdict: Duration,
    /// From the command until HAProxy reports the state that it asks for.
    pub proof: Duration,
}

impl Default for CutoverLimits {
    /// 15 s for a check: HAProxy's default is one every 2 s, and a longer interval still gets one. To be up again after
    /// a failed check takes two that pass; 8 s leave time for one more. 5 s for the proof: HAProxy acts on a command
    /// before it answers, so only an overloaded machine takes any time.
    fn default() -> Self {
        let [check, verdict, proof] = [15, 8, 5].map(Duration::from_secs);
        Self { check, verdict, proof }
    }
}

/// One app's part in a HAProxy.
#[derive(Debug, Clone)]
pub struct Haproxy {
    settings: HaproxySettings,
    addresses: Addresses,
    socket: AdminSocket,
    /// The states that this bgd process last set, and the HAProxy process that got them; `None` before the first look
    /// or route.
    told: Arc<Mutex<Option<LastSet>>>,
}

/// The state that bgd last set in a HAProxy process: for each color, the target of each server, in server order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LastSet {
    process: HaproxyProcess,
    blue: Vec<ServerGoal>,
    green: Vec<ServerGoal>,
    generation: Generation,
}

impl LastSet {
    fn of(&self, color: Color) -> &[ServerGoal] {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Whether any server of the color shall receive traffic.
    fn is_ready(&self, color: Color) -> bool {
        self.of(color).iter().any(|want| want.is_ready())
    }

    /// Each server with its target; maintenance for a server that was added later.
    fn paired<'a>(
        &'a self,
        sides: &'a ServerSides,
        color: Color,
    ) -> impl Iterator<Item = (&'a Server, ServerGoal)> {
        let wants = self.of(color).iter().copied().chain(std::iter::repeat(ServerGoal::Maint));
        sides.of(color).iter().zip(wants)
    }

    /// The servers of the color that shall receive traffic.
    fn wanted(&self, sides: &ServerSides, color: Color) -> Vec<Server> {
        let ready = self.paired(sides, color).filter(|(_, want)| want.is_ready());
        ready.map(|(server, _)| server.clone()).collect()
    }

    fn is_met(&self, sides: &ServerSides) -> bool {
        Color::ALL
            .into_iter()
            .all(|color| self.paired(sides, color).all(|(server, want)| want.is_met(server)))
    }
}

/// The servers of an app at one moment: for each color one per instance, in order of instances, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ServerSides {
    blue: Vec<Server>,
    green: Vec<Server>,
}

impl ServerSides {
    fn of(&self, color: Color) -> &[Server] {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Server> {
        self.blue.iter().chain(&self.green)
    }

    /// Applies a function to each server; blue's results come first.
    fn map<T>(&self, each: impl Fn(&Server) -> T) -> [Vec<T>; 2] {
        Color::ALL.map(|color| self.of(color).iter().map(&each).collect())
    }

    /// Text for messages: `blue is ready with weight 100, green is in maintenance`.
    fn said(&self) -> String {
        self.all().map(Server::said).collect::<Vec<_>>().join(", ")
    }
}

impl Haproxy {
    /// Makes the front of one app; does not connect to HAProxy.
    pub fn new(settings: HaproxySettings, addresses: impl Into<Addresses>) -> Self {
        let socket = AdminSocket::new(settings.socket.clone());
        Self { settings, addresses: addresses.into(), socket, told: Arc::default() }
    }

    /// Fails with what would make a flip fail and can be known before a build. Changes nothing.
    pub async fn preflight(&self) -> Result<(), HaproxyError> {
        let level = self.socket.ask("show cli level").await?;
        if level.trim() != "admin" {
            let path = self.settings.socket.clone();
            return Err(HaproxyError::Level { path, level: level.trim().to_owned() });
        }
        let sides = self.sides().await?;
        let short = |color: &Color| sides.of(*color).len() < usize::from(self.addresses.each);
        let Some(color) = Color::ALL.into_iter().find(short) else { return Ok(()) };
        let there = sides.all().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ");
        let missing = self.settings.servers.nth(color, sides.of(color).len());
        Err(HaproxyError::NoServer { server: self.path(&missing), there })
    }

    /// The HAProxy process that answers, by which bgd detects a restart.
    pub async fn process(&self) -> Result<HaproxyProcess, HaproxyError> {
        figures::process(&self.socket.ask("show info").await?)
            .ok_or_else(|| self.garbled("show info", "neither Pid nor start"))
    }

    /// The uid that HAProxy runs as; `None` where bgd can't see its process, such as in a container.
    pub async fn uid(&self) -> Option<u32> {
        let pid = self.process().await.ok()?.pid;
        let process = std::fs::metadata(format!("/proc/{pid}")).ok()?;
        Some(std::os::unix::fs::MetadataExt::uid(&process))
    }

    /// Reads the app's servers; fails when they are missing or at other addresses than the app's.
    async fn sides(&self) -> Result<ServerSides, HaproxyError> {
        let command = self.states();
        let text = self.socket.ask(&command).await?;
        self.read_sides(&command, &text)
    }

    /// The command that asks for the states of the servers.
    fn states(&self) -> String {
        format!("show servers state {}", self.settings.backend)
    }

    /// Reads the servers and the process on one connection: during a reload, one connection reaches the former worker
    /// and the next one the new worker.
    async fn look(&self) -> Result<(HaproxyProcess, ServerSides), HaproxyError> {
        let command = format!("show info; {}", self.states());
        let text = self.socket.ask(&command).await?;
        let garbled = || self.garbled(&command, "not the two answers");
        let (info, states) = text.split_once("\n\n").ok_or_else(garbled)?;
        Ok((figures::process(info).ok_or_else(garbled)?, self.read_sides(&command, states)?))
    }

    fn read_sides(&self, command: &str, text: &str) -> Result<ServerSides, HaproxyError> {
        if text.contains("Can't find backend") {
            return Err(HaproxyError::NoBackend {
                path: self.settings.socket.clone(),
                backend: self.settings.backend.clone(),
            });
        }
        let servers = servers::parse(text).map_err(|what| self.garbled(command, &what))?;
        Ok(ServerSides { blue: self.side(Color::Blue, &servers)?, green: self.side(Color::Green, &servers)? })
    }

    /// The color's servers: the first, and those that follow it as long as they are at the app's addresses. There are
    /// more servers than instances when the app had more instances before; bgd still sets their state.
    fn side(&self, color: Color, servers: &[Server]) -> Result<Vec<Server>, HaproxyError> {
        let mut side = Vec::new();
        for index in 0..MOST_INSTANCES {
            let name = self.settings.servers.nth(color, usize::from(index));
            let own = self.settings.servers.color(&name) == Some(color);
            let Some(found) = servers.iter().find(|server| own && server.name == name) else { break };
            let wanted = self.addresses.nth(color, index);
            if !found.is_at(&wanted) && index >= self.addresses.each {
                break;
            }
            if !found.is_at(&wanted) {
                let (server, address) = (self.path(&name), found.place());
                return Err(HaproxyError::OtherAddress { server, address, color, wanted });
            }
            side.push(found.clone());
        }
        if side.is_empty() {
            let there = servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>().join(", ");
            let server = self.path(self.settings.servers.of(color));
            return Err(HaproxyError::NoServer { server, there });
        }
        Ok(side)
    }

    /// The server's name in the runtime API: `backend/server`.
    fn path(&self, server: &str) -> String {
        format!("{}/{server}", self.settings.backend)
    }

    fn garbled(&self, command: &str, what: &str) -> HaproxyError {
        HaproxyError::Garbled {
            path: self.settings.socket.clone(),
            command: command.to_owned(),
            what: what.to_owned(),
        }
    }

    fn told(&self) -> Option<LastSet> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, told: LastSet) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }
}

/// Whether the address belongs to this host: only such an address can be bound.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}
