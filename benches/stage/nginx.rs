//! A real nginx for many connections: one site per app on addresses of the caller's choice.

use std::{fs, net::SocketAddr, ops::Deref};

use super::{
    Place,
    shared::{self, nginx, processes::children, until},
};

/// It runs in the background, and ends with its place.
#[derive(Debug)]
pub struct Nginx(shared::Nginx);

impl Deref for Nginx {
    type Target = shared::Nginx;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Nginx {
    /// To be started when its sites are written; `None` where it is not installed.
    pub fn prepare(place: &Place) -> Option<Self> {
        let nginx = Self(shared::Nginx::at(place.path("nginx"))?);
        nginx.configure_with("access_log off;");
        Some(nginx)
    }

    fn configure_with(&self, log: &str) {
        let user = nginx::same_user();
        self.configure(
            &format!("{user}\nworker_processes auto;\nworker_rlimit_nofile 20000;\nerror_log error.log;"),
            12_000,
            &format!("{log} keepalive_timeout 300s; keepalive_requests 100000000;\n"),
        );
    }

    /// Writes a line for each request; without a log of its own nginx can't tell bgd of them.
    pub fn keep_a_log(&self) {
        self.configure_with("access_log access.log;");
    }

    /// A site that hands everything to an upstream.
    pub fn site(&self, upstream: &str, listen: SocketAddr) {
        self.site_with(upstream, listen, "");
    }

    /// A site that hands everything to an upstream, over kept connections if the upstream keeps any; with further
    /// lines.
    pub fn site_with(&self, upstream: &str, listen: SocketAddr, more: &str) {
        let text = format!(
            "server {{ listen {listen} backlog=4096; {more} location / {{ proxy_pass http://{upstream}; \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
             proxy_set_header X-Forwarded-Proto $scheme; }} }}\n"
        );
        fs::write(self.conf(&format!("site-{upstream}.conf")), text).expect("a site");
    }

    /// An upstream written by hand.
    pub fn upstream(&self, name: &str, port: u16, keepalive: &str) {
        let text = format!("upstream {name} {{ server 127.0.0.1:{port}; {keepalive} }}\n");
        fs::write(self.conf(&format!("up-{name}.conf")), text).expect("an upstream");
    }

    /// Starts it in the background.
    pub fn start(&self) {
        self.done(&[]);
        until("nginx has workers", || self.master().is_some_and(|master| !children(master).is_empty()));
    }

    /// Starts it as soon as bgd has written its file, which routes nowhere yet.
    pub fn start_with(&self, file: &str) {
        until(&format!("bgd writes {file}"), || self.conf(file).exists());
        self.start();
    }

    /// Waits until only as many workers are left as one configuration has.
    pub fn settled(&self) {
        let leaving = |master| children(master).into_iter().any(nginx::is_shutting_down);
        until("former workers of nginx leave", || !self.master().is_some_and(leaving));
    }
}
