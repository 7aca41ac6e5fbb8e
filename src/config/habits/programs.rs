//! Finds programs in an app's commands that do not suit bgd: a manager that is asked to run the app, a development
//! server, one port for both colors, sudo without rights, a `cd` that has no effect on the next step. Called for each
//! app; only warns, since another program may have the same name.

use crate::config::{
    commands::{FOREGROUND, ProgramCall, calls, goes_by, manager},
    judge::Judge,
    read::Written,
    span::Span,
    tables::{app::RawApp, start::RawStart},
};

/// Development servers: the program, and arguments of which one must be present; empty: always.
const DEVELOPMENT: [(&str, &[&str]); 21] = [
    ("npm", &["dev", "start:dev", "watch"]),
    ("pnpm", &["dev", "start:dev", "watch"]),
    ("yarn", &["dev", "start:dev", "watch"]),
    ("bun", &["dev", "--hot", "--watch"]),
    ("vite", &["dev", "serve", "--host", "--port"]),
    ("next", &["dev"]),
    ("nuxt", &["dev"]),
    ("ng", &["serve"]),
    ("webpack", &["serve"]),
    ("webpack-dev-server", &[]),
    ("nodemon", &[]),
    ("ts-node-dev", &[]),
    ("tsx", &["watch"]),
    ("node", &["--watch"]),
    ("flask", &["--debug", "--reload"]),
    ("uvicorn", &["--reload"]),
    ("gunicorn", &["--reload"]),
    ("air", &[]),
    ("cargo", &["watch"]),
    ("dotnet", &["watch"]),
    ("php", &["artisan serve"]),
];
/// Options with a port, or an address with a port, as their value.
const PORT_OPTIONS: [&str; 14] = [
    "-p",
    "-b",
    "-l",
    "-S",
    "--port",
    "--http-port",
    "--bind",
    "--listen",
    "--addr",
    "--address",
    "--http",
    "--http-socket",
    "--server.port",
    "http.server",
];
/// Options that send a server into the background.
const BACKGROUND: [(&str, &[&str]); 6] = [
    ("gunicorn", &["-D", "--daemon"]),
    ("unicorn", &["-D", "--daemonize"]),
    ("uwsgi", &["-d", "--daemonize"]),
    ("puma", &["-d", "--daemon"]),
    ("start-stop-daemon", &["-b", "--background"]),
    ("daemonize", &[]),
];
/// Commands of bash that other shells do not have.
const BASH_ONLY: [&str; 5] = ["source", "[[", "pushd", "popd", "shopt"];
/// Programs that kill processes by name or by port.
const BY_NAME: [&str; 4] = ["killall", "pkill", "skill", "fuser"];
/// Programs that become another user.
const RIGHTS: [&str; 4] = ["sudo", "doas", "su", "pkexec"];

/// Git commands that need a clone.
const OF_A_CLONE: [&str; 9] =
    ["pull", "fetch", "checkout", "switch", "reset", "submodule", "describe", "rev-parse", "log"];

/// A smaller number after `-p` or `-l` is not a port, but a number of processes or a level.
const LEAST_PORT: u16 = 80;

impl Judge<'_> {
    /// Warns of programs in an app's commands that do not suit bgd.
    pub(in crate::config) fn programs(&mut self, raw: &RawApp) {
        if let Some(Written { value, at }) = raw.start.value() {
            let (all, is_shell) = match value {
                RawStart::Shell(line) => (calls(line), true),
                RawStart::Argv(words) => (
                    vec![ProgramCall::of_argv(
                        &words.iter().map(|word| word.value.clone()).collect::<Vec<_>>(),
                    )],
                    false,
                ),
            };
            self.start_runs(&all, at);
            if is_shell {
                self.not_of_sh(&all, at);
            }
            // A rewrite may write the app's port into a file; then a fixed number in a command is not a fault.
            let told = raw.commands().iter().any(|(_, text)| {
                text.contains("{port}") || text.contains("{socket}") || goes_by(text, "SOCKET")
            });
            if raw.rewrite.span().is_none() && !told {
                self.fixed_port(&all, at);
            }
        }
        for (all, is_shell, at) in raw.worker_starts() {
            self.start_runs(&all, at);
            if is_shell {
                self.not_of_sh(&all, at);
            }
        }
        if !raw.new_privileges.value().is_some_and(|written| written.value) {
            self.without_rights(raw);
        }
        self.steps_end_with_their_shell(raw);
        self.of_systemd(raw);
        self.health_command(raw);
        self.stop_command(raw);
        self.no_repository(raw);
    }

    fn start_runs(&mut self, all: &[ProgramCall], at: &Span) {
        if let Some(name) = all.iter().find_map(manager) {
            let what = format!("{name} runs the app somewhere else, where bgd can't watch or stop it");
            self.notes.warn(at, what, FOREGROUND);
        } else if all.iter().any(goes_to_background) {
            let what = "sends the app to the background: bgd keeps hold of it, and can't tell how it ended";
            self.notes.warn(
                at,
                what,
                "let it run in the foreground: leave out `&`, nohup, --daemon and their like",
            );
        }
        if let Some((program, word)) = all.iter().find_map(develops) {
            let named = format!("{program} {word}");
            let what =
                format!("`{}` is for development: it watches files and restarts by itself", named.trim_end());
            self.notes.warn(at, what, "build in `build`, and start what runs in production");
        }
    }

    fn not_of_sh(&mut self, all: &[ProgramCall], at: &Span) {
        let first = all.iter().find_map(|call| BASH_ONLY.into_iter().find(|word| call.program() == *word));
        if let Some(word) = first {
            let what = format!("`{word}` is of bash, and start is run by /bin/sh");
            let hint = match word {
                "source" => "write `.` in its place, or name the program itself, such as venv/bin/gunicorn",
                _ => "write [\"bash\", \"-c\", \"…\"]",
            };
            self.notes.warn(at, what, hint);
        }
    }

    fn fixed_port(&mut self, all: &[ProgramCall], at: &Span) {
        let goes_by_it = |call: &ProgramCall| {
            call.words.iter().any(|word| word.contains("$PORT") || word.contains("${PORT"))
        };
        if let Some(port) = all.iter().filter(|call| !goes_by_it(call)).find_map(port_of) {
            let what = format!("has the port {port}, and blue and green need one each");
            self.notes.warn(at, what, "write $PORT, or {port} in a list, in its place");
        }
    }

    fn without_rights(&mut self, raw: &RawApp) {
        for (at, text) in raw.commands() {
            let found = calls(text).iter().find_map(|call| {
                let asks = |word: &str| RIGHTS.into_iter().find(|name| *name == word);
                call.wrappers().find_map(asks).or_else(|| asks(call.program()))
            });
            if let Some(name) = found {
                let what =
                    format!("{name} gains nothing here: the processes of an app never get more rights");
                let hint = "leave it out and set `user`, or allow it with new_privileges = true";
                self.notes.warn(at, what, hint);
            }
        }
    }

    /// Warns of a step with an effect on its own shell only, which ends with the step.
    fn steps_end_with_their_shell(&mut self, raw: &RawApp) {
        let steps = raw.build.value().map_or(&[][..], |build| &build.value.0);
        let Some((_last, before)) = steps.split_last() else { return };
        for step in before {
            let all = calls(&step.value);
            let [only] = &all[..] else { continue };
            let changes_the_shell = ["cd", "export", "source", ".", "set", "nvm", "umask", "ulimit"];
            if only.words.first().is_some_and(|word| changes_the_shell.contains(&word.as_str())) {
                let what = format!("`{}` ends with this step: each has a shell of its own", only.program());
                self.notes.warn(&step.at, what, "join it to the next one: \"cd web && npm ci\"");
            }
        }
    }

    /// Warns of the syntax of systemd's `ExecStart` and `ExecStop`.
    fn of_systemd(&mut self, raw: &RawApp) {
        for (at, text) in raw.commands() {
            let prefix = text.chars().next().filter(|c| "-@+!:".contains(*c));
            if let Some(prefix) = prefix.filter(|_| text[1..].starts_with('/')) {
                let what = format!("begins with `{prefix}`, which is of systemd's units");
                self.notes.warn(at, what, "leave it out");
            }
            if text.contains("$MAINPID") {
                let hint = "leave the command out: bgd sends stop.signal to the app itself";
                self.notes.warn(at, "has $MAINPID, which is of systemd's units", hint);
            }
        }
    }

    fn health_command(&mut self, raw: &RawApp) {
        let Some(written) = raw.health.value().and_then(|health| health.value.command.value()) else {
            return;
        };
        let text = &written.value;
        if let Some(port) =
            ["localhost:", "127.0.0.1:"].iter().find_map(|host| port_at(text.split_once(host)?.1))
        {
            let what = format!("asks port {port} whichever color is meant");
            self.notes.warn(&written.at, what, "write $PORT in its place");
        }
        let curl = calls(text).into_iter().find(|call| call.program() == "curl");
        let fails = |word: &String| {
            word.starts_with("--fail")
                || word.starts_with('-') && !word.starts_with("--") && word.contains('f')
        };
        if curl.is_some_and(|call| !call.arguments().iter().any(fails) && call.arguments().len() < 6) {
            let what = "curl succeeds whatever the status: an answer with 500 is healthy";
            self.notes.warn(&written.at, what, "add --fail, or ask by path = \"/…\" instead");
        }
    }
}

impl Judge<'_> {
    /// Warns of a stop command that would also end the other color, which runs meanwhile.
    fn stop_command(&mut self, raw: &RawApp) {
        let Some(written) = raw.stop.value().and_then(|stop| stop.value.command.value()) else { return };
        let all = calls(&written.value);
        let hint = "leave the command out: bgd sends stop.signal to the app itself";
        let by_name = all.iter().find_map(|call| BY_NAME.into_iter().find(|name| call.program() == *name));
        if let Some(name) = by_name {
            let what = format!("{name} finds the other color too, which serves then");
            self.notes.warn(&written.at, what, hint);
        } else if let Some(name) = all.iter().find_map(manager) {
            self.notes.warn(&written.at, format!("{name} does not know the app that bgd runs"), hint);
        }
    }

    /// Warns of git commands that need a clone: a release has no `.git`.
    fn no_repository(&mut self, raw: &RawApp) {
        for step in raw.build.value().map_or(&[][..], |build| &build.value.0) {
            let asks = |call: &ProgramCall| {
                call.program() == "git"
                    && call.arguments().first().is_some_and(|verb| OF_A_CLONE.contains(&&**verb))
            };
            if calls(&step.value).iter().any(asks) {
                let what =
                    "runs git, and a release is not a clone: bgd has fetched the commit and its submodules";
                self.notes.warn(&step.at, what, "leave it out; {commit} and $BGD_COMMIT name the commit");
            }
        }
    }
}

fn goes_to_background(call: &ProgramCall) -> bool {
    let by_option = |(program, options): &(&str, &[&str])| {
        let given =
            call.arguments().iter().any(|word| options.contains(&word.split('=').next().unwrap_or_default()));
        call.program() == *program && (options.is_empty() || given)
    };
    call.background || call.wrappers().any(|word| word == "nohup") || BACKGROUND.iter().any(by_option)
}

/// A development server, and the argument that makes it one; the argument is empty if it always is.
fn develops(call: &ProgramCall) -> Option<(String, String)> {
    let (program, arguments) = (call.program(), call.arguments());
    let joined = arguments.join(" ");
    if let Some(script) = call.words.iter().position(|word| word.ends_with("manage.py")) {
        let serves = call.words.get(script + 1).is_some_and(|word| word == "runserver");
        return serves.then(|| ("manage.py".to_owned(), "runserver".to_owned()));
    }
    let (_, words) = DEVELOPMENT.iter().find(|(name, _)| *name == program)?;
    if words.is_empty() || program == "vite" && arguments.is_empty() {
        return Some((program.to_owned(), String::new()));
    }
    let told = |word: &&&str| match word.contains(' ') {
        true => joined.starts_with(**word),
        false => arguments.iter().any(|argument| argument == **word),
    };
    let word = words.iter().find(told)?;
    Some((program.to_owned(), (*word).to_owned()))
}

/// A literal port: the value of an option, or of `PORT`.
fn port_of(call: &ProgramCall) -> Option<u16> {
    let after = |word: &String, next: Option<&String>| {
        if let Some(value) = word.strip_prefix("PORT=") {
            return port_at_end(value);
        }
        match word.split_once('=') {
            Some((option, value)) if PORT_OPTIONS.contains(&option) => port_at_end(value),
            _ if PORT_OPTIONS.contains(&word.as_str()) || word == "runserver" => port_at_end(next?),
            _ => None,
        }
    };
    call.words.iter().enumerate().find_map(|(index, word)| after(word, call.words.get(index + 1)))
}

/// The port in `8000` or `0.0.0.0:8000`.
fn port_at_end(text: &str) -> Option<u16> {
    let number = text.rsplit(':').next().unwrap_or_default();
    number.parse().ok().filter(|port| *port >= LEAST_PORT)
}

fn port_at(text: &str) -> Option<u16> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().ok()
}
