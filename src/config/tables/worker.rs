//! `[app.NAME.worker.NAME]`: processes without a port that work for the live release, such as those of a queue.

use std::time::Duration;

use super::{
    Table as _,
    named::{Named, NamedTable},
    start::{RawStart, Start},
    stop::{RawSignal, RawStop, Stop, StopHow},
};
use crate::{
    config::{
        commands::{ProgramCall, calls},
        judge::Judge,
        read::Given,
        signal,
        span::Span,
    },
    rules::{
        ids::WorkerName,
        workers::{Takeover, WorkerPlan},
    },
};

table! {
    /// `[app.NAME.worker.NAME]`.
    RawWorker {
        start: RawStart,
        instances: i64,
        stop: RawStop,
        quiet: RawSignal,
        exclusive: bool,
        takeover: String,
    }
}

impl NamedTable for RawWorker {
    const FORM: &str = "tables [app.NAME.worker.NAME]";
    const NAMELESS: (&str, &str) = (
        "a key of a worker, but the worker has no name",
        "write the header with a name: [app.NAME.worker.queue]",
    );
}

/// One kind of worker of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSettings {
    /// Name, number and takeover.
    pub plan: WorkerPlan,
    /// How it is started.
    pub start: Start,
    /// How it is stopped, and how long it may take to finish its work.
    pub stop: Stop,
    /// The signal that tells it to take no new work; sent when the traffic is about to move.
    pub quiet: Option<i32>,
}

/// Most instances of one worker.
const MOST: u16 = 64;
const INSTANCES: u16 = 1;
const GRACE: Duration = Duration::from_secs(10 * 60);

impl Judge<'_> {
    /// Judges the workers of an app.
    pub(super) fn workers(&mut self, given: Given<Named<RawWorker>>) -> Vec<WorkerSettings> {
        let Some(all) = given.into_value() else { return Vec::new() };
        all.value.0.into_iter().filter_map(|(name, raw)| self.worker(&name, raw)).collect()
    }

    fn worker(&mut self, name: &str, raw: RawWorker) -> Option<WorkerSettings> {
        let at = raw.at.clone();
        let parsed: Result<WorkerName, _> = name.parse();
        if let Err(err) = &parsed {
            self.notes.error(
                &at,
                err.to_string(),
                "choose a shorter or simpler name, such as [app.shop.worker.queue]",
            );
        }
        let start = self.start(&raw.start, &at);
        let stop = self.worker_stop(RawStop::or_empty(raw.stop, at.absent("stop")));
        let quiet = self.quiet(&raw.quiet);
        if let (Some(quiet), StopHow::Signal(stop)) = (quiet, &stop.how)
            && quiet == *stop
        {
            let what = format!("is the signal that `stop` sends: {}", signal::name(quiet));
            let hint =
                "a worker that gets it must go on with the work it has: leave `quiet` out, or name another";
            self.refuse([raw.quiet.span()], &what, hint);
        }
        let instances = self.number(
            &raw.instances,
            |number| u16::try_from(number).ok().filter(|number| (1..=MOST).contains(number)),
            "is not a number of instances",
            format!("1 to {MOST}; leave the table out for none"),
        );
        let takeover = self.word(
            &raw.takeover,
            &[("live", Takeover::Live), ("watched", Takeover::Watched)],
            "is not a takeover",
            |_| "\"live\": right after the flip; \"watched\": when the watch ended well".to_owned(),
        );
        Some(WorkerSettings {
            plan: WorkerPlan {
                name: parsed.ok()?,
                instances: instances.unwrap_or(INSTANCES),
                exclusive: Self::or(raw.exclusive, false),
                takeover: takeover.unwrap_or_default(),
            },
            start,
            stop,
            quiet,
        })
    }

    fn worker_stop(&mut self, raw: RawStop) -> Stop {
        let grace = raw.grace.value().map_or(GRACE, |written| written.value);
        Stop { grace, ..self.stop(raw, super::protocol::Protocol::Http) }
    }

    fn quiet(&mut self, given: &Given<RawSignal>) -> Option<i32> {
        let written = given.value()?;
        let number = match &written.value {
            RawSignal::Name(name) => signal::any_by_name(name),
            RawSignal::Number(number) => signal::any_by_number(*number),
        };
        let refused = |bad: &signal::BadSignal| (bad.to_string(), bad.hint());
        match number.as_ref().map_err(refused) {
            Ok(&(libc::SIGKILL | libc::SIGSTOP)) => {
                let hint = "a signal that the worker handles, such as \"TSTP\" or \"USR1\"";
                self.notes.error(&written.at, "can't be handled by a worker", hint);
            }
            Ok(_) => {}
            Err((what, hint)) => self.notes.error(&written.at, what, hint),
        }
        number.ok()
    }
}

impl RawWorker {
    /// The programs that `start` calls, whether a shell reads it, and its place.
    pub(super) fn calls(&self) -> Option<(Vec<ProgramCall>, bool, &Span)> {
        let written = self.start.value()?;
        let (all, is_shell) = match &written.value {
            RawStart::Shell(line) => (calls(line), true),
            RawStart::Argv(words) => {
                let words: Vec<String> = words.iter().map(|word| word.value.clone()).collect();
                (vec![ProgramCall::of_argv(&words)], false)
            }
        };
        Some((all, is_shell, &written.at))
    }

    /// Its commands and their places.
    pub(super) fn commands(&self) -> Vec<(&Span, &str)> {
        let mut all = Vec::new();
        match self.start.value().map(|written| (&written.at, &written.value)) {
            Some((at, RawStart::Shell(line))) => all.push((at, line.as_str())),
            Some((_, RawStart::Argv(argv))) => {
                all.extend(argv.iter().map(|one| (&one.at, one.value.as_str())));
            }
            None => {}
        }
        all.extend(self.stop.value().and_then(|stop| super::app::text_of(&stop.value.command)));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        (
            "worker.queue.instances = 0",
            "4 app.shop.worker.queue.instances",
            "is not a number of instances: 0",
        ),
        ("worker.queue.takeover = \"later\"", "4 app.shop.worker.queue.takeover", "is not a takeover"),
        ("worker.queue.quiet = \"KILL\"", "4 app.shop.worker.queue.quiet", "can't be handled by a worker"),
        ("worker.queue.quiet = \"TSPT\"", "4 app.shop.worker.queue.quiet", "is not a signal"),
        ("worker.queue.quiet = \"TERM\"", "4 app.shop.worker.queue.quiet", "is the signal that `stop` sends"),
        ("worker.queue.stop.signal = \"STOP\"", "4 app.shop.worker.queue.stop.signal", "does not ask"),
        ("worker.queue.grace = \"1m\"", "4 app.shop.worker.queue.grace", "unknown key"),
        ("worker.queue.start = \" \"", "4 app.shop.worker.queue.start", "is empty"),
        ("worker.queue.start = \"work {port}\"", "4 app.shop.worker.queue.start", "stands for nothing here"),
        ("worker.\"Queue 1\".start = \"x\"", "4 app.shop.worker.\"Queue 1\"", "not a worker's name"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        for (line, place, what) in WRONG {
            let given = match line.contains(".start") {
                true => (*line).to_owned(),
                false => format!("{line}\nworker.queue.start = \"work\""),
            };
            let found = errors(&with(&given));
            assert!(
                found.len() == 1 && found[0].starts_with(place) && found[0].contains(what),
                "{line}: {found:?}"
            );
        }
    }

    #[test]
    fn a_worker_that_leaves_its_shell_or_asks_a_manager_is_warned_of() {
        let said = |start: &str| {
            let health = "health.path = \"/\"";
            let worker = format!("worker.queue.start = \"{start}\"");
            warnings(&with(&format!("{health}\n{worker}")))
        };
        let all = said("supervisorctl start queue");
        assert!(all.len() == 1 && all[0].starts_with("app.shop.worker.queue.start: "), "{all:?}");
        assert!(said("celery worker &")[0].contains("to the background"));
        assert_eq!(said("exec php artisan queue:work"), [""; 0]);
    }

    #[test]
    fn a_worker_without_a_start_or_a_name_is_refused() {
        let missing = errors(&with("worker.queue.instances = 2"));
        assert_eq!(missing, ["4 app.shop.worker.queue.start: is required"]);
        let nameless = errors(&with("worker.start = \"work\""));
        assert!(nameless[0].contains("the worker has no name"), "{nameless:?}");
    }

    #[test]
    fn a_worker_has_a_grace_of_its_own_and_one_instance_unless_told_otherwise() {
        let app = shop(&with(
            "stop.grace = \"6s\"\nworker.queue.start = \"work\"\nworker.clock.start = [\"tick\"]",
        ));
        let [queue, clock] = &app.workers[..] else { panic!("{:?}", app.workers) };
        assert_eq!((queue.plan.name.as_str(), clock.plan.name.as_str()), ("queue", "clock"));
        assert_eq!(queue.stop, Stop { how: StopHow::Signal(libc::SIGTERM), grace: Duration::from_secs(600) });
        assert_eq!(
            (queue.plan.instances, queue.plan.exclusive, queue.plan.takeover),
            (1, false, Takeover::Live)
        );
        let told = "worker.queue = { start = \"work\", instances = 3, stop = { signal = \"INT\", grace = \"20s\" }, \
                    quiet = \"TSTP\", exclusive = true, takeover = \"watched\" }";
        let app = shop(&with(told));
        let queue = &app.workers[0];
        assert_eq!(
            (queue.plan.instances, queue.plan.exclusive, queue.plan.takeover),
            (3, true, Takeover::Watched)
        );
        assert_eq!((&queue.stop.how, queue.quiet), (&StopHow::Signal(libc::SIGINT), Some(libc::SIGTSTP)));
    }
}
