//! A relay: listens where an instance listened and passes each connection on to another one, byte by byte. The role
//! `bgd relay`, started under a shim like an instance, for a front that can't be moved (promise N4).
//!
//! ```text
//! bgd relay LISTEN TO [SHIM]      an address is a port of 127.0.0.1, or the path of a unix socket
//! ```
//! It takes a copy of the listening socket of the instance below the shim `SHIM`, where the kernel allows that: then
//! both accept, and the port is open at every moment. It does not change that socket's flags, which both share
//! (whether accept blocks is one of them). On USR1 it listens with its own socket beside the shared one, has the kernel
//! give it all new connections, waits until those in the shared socket's queue are accepted, and shuts that socket down
//! for both: the instance gets no new connections and finishes those it has. Without a copy it listens as soon as the
//! port is free.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
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
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{
            AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt,
            shutdown, socket,
            sockopt::{ReuseAddr, ReusePort},
        },
        stat::fstat,
    },
    unistd::{Uid, setfsuid},
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
/// No handshake on the loopback interface takes longer, unless the machine stands still.
const SETTLED: Duration = Duration::from_millis(50);
/// The longest wait for connections in the queue of a shared socket.
const BACKLOGGED: Duration = Duration::from_millis(500);
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
    let (doors, shared) = doors(&listen, shim)?;
    let doors: Vec<Arc<RelaySocket>> = doors.into_iter().map(Arc::new).collect();
    for door in &doors {
        begin(door.clone(), if shared { ACCEPTORS } else { 1 }, &sender)?;
    }
    println!("relays {} to {}", listen.named(), to.named());
    let shared = if shared { doors } else { Vec::new() };
    runtime.block_on(async {
        tokio::join!(pass_on(accepted, to), until_alone(alone, shared, sender));
    });
    Ok(())
}

/// Starts the threads that accept. The kernel gives a connection to the longest waiter: many waiting threads leave the
/// instance beside them few.
fn begin(door: Arc<RelaySocket>, threads: usize, to: &UnboundedSender<RelayClient>) -> io::Result<()> {
    (0..threads).try_for_each(|_| {
        let (door, to) = (door.clone(), to.clone());
        thread::Builder::new().name("accept".to_owned()).spawn(move || door.accept(&to)).map(drop)
    })
}

/// On USR1, replaces the shared sockets by one of its own.
async fn until_alone(mut told: Signal, mut shared: Vec<Arc<RelaySocket>>, to: UnboundedSender<RelayClient>) {
    while told.recv().await.is_some() {
        let sockets = std::mem::take(&mut shared);
        let to = to.clone();
        // It sleeps, and what was accepted is passed on meanwhile.
        let parted = tokio::task::spawn_blocking(move || part(&sockets, &to)).await;
        if let Err(err) = parted.unwrap_or_else(|err| Err(io::Error::other(err))) {
            eprintln!("bgd relay: has no socket of its own: {}", chain(&err));
        }
    }
}

fn address(text: &str) -> Address {
    text.parse().map_or_else(|_| Address::Socket(text.into()), Address::Port)
}

/// A client of the relay.
enum RelayClient {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A listening socket.
enum RelaySocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl RelaySocket {
    /// Accepts until the socket is shut down. The other process may be faster at a shared socket; if that is
    /// non-blocking, waits in poll.
    fn accept(&self, to: &UnboundedSender<RelayClient>) {
        loop {
            let accepted = match self {
                Self::Tcp(listener) => listener.accept().map(|(stream, _)| RelayClient::Tcp(stream)),
                Self::Unix(listener) => listener.accept().map(|(stream, _)| RelayClient::Unix(stream)),
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

impl RelaySocket {
    fn wait(&self) {
        // A failed wait is tried again by the accept that follows.
        let _waited = self.is_waited_at(PollTimeout::NONE);
    }

    /// Whether a connection waits to be accepted.
    fn is_waited_at(&self, at_most: PollTimeout) -> bool {
        poll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], at_most).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for RelaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Replaces the shared sockets. If the kernel lets no other socket listen beside them, the port is closed for an
/// instant.
fn part(shared: &[Arc<RelaySocket>], to: &UnboundedSender<RelayClient>) -> io::Result<()> {
    let tcp = |door: &Arc<RelaySocket>| match &**door {
        RelaySocket::Tcp(listener) => listener.local_addr().ok(),
        RelaySocket::Unix(_) => None,
    };
    let addresses: Vec<SocketAddr> = shared.iter().filter_map(tcp).collect();
    let Some(port) = addresses.first().map(SocketAddr::port) else { return Ok(()) };
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let beside = beside(shared, own).and_then(|listener| {
        // The kernel prefers the exact address to a wildcard. Among sockets of one address it takes the one at this
        // index, and the newest is the last.
        prefer(&listener, addresses.iter().filter(|it| **it == SocketAddr::V4(own)).count())?;
        begin(Arc::new(RelaySocket::Tcp(listener)), 1, to)
    });
    match &beside {
        Ok(()) => until_accepted(shared),
        Err(err) => eprintln!("bgd relay: can't listen beside the instance: {err}"),
    }
    for door in shared {
        shutdown(door.as_fd().as_raw_fd(), Shutdown::Read)?;
    }
    match beside {
        Ok(()) => Ok(()),
        Err(_) => begin(Arc::new(RelaySocket::Tcp(bound(own)?)), 1, to),
    }
}

/// Waits until no connection has come to the sockets for a while: a handshake that began before the other socket was
/// there ends at these.
fn until_accepted(shared: &[Arc<RelaySocket>]) {
    let begun = Instant::now();
    let mut quiet = Instant::now();
    while quiet.elapsed() < SETTLED && begun.elapsed() < BACKLOGGED {
        if shared.iter().any(|door| door.is_waited_at(PollTimeout::ZERO)) {
            quiet = Instant::now();
        }
        thread::sleep(AGAIN);
    }
}

/// A socket that listens at an address at which the shared ones listen too. The kernel allows that to sockets of one
/// user.
fn beside(shared: &[Arc<RelaySocket>], at: SocketAddrV4) -> io::Result<TcpListener> {
    let Some(first) = shared.first() else { return Err(io::ErrorKind::NotFound.into()) };
    let user = Uid::from_raw(fstat(first.as_fd())?.st_uid);
    for door in shared {
        setsockopt(&door.as_fd(), ReuseAddr, &true)?;
        setsockopt(&door.as_fd(), ReusePort, &true)?;
    }
    // A socket belongs to the file system user of the thread that makes it.
    let before = setfsuid(user);
    let made = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    setfsuid(before);
    let own = made?;
    setsockopt(&own, ReuseAddr, &true)?;
    setsockopt(&own, ReusePort, &true)?;
    bind(own.as_raw_fd(), &SockaddrIn::from(at))?;
    listen(&own, Backlog::MAXCONN)?;
    Ok(own.into())
}

/// Has the kernel give each new connection to one of the sockets that listen at the address of `listener`.
fn prefer(listener: &TcpListener, index: usize) -> io::Result<()> {
    let k = u32::try_from(index).map_err(io::Error::other)?;
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(io::Error::other)?;
    let mut program = [libc::sock_filter { code, jt: 0, jf: 0, k }];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF);
    // SAFETY: the kernel copies the one instruction that the live `program` points to, and the size is that of the
    // structure.
    let set =
        unsafe { libc::setsockopt(listener.as_raw_fd(), level, option, (&raw const program).cast(), size) };
    Errno::result(set).map(drop).map_err(io::Error::from)
}

/// Listens as soon as the address is free.
fn bound(at: SocketAddrV4) -> io::Result<TcpListener> {
    let begun = Instant::now();
    loop {
        match TcpListener::bind(at) {
            Err(err) if err.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < GIVES_UP => {
                thread::sleep(AGAIN);
            }
            bound => return bound,
        }
    }
}

/// The sockets to listen with, and whether they are copies of the instance's; where the kernel allows no copies, one of
/// its own.
fn doors(listen: &Address, shim: Option<i32>) -> io::Result<(Vec<RelaySocket>, bool)> {
    let port = match listen {
        Address::Port(port) => *port,
        Address::Socket(path) => return Ok((vec![RelaySocket::Unix(in_place_of(path)?)], false)),
    };
    let copies = shim.map(|shim| copies(listen, shim)).transpose()?.unwrap_or_default();
    match copies.is_empty() {
        false => Ok((copies.into_iter().map(|fd| RelaySocket::Tcp(fd.into())).collect(), true)),
        true => Ok((vec![RelaySocket::Tcp(bound(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?)], false)),
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
async fn pass_on(mut accepted: UnboundedReceiver<RelayClient>, to: Address) {
    while let Some(client) = accepted.recv().await {
        let to = to.clone();
        tokio::spawn(async move {
            // Each side learns of the end of a connection by itself.
            let _ended = relay(client, &to).await;
        });
    }
}

async fn relay(client: RelayClient, to: &Address) -> io::Result<()> {
    match client {
        RelayClient::Tcp(stream) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            join(tokio::net::TcpStream::from_std(stream)?, to).await
        }
        RelayClient::Unix(stream) => {
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
