//! A relay takes a port over while clients come without a pause: each connection is answered, by the instance or by the
//! relay's target.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
            sockopt::{ReuseAddr, ReusePort},
        },
    },
    unistd::{Pid, Uid, geteuid, setfsuid},
};

use super::BOUND;

const CLIENTS: usize = 6;

/// Sockets that listen as an app's may: with or without SO_REUSEPORT, several of them, as another user.
fn listening(ip: Ipv4Addr, sockets: usize, user: Option<Uid>) -> Vec<TcpListener> {
    let mut port = 0;
    let one = |_| {
        let before = user.map(setfsuid);
        let fd: OwnedFd =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        before.map(setfsuid);
        // Servers set it: without it the connections of the socket would keep others off the port for a minute.
        setsockopt(&fd, ReuseAddr, &true).unwrap();
        if sockets > 1 {
            setsockopt(&fd, ReusePort, &true).unwrap();
        }
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(ip, port))).unwrap();
        listen(&fd, Backlog::new(100).unwrap()).unwrap();
        let listener = TcpListener::from(fd);
        port = listener.local_addr().unwrap().port();
        listener
    };
    (0..sockets).map(one).collect()
}

/// Answers each client with one letter and closes, until the listener is shut down. Slow, so that clients queue.
fn answer(listener: TcpListener, letter: u8, pause: Duration) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            thread::sleep(pause);
            io::Write::write_all(&mut client, &[letter]).unwrap();
        }
    })
}

fn relay(port: u16, to: u16) -> Child {
    // This process is below its parent, as an instance is below its shim.
    let above = nix::unistd::getppid().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bgd"))
        .args(["relay", &port.to_string(), &to.to_string(), &above])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("relays "), "{said}");
    child
}

fn ask(port: u16) -> io::Result<u8> {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&at, BOUND)?;
    stream.set_read_timeout(Some(BOUND))?;
    let mut letter = [0];
    stream.read_exact(&mut letter)?;
    Ok(letter[0])
}

fn takes_over(instance: Vec<TcpListener>) {
    let port = instance[0].local_addr().unwrap().port();
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = target.local_addr().unwrap().port();
    answer(target, b'n', Duration::ZERO);
    let instance: Vec<_> =
        instance.into_iter().map(|listener| answer(listener, b'o', Duration::from_millis(2))).collect();
    let (ended, new) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (ended, new) = (ended.clone(), new.clone());
            thread::spawn(move || {
                let mut lost = Vec::new();
                while !ended.load(Ordering::SeqCst) {
                    match ask(port) {
                        Ok(letter) => drop((letter == b'n').then(|| new.fetch_add(1, Ordering::SeqCst))),
                        Err(err) => lost.push(err.to_string()),
                    }
                }
                lost
            })
        })
        .collect();
    let mut relay = relay(port, to);
    kill(Pid::from_raw(relay.id().cast_signed()), Signal::SIGUSR1).unwrap();
    let begun = Instant::now();
    for one in instance {
        while !one.is_finished() {
            assert!(begun.elapsed() < BOUND, "the instance still accepts");
            thread::sleep(Duration::from_millis(5));
        }
        one.join().unwrap();
    }
    let before = new.load(Ordering::SeqCst);
    while new.load(Ordering::SeqCst) < before + 200 {
        assert!(begun.elapsed() < BOUND, "the relay does not answer");
        thread::sleep(Duration::from_millis(5));
    }
    ended.store(true, Ordering::SeqCst);
    let lost: Vec<_> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(ask(port).unwrap(), b'n', "and nobody else");
    relay.kill().unwrap();
    relay.wait().unwrap();
    assert!(lost.is_empty(), "{} lost, the first: {}", lost.len(), lost[0]);
}

#[test]
fn n4_a_relay_takes_a_port_over_and_no_connection_is_lost() {
    takes_over(listening(Ipv4Addr::LOCALHOST, 1, None));
    takes_over(listening(Ipv4Addr::UNSPECIFIED, 1, None));
    takes_over(listening(Ipv4Addr::LOCALHOST, 3, None));
}

#[test]
fn n4_a_relay_takes_the_port_of_an_app_of_another_user_over_and_no_connection_is_lost() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    takes_over(listening(Ipv4Addr::LOCALHOST, 1, Some(Uid::from_raw(65534))));
}
