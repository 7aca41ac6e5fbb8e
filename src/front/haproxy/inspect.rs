//! Checks of HAProxy for `bgd doctor` that a flip does not need: where its servers are, what their checks do, and how
//! the backend balances. Changes nothing.

use std::path::Path;

use super::{Haproxy, HaproxyError, figures::StatTable, servers::Server};
use crate::config::settings::Sticky;

/// Connections to HAProxy after which a backend without a request counts as unused.
const ENOUGH: u64 = 10;

/// A defect of the configuration, and what to write into haproxy.cfg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDefect {
    /// The defect, as a message.
    pub said: String,
    pub hint: &'static str,
}

/// A backend's `balance` algorithm, in HAProxy's word: `roundrobin`, `source`, `hash`, …
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance(pub String);

impl Balance {
    /// Whether this algorithm keeps a client on its server, as `sticky` asks.
    fn keeps(&self, sticky: &Sticky) -> bool {
        match sticky {
            Sticky::None => true,
            Sticky::Ip => self.0 == "source",
            Sticky::Cookie(_) => ["hash", "hdr"].iter().any(|word| self.0.starts_with(word)),
        }
    }
}

impl Haproxy {
    pub async fn balance(&self) -> Result<Balance, HaproxyError> {
        let command = format!("show stat {} 2 -1", self.settings.backend);
        let text = self.socket.ask(&command).await?;
        let stat = StatTable::parse(&text).ok_or_else(|| self.garbled(&command, "it has no header"))?;
        let balance = stat.balance(&self.settings.backend);
        Ok(Balance(balance.ok_or_else(|| self.garbled(&command, "the backend is not in it"))?.to_owned()))
    }

    /// Advice when the backend got no request while the frontends had many connections.
    async fn unused(&self) -> Result<Option<ConfigDefect>, HaproxyError> {
        let stat = self.socket.ask("show stat").await?;
        let stat = StatTable::parse(&stat).ok_or_else(|| self.garbled("show stat", "it has no header"))?;
        let backend = &self.settings.backend;
        let Some((taken @ ENOUGH.., 0)) = stat.arrivals(backend) else { return Ok(None) };
        let said = format!("none of {taken} connections to haproxy came to its backend {backend}");
        Ok(Some(ConfigDefect {
            said,
            hint: "name it in a frontend: `default_backend`, or `use_backend … if …`",
        }))
    }

    /// Advice about a HAProxy that works, and would work better with another haproxy.cfg.
    pub async fn advice(&self, sticky: &Sticky) -> Result<Vec<ConfigDefect>, HaproxyError> {
        let sides = self.sides().await?;
        let mut found = Vec::new();
        for server in sides.all() {
            if !server.is_local() {
                let said = format!(
                    "haproxy's server {} is {}:{}, which is not this host",
                    self.path(&server.name),
                    server.address,
                    server.port
                );
                found.push(ConfigDefect { said, hint: "bgd starts the app on 127.0.0.1" });
            }
            if server.was_refused() {
                let check = self.counters_of(server).await?.check;
                let said = format!("haproxy's last check of {} failed: {check}", self.path(&server.name));
                let said = said.trim_end_matches([':', ' ']).to_owned();
                found.push(ConfigDefect { said, hint: super::error::CHECK });
            }
        }
        if self.settings.state_file.is_none() && !sides.all().all(Server::has_check) {
            let said = "a restarted haproxy sends requests to the color on which nothing runs, until bgd has told it";
            found.push(ConfigDefect {
                said: said.to_owned(),
                hint: "write `check` behind each server, or use `state_file`",
            });
        }
        found.extend(self.settings.state_file.as_deref().and_then(no_directory));
        found.extend(self.unused().await?);
        let balance = self.balance().await?;
        if !balance.keeps(sticky) {
            let (what, hint) = match sticky {
                Sticky::Ip => {
                    ("address", "write `balance source` and `hash-type consistent` into the backend")
                }
                Sticky::Cookie(_) | Sticky::None => (
                    "cookie",
                    "write `balance hash` of the cookie and `hash-type consistent`: contrib/haproxy has it",
                ),
            };
            let said =
                format!("clients do not stay on their side by {what}: the backend balances by {}", balance.0);
            found.push(ConfigDefect { said, hint });
        }
        Ok(found)
    }
}

fn no_directory(file: &Path) -> Option<ConfigDefect> {
    let dir = file.parent().filter(|dir| !dir.is_dir())?;
    let said = format!("haproxy's state file can't be written: no directory {}", dir.display());
    Some(ConfigDefect { said, hint: "make it, or give `state_file` another place" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hash_of_what_stays_keeps_a_client_on_its_side() {
        let keeps = |balance: &str, sticky: &Sticky| Balance(balance.to_owned()).keeps(sticky);
        let cookie = Sticky::Cookie("bgd".to_owned());
        assert!(keeps("roundrobin", &Sticky::None));
        assert!(keeps("source", &Sticky::Ip) && !keeps("roundrobin", &Sticky::Ip));
        assert!(keeps("hash", &cookie) && !keeps("source", &cookie) && !keeps("roundrobin", &cookie));
    }
}
