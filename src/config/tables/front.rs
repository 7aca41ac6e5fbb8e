//! `[app.NAME.front]`: which front, and only the keys that it has. What a kind of front has and allows stands in the table
//! of that kind.

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

/// A kind of front, by its table.
pub(super) struct Kind {
    /// The value of `type`.
    pub name: &'static str,
    /// The keys of this kind that are written.
    pub written: fn(&RawFront) -> Vec<(&'static str, &Span)>,
    /// What stands in place of a key of another kind, where this one has something.
    pub own_way: fn(&str) -> Option<&'static str>,
    /// Judges the keys of this kind; `None` when they are wrong as a whole.
    pub judge: fn(&mut Judge<'_>, &RawFront, &AppName) -> Option<FrontSettings>,
}

/// The fronts; the first one is the default.
static KINDS: [Kind; 3] = [front_builtin::KIND, front_nginx::KIND, front_haproxy::KIND];

/// What routes the public traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontSettings {
    /// bgd's own proxy process.
    Builtin {
        /// The public address.
        listen: SocketAddr,
        /// Of a client, between two pieces of its request's body.
        request_timeout: Duration,
        /// Of the app, until the head of its answer.
        response_timeout: Duration,
    },
    /// An nginx that is already there.
    Nginx(NginxSettings),
    /// A HAProxy that is already there.
    Haproxy(HaproxySettings),
}

impl FrontSettings {
    /// Whether the other settings mean another front, or another place of it; the limits of one may change at any time.
    pub fn is_another(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Builtin { listen, .. }, Self::Builtin { listen: new, .. }) => listen != new,
            (Self::Builtin { .. } | Self::Nginx(_) | Self::Haproxy(_), _) => self != other,
        }
    }

    /// Whether the app's ports stand in the front's own configuration, which bgd does not write.
    pub fn has_the_ports(&self) -> bool {
        match self {
            Self::Haproxy(_) => true,
            Self::Builtin { .. } | Self::Nginx(_) => false,
        }
    }

    /// Whether the front passes requests on by this protocol.
    pub(super) fn speaks(&self, protocol: Protocol) -> bool {
        match self {
            Self::Nginx(_) => true,
            Self::Builtin { .. } | Self::Haproxy(_) => protocol == Protocol::Http,
        }
    }

    /// Why the front can't have the old color behind the new one; `None`: it can.
    pub(super) fn no_backup(&self) -> Option<&'static str> {
        match self {
            Self::Haproxy(_) => Some(front_haproxy::NO_BACKUP),
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

    /// The longest path of a link by which the front reaches a socket; `None`: it has no such links.
    pub(super) fn longest_link(&self, instances: u16) -> Option<PathBuf> {
        match self {
            Self::Nginx(nginx) => Some(nginx.longest_link(instances)),
            Self::Builtin { .. } | Self::Haproxy(_) => None,
        }
    }

    /// Why this path can't stand in the front's configuration, with a hint; `None`: it can.
    pub(super) fn unnameable(&self, path: &Path) -> Option<(String, &'static str)> {
        match self {
            Self::Nginx(_) => front_nginx::unnameable(path),
            Self::Builtin { .. } | Self::Haproxy(_) => None,
        }
    }

    /// Where this host reaches the front, if the configuration tells.
    pub(super) fn reached_at(&self) -> Option<SocketAddr> {
        match self {
            Self::Builtin { listen, .. } => Some(front_builtin::reached_at(*listen)),
            Self::Nginx(_) | Self::Haproxy(_) => None,
        }
    }
}

/// What to write for an app of this protocol whose front does not speak it.
pub(super) fn a_front_that_speaks(protocol: Protocol) -> String {
    front_nginx::way_to_speak(protocol)
}

impl Judge<'_> {
    /// Judges the front of the app `name` at `app`; `None` when it is wrong as a whole.
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
            _ => self.word(&raw.kind, &words, "is no front", hint)?,
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

    const WRONG: &[Wrong] = &[("front.type = \"ngnix\"", "4 app.shop.front.type", "is no front: \"ngnix\"")];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
