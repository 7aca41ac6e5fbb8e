//! A real HAProxy with the configuration of `contrib/haproxy`, this machine's places in it.

use std::net::SocketAddr;

pub use super::shared::haproxy::Haproxy;
use super::{Place, shared::haproxy};

/// Starts one between this address and these two ports. `on` are first words of comments of the shipped
/// configuration: the settings below them are taken in. `None` where it is not installed.
pub fn start(place: &Place, listen: SocketAddr, ports: [u16; 2], on: &[&str]) -> Option<Haproxy> {
    if !haproxy::is_installed() {
        return None;
    }
    let text = haproxy::placed(&haproxy::shipped(on), place.dir(), &listen.to_string(), ports);
    let log = place.text("run/t/shop.sock");
    place.write("haproxy.cfg", &text.replace("/run/bgd/t/shop.sock", &log));
    Some(Haproxy::start(place.dir()))
}

/// The lines of its front in `bgd.toml`.
pub fn front(place: &Place) -> String {
    format!("type = \"haproxy\"\nsocket = \"{}\"", place.text("h.sock"))
}
