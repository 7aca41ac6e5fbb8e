//! How long the two sides of an exchange may take. Told by the daemon (`control`), in force at once, for requests that
//! begin then. Read by `proxy`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::worker::TICK;

/// How long the two sides of an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A client between two pieces of its request's body, in milliseconds.
    pub request_ms: u64,
    /// An app until the head of its answer, in milliseconds.
    pub response_ms: u64,
}

impl Limits {
    /// From what the configuration says.
    pub fn new(request: Duration, response: Duration) -> Self {
        let ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { request_ms: ms(request), response_ms: ms(response) }
    }
}

impl Default for Limits {
    /// As nginx has them.
    fn default() -> Self {
        Self { request_ms: 60_000, response_ms: 60_000 }
    }
}

/// The limits in force.
#[derive(Debug)]
pub(super) struct InForce {
    request_ms: AtomicU64,
    response_ms: AtomicU64,
}

impl Default for InForce {
    fn default() -> Self {
        let Limits { request_ms, response_ms } = Limits::default();
        Self { request_ms: request_ms.into(), response_ms: response_ms.into() }
    }
}

impl InForce {
    /// Puts others in force.
    pub(super) fn set(&self, limits: Limits) {
        self.request_ms.store(limits.request_ms, Relaxed);
        self.response_ms.store(limits.response_ms, Relaxed);
    }

    /// What is in force.
    pub(super) fn get(&self) -> Limits {
        Limits { request_ms: self.request_ms.load(Relaxed), response_ms: self.response_ms.load(Relaxed) }
    }

    /// Of a client, between two pieces of a body.
    pub(super) fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms.load(Relaxed))
    }

    /// Of an app, until the head of its answer.
    pub(super) fn response(&self) -> Duration {
        Duration::from_millis(self.response_ms.load(Relaxed))
    }

    /// The same in ticks of the workers: never less, at most a tick more.
    pub(super) fn response_ticks(&self) -> u32 {
        let ticks = self.response().as_millis().div_ceil(TICK.as_millis());
        u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
    }
}
