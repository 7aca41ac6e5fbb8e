//! The law of `[app.NAME.cron.NAME]`: which due times are run, skipped or missed. Knows no clock and no process; the
//! engine asks with the time, carries out what it is told, and records it.

use std::time::Duration;

use super::{
    calendar::{Passed, Schedule},
    ids::CronName,
    time::Time,
};

/// A due time is run at most this late: the host was asleep or busy, or the record could not be written. Later it
/// counts as missed.
const LATE: Duration = Duration::from_secs(60);
/// A clock that was set back by less than this still shows the day of the last run, so that a nightly run does not
/// happen twice. After a longer step the clock was wrong before.
const SET_BACK: Duration = Duration::from_secs(3 * 3600);

/// What happens at a due time while the former run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// The due time is skipped.
    #[default]
    Skip,
    /// Both run.
    Allow,
    /// The former run is ended first.
    End,
}

/// What becomes of due times at which bgd did not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// Nothing runs.
    #[default]
    Skip,
    /// One run for all of them.
    Run,
}

/// One entry: its name, when it is due, and what happens if that can't be kept.
#[derive(Debug, Clone, PartialEq)]
pub struct CronRule {
    pub name: CronName,
    pub schedule: Schedule,
    pub overlap: Overlap,
    pub missed: Missed,
}

/// The situation of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occasion {
    /// Every due time up to here was decided; for a new entry or a new schedule, the time when it came into force.
    pub handled: Time,
    /// Since when bgd runs and the app is in service; not after `now`, also where the clock was set back.
    pub up_since: Time,
    /// Whether a run of the entry goes on.
    pub running: bool,
    pub now: Time,
}

/// What is to be done for an entry, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Decision {
    /// These are said to be missed.
    pub missed: Option<Passed>,
    /// This due time is said to be skipped.
    pub skipped: Option<Time>,
    /// The runs that go on are ended.
    pub end_former: bool,
    /// A run begins for this due time.
    pub run: Option<Time>,
    /// The due times up to here are decided now.
    pub handled: Time,
}

impl CronRule {
    /// What is to be done now.
    pub fn decide(&self, occasion: Occasion) -> Decision {
        let Occasion { handled, now, .. } = occasion;
        let handled = self.after_set_back(handled, now);
        let nothing = Decision { handled, ..Decision::default() };
        let Some(passed) = self.schedule.passed(handled, now) else { return nothing };
        let decided = Decision { handled: passed.newest, ..Decision::default() };
        let on_time = passed.newest >= occasion.up_since && now.since(passed.newest) <= LATE;
        let lost = match on_time {
            true => (passed.count > 1).then(|| self.all_but_newest(handled, passed)).flatten(),
            false => Some(passed),
        };
        match (on_time, self.missed) {
            (false, Missed::Skip) => Decision { missed: lost, ..decided },
            // The run that begins now stands for those that were missed.
            (false, Missed::Run) | (true, Missed::Run) => {
                self.begin(occasion.running, passed.newest, decided)
            }
            (true, Missed::Skip) => {
                Decision { missed: lost, ..self.begin(occasion.running, passed.newest, decided) }
            }
        }
    }

    /// The due times before the newest of those that passed.
    fn all_but_newest(&self, handled: Time, passed: Passed) -> Option<Passed> {
        let before = Time(passed.newest.0.saturating_sub(1));
        self.schedule.passed(handled, before)
    }

    fn begin(&self, running: bool, due: Time, decided: Decision) -> Decision {
        match (running, self.overlap) {
            (false, _) | (true, Overlap::Allow) => Decision { run: Some(due), ..decided },
            (true, Overlap::Skip) => Decision { skipped: Some(due), ..decided },
            (true, Overlap::End) => Decision { end_former: true, run: Some(due), ..decided },
        }
    }

    /// Up to where the due times are decided, by a clock that may have been set back.
    fn after_set_back(&self, handled: Time, now: Time) -> Time {
        let holds = self.schedule.is_fixed() && handled.since(now) <= SET_BACK;
        if holds { handled } else { handled.min(now) }
    }

    /// When it is due next.
    pub fn next(&self, handled: Time, now: Time) -> Option<Time> {
        self.schedule.next(self.after_set_back(handled, now).max(now))
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZoneDatabase;

    use super::*;

    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = 60 * MINUTE;
    /// A midnight.
    const DAY: u64 = 20_000 * 24 * HOUR;

    fn rule(schedule: &str, overlap: Overlap, missed: Missed) -> CronRule {
        CronRule { name: "job".parse().unwrap(), schedule: schedule.parse().unwrap(), overlap, missed }
    }

    /// bgd with one entry under a clock that is told what time it is.
    struct Watch {
        rule: CronRule,
        handled: Time,
        up_since: Time,
        running: Vec<u64>,
        runs: Vec<u64>,
        skipped: Vec<u64>,
        missed: Vec<(u64, u32)>,
        ended: usize,
    }

    impl Watch {
        fn new(rule: CronRule, now: u64) -> Self {
            let now = Time(now);
            let none = Vec::new;
            Self {
                rule,
                handled: now,
                up_since: now,
                running: none(),
                runs: none(),
                skipped: none(),
                missed: Vec::new(),
                ended: 0,
            }
        }

        fn look(&mut self, now: u64) {
            let running = !self.running.is_empty();
            self.up_since = self.up_since.min(Time(now));
            let occasion =
                Occasion { handled: self.handled, up_since: self.up_since, running, now: Time(now) };
            let decision = self.rule.decide(occasion);
            self.handled = decision.handled;
            self.missed.extend(decision.missed.map(|passed| (passed.newest.0, passed.count)));
            self.skipped.extend(decision.skipped.map(|due| due.0));
            if decision.end_former {
                self.ended += self.running.drain(..).len();
            }
            if let Some(due) = decision.run {
                self.runs.push(due.0);
                self.running.push(due.0);
            }
        }

        fn finish(&mut self) {
            self.running.clear();
        }
    }

    #[test]
    fn each_due_time_runs_once_however_often_and_irregularly_the_clock_is_looked_at() {
        let mut watch = Watch::new(rule("* * * * *", Overlap::Skip, Missed::Skip), DAY);
        let mut now = DAY;
        let mut step = 1;
        while now < DAY + HOUR {
            watch.look(now);
            watch.look(now);
            watch.finish();
            // 1 ms to 30 s, in no order.
            step = (step * 7_919 + 13) % 30_000;
            now += step;
        }
        watch.look(DAY + HOUR);
        let expected: Vec<u64> = (1..=60).map(|minute| DAY + minute * MINUTE).collect();
        assert_eq!((watch.runs, watch.skipped, watch.missed), (expected, vec![], vec![]));
    }

    #[test]
    fn a_run_that_goes_on_has_the_next_one_skipped_or_joined_or_takes_its_leave() {
        for (overlap, runs, skipped, ended) in
            [(Overlap::Skip, 2, 1, 0), (Overlap::Allow, 3, 0, 0), (Overlap::End, 3, 0, 1)]
        {
            let mut watch = Watch::new(rule("* * * * *", overlap, Missed::Skip), DAY);
            watch.look(DAY + MINUTE);
            // The first one takes 90 s.
            watch.look(DAY + 2 * MINUTE);
            watch.finish();
            watch.look(DAY + 3 * MINUTE);
            assert_eq!(
                (watch.runs.len(), watch.skipped.len(), watch.ended),
                (runs, skipped, ended),
                "{overlap:?}"
            );
        }
    }

    #[test]
    fn due_times_while_bgd_was_down_are_said_to_be_missed_or_made_up_for_by_one_run() {
        for (missed, runs, said) in
            [(Missed::Skip, vec![], vec![(DAY + 3 * HOUR, 3)]), (Missed::Run, vec![DAY + 3 * HOUR], vec![])]
        {
            let mut watch = Watch::new(rule("0 * * * *", Overlap::Skip, missed), DAY);
            // Started 1 s after the third.
            let start = DAY + 3 * HOUR + SECOND;
            watch.up_since = Time(start);
            watch.look(start);
            watch.look(start + SECOND);
            assert_eq!((&watch.runs, &watch.missed), (&runs, &said));
            watch.finish();
            watch.look(DAY + 4 * HOUR);
            assert_eq!(watch.runs.last(), Some(&(DAY + 4 * HOUR)), "the next one runs as due");
        }
    }

    #[test]
    fn a_host_that_slept_over_due_times_runs_the_newest_only_while_it_is_fresh() {
        let mut watch = Watch::new(rule("* * * * *", Overlap::Skip, Missed::Skip), DAY);
        watch.look(DAY + 10 * MINUTE + 30 * SECOND);
        assert_eq!(
            (&watch.runs[..], &watch.missed[..]),
            (&[DAY + 10 * MINUTE][..], &[(DAY + 9 * MINUTE, 9)][..])
        );
        let mut watch = Watch::new(rule("0 * * * *", Overlap::Skip, Missed::Skip), DAY);
        watch.look(DAY + 10 * HOUR + 5 * MINUTE);
        assert_eq!((&watch.runs[..], &watch.missed[..]), (&[][..], &[(DAY + 10 * HOUR, 10)][..]));
    }

    #[test]
    fn a_clock_set_back_repeats_no_nightly_run_and_silences_no_frequent_one() {
        let mut nightly = Watch::new(rule("30 2 * * *", Overlap::Skip, Missed::Skip), DAY);
        for now in [DAY + 2 * HOUR + 30 * MINUTE, DAY + 2 * HOUR, DAY + 2 * HOUR + 31 * MINUTE] {
            nightly.look(now);
            nightly.finish();
        }
        assert_eq!(nightly.runs, [DAY + 2 * HOUR + 30 * MINUTE]);
        let mut frequent = Watch::new(rule("* * * * *", Overlap::Skip, Missed::Skip), DAY + HOUR);
        for now in [DAY + HOUR + MINUTE, DAY, DAY + MINUTE] {
            frequent.look(now);
            frequent.finish();
        }
        assert_eq!(frequent.runs, [DAY + HOUR + MINUTE, DAY + MINUTE]);
        // A clock that was a year ahead, until it was set right.
        let mut wrong = Watch::new(rule("30 2 * * *", Overlap::Skip, Missed::Skip), DAY + 365 * 24 * HOUR);
        for now in [DAY, DAY + 2 * HOUR + 30 * MINUTE] {
            wrong.look(now);
        }
        assert_eq!(wrong.runs, [DAY + 2 * HOUR + 30 * MINUTE]);
    }

    #[test]
    fn over_both_changes_of_summer_time_a_nightly_run_happens_once_each_night() {
        let zone = TimeZoneDatabase::bundled().get("Europe/Berlin").unwrap();
        for begin in ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"] {
            let begin: jiff::Timestamp = begin.parse().unwrap();
            let begin = u64::try_from(begin.as_millisecond()).unwrap();
            let schedule = Schedule::new("30 2 * * *", zone.clone()).unwrap();
            let nightly = CronRule { schedule, ..rule("@daily", Overlap::Skip, Missed::Skip) };
            let mut watch = Watch::new(nightly, begin);
            for seconds in (0..3 * 86_400).step_by(20) {
                watch.look(begin + seconds * SECOND);
                watch.finish();
            }
            assert_eq!((watch.runs.len(), &watch.missed[..]), (3, &[][..]));
        }
    }
}
