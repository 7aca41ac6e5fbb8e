//! `[[app.NAME.window]]`: hours of the week in which pushes are deployed by themselves.

use jiff::{civil::Time, civil::Weekday, tz::TimeZone};

use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    rules::opening::Window,
};

table! {
    /// `[[app.NAME.window]]`.
    RawWindow { days: Vec<Written<String>>, from: String, to: String, time_zone: TimeZone }
}

const ZONE: TimeZone = TimeZone::UTC;

/// The names of the days, as in `date +%a`.
pub(super) const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];
/// The end of a day, which is written only as the end of a window.
const MIDNIGHT: &str = "24:00";

impl Judge<'_> {
    pub(super) fn windows(&mut self, given: &Given<Vec<Written<RawWindow>>>) -> Vec<Window> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        all.iter().filter_map(|one| self.window(&one.value)).collect()
    }

    fn window(&mut self, raw: &RawWindow) -> Option<Window> {
        for (name, place) in [("from", raw.from.span()), ("to", raw.to.span())] {
            if place.is_none() {
                self.notes.error(&raw.at.absent(name), "is required", "a window needs from and to");
            }
        }
        let days = self.days(&raw.days);
        let from = self.clock(&raw.from, false);
        let to = self.clock(&raw.to, true);
        if let (Some(from), Some(to)) = (raw.from.value(), raw.to.value())
            && from.value == to.value
        {
            let hint = "the whole day is from \"00:00\" to \"24:00\"";
            self.notes.error(&to.at, format!("lasts no time: from {0:?} to {0:?}", from.value), hint);
            return None;
        }
        let zone = raw.time_zone.value().map_or(ZONE, |written| written.value.clone());
        Some(Window { days: days?, from: from?, to: to?, zone })
    }

    fn days(&mut self, given: &Given<Vec<Written<String>>>) -> Option<Vec<Weekday>> {
        let written = match given {
            Given::Absent => return Some(DAYS.map(|(_, day)| day).to_vec()),
            Given::Unreadable(_) => return None,
            Given::Value(written) => written,
        };
        if written.value.is_empty() {
            self.notes.error(&written.at, "is empty", "leave it out for all days");
        }
        let mut days = Vec::new();
        for one in &written.value {
            match DAYS.iter().find(|(name, _)| *name == one.value) {
                Some((_, day)) => days.push(*day),
                None => {
                    let hint = "one of Mon, Tue, Wed, Thu, Fri, Sat, Sun";
                    self.notes.error(&one.at, format!("is not a day: {:?}", one.value), hint);
                }
            }
        }
        (!days.is_empty()).then_some(days)
    }

    fn clock(&mut self, given: &Given<String>, is_end: bool) -> Option<Time> {
        let hint = "hours and minutes, such as \"09:00\"; \"24:00\" is the end of the day";
        let read = |text: &str| match text {
            MIDNIGHT if is_end => Some(Time::midnight()),
            _ => Time::strptime("%H:%M", text).ok().filter(|_| text.len() == 5),
        };
        self.text(given, read, "is not a time of day", hint)
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("window = [{ to = \"16:00\" }]", "4 app.shop.window[0].from", "is required"),
        (
            "window = { from = \"09:00\", to = \"16:00\" }",
            "4 app.shop.window",
            "expected a list, found a table",
        ),
        (
            "window = [{ from = \"9\", to = \"16:00\" }]",
            "4 app.shop.window[0].from",
            "is not a time of day: \"9\"",
        ),
        (
            "window = [{ from = \"24:00\", to = \"16:00\" }]",
            "4 app.shop.window[0].from",
            "is not a time of day",
        ),
        (
            "window = [{ from = \"09:00\", to = \"25:00\" }]",
            "4 app.shop.window[0].to",
            "is not a time of day",
        ),
        ("window = [{ from = \"09:00\", to = \"09:00\" }]", "4 app.shop.window[0].to", "lasts no time"),
        (
            "window = [{ days = [\"monday\"], from = \"09:00\", to = \"16:00\" }]",
            "4 app.shop.window[0].days[0]",
            "is not a day: \"monday\"",
        ),
        (
            "window = [{ days = [], from = \"09:00\", to = \"16:00\" }]",
            "4 app.shop.window[0].days",
            "is empty",
        ),
        (
            "window = [{ from = \"09:00\", to = \"16:00\", time_zone = \"Europe/Berln\" }]",
            "4 app.shop.window[0].time_zone",
            "is not a time zone: \"Europe/Berln\"",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn a_window_is_of_all_days_and_utc_unless_it_says_otherwise() {
        let app = shop(&with("window = [{ from = \"22:30\", to = \"24:00\" }]"));
        let window = &app.gates.openings.windows[0];
        assert_eq!((window.days.len(), window.from, window.to), (7, time(22, 30, 0, 0), time(0, 0, 0, 0)));
        assert_eq!(window.zone, TimeZone::UTC);
    }
}
