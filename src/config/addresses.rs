//! Where the instances of an app listen: on ports that follow each other from each color's first, or on unix sockets.
//! Part of the settings, which is where others find it; what is allowed is judged by `validate`.

use std::path::PathBuf;

use crate::rules::{
    address::Address,
    addresses::{Addresses, socket_of},
    ids::Color,
};

/// The two ports of an app: where the ports of each color begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Port of blue.
    pub blue: u16,
    /// Port of green.
    pub green: u16,
}

impl Ports {
    /// The port of a color's first instance.
    pub fn of(self, color: Color) -> u16 {
        match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        }
    }

    /// The port of one of a color's instances, counted from 0.
    pub fn nth(self, color: Color, index: u16) -> u16 {
        self.of(color).saturating_add(index)
    }

    /// The color of a port, if it is one of the two.
    pub fn color(self, port: u16) -> Option<Color> {
        Color::ALL.into_iter().find(|color| self.of(*color) == port)
    }
}

/// Whether the instances of an app listen on ports or on unix sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On the app's ports.
    Ports,
    /// On unix sockets.
    Sockets(Sockets),
}

/// The unix sockets of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sockets {
    /// Where they are, absolute; the app's own.
    pub directory: PathBuf,
}

impl Sockets {
    /// The socket of a color.
    pub fn of(&self, color: Color) -> PathBuf {
        self.directory.join(format!("{color}.sock"))
    }

    /// The one with the longest path, of so many instances.
    pub fn longest(&self, instances: u16) -> PathBuf {
        socket_of(&self.of(Color::Green), instances.saturating_sub(1))
    }
}

impl From<&Sockets> for Addresses {
    fn from(sockets: &Sockets) -> Self {
        let of = |color| Address::Socket(sockets.of(color));
        Self { blue: of(Color::Blue), green: of(Color::Green), each: 1 }
    }
}

impl From<Ports> for Addresses {
    fn from(ports: Ports) -> Self {
        Self { blue: Address::Port(ports.blue), green: Address::Port(ports.green), each: 1 }
    }
}
