//! Findings of `bgd doctor` about HAProxy: whether its socket accepts commands, whether it has the app's servers, and
//! what would work better with another haproxy.cfg.

use super::{Haproxy, HaproxyError};
use crate::{
    config::settings::{AppSettings, Listen},
    os::errors::chain,
    rules::{finding::Finding, ids::Color},
};

/// Hint for errors that haproxy itself explains best.
const UNSURE: &str = "`haproxy -c -f /etc/haproxy/haproxy.cfg` shows what haproxy thinks";

pub(super) async fn advice(haproxy: &Haproxy, app: &AppSettings) -> Vec<Finding> {
    let name = &app.name;
    let failed = |error: &HaproxyError| {
        Finding::fail(format!("{name}: {}", chain(error)), error.hint().unwrap_or(UNSURE))
    };
    if let Err(error) = Haproxy::preflight(haproxy).await {
        return vec![failed(&error)];
    }
    let backend = &haproxy.settings.backend;
    let places = match &app.listen {
        Listen::Ports => ports(app),
        Listen::Sockets(sockets) => format!("the sockets in {}", sockets.directory.display()),
    };
    let text = format!("{name}: haproxy can be told, and its backend {backend} has servers for {places}");
    let mut found = vec![Finding::ok(text)];
    match Haproxy::advice(haproxy, &app.canary.sticky).await {
        Ok(advice) => {
            let warned = advice.into_iter().map(|it| Finding::warn(format!("{name}: {}", it.said), it.hint));
            found.extend(warned);
        }
        Err(error) => found.push(failed(&error)),
    }
    found
}

/// The ports of both colors, as text.
fn ports(app: &AppSettings) -> String {
    let last = app.instances - 1;
    let [blue, green] = Color::ALL.map(|color| match app.ports.of(color) {
        first if last == 0 => first.to_string(),
        first => format!("{first} to {}", app.ports.nth(color, last)),
    });
    format!("ports {blue} and {green}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{fixture::settings, settings::Ports};

    #[test]
    fn the_ports_of_all_instances_are_named() {
        let (_, app) = settings(Path::new("/var/lib/bgd"));
        assert_eq!(ports(&app), "ports 9501 and 9502");
        let three = AppSettings { ports: Ports { blue: 9501, green: 9511 }, instances: 3, ..(*app).clone() };
        assert_eq!(ports(&three), "ports 9501 to 9503 and 9511 to 9513");
    }
}
