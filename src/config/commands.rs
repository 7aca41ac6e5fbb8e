//! Splits commands like a shell: the programs that a line runs, with their words. Used to warn of commands that do
//! not suit bgd (`habits/`), to find missing programs (`bgd doctor`), and to name the manager that a start handed the
//! app over to (the engine). For advice only: nothing is run from it.

use std::path::Path;

/// One program that a command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCall {
    /// All words without quotes, including assignments and wrappers such as `exec`.
    pub words: Vec<String>,
    /// Ends with `&`: the shell does not wait for it.
    pub background: bool,
}

/// Programs that run the program in their arguments, such as `exec`.
const WRAPPERS: [&str; 19] = [
    "exec", "env", "nice", "ionice", "nohup", "setsid", "sudo", "doas", "command", "time", "stdbuf", "npx",
    "bunx", "bundle", "poetry", "uv", "pipenv", "chrt", "tini",
];
/// Keywords of the shell that may stand in the place of a program.
const GRAMMAR: [&str; 11] = ["if", "then", "else", "elif", "do", "while", "until", "!", "{", "(", "coproc"];

impl ProgramCall {
    /// A command given as a list, which no shell reads.
    pub fn of_argv(argv: &[String]) -> Self {
        Self { words: argv.to_vec(), background: false }
    }

    /// The program's file name, after assignments and wrappers; empty if there is none.
    pub fn program(&self) -> &str {
        let word = self.words.get(self.at_program()).map_or("", String::as_str);
        Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or(word)
    }

    /// The program as it is written, with its directory.
    pub fn program_as_written(&self) -> Option<&str> {
        self.words.get(self.at_program()).map(String::as_str)
    }

    /// The words after the program.
    pub fn arguments(&self) -> &[String] {
        self.words.get(self.at_program() + 1..).unwrap_or_default()
    }

    /// The wrappers before the program, by file name.
    pub fn wrappers(&self) -> impl Iterator<Item = &str> {
        self.words[..self.at_program().min(self.words.len())].iter().map(|word| file_name(word))
    }

    fn at_program(&self) -> usize {
        let mut wrapped = false;
        let passed = |word: &&String| {
            let name = file_name(word);
            let wraps = WRAPPERS.contains(&name) || GRAMMAR.contains(&name);
            wrapped |= wraps;
            // `nice -n 10`, `bundle exec`, `uv run`
            let of_wrapper = wrapped && (word.starts_with('-') || is_number(word) || *word == "run");
            wraps || is_assignment(word) || of_wrapper
        };
        self.words.iter().take_while(passed).count()
    }
}

fn file_name(word: &str) -> &str {
    Path::new(word).file_name().and_then(|name| name.to_str()).unwrap_or(word)
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|c| c.is_ascii_digit())
}

/// `NAME=value` before a program.
fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && name.chars().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The programs that a shell line runs, in order. Substitutions count as separate lines.
pub fn calls(line: &str) -> Vec<ProgramCall> {
    let mut reading = Reading::default();
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (reading.quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => reading.quote = None,
            (Some('\''), _) => reading.push(c),
            (_, '\\') => rest.next().into_iter().filter(|c| *c != '\n').for_each(|c| reading.push(c)),
            (None, '\'' | '"') => reading.open(c),
            (Some(_), _) => reading.push(c),
            (None, ' ' | '\t' | '\r') => reading.end_word(),
            (None, '#') if reading.word.is_none() => while rest.next_if(|c| *c != '\n').is_some() {},
            // `2>&1` and `&>log` are redirections.
            (None, '&') if reading.redirects() || rest.peek() == Some(&'>') => reading.push(c),
            (None, '&') => reading.end_call(rest.next_if_eq(&'&').is_none()),
            (None, ';' | '|' | '\n' | '(' | ')' | '`') => reading.end_call(false),
            (None, _) => reading.push(c),
        }
    }
    reading.end_call(false);
    reading.calls
}

#[derive(Default)]
struct Reading {
    calls: Vec<ProgramCall>,
    words: Vec<String>,
    word: Option<String>,
    quote: Option<char>,
}

impl Reading {
    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn open(&mut self, quote: char) {
        self.word.get_or_insert_default();
        self.quote = Some(quote);
    }

    fn redirects(&self) -> bool {
        self.word.as_ref().is_some_and(|word| word.ends_with('>'))
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_call(&mut self, background: bool) {
        self.end_word();
        if !self.words.is_empty() {
            self.calls.push(ProgramCall { words: std::mem::take(&mut self.words), background });
        }
    }
}

/// Whether a shell would expand this variable in the text.
pub(super) fn goes_by(text: &str, variable: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split('$').skip(1).any(|rest| match rest.strip_prefix('{') {
        Some(braced) => braced.strip_prefix(variable).is_some_and(|end| !end.starts_with(is_name)),
        None => rest.strip_prefix(variable).is_some_and(|end| !end.starts_with(is_name)),
    })
}

/// The hint for a start that asks a manager to run the app.
pub const FOREGROUND: &str = "let `start` run the app itself, in the foreground, such as \"node server.js\": bgd restarts \
                              it, keeps its log and stops it";

/// Programs that ask another process to run the app, each with the arguments that make it do so; empty: always.
const MANAGERS: [(&str, &[&str]); 27] = [
    (
        "pm2",
        &[
            "start",
            "restart",
            "reload",
            "startOrReload",
            "startOrRestart",
            "startOrGracefulReload",
            "resurrect",
        ],
    ),
    ("forever", &["start", "restart", "startall"]),
    ("supervisorctl", &[]),
    ("circusctl", &[]),
    ("systemctl", &[]),
    ("systemd-run", &[]),
    ("service", &[]),
    ("invoke-rc.d", &[]),
    ("rc-service", &[]),
    ("initctl", &[]),
    ("launchctl", &[]),
    ("s6-svc", &[]),
    ("sv", &[]),
    ("monit", &[]),
    ("docker", &["run", "start", "restart", "compose", "stack", "service", "exec"]),
    ("podman", &["run", "start", "restart", "compose", "play", "kube", "exec"]),
    ("docker-compose", &[]),
    ("podman-compose", &[]),
    ("nerdctl", &[]),
    ("kubectl", &[]),
    ("kamal", &[]),
    ("dokku", &[]),
    ("tmux", &[]),
    ("screen", &[]),
    ("at", &[]),
    ("batch", &[]),
    ("crontab", &[]),
];
/// Options that keep the app a child of the manager that bgd started.
const STAYS: [&str; 4] = ["--no-daemon", "--scope", "-D -m", "-Dm"];

/// The manager that a command asks to run the app; the app then is not a descendant of bgd.
pub fn manager(call: &ProgramCall) -> Option<&'static str> {
    let written = call.program_as_written().unwrap_or_default();
    if written.starts_with("/etc/init.d/") {
        return Some("an init script");
    }
    // `./service` is the app's own.
    if written.contains('/') && !written.starts_with('/') && !written.contains("node_modules/") {
        return None;
    }
    let (program, arguments) = (call.program(), call.arguments());
    let words = arguments.join(" ");
    let (name, verbs) = MANAGERS.iter().find(|(name, _)| *name == program)?;
    let asks = verbs.is_empty() || arguments.iter().any(|word| verbs.contains(&word.as_str()));
    let stays = STAYS.iter().any(|stay| words.contains(stay));
    (asks && !stays).then_some(*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(line: &str) -> Vec<String> {
        calls(line).iter().map(|call| call.program().to_owned()).collect()
    }

    #[test]
    fn the_programs_of_a_line_are_found_behind_what_wraps_them() {
        for (line, expected) in [
            ("node server.js", &["node"][..]),
            ("cd web && exec ./bin/app --port $PORT 2>&1 | tee log", &["cd", "app", "tee"]),
            ("NODE_ENV=production nice -n 10 /usr/bin/node 'a; b' \"c && d\" e\\;f", &["node"]),
            ("npx pm2 start app.js; true &", &["pm2", "true"]),
            ("bundle exec puma # a comment && more", &["puma"]),
            ("if [ -x a ]; then ./a; fi", &["[", "a", "fi"]),
            ("echo $(cat x) `date`", &["echo", "cat", "date"]),
            ("app &>log", &["app"]),
            ("", &[]),
        ] {
            assert_eq!(programs(line), expected, "{line}");
        }
        let flags: Vec<bool> = calls("a & b && c &").iter().map(|call| call.background).collect();
        assert_eq!(flags, [true, false, true]);
    }

    #[test]
    fn a_manager_is_told_from_a_program_of_the_app() {
        for (line, expected) in [
            ("pm2 start ecosystem.config.js", Some("pm2")),
            ("npx pm2 reload all", Some("pm2")),
            ("pm2-runtime server.js", None),
            ("pm2 start server.js --no-daemon", None),
            ("sudo systemctl restart shop", Some("systemctl")),
            ("/etc/init.d/shop start", Some("an init script")),
            ("docker compose up -d", Some("docker")),
            ("docker build .", None),
            ("supervisorctl restart shop:*", Some("supervisorctl")),
            ("node service.js", None),
            ("exec ./service --port $PORT", None),
            ("bin/at", None),
            ("node_modules/.bin/pm2 start app.js", Some("pm2")),
            ("/usr/bin/supervisorctl start shop", Some("supervisorctl")),
        ] {
            assert_eq!(calls(line).iter().find_map(manager), expected, "{line}");
        }
    }
}
