//! The front as `bgd doctor` sees it: an nginx that runs, includes bgd's file, accepts its configuration, may be
//! reloaded, and does not cut long requests. The builtin front needs only its port.

use crate::{
    cli::doctor::finding::Finding,
    config::{
        duration,
        settings::{AppSettings, FrontSettings, NginxSettings},
    },
    errors::chain,
    front::nginx::{Inclusion, Nginx, Permission},
};

/// For what nginx itself can explain best.
const UNSURE: &str = "`nginx -t` shows what nginx thinks";

/// Looks at the app's front; changes nothing.
pub async fn check(app: &AppSettings) -> Vec<Finding> {
    let FrontSettings::Nginx(settings) = &app.front else { return Vec::new() };
    let nginx = Nginx::new(settings.clone(), app.name.clone(), app.ports, None);
    let mut found = vec![preflight(app, &nginx).await, inclusion(app, settings, &nginx).await];
    let permission = permission(app, &nginx);
    // An nginx that does not run is one trouble, not two.
    if !found.contains(&permission) {
        found.push(permission);
    }
    found.extend(shutdown(app, &nginx).await);
    found
}

async fn preflight(app: &AppSettings, nginx: &Nginx) -> Finding {
    match nginx.preflight().await {
        Ok(()) => Finding::ok(format!("{}: nginx runs and accepts its configuration", app.name)),
        Err(error) => {
            Finding::fail(format!("{}: {}", app.name, chain(&error)), error.hint().unwrap_or(UNSURE))
        }
    }
}

async fn inclusion(app: &AppSettings, settings: &NginxSettings, nginx: &Nginx) -> Finding {
    let (name, file) = (&app.name, settings.file.display());
    match nginx.inclusion().await {
        Inclusion::Included => Finding::ok(format!("{name}: nginx includes {file}")),
        Inclusion::NotThereYet => Finding::ok(format!("{name}: {file} is written when the daemon starts")),
        Inclusion::NotIncluded => Finding::fail(
            format!("{name}: nginx does not include {file}"),
            format!("write `include {file};` into the http block"),
        ),
        Inclusion::Unknown(why) => Finding::warn(
            format!("{name}: can't tell whether nginx includes {file}: {why}"),
            "run this as root",
        ),
    }
}

fn permission(app: &AppSettings, nginx: &Nginx) -> Finding {
    let name = &app.name;
    match nginx.may_reload() {
        Ok(Permission::Granted) => Finding::ok(format!("{name}: nginx may be reloaded by this user")),
        Ok(Permission::Delegated { program }) => {
            Finding::ok(format!("{name}: nginx is reloaded through `{program}`, which decides by itself"))
        }
        Ok(Permission::Denied { master }) => Finding::fail(
            format!("{name}: nginx (pid {master}) may not be reloaded by this user"),
            "run bgd as root, or set front.reload to a command that may",
        ),
        Err(error) => Finding::fail(format!("{name}: {}", chain(&error)), error.hint().unwrap_or(UNSURE)),
    }
}

/// A word only when nginx cuts requests before bgd would.
async fn shutdown(app: &AppSettings, nginx: &Nginx) -> Option<Finding> {
    let limit = nginx.shutdown_timeout().await.filter(|limit| *limit < app.drain)?;
    let (limit, drain) = (duration::exact(limit), duration::exact(app.drain));
    Some(Finding::warn(
        format!(
            "{}: nginx cuts requests that take longer than {limit} at each flip, drain is {drain}",
            app.name
        ),
        "raise worker_shutdown_timeout in nginx.conf",
    ))
}
