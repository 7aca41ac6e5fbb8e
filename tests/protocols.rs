//! Apps that do not speak HTTP, behind a real nginx: php-fpm by FastCGI and uWSGI by its own protocol, as configured in
//! `contrib/`. Ten deploys each under load, what the probes ask and refuse, and how the old one ends.

#[path = "daemon/app.rs"]
mod app;
#[path = "daemon/load.rs"]
mod load;
#[path = "daemon/ports.rs"]
mod ports;
#[path = "daemon/stage.rs"]
mod stage;
#[path = "daemon/truth.rs"]
mod truth;

#[path = "protocols/app_server.rs"]
mod app_server;

#[path = "protocols/php_fpm.rs"]
mod php_fpm;
#[path = "protocols/uwsgi.rs"]
mod uwsgi;
