//! `build` and `start`: the commands that build a release and run it. A shell runs a text; a list is run directly.

use toml::de::DeValue;

use crate::config::{
    judge::Judge,
    read::{FromToml, Given, Item, Reader, Written},
    span::Span,
};

/// A text or a list of texts.
#[derive(Debug, Clone)]
pub(in crate::config) struct Commands(pub Vec<Written<String>>);

impl FromToml for Commands {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Array(_) => FromToml::from_toml(item, at, reader).map(Self),
            DeValue::String(_) => {
                let value = String::from_toml(item, at, reader)?;
                Some(Self(vec![Written { value, at: at.clone() }]))
            }
            _ => reader.wrong_type(at, "a text or a list of texts", item),
        }
    }
}

/// `start` as written.
#[derive(Debug, Clone)]
pub(in crate::config) enum RawStart {
    Shell(String),
    Argv(Vec<Written<String>>),
}

impl FromToml for RawStart {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Array(_) => FromToml::from_toml(item, at, reader).map(Self::Argv),
            DeValue::String(_) => FromToml::from_toml(item, at, reader).map(Self::Shell),
            _ => reader.wrong_type(at, "a text or a list of texts", item),
        }
    }
}

/// A start command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// Run by `/bin/sh -c`.
    Shell(String),
    /// Run directly, without a shell; never empty.
    Argv(Vec<String>),
}

impl Judge<'_> {
    /// Judges the steps of the build.
    pub(super) fn build(&mut self, given: &Given<Commands>) -> Vec<String> {
        let all = given.value().map_or(&[][..], |written| &written.value.0);
        for command in all {
            self.filled(command, "write a command, or leave it out");
        }
        all.iter().map(|command| command.value.clone()).collect()
    }

    /// Judges the start of the app at `app`.
    pub(super) fn start(&mut self, given: &Given<RawStart>, app: &Span) -> Start {
        let hint =
            "a text (/bin/sh -c) or a list (argv), such as \"node server.js\" or [\"node\", \"server.js\"]";
        let (argv, at) = match given {
            Given::Value(Written { value: RawStart::Shell(command), .. }) if !command.trim().is_empty() => {
                return Start::Shell(command.clone());
            }
            Given::Value(Written { value: RawStart::Shell(_), at }) => (&[][..], at),
            Given::Value(Written { value: RawStart::Argv(argv), at }) => (&argv[..], at),
            Given::Unreadable(_) => return Start::Argv(Vec::new()),
            Given::Absent => {
                self.notes.error(&app.absent("start"), "is required", hint);
                return Start::Argv(Vec::new());
            }
        };
        match argv.first() {
            Some(program) if !program.value.trim().is_empty() => {}
            Some(program) => self.notes.error(&program.at, "is empty", hint),
            None => self.notes.error(at, "is empty", hint),
        }
        Start::Argv(argv.iter().map(|word| word.value.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("build = [\"make\",\n \" \"]", "5 app.shop.build[1]", "is empty"),
        ("build = 1", "4 app.shop.build", "expected a text or a list of texts"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
