//! The stage of `bgd demo`: a temporary directory with a configuration, its own daemon on free ports, and the
//! commands of this very binary. [`Scene::clear`] ends every process that belongs to the directory and removes it,
//! also after a failure.

use std::{
    fs,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::APP_ROLE;

/// The name of the app.
pub const APP: &str = "shop";
/// Time between two polls of something that can't be awaited.
const LOOK: Duration = Duration::from_millis(30);
/// Longest path in bytes of the temporary directory: a socket below the runtime directory must fit 107 bytes.
const LONGEST_BASE: usize = 50;

pub struct Scene {
    dir: PathBuf,
    exe: PathBuf,
    front: SocketAddr,
    daemon: Option<Child>,
}

/// The output of a command, and its exit code.
pub struct Ran {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    /// Makes the directory and the configuration.
    pub fn set() -> anyhow::Result<Self> {
        let exe = std::env::current_exe().context("where is this binary")?;
        let dir = make_dir()?;
        let [blue, green, listen] = free_ports()?;
        let front = SocketAddr::from((Ipv4Addr::LOCALHOST, listen));
        let scene = Self { dir, exe, front, daemon: None };
        let text = scene.configuration(blue, green);
        fs::write(scene.config(), text).context("write the configuration")?;
        Ok(scene)
    }

    fn configuration(&self, blue: u16, green: u16) -> String {
        let (dir, exe, front) = (self.dir.display(), self.exe.display(), self.front);
        format!(
            r#"[daemon]
state_dir = "{dir}/state"
runtime_dir = "{dir}/run"

[app.{APP}]
remote = "{dir}/{APP}.git"
poll = "1s"
ports = [{blue}, {green}]
build = "sh build.sh"
start = ["{exe}", "{APP_ROLE}"]
stop = {{ signal = "TERM", grace = "5s" }}
drain = "5s"
standby = "60s"

[app.{APP}.health]
path = "/up"
interval = "100ms"
timeout = "1s"
deadline = "2s"

[app.{APP}.watch]
for = "1s"

[app.{APP}.front]
listen = "{front}"
"#
        )
    }

    /// The public address.
    pub fn front(&self) -> SocketAddr {
        self.front
    }

    /// The bare remote.
    pub fn remote(&self) -> PathBuf {
        self.dir.join(format!("{APP}.git"))
    }

    /// The working copy.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    fn config(&self) -> PathBuf {
        self.dir.join("bgd.toml")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Starts the daemon and waits until it answers.
    pub async fn start_daemon(&mut self) -> anyhow::Result<u32> {
        let log = fs::File::options().create(true).append(true).open(self.log()).context("open the log")?;
        let child = Command::new(&self.exe)
            .args(["daemon", "--config"])
            .arg(self.config())
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            // Ctrl-C at the terminal is for the demo, which then ends the daemon in its own order.
            .process_group(0)
            .spawn()
            .context("start the daemon")?;
        let pid = child.id().context("the daemon has ended")?;
        self.daemon = Some(child);
        let until = Instant::now() + Duration::from_secs(15);
        while self.bgd(&["status", "--oneline"]).await?.code == 4 {
            if let Some(status) = self.daemon.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("the daemon ended: {}", status.context("ask for its status")?);
            }
            if Instant::now() > until {
                bail!("the daemon does not answer");
            }
            sleep(LOOK).await;
        }
        Ok(pid)
    }

    /// Kills the daemon with SIGKILL; none runs from here on.
    pub async fn kill_daemon(&mut self) -> anyhow::Result<()> {
        let mut child = self.daemon.take().context("no daemon runs")?;
        child.kill().await.context("kill the daemon")
    }

    /// Runs a command of this binary on the scene's configuration.
    pub async fn bgd(&self, words: &[&str]) -> anyhow::Result<Ran> {
        let work = Command::new(&self.exe)
            .args(words)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let limit = Duration::from_secs(30);
        let output =
            timeout(limit, work).await.with_context(|| format!("`bgd {}` hangs", words.join(" ")))?;
        let output = output.context("run bgd")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok(Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Runs it with both streams in one, in the order of their lines, as a terminal shows them.
    pub async fn shown(&self, words: &[&str]) -> anyhow::Result<(i32, String)> {
        let path = self.dir.join("shown");
        let file = fs::File::create(&path).context("make a file for the output")?;
        let work = self.command(words).stdout(file.try_clone()?).stderr(file).status();
        let limit = Duration::from_secs(30);
        let status =
            timeout(limit, work).await.with_context(|| format!("`bgd {}` hangs", words.join(" ")))?;
        let code = status.context("run bgd")?.code().unwrap_or(-1);
        Ok((code, fs::read_to_string(&path).context("read the output")?))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(words).arg("--config").arg(self.config()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Waits until `bgd status -o KEY` prints one of the values.
    pub async fn until(&self, key: &str, values: &[&str]) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let seen = self.bgd(&["status", "-o", key]).await?.stdout;
            if values.contains(&seen.as_str()) {
                return Ok(());
            }
            if Instant::now() > until {
                bail!("{key} is {seen:?} and never became {}", values.join(" or "));
            }
            sleep(LOOK).await;
        }
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<_> = text.lines().map(str::to_owned).collect();
        all[all.len().saturating_sub(lines)..].to_vec()
    }

    /// Ends everything that belongs to the directory, and removes it. Says what could not be done.
    pub async fn clear(mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.daemon.take() {
            // The daemon first, or it would start the apps again.
            terminate(&mut child).await;
        }
        for (signal, patience) in [(Signal::SIGTERM, 6), (Signal::SIGKILL, 3)] {
            let until = Instant::now() + Duration::from_secs(patience);
            let mut told = Vec::new();
            while Instant::now() < until {
                let left = belonging(&self.dir);
                if left.is_empty() {
                    break;
                }
                // New ones may appear while a tree comes down; each is told once.
                for pid in left.iter().filter(|pid| !told.contains(*pid)) {
                    // The process may have ended since it was listed.
                    let _ = kill(*pid, signal);
                }
                told.extend(left);
                sleep(LOOK).await;
            }
        }
        let left = belonging(&self.dir);
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        if left.is_empty() { Ok(()) } else { bail!("still running: {left:?}") }
    }
}

async fn terminate(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It is our child and not yet reaped, so the number is still its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if timeout(Duration::from_secs(5), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Makes a new directory that only this user may enter. Earlier names may be left over from a demo that was killed.
fn make_dir() -> anyhow::Result<PathBuf> {
    let name = format!("bgd-demo-{}", std::process::id());
    let mut attempt = 0;
    loop {
        let dir = base().join(format!("{name}-{attempt}"));
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 100 => attempt += 1,
            Err(error) => return Err(error).with_context(|| format!("create {}", dir.display())),
        }
    }
}

/// The directory for temporary files, if its path is short enough for the sockets below it, else `/tmp`.
fn base() -> PathBuf {
    let dir = std::env::temp_dir();
    if dir.as_os_str().len() <= LONGEST_BASE { dir } else { PathBuf::from("/tmp") }
}

/// Three ports that were free a moment ago.
fn free_ports() -> anyhow::Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All are held until all are known, so that they differ.
    let held = [bind()?, bind()?, bind()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// The processes that name the directory in their command line, environment or working directory: daemon,
/// shims, front, apps, builds. Never this one.
fn belonging(dir: &Path) -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| *pid != own && names(*pid, dir).unwrap_or(false));
    ours.filter_map(|pid| i32::try_from(pid).ok()).map(Pid::from_raw).collect()
}

fn names(pid: u32, dir: &Path) -> io::Result<bool> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    if fs::read_link(process.join("cwd"))?.starts_with(dir) {
        return Ok(true);
    }
    let wanted = dir.as_os_str().as_encoded_bytes();
    for file in ["cmdline", "environ"] {
        let mut bytes = Vec::new();
        fs::File::open(process.join(file))?.read_to_end(&mut bytes)?;
        if bytes.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_scene_loads_without_a_warning() {
        let scene = Scene::set().unwrap();
        fs::create_dir_all(scene.remote()).unwrap();
        fs::write(scene.remote().join("HEAD"), "").unwrap();
        let loaded = crate::config::load(&scene.config()).unwrap();
        fs::remove_dir_all(&scene.dir).unwrap();
        assert_eq!(loaded.warnings, []);
        assert!(loaded.settings.apps.contains_key(&APP.parse().unwrap()));
    }

    #[tokio::test]
    async fn clearing_ends_what_belongs_to_the_directory_and_nothing_else() {
        let scene = Scene::set().unwrap();
        let dir = scene.dir.clone();
        let sleeper =
            |dir: &Path| Command::new("sleep").arg("60").current_dir(dir).kill_on_drop(true).spawn();
        let mut inside = sleeper(&dir).unwrap();
        let mut outside = sleeper(Path::new("/")).unwrap();
        let (cleared, ended) = tokio::join!(scene.clear(), inside.wait());
        cleared.unwrap();
        assert!(!ended.unwrap().success());
        assert!(outside.try_wait().unwrap().is_none());
        assert!(!dir.exists());
    }
}
