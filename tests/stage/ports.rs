//! Ports for one test alone: below the range of outgoing connections, and reserved over all test processes of
//! this machine by an abstract socket each, so that a port that is free for a moment (an app between two
//! releases) is not taken by another test.
use std::{
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

const FIRST: u16 = 20_000;
const LAST: u16 = 31_000;

/// A port and its reservation.
pub struct Port {
    pub number: u16,
    _reserved: UnixListener,
}

pub fn reserve() -> Port {
    let span = u32::from(LAST - FIRST);
    let start = std::process::id().wrapping_mul(131) % span;
    let numbers = (0..span).map(|n| FIRST + u16::try_from((start + n) % span).expect("in the range"));
    numbers.into_iter().find_map(one).expect("a free port")
}

pub fn reserve_all(count: usize) -> Vec<Port> {
    (0..count).map(|_| reserve()).collect()
}

/// So many until this process ends.
pub fn reserve_for_good<const N: usize>() -> [u16; N] {
    [(); N].map(|()| Box::leak(Box::new(reserve())).number)
}

/// Ports that follow each other.
pub fn reserve_row(number: u16) -> Vec<Port> {
    let first = reserve().number;
    let mut starts = (first..LAST).chain(FIRST..first);
    let row = |start: u16| (start..start + number).map(one).collect::<Option<Vec<Port>>>();
    starts.find_map(row).expect("free ports in a row")
}

fn one(number: u16) -> Option<Port> {
    let name = SocketAddr::from_abstract_name(format!("bgd-test-port-{number}")).ok()?;
    let reserved = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind(("127.0.0.1", number)).ok()?;
    Some(Port { number, _reserved: reserved })
}

/// A file of `apps.d` for an app that ends at once, with its ports.
pub fn app_file(remote: &std::path::Path) -> (String, [Port; 3]) {
    let ports = [reserve(), reserve(), reserve()];
    let text = format!(
        "remote = \"{}\"\nstart = \"true\"\nports = [{}, {}]\nfront.listen = \"127.0.0.1:{}\"\n",
        remote.display(),
        ports[0].number,
        ports[1].number,
        ports[2].number
    );
    (text, ports)
}
