//! Every default of the configuration, and nothing else. `init.toml` shows the same values to people; a test
//! keeps the two equal.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use super::settings::{CheckoutLimit, FrontSettings, Ports, Protocol, Sticky, VerifyRange};
use crate::rules::{ids::AppName, traffic::TrafficLimits};

pub(super) const BRANCH: &str = "main";
pub(super) const POLL: Duration = Duration::from_secs(10);
pub(super) const PORTS: Ports = Ports { blue: 9501, green: 9502 };
pub(super) const INSTANCES: u16 = 1;
pub(super) const PROTOCOL: Protocol = Protocol::Http;
pub(super) const STOP_GRACE: Duration = Duration::from_secs(30);
pub(super) const DRAIN: Duration = Duration::from_secs(30);
pub(super) const STANDBY: Duration = Duration::ZERO;
pub(super) const KEEP: NonZeroUsize = NonZeroUsize::new(5).unwrap();
pub(super) const BUILD_TIMEOUT: Duration = Duration::from_secs(15 * 60);
pub(super) const CHECKOUT_LIMIT: CheckoutLimit = CheckoutLimit { files: 1_000_000, bytes: 20 << 30 };
pub(super) const FAST_FORWARD_ONLY: bool = false;
pub(super) const VERIFY_RANGE: VerifyRange = VerifyRange::Tip;
pub(super) const NEW_PRIVILEGES: bool = false;

pub(super) const HEALTH_STATUS: [u16; 1] = [200];
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
pub(super) const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const HEALTH_DEADLINE: Duration = Duration::from_secs(60);
pub(super) const HEALTH_SUCCESSES: NonZeroU32 = NonZeroU32::new(2).unwrap();

pub(super) const WATCH_FOR: Duration = Duration::from_secs(30);
pub(super) const WATCH_RESTART: bool = true;
pub(super) const WATCH_BACKUP: bool = false;
pub(super) const MIN_REQUESTS: NonZeroU32 = TrafficLimits::IGNORED.min_requests;

pub(super) const WARMUP_REQUESTS: NonZeroU32 = NonZeroU32::new(100).unwrap();

pub(super) const STICKY: Sticky = Sticky::None;
pub(super) const PREVIEW_HEADER: &str = "X-Bgd-Preview";
pub(super) const PREVIEW_COOKIE: &str = "bgd_preview";

/// The cookie that keeps a client of an app on its side; nginx knows no `-` in the name of one.
pub(super) fn sticky_cookie(app: &AppName) -> String {
    format!("bgd_{}", app.as_str().replace('-', "_"))
}

pub(super) const HOOK_TIMEOUT: Duration = Duration::from_secs(5 * 60);

pub(super) const FRONT: &str = "builtin";
/// Of a client, between two pieces of a request's body, and of an app, until the head of its answer; as nginx has them.
pub(super) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
pub(super) const NGINX_TEST: [&str; 2] = ["nginx", "-t"];
pub(super) const NGINX_RELOAD: [&str; 3] = ["nginx", "-s", "reload"];
pub(super) const NGINX_PID_FILE: &str = "/run/nginx.pid";

/// The front of an app whose file names none.
pub(super) fn builtin_front() -> FrontSettings {
    FrontSettings::Builtin {
        listen: LISTEN,
        request_timeout: EXCHANGE_TIMEOUT,
        response_timeout: EXCHANGE_TIMEOUT,
    }
}

/// The signal that ends the usual server of a protocol: php-fpm drops its requests at TERM and finishes them at QUIT;
/// uWSGI starts anew at TERM, unless it is told not to.
pub(super) fn stop_signal(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Http => libc::SIGTERM,
        Protocol::FastCgi => libc::SIGQUIT,
        Protocol::Uwsgi => libc::SIGINT,
    }
}

pub(super) const HAPROXY_SOCKET: &str = "/run/haproxy/admin.sock";
pub(super) const HAPROXY_SERVERS: [&str; 2] = ["blue", "green"];

/// The backend of an app behind HAProxy.
pub(super) fn haproxy_backend(app: &AppName) -> String {
    app.to_string()
}

/// The include file of an app behind nginx.
pub(super) fn nginx_file(app: &AppName) -> PathBuf {
    PathBuf::from(format!("/etc/nginx/conf.d/bgd-{app}.conf"))
}

/// The upstream of an app behind nginx.
pub(super) fn nginx_upstream(app: &AppName) -> String {
    app.to_string()
}

pub(super) const ROOT_STATE_DIR: &str = "/var/lib/bgd";
pub(super) const ROOT_RUNTIME_DIR: &str = "/run/bgd";
/// Below the state directory: the runtime directory of an ordinary user without `$XDG_RUNTIME_DIR`. Not a
/// directory of `/tmp`, whose name anybody else could take first.
pub(super) const RUNTIME_BELOW_STATE: &str = "run";
