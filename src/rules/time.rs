//! Wall-clock time as the record keeps it. The rules never read a clock: the engine passes `Time` in.
//! Only for the record and for display; limits are measured on the monotonic clock by the engine.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The time since `earlier`; zero when the clock went back.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The time after this wait.
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Wire form of a [`Time`]: RFC 3339, UTC, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stamp(pub Time);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In two parts: as one number of milliseconds the last second of all time is refused.
        let (seconds, ms) = ((self.0.0 / 1000) as i64, (self.0.0 % 1000) as i32);
        let at = jiff::Timestamp::new(seconds, ms * 1_000_000).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{at:.3}")
    }
}

impl FromStr for Stamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        let at: jiff::Timestamp = text.parse()?;
        Ok(Self(Time(u64::try_from(at.as_millisecond()).unwrap_or(0))))
    }
}

impl From<Stamp> for String {
    fn from(stamp: Stamp) -> Self {
        stamp.to_string()
    }
}

impl TryFrom<String> for Stamp {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_rfc_3339_and_round_trips() {
        let stamp = Stamp(Time(1_795_247_472_034));
        assert_eq!(stamp.to_string(), "2026-11-21T07:51:12.034Z");
        let last = Stamp(Time(253_402_207_200_909));
        for stamp in [stamp, last, Stamp(Time(0))] {
            assert_eq!(stamp.to_string().parse::<Stamp>().unwrap(), stamp);
        }
        assert_eq!(Stamp(Time(u64::MAX)).to_string(), "9999-12-30T22:00:00.999Z");
    }
}
