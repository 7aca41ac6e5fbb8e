//! The process `bgd front`: bind or inherit the public address, start the workers, answer the control
//! socket, end in good order. Its first line on stdout tells the spawner how the start went; afterwards it
//! has no terminal, no pipe and no parent that matters.

use std::{
    ffi::OsString,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use super::{
    BuiltinError,
    answer::Desk,
    control::{ControlAnswer, ControlRequest, PerColor},
    handover::{self, Heritage},
    journal::Journal,
    link::ControlLink,
    listen,
    sockets::OpenSockets,
    spawn::build_of,
    stage::{FrontProcess, Phase},
    switch::Switch,
    worker::{FrontWorker, House},
};
use crate::rules::{route::Route, traffic::Figures};

/// How long requests in flight may go on after SIGTERM.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long connections (websockets, say) may go on after a handover.
const LINGER: Duration = Duration::from_secs(3600);
/// Time between two checks of what is left to finish.
const LOOK: Duration = Duration::from_millis(20);
/// How long a predecessor may take for each answer while it hands over.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// More threads than this don't help a proxy on loopback.
const MOST_WORKERS: usize = 16;

/// How the start went: the one line on stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartReport {
    /// The public address is served.
    Ready,
    /// Another process has the address: `pid 4242 (nginx)`, or `another process` when unknown.
    Taken(String),
    /// The start failed for another reason, given as text.
    Failed(String),
}

/// The arguments of `bgd front`.
#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    listen: SocketAddr,
    control: PathBuf,
    log: PathBuf,
    entrance: Entrance,
}

/// How the process gets its listening socket.
#[derive(Debug, PartialEq, Eq)]
enum Entrance {
    /// It binds the address.
    Fresh,
    /// The running front passes the socket over the control socket.
    Takeover,
    /// The daemon passes the socket over standard input, since the former front was killed.
    Bequeathed,
}

impl Arguments {
    fn read(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut listen, mut control, mut log) = (None, None, None);
        let mut entrance = Entrance::Fresh;
        let mut rest = arguments;
        while let Some(name) = rest.next() {
            let name = name.to_string_lossy().into_owned();
            let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--listen" => listen = value()?.to_str().and_then(|text| text.parse().ok()),
                "--control" => control = Some(PathBuf::from(value()?)),
                "--log" => log = Some(PathBuf::from(value()?)),
                // For people who look at the process list.
                "--app" => drop(value()?),
                "--takeover" => entrance = Entrance::Takeover,
                "--bequeathed" => entrance = Entrance::Bequeathed,
                _ => return Err(format!("unknown argument: {name}")),
            }
        }
        let missing = |name: &str| format!("{name} is missing or not valid");
        Ok(Self {
            listen: listen.ok_or_else(|| missing("--listen"))?,
            control: control.ok_or_else(|| missing("--control"))?,
            log: log.ok_or_else(|| missing("--log"))?,
            entrance,
        })
    }
}

/// Runs the front with the arguments after `bgd front`, until a signal or a successor ends it.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let started = Arguments::read(arguments).and_then(|arguments| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok((arguments, runtime.map_err(|error| format!("no runtime: {error}"))?))
    });
    match started {
        Ok((arguments, runtime)) => runtime.block_on(live(arguments)),
        Err(reason) => fail(&StartReport::Failed(reason)),
    }
}

async fn live(arguments: Arguments) -> ExitCode {
    let journal = Arc::new(Journal::new(arguments.log.clone()));
    let (stage, clients, desk) = match begin(&arguments, &journal).await {
        Ok(begun) => begun,
        Err(report) => return fail(&report),
    };
    let attending = tokio::spawn(desk.attend(Arc::clone(&stage)));
    report(&StartReport::Ready);
    journal.info(format_args!("serving {} as pid {}", stage.bound, std::process::id()));
    end(&stage, &clients).await;
    // The socket's file goes before the process does.
    if attending.await.is_err() {
        journal.warn(format_args!("the control socket ended early"));
    }
    journal.info(format_args!("ended, pid {}", std::process::id()));
    ExitCode::SUCCESS
}

/// The socket and route of the former front; `None` for a fresh start.
fn heritage(entrance: &Entrance, control: &Path) -> Result<Option<Heritage>, StartReport> {
    match entrance {
        Entrance::Fresh => Ok(None),
        Entrance::Takeover => {
            handover::take(control).map(Some).map_err(|error| StartReport::Failed(chain(&error)))
        }
        Entrance::Bequeathed => Heritage::of_the_dead()
            .map(Some)
            .map_err(|error| StartReport::Failed(format!("the socket handed down: {error}"))),
    }
}

/// Starts everything; returns once the public address is served and the predecessor is leaving.
async fn begin(
    arguments: &Arguments,
    journal: &Arc<Journal>,
) -> Result<(Arc<FrontProcess>, Vec<Arc<OpenSockets>>, Desk), StartReport> {
    let failed = |what: &str, error: &dyn std::fmt::Display| StartReport::Failed(format!("{what}: {error}"));
    raise_descriptor_limit(journal);
    let heritage = heritage(&arguments.entrance, &arguments.control)?;
    let (listener, route, predecessor) = public_socket(arguments.listen, heritage)?;
    let bound = listener.local_addr().map_err(|error| failed("no local address", &error))?;
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    let switch = Arc::new(Switch::new(count));
    if let Some(route) = route {
        switch.apply(&route).map_err(|error| failed("inherited route", &error))?;
    }
    let house = Arc::new(House::new(count));
    let shared = (Arc::clone(&switch), Arc::clone(journal), Arc::clone(&house));
    let clients = start_workers(count, &listener, shared).map_err(|error| failed("worker", &error))?;
    let control = &arguments.control;
    let desk = Desk::open(control)
        .map_err(|error| failed(&format!("control socket {}", control.display()), &error))?;
    let (predecessor, former) =
        dismiss(predecessor, control).await.map_err(|error| failed("predecessor", &error))?;
    let stage = FrontProcess {
        listen: arguments.listen,
        bound,
        control: control.clone(),
        build: build_of(Path::new("/proc/self/exe")).map_err(|error| failed("own program", &error))?,
        started_at_ms: jiff::Timestamp::now().as_millisecond().unsigned_abs(),
        switch,
        journal: Arc::clone(journal),
        house,
        phase: watch::Sender::new(Phase::Serving),
        listener: Mutex::new(Some(listener)),
        predecessor: tokio::sync::Mutex::new(predecessor),
        former: Mutex::new(former),
    };
    Ok((Arc::new(stage), clients, desk))
}

fn start_workers(
    count: usize,
    listener: &TcpListener,
    (switch, journal, house): (Arc<Switch>, Arc<Journal>, Arc<House>),
) -> io::Result<Vec<Arc<OpenSockets>>> {
    let start = |id| {
        let clients = Arc::new(OpenSockets::counted(house.crowd.clients()));
        let worker = FrontWorker {
            id,
            switch: Arc::clone(&switch),
            journal: Arc::clone(&journal),
            clients: Arc::clone(&clients),
            house: Arc::clone(&house),
            arrival: Notify::new(),
        };
        Arc::new(worker).start(listener.try_clone()?)?;
        Ok(clients)
    };
    (0..count).map(start).collect()
}

type Public = (TcpListener, Option<Route>, Option<std::os::unix::net::UnixStream>);

/// The inherited socket if it has the wanted address, else a newly bound one; with the inherited route and the control
/// connection to the predecessor.
fn public_socket(listen: SocketAddr, heritage: Option<Heritage>) -> Result<Public, StartReport> {
    let fits = |socket: &TcpListener| {
        socket.local_addr().is_ok_and(|at| at.ip() == listen.ip() && [0, at.port()].contains(&listen.port()))
    };
    let (inherited, route, stream) = match heritage {
        Some(Heritage { listener, route, stream }) => (Some(listener), route, stream),
        None => (None, None, None),
    };
    let socket = match inherited.filter(fits) {
        Some(socket) => socket,
        None => listen::bound(listen).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => {
                StartReport::Taken(listen::holder(listen).unwrap_or_else(|| "another process".to_owned()))
            }
            _ => StartReport::Failed(format!("can't listen: {error}")),
        })?,
    };
    Ok((socket, route, stream))
}

/// Tells the predecessor, if any, to leave once we serve; returns the link to it and its figures so far.
async fn dismiss(
    predecessor: Option<std::os::unix::net::UnixStream>,
    path: &Path,
) -> Result<(Option<ControlLink>, PerColor<Figures>), BuiltinError> {
    let Some(stream) = predecessor else { return Ok(Default::default()) };
    let failed = |source| BuiltinError::Control { path: path.to_owned(), source };
    stream.set_nonblocking(true).map_err(failed)?;
    let mut link = ControlLink::over(tokio::net::UnixStream::from_std(stream).map_err(failed)?, path);
    let figures = match link.ask(&ControlRequest::Figures, LEAVE_WITHIN).await {
        Ok(ControlAnswer::Figures(figures)) => figures,
        Ok(_) => PerColor::default(),
        Err(error) => return Err(error),
    };
    link.ask(&ControlRequest::Leave, LEAVE_WITHIN).await?;
    Ok((Some(link), figures))
}

/// Serves until a signal or a successor ends it, then until open connections have ended, within limits.
async fn end(stage: &FrontProcess, clients: &[Arc<OpenSockets>]) {
    let phase = stage.phase.subscribe();
    let is_empty = |of: &dyn Fn(&OpenSockets) -> usize| {
        stage.house.accepting.load(Ordering::SeqCst) == 0 && clients.iter().all(|sockets| of(sockets) == 0)
    };
    // A single future for both waits, so that no signal is lost between them; not polled again after it completes.
    let asked = asked_to_end();
    tokio::pin!(asked);
    // Cancel-safe: nothing is lost when either wait is dropped.
    tokio::select! {
        () = &mut asked => stage.close(Phase::Stopping),
        () = stage.no_longer_serving() => {}
    }
    let until = Instant::now() + LINGER;
    // We forward a successor's requests to our own predecessor, so we stay until that one is done.
    while *phase.borrow() == Phase::Leaving
        && Instant::now() < until
        && !(is_empty(&OpenSockets::len) && stage.leads_nobody().await)
    {
        // Cancel-safe, as above.
        tokio::select! {
            () = &mut asked => stage.close(Phase::Stopping),
            () = sleep(LOOK) => {}
        }
    }
    stage.close(Phase::Stopping);
    let until = Instant::now() + STOP_WITHIN;
    while Instant::now() < until && !is_empty(&OpenSockets::plain) {
        sleep(LOOK).await;
    }
}

async fn asked_to_end() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            // Cancel-safe: either signal ends the wait.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the signals keep their default: they end the process.
        _ => std::future::pending().await,
    }
}

/// Raises the soft limit of open files to the hard one: each client takes up to two descriptors.
fn raise_descriptor_limit(journal: &Journal) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        journal.warn(format_args!("can't raise the limit of open files: {error}"));
    }
}

fn fail(report_of_failure: &StartReport) -> ExitCode {
    report(report_of_failure);
    ExitCode::FAILURE
}

/// Writes the one line and closes stdout, so that the spawner's pipe ends here.
fn report(report: &StartReport) {
    let line = super::control::line(report);
    // The spawner may have gone; the front serves all the same.
    let _unread = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        // If this fails, stdout stays a pipe that nobody reads and nothing writes to.
        let _still_open = nix::unistd::dup2_stdout(null);
    }
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Arguments, String> {
        Arguments::read(arguments.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_read_and_nonsense_is_named() {
        let all =
            ["--app", "shop", "--listen", "127.0.0.1:80", "--control", "/c", "--log", "/l", "--takeover"];
        let expected = Arguments {
            listen: "127.0.0.1:80".parse().unwrap(),
            control: "/c".into(),
            log: "/l".into(),
            entrance: Entrance::Takeover,
        };
        assert_eq!(read(&all), Ok(expected));
        assert!(read(&all[..4]).unwrap_err().contains("--control"));
        assert!(read(&["--listen"]).unwrap_err().contains("--listen"));
        let bequeathed = read(&[&all[..8], &["--bequeathed"]].concat()).unwrap();
        assert_eq!(bequeathed.entrance, Entrance::Bequeathed);
        assert!(read(&["--what"]).unwrap_err().contains("--what"));
    }
}
