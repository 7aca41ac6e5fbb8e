//! `[app.NAME.gate]`: a command that is asked whether a commit may be deployed; and all gates of an app together.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::app::RawApp;
use crate::{
    config::{
        judge::Judge,
        patterns::Patterns,
        read::{Given, Written},
    },
    os::hash::fnv,
    rules::opening::Openings,
};

table! {
    /// `[app.NAME.gate]`.
    RawGate { command: String, interval: Duration, timeout: Duration, deadline: Duration }
}

/// What keeps a commit that was seen from being deployed by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gates {
    /// A commit that changes none of these files since the live one is passed over.
    pub paths: Option<Patterns>,
    /// A commit is held back if all commits since the live one have one of these in their message.
    pub skip: Vec<String>,
    /// Windows and freezes.
    pub openings: Openings,
    /// Asked about each commit.
    pub command: Option<GateCommand>,
}

/// A command that says whether a commit may be deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateCommand {
    /// For `/bin/sh -c`. Exit code 0: open; 75: not yet; any other: closed.
    pub line: String,
    /// The directory of the file that names it, where it is run.
    pub dir: PathBuf,
    /// Wait between two runs for a commit.
    pub interval: Duration,
    /// Limit of one run; a longer one counts as not yet.
    pub timeout: Duration,
    /// From the first run on; then the gate is closed for this commit.
    pub deadline: Duration,
}

const INTERVAL: Duration = Duration::from_secs(15);
const TIMEOUT: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(60 * 60);

impl Gates {
    /// Whether there is any gate.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether commits have to be compared with the live one.
    pub fn compares(&self) -> bool {
        self.paths.is_some() || !self.skip.is_empty() || self.command.is_some()
    }

    /// Tells these gates from others: what others said is worth nothing.
    pub fn fingerprint(&self) -> u64 {
        fnv(format!("{self:?}").as_bytes())
    }
}

impl Judge<'_> {
    pub(super) fn gates(&mut self, raw: &RawApp) -> Gates {
        Gates {
            paths: self.patterns(&raw.paths),
            skip: self.skip(&raw.skip),
            openings: Openings { windows: self.windows(&raw.window), freezes: self.freezes(&raw.freeze) },
            command: raw.gate.value().and_then(|written| self.gate(&written.value)),
        }
    }

    fn skip(&mut self, given: &Given<Vec<Written<String>>>) -> Vec<String> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        let hint = "a part of a commit's message, such as \"[skip deploy]\"";
        all.iter().filter(|one| self.filled(one, hint)).map(|one| one.value.clone()).collect()
    }

    fn gate(&mut self, raw: &RawGate) -> Option<GateCommand> {
        if raw.command.span().is_none() {
            let hint = "write command = \"…\": exit code 0 opens the gate, 75 says not yet";
            self.notes.error(&raw.at.absent("command"), "is required", hint);
        }
        let interval = self.positive(&raw.interval, INTERVAL);
        let timeout = self.positive(&raw.timeout, TIMEOUT);
        let deadline = self.positive(&raw.deadline, DEADLINE);
        let line = self.command(&raw.command)?;
        let dir = Path::new(&*raw.at.file).parent().unwrap_or(Path::new(""));
        Some(GateCommand { line, dir: self.base.join(dir), interval, timeout, deadline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("gate = { interval = \"1s\" }", "4 app.shop.gate.command", "is required"),
        ("gate = { command = \" \" }", "4 app.shop.gate.command", "is empty"),
        ("gate = { command = \"true\", timeout = \"0s\" }", "4 app.shop.gate.timeout", "longer than zero"),
        ("gate = \"true\"", "4 app.shop.gate", "expected a table, found a text"),
        ("skip = [\"\"]", "4 app.shop.skip[0]", "is empty"),
        ("paths = \"a/**\"", "4 app.shop.paths", "expected a list, found a text"),
        ("paths = [\"!*.md\"]", "4 app.shop.paths", "can't match any file"),
        ("paths = []", "4 app.shop.paths", "can't match any file"),
        ("paths = [\"./a\"]", "4 app.shop.paths[0]", "can't match any file: \"./a\""),
        ("paths = [\"a/**\", \"a{b\"]", "4 app.shop.paths[1]", "is not a pattern"),
        ("paths = [\"a\", \"\"]", "4 app.shop.paths[1]", "is empty"),
        ("paths = [\"a\", \"#b\"]", "4 app.shop.paths[1]", "is a comment"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }

    #[test]
    fn patterns_with_a_comma_between_them_are_warned_of() {
        let said = warnings(&with("health.path = \"/\"\npaths = [\"a/**,b/**\", \"{c,d}/**\"]"));
        assert_eq!(said, ["app.shop.paths[0]: is one pattern with a comma in it: \"a/**,b/**\""]);
    }

    #[test]
    fn a_gate_runs_in_the_directory_of_the_file_that_names_it() {
        let gate = shop(&with("gate = { command = \"contrib/gates/github test\" }")).gates.command.unwrap();
        assert_eq!((gate.dir, gate.interval, gate.deadline), ("/etc/bgd".into(), INTERVAL, DEADLINE));
    }
}
