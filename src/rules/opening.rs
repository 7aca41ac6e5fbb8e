//! When an app may be deployed by itself: weekly windows and frozen days, each by the clock of its own time zone. A
//! window is open while that clock shows a time within it, whatever summer time does to the clock: a window that lies
//! in the hour that is left out does not open on that day, one in the hour that comes twice is open both times. Pure.

use jiff::{
    Timestamp, Zoned,
    civil::{Date, Time as ClockTime, Weekday},
    tz::TimeZone,
};

use super::{time::Time, words::GateKind};

/// Days that are looked ahead for the next opening of a window: a week, and a day on either side.
const DAYS_AHEAD: i64 = 9;
/// Freezes and windows that are gone through until an opening is found.
const MOST_LOOKS: usize = 1000;
/// A look at the calendar is good for a day at most.
const GOOD_FOR: i64 = 24 * 60 * 60;

/// Hours of the week in which deploys begin by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub days: Vec<Weekday>,
    pub from: ClockTime,
    /// The first minute after it; at or before `from` it is one of the next day, midnight included.
    pub to: ClockTime,
    pub zone: TimeZone,
}

/// Days on which nothing is deployed by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    pub from: Date,
    /// The last frozen day.
    pub to: Date,
    pub zone: TimeZone,
    pub reason: Option<String>,
}

/// All windows and freezes of an app; without windows it is open whenever it is not frozen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Openings {
    pub windows: Vec<Window>,
    pub freezes: Vec<Freeze>,
}

/// A closed gate of the calendar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shut {
    pub kind: GateKind,
    /// The reason of a freeze, as configured.
    pub reason: Option<String>,
    /// When the next deploy may begin; `None`: not within some years.
    pub opens_at: Option<Time>,
    /// That time in the zone of the window or freeze, with the zone's name.
    pub opens: String,
}

impl Window {
    fn is_open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        let (day, clock) = (local.date().weekday(), local.time());
        let on = |day| self.days.contains(&day);
        if self.from < self.to {
            return on(day) && self.from <= clock && clock < self.to;
        }
        (on(day) && self.from <= clock) || (on(day.previous()) && clock < self.to)
    }

    /// The times from the day before `at` on at which the window may open or close.
    fn edges(&self, at: Timestamp) -> Vec<Timestamp> {
        let first = at.to_zoned(self.zone.clone()).date().yesterday().unwrap_or(Date::MIN);
        let days = first.series(jiff::Span::new().days(1)).take(DAYS_AHEAD as usize + 1);
        let on_clock = days.flat_map(|day| [day.to_datetime(self.from), day.to_datetime(self.to)]);
        let readings = on_clock.flat_map(|reading| {
            let read = self.zone.to_ambiguous_zoned(reading);
            // An hour that comes twice shows each time twice.
            [read.clone().earlier(), read.later()]
        });
        let mut edges: Vec<Timestamp> =
            readings.filter_map(Result::ok).map(|zoned| zoned.timestamp()).collect();
        edges.extend(self.zone.following(at).take(2).map(|change| change.timestamp()));
        edges
    }
}

impl Freeze {
    fn holds(&self, at: Timestamp) -> bool {
        let day = at.to_zoned(self.zone.clone()).date();
        self.from <= day && day <= self.to
    }

    fn begin(&self) -> Option<Zoned> {
        self.from.to_zoned(self.zone.clone()).ok()
    }

    /// The first instant after it.
    fn end(&self) -> Option<Zoned> {
        self.to.tomorrow().ok()?.to_zoned(self.zone.clone()).ok()
    }
}

impl Openings {
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty() && self.freezes.is_empty()
    }

    /// What is closed now: a window first, then a freeze.
    pub fn shut(&self, now: Time) -> Vec<Shut> {
        let at = instant(now);
        let window = !self.windows.is_empty() && !self.windows.iter().any(|window| window.is_open(at));
        let freeze = self.freezes.iter().find(|freeze| freeze.holds(at));
        if !window && freeze.is_none() {
            return Vec::new();
        }
        let opens = self.next_opening(at);
        let shut = |kind, reason, zone: &TimeZone| Shut {
            kind,
            reason,
            opens_at: opens.as_ref().and_then(|(at, _)| u64::try_from(at.as_millisecond()).ok()).map(Time),
            opens: opens
                .as_ref()
                .map_or_else(String::new, |(at, by)| in_words(*at, by.as_ref().unwrap_or(zone))),
        };
        let first = self.windows.first().filter(|_| window);
        let window = first.map(|window| shut(GateKind::Window, None, &window.zone));
        let freeze = freeze.map(|freeze| shut(GateKind::Freeze, freeze.reason.clone(), &freeze.zone));
        window.into_iter().chain(freeze).collect()
    }

    /// Until when the present answer of [`Self::shut`] is good; `None` when the calendar is empty.
    pub fn good_until(&self, now: Time) -> Option<Time> {
        if self.is_empty() {
            return None;
        }
        let at = instant(now);
        let edges = self.windows.iter().flat_map(|window| window.edges(at));
        let days = self.freezes.iter().flat_map(|freeze| [freeze.begin(), freeze.end()]).flatten();
        let all = edges.chain(days.map(|zoned| zoned.timestamp()));
        let latest =
            Timestamp::from_second(at.as_second().saturating_add(GOOD_FOR)).unwrap_or(Timestamp::MAX);
        let next = all.filter(|edge| *edge > at).min().map_or(latest, |edge| edge.min(latest));
        u64::try_from(next.as_millisecond()).ok().map(Time)
    }

    /// The first instant after `at` that is open, and the zone of the window that opens then.
    fn next_opening(&self, mut at: Timestamp) -> Option<(Timestamp, Option<TimeZone>)> {
        for _ in 0..MOST_LOOKS {
            if let Some(freeze) = self.freezes.iter().find(|freeze| freeze.holds(at)) {
                at = freeze.end()?.timestamp();
                continue;
            }
            if self.windows.is_empty() {
                return Some((at, None));
            }
            if let Some(window) = self.windows.iter().find(|window| window.is_open(at)) {
                return Some((at, Some(window.zone.clone())));
            }
            let opens = |window: &Window| {
                window.edges(at).into_iter().filter(|edge| *edge > at && window.is_open(*edge)).min()
            };
            at = self.windows.iter().filter_map(opens).min()?;
        }
        None
    }
}

fn instant(now: Time) -> Timestamp {
    let ms = i64::try_from(now.0).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

/// `Mon 2026-12-07 09:00 Europe/Berlin`.
fn in_words(at: Timestamp, zone: &TimeZone) -> String {
    let local = at.to_zoned(zone.clone());
    format!("{} {}", local.strftime("%a %Y-%m-%d %H:%M"), zone.iana_name().unwrap_or("UTC"))
}

#[cfg(test)]
mod tests {
    use jiff::civil::{date, time};

    use super::*;

    const ALL: [Weekday; 7] = [
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
        Weekday::Saturday,
        Weekday::Sunday,
    ];

    fn zone(name: &str) -> TimeZone {
        jiff::tz::TimeZoneDatabase::bundled().get(name).unwrap()
    }

    fn at(text: &str) -> Time {
        let at: Timestamp = text.parse().unwrap();
        Time(u64::try_from(at.as_millisecond()).unwrap())
    }

    fn window(days: &[Weekday], from: (i8, i8), to: (i8, i8)) -> Openings {
        let window = Window {
            days: days.to_vec(),
            from: time(from.0, from.1, 0, 0),
            to: time(to.0, to.1, 0, 0),
            zone: zone("Europe/Berlin"),
        };
        Openings { windows: vec![window], freezes: Vec::new() }
    }

    fn opens(openings: &Openings, now: &str) -> Option<String> {
        openings.shut(at(now)).first().map(|shut| shut.opens.clone())
    }

    #[test]
    fn a_closed_window_names_its_next_opening_with_its_zone() {
        let work = window(&[Weekday::Monday, Weekday::Tuesday], (9, 0), (16, 0));
        // Friday 4 December 2026.
        let shut = &work.shut(at("2026-12-04T12:00:00Z"))[0];
        assert_eq!(shut.opens, "Mon 2026-12-07 09:00 Europe/Berlin");
        assert_eq!((shut.kind, shut.opens_at), (GateKind::Window, Some(at("2026-12-07T08:00:00Z"))));
        assert_eq!(opens(&work, "2026-12-07T08:00:00Z"), None);
        assert_eq!(work.good_until(at("2026-12-07T08:00:00Z")), Some(at("2026-12-07T15:00:00Z")));
        // The minute of `to` is outside.
        assert_eq!(opens(&work, "2026-12-07T15:00:00Z").unwrap(), "Tue 2026-12-08 09:00 Europe/Berlin");
        assert!(Openings::default().shut(at("2026-12-07T15:00:00Z")).is_empty());
        assert_eq!(Openings::default().good_until(at("2026-12-07T15:00:00Z")), None);
    }

    #[test]
    fn a_window_may_go_past_midnight() {
        let night = window(&[Weekday::Friday], (22, 0), (4, 0));
        assert_eq!(opens(&night, "2026-12-04T21:30:00Z"), None);
        assert_eq!(opens(&night, "2026-12-05T02:59:00Z"), None, "Saturday morning is of Friday's night");
        assert!(opens(&night, "2026-12-04T02:00:00Z").is_some());
        let whole_days = window(&[Weekday::Friday], (0, 0), (0, 0));
        assert_eq!(opens(&whole_days, "2026-12-04T22:59:00Z"), None);
        assert!(opens(&whole_days, "2026-12-04T23:00:00Z").is_some());
    }

    #[test]
    fn summer_time_moves_the_window_with_the_clock() {
        // 29 March 2026: 02:00 becomes 03:00. 25 October 2026: 03:00 becomes 02:00.
        let lost = window(&ALL, (2, 15), (2, 45));
        assert_eq!(opens(&lost, "2026-03-29T00:59:00Z").unwrap(), "Mon 2026-03-30 02:15 Europe/Berlin");
        let over_it = window(&ALL, (2, 30), (5, 0));
        assert_eq!(opens(&over_it, "2026-03-29T00:59:00Z").unwrap(), "Sun 2026-03-29 03:00 Europe/Berlin");
        assert_eq!(over_it.good_until(at("2026-03-29T00:59:00Z")), Some(at("2026-03-29T01:00:00Z")));
        let twice = window(&ALL, (2, 15), (2, 45));
        for (now, open) in [
            ("2026-10-25T00:14:00Z", false),
            ("2026-10-25T00:15:00Z", true),
            ("2026-10-25T00:50:00Z", false),
            ("2026-10-25T01:20:00Z", true),
            ("2026-10-25T01:45:00Z", false),
        ] {
            assert_eq!(opens(&twice, now).is_none(), open, "{now}");
        }
        assert_eq!(twice.good_until(at("2026-10-25T01:00:00Z")), Some(at("2026-10-25T01:15:00Z")));
        // Nine o'clock is one hour of UTC earlier in summer.
        let work = window(&ALL, (9, 0), (10, 0));
        assert_eq!(work.shut(at("2026-03-28T12:00:00Z"))[0].opens_at, Some(at("2026-03-29T07:00:00Z")));
        assert_eq!(work.shut(at("2026-10-24T12:00:00Z"))[0].opens_at, Some(at("2026-10-25T08:00:00Z")));
    }

    #[test]
    fn a_freeze_holds_both_of_its_days_in_its_zone_and_comes_before_the_window_that_follows() {
        let mut openings = window(&ALL, (9, 0), (16, 0));
        openings.freezes.push(Freeze {
            from: date(2026, 12, 20),
            to: date(2027, 1, 2),
            zone: zone("Europe/Berlin"),
            reason: Some("peak season".to_owned()),
        });
        let shut = openings.shut(at("2026-12-20T09:00:00Z"));
        assert_eq!((shut.len(), shut[0].kind), (1, GateKind::Freeze));
        assert_eq!(shut[0].reason.as_deref(), Some("peak season"));
        assert_eq!(shut[0].opens, "Sun 2027-01-03 09:00 Europe/Berlin");
        let both = openings.shut(at("2026-12-20T22:00:00Z"));
        assert_eq!(
            both.iter().map(|shut| shut.kind).collect::<Vec<_>>(),
            [GateKind::Window, GateKind::Freeze]
        );
        assert!(openings.shut(at("2026-12-19T09:00:00Z")).is_empty());
        assert_eq!(openings.shut(at("2027-01-02T22:59:00Z")).len(), 2);
        openings.windows.clear();
        assert_eq!(openings.shut(at("2027-01-02T22:59:00Z"))[0].opens, "Sun 2027-01-03 00:00 Europe/Berlin");
        assert_eq!(openings.good_until(at("2027-01-02T22:59:00Z")), Some(at("2027-01-02T23:00:00Z")));
    }
}
