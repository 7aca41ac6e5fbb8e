//! A canary: a new release that receives a share of the traffic, in steps, before it receives all of it. The plan
//! is copied into the state when the canary begins, so that a changed configuration changes the next one only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ids::BadId, time::Time};

/// A share of the traffic, 0 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Share(u8);

impl Share {
    /// No traffic.
    pub const NONE: Self = Self(0);
    /// All of it.
    pub const ALL: Self = Self(100);

    /// That many percent; `None` above 100.
    pub const fn percent(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// In percent.
    pub fn get(self) -> u8 {
        self.0
    }

    /// What is left of the whole, in percent.
    pub fn rest(self) -> u8 {
        100 - self.0
    }
}

impl TryFrom<u8> for Share {
    type Error = BadId;

    fn try_from(percent: u8) -> Result<Self, BadId> {
        let bad = || BadId { expected: "a share (0 to 100 percent)", value: percent.to_string() };
        Self::percent(percent).ok_or_else(bad)
    }
}

impl From<Share> for u8 {
    fn from(share: Share) -> Self {
        share.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// One step of the way to all of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// The canary's share.
    pub share: Share,
    /// How long it lasts; `None`: until an operator promotes or flips.
    pub hold: Option<Duration>,
}

/// The canary under way: what share the deploy's release has, or is about to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The steps, as configured when it began; never empty.
    pub plan: Vec<CanaryStep>,
    /// Which step, from 0.
    pub step: usize,
    /// The share asked for; another than the step's when an operator set it.
    pub share: Share,
    /// Since when the share is in force.
    pub since: Time,
    /// An operator set the share: it stays until he says otherwise.
    pub by_hand: bool,
    /// The last word of the watch on too little traffic, while that holds the step.
    #[serde(default)]
    pub held: Option<String>,
}

impl Canary {
    /// At the first step of a plan; `None` for an empty one.
    pub fn begin(plan: &[CanaryStep], now: Time) -> Option<Self> {
        let first = plan.first()?;
        let plan = plan.to_vec();
        Some(Self { share: first.share, plan, step: 0, since: now, by_hand: false, held: None })
    }

    /// The step after this one; `None`: all of the traffic.
    pub fn next(&self) -> Option<CanaryStep> {
        self.plan.get(self.step + 1).copied()
    }

    /// How long the share is to last from `now` on; `None`: until an operator says otherwise. A clock that went
    /// back makes no step longer than it was.
    pub fn left(&self, now: Time) -> Option<Duration> {
        let hold = self.plan.get(self.step)?.hold.filter(|_| !self.by_hand)?;
        Some(hold.saturating_sub(now.since(self.since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(percent: u8, seconds: Option<u64>) -> CanaryStep {
        CanaryStep { share: Share(percent), hold: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn a_step_has_less_left_as_time_goes_on_and_never_more_than_it_had() {
        let canary = Canary::begin(&[step(5, Some(60)), step(50, None)], Time(100_000)).unwrap();
        assert_eq!(canary.left(Time(100_000)), Some(Duration::from_secs(60)));
        assert_eq!(canary.left(Time(145_000)), Some(Duration::from_secs(15)));
        assert_eq!(canary.left(Time(900_000)), Some(Duration::ZERO));
        assert_eq!(canary.left(Time(50_000)), Some(Duration::from_secs(60)));
        assert_eq!(Canary { step: 1, ..canary.clone() }.left(Time(0)), None);
        assert_eq!(Canary { by_hand: true, ..canary }.left(Time(0)), None);
    }

    #[test]
    fn no_share_is_more_than_the_whole() {
        assert_eq!(serde_json::from_str::<Share>("100").unwrap(), Share(100));
        assert!(serde_json::from_str::<Share>("101").is_err());
    }
}
