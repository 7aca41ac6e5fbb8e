//! Findings of `bgd doctor` about nginx: whether it runs, includes bgd's file, accepts its configuration, may be
//! reloaded, does not cut long requests, and applies the lines of that file to its sites.

use std::path::Path;

use super::{Hidden, Inclusion, Nginx, Permission};
use crate::{
    config::{
        duration,
        settings::{AppSettings, Sticky},
    },
    os::errors::chain,
    rules::finding::Finding,
};

/// Hint for errors that nginx itself explains best.
const UNSURE: &str = "`nginx -t` shows what nginx thinks";

pub(super) async fn advice(nginx: &Nginx, app: &AppSettings) -> Vec<Finding> {
    let mut found = vec![preflight(app, nginx).await, inclusion(app, nginx).await];
    let permission = permission(app, nginx);
    // For an nginx that does not run, both findings are equal: reported once.
    if !found.contains(&permission) {
        found.push(permission);
    }
    found.extend(nginx.rivals().await.iter().map(|file| rival(app, &nginx.settings.upstream, file)));
    if nginx.is_used().await == Some(false) {
        found.push(unused(app, &nginx.settings.upstream));
    }
    found.extend(shutdown(app, nginx).await);
    found.extend(hidden(app, nginx).await);
    found
}

async fn preflight(app: &AppSettings, nginx: &Nginx) -> Finding {
    match Nginx::preflight(nginx).await {
        Ok(()) => Finding::ok(format!("{}: nginx runs and accepts its configuration", app.name)),
        Err(error) => {
            Finding::fail(format!("{}: {}", app.name, chain(&error)), error.hint().unwrap_or(UNSURE))
        }
    }
}

async fn inclusion(app: &AppSettings, nginx: &Nginx) -> Finding {
    let (name, file) = (&app.name, nginx.settings.file.display());
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

fn rival(app: &AppSettings, upstream: &str, file: &Path) -> Finding {
    let (name, file) = (&app.name, file.display());
    Finding::fail(
        format!("{name}: nginx has an upstream {upstream} already, so it refuses bgd's file: {file}"),
        format!("remove that upstream there, or set front.upstream to another name than {upstream}"),
    )
}

fn unused(app: &AppSettings, upstream: &str) -> Finding {
    let name = &app.name;
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

/// A warning when nginx's limit for leaving workers is below the app's `drain`.
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

/// A warning for each site that has to repeat a line of bgd's file, when the app's settings need that line.
async fn hidden(app: &AppSettings, nginx: &Nginx) -> Vec<Finding> {
    let Some(hidden) = nginx.hidden().await else { return Vec::new() };
    let mut found = Vec::new();
    if matches!(app.canary.sticky, Sticky::Cookie(_)) {
        found.extend(without_cookie(app, &hidden, &nginx.cookie_line()));
    }
    if app.counts_traffic() {
        found.extend(silent(app, &hidden, &nginx.settings.file));
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
    use crate::config::fixture::settings;

    #[test]
    fn a_site_that_hides_a_line_is_named_with_the_line() {
        let (_, app) = settings(Path::new("/var/lib/bgd"));
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
