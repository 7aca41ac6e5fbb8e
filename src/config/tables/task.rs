//! `[[app.NAME.task]]`: commands that run once in a deploy, each at its moment, with a limit, a step and a log of its
//! own.

use std::time::Duration;

use crate::{
    config::{
        judge::Judge,
        read::{Given, Written},
    },
    rules::{ids::TaskName, task::TaskRule, words::Moment},
};

table! {
    /// `[[app.NAME.task]]`.
    RawTask {
        name: String,
        run: String,
        when: String,
        timeout: Duration,
        again: bool,
        repeat: String,
    }
}

/// A command that runs once in a deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub name: TaskName,
    /// Run as `build` is.
    pub run: String,
    /// Its moment; the tasks of one moment run in the order of the file.
    pub when: Moment,
    /// Time limit of a run.
    pub timeout: Duration,
    /// Whether it runs again when a commit on which it worked is deployed once more.
    pub again: bool,
    pub repeat: Repeat,
}

impl Task {
    /// The part that the machine needs.
    pub fn rule(&self) -> TaskRule {
        TaskRule { name: self.name.clone(), when: self.when, again: self.again }
    }
}

/// What follows when a run was cut off, so that nobody knows how far it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repeat {
    /// The deploy fails, and a person decides.
    #[default]
    Unsafe,
    /// It is run again.
    Safe,
}

const TIMEOUT: Duration = Duration::from_secs(5 * 60);
const AGAIN: bool = true;

const WHEN: [(&str, Moment); 5] = [
    ("after_build", Moment::AfterBuild),
    ("before_start", Moment::BeforeStart),
    ("before_switch", Moment::BeforeSwitch),
    ("after_live", Moment::AfterLive),
    ("after_watch", Moment::AfterWatch),
];

impl Judge<'_> {
    /// Judges the tasks of an app, in the order of the file.
    pub(super) fn app_tasks(&mut self, given: &Given<Vec<Written<RawTask>>>) -> Vec<Task> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        self.refuse_doubled(all);
        all.iter().filter_map(|one| self.task(&one.value)).collect()
    }

    fn refuse_doubled(&mut self, all: &[Written<RawTask>]) {
        let names: Vec<&Written<String>> = all.iter().filter_map(|one| one.value.name.value()).collect();
        for (at, name) in names.iter().enumerate() {
            if let Some(first) = names[..at].iter().find(|first| first.value == name.value) {
                let what = format!("is the name of another task, {}: {:?}", first.at, name.value);
                self.notes.error(
                    &name.at,
                    what,
                    "give each task a name of its own: its log and its step bear it",
                );
            }
        }
    }

    fn task(&mut self, raw: &RawTask) -> Option<Task> {
        for (name, place) in [("name", raw.name.span()), ("run", raw.run.span()), ("when", raw.when.span())] {
            if place.is_none() {
                self.notes.error(&raw.at.absent(name), "is required", "a task needs name, run and when");
            }
        }
        let name = self.text(
            &raw.name,
            |text| text.parse().ok(),
            "is not a task name",
            "1 to 32 of a-z 0-9 - _, beginning with a letter or digit",
        );
        let words = "one of after_build, before_start, before_switch, after_live, after_watch";
        let when = self.word(&raw.when, &WHEN, "is not a moment of a deploy", |_| words.to_owned());
        let repeat = self.word(
            &raw.repeat,
            &[("unsafe", Repeat::Unsafe), ("safe", Repeat::Safe)],
            "is neither \"unsafe\" nor \"safe\"",
            |_| {
                "\"unsafe\": a run that a power cut ended is not repeated; \"safe\": it is run again"
                    .to_owned()
            },
        );
        let (timeout, run) = (self.positive(&raw.timeout, TIMEOUT), self.command(&raw.run));
        let again = raw.again.value().map_or(AGAIN, |written| written.value);
        Some(Task { name: name?, run: run?, when: when?, timeout, again, repeat: repeat.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("[app.shop.task]\nname = \"a\"", "4 app.shop.task", "expected a list, found a table"),
        ("[[app.shop.task]]\nrun = \"a\"\nwhen = \"after_live\"", "4 app.shop.task[0].name", "is required"),
        ("[[app.shop.task]]\nname = \"a\"\nwhen = \"after_live\"", "4 app.shop.task[0].run", "is required"),
        ("[[app.shop.task]]\nname = \"a\"\nrun = \"a\"", "4 app.shop.task[0].when", "is required"),
        (
            "[[app.shop.task]]\nname = \"A b\"\nrun = \"a\"\nwhen = \"after_live\"",
            "5 app.shop.task[0].name",
            "is not a task name: \"A b\"",
        ),
        (
            "[[app.shop.task]]\nname = \"a\"\nrun = \"a\"\nwhen = \"before_live\"",
            "7 app.shop.task[0].when",
            "is not a moment of a deploy: \"before_live\"",
        ),
        (
            "[[app.shop.task]]\nname = \"a\"\nrun = \" \"\nwhen = \"after_live\"",
            "6 app.shop.task[0].run",
            "is empty",
        ),
        (
            "task = [{ name = \"a\", run = \"a\", when = \"after_live\" }, { name = \"a\", run = \"b\", when = \"after_live\" }]",
            "4 app.shop.task[1].name",
            "is the name of another task, app.shop.task[0].name (bgd.toml:4): \"a\"",
        ),
        (
            "task = [{ name = \"a\", run = \"a\", when = \"after_live\", timeout = \"0s\" }]",
            "4 app.shop.task[0].timeout",
            "longer than zero",
        ),
        (
            "task = [{ name = \"a\", run = \"a\", when = \"after_live\", repeat = \"maybe\" }]",
            "4 app.shop.task[0].repeat",
            "is neither \"unsafe\" nor \"safe\": \"maybe\"",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
