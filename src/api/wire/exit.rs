//! Exit codes, which commands end with and refusals carry over the wire.

use serde::{Deserialize, Serialize};

use crate::rules::step::DenialKind;

/// Exit codes of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    /// Failed; the old color still serves.
    Failed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// Nothing is live.
    NothingLive = 3,
    /// The daemon can't be reached.
    Unreachable = 4,
    /// Refused because of a hold, a lock or a barrier.
    Held = 5,
    /// Rolled back automatically.
    RolledBack = 6,
    NotPermitted = 7,
    /// Timed out while waiting; the work goes on.
    TimedOut = 8,
    /// `status` only: serving but degraded.
    Degraded = 20,
}

impl From<DenialKind> for Exit {
    fn from(kind: DenialKind) -> Self {
        match kind {
            DenialKind::Held | DenialKind::Barred => Self::Held,
            DenialKind::NothingLive => Self::NothingLive,
            DenialKind::NoWayBack | DenialKind::NoCanary => Self::Failed,
        }
    }
}
