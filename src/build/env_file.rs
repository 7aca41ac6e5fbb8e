//! Reads `KEY=value` lines: comments, blank lines, `export `, single and double quotes. Called for each
//! build and start; errors name the line and never show its content.

use std::{fs, path::Path};

use crate::build::{BuildError, error::failed};

/// The variables of a file, in its order.
pub(super) fn read(path: &Path) -> Result<Vec<(String, String)>, BuildError> {
    let text = fs::read_to_string(path).map_err(failed("read env_file", path))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .map(|(at, line)| {
            variable(line).ok_or_else(|| BuildError::EnvLine { path: path.to_owned(), line: at + 1 })
        })
        .collect()
}

fn variable(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let valid = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    valid.then_some(())?;
    Some((name.to_owned(), unquoted(value.trim())?))
}

fn unquoted(value: &str) -> Option<String> {
    match value.chars().next() {
        Some('\'') => closed(value, '\'').map(str::to_owned),
        Some('"') => closed(value, '"').map(unescaped),
        _ => Some(value.split(" #").next().unwrap_or_default().trim_end().to_owned()),
    }
}

fn closed(value: &str, quote: char) -> Option<&str> {
    (value.len() > 1).then(|| value.strip_prefix(quote)?.strip_suffix(quote)).flatten()
}

fn unescaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_comments_and_export_are_understood() {
        let value = |line: &str| variable(line).map(|(_, value)| value);
        assert_eq!(value("export A=b c # note").as_deref(), Some("b c"));
        assert_eq!(value("A='b # c'").as_deref(), Some("b # c"));
        assert_eq!(value(r#"A="b\n\"c\"""#).as_deref(), Some("b\n\"c\""));
        assert_eq!(value("A=").as_deref(), Some(""));
        assert_eq!(value("A==x=").as_deref(), Some("=x="));
        for bad in ["A", "=b", "1A=b", "A B=c", "A='b", "A='"] {
            assert_eq!(variable(bad), None, "{bad}");
        }
    }
}
