//! Starting a front's process: its own session, nothing inherited but /dev/null, the log and one pipe for its first
//! line. Afterwards it does not depend on the spawner, which only reaps it while it lives.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use super::{BuiltinError, FrontPlace, control, role::StartReport, spare::Spare};

/// How long a front may take until it serves; a predecessor may have to answer meanwhile.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Identifies a program file; changes whenever the file is replaced.
pub(super) fn build_of(exe: &Path) -> io::Result<String> {
    let meta = std::fs::metadata(exe)?;
    Ok(format!("{}:{}:{}:{}.{}", meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// How a new front gets its listening socket.
pub(super) enum PassedSocket<'a> {
    /// No front serves: it binds the address.
    Fresh,
    /// It takes the socket over from the running front.
    Takeover,
    /// The former front is dead; the daemon passes its socket on.
    Heir(&'a Spare),
}

/// Starts a front and waits until it serves.
pub(super) async fn start(
    exe: &Path,
    place: &FrontPlace,
    entrance: PassedSocket<'_>,
) -> Result<(), BuiltinError> {
    let mut child = spawn(exe, place, entrance)?;
    let report = timeout(READY_WITHIN, first_line(&mut child)).await;
    // This runtime reaps the child for as long as it lives; after that, the process that adopts orphans does.
    let reap = |mut child: Child| tokio::spawn(async move { child.wait().await.ok() });
    let listen = place.listen;
    let report = match report {
        Ok(line) => control::parse::<StartReport>(line.unwrap_or_default().as_bytes()),
        Err(_) => {
            // It never served: a successor that is stuck has not got the traffic yet.
            let _ended_already = child.start_kill();
            reap(child);
            return Err(BuiltinError::NotReady { listen, waited: READY_WITHIN });
        }
    };
    reap(child);
    match report {
        Ok(StartReport::Ready) => Ok(()),
        Ok(StartReport::Taken(holder)) => Err(BuiltinError::AddressTaken { listen, holder }),
        Ok(StartReport::Failed(reason)) => Err(BuiltinError::Start { listen, reason }),
        Err(_) => {
            let reason = format!("it ended at once, see {}", place.log.display());
            Err(BuiltinError::Start { listen, reason })
        }
    }
}

async fn first_line(child: &mut Child) -> io::Result<String> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).await?;
    }
    Ok(line)
}

fn spawn(exe: &Path, place: &FrontPlace, entrance: PassedSocket<'_>) -> Result<Child, BuiltinError> {
    let failed = |source| BuiltinError::Spawn { exe: exe.to_owned(), source };
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&place.log);
    let log = log.map_err(|source| BuiltinError::Place { path: place.log.clone(), source })?;
    let mut command = Command::new(exe);
    command.arg("front").args(["--app", place.app.as_str(), "--listen", &place.listen.to_string()]);
    command.arg("--control").arg(&place.control).arg("--log").arg(&place.log);
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    match entrance {
        PassedSocket::Fresh => {}
        PassedSocket::Takeover => drop(command.arg("--takeover")),
        PassedSocket::Heir(spare) => {
            // The bequest includes the route: the front must not serve clients before it has one.
            command.arg("--bequeathed").stdin(Stdio::from(spare.bequest().map_err(failed)?));
        }
    }
    // SAFETY: only system calls that are safe between fork and exec; nothing is allocated.
    unsafe { command.pre_exec(detach) };
    command.spawn().map_err(failed)
}

/// In the child before exec: a session of its own, and no descriptor but 0, 1 and 2 beyond the exec.
fn detach() -> io::Result<()> {
    nix::unistd::setsid()?;
    crate::os::privilege::seal_descriptors()
}
