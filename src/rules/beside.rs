//! What goes on beside the deploy under way, or outlives it: parts of the state in `app`, each with the effect that it
//! waits for.

use serde::{Deserialize, Serialize};

use super::ids::EffectId;

/// The app is told by its `after_live` hook that a release is live. One run at a time, so that what is told last is
/// what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcing {
    /// The run.
    pub effect: EffectId,
    /// Another release went live meanwhile: it is told next.
    pub again: bool,
}

/// The front is told again what is live, until it is proven to route there: it was started anew, or did not route
/// as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rerouting {
    /// The route, or the wait before it is told again.
    pub effect: EffectId,
    /// Which of the two.
    pub telling: Telling,
}

/// A route that has to come true, however often the front fails to take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telling {
    /// The route is under way.
    Now {
        /// Which try; the first is 1.
        attempt: u32,
    },
    /// It failed; it is told again after a wait.
    Later {
        /// Which try comes next.
        attempt: u32,
    },
}

/// How a release takes the place of another on the port that the front routes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Placing {
    /// It is started there, which nobody is served for.
    #[default]
    Started,
    /// It runs on the other color, and what comes to the port is passed on to it.
    PassedOn,
}

/// What stands in for the live release on the idle color is put there again: it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingIn {
    /// The stand-in, or the wait before it.
    pub effect: EffectId,
    /// Which of the two.
    pub telling: Telling,
}
