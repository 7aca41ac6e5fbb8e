//! Where the colors of an app listen: each instance at one address after its color's first. Made from the settings,
//! asked by fronts and by whoever starts and probes instances.

use std::path::{Path, PathBuf};

use super::{address::Address, ids::Color};

/// The most instances that a color can have.
pub const MOST_INSTANCES: u16 = 64;

/// Where the colors of an app listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Of blue's first instance.
    pub blue: Address,
    /// Of green's first instance.
    pub green: Address,
    /// How many instances each has.
    pub each: u16,
}

impl Addresses {
    /// Where a color's first instance listens.
    pub fn of(&self, color: Color) -> &Address {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }

    /// Where one of a color's instances listens, counted from 0.
    pub fn nth(&self, color: Color, index: u16) -> Address {
        match self.of(color) {
            Address::Port(first) => Address::Port(first.saturating_add(index)),
            Address::Socket(first) => Address::Socket(socket_of(first, index)),
        }
    }

    /// Where all of a color's instances listen.
    pub fn all(&self, color: Color) -> impl Iterator<Item = Address> {
        (0..self.each).map(move |index| self.nth(color, index))
    }

    /// The color that listens there, if it is one of the two.
    pub fn color(&self, address: &Address) -> Option<Color> {
        Color::ALL.into_iter().find(|color| self.all(*color).any(|one| one == *address))
    }
}

/// The socket of one of several instances, counted from 0: `blue.sock`, `blue.2.sock`.
pub(crate) fn socket_of(first: &Path, index: u16) -> PathBuf {
    if index == 0 { first.to_owned() } else { first.with_extension(format!("{}.sock", index + 1)) }
}
