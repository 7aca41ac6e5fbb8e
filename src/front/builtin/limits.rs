//! Time limits for the two sides of an exchange. The daemon sets them (`control`); they apply at once, to requests that
//! begin then. Read by `proxy`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::worker::TICK;

/// Time limits for the two sides of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeLimits {
    /// Longest time between two pieces of a request's body from a client, in milliseconds.
    pub request_ms: u64,
    /// Longest time until the head of an app's answer, in milliseconds.
    pub response_ms: u64,
}

impl ExchangeLimits {
    /// The configured limits, at least 1 ms each.
    pub fn new(request: Duration, response: Duration) -> Self {
        let ms = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { request_ms: ms(request), response_ms: ms(response) }
    }
}

impl Default for ExchangeLimits {
    /// 60 s each, nginx's defaults.
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
        let ExchangeLimits { request_ms, response_ms } = ExchangeLimits::default();
        Self { request_ms: request_ms.into(), response_ms: response_ms.into() }
    }
}

impl InForce {
    /// Puts these limits in force.
    pub(super) fn set(&self, limits: ExchangeLimits) {
        self.request_ms.store(limits.request_ms, Relaxed);
        self.response_ms.store(limits.response_ms, Relaxed);
    }

    /// The limits in force.
    pub(super) fn get(&self) -> ExchangeLimits {
        ExchangeLimits {
            request_ms: self.request_ms.load(Relaxed),
            response_ms: self.response_ms.load(Relaxed),
        }
    }

    /// The limit on a client, between two pieces of a body.
    pub(super) fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms.load(Relaxed))
    }

    /// The limit on an app, until the head of its answer.
    pub(super) fn response(&self) -> Duration {
        Duration::from_millis(self.response_ms.load(Relaxed))
    }

    /// The limit on an app in ticks of the workers: never shorter, and less than two ticks longer.
    pub(super) fn response_ticks(&self) -> u32 {
        let ticks = self.response().as_millis().div_ceil(TICK.as_millis());
        u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1)
    }
}
