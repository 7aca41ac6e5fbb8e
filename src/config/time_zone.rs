//! A time zone by its name, such as `Europe/Berlin`, for every key `time_zone`. The zones of this system come first,
//! since an update of tzdata may know a newer rule; a host without tzdata (a bare Debian) and names that its tzdata
//! lacks get the zones that are built into bgd.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use toml::de::DeValue;

use super::{
    nearest::nearest,
    read::{FromToml, Item, Reader},
    span::Span,
};

/// The start of the hint for every name that is not a zone.
const FORM: &str = "the name of a zone, such as \"UTC\" or \"Europe/Berlin\"";
/// An abbreviation is at most this long; the nearest zone to one is often in another part of the world.
const LONGEST_ABBREVIATION: usize = 4;

/// The zone with this name in any case; `None` for an unknown name.
fn named(name: &str) -> Option<TimeZone> {
    jiff::tz::db().get(name).or_else(|_| TimeZoneDatabase::bundled().get(name)).ok()
}

/// Advice in place of a name that no zone has.
fn hint(name: &str) -> String {
    let known: Vec<String> =
        TimeZoneDatabase::bundled().available().map(|zone| zone.as_str().to_owned()).collect();
    let cities: Vec<&str> = known.iter().filter(|zone| is_city_of(name, zone)).map(String::as_str).collect();
    match cities[..] {
        [] => {}
        [zone] => return format!("did you mean {zone:?}?"),
        [first, second, ..] => return format!("did you mean {first:?} or {second:?}?"),
    }
    if name.starts_with(['+', '-']) || name.contains(':') {
        return format!("{FORM}; an offset knows no summer time");
    }
    if name.chars().count() <= LONGEST_ABBREVIATION {
        return format!("{FORM}; an abbreviation stands for several zones");
    }
    let folded: Vec<String> = known.iter().map(|zone| fold(zone)).collect();
    let words: Vec<&str> = folded.iter().map(String::as_str).collect();
    let near = nearest(&fold(name), &words).and_then(|near| words.iter().position(|word| *word == near));
    near.map_or_else(|| FORM.to_owned(), |at| format!("did you mean {:?}?", known[at]))
}

/// Whether `name` is the last part of `zone`, such as `Berlin` of `Europe/Berlin`.
fn is_city_of(name: &str, zone: &str) -> bool {
    zone.rsplit_once('/').is_some_and(|(area, city)| area != "Etc" && fold(city) == fold(name))
}

/// The name as people type it: without case, blanks and hyphens as `_`.
fn fold(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

impl FromToml for TimeZone {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::String(name) = item.get_ref() else {
            return reader.wrong_type(at, "a text with the name of a time zone", item);
        };
        let zone = named(name);
        if zone.is_none() {
            let shown: String = name.chars().take(40).collect();
            reader.notes.error(at, format!("is not a time zone: {shown:?}"), hint(name));
        }
        zone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_with_and_without_the_database_of_the_system() {
        for name in ["UTC", "Europe/Berlin", "europe/berlin", "America/New_York", "Asia/Kolkata"] {
            assert!(named(name).is_some(), "{name}");
            assert!(TimeZoneDatabase::bundled().get(name).is_ok(), "{name}");
        }
        assert_eq!(named("europe/berlin").unwrap().iana_name(), Some("Europe/Berlin"));
    }

    #[test]
    fn an_unknown_zone_is_answered_with_the_nearest_names() {
        for (name, expected) in [
            ("Europe/Berln", "did you mean \"Europe/Berlin\"?"),
            ("Berlin", "did you mean \"Europe/Berlin\"?"),
            ("new york", "did you mean \"America/New_York\"?"),
            ("America/NewYork", "did you mean \"America/New_York\"?"),
            (
                "CEST",
                "the name of a zone, such as \"UTC\" or \"Europe/Berlin\"; an abbreviation stands for several zones",
            ),
            (
                "+02:00",
                "the name of a zone, such as \"UTC\" or \"Europe/Berlin\"; an offset knows no summer time",
            ),
            ("Middle/Earth/Hobbiton", FORM),
            (
                "",
                "the name of a zone, such as \"UTC\" or \"Europe/Berlin\"; an abbreviation stands for several zones",
            ),
        ] {
            assert!(named(name).is_none(), "{name}");
            assert_eq!(hint(name), expected, "{name}");
        }
    }
}
