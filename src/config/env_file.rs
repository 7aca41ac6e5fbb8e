//! Files of `KEY=value` lines (`env_file`). Read again for each build and each start of an app.
//! An error never contains a value, or a line that may be one.
//!
//! A line is empty, a comment (`# …`), or `KEY=value`, with `export ` allowed before it. A value stands bare (to
//! the end of the line, blanks around it dropped), in single quotes (as it is) or in double quotes (`\n \t \r \" \\
//! \$` mean what they do elsewhere). Quoted values may span lines. Nothing is expanded: `$` is a dollar.

use std::{
    collections::BTreeMap,
    io,
    iter::Peekable,
    path::{Path, PathBuf},
    str::Chars,
};

use super::guarded;

/// Why a file of variables can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EnvFileError {
    /// It can't be read.
    #[error("can't read the environment file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// A line of it is wrong.
    #[error("environment file {}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        #[source]
        /// The line and its fault.
        source: BadEnvLine,
    },
}

/// A faulty line; never contains its text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadEnvLine {
    /// Counted from 1.
    pub line: usize,
    /// The fault.
    pub what: &'static str,
}

/// Bytes: the kernel does not accept a larger environment at an exec.
const LARGEST: u64 = 4 << 20;

/// Reads the file at `path`.
///
/// # Errors
/// The error names the file and the line.
pub fn read(path: &Path) -> Result<BTreeMap<String, String>, EnvFileError> {
    let failed = |source| EnvFileError::Read { path: path.to_owned(), source };
    let bytes = guarded::read(path, LARGEST).map_err(failed)?;
    // The conversion's error is dropped on purpose: its `Debug` output contains the text.
    let text = String::from_utf8(bytes)
        .map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8")))?;
    parse(&text).map_err(|source| EnvFileError::Line { path: path.to_owned(), source })
}

/// Reads `KEY=value` lines; if a key occurs twice, the last one counts.
///
/// # Errors
/// The first line that is wrong.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, BadEnvLine> {
    let text = text.trim_start_matches('\u{feff}');
    let mut cursor = Cursor { rest: text.chars().peekable(), line: 1 };
    let mut all = BTreeMap::new();
    while let Some((key, value)) = cursor.entry()? {
        all.insert(key, value);
    }
    Ok(all)
}

struct Cursor<'t> {
    rest: Peekable<Chars<'t>>,
    line: usize,
}

impl Cursor<'_> {
    /// The next variable; `None` at the end.
    fn entry(&mut self) -> Result<Option<(String, String)>, BadEnvLine> {
        loop {
            self.blanks();
            match self.rest.peek() {
                None => return Ok(None),
                Some('\n' | '\r') => self.next_line(),
                Some('#') => {
                    self.while_not(|c| c == '\n');
                }
                Some(_) => break,
            }
        }
        let key = self.key()?;
        let value = match self.rest.peek() {
            Some(quote @ ('\'' | '"')) => {
                let quote = *quote;
                self.quoted(quote)?
            }
            _ => self.bare()?,
        };
        if value.contains('\0') {
            return Err(self.bad("the value holds a NUL byte"));
        }
        Ok(Some((key, value)))
    }

    fn key(&mut self) -> Result<String, BadEnvLine> {
        let left = self.while_not(|c| c == '=' || c == '\n');
        if self.rest.next_if_eq(&'=').is_none() {
            return Err(self.bad("no `=`; a line is KEY=value"));
        }
        let mut key = left.trim_end();
        if let Some(after) = key.strip_prefix("export").filter(|after| after.starts_with([' ', '\t'])) {
            key = after.trim_start();
        }
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if key.is_empty() || !key.chars().all(inner) || key.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(self.bad("what stands before `=` is not a variable name (letters, digits and `_`)"));
        }
        self.blanks();
        Ok(key.to_owned())
    }

    fn bare(&mut self) -> Result<String, BadEnvLine> {
        let value = self.while_not(|c| c == '\n');
        let value = value.trim();
        // Some tools read a comment here and others a part of the value, so refuse it instead of guessing.
        if value.contains(" #") || value.contains("\t#") {
            return Err(self
                .bad("` #` in a value without quotes; quote the value, or put the comment on its own line"));
        }
        Ok(value.to_owned())
    }

    fn quoted(&mut self, quote: char) -> Result<String, BadEnvLine> {
        let began = self.line;
        let open = BadEnvLine { line: began, what: "the quote is never closed" };
        self.rest.next();
        let mut value = String::new();
        loop {
            match self.rest.next().ok_or(open.clone())? {
                c if c == quote => break,
                '\\' if quote == '"' => match self.rest.next().ok_or(open.clone())? {
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    'r' => value.push('\r'),
                    c @ ('"' | '\\' | '$' | '`') => value.push(c),
                    _ => return Err(self.bad("an unknown escape; known are \\n \\t \\r \\\" \\\\ \\$ \\`")),
                },
                c => {
                    self.line += usize::from(c == '\n');
                    value.push(c);
                }
            }
        }
        let after = self.while_not(|c| c == '\n');
        if !after.trim().is_empty() && !after.trim_start().starts_with('#') {
            return Err(self.bad("something stands after the closing quote"));
        }
        Ok(value)
    }

    fn while_not(&mut self, end: impl Fn(char) -> bool) -> String {
        let mut out = String::new();
        while let Some(c) = self.rest.next_if(|c| !end(*c)) {
            out.push(c);
        }
        out
    }

    fn blanks(&mut self) {
        while self.rest.next_if(|c| *c == ' ' || *c == '\t').is_some() {}
    }

    fn next_line(&mut self) {
        self.line += usize::from(self.rest.next() == Some('\n'));
    }

    fn bad(&self, what: &'static str) -> BadEnvLine {
        BadEnvLine { line: self.line, what }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> String {
        parse(text).unwrap().remove("K").unwrap()
    }

    #[test]
    fn the_usual_lines_are_read() {
        let text = "\u{feff}# comment\r\n\r\nA=1\r\n  export B = two words \n C='sin $gle # \\n'\nD=\"a\\n\\\"b\\\"\\$\" # c\nE=\n\
                    F=a#b\nG=k=v\nexport=1\nH='x\ny'\nI=last";
        let all = parse(text).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "sin $gle # \\n"),
            ("D", "a\n\"b\"$"),
            ("E", ""),
            ("F", "a#b"),
            ("G", "k=v"),
            ("H", "x\ny"),
            ("I", "last"),
            ("export", "1"),
        ];
        assert_eq!(all, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(one("K=1\nK=2"), "2");
    }

    #[test]
    fn l1_a_wrong_line_is_named_by_number_and_its_text_is_not_repeated() {
        for (text, line) in [
            ("A=1\nhunter2", 2),
            ("A=1\n\n1hunter2=x", 3),
            ("hun ter2=x", 1),
            ("=hunter2", 1),
            ("A='x\ny'\nB=\"hunter2\n\n", 3),
            ("A='x\ny'\nB=hunter2 # c", 3),
            ("A=\"hunter2\"x", 1),
            ("A=\"\\hunter2\"", 1),
            ("A=hunter2\0", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(!format!("{error} {error:?}").contains("unter2"), "{error}");
        }
    }

    #[test]
    fn an_absent_file_is_named() {
        let error = read(Path::new("/nowhere/x.env")).unwrap_err();
        assert_eq!(error.to_string(), "can't read the environment file /nowhere/x.env");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|[\n\r='\"\\\\# ]){0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_single_quoted_value_comes_back_as_it_is(value in "[^'\0]{0,40}") {
            prop_assert_eq!(one(&format!("K='{value}'")), value);
        }
    }
}
