//! The gate command of an app: it runs before there is a release, with the app's user and own variables, in the
//! directory of the file that names it.

use super::{Command, CommandError, Places, environment::base_environment, shell};
use crate::{
    config::settings::{AppSettings, GateCommand},
    rules::ids::CommitId,
};

/// The command that is asked about `commit`.
///
/// # Errors
/// Those of the environment: an `env_file` that can't be read, an unknown `user`.
pub fn gate_command(
    (app, places): (&AppSettings, &Places),
    gate: &GateCommand,
    (commit, live): (&CommitId, Option<&CommitId>),
) -> Result<Command, CommandError> {
    let mut env = base_environment(app, places)?;
    env.extend(app.env.clone());
    let live = live.map_or("", CommitId::as_str);
    let own = [
        ("BGD_APP", app.name.as_str()),
        ("BGD_COMMIT", commit.as_str()),
        ("BGD_LIVE_COMMIT", live),
        ("BGD_REMOTE", &app.remote),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok(Command {
        argv: shell::argv(&gate.line),
        cwd: gate.dir.clone(),
        env,
        user: app.user.clone(),
        new_privileges: app.new_privileges,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::fixture::{Fixture, commit};

    #[test]
    fn a_gate_sees_the_commit_and_nothing_of_a_release() {
        let mut fixture = Fixture::new();
        fixture.app.env.insert("TOKEN_FILE".to_owned(), "/etc/bgd/{token}".to_owned());
        let second = std::time::Duration::from_secs(1);
        let dir = fixture.root.path().to_owned();
        let gate =
            GateCommand { line: "ask".to_owned(), dir, interval: second, timeout: second, deadline: second };
        let places = fixture.context.places.clone();
        let mut command = gate_command((&fixture.app, &places), &gate, (&commit(), None)).unwrap();
        command.env.remove("TZ");
        let names: Vec<&str> = command.env.keys().map(String::as_str).collect();
        let expected =
            ["BGD_APP", "BGD_COMMIT", "BGD_LIVE_COMMIT", "BGD_REMOTE", "HOME", "LANG", "PATH", "TOKEN_FILE"];
        assert_eq!(names, expected);
        assert_eq!((command.env["TOKEN_FILE"].as_str(), command.cwd), ("/etc/bgd/{token}", gate.dir));
    }
}
