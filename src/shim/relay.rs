//! A relay: listens where an instance listened and passes each connection on to another one, byte by byte. The role
//! `bgd relay`, started under a shim like an instance, for a front that can't be moved (promise N4).
//!
//! ```text
//! bgd relay LISTEN TO [SHIM]      an address is a port of 127.0.0.1, or the path of a unix socket
//! ```
//! It takes a copy of the listening socket of the instance below the shim `SHIM`, where the kernel allows that: then
//! both accept, and the port is open at every moment. It does not change that socket's flags, which both share
//! (whether accept blocks is one of them). On USR1 it listens with its own socket and shuts the shared one down for
//! both, so that the instance gets no new connections and finishes those it has. Without a copy it listens as soon as
//! the port is free.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt,
            shutdown, socket,
            sockopt::{ReuseAddr, ReusePort},
        },
    },
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::{
    os::{errors::chain, holders::sockets_of, process::Process, tree},
    process::ports,
    rules::address::Address,
};

/// The word that makes this binary a relay.
pub const ROLE: &str = "relay";
/// The `BGD_EVENT` of a relay's environment, by which its shim's record shows that it is not an instance.
pub const STANDS_IN: &str = "stands_in";
/// Time between two attempts to listen: clients would notice a longer gap.
const AGAIN: Duration = Duration::from_millis(1);
/// A process that holds the port for longer will not leave it.
const GIVES_UP: Duration = Duration::from_secs(30);
/// Threads that accept from a shared socket.
const ACCEPTORS: usize = 16;
/// Pause after an accept that failed for lack of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(20);

/// The arguments that make the binary a relay.
pub fn arguments(listen: &Address, to: &Address, shim: Option<i32>) -> Vec<String> {
    let text = |address: &Address| match address {
        Address::Port(port) => port.to_string(),
        Address::Socket(path) => path.display().to_string(),
    };
    let shim = shim.map(|pid| pid.to_string());
    [ROLE.to_owned(), text(listen), text(to)].into_iter().chain(shim).collect()
}

/// Runs the relay: ends only when it can't listen, or by a signal.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bgd relay: {}", chain(&err));
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = OsString>) -> io::Result<()> {
    let mut next = || args.next().and_then(|arg| arg.into_string().ok());
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "usage: bgd relay LISTEN TO [SHIM]");
    let (listen, to) = (next().ok_or_else(missing)?, next().ok_or_else(missing)?);
    let shim = next().and_then(|pid| pid.parse().ok());
    let (listen, to) = (address(&listen), address(&to));
    // A few thousand clients need two descriptors each.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let (sender, accepted) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before it listens: a process that sees it listen may send the signal.
    let alone = {
        let _entered = runtime.enter();
        signal(SignalKind::user_defined1())?
    };
    let doors: Vec<Arc<Door>> = doors(&listen, shim)?.into_iter().map(Arc::new).collect();
    for door in &doors {
        begin(door.clone(), sender.clone())?;
    }
    println!("relays {} to {}", listen.named(), to.named());
    runtime.block_on(async {
        tokio::join!(pass_on(accepted, to), until_alone(alone, doors, sender));
    });
    Ok(())
}

/// Starts the threads that accept. The kernel gives a connection to the longest waiter: many waiting threads leave the
/// instance beside them few.
fn begin(door: Arc<Door>, to: UnboundedSender<Client>) -> io::Result<()> {
    let threads = if matches!(*door, Door::Tcp(_, true)) { ACCEPTORS } else { 1 };
    (0..threads).try_for_each(|_| {
        let (door, to) = (door.clone(), to.clone());
        thread::Builder::new().name("accept".to_owned()).spawn(move || door.accept(&to)).map(drop)
    })
}

/// On each USR1, replaces the shared sockets by sockets of its own.
async fn until_alone(mut told: Signal, doors: Vec<Arc<Door>>, to: UnboundedSender<Client>) {
    while told.recv().await.is_some() {
        for door in &doors {
            if let Err(err) = door.part(&to) {
                eprintln!("bgd relay: shares its socket on: {err}");
            }
        }
    }
}

fn address(text: &str) -> Address {
    text.parse().map_or_else(|_| Address::Socket(text.into()), Address::Port)
}

/// A client of the relay.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listening socket.
enum Door {
    /// The socket, and whether it was shared with the instance when opened.
    Tcp(TcpListener, bool),
    Unix(UnixListener),
}

impl Door {
    /// Accepts until the socket is shut down. The other process may be faster at a shared socket; if that is
    /// non-blocking, waits in poll.
    fn accept(&self, to: &UnboundedSender<Client>) {
        loop {
            let accepted = match self {
                Self::Tcp(listener, _) => listener.accept().map(|(stream, _)| Client::Tcp(stream)),
                Self::Unix(listener) => listener.accept().map(|(stream, _)| Client::Unix(stream)),
            };
            match accepted {
                Ok(client) => {
                    if to.send(client).is_err() {
                        return;
                    }
                }
                Err(err) => match err.kind() {
                    io::ErrorKind::WouldBlock => self.wait(),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    // The socket was shut down.
                    io::ErrorKind::InvalidInput => return,
                    _ => thread::sleep(PAUSE),
                },
            }
        }
    }
}

impl Door {
    fn wait(&self) {
        let fd = match self {
            Self::Tcp(listener, _) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        };
        // A failed wait is tried again by the accept that follows.
        let _waited = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::NONE);
    }

    /// Replaces the shared socket. The new one listens before the shared one is shut down where the kernel allows
    /// both, which it does for sockets of one user; else right after.
    fn part(&self, to: &UnboundedSender<Client>) -> io::Result<()> {
        let Self::Tcp(shared, true) = self else { return Ok(()) };
        let port = shared.local_addr()?.port();
        setsockopt(shared, ReuseAddr, &true)?;
        setsockopt(shared, ReusePort, &true)?;
        let beside = beside(port);
        shutdown(shared.as_raw_fd(), Shutdown::Read)?;
        let begun = Instant::now();
        let own = loop {
            match beside.is_ok() {
                true => break beside?,
                false => match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                    Err(err) if err.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < GIVES_UP => {
                        thread::sleep(AGAIN);
                    }
                    bound => break bound?,
                },
            }
        };
        begin(Arc::new(Self::Tcp(own, false)), to.clone())
    }
}

/// A socket that listens on a port that another socket listens on too.
fn beside(port: u16) -> io::Result<TcpListener> {
    let own = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&own, ReuseAddr, &true)?;
    setsockopt(&own, ReusePort, &true)?;
    bind(own.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
    listen(&own, Backlog::MAXCONN)?;
    Ok(own.into())
}

/// The sockets to listen with: copies of the instance's where the kernel allows them, else one of its own.
fn doors(listen: &Address, shim: Option<i32>) -> io::Result<Vec<Door>> {
    let port = match listen {
        Address::Port(port) => *port,
        Address::Socket(path) => return Ok(vec![Door::Unix(in_place_of(path)?)]),
    };
    let begun = Instant::now();
    // Only once: the kernel would refuse again.
    let mut shim = shim;
    loop {
        if let Some(shim) = shim.take() {
            let copies = copies(listen, shim)?;
            if !copies.is_empty() {
                return Ok(copies.into_iter().map(|fd| Door::Tcp(fd.into(), true)).collect());
            }
        }
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(vec![Door::Tcp(listener, false)]),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < GIVES_UP => {
                thread::sleep(AGAIN);
            }
            Err(err) => return Err(err),
        }
    }
}

/// Listens at the path. The file is replaced by a rename, so there is always a socket; clients of the former one stay
/// connected.
fn in_place_of(path: &Path) -> io::Result<UnixListener> {
    let temporary = path.with_extension("relay");
    match fs::remove_file(&temporary) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

/// A copy of each socket below the shim that listens at the address; none if the kernel refuses one of them, since
/// nobody would accept from the sockets that were not copied.
fn copies(listen: &Address, shim: i32) -> io::Result<Vec<OwnedFd>> {
    let inodes: BTreeSet<u64> = ports::listening_at(listen)?.into_iter().collect();
    let mut copied = BTreeSet::new();
    let mut copies = Vec::new();
    for one in tree::descendants(shim)? {
        for (fd, inode) in sockets_of(one.pid).into_iter().flatten() {
            if inodes.contains(&inode) && copied.insert(inode) {
                match copy(one, fd) {
                    Ok(copy) => copies.push(copy),
                    Err(err) => {
                        eprintln!("bgd relay: pid {} keeps its socket to itself: {err}", one.pid);
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }
    Ok(if copied == inodes { copies } else { Vec::new() })
}

fn copy(of: Process, fd: i32) -> io::Result<OwnedFd> {
    of.pidfd()?.ok_or(io::ErrorKind::NotFound)?.duplicate(fd)
}

/// Runs one task per connection. A connection that can't be passed on is closed, as a dead instance would do.
async fn pass_on(mut accepted: UnboundedReceiver<Client>, to: Address) {
    while let Some(client) = accepted.recv().await {
        let to = to.clone();
        tokio::spawn(async move {
            // Each side learns of the end of a connection by itself.
            let _ended = relay(client, &to).await;
        });
    }
}

async fn relay(client: Client, to: &Address) -> io::Result<()> {
    match client {
        Client::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            join(tokio::net::TcpStream::from_std(stream)?, to).await
        }
        Client::Unix(stream) => {
            stream.set_nonblocking(true)?;
            join(tokio::net::UnixStream::from_std(stream)?, to).await
        }
    }
}

async fn join(
    mut client: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    to: &Address,
) -> io::Result<()> {
    match to {
        Address::Port(port) => {
            let mut app = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).await?;
            app.set_nodelay(true)?;
            tokio::io::copy_bidirectional(&mut client, &mut app).await?;
        }
        Address::Socket(path) => {
            let mut app = tokio::net::UnixStream::connect(path).await?;
            tokio::io::copy_bidirectional(&mut client, &mut app).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_on_the_command_line_is_read_back_as_it_was() {
        for given in [Address::Port(9501), Address::Socket("/run/bgd/a/shop/blue.sock".into())] {
            let line = arguments(&given, &Address::Port(1), Some(7));
            assert_eq!((line[0].as_str(), address(&line[1]), line[3].as_str()), (ROLE, given, "7"));
        }
    }
}
