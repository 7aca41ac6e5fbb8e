//! Waiting until HAProxy has nothing open with a server, and cutting what is left. A server in maintenance gets
//! nothing new, and what it is working on goes on; HAProxy counts it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    Counters, Haproxy, HaproxyError,
    figures::{LATER, SOON, Stat},
    former,
};
use crate::rules::ids::Color;

/// A request may be between the choice of its server and the count for less time than lies between two looks.
const LOOKS: u32 = 2;

impl Haproxy {
    /// Waits until nothing is open with the color's server, at most for `limit`; what is left then is cut. Returns
    /// how much that was. Dropping the future changes nothing.
    pub async fn drained(&self, color: Color, limit: Duration) -> Result<u64, HaproxyError> {
        let deadline = Instant::now() + limit;
        let (mut pause, mut empty) = (SOON, 0);
        loop {
            let open = self.counters(color).await?.in_flight();
            // After a reload also what the former workers have begun, which nobody else can tell.
            let former = if open == 0 { self.held_by_former(color).await? } else { 0 };
            empty = if open + former == 0 { empty + 1 } else { 0 };
            if empty >= LOOKS {
                return Ok(0);
            }
            if Instant::now() >= deadline {
                if open > 0 {
                    self.socket.tell(&[format!("shutdown sessions server {}", self.path(color))]).await?;
                }
                return Ok(open + former);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    async fn held_by_former(&self, color: Color) -> Result<u64, HaproxyError> {
        let (worker, address) = (self.process().await?.pid, self.addresses.of(color).clone());
        match tokio::task::spawn_blocking(move || former::connections(worker, &address)).await {
            Ok(held) => Ok(u64::try_from(held).unwrap_or(u64::MAX)),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// What HAProxy has counted for the color's server.
    pub async fn counters(&self, color: Color) -> Result<Counters, HaproxyError> {
        let command = format!("show stat {} 4 -1", self.settings.backend);
        let text = self.socket.ask(&command).await?;
        let stat = Stat::parse(&text).ok_or_else(|| self.garbled(&command, "it has no header"))?;
        stat.server(&self.settings.backend, self.name(color))
            .ok_or_else(|| self.garbled(&command, "the server is not in it"))
    }
}
