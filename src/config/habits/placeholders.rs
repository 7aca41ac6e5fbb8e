//! Finds words that a shell or another tool would replace but bgd does not: `$PORT` in a list, `{PORT}`, `%(port)s`,
//! `$PATH` in a value of `env`. Called by `app` and `front`; only warns, because a program may replace them itself.

use crate::config::{
    commands::{ProgramCall, goes_by},
    judge::Judge,
    read::Written,
    tables::{app::RawApp, start::RawStart},
};

/// The placeholders that bgd replaces.
const OURS: [&str; 6] = ["port", "socket", "instance", "color", "release", "commit"];
/// Programs that expand variables in their arguments.
const INTERPRETERS: [&str; 17] = [
    "sh", "bash", "dash", "ash", "ksh", "zsh", "fish", "busybox", "perl", "ruby", "php", "node", "awk",
    "java", "uwsgi", "python", "python3",
];
/// Words with a meaning only in a shell.
const OPERATORS: [&str; 10] = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1", "&>"];
/// Variables that users expect to be expanded in a value.
const LOOKED_UP: [&str; 8] = ["PATH", "HOME", "USER", "PWD", "PORT", "SOCKET", "HOSTNAME", "LD_LIBRARY_PATH"];

impl Judge<'_> {
    /// Warns of words that nothing replaces in the commands and values of an app.
    pub(in crate::config) fn placeholders(&mut self, raw: &RawApp) {
        for (at, text) in raw.commands().into_iter().chain(raw.values()) {
            if let Some((written, name)) = foreign(text) {
                let what = format!("has {written}, which nobody replaces");
                self.notes.warn(at, what, format!("write {{{name}}} in its place"));
            }
        }
        if let Some(RawStart::Argv(words)) = raw.start.value().map(|start| &start.value) {
            self.no_shell_reads(words, "start");
        }
        for (name, value) in raw.env.value().into_iter().flat_map(|env| &env.value.0) {
            self.not_looked_up(name, value);
        }
    }

    /// Warns of shell syntax in a list. `key` is the key of the list, for hints.
    pub(in crate::config) fn no_shell_reads(&mut self, words: &[Written<String>], key: &str) {
        let Some(first) = words.first() else { return };
        let as_text = match key {
            "start" => "write start as one text, which /bin/sh reads".to_owned(),
            _ => format!("write {key} = [\"sh\", \"-c\", \"…\"]"),
        };
        if words.len() == 1 && first.value.trim().contains(' ') {
            let what = format!("is one program of the name {:?}, blanks included", first.value);
            let hint = format!("write the program and each argument by itself, or {as_text}");
            self.notes.warn(&first.at, what, hint);
            return;
        }
        let program = ProgramCall::of_argv(&words.iter().map(|word| word.value.clone()).collect::<Vec<_>>());
        if INTERPRETERS.contains(&program.program()) && reads_code(words) {
            return;
        }
        for word in words {
            if let Some(variable) = variable(&word.value) {
                let what = format!("has {variable}, and no shell reads a list: it stays as it is");
                let hint = match bare(variable) {
                    name @ ("PORT" | "SOCKET") => {
                        format!("write {{{}}} in its place, or {as_text}", name.to_lowercase())
                    }
                    _ => as_text.clone(),
                };
                self.notes.warn(&word.at, what, hint);
            } else if OPERATORS.contains(&word.value.as_str()) {
                let what = format!("is {:?}, and no shell reads a list", word.value);
                self.notes.warn(&word.at, what, &*as_text);
            } else if word.value.starts_with("~/") {
                let what = "begins with `~`, and no shell reads a list";
                self.notes.warn(&word.at, what, "write the path in full");
            }
        }
    }

    /// Warns of a value that refers to a variable. Does not show the value, which may be a secret.
    fn not_looked_up(&mut self, name: &str, value: &Written<String>) {
        let Some(variable) = looked_up(&value.value) else { return };
        let what = format!("has ${variable}, and values are given as they are");
        let hint = match variable {
            "PORT" | "SOCKET" => format!("write {{{}}} in its place", variable.to_lowercase()),
            _ if variable == name => {
                format!("write it in full, such as {name} = \"/opt/app/bin:/usr/local/bin:/usr/bin:/bin\"")
            }
            _ => "write it in full, or set it in `start` as one text, which /bin/sh reads".to_owned(),
        };
        self.notes.warn(&value.at, what, hint);
    }
}

/// The first of the usual variables that the value refers to.
pub(in crate::config) fn looked_up(value: &str) -> Option<&'static str> {
    LOOKED_UP.into_iter().find(|name| goes_by(value, name))
}

/// Whether the command passes code to an interpreter, as with a shell's `-c`.
fn reads_code(words: &[Written<String>]) -> bool {
    let is_flag = |word: &str| {
        word.starts_with('-') && word.ends_with(['c', 'e', 'r']) && !word.starts_with("--") && word.len() <= 4
    };
    let own = words.first().map(|word| word.value.rsplit('/').next().unwrap_or_default());
    own.is_some_and(|own| ["java", "uwsgi", "awk"].contains(&own)) || words.iter().any(|w| is_flag(&w.value))
}

/// The first `$NAME` or `${NAME}` in capitals, as written.
fn variable(text: &str) -> Option<&str> {
    let at = text.find('$')?;
    let rest = &text[at + 1..];
    let inner = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let (open, name) = rest.strip_prefix('{').map_or((0, rest), |braced| (1, braced));
    let length = name.find(|c| !inner(c)).unwrap_or(name.len());
    let closed = open == 0 || name[length..].starts_with('}');
    let begins = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
    (begins && length > 0 && closed).then(|| &text[at..at + 1 + open + length + open])
}

fn bare(variable: &str) -> &str {
    variable.trim_matches(['$', '{', '}'])
}

/// The first placeholder in another tool's form: as written, and its name in bgd.
fn foreign(text: &str) -> Option<(&str, &'static str)> {
    let lower = text.to_ascii_lowercase();
    OURS.into_iter().find_map(|name| {
        let forms = [
            format!("{{{{{name}}}}}"),
            format!("{{{{ {name} }}}}"),
            format!("%({name})s"),
            format!("%(env_{name})s"),
            format!("%{name}%"),
            format!("<%= {name} %>"),
            format!("<{name}>"),
            format!("${{{name}}}"),
            format!("$({name})"),
            format!("{{{name}}}"),
        ];
        let found = forms.iter().find_map(|form| {
            let at = lower.find(form.as_str())?;
            let written = &text[at..at + form.len()];
            let before = text[..at].chars().next_back();
            let is_ours = written == format!("{{{name}}}") && before != Some('$');
            // `${PORT}` and `$(PORT)` are the shell's own, the second as a command.
            let is_variable = written == format!("${{{}}}", name.to_uppercase())
                || written.starts_with('{') && before == Some('$');
            (!is_ours && !is_variable).then_some(written)
        });
        found.map(|written| (written, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_of_other_tools_are_known_by_their_forms() {
        for (text, expected) in [
            ("app --port {port}", None),
            ("app --port $PORT ${PORT}", None),
            ("app {\"a\": 1} ${HOME}", None),
            ("app --port {PORT}", Some(("{PORT}", "port"))),
            ("app --port ${port}", Some(("${port}", "port"))),
            ("app --port {{ port }}", Some(("{{ port }}", "port"))),
            ("app --port %(ENV_PORT)s", Some(("%(ENV_PORT)s", "port"))),
            ("app --port %PORT%", Some(("%PORT%", "port"))),
            ("app --port $(PORT)", Some(("$(PORT)", "port"))),
            ("app --id <release>", Some(("<release>", "release"))),
            ("ä {Color}", Some(("{Color}", "color"))),
        ] {
            assert_eq!(foreign(text), expected, "{text}");
        }
    }

    #[test]
    fn variables_are_found_as_they_are_written() {
        for (text, expected) in [
            ("$PORT", Some("$PORT")),
            ("127.0.0.1:${PORT}", Some("${PORT}")),
            ("--a=$APP_ENV,x", Some("$APP_ENV")),
            ("$1", None),
            ("cost$", None),
            ("${PORT", None),
            ("$port", None),
        ] {
            assert_eq!(variable(text), expected, "{text}");
        }
        assert_eq!(looked_up("/opt/bin:$PATH"), Some("PATH"));
        assert_eq!(looked_up("pa$$word$"), None);
    }
}
