//! Finds the bgd that a command is for: its configuration, and its daemon's socket. `status` and `flip` must work
//! even when the configuration does not load: the socket is found without it, and the record has the configuration
//! that was last in force.

use std::path::{Path, PathBuf};

use crate::{
    api::{
        client::{Call, CallError, Client},
        wire::{Answer, Exit, Request},
    },
    cli::{problem::CliProblem, terminal},
    config::{
        self, Problems,
        settings::{DaemonSettings, Settings},
    },
    os::errors::chain,
    rules::ids::AppName,
    store::Store,
};

/// Name of the control socket below the runtime directory (contract).
const SOCKET: &str = "bgd.sock";
/// Where the daemon of the whole system has its socket.
const SYSTEM_RUNTIME: &str = "/run/bgd";
/// Where the configuration of the whole system lives.
const SYSTEM_CONFIG: &str = "/etc/bgd";

/// One bgd on this host.
#[derive(Debug)]
pub struct Installation {
    settings: Result<Settings, NoSettings>,
    /// The configuration last in force, when the files are refused now.
    last_good: Option<Settings>,
    socket: PathBuf,
}

/// Why there are no settings.
#[derive(Debug, Clone)]
enum NoSettings {
    Missing { message: String, hint: String },
    Bad(Problems),
}

impl From<NoSettings> for CliProblem {
    fn from(why: NoSettings) -> Self {
        match why {
            NoSettings::Missing { message, hint } => Self::usage(message, hint),
            NoSettings::Bad(problems) => Self::Config(problems),
        }
    }
}

impl Installation {
    /// Finds the installation. An error only when there is neither a configuration nor a daemon.
    pub fn find(explicit: Option<&Path>) -> Result<Self, CliProblem> {
        let file = match config::find(explicit) {
            Ok(file) => file,
            Err(error) => {
                let why = NoSettings::Missing { message: error.to_string(), hint: error.hint().to_owned() };
                let asked_for = matches!(error, config::FindError::Missing { .. });
                let socket = usual_sockets().into_iter().find(|socket| socket.exists() && !asked_for);
                return match socket {
                    Some(socket) => Ok(Self { settings: Err(why), last_good: None, socket }),
                    None => Err(why.into()),
                };
            }
        };
        match config::load(&file) {
            Ok(loaded) => {
                let socket = loaded.settings.daemon.runtime_dir.join(SOCKET);
                let socket = of_the_system(&file, socket);
                Ok(Self { settings: Ok(loaded.settings), last_good: None, socket })
            }
            Err(problems) => Self::of_refused(&file, problems),
        }
    }

    fn of_refused(file: &Path, problems: Problems) -> Result<Self, CliProblem> {
        let places = config::directories(file);
        let last_good = places.iter().find_map(|daemon| last_good(file, &daemon.state_dir));
        let in_force = last_good.iter().map(|settings| &settings.daemon).next();
        let of = |daemon: &DaemonSettings| of_the_system(file, daemon.runtime_dir.join(SOCKET));
        // The defaults are last; places before them are written in the file.
        let written = places.split_last().and_then(|(_, written)| written.first()).map(of);
        let existing = || places.iter().map(of).chain(usual_sockets()).find(|socket| socket.exists());
        match in_force.map(of).or_else(existing).or(written) {
            Some(socket) => Ok(Self { settings: Err(NoSettings::Bad(problems)), last_good, socket }),
            None => Err(CliProblem::Config(problems)),
        }
    }

    /// A client of its daemon.
    pub fn client(&self) -> Client {
        Client::new(self.socket.clone())
    }

    /// The settings of the files, for work without the daemon.
    pub fn settings(&self) -> Result<&Settings, CliProblem> {
        self.settings.as_ref().map_err(|why| why.clone().into())
    }

    /// The settings for work without the daemon: those of the files or, where these are refused, the last good ones.
    pub fn usable(&self) -> Result<&Settings, CliProblem> {
        self.settings().or_else(|why| self.last_good.as_ref().ok_or(why))
    }

    /// Whether the last good settings are used instead of the files.
    pub fn is_refused(&self) -> bool {
        self.last_good.is_some()
    }

    /// The settings, when the daemon did not answer; says so when they are not those of the files. Without any, the
    /// missing answer is reported first, and the refused configuration as the reason why nothing better can be done.
    pub fn settings_or(&self, error: &CallError) -> Result<&Settings, CliProblem> {
        if let (Err(NoSettings::Bad(problems)), true) = (&self.settings, self.is_refused()) {
            terminal::chatter(&format!(
                "the configuration is refused ({}); the last good one is used: `bgd check`",
                problems.brief()
            ));
        }
        self.usable().inspect_err(|_| terminal::chatter(&format!("{error}, and the record can't be found:")))
    }

    /// Sends a request that only the daemon can serve. If it can't be reached and the files are refused, says that
    /// too: it may be why no daemon runs.
    pub async fn ask(&self, request: &Request) -> Result<Answer, CliProblem> {
        self.client().ask(request).await.map_err(|error| self.explained(error))
    }

    /// Sends a request that may take long; errors are explained as in [`Installation::ask`].
    pub async fn open(&self, request: &Request) -> Result<Call, CliProblem> {
        self.client().open(request).await.map_err(|error| self.explained(error))
    }

    fn explained(&self, error: CallError) -> CliProblem {
        if let (Err(NoSettings::Bad(problems)), true) = (&self.settings, error.without_daemon()) {
            terminal::chatter(&format!("the configuration is refused ({}): `bgd check`", problems.brief()));
        }
        error.into()
    }

    /// The app of a command: the one named, or the only one.
    pub fn app(&self, named: Option<&AppName>) -> Result<AppName, CliProblem> {
        let apps = &self.usable()?.apps;
        let names = || apps.keys().map(AppName::as_str).collect::<Vec<_>>().join(", ");
        match (named, apps.len()) {
            (Some(name), _) if apps.contains_key(name) => Ok(name.clone()),
            (Some(name), _) => Err(CliProblem::refused(
                Exit::Usage,
                format!("no such app: {name}"),
                format!("one of {}", names()),
            )),
            (None, 1) => Ok(apps.keys().next().cloned().expect("one app")),
            (None, _) => Err(CliProblem::usage("which app?", format!("name one of {}", names()))),
        }
    }
}

/// The system's socket for the system's configuration, even if the defaults are the directories of an ordinary user.
fn of_the_system(file: &Path, socket: PathBuf) -> PathBuf {
    let system = Path::new(SYSTEM_RUNTIME).join(SOCKET);
    if file.starts_with(SYSTEM_CONFIG) && !socket.exists() && system.exists() { system } else { socket }
}

/// The configuration last in force, if the record in `state_dir` belongs to this file.
fn last_good(file: &Path, state_dir: &Path) -> Option<Settings> {
    let kept =
        Store::open_read_only(state_dir).and_then(|store| store.map(|it| it.all_configured()).transpose());
    match kept {
        Ok(kept) => config::recall_all(file, &kept?),
        Err(err) => {
            terminal::chatter(&format!("the last good configuration can't be read: {}", chain(&err)));
            None
        }
    }
}

fn usual_sockets() -> Vec<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("bgd"));
    own.into_iter().chain([PathBuf::from(SYSTEM_RUNTIME)]).map(|dir| dir.join(SOCKET)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bgd.toml");
        std::fs::write(&file, text).unwrap();
        (dir, file)
    }

    const APP: &str = "remote = \"/srv/a.git\"\nstart = \"true\"\n";

    #[test]
    fn the_app_may_be_left_out_when_there_is_one() {
        let (_dir, file) =
            write(&format!("[daemon]\nstate_dir = \"s\"\nruntime_dir = \"r\"\n[app.shop]\n{APP}"));
        let one = Installation::find(Some(&file)).unwrap();
        assert_eq!(one.app(None).unwrap().as_str(), "shop");
        assert_eq!(one.app(Some(&"other".parse().unwrap())).unwrap_err().exit(), Exit::Usage);
        assert!(one.client().socket().ends_with("r/bgd.sock"));
        let two = format!(
            "[app.a]\n{APP}[app.b]\nports = [9601, 9602]\n{APP}[app.b.front]\nlisten = \"127.0.0.1:8081\"\n"
        );
        let (_dir, file) = write(&two);
        let two = Installation::find(Some(&file)).unwrap();
        assert!(two.app(None).unwrap_err().text().contains("hint: name one of a, b"));
    }

    #[test]
    fn a_broken_configuration_still_leads_to_the_daemon() {
        let (dir, file) = write("[daemon]\nruntime_dir = \"r\"\n[app.shop]\nnonsense = 1\n");
        let found = Installation::find(Some(&file)).unwrap();
        assert_eq!(found.client().socket(), dir.path().join("r/bgd.sock"));
        assert_eq!(found.settings().unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_file_that_was_asked_for_and_is_not_there_is_an_error() {
        let error = Installation::find(Some(Path::new("/nonexistent/bgd.toml"))).unwrap_err();
        assert_eq!(error.exit(), Exit::Usage);
        assert!(error.text().contains("/nonexistent/bgd.toml"), "{}", error.text());
    }
}
