//! When a schedule is due: a cron expression, read in a time zone. A clock time that the change to summer time leaves
//! out is due right after the gap, and one that comes twice is due the first time, so that a nightly run happens once
//! each night. A schedule whose minute or hour begins with `*` follows the time that passes instead, as in cron.

use std::str::FromStr;

use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    Timestamp, Zoned,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};

use super::time::Time;

/// The words in place of five fields.
pub const NICKNAMES: [&str; 7] =
    ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"];

/// The fields of an expression, with what each may hold.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day of the month", "1 to 31"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day of the week", "0 to 7, both ends Sunday, or SUN to SAT"),
];

/// Where the search for a first due time begins: any expression that is ever due is due within 8 years.
const SOME_YEAR: DateTime = DateTime::constant(2024, 1, 1, 0, 0, 0, 0);
/// Due times counted one by one; of more only the newest is looked for.
const COUNTED: u32 = 1_000;
/// How far back the newest due time is looked for, in minutes, from near to far: an hour, a day, a month, a year, and
/// from one leap year to the next over the end of a century.
const LOOK_BACK: [u64; 5] = [60, 1_440, 44_640, 527_040, 4_207_680];

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSchedule {
    /// Not five fields.
    #[error("has {0} fields, and a schedule has five")]
    Fields(usize),
    /// A field that can't be read.
    #[error("has {value:?} as its {field}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What it may hold.
        range: &'static str,
        value: String,
    },
    /// Not one of [`NICKNAMES`].
    #[error("is not a known word: {0:?}")]
    Nickname(String),
    /// A day that no year has, such as 30 February.
    #[error("never comes true: {0:?}")]
    Never(String),
    /// Another mistake, in the words of the parser.
    #[error("is not a schedule: {0}")]
    Other(String),
}

impl BadSchedule {
    /// Advice for the operator.
    pub fn hint(&self) -> String {
        let five = "minute, hour, day of the month, month and day of the week, such as \"15 3 * * *\"";
        match self {
            Self::Fields(6 | 7) => format!("{five}; seconds and years can't be given"),
            Self::Fields(_) | Self::Other(_) => format!("{five}, or a word such as \"@daily\""),
            Self::Field { field, range, .. } => {
                format!("the {field} is {range}; lists as in 1,3, ranges as in 1-5, steps as in */15")
            }
            Self::Nickname(word) => {
                let near = NICKNAMES.iter().min_by_key(|known| strsim::osa_distance(word, known));
                let near = near.filter(|known| strsim::osa_distance(word, known) <= 2);
                near.map_or_else(
                    || format!("one of {}", NICKNAMES.join(", ")),
                    |near| format!("did you mean {near:?}?"),
                )
            }
            Self::Never(_) => "no month in it has such a day".to_owned(),
        }
    }
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// As written in the configuration.
    text: String,
    zone: TimeZone,
    cron: Cron,
    /// Whether it names clock times; otherwise it follows the time that passes.
    fixed: bool,
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Schedule {
    /// Reads an expression of five fields, or one of [`NICKNAMES`].
    ///
    /// # Errors
    /// What is wrong with it; also if it is never due.
    pub fn new(text: &str, zone: TimeZone) -> Result<Self, BadSchedule> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        match fields[..] {
            [word] if word.starts_with('@') => {
                if !NICKNAMES.contains(&word.to_ascii_lowercase().as_str()) {
                    return Err(BadSchedule::Nickname(shorten(word)));
                }
            }
            [_, _, _, _, _] => fields_fit(&fields)?,
            _ => return Err(BadSchedule::Fields(fields.len())),
        }
        let cron = parsed(text).map_err(|err| BadSchedule::Other(err.to_string()))?;
        if cron.find_next_occurrence(&SOME_YEAR, true).is_err() {
            return Err(BadSchedule::Never(shorten(text)));
        }
        let fixed = match fields[..] {
            [word] => !word.eq_ignore_ascii_case("@hourly"),
            [minute, hour, ..] => !minute.starts_with('*') && !hour.starts_with('*'),
            [] => false,
        };
        Ok(Self { text: text.to_owned(), zone, cron, fixed })
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of its time zone.
    pub fn zone(&self) -> &str {
        self.zone.iana_name().unwrap_or("UTC")
    }

    /// Whether it names clock times; otherwise it follows the time that passes.
    pub fn is_fixed(&self) -> bool {
        self.fixed
    }

    /// The first due time after `after`; `None` beyond the calendar.
    pub fn next(&self, after: Time) -> Option<Time> {
        let start = zoned(after, &self.zone)?;
        let found = match self.fixed {
            true => self.next_clock_time(&start)?,
            false => self.cron.find_next_occurrence(&start, false).ok()?.timestamp(),
        };
        u64::try_from(found.as_millisecond()).ok().map(Time)
    }

    /// The first clock time that comes after `start`.
    fn next_clock_time(&self, start: &Zoned) -> Option<Timestamp> {
        let mut civil = start.datetime();
        loop {
            civil = self.cron.find_next_occurrence(&civil, false).ok()?;
            let comes = instant(civil, &self.zone)?;
            // In the second half of a repeated hour the first one is over; several times of a gap come at once.
            if comes > start.timestamp() {
                return Some(comes);
            }
        }
    }

    /// The due times after `after` up to `now`.
    pub fn passed(&self, after: Time, now: Time) -> Option<Passed> {
        let (mut newest, mut count) = (None, 0);
        let mut from = after;
        while let Some(due) = self.next(from).filter(|due| *due <= now) {
            (newest, from, count) = (Some(due), due, count + 1);
            if count == COUNTED {
                newest = self.newest(due, now).or(newest);
                break;
            }
        }
        newest.map(|newest| Passed { newest, count })
    }

    /// The newest due time after `after` up to `now`, without a count.
    fn newest(&self, after: Time, now: Time) -> Option<Time> {
        LOOK_BACK.iter().find_map(|minutes| {
            let mut from = Time(now.0.saturating_sub(minutes * 60_000)).max(after);
            let mut newest = None;
            while let Some(due) = self.next(from).filter(|due| *due <= now) {
                (newest, from) = (Some(due), due);
            }
            newest
        })
    }
}

/// Due times that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// The last one.
    pub newest: Time,
    /// How many, at least 1; 1,000 stands for that many or more.
    pub count: u32,
}

fn parsed(text: &str) -> Result<Cron, CronError> {
    let text = if text.trim().eq_ignore_ascii_case("@midnight") { "@daily" } else { text };
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(text)
}

/// Finds the field that can't be read, by reading each between fields that can.
fn fields_fit(fields: &[&str]) -> Result<(), BadSchedule> {
    for (at, (field, range)) in FIELDS.into_iter().enumerate() {
        let alone: Vec<&str> =
            (0..FIELDS.len()).map(|other| if other == at { fields[at] } else { "*" }).collect();
        if parsed(&alone.join(" ")).is_err() {
            return Err(BadSchedule::Field { field, range, value: shorten(fields[at]) });
        }
    }
    Ok(())
}

fn zoned(at: Time, zone: &TimeZone) -> Option<Zoned> {
    let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(at.to_zoned(zone.clone()))
}

/// The moment of a clock time: the first of two, and the end of the gap for one that is left out.
fn instant(civil: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(civil);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().ok(),
        AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
        AmbiguousOffset::Gap { .. } => {
            // The earlier reading lies before the gap.
            let before = ambiguous.earlier().ok()?;
            zone.following(before).next().map(|change| change.timestamp())
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    /// In UTC.
    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        Self::new(text, TimeZone::UTC)
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    fn berlin(text: &str) -> Schedule {
        Schedule::new(text, TimeZoneDatabase::bundled().get("Europe/Berlin").unwrap()).unwrap()
    }

    fn at(text: &str) -> Time {
        let at: Timestamp = text.parse().unwrap();
        Time(u64::try_from(at.as_millisecond()).unwrap())
    }

    /// The due times from a moment to another, in UTC.
    fn due(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
        let (mut from, to) = (at(from), at(to));
        let mut found = Vec::new();
        while let Some(next) = schedule.next(from).filter(|next| *next <= to) {
            found.push(Timestamp::from_millisecond(next.0 as i64).unwrap().to_string());
            from = next;
        }
        found
    }

    #[test]
    fn a_clock_time_that_summer_time_leaves_out_is_due_once_right_after_the_gap() {
        let nightly = berlin("30 2 * * *");
        let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(due(&nightly, "2026-03-28T00:00:00Z", "2026-03-30T12:00:00Z"), expected);
        let several = berlin("0,15,30 2,14 * * *");
        let expected =
            ["2026-03-29T01:00:00Z", "2026-03-29T12:00:00Z", "2026-03-29T12:15:00Z", "2026-03-29T12:30:00Z"];
        assert_eq!(due(&several, "2026-03-29T00:00:00Z", "2026-03-29T20:00:00Z"), expected);
    }

    #[test]
    fn a_clock_time_that_comes_twice_is_due_the_first_time_only() {
        let nightly = berlin("30 2 * * *");
        let expected = ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(due(&nightly, "2026-10-24T00:00:00Z", "2026-10-26T12:00:00Z"), expected);
        // Asked between the two, and in the second hour itself.
        assert_eq!(nightly.next(at("2026-10-25T00:45:00Z")), Some(at("2026-10-26T01:30:00Z")));
        assert_eq!(nightly.next(at("2026-10-25T01:10:00Z")), Some(at("2026-10-26T01:30:00Z")));
    }

    #[test]
    fn a_schedule_of_each_hour_follows_the_time_that_passes() {
        for (text, day, hours) in [
            ("@hourly", "2026-03-29", 23),
            ("5 * * * *", "2026-10-25", 25),
            ("*/30 * * * *", "2026-10-25", 50),
        ] {
            let midnight = |date: &str| {
                let date: jiff::civil::Date = date.parse().unwrap();
                let zone = TimeZoneDatabase::bundled().get("Europe/Berlin").unwrap();
                date.to_zoned(zone).unwrap()
            };
            let from = midnight(day);
            let to = from.tomorrow().unwrap().timestamp();
            let before = from.timestamp() - jiff::SignedDuration::from_millis(1);
            let before_end = to - jiff::SignedDuration::from_millis(1);
            assert_eq!(
                due(&berlin(text), &before.to_string(), &before_end.to_string()).len(),
                hours,
                "{text}"
            );
        }
    }

    #[test]
    fn over_a_year_a_nightly_schedule_is_due_once_on_each_day() {
        for text in ["30 2 * * *", "0 3 * * *", "@daily"] {
            let all = due(&berlin(text), "2025-12-31T12:00:00Z", "2026-12-31T12:00:00Z");
            assert_eq!(all.len(), 365, "{text}");
            assert!(all.is_sorted());
        }
    }

    #[test]
    fn days_of_month_and_week_and_leap_years_are_found() {
        for (text, after, expected) in [
            ("0 12 1 * *", "2026-01-01T12:00:00Z", "2026-02-01T12:00:00Z"),
            ("15 3 * * MON-FRI", "2026-12-04T04:00:00Z", "2026-12-07T03:15:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("0 0 13 * 5", "2026-12-01T00:00:00Z", "2026-12-04T00:00:00Z"),
            ("0 9 * * 7", "2026-12-01T00:00:00Z", "2026-12-06T09:00:00Z"),
        ] {
            assert_eq!(text.parse::<Schedule>().unwrap().next(at(after)), Some(at(expected)), "{text}");
        }
    }

    #[test]
    fn passed_due_times_are_counted_and_the_newest_is_found_however_many_there_are() {
        let each_minute: Schedule = "* * * * *".parse().unwrap();
        let passed = |after, now| each_minute.passed(at(after), at(now));
        assert_eq!(passed("2026-01-01T00:00:00Z", "2026-01-01T00:00:59Z"), None);
        let three = Passed { newest: at("2026-01-01T00:03:00Z"), count: 3 };
        assert_eq!(passed("2026-01-01T00:00:00Z", "2026-01-01T00:03:10Z"), Some(three));
        let many = Passed { newest: at("2036-01-01T00:00:00Z"), count: 1_000 };
        assert_eq!(passed("1970-01-01T00:00:00Z", "2036-01-01T00:00:30Z"), Some(many));
        assert_eq!(passed("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn what_is_not_a_schedule_is_refused_with_its_field_and_a_hint() {
        for (text, expected, hint) in [
            ("", "has 0 fields, and a schedule has five", "such as \"15 3 * * *\""),
            ("0 15 3 * * *", "has 6 fields, and a schedule has five", "seconds and years can't be given"),
            ("61 3 * * *", "has \"61\" as its minute", "0 to 59"),
            ("15 24 * * *", "has \"24\" as its hour", "0 to 23"),
            ("15 3 0 * *", "has \"0\" as its day of the month", "1 to 31"),
            ("15 3 * 13 *", "has \"13\" as its month", "JAN to DEC"),
            ("15 3 * * MOD", "has \"MOD\" as its day of the week", "SUN to SAT"),
            ("x 3 * * *", "has \"x\" as its minute", "*/15"),
            ("@dayly", "is not a known word: \"@dayly\"", "did you mean \"@daily\"?"),
            ("@reboot", "is not a known word: \"@reboot\"", "one of @hourly"),
            ("0 0 30 2 *", "never comes true: \"0 0 30 2 *\"", "no month in it has such a day"),
            ("0 0 31 4,6,9,11 *", "never comes true: \"0 0 31 4,6,9,11 *\"", "no month"),
        ] {
            let bad = text.parse::<Schedule>().unwrap_err();
            assert_eq!(bad.to_string(), expected, "{text}");
            assert!(bad.hint().contains(hint), "{text}: {}", bad.hint());
        }
        for nickname in NICKNAMES {
            assert!(nickname.parse::<Schedule>().is_ok(), "{nickname}");
        }
    }
}
