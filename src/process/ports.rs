//! Finds the sockets that listen at the addresses of instances, ports and unix sockets alike. Called before a start
//! and while probing. Sees this network namespace only; blocks for milliseconds: call it through `spawn_blocking`.

use std::{collections::BTreeSet, io, path::Path};

use crate::{
    os::{tcp, unix},
    rules::address::Address,
};

/// The inodes of all sockets that listen at an address of an instance.
pub fn listening_at(address: &Address) -> io::Result<Vec<u64>> {
    match address {
        Address::Port(port) => Ok(tcp::listening(*port)?.iter().map(|listener| listener.inode).collect()),
        Address::Socket(path) => unix::listening(path),
    }
}

/// The sockets that listen at one of these addresses, as address and inode; one query to the kernel covers all ports.
pub fn listening_at_any(addresses: &[Address]) -> io::Result<Vec<(Address, u64)>> {
    let ports: BTreeSet<u16> = addresses.iter().filter_map(Address::port).collect();
    let mut found = Vec::new();
    if !ports.is_empty() {
        let listeners = tcp::listening(0)?.into_iter().filter(|one| ports.contains(&one.local.port()));
        found.extend(listeners.map(|one| (Address::Port(one.local.port()), one.inode)));
    }
    let paths: BTreeSet<&Path> = addresses.iter().filter_map(Address::socket).collect();
    if !paths.is_empty() {
        let listening = unix::all_listening()?.into_iter().filter(|(path, _)| paths.contains(&**path));
        found.extend(listening.map(|(path, inode)| (Address::Socket(path), inode)));
    }
    Ok(found)
}
