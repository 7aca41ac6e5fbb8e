//! A real nginx with its own prefix.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use super::processes::{children, line_of};

/// Where one runs or will run. Who spawns it ends it.
#[derive(Debug, Clone)]
pub struct Nginx {
    prefix: PathBuf,
}

impl Nginx {
    /// `None`, with the reason printed, where nginx is not installed.
    pub fn at(prefix: PathBuf) -> Option<Self> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: nginx is not installed");
            return None;
        }
        fs::create_dir_all(prefix.join("conf.d")).expect("conf.d");
        Some(Self { prefix })
    }

    /// A file below `conf.d`.
    pub fn conf(&self, name: &str) -> PathBuf {
        self.prefix.join("conf.d").join(name)
    }

    pub fn pid_file(&self) -> PathBuf {
        self.prefix.join("nginx.pid")
    }

    /// The main file: `main` comes first, `http` first in the block of that name.
    pub fn configure(&self, main: &str, connections: usize, http: &str) {
        let text = format!(
            "{main}\npid nginx.pid;\nevents {{ worker_connections {connections}; }}\n\
             http {{ {http} client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; \
             scgi_temp_path s; uwsgi_temp_path u; include conf.d/*.conf; }}\n"
        );
        fs::write(self.prefix.join("nginx.conf"), text).expect("nginx.conf");
    }

    /// With so many workers, which log all they do.
    pub fn configure_small(&self, main: &str, workers: usize) {
        let main = format!("{main}\nworker_processes {workers};\nerror_log error.log notice;");
        self.configure(main.trim_start(), 512, "access_log access.log;");
    }

    /// The command line.
    pub fn words(&self, more: &[&str]) -> Vec<String> {
        let prefix = format!("{}/", self.prefix.display());
        let all = ["nginx", "-p", &prefix, "-c", "nginx.conf"];
        all.iter().chain(more).map(|word| (*word).to_owned()).collect()
    }

    pub fn run(&self, more: &[&str]) -> Output {
        let words = self.words(more);
        Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output().expect("run nginx")
    }

    /// Runs it with words that have to work.
    pub fn done(&self, more: &[&str]) {
        let output = self.run(more);
        assert!(output.status.success(), "nginx {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// In the foreground, as a child that is not waited for.
    pub fn spawn(&self) -> Child {
        let words = self.words(&["-g", "daemon off;"]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("nginx")
    }

    /// By its pid file.
    pub fn master(&self) -> Option<u32> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()
    }

    /// The lines of its front in `bgd.toml`.
    pub fn front(&self, upstream: &str) -> String {
        self.front_with(upstream, &format!("{:?}", self.words(&["-s", "reload"])))
    }

    /// With another command that reloads, as TOML.
    pub fn front_with(&self, upstream: &str, reload: &str) -> String {
        format!(
            "type = \"nginx\"\nupstream = \"{upstream}\"\nfile = \"{}\"\ntest = {:?}\nreload = {reload}\npid_file = \"{}\"",
            self.conf(&format!("bgd-{upstream}.conf")).display(),
            self.words(&["-t"]),
            self.pid_file().display()
        )
    }

    /// A site that hands everything to an upstream, with more for its location.
    pub fn site(&self, upstream: &str, listen: impl std::fmt::Display, more: &str) {
        let text =
            format!("server {{ listen {listen}; location / {{ proxy_pass http://{upstream}; {more} }} }}\n");
        fs::write(self.conf("site.conf"), text).expect("the site");
    }
}

/// All workers of a master, those that shut down among them.
pub fn workers_of(master: u32) -> Vec<u32> {
    children(master).into_iter().filter(|pid| is_worker(*pid)).collect()
}

pub fn is_worker(pid: u32) -> bool {
    line_of(pid).is_some_and(|line| line.starts_with("nginx: worker"))
}

pub fn is_shutting_down(pid: u32) -> bool {
    line_of(pid).is_some_and(|line| line.contains("shutting down"))
}

/// A line with which root's nginx keeps its workers root, so that they reach a socket in whatever directory.
pub fn same_user() -> &'static str {
    if nix::unistd::geteuid().is_root() { "user root;" } else { "" }
}
