//! The fixed words of the contract that machine, record and wire share: phases, outcomes, failures.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant),*
        }
        impl $name {
            /// All of them, in the contract's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
        impl std::str::FromStr for $name {
            type Err = super::ids::BadId;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| {
                    super::ids::BadId { expected: concat!("a ", stringify!($name)), value: text.to_owned() }
                })
            }
        }
    };
}

words! {
    /// Where a deploy is.
    Phase {
        /// The commit is asked for and fetched.
        Fetching = "fetching",
        /// The release directory is made.
        CheckingOut = "checking_out",
        /// The build commands run.
        Building = "building",
        /// The instance is started on the idle color.
        Starting = "starting",
        /// The instance is probed.
        Probing = "probing",
        /// Requests of bgd's own warm the instance up.
        Warming = "warming",
        /// A share of the traffic goes to it.
        Canary = "canary",
        /// The front moves the traffic.
        Switching = "switching",
        /// Live, and probed with an automatic way back.
        Watching = "watching",
        /// The former color finishes what is in flight.
        Draining = "draining",
        /// The former color is stopped.
        Stopping = "stopping",
    }
}

impl Phase {
    /// The name of the step in a deploy's record.
    pub fn step(self) -> &'static str {
        match self {
            Self::Fetching => "fetch",
            Self::CheckingOut => "checkout",
            Self::Building => "build",
            Self::Starting => "start",
            Self::Probing => "probe",
            Self::Warming => "warm_up",
            Self::Canary => "canary",
            Self::Switching => "switch",
            Self::Watching => "watch",
            Self::Draining => "drain",
            Self::Stopping => "stop",
        }
    }
}

words! {
    /// How a deploy ended.
    Outcome {
        /// It receives the traffic, or did until a later deploy.
        Live = "live",
        /// It never received traffic, or failed with nothing to go back to.
        Failed = "failed",
        /// A newer commit took its place before the flip.
        Superseded = "superseded",
        /// An operator's flip ended it.
        Cancelled = "cancelled",
        /// It was live, failed the watch, and the traffic went back by itself.
        RolledBack = "rolled_back",
    }
}

words! {
    /// `state` of an app in `bgd status`.
    AppState {
        /// Nothing deployed yet.
        Empty = "empty",
        /// Serving, nothing under way.
        Live = "live",
        /// A deploy is under way.
        Deploying = "deploying",
        /// A deploy is live and watched.
        Watching = "watching",
        /// Serving, automatic deploys off.
        Held = "held",
        /// Serving, but something needs attention.
        Degraded = "degraded",
        /// Should serve and does not.
        Down = "down",
        /// Taken out of service by `bgd down`.
        Stopped = "stopped",
    }
}

words! {
    /// `idle.state` in `bgd status`.
    IdleState {
        /// Nothing runs there.
        Stopped = "stopped",
        /// A deploy starts its instance there.
        Starting = "starting",
        /// An instance still runs there, for an instant way back.
        Warm = "warm",
        /// It finishes what is in flight, or is being stopped.
        Draining = "draining",
    }
}

words! {
    /// What ends a hold, as status says it.
    HoldEnd {
        /// `bgd resume` alone.
        Resume = "resume",
        /// A newer commit, or `bgd resume`.
        NewerCommit = "newer_commit",
    }
}

/// Whether trying the same commit again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nature {
    /// Network, disk, someone else's configuration: tried again a bounded number of times.
    Transient,
    /// Somebody else's configuration keeps the front from being moved: tried again likewise; a way back does
    /// without the front (promise F4).
    FrontStuck,
    /// The front did not take a route and goes on by the former one; tried again likewise.
    FrontUnmoved,
    /// The commit's own: not tried again until a new commit or `bgd deploy`.
    Deterministic,
}

impl Nature {
    /// Whether the front routes as it did before it was told.
    pub fn left_the_front(self) -> bool {
        matches!(self, Self::FrontStuck | Self::FrontUnmoved)
    }
}

/// Why a deploy failed: data, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where it happened.
    pub phase: Phase,
    /// Whether trying again can help.
    pub nature: Nature,
    /// One line: what was attempted, the value, what was found.
    pub cause: String,
    /// The next command or thing to look at.
    pub hint: Option<String>,
    /// The app's own last words, at most a few dozen lines.
    pub log_tail: Vec<String>,
}
