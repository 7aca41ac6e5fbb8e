//! Checks of nginx for `bgd doctor` that a flip does not need: whether nginx includes the file, whether nginx itself
//! would cut long requests, whether bgd may reload it. Changes nothing.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use super::{
    Hidden, Nginx, NginxError, ReloadLimits, command, master,
    place::IncludeFile,
    sides::{self, Names},
    sites, syntax,
};

/// Whether nginx reads bgd's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inclusion {
    /// nginx lists the file.
    Included,
    /// nginx does not list the file, although it exists.
    NotIncluded,
    /// The file does not exist yet, so nginx can't list it.
    NotThereYet,
    /// bgd could not get nginx's dump of its configuration; nginx's error, or bgd's.
    Unknown(String),
}

/// Whether bgd's user may reload nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// bgd's user may signal the master.
    Granted,
    /// The master belongs to another user, and the command is plain nginx.
    Denied {
        /// The master's pid.
        master: i32,
    },
    /// The command runs another program (sudo, systemctl), which decides by itself.
    Delegated {
        /// The name or path of that program.
        program: String,
    },
}

/// Most bytes of a dump: enough for some thousand virtual hosts.
const DUMP_CAP: usize = 64 * 1024 * 1024;

impl Nginx {
    /// Whether nginx reads bgd's file, by its own dump of the configuration (`-T`).
    pub async fn inclusion(&self) -> Inclusion {
        let place = match IncludeFile::find(&self.settings.file) {
            Ok(place) if !place.path().exists() => return Inclusion::NotThereYet,
            Ok(place) => place,
            Err(err) => return Inclusion::Unknown(err.to_string()),
        };
        match self.dump().await {
            Ok(dump) if sites::files(&dump).any(|file| self.is_own(&place, Path::new(file))) => {
                Inclusion::Included
            }
            Ok(_) => Inclusion::NotIncluded,
            Err(why) => Inclusion::Unknown(why),
        }
    }

    /// Other files that define the app's upstream, because of which nginx refuses bgd's file. Empty where there is no
    /// dump (then [`Nginx::inclusion`] says why).
    pub async fn rivals(&self) -> Vec<PathBuf> {
        let (Ok(place), Ok(dump)) = (IncludeFile::find(&self.settings.file), self.dump().await) else {
            return Vec::new();
        };
        let defining = sites::defining(&dump, &self.settings.upstream).into_iter().map(Path::new);
        defining.filter(|file| !self.is_own(&place, file)).map(Path::to_owned).collect()
    }

    /// Whether any site names the app's upstream; `None` where there is no dump (then [`Nginx::inclusion`] says why).
    pub async fn is_used(&self) -> Option<bool> {
        Some(sites::is_used(&self.dump().await.ok()?, &self.settings.upstream))
    }

    /// nginx's `worker_shutdown_timeout`: at every reload nginx cuts requests that take longer. `None` where it is not
    /// set, or where there is no dump (then [`Nginx::inclusion`] says why).
    pub async fn shutdown_timeout(&self) -> Option<Duration> {
        let dump = self.dump().await.ok()?;
        syntax::arguments(&syntax::tokens(&dump), "worker_shutdown_timeout").first().and_then(|t| time(t))
    }

    /// The sites that must repeat a line of bgd's file, because their own lines hide it. `None` where there is no dump
    /// (then [`Nginx::inclusion`] says why).
    pub async fn hidden(&self) -> Option<Hidden> {
        Some(sites::hidden(&self.dump().await.ok()?, &self.app, &self.settings.upstream))
    }

    /// The line that a site with headers of its own needs for a canary's cookie.
    pub fn cookie_line(&self) -> String {
        sides::cookie_line(&Names::of(&self.app))
    }

    /// Whether bgd's user may reload nginx, found out without running the command.
    pub fn may_reload(&self) -> Result<Permission, NginxError> {
        let master = master::master(&self.settings.pid_file)?;
        let program = self.settings.reload.first().cloned().unwrap_or_default();
        let pid = Pid::from_raw(master.pid);
        Ok(match kill(pid, None) {
            Ok(()) => Permission::Granted,
            Err(Errno::EPERM) if Path::new(&program).ends_with("nginx") => {
                Permission::Denied { master: master.pid }
            }
            Err(_) => Permission::Delegated { program },
        })
    }

    /// Runs the configured test with `-T` in place of `-t`; the output has every file that nginx reads.
    async fn dump(&self) -> Result<String, String> {
        let mut argv = self.settings.test.clone();
        let Some(flag) = argv.iter_mut().find(|argument| *argument == "-t") else {
            return Err(format!("`{}` has no -t to make -T of", self.settings.test.join(" ")));
        };
        *flag = "-T".to_owned();
        let limit = ReloadLimits::default().command;
        let ended = command::run_keeping(&argv, limit, DUMP_CAP).await.map_err(|err| err.to_string())?;
        if ended.status.success() { Ok(ended.stdout) } else { Err(command::fault(&ended).quote) }
    }
}

/// Parses a time as nginx writes it: `500ms`, `10s`, `1m 30s`, or a number of seconds without a unit.
fn time(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let (scale, rest) = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        .into_iter()
        .find_map(|(name, scale)| Some((scale, unit.strip_prefix(name)?)))
        .unwrap_or((1_000, unit));
    let first = Duration::from_millis(number.checked_mul(scale)?);
    if rest.trim().is_empty() { Some(first) } else { first.checked_add(time(rest.trim_start())?) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_times_are_understood() {
        for (text, ms) in
            [("500ms", 500), ("10s", 10_000), ("30", 30_000), ("1m 30s", 90_000), ("2h", 7_200_000)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "10x", "x10"] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }
}
