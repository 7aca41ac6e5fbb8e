//! `[app.NAME.front]`: the kind of front, and only its keys. The keys and rules of a kind are in the file of that
//! kind.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Table as _,
    front_builtin::{self, RawBuiltin},
    front_haproxy::{self, HaproxySettings, RawHaproxy},
    front_nginx::{self, NginxSettings, RawNginx},
    protocol::Protocol,
};
use crate::{
    config::{judge::Judge, nearest::meant, read::Given, span::Span},
    rules::ids::AppName,
};

table! {
    /// `[app.NAME.front]`.
    RawFront { kind = "type": String, address: String }
    with { builtin: RawBuiltin, nginx: RawNginx, haproxy: RawHaproxy }
}

/// The keys and rules of one kind of front.
pub(super) struct FrontKind {
    /// The value of `type`.
    pub name: &'static str,
    /// The keys of this kind that are written.
    pub written: fn(&RawFront) -> Vec<(&'static str, &Span)>,
    /// The hint for a key of another kind, if this kind has an equivalent.
    pub own_way: fn(&str) -> Option<&'static str>,
    /// Checks the keys of this kind; `None` if no settings can be made of them.
    pub judge: fn(&mut Judge<'_>, &RawFront, &AppName) -> Option<FrontSettings>,
}

/// The fronts; the first one is the default.
static KINDS: [FrontKind; 3] = [front_builtin::KIND, front_nginx::KIND, front_haproxy::KIND];

/// The settings of the front, which routes the public traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontSettings {
    /// bgd's own proxy process.
    Builtin {
        /// The public address.
        listen: SocketAddr,
        /// Longest wait for a client between two pieces of its request's body.
        request_timeout: Duration,
        /// Longest wait for the head of the app's response.
        response_timeout: Duration,
    },
    /// An existing nginx.
    Nginx(NginxSettings),
    /// An existing HAProxy.
    Haproxy(HaproxySettings),
}

impl FrontSettings {
    /// Whether `other` is another front or at another address. A change of timeouts alone does not make it another.
    pub fn is_another(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Builtin { listen, .. }, Self::Builtin { listen: new, .. }) => listen != new,
            (Self::Builtin { .. } | Self::Nginx(_) | Self::Haproxy(_), _) => self != other,
        }
    }

    /// Whether the app's ports are in the front's own configuration, which bgd does not write.
    pub fn has_the_ports(&self) -> bool {
        match self {
            Self::Haproxy(_) => true,
            Self::Builtin { .. } | Self::Nginx(_) => false,
        }
    }

    /// Whether the front can forward requests in this protocol.
    pub(super) fn speaks(&self, protocol: Protocol) -> bool {
        match self {
            Self::Nginx(_) => true,
            Self::Builtin { .. } | Self::Haproxy(_) => protocol == Protocol::Http,
        }
    }

    /// Why the front can't use the old color as backup of the new one; `None`: it can.
    pub(super) fn no_backup(&self) -> Option<&'static str> {
        match self {
            Self::Haproxy(_) => Some(front_haproxy::NO_BACKUP),
            Self::Builtin { .. } | Self::Nginx(_) => None,
        }
    }

    /// Why the front can't serve a static site, with a hint; `None`: it can.
    pub(super) fn no_site(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Haproxy(_) => Some(front_haproxy::NO_FILES),
            Self::Nginx(_) => Some(front_nginx::NO_SITE),
            Self::Builtin { .. } => None,
        }
    }

    /// Why the front can't serve files by itself, with a hint; `None`: it can.
    pub(super) fn no_files(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Haproxy(_) => Some(front_haproxy::NO_FILES),
            Self::Builtin { .. } | Self::Nginx(_) => None,
        }
    }

    /// Why the front can't have so many instances of a color, with a hint; `None`: it can.
    pub(super) fn no_room(&self, instances: u16) -> Option<(String, &'static str)> {
        match self {
            Self::Haproxy(haproxy) => haproxy.servers.no_room(instances),
            Self::Builtin { .. } | Self::Nginx(_) => None,
        }
    }

    /// The longest path of a link through which the front reaches a socket; `None`: it uses no links.
    pub(super) fn longest_link(&self, instances: u16) -> Option<PathBuf> {
        match self {
            Self::Nginx(nginx) => Some(nginx.longest_link(instances)),
            Self::Builtin { .. } | Self::Haproxy(_) => None,
        }
    }

    /// Why this path can't be in the front's configuration, with a hint; `None`: it can.
    pub(super) fn unnameable(&self, path: &Path) -> Option<(String, &'static str)> {
        match self {
            Self::Nginx(_) => front_nginx::unnameable(path),
            Self::Builtin { .. } | Self::Haproxy(_) => None,
        }
    }

    /// The address on which this host reaches the front, if the configuration contains it.
    pub(super) fn reached_at(&self) -> Option<SocketAddr> {
        match self {
            Self::Builtin { listen, .. } => Some(front_builtin::reached_at(*listen)),
            Self::Nginx(_) | Self::Haproxy(_) => None,
        }
    }
}

/// The hint for an app whose front does not support this protocol.
pub(super) fn a_front_that_speaks(protocol: Protocol) -> String {
    front_nginx::way_to_speak(protocol)
}

impl Judge<'_> {
    /// Checks the front of the app `name` at `app`; `None` if no settings can be made of it.
    pub(super) fn front(
        &mut self,
        given: Given<RawFront>,
        name: &AppName,
        app: &Span,
    ) -> Option<FrontSettings> {
        if matches!(given, Given::Unreadable(_)) {
            return None;
        }
        let raw = RawFront::or_empty(given, app.absent("front"));
        let names = KINDS.each_ref().map(|kind| kind.name);
        let words: Vec<_> = KINDS.iter().map(|kind| (kind.name, kind)).collect();
        let hint = |word: &str| meant(word, &names, "use \"builtin\", \"nginx\" or \"haproxy\"");
        let kind = match raw.kind {
            Given::Absent => &KINDS[0],
            _ => self.word(&raw.kind, &words, "is not a front", hint)?,
        };
        for other in KINDS.iter().filter(|other| other.name != kind.name) {
            for (key, at) in (other.written)(&raw) {
                let what = format!("has no effect with the {} front", kind.name);
                let hint = format!("write type = {:?}, or leave it out", other.name);
                self.notes.error(at, what, (kind.own_way)(key).unwrap_or(&hint));
            }
        }
        (kind.judge)(self, &raw, name)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] =
        &[("front.type = \"ngnix\"", "4 app.shop.front.type", "is not a front: \"ngnix\"")];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
