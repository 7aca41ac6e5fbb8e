//! Waits until HAProxy has nothing open with a server, and cuts what is left. A server in maintenance gets no new
//! requests and finishes those in flight, which HAProxy counts.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Haproxy, HaproxyError, ServerCounters,
    figures::{LATER, SOON, StatTable},
    former,
    servers::Server,
};
use crate::{os::blocking::blocking, rules::ids::Color};

/// Consecutive looks that must find nothing. A request that has its server but is not counted yet is not seen; that
/// lasts less time than the pause between two looks.
const LOOKS: u32 = 2;

impl Haproxy {
    /// Waits until nothing is open with the color's servers, at most for `limit`, then cuts the rest. Returns the
    /// number of requests and connections that were left. Dropping the future changes nothing.
    pub async fn drained(&self, color: Color, limit: Duration) -> Result<u64, HaproxyError> {
        let deadline = Instant::now() + limit;
        let (mut pause, mut empty) = (SOON, 0);
        loop {
            let open = self.counters(color).await?.in_flight();
            // After a reload also the connections of the former workers, which the new worker does not report.
            let former = if open == 0 { self.held_by_former(color).await? } else { 0 };
            empty = if open + former == 0 { empty + 1 } else { 0 };
            if empty >= LOOKS {
                return Ok(0);
            }
            if Instant::now() >= deadline {
                if open > 0 {
                    let sides = self.sides().await?;
                    let cut =
                        |server: &Server| format!("shutdown sessions server {}", self.path(&server.name));
                    self.socket.tell(&sides.of(color).iter().map(cut).collect::<Vec<_>>()).await?;
                }
                return Ok(open + former);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    async fn held_by_former(&self, color: Color) -> Result<u64, HaproxyError> {
        let worker = self.process().await?.pid.cast_signed();
        let servers = self.sides().await?.of(color).len();
        let indexes = 0..u16::try_from(servers).unwrap_or(u16::MAX);
        let addresses: Vec<_> = indexes.map(|index| self.addresses.nth(color, index)).collect();
        let held = blocking(move || former::connections(worker, &addresses)).await;
        Ok(u64::try_from(held).unwrap_or(u64::MAX))
    }

    /// HAProxy's counters of the color's servers, added up.
    pub async fn counters(&self, color: Color) -> Result<ServerCounters, HaproxyError> {
        let sides = self.sides().await?;
        self.count(sides.of(color)).await
    }

    /// HAProxy's counters of one server.
    pub(super) async fn counters_of(&self, server: &Server) -> Result<ServerCounters, HaproxyError> {
        self.count(std::slice::from_ref(server)).await
    }

    async fn count(&self, servers: &[Server]) -> Result<ServerCounters, HaproxyError> {
        let backend = &self.settings.backend;
        let command = format!("show stat {backend} 4 -1");
        let text = self.socket.ask(&command).await?;
        let stat = StatTable::parse(&text).ok_or_else(|| self.garbled(&command, "it has no header"))?;
        let each = servers.iter().map(|server| stat.server(backend, &server.name));
        let all: Option<Vec<ServerCounters>> = each.collect();
        let all = all.ok_or_else(|| self.garbled(&command, "the server is not in it"))?;
        Ok(all.into_iter().reduce(ServerCounters::and).unwrap_or_default())
    }
}
