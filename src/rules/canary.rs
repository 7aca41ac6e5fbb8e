//! A canary: a new release that receives a share of the traffic, in steps, before it receives all of it. The plan
//! is copied into the state when the canary begins, so that a changed configuration changes the next one only.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{backoff, ids::BadId, time::Time};

/// A share of the traffic, 0 to 100 percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Share(u8);

impl Share {
    /// 0 %.
    pub const NONE: Self = Self(0);
    /// 100 %.
    pub const ALL: Self = Self(100);

    /// A share of `percent`; `None` above 100.
    pub const fn percent(percent: u8) -> Option<Self> {
        if percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// A share of `percent`, at most 100.
    pub fn capped(percent: u16) -> Self {
        u8::try_from(percent).ok().and_then(Self::percent).unwrap_or(Self::ALL)
    }

    /// The share in percent.
    pub fn get(self) -> u8 {
        self.0
    }

    /// The rest of the traffic, in percent.
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

/// One step of a canary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// The canary's share.
    pub share: Share,
    /// How long it lasts; `None`: until an operator promotes the release or flips.
    pub hold: Option<Duration>,
}

/// The canary under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The steps, as configured when it began; never empty.
    pub plan: Vec<CanaryStep>,
    /// The index of the step, from 0.
    pub step: usize,
    /// The share that bgd asks of the front; an operator may have set another one than the step's. 100 % only while the
    /// front refuses the switch.
    pub share: Share,
    /// The time at which the share came into force.
    pub since: Time,
    /// Whether an operator set the share: it then stays until an operator changes it.
    pub by_hand: bool,
    /// The place that the front has proven last; `None` before the first share.
    #[serde(default)]
    pub proven: Option<Place>,
    /// How often in a row the front refused the share and kept the proven one.
    #[serde(default)]
    pub refused: u32,
    /// The last report of too little traffic, while that keeps the step from ending.
    #[serde(default)]
    pub held: Option<String>,
    /// The limit of each step without a length, from when its share came into force.
    #[serde(default)]
    pub deadline: Option<Duration>,
}

/// A place on a canary's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The index of the step, from 0.
    pub step: usize,
    /// The share of the traffic.
    pub share: Share,
    /// Whether an operator set the share.
    pub by_hand: bool,
}

impl Canary {
    /// A canary at the first step of a plan; `None` for an empty plan.
    pub fn begin(plan: &[CanaryStep], now: Time) -> Option<Self> {
        let first = plan.first()?;
        let plan = plan.to_vec();
        let share = first.share;
        let (proven, held, deadline) = (None, None, None);
        Some(Self { plan, step: 0, share, since: now, by_hand: false, proven, refused: 0, held, deadline })
    }

    /// The place that bgd asks of the front.
    pub fn asked(&self) -> Place {
        Place { step: self.step, share: self.share, by_hand: self.by_hand }
    }

    /// The place that is in force: the proven one while the front refuses the new one.
    pub fn in_force(&self) -> Place {
        self.proven.filter(|_| self.refused > 0).unwrap_or_else(|| self.asked())
    }

    /// Asks for another place.
    pub fn at(self, Place { step, share, by_hand }: Place) -> Self {
        Self { step, share, by_hand, refused: 0, held: None, ..self }
    }

    /// The front has proven the place that was asked for.
    pub fn prove(self, now: Time) -> Self {
        let proven = Some(self.asked());
        Self { proven, since: now, refused: 0, held: None, ..self }
    }

    /// Where the steps go on after an operator set `share`: at the first step above it, or else at the last one, whose
    /// duration or approval still counts. The share never shrinks.
    pub fn resumed(&self) -> Place {
        let share = self.in_force().share;
        let above = self.plan.iter().position(|step| step.share > share);
        match above.and_then(|step| Some((step, self.plan.get(step)?.share))) {
            Some((step, share)) => Place { step, share, by_hand: false },
            None => Place { step: self.plan.len().saturating_sub(1), share, by_hand: false },
        }
    }

    /// The place of the next step; `None`: all of the traffic comes next.
    pub fn following(&self) -> Option<Place> {
        let Place { step, share, by_hand } = self.in_force();
        let from = if by_hand { 0 } else { step + 1 };
        let mut later = self.plan.iter().enumerate().skip(from);
        let (step, next) = later.find(|(_, next)| !by_hand || next.share > share)?;
        Some(Place { step, share: next.share, by_hand: false })
    }

    /// The canary after a restart in which no share is in force any more: the proof is void.
    pub fn anew(self) -> Self {
        let place = self.in_force();
        Self { proven: None, ..self.at(place) }
    }

    /// How long the share lasts from `now` on, or how long until bgd asks again for a refused one; `None`: until an
    /// operator decides. A clock that went back makes no step longer than it was.
    pub fn left(&self, now: Time) -> Option<Duration> {
        if self.refused > 0 {
            return Some(backoff::restart_delay(self.refused.saturating_add(1)));
        }
        let hold = self.plan.get(self.step)?.hold.filter(|_| !self.by_hand).or(self.approval())?;
        Some(hold.saturating_sub(now.since(self.since)))
    }

    /// The limit of the step, if it waits for an operator and the front has taken its share.
    pub fn approval(&self) -> Option<Duration> {
        let waits = self.refused == 0 && !self.by_hand && self.plan.get(self.step)?.hold.is_none();
        self.deadline.filter(|_| waits)
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
