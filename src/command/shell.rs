//! A line for `/bin/sh -c`, which not every shell leaves to the program that it runs: dash stays as its parent. Then
//! the shell's pid would be the app's in status, and the shell, not the app, would get the signal to stop. So a line
//! that is one program with its arguments is run by `exec`; any other line, and any doubtful one, stays as it is
//! written. Called by `command`; runs nothing.

/// Keywords and builtins of shells. After `exec` the shell would look for a program of that name, which differs or does
/// not exist.
const OWN_WORDS: [&str; 63] = [
    "alias", "bg", "bind", "break", "builtin", "case", "cd", "chdir", "command", "continue", "coproc",
    "declare", "do", "done", "echo", "elif", "else", "enable", "esac", "eval", "exec", "exit", "export",
    "false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "in", "jobs", "kill", "let",
    "local", "printf", "pwd", "read", "readonly", "return", "select", "set", "shift", "shopt", "source",
    "test", "then", "time", "times", "trap", "true", "type", "typeset", "ulimit", "umask", "unalias",
    "unset", "until", "wait", "while", ".",
];

/// The argv that runs a line.
pub(super) fn argv(line: &str) -> Vec<String> {
    let line = if is_one_program(line) { format!("exec {}", line.trim()) } else { line.to_owned() };
    vec!["/bin/sh".to_owned(), "-c".to_owned(), line]
}

/// The quotes that a character stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    None,
    Single,
    Double,
}

/// Whether the line is one program, with nothing for the shell to do but quotes, variables and redirections. `false`
/// is always a safe answer.
fn is_one_program(line: &str) -> bool {
    let line = line.trim();
    begins_with_a_program(line) && has_no_operator(line)
}

fn begins_with_a_program(line: &str) -> bool {
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./+-".contains(c);
    !word.is_empty() && word.chars().all(is_plain) && !word.starts_with('-') && !OWN_WORDS.contains(&word)
}

fn has_no_operator(line: &str) -> bool {
    let mut quotes = Quotes::None;
    let mut before = ' ';
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        quotes = match (quotes, c) {
            (Quotes::Single, '\'') | (Quotes::Double, '"') => Quotes::None,
            (Quotes::Single, _) => Quotes::Single,
            // The escaped character is a part of a word, even a quote.
            (_, '\\') if rest.next().is_some() => quotes,
            // A substitution may contain quotes and commands.
            (_, '$') if !names_a_variable(rest.as_str()) => return false,
            (_, '\\' | '`') => return false,
            (Quotes::None, '\'') => Quotes::Single,
            (Quotes::None, '"') => Quotes::Double,
            // `2>&1`; the reverse, `&>`, is bash's alone, and other shells end the command there.
            (Quotes::None, '&') if before == '>' => quotes,
            (Quotes::None, '&' | ';' | '|' | '(' | ')' | '\n' | '\r') => return false,
            (Quotes::None | Quotes::Double, _) => quotes,
        };
        before = c;
    }
    quotes == Quotes::None
}

/// Whether a variable's name follows the dollar, bare or in braces, and not a substitution.
fn names_a_variable(after: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    match after.strip_prefix('{') {
        Some(braced) => braced.split_once('}').is_some_and(|(name, _)| is_name(name)),
        None => after.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_program_with_its_arguments_takes_the_place_of_the_shell() {
        for line in [
            "node server.js",
            "./app --port=$PORT",
            ".venv/bin/gunicorn --bind 127.0.0.1:${PORT} --workers 2 app:application",
            "python3 -m http.server \"$PORT\" --bind 127.0.0.1 2>&1",
            " php easyswoole server start -d\n",
            "java '-Dname=a; b' -jar app.jar >>log 2>&1",
            "sh -c 'cd x && node server.js'",
            "app a\\;b \"c & d\" # and so on",
        ] {
            assert_eq!(argv(line), ["/bin/sh", "-c", &format!("exec {}", line.trim())]);
        }
    }

    #[test]
    fn whatever_else_a_line_asks_of_the_shell_it_stays_as_it_is_written() {
        for line in [
            "",
            "cd app && node server.js",
            "NODE_ENV=production node server.js",
            "node server.js | tee log",
            "node server.js &",
            "node server.js; sleep 1",
            "node server.js\nsleep 1",
            "node server.js &>log",
            "node server.js >&1& sleep 1",
            "node server.js || exit 1",
            "exec node server.js",
            "if true; then node server.js; fi",
            "! node",
            "{ node; }",
            "(node)",
            "$NODE server.js",
            "\"no de\" server.js",
            "~/app",
            "node $(cat args)",
            "node \"$(cat args)\"",
            "node `cat args`",
            "node ${ARGS:-\"a; b\"}",
            "node $'a\\'; b'",
            "node \"a",
            "node 'a",
            "node a\\",
            "exit 3",
            "-app",
        ] {
            assert_eq!(argv(line), ["/bin/sh", "-c", line]);
        }
    }

    fn sh(line: &str, dir: &std::path::Path) -> Output {
        let argv = ["-c", line];
        Command::new("/bin/sh").args(argv).current_dir(dir).env("NAME", "a b;c").output().unwrap()
    }

    proptest! {
        /// A line that counts as one program behaves the same with and without `exec` before it.
        #[test]
        fn with_exec_a_line_does_what_it_does_without(
            words in proptest::collection::vec(
                prop_oneof![
                    "[a-z =#*~!{}<>]", Just("\"".into()), Just("'".into()), Just("\\".into()), Just("$NAME".into()),
                    Just("${NAME}".into()), Just("$".into()), Just(";".into()), Just("&".into()), Just("|".into()),
                    Just("(".into()), Just(")".into()), Just("`".into()), Just("\n".into()), Just(">&1".into()),
                    Just("echo second".into()),
                ],
                0..12,
            ),
        ) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("show"), "printf '[%s]' \"$@\"; exit 3").unwrap();
            let line = format!("sh show {}", words.concat());
            if !is_one_program(&line) {
                return Ok(());
            }
            let (with, without) = (sh(&argv(&line)[2], dir.path()), sh(&line, dir.path()));
            prop_assert_eq!(with.status.code(), without.status.code());
            prop_assert_eq!(with.stdout, without.stdout);
        }
    }
}
