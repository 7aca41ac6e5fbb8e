//! `[[app.NAME.freeze]]`: days on which no push is deployed by itself.

use jiff::{civil::Date, tz::TimeZone};

use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    rules::opening::Freeze,
};

table! {
    /// `[[app.NAME.freeze]]`.
    RawFreeze { from: String, to: String, time_zone: TimeZone, reason: String }
}

const ZONE: TimeZone = TimeZone::UTC;

impl Judge<'_> {
    pub(super) fn freezes(&mut self, given: &Given<Vec<Written<RawFreeze>>>) -> Vec<Freeze> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        all.iter().filter_map(|one| self.freeze(&one.value)).collect()
    }

    fn freeze(&mut self, raw: &RawFreeze) -> Option<Freeze> {
        for (name, place) in [("from", raw.from.span()), ("to", raw.to.span())] {
            if place.is_none() {
                self.notes.error(&raw.at.absent(name), "is required", "a freeze needs from and to");
            }
        }
        let (from, to) = (self.day(&raw.from), self.day(&raw.to));
        let (from, to) = (from?, to?);
        if to < from {
            let at = &raw.to.value()?.at;
            let hint = "both days are frozen; of one day alone, from and to are the same";
            self.notes.error(at, format!("is before the first day: {to} after {from}"), hint);
            return None;
        }
        let zone = raw.time_zone.value().map_or(ZONE, |written| written.value.clone());
        let reason = raw.reason.value().map(|written| written.value.clone());
        Some(Freeze { from, to, zone, reason })
    }

    fn day(&mut self, given: &Given<String>) -> Option<Date> {
        let read = |text: &str| Date::strptime("%Y-%m-%d", text).ok().filter(|_| text.len() == 10);
        self.text(given, read, "is not a day of the calendar", "year, month and day: \"2026-12-20\"")
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("freeze = [{ from = \"2026-12-20\" }]", "4 app.shop.freeze[0].to", "is required"),
        (
            "freeze = [{ from = \"2026-02-30\", to = \"2026-03-01\" }]",
            "4 app.shop.freeze[0].from",
            "is not a day of the calendar",
        ),
        (
            "freeze = [{ from = \"2026-12-20\", to = \"2026-12-19\" }]",
            "4 app.shop.freeze[0].to",
            "is before the first day",
        ),
        (
            "freeze = [{ from = \"2026-12-20\", to = \"2026-12-20\", time_zone = \"CEST\" }]",
            "4 app.shop.freeze[0].time_zone",
            "is not a time zone",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
