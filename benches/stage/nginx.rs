//! A real nginx with its own prefix: one site per app on addresses of the caller's choice.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Place, Res};

/// A running nginx; ends with its place.
#[derive(Debug)]
pub struct Nginx {
    prefix: PathBuf,
}

impl Nginx {
    /// Prepares one, to be started when its sites are written; `None` where it is not installed.
    pub fn prepare(place: &Place) -> Res<Option<Self>> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            println!("no nginx here: its rows are left out");
            return Ok(None);
        }
        let prefix = place.path("nginx");
        fs::create_dir_all(prefix.join("conf.d"))?;
        let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "{user}\nworker_processes auto;\nworker_rlimit_nofile 20000;\npid nginx.pid;\nerror_log error.log;\n\
             events {{ worker_connections 12000; }}\n\
             http {{ access_log off; keepalive_timeout 300s; keepalive_requests 100000000;\n\
             client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; scgi_temp_path s; \
             uwsgi_temp_path u;\ninclude conf.d/*.conf; }}\n"
        );
        fs::write(prefix.join("nginx.conf"), config)?;
        Ok(Some(Self { prefix }))
    }

    /// A file below `conf.d`.
    pub fn conf(&self, name: &str) -> PathBuf {
        self.prefix.join("conf.d").join(name)
    }

    /// A site that hands everything to an upstream, over kept connections if the upstream keeps any.
    pub fn site(&self, upstream: &str, listen: SocketAddr) -> Res<()> {
        self.site_with(upstream, listen, "")
    }

    /// The same, with further lines.
    pub fn site_with(&self, upstream: &str, listen: SocketAddr, more: &str) -> Res<()> {
        let text = format!(
            "server {{ listen {listen} backlog=4096; {more} location / {{ proxy_pass http://{upstream}; \
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; \
             proxy_set_header X-Forwarded-Proto $scheme; }} }}\n"
        );
        Ok(fs::write(self.conf(&format!("site-{upstream}.conf")), text)?)
    }

    /// Writes a line for each request; without a log of its own nginx can't tell bgd of them.
    pub fn keep_a_log(&self) -> Res<()> {
        let file = self.prefix.join("nginx.conf");
        let text = fs::read_to_string(&file)?.replace("access_log off;", "access_log access.log;");
        Ok(fs::write(file, text)?)
    }

    /// An upstream written by hand.
    pub fn upstream(&self, name: &str, port: u16, keepalive: &str) -> Res<()> {
        let text = format!("upstream {name} {{ server 127.0.0.1:{port}; {keepalive} }}\n");
        Ok(fs::write(self.conf(&format!("up-{name}.conf")), text)?)
    }

    /// The words of a front of this nginx in `bgd.toml`.
    pub fn front(&self, upstream: &str) -> String {
        let quote = |words: &[String]| format!("{words:?}");
        format!(
            "type = \"nginx\"\nupstream = \"{upstream}\"\nfile = \"{}\"\ntest = {}\nreload = {}\npid_file = \"{}\"",
            self.conf(&format!("bgd-{upstream}.conf")).display(),
            quote(&self.words(&["-t"])),
            quote(&self.words(&["-s", "reload"])),
            self.prefix.join("nginx.pid").display()
        )
    }

    fn words(&self, more: &[&str]) -> Vec<String> {
        let prefix = format!("{}/", self.prefix.display());
        let all = ["nginx", "-p", &prefix, "-c", "nginx.conf"];
        all.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    /// Runs nginx with these words; an error has its output.
    pub fn run(&self, more: &[&str]) -> Res<()> {
        let words = self.words(more);
        let output = Command::new("nginx").args(words.get(1..).unwrap_or_default()).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("nginx {more:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Starts it in the background.
    pub fn start(&self) -> Res<()> {
        self.run(&[])?;
        let until = Instant::now() + Duration::from_secs(10);
        while self.master().is_none_or(|master| super::proc::children(master).is_empty()) {
            if Instant::now() > until {
                return Err("nginx does not start".into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts it as soon as bgd has written its file, which routes nowhere yet.
    pub fn start_with(&self, file: &str) -> Res<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.conf(file).exists() {
            if Instant::now() > until {
                return Err(format!("bgd does not write {file}").into());
            }
            sleep(Duration::from_millis(5));
        }
        self.start()
    }

    /// Its master process.
    pub fn master(&self) -> Option<u32> {
        fs::read_to_string(self.prefix.join("nginx.pid")).ok()?.trim().parse().ok()
    }

    /// Waits until only as many workers are left as one configuration has.
    pub fn settled(&self) -> Res<()> {
        let until = Instant::now() + Duration::from_secs(10);
        let leaving = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("shutting down")
        };
        while self.master().is_some_and(|master| super::proc::children(master).iter().any(leaving)) {
            if Instant::now() > until {
                return Err("former workers of nginx do not leave".into());
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
