//! Apps that do not speak HTTP, behind a real nginx: php-fpm by FastCGI and uWSGI by its own protocol, as configured in
//! `contrib/`. Ten deploys each under load, what the probes ask and refuse, and how the old one ends.

mod app_server;
mod php_fpm;
mod uwsgi;
