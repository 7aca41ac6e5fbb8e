//! Work beside the deploy under way, or that outlives it: parts of the state in `app`, each with the effect that it
//! waits for.

use serde::{Deserialize, Serialize};

use super::ids::EffectId;

/// An `after_live` hook that runs: it tells the app which release is live. One run at a time, so that the last one
/// tells the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcing {
    /// The run.
    pub effect: EffectId,
    /// Another release went live meanwhile: the hook runs again.
    pub again: bool,
}

/// A route to the live release that bgd sends again until the front has proven it: the front was started anew, or did
/// not route as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerouting {
    /// The route, or the wait before bgd sends it again.
    pub effect: EffectId,
    /// Whether a try is under way or waits.
    pub telling: Telling,
}

/// The tries of an action that has to succeed in the end, however often it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telling {
    /// A try is under way.
    Now {
        /// The number of the try, from 1.
        attempt: u32,
    },
    /// It failed; the next try comes after a wait.
    Later {
        /// The number of the next try.
        attempt: u32,
    },
}

/// How a release takes the place of another on the port that the front routes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Placing {
    /// It is started there; until then nobody is served.
    #[default]
    Started,
    /// It runs on the other color; a stand-in on this port passes the traffic on to it.
    PassedOn,
}

/// The stand-in for the live release on the idle color died, and is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingIn {
    /// The start of the stand-in, or the wait before it.
    pub effect: EffectId,
    /// Whether a try is under way or waits.
    pub telling: Telling,
}
