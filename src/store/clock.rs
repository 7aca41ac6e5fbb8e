//! The wall clock, read in one place. Limits never use it: they are tokio's, which is monotonic.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::rules::time::Time;

/// The time now; zero before 1970.
pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The time in UTC as `YYYYMMDDTHHMMSSZ`, as in the names of release directories.
pub fn compact_utc(now: Time) -> String {
    let seconds = i64::try_from(now.0 / 1000).unwrap_or(0);
    let at = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_time_is_compact_utc() {
        assert_eq!(compact_utc(Time(1_795_247_472_034)), "20261121T075112Z");
    }
}
