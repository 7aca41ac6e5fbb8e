//! The addresses of an app's colors: the instances of a color listen on consecutive ports or numbered sockets, from its
//! first address on. Made from the settings; used by fronts, by probes, and to start instances.

use std::path::{Path, PathBuf};

use super::{address::Address, ids::Color};

/// The most instances that a color can have.
pub const MOST_INSTANCES: u16 = 64;

/// The addresses of an app's colors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The address of blue's first instance.
    pub blue: Address,
    /// The address of green's first instance.
    pub green: Address,
    /// How many instances each color has.
    pub each: u16,
}

impl Addresses {
    /// The address of a color's first instance.
    pub fn of(&self, color: Color) -> &Address {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// The address of one of a color's instances, counted from 0.
    pub fn nth(&self, color: Color, index: u16) -> Address {
        match self.of(color) {
            Address::Port(first) => Address::Port(first.saturating_add(index)),
            Address::Socket(first) => Address::Socket(socket_of(first, index)),
        }
    }

    /// The addresses of all of a color's instances.
    pub fn all(&self, color: Color) -> impl Iterator<Item = Address> {
        (0..self.each).map(move |index| self.nth(color, index))
    }

    /// The color with an instance at this address, if there is one.
    pub fn color(&self, address: &Address) -> Option<Color> {
        Color::ALL.into_iter().find(|color| self.all(*color).any(|one| one == *address))
    }
}

/// The socket of one of several instances, counted from 0: `blue.sock`, `blue.2.sock`.
pub(crate) fn socket_of(first: &Path, index: u16) -> PathBuf {
    if index == 0 { first.to_owned() } else { first.with_extension(format!("{}.sock", index + 1)) }
}
