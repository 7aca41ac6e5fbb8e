//! TOML text → typed values with their places. Called by `tables/` for every table and by `parse.rs` for every file;
//! notes syntax errors, wrong types and unknown keys, and continues after each. Knows no keys and no rules.

use std::{fmt::Display, sync::Arc, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    duration,
    problem::{Notes, Problem, Severity},
    span::Span,
};

/// A value as parsed, with its span.
pub(super) type Item<'i> = Spanned<DeValue<'i>>;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Written<T> {
    pub value: T,
    pub at: Span,
}

/// A key of a table: absent, unreadable (already noted), or read.
#[derive(Debug, Clone)]
pub(super) enum Given<T> {
    Absent,
    Unreadable(Span),
    Value(Written<T>),
}

impl<T> Given<T> {
    /// The value, if it could be read.
    pub fn value(&self) -> Option<&Written<T>> {
        match self {
            Self::Value(written) => Some(written),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// The value itself, if it could be read.
    pub fn into_value(self) -> Option<Written<T>> {
        match self {
            Self::Value(written) => Some(written),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// The place of the key, readable or not.
    pub fn span(&self) -> Option<&Span> {
        match self {
            Self::Absent => None,
            Self::Unreadable(at) => Some(at),
            Self::Value(written) => Some(&written.at),
        }
    }
}

/// A type that a TOML value can be read as.
pub(super) trait FromToml: Sized {
    /// Reads `item` at the place `at`; `None` if a problem was noted.
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self>;
}

/// One file being read.
#[derive(Debug)]
pub(super) struct Reader<'n> {
    file: Arc<str>,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    pub notes: &'n mut Notes,
}

impl<'n> Reader<'n> {
    /// Starts to read the text of `file`.
    pub fn new(file: Arc<str>, text: &str, notes: &'n mut Notes) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, c)| *c == b'\n').map(|(at, _)| at + 1);
        Self { file, lines: std::iter::once(0).chain(breaks).collect(), notes }
    }

    /// The place of the file's root; its keys are named below `key`.
    pub fn root(&self, key: &str) -> Span {
        Span { file: Arc::clone(&self.file), line: 1, key: key.to_owned() }
    }

    /// The table of the whole text; `None` when syntax errors leave nothing to rely on.
    pub fn parse<'i>(&mut self, text: &'i str) -> Option<DeTable<'i>> {
        let (table, mut errors) = DeTable::parse_recoverable(text);
        errors.sort_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
        for error in errors {
            let harmless = self.note_syntax(text, &error);
            // Errors after the first real one are usually its consequences.
            if !harmless {
                return None;
            }
        }
        Some(table.into_inner())
    }

    /// Notes a syntax error; true if the parser's recovery from it can be trusted.
    fn note_syntax(&mut self, text: &str, error: &toml::de::Error) -> bool {
        let message = error.message();
        let begins = error.span().and_then(|span| text.get(span.start..)?.chars().next());
        let (what, hint, harmless) = if begins.is_some_and(|c| "“”‘’„«»".contains(c)) {
            ("a quotation mark of a word processor", "write \" before and after the text", false)
        } else if message.starts_with("duplicate key") {
            ("this key or table is already there", "each may stand once in a file; remove one", true)
        } else if message.starts_with("string values must be quoted") {
            ("a text without quotes", "write it in quotes, as in branch = \"main\" or poll = \"10s\"", true)
        } else {
            (message, "mind the quotes, brackets and `=` here and on the line before", false)
        };
        let start = error.span().map_or(text.len(), |span| span.start).min(text.len());
        let line = self.line(start);
        let from = self.lines[line as usize - 1].min(start);
        let before = text.get(from..start).unwrap_or_default().trim_start_matches('\u{feff}');
        self.notes.errors.push(Problem {
            severity: Severity::Error,
            file: self.file.to_string(),
            line: Some(line),
            column: Some(1 + before.chars().count() as u32),
            key: None,
            what: format!("syntax error: {what}"),
            hint: Some(hint.to_owned()),
        });
        harmless
    }

    /// The line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> u32 {
        self.lines.partition_point(|start| *start <= offset) as u32
    }

    /// Reads one key of a table.
    pub fn field<T: FromToml>(&mut self, table: &DeTable<'_>, parent: &Span, name: &str) -> Given<T> {
        let Some((key, item)) = table.get_key_value(name) else { return Given::Absent };
        let at = parent.key(name, self.line(key.span().start));
        match T::from_toml(item, &at, self) {
            Some(value) => Given::Value(Written { value, at }),
            None => Given::Unreadable(at),
        }
    }

    /// Notes every key of the table that is not known.
    pub fn refuse_unknown(
        &mut self,
        table: &DeTable<'_>,
        at: &Span,
        known: &[&str],
        hint: impl Fn(&str) -> String,
    ) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let place = at.key(key.get_ref(), self.line(key.span().start));
            self.notes.error(&place, "unknown key", hint(key.get_ref()));
        }
    }

    /// Notes a value of the wrong type; always `None`.
    pub fn wrong_type<T>(&mut self, at: &Span, expected: &str, item: &Item<'_>) -> Option<T> {
        let what = format!("expected {expected}, found {}", describe(item.get_ref()));
        let hint = match (expected.contains("text"), item.get_ref()) {
            (true, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)) => {
                "write it in quotes".to_owned()
            }
            (_, DeValue::String(_))
                if expected.starts_with("a whole number") || expected.starts_with("true") =>
            {
                "leave the quotes out".to_owned()
            }
            (_, DeValue::String(_)) if expected.starts_with("a list") => {
                "write it in brackets, as in [\"a\", \"b\"]".to_owned()
            }
            (_, DeValue::String(_)) if expected == "a table" && at.key.ends_with(".health") => {
                "write health = { path = \"/up\" }".to_owned()
            }
            (_, DeValue::String(_)) if expected == "a table" && at.key.ends_with(".stop") => {
                "write stop = { signal = \"TERM\" }, or stop = { command = \"…\" }".to_owned()
            }
            (_, DeValue::String(_)) if expected == "a table" && at.key.ends_with(".front") => {
                "write front = { type = \"nginx\" }".to_owned()
            }
            (_, DeValue::Array(_)) if expected.starts_with("a table such as") => {
                "write { NAME = \"value\" } instead of [\"NAME=value\"]".to_owned()
            }
            (_, DeValue::Integer(number)) if expected == "a list" => {
                let key = at.key.rsplit('.').next().unwrap_or_default();
                match key {
                    "ports" => "two ports, [blue, green], such as [9501, 9502]".to_owned(),
                    _ => format!("write it in brackets, as in {key} = [{}]", number.as_str()),
                }
            }
            (_, DeValue::Array(_)) if expected == "a text" => "write one text, without brackets".to_owned(),
            _ => format!("make it {expected}; `bgd init` writes a file with an example of every key"),
        };
        self.notes.error(at, what, hint);
        None
    }
}

/// The kind of a value, for a message. Never the text of a string, which may be a misplaced secret.
fn describe(value: &DeValue<'_>) -> String {
    let number = |text: &dyn Display| text.to_string().chars().take(40).collect::<String>();
    match value {
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Integer(integer) => format!("the number {}", number(integer)),
        DeValue::Float(float) => format!("the number {}", number(float)),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

impl FromToml for String {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::String(text) = item.get_ref() else {
            return reader.wrong_type(at, "a text", item);
        };
        if text.contains('\0') {
            reader.notes.error(
                at,
                "contains a NUL byte",
                "no path, command or variable can hold one; remove it",
            );
            return None;
        }
        Some(text.to_string())
    }
}

impl FromToml for bool {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        match item.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => reader.wrong_type(at, "true or false", item),
        }
    }
}

impl FromToml for i64 {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Integer(integer) = item.get_ref() else {
            return reader.wrong_type(at, "a whole number", item);
        };
        let value = Self::from_str_radix(integer.as_str(), integer.radix());
        value.map_err(|_| reader.notes.error(at, "is too large a number", "write a smaller one")).ok()
    }
}

impl FromToml for Duration {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let parsed = match item.get_ref() {
            DeValue::String(text) => duration::parse(text),
            DeValue::Integer(number) => Err(duration::BadDuration::NoUnit(number.as_str().to_owned())),
            _ => return reader.wrong_type(at, "a duration such as \"10s\"", item),
        };
        parsed.map_err(|bad| reader.notes.error(at, bad.to_string(), bad.hint())).ok()
    }
}

impl<T: FromToml> FromToml for Vec<Written<T>> {
    fn from_toml(item: &Item<'_>, at: &Span, reader: &mut Reader<'_>) -> Option<Self> {
        let DeValue::Array(array) = item.get_ref() else {
            return reader.wrong_type(at, "a list", item);
        };
        let mut values = Some(Vec::with_capacity(array.len()));
        for (index, element) in array.iter().enumerate() {
            let at = at.element(index, reader.line(element.span().start));
            // Every element is read, so that every bad one is noted.
            let value = T::from_toml(element, &at, reader).map(|value| Written { value, at });
            values = values.zip(value).map(|(mut values, value)| {
                values.push(value);
                values
            });
        }
        values
    }
}
