//! Parses `show servers state`, and derives what a server's state means for the traffic. Pure. The format has a version
//! in its first line and the names of its columns in the second; columns are found by name, so that new ones do no
//! harm.

use std::net::{IpAddr, SocketAddr};

use crate::rules::address::Address;

/// Bits of the administrative state for maintenance: forced by a command (such as bgd's), by the configuration,
/// inherited, or for lack of an address.
const MAINT: u8 = 0x01 | 0x02 | 0x20 | 0x40;
/// Bits of the administrative state for draining: forced by a command, or inherited from a tracked server.
const DRAIN: u8 = 0x08 | 0x10;
/// Bit of the check's state: the configuration has a check.
const CHECK_CONFIGURED: u8 = 0x02;
/// Bit of the check's state: the check runs for this server.
const CHECK_ENABLED: u8 = 0x04;

/// HAProxy's numbers for the last check's result.
const FAILED: u8 = 2;
const PASSED: u8 = 3;
/// HAProxy's number for the last check's status. From this one on, the server answered, but wrongly or too late.
const ANSWERED: u8 = 12;

/// One server of the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub name: String,
    pub address: String,
    pub port: u16,
    /// HAProxy's number for the operational state; 0 is stopped: in maintenance, or down by its check.
    pub operation: u8,
    pub admin: u8,
    /// The weight in force now, 0 to 256.
    pub weight: u16,
    /// The weight in the configuration.
    pub initial_weight: u16,
    pub check_state: u8,
    /// Counts up to rise + fall - 1 with checks that pass; below rise the server is down.
    pub check_health: u16,
    /// Result of the last check, which stays while the server is in maintenance; 0 where HAProxy does not report it.
    pub check_result: u8,
    pub check_status: u8,
    pub agent_state: u8,
}

/// What a server may receive by its administrative state, whether it is up or down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Availability {
    /// Nothing.
    Maint,
    /// Only clients that a persistence cookie binds to it.
    Drain,
    /// Its part of the traffic, by weight.
    Ready,
}

impl Server {
    pub(super) fn standing(&self) -> Availability {
        match (self.admin & MAINT, self.admin & DRAIN) {
            (0, 0) => Availability::Ready,
            (0, _) => Availability::Drain,
            _ => Availability::Maint,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.standing() == Availability::Ready
    }

    /// The server's address when it is not 127.0.0.1, where bgd's probes reached the app; `None` for a unix socket.
    pub(super) fn elsewhere(&self) -> Option<SocketAddr> {
        let address = self.address.parse().ok().filter(|address| *address != IpAddr::from([127, 0, 0, 1]))?;
        Some(SocketAddr::new(address, self.port))
    }

    /// Whether HAProxy holds the server for up; without a check, a server that is not in maintenance is always up.
    pub(super) fn is_up(&self) -> bool {
        self.operation != 0
    }

    /// Whether a check of HAProxy's runs for the server.
    pub(super) fn is_checked(&self) -> bool {
        self.check_state & CHECK_ENABLED != 0
    }

    /// Whether an agent on the app's host may take the server out.
    pub(super) fn has_agent(&self) -> bool {
        self.agent_state & CHECK_ENABLED != 0
    }

    /// Whether the server passed its last check, however long ago.
    pub(super) fn passed(&self) -> bool {
        self.check_result == PASSED
    }

    /// Whether the app answered the last check and HAProxy refused the answer.
    pub(super) fn was_refused(&self) -> bool {
        self.has_check() && self.check_result == FAILED && self.check_status >= ANSWERED
    }

    /// Whether the server has a check in the configuration, even when it is in maintenance and the check does not run.
    pub(super) fn has_check(&self) -> bool {
        self.check_state & CHECK_CONFIGURED != 0
    }

    /// Whether the address belongs to this host; an address that is not an IP (a unix socket) does.
    pub(super) fn is_local(&self) -> bool {
        self.address.parse::<IpAddr>().map_or(true, super::is_local)
    }

    /// Whether the server is at this address. A port may be any host's: `doctor` reports a server on another host.
    pub(super) fn is_at(&self, address: &Address) -> bool {
        match address {
            Address::Port(port) => self.port == *port,
            // The runtime API shows that it is a socket, but not its path.
            Address::Socket(_) => self.is_socket(),
        }
    }

    fn is_socket(&self) -> bool {
        self.address == "-" && self.port == 0
    }

    /// The server's address, as text for messages.
    pub(super) fn place(&self) -> String {
        match self.is_socket() {
            true => "a unix socket".to_owned(),
            false => format!("{}:{}", self.address, self.port),
        }
    }

    /// The server's name and state, as text for messages: `blue is ready with weight 100`.
    pub(super) fn said(&self) -> String {
        match self.standing() {
            Availability::Maint => format!("{} is in maintenance", self.name),
            Availability::Drain => format!("{} is draining", self.name),
            Availability::Ready => format!("{} is ready with weight {}", self.name, self.weight),
        }
    }
}

/// All servers of one answer; the error is the defect of the answer.
pub(super) fn parse(text: &str) -> Result<Vec<Server>, String> {
    let mut lines = text.lines();
    let version = lines.next().unwrap_or_default();
    if version.trim() != "1" {
        return Err(format!("version {version:?}, not 1"));
    }
    let header = lines.next().and_then(|line| line.strip_prefix("# ")).ok_or("it has no header")?;
    let columns: Vec<&str> = header.split(' ').collect();
    lines.filter(|line| !line.trim().is_empty()).map(|line| server(line, &columns)).collect()
}

fn server(line: &str, columns: &[&str]) -> Result<Server, String> {
    let values: Vec<&str> = line.split(' ').collect();
    let text = |name: &str| {
        let at = columns.iter().position(|column| *column == name);
        at.and_then(|at| values.get(at)).copied().ok_or(format!("no {name} in {line:?}"))
    };
    // Columns that not every version of HAProxy has.
    let rest = |name: &str| text(name).ok().and_then(|value| value.parse().ok()).unwrap_or(0);
    Ok(Server {
        name: text("srv_name")?.to_owned(),
        address: text("srv_addr")?.to_owned(),
        port: number(text("srv_port")?)?,
        operation: number(text("srv_op_state")?)?,
        admin: number(text("srv_admin_state")?)?,
        weight: number(text("srv_uweight")?)?,
        initial_weight: number(text("srv_iweight")?)?,
        check_state: number(text("srv_check_state")?)?,
        check_health: number(text("srv_check_health")?)?,
        check_result: rest("srv_check_result"),
        check_status: rest("srv_check_status"),
        agent_state: rest("srv_agent_state"),
    })
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number that fits"))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer of Debian 12's HAProxy.
    const ANSWER: &str = "1\n\
        # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
        srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
        srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port \
        srv_check_addr srv_agent_addr srv_agent_port\n\
        3 shop 1 blue 127.0.0.1 2 0 1 1 0 6 3 4 6 0 0 0 - 9501 - 0 0 - - 0\n\
        3 shop 2 green 127.0.0.1 0 5 50 50 1 1 0 0 8 0 0 0 - 9502 - 0 0 - - 0\n\n";

    /// A server that is ready.
    pub fn ready(name: &str, weight: u16) -> Server {
        Server { name: name.to_owned(), weight, ..parse(ANSWER).unwrap().remove(0) }
    }

    /// A server in maintenance.
    pub fn maint(name: &str, weight: u16) -> Server {
        Server { name: name.to_owned(), weight, ..parse(ANSWER).unwrap().remove(1) }
    }

    /// A server that is ready, and down by its check.
    pub fn down(server: Server) -> Server {
        Server { operation: 0, ..server }
    }

    #[test]
    fn the_states_of_both_servers_are_read() {
        let servers = parse(ANSWER).unwrap();
        let [blue, green] = &servers[..] else { panic!("{servers:?}") };
        assert_eq!((blue.name.as_str(), blue.address.as_str(), blue.port), ("blue", "127.0.0.1", 9501));
        assert_eq!((blue.standing(), blue.weight, blue.is_up()), (Availability::Ready, 1, true));
        assert_eq!((green.port, green.weight, green.initial_weight), (9502, 50, 50));
        assert_eq!((green.standing(), green.is_up()), (Availability::Maint, false));
        assert!(blue.is_checked() && !green.is_checked() && blue.is_local());
    }

    #[test]
    fn a_server_that_was_disabled_in_the_configuration_and_enabled_since_is_ready() {
        let of = |admin| Server { admin, ..ready("blue", 1) }.standing();
        assert_eq!(of(0x04), Availability::Ready);
        assert_eq!(of(0x08), Availability::Drain);
        assert_eq!(of(0x0c), Availability::Drain);
        assert_eq!(of(0x09), Availability::Maint);
        assert_eq!(of(0x02), Availability::Maint);
        assert_eq!(of(0x20), Availability::Maint);
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(answer in "(1\n# srv_name srv_addr( srv_[a-z_]{1,12}){0,9}\n)?\\PC{0,200}") {
            let _ = parse(&answer);
        }
    }

    #[test]
    fn a_server_on_a_unix_socket_is_told_from_one_on_a_port() {
        let socket = Address::Socket("/run/bgd/a/shop/blue.sock".into());
        let port = ready("blue", 1);
        assert!(
            port.is_at(&Address::Port(9501)) && !port.is_at(&Address::Port(9502)) && !port.is_at(&socket)
        );
        let unix = Server { address: "-".to_owned(), port: 0, ..port };
        assert!(unix.is_at(&socket) && !unix.is_at(&Address::Port(9501)) && unix.is_local());
    }

    #[test]
    fn columns_are_found_by_their_names() {
        let moved = "1\n# srv_port srv_name srv_addr srv_uweight srv_iweight srv_op_state srv_admin_state \
                     srv_check_health srv_check_state new\n7 blue ::1 256 3 2 0 4 6 x\n";
        let servers = parse(moved).unwrap();
        assert_eq!((servers[0].port, servers[0].weight, servers[0].initial_weight), (7, 256, 3));
    }

    #[test]
    fn an_answer_that_is_something_else_says_what_is_wrong() {
        assert_eq!(parse("").unwrap_err(), "version \"\", not 1");
        assert_eq!(parse("2\n").unwrap_err(), "version \"2\", not 1");
        assert_eq!(parse("1\n").unwrap_err(), "it has no header");
        let err = parse(&ANSWER.replace(" 9501 ", " 95010 ")).unwrap_err();
        assert_eq!(err, "\"95010\" is not a number that fits");
        assert!(parse("1\n# srv_name\nblue\n").unwrap_err().starts_with("no srv_addr in"));
    }
}
