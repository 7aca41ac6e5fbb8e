//! The front as `bgd doctor` sees it: an nginx that runs, includes bgd's file, accepts its configuration, may be
//! reloaded, does not cut long requests, and gives sites the lines of that file; a HAProxy that may be told, and has
//! the app's servers. The builtin front needs only its port.

use std::path::Path;

use crate::{
    cli::doctor::finding::Finding,
    config::{
        duration,
        settings::{AppSettings, FrontSettings, HaproxySettings, Listen, NginxSettings, Sticky},
    },
    front::{
        haproxy::{Haproxy, HaproxyError},
        nginx::{Hidden, Inclusion, Nginx, Permission},
    },
    os::errors::chain,
    rules::ids::Color,
};

/// For what nginx itself can explain best.
const UNSURE: &str = "`nginx -t` shows what nginx thinks";

/// Looks at the app's front; changes nothing.
pub async fn check(app: &AppSettings) -> Vec<Finding> {
    match &app.front {
        FrontSettings::Builtin { .. } => Vec::new(),
        FrontSettings::Nginx(settings) => of_nginx(app, settings).await,
        FrontSettings::Haproxy(settings) => of_haproxy(app, settings).await,
    }
}

async fn of_haproxy(app: &AppSettings, settings: &HaproxySettings) -> Vec<Finding> {
    let (name, backend) = (&app.name, &settings.backend);
    let haproxy = Haproxy::new(settings.clone(), app.addresses());
    let failed = |error: &HaproxyError| {
        let hint =
            error.hint().unwrap_or("`haproxy -c -f /etc/haproxy/haproxy.cfg` shows what haproxy thinks");
        Finding::fail(format!("{name}: {}", chain(error)), hint)
    };
    if let Err(error) = haproxy.preflight().await {
        return vec![failed(&error)];
    }
    let places = match &app.listen {
        Listen::Ports => ports(app),
        Listen::Sockets(sockets) => format!("the sockets in {}", sockets.directory.display()),
    };
    let text = format!("{name}: haproxy can be told, and its backend {backend} has servers for {places}");
    let mut found = vec![Finding::ok(text)];
    match haproxy.advice(&app.canary.sticky).await {
        Ok(advice) => {
            let warned = advice.into_iter().map(|it| Finding::warn(format!("{name}: {}", it.said), it.hint));
            found.extend(warned);
        }
        Err(error) => found.push(failed(&error)),
    }
    found
}

/// The ports of both colors, for people.
fn ports(app: &AppSettings) -> String {
    let last = app.instances - 1;
    let [blue, green] = Color::ALL.map(|color| match app.ports.of(color) {
        first if last == 0 => first.to_string(),
        first => format!("{first} to {}", app.ports.nth(color, last)),
    });
    format!("ports {blue} and {green}")
}

async fn of_nginx(app: &AppSettings, settings: &NginxSettings) -> Vec<Finding> {
    let nginx = Nginx::new(settings.clone(), app.name.clone(), app.addresses(), None);
    let mut found = vec![preflight(app, &nginx).await, inclusion(app, settings, &nginx).await];
    let permission = permission(app, &nginx);
    // An nginx that does not run is one trouble, not two.
    if !found.contains(&permission) {
        found.push(permission);
    }
    found.extend(nginx.rivals().await.iter().map(|file| rival(app, settings, file)));
    if nginx.is_used().await == Some(false) {
        found.push(unused(app, settings));
    }
    found.extend(shutdown(app, &nginx).await);
    found.extend(hidden(app, settings, &nginx).await);
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

fn rival(app: &AppSettings, settings: &NginxSettings, file: &Path) -> Finding {
    let (name, upstream, file) = (&app.name, &settings.upstream, file.display());
    Finding::fail(
        format!("{name}: nginx has an upstream {upstream} already, so it refuses bgd's file: {file}"),
        format!("remove that upstream there, or set front.upstream to another name than {upstream}"),
    )
}

fn unused(app: &AppSettings, settings: &NginxSettings) -> Finding {
    let (name, upstream) = (&app.name, &settings.upstream);
    Finding::warn(
        format!("{name}: no site of nginx names upstream {upstream}, so no visitor gets the app"),
        format!(
            "write `proxy_pass http://{upstream};` into its location, then `nginx -t && nginx -s reload`"
        ),
    )
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

/// A word for each site that has to repeat a line of bgd's file, when the app's settings need that line.
async fn hidden(app: &AppSettings, settings: &NginxSettings, nginx: &Nginx) -> Vec<Finding> {
    let Some(hidden) = nginx.hidden().await else { return Vec::new() };
    let mut found = Vec::new();
    if matches!(app.canary.sticky, Sticky::Cookie(_)) {
        found.extend(without_cookie(app, &hidden, &nginx.cookie_line()));
    }
    if app.counts_traffic() {
        found.extend(silent(app, &hidden, &settings.file));
    }
    found
}

fn without_cookie(app: &AppSettings, hidden: &Hidden, line: &str) -> Vec<Finding> {
    let finding = |site: &String| {
        let what = "has an `add_header` of its own, which keeps the canary's cookie from its clients";
        Finding::warn(format!("{}: server {site} {what}", app.name), format!("write `{line}` beside it"))
    };
    hidden.cookie.iter().map(finding).collect()
}

fn silent(app: &AppSettings, hidden: &Hidden, file: &Path) -> Vec<Finding> {
    let name = &app.name;
    if hidden.default_log {
        return vec![Finding::warn(
            format!("{name}: nginx has only its default log, so bgd is not told of the traffic"),
            "name that log in the http block: `access_log /var/log/nginx/access.log;`",
        )];
    }
    let hint = format!("write the `access_log syslog:…` line of {} beside it", file.display());
    let finding = |site: &String| {
        let what = "has an `access_log` of its own, so bgd is not told of its traffic";
        Finding::warn(format!("{name}: server {site} {what}"), &*hint)
    };
    hidden.traffic.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Ports;

    fn app() -> std::sync::Arc<AppSettings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgd.toml");
        let text = "[app.shop]\nremote = \"git@git.example.com:acme/shop.git\"\nstart = \"true\"\n";
        std::fs::write(&path, text).unwrap();
        let mut apps = crate::config::load(&path).unwrap().settings.apps;
        apps.remove(&"shop".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_ports_of_all_instances_are_named() {
        let app = app();
        assert_eq!(ports(&app), "ports 9501 and 9502");
        let three = AppSettings { ports: Ports { blue: 9501, green: 9511 }, instances: 3, ..(*app).clone() };
        assert_eq!(ports(&three), "ports 9501 to 9503 and 9511 to 9513");
    }

    #[test]
    fn a_site_that_hides_a_line_is_named_with_the_line() {
        let app = app();
        let hidden = Hidden {
            cookie: vec!["a.example.com".to_owned()],
            traffic: vec!["b.example.com".to_owned()],
            default_log: false,
        };
        let cookie = without_cookie(&app, &hidden, "add_header Set-Cookie $bgd_shop_cookie always;");
        assert!(cookie[0].what.starts_with("shop: server a.example.com has an `add_header`"), "{cookie:?}");
        assert!(cookie[0].hint.as_ref().unwrap().contains("$bgd_shop_cookie always;` beside it"));
        let told = silent(&app, &hidden, Path::new("/etc/nginx/conf.d/bgd-shop.conf"));
        assert!(told[0].what.starts_with("shop: server b.example.com has an `access_log`"), "{told:?}");
        assert!(told[0].hint.as_ref().unwrap().contains("/etc/nginx/conf.d/bgd-shop.conf"));
        let default = Hidden { default_log: true, ..hidden };
        let lost = silent(&app, &default, Path::new("/x"));
        assert_eq!(lost.len(), 1);
        assert!(lost[0].what.contains("default log"), "{lost:?}");
    }
}
