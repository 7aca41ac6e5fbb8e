//! `[app.NAME.cron.NAME]`: commands of the live release at set times.

use std::time::Duration;

use super::named::{Named, NamedTable};
use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    rules::{
        calendar::Schedule,
        cron::{CronRule, Missed, Overlap},
        ids::CronName,
    },
};
use jiff::tz::TimeZone;

table! {
    /// `[app.NAME.cron.NAME]`.
    RawCron {
        schedule: String,
        time_zone: TimeZone,
        run: String,
        timeout: Duration,
        overlap: String,
        missed: String,
        once: String,
    }
}

impl NamedTable for RawCron {
    const FORM: &str = "tables [app.NAME.cron.NAME]";
    const NAMELESS: (&str, &str) = (
        "a key of a schedule, but the schedule has no name",
        "write the header with a name: [app.NAME.cron.prune]",
    );
}

/// A command of the live release at set times.
#[derive(Debug, Clone, PartialEq)]
pub struct CronSettings {
    /// Its name, when it is due, and what happens if that can't be kept.
    pub rule: CronRule,
    /// The command, before placeholders are replaced.
    pub run: String,
    /// Time limit of one run.
    pub timeout: Duration,
}

const TIMEOUT: Duration = Duration::from_secs(3600);

impl Judge<'_> {
    /// Judges the schedules of an app.
    pub(super) fn crons(&mut self, given: Given<Named<RawCron>>) -> Vec<CronSettings> {
        let Some(all) = given.into_value() else { return Vec::new() };
        all.value.0.into_iter().filter_map(|(name, raw)| self.cron(&name, &raw)).collect()
    }

    fn cron(&mut self, name: &str, raw: &RawCron) -> Option<CronSettings> {
        let parsed: Result<CronName, _> = name.parse();
        if let Err(err) = &parsed {
            let hint = "choose a shorter or simpler name, such as [app.shop.cron.prune]";
            self.notes.error(&raw.at, err.to_string(), hint);
        }
        for (key, place, hint) in [
            (
                "schedule",
                raw.schedule.span(),
                "five fields such as \"15 3 * * *\", or a word such as \"@daily\"",
            ),
            ("run", raw.run.span(), "the command that runs in the release directory"),
        ] {
            if place.is_none() {
                self.notes.error(&raw.at.absent(key), "is required", hint);
            }
        }
        let schedule = self.schedule(raw);
        let run = self.command(&raw.run);
        let timeout = self.positive(&raw.timeout, TIMEOUT);
        let overlap = self.word(
            &raw.overlap,
            &[("skip", Overlap::Skip), ("allow", Overlap::Allow), ("end", Overlap::End)],
            "is not known",
            |_| {
                "while the former run goes on: \"skip\" this one, \"allow\" both, or \"end\" the former"
                    .to_owned()
            },
        );
        let missed =
            self.word(&raw.missed, &[("skip", Missed::Skip), ("run", Missed::Run)], "is not known", |_| {
                "if bgd was down at the time: \"skip\" it, or \"run\" once".to_owned()
            });
        // Without a fleet both mean this host.
        self.word(&raw.once, &[("host", ()), ("fleet", ())], "is not known", |_| {
            "\"host\" or \"fleet\"; on a host by itself they mean the same".to_owned()
        });
        let (overlap, missed) = (overlap.unwrap_or_default(), missed.unwrap_or_default());
        let rule = CronRule { name: parsed.ok()?, schedule: schedule?, overlap, missed };
        Some(CronSettings { rule, run: run?, timeout })
    }

    fn schedule(&mut self, raw: &RawCron) -> Option<Schedule> {
        let zone = raw.time_zone.value().map_or(TimeZone::UTC, |written| written.value.clone());
        let Written { value, at } = raw.schedule.value()?;
        Schedule::new(value, zone).map_err(|bad| self.notes.error(at, bad.to_string(), bad.hint())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("schedule = \"61 * * * *\"", "4 app.shop.cron.a.schedule", "has \"61\" as its minute"),
        ("schedule = \"0 0 30 2 *\"", "4 app.shop.cron.a.schedule", "never comes true"),
        ("schedule = \"@dayly\"", "4 app.shop.cron.a.schedule", "is not a known word: \"@dayly\""),
        ("schedule = \"* * * * * *\"", "4 app.shop.cron.a.schedule", "has 6 fields"),
        (
            "time_zone = \"Europe/Berln\"",
            "4 app.shop.cron.a.time_zone",
            "is not a time zone: \"Europe/Berln\"",
        ),
        ("time_zone = 1", "4 app.shop.cron.a.time_zone", "expected a text with the name of a time zone"),
        ("run = \" \"", "4 app.shop.cron.a.run", "is empty"),
        ("run = \"job {port}\"", "4 app.shop.cron.a.run", "has {port}, which stands for nothing here"),
        ("timeout = \"0s\"", "4 app.shop.cron.a.timeout", "longer than zero"),
        ("overlap = \"wait\"", "4 app.shop.cron.a.overlap", "is not known: \"wait\""),
        ("missed = \"all\"", "4 app.shop.cron.a.missed", "is not known: \"all\""),
        ("once = \"never\"", "4 app.shop.cron.a.once", "is not known: \"never\""),
        ("every = \"1h\"", "4 app.shop.cron.a.every", "unknown key"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        for (line, place, what) in WRONG {
            let usual = ["schedule = \"@daily\"", "run = \"job\""];
            let rest = usual.iter().filter(|usual| usual.split(' ').next() != line.split(' ').next());
            let rest: String = rest.map(|line| format!("cron.a.{line}\n")).collect();
            let found = errors(&with(&format!("cron.a.{line}\n{rest}")));
            assert!(
                found.len() == 1 && found[0].starts_with(place) && found[0].contains(what),
                "{line}: {found:?}"
            );
        }
        let found = errors(&with("cron.\"A b\" = { schedule = \"@daily\", run = \"job\" }"));
        assert!(found[0].contains("not a schedule's name"), "{found:?}");
    }

    #[test]
    fn a_schedule_without_a_name_a_time_or_a_command_is_refused() {
        assert!(errors(&with("cron.schedule = \"@daily\""))[0].contains("the schedule has no name"));
        let missing = errors(&with("cron.a.missed = \"run\""));
        assert_eq!(
            missing,
            ["4 app.shop.cron.a.run: is required", "4 app.shop.cron.a.schedule: is required"]
        );
    }

    #[test]
    fn what_is_left_out_is_utc_an_hour_and_skip() {
        let app = shop(&with("cron.b = { schedule = \"15 3 * * *\", run = \"job\" }"));
        let [cron] = &app.crons[..] else { panic!("{:?}", app.crons) };
        assert_eq!((cron.rule.name.as_str(), cron.run.as_str(), cron.timeout), ("b", "job", SECS(3600)));
        assert_eq!((cron.rule.overlap, cron.rule.missed), (Overlap::Skip, Missed::Skip));
        assert_eq!((cron.rule.schedule.text(), cron.rule.schedule.zone()), ("15 3 * * *", "UTC"));
        let told = "cron.b = { schedule = \"@hourly\", time_zone = \"Europe/Berlin\", run = \"job\", timeout = \"5m\", \
                    overlap = \"end\", missed = \"run\", once = \"host\" }";
        let app = shop(&with(told));
        let cron = &app.crons[0];
        assert_eq!(
            (cron.rule.overlap, cron.rule.missed, cron.timeout),
            (Overlap::End, Missed::Run, SECS(300))
        );
        assert_eq!(cron.rule.schedule.zone(), "Europe/Berlin");
    }
}
