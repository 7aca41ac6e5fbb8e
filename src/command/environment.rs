//! The environment of everything that runs for an app, exactly as documented: `PATH`, `HOME`, `LANG`, `TZ`,
//! the app's own, `PORT` or `SOCKET`, and `BGD_*`. Used by `command`; nothing else of bgd's own environment leaks in.

use std::{collections::BTreeMap, path::Path};

use crate::{
    command::{CommandError, Places, ReleaseContext, home},
    config::{env_file, settings::AppSettings},
    rules::address::Address,
};

/// The `PATH` of commands if bgd itself was started without one.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// UTF-8 without the conventions of a country; present on every host.
const LANG: &str = "C.UTF-8";

/// The number of an instance within its color, from 1; only instances get this variable.
pub(super) const INSTANCE: &str = "BGD_INSTANCE";

/// The variables for one release at one color. Later ones win: bgd's base, `env_file`, `env` (with its
/// placeholders replaced), and last what bgd itself promises, so that an app can't lose its `PORT`.
///
/// # Errors
/// An `env_file` that can't be read or understood, an unknown `user`, or a variable that no process can
/// be given.
pub fn environment(
    app: &AppSettings,
    context: &ReleaseContext,
) -> Result<BTreeMap<String, String>, CommandError> {
    let mut env = base_environment(app, &context.places)?;
    env.extend(app.env.iter().map(|(name, value)| (name.clone(), context.values.expand(value))));
    env.extend(promised(app, context)?);
    if app.site.is_some() {
        // No process of a static site listens.
        env.remove("PORT");
    }
    match env.iter().find(|(name, value)| !possible(name, value)) {
        Some((name, _)) => Err(CommandError::EnvVariable { name: name.clone() }),
        None => Ok(env),
    }
}

/// What every command of an app has beside its own variables: bgd's base, and `env_file`.
pub(super) fn base_environment(
    app: &AppSettings,
    places: &Places,
) -> Result<BTreeMap<String, String>, CommandError> {
    let mut env = base((app.user.as_deref(), places), |name| std::env::var(name).ok())?;
    if let Some(file) = &app.env_file {
        env.extend(env_file::read(file)?);
    }
    Ok(env)
}

fn base(
    (user, places): (Option<&str>, &Places),
    inherited: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, CommandError> {
    let own = inherited("HOME").unwrap_or_else(|| "/".to_owned());
    let home = text(&home::of(user, places, &own)?)?;
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), inherited("PATH").unwrap_or_else(|| PATH.to_owned())),
        ("HOME".to_owned(), home),
        ("LANG".to_owned(), inherited("LANG").unwrap_or_else(|| LANG.to_owned())),
    ]);
    if let Some(zone) = inherited("TZ") {
        env.insert("TZ".to_owned(), zone);
    }
    Ok(env)
}

fn promised(app: &AppSettings, context: &ReleaseContext) -> Result<[(String, String); 7], CommandError> {
    let values = &context.values;
    Ok([
        match &values.address {
            Address::Port(port) => ("PORT", port.to_string()),
            Address::Socket(path) => ("SOCKET", text(path)?),
        },
        ("BGD_APP", app.name.to_string()),
        ("BGD_COLOR", values.color.to_string()),
        ("BGD_RELEASE", values.release.to_string()),
        ("BGD_COMMIT", values.commit.to_string()),
        ("BGD_RELEASE_DIR", text(&context.release_dir())?),
        ("BGD_SHARED_DIR", text(&context.places.shared())?),
    ]
    .map(|(name, value)| (name.to_owned(), value)))
}

fn text(path: &Path) -> Result<String, CommandError> {
    path.to_str().map(str::to_owned).ok_or_else(|| CommandError::NotUtf8 { path: path.to_owned() })
}

fn possible(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::fixture::Fixture;
    use crate::os::errors::chain;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn d6_the_environment_is_exactly_the_documented_one() {
        let mut fixture = Fixture::new();
        fixture.app.env.insert("APP_ENV".to_owned(), "prod-{color}".to_owned());
        let Fixture { app, context, root, .. } = &fixture;
        let mut env = environment(app, context).unwrap();
        env.remove("TZ");
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "APP_ENV",
                "BGD_APP",
                "BGD_COLOR",
                "BGD_COMMIT",
                "BGD_RELEASE",
                "BGD_RELEASE_DIR",
                "BGD_SHARED_DIR",
                "HOME",
                "LANG",
                "PATH",
                "PORT"
            ]
        );
        assert_eq!(env["APP_ENV"], "prod-green");
        assert_eq!(env["BGD_SHARED_DIR"], root.path().join("shop/shared").to_str().unwrap());
        assert_eq!(env["BGD_RELEASE_DIR"], context.release_dir().to_str().unwrap());
    }

    #[test]
    fn the_files_variables_give_way_to_env_and_both_to_what_bgd_promises() {
        let mut fixture = Fixture::new();
        let file = fixture.root.path().join("shop.env");
        fixture.write(&file, "# secrets\nTOKEN=\"a b\"\nAPP_ENV=file\nPORT=80\nRAW={port}\n");
        fixture.app.env_file = Some(file.clone());
        fixture.app.env =
            [("APP_ENV", "env"), ("PORT", "81")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let env = environment(&fixture.app, &fixture.context).unwrap();
        assert_eq!((env["TOKEN"].as_str(), env["APP_ENV"].as_str()), ("a b", "env"));
        assert_eq!((env["PORT"].as_str(), env["RAW"].as_str()), ("9502", "{port}"));
        fixture.write(&file, "OK=1\nsecret without sign\n");
        let error = chain(&environment(&fixture.app, &fixture.context).unwrap_err());
        let said = "line 2: no `=`; a line is KEY=value";
        assert_eq!(error, format!("environment file {}: {said}", file.display()));
    }

    #[test]
    fn the_base_does_without_an_environment_of_its_own() {
        let fixture = Fixture::new();
        let places = &fixture.context.places;
        let env = base((Some("root"), places), nothing).unwrap();
        assert_eq!((env["PATH"].as_str(), env["LANG"].as_str()), (PATH, LANG));
        assert_eq!((env["HOME"].as_str(), env.len()), ("/root", 3));
        let error = base((Some("no-such-user"), places), nothing).unwrap_err();
        assert_eq!(error.to_string(), "no such user: no-such-user");
    }

    #[test]
    fn a_variable_that_can_not_be_is_named_without_its_value() {
        let mut fixture = Fixture::new();
        fixture.app.env.insert("KEY".to_owned(), "secret\0".to_owned());
        let error = environment(&fixture.app, &fixture.context).unwrap_err().to_string();
        assert_eq!(error, "not a possible environment variable: \"KEY\"");
    }
}
