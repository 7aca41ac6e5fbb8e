//! Durations as people write them: `500ms`, `10s`, `1h30m`. Used by the loader for every duration key and by
//! the command line; [`exact`] and [`parse`] are inverse for whole milliseconds.

use std::time::Duration;

/// The units, largest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The longest duration accepted, so that a deadline can always be computed (365 days).
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// A number without a unit.
    #[error("has no unit: {0:?}")]
    NoUnit(String),
    /// Anything else that does not parse.
    #[error("is not a duration: {0:?}")]
    Malformed(String),
    /// More than [`LONGEST`].
    #[error("is longer than 365 days: {0:?}")]
    TooLong(String),
}

impl BadDuration {
    /// Advice for the operator.
    pub fn hint(&self) -> String {
        match self {
            Self::NoUnit(number) => format!("write \"{number}s\" for seconds; units are ms, s, m, h and d"),
            Self::TooLong(_) => "the longest is \"365d\"".to_owned(),
            Self::Empty | Self::Malformed(_) => {
                "whole numbers with units ms, s, m, h or d, the largest first, such as \"10s\" or \"1h30m\""
                    .to_owned()
            }
        }
    }
}

/// Reads `10s`, `2m`, `500ms`, `1h30m`: whole numbers, units from large to small, each at most once.
/// Zero needs a unit as well (`0s`).
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let malformed = || BadDuration::Malformed(shorten(text));
    let too_long = || BadDuration::TooLong(shorten(text));
    if text.is_empty() {
        return Err(BadDuration::Empty);
    }
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(BadDuration::NoUnit(shorten(text)));
    }
    let (mut rest, mut units, mut total) = (text, UNITS.as_slice(), 0u64);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(leading(rest, u8::is_ascii_digit));
        let (unit, after) = after.split_at(leading(after, u8::is_ascii_alphabetic));
        let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(malformed)?;
        if number.is_empty() {
            return Err(malformed());
        }
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let part = number.checked_mul(units[at].1).ok_or_else(too_long)?;
        total = total.checked_add(part).ok_or_else(too_long)?;
        (rest, units) = (after, &units[at + 1..]);
    }
    let total = Duration::from_millis(total);
    if total > LONGEST { Err(too_long()) } else { Ok(total) }
}

/// Formats a duration for [`parse`], exact to the millisecond: `1m30s`, `500ms`, `0s`.
pub fn exact(duration: Duration) -> String {
    parts(duration, usize::MAX)
}

/// Formats a duration with its two largest units only: `1m3s`, `2h5m`, `41ms`.
pub fn rough(duration: Duration) -> String {
    parts(duration, 2)
}

fn parts(duration: Duration, most: usize) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let first = UNITS.iter().position(|(_, length)| left >= *length);
    let Some(first) = first else { return "0s".to_owned() };
    let mut out = String::new();
    for (name, length) in UNITS.iter().skip(first).take(most) {
        let number = left / length;
        left %= length;
        if number > 0 {
            out.push_str(&format!("{number}{name}"));
        }
    }
    out
}

fn leading(text: &str, of: impl Fn(&u8) -> bool) -> usize {
    text.bytes().take_while(|c| of(c)).count()
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_spellings_are_read() {
        for (text, ms) in [
            ("10s", 10_000),
            ("2m", 120_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1d2h3m4s5ms", 93_784_005),
            ("90s", 90_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_a_hint() {
        for text in
            ["s", "10 s", "1.5s", "-1s", "10S", "5m1h", "1s1s", "1s2", "ten", "1µs", "10sec", "١s", " 1s"]
        {
            assert_eq!(parse(text), Err(BadDuration::Malformed(text.to_owned())));
        }
        assert_eq!(parse(""), Err(BadDuration::Empty));
        let bare = parse("10").unwrap_err();
        assert_eq!(bare.hint(), "write \"10s\" for seconds; units are ms, s, m, h and d");
        for text in ["366d", "99999999999999999999h", "18446744073709551615d", "365d1ms"] {
            assert_eq!(parse(text), Err(BadDuration::TooLong(text.to_owned())));
        }
    }

    #[test]
    fn they_are_written_for_people() {
        for (ms, exactly, roughly) in [
            (0, "0s", "0s"),
            (500, "500ms", "500ms"),
            (90_000, "1m30s", "1m30s"),
            (63_041, "1m3s41ms", "1m3s"),
            (3_600_005, "1h5ms", "1h"),
            (172_800_000, "2d", "2d"),
        ] {
            assert_eq!(exact(Duration::from_millis(ms)), exactly);
            assert_eq!(rough(Duration::from_millis(ms)), roughly);
        }
        assert!(!rough(Duration::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn every_duration_round_trips(ms in 0..=365 * 86_400_000u64) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse(&exact(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9]{0,25}[a-z]{0,3}[0-9]{0,3}\\PC{0,5}") {
            let _ = parse(&text);
        }
    }
}
