//! Parses `show stat` and `show info`. Pure. HAProxy counts requests, answers by class and errors for each server, and
//! sessions that are open now; it keeps no percentiles (for those see `report`).

use std::time::Duration;

/// Identity of a HAProxy worker process: a reload and a restart make a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaproxyProcess {
    /// The worker's pid, in its own namespace.
    pub pid: u32,
    /// Start time, as HAProxy's `Start_time_sec`; 0 when this version of HAProxy does not report it.
    pub started: u64,
}

/// HAProxy's counters of one server, or of a color's servers together, since it started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerCounters {
    /// Requests open now: in flight, or a tunnel.
    pub open: u64,
    /// Requests waiting for a free connection to the server.
    pub queued: u64,
    /// Requests sent to the server.
    pub requests: u64,
    /// Answers with a status of 500 or more.
    pub answers_5xx: u64,
    /// Connections to the server that failed.
    pub refused: u64,
    /// Answers that broke off, were invalid or did not come.
    pub broken: u64,
    /// HAProxy's words for its last check; empty when the server has none.
    pub check: String,
}

/// One `show stat` answer, a table whose columns have names.
pub(super) struct StatTable<'a> {
    columns: Vec<&'a str>,
    lines: Vec<Vec<&'a str>>,
}

impl<'a> StatTable<'a> {
    /// `None` when the answer does not begin with a header.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut lines = text.lines();
        let columns = lines.next()?.strip_prefix("# ")?.split(',').collect();
        let lines = lines.filter(|line| !line.is_empty()).map(|line| line.split(',').collect()).collect();
        Some(Self { columns, lines })
    }

    /// The counters of a server of a backend; `None` when the answer does not have that server.
    pub(super) fn server(&self, backend: &str, name: &str) -> Option<ServerCounters> {
        let line = self.line(backend, name)?;
        let count = |column| self.value(line, column).parse().unwrap_or(0);
        Some(ServerCounters {
            open: count("scur"),
            queued: count("qcur"),
            requests: count("stot"),
            answers_5xx: count("hrsp_5xx"),
            refused: count("econ"),
            broken: count("eresp"),
            check: self.checks(line),
        })
    }

    /// HAProxy's words for the last check and for the last agent check.
    fn checks(&self, line: &[&'a str]) -> String {
        let agent = self.value(line, "agent_status");
        let agent = if agent.is_empty() { String::new() } else { format!("agent-check {agent}") };
        let words = [self.value(line, "check_status"), self.value(line, "check_code"), &agent];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The backend's `balance` algorithm; empty when the socket's level hides it.
    pub(super) fn balance(&self, backend: &str) -> Option<&'a str> {
        Some(self.value(self.line(backend, "BACKEND")?, "algo"))
    }

    /// The number of client connections of all frontends, and the number of requests to the backend.
    pub(super) fn arrivals(&self, backend: &str) -> Option<(u64, u64)> {
        let count = |line: &[&'a str]| self.value(line, "stot").parse().unwrap_or(0_u64);
        let is_frontend = |line: &&Vec<&str>| self.value(line, "svname") == "FRONTEND";
        let taken = self.lines.iter().filter(is_frontend).map(|line| count(line)).sum();
        Some((taken, count(self.line(backend, "BACKEND")?)))
    }

    fn line(&self, backend: &str, name: &str) -> Option<&[&'a str]> {
        let fits =
            |line: &&Vec<&str>| self.value(line, "pxname") == backend && self.value(line, "svname") == name;
        self.lines.iter().find(fits).map(Vec::as_slice)
    }

    fn value(&self, line: &[&'a str], column: &str) -> &'a str {
        let at = self.columns.iter().position(|name| *name == column);
        at.and_then(|at| line.get(at)).copied().unwrap_or_default()
    }
}

/// The process that gave this `show info` answer; `None` when it names no pid.
pub(super) fn process(text: &str) -> Option<HaproxyProcess> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
    };
    let started = value("Start_time_sec").and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(HaproxyProcess { pid: value("Pid")?.parse().ok()?, started })
}

impl ServerCounters {
    /// Requests that would be cut by stopping the server now.
    pub fn in_flight(&self) -> u64 {
        self.open.saturating_add(self.queued)
    }

    /// The increase since `earlier`, which is of the same HAProxy process.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            answers_5xx: self.answers_5xx.saturating_sub(earlier.answers_5xx),
            refused: self.refused.saturating_sub(earlier.refused),
            broken: self.broken.saturating_sub(earlier.broken),
            ..self.clone()
        }
    }

    /// Adds another server's counters; the check is the first server's.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            open: self.open.saturating_add(other.open),
            queued: self.queued.saturating_add(other.queued),
            requests: self.requests.saturating_add(other.requests),
            answers_5xx: self.answers_5xx.saturating_add(other.answers_5xx),
            refused: self.refused.saturating_add(other.refused),
            broken: self.broken.saturating_add(other.broken),
            check: self.check,
        }
    }

    /// Requests that count as errors: a status of 500 or more, or no answer.
    pub fn errors(&self) -> u64 {
        self.answers_5xx.saturating_add(self.refused).saturating_add(self.broken)
    }
}

/// Pause between two looks at HAProxy, at the beginning of a wait.
pub(super) const SOON: Duration = Duration::from_millis(10);
/// Pause between two looks at HAProxy in a long wait.
pub(super) const LATER: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "# pxname,svname,qcur,scur,stot,econ,eresp,check_status,check_code,hrsp_5xx,algo,\n\
        shop,blue,1,2,900,3,4,L7STS,503,5,,\n\
        shop,BACKEND,0,0,0,0,0,,,0,source,\n\n";

    #[test]
    fn the_figures_of_a_server_are_read_by_the_names_of_their_columns() {
        let stat = StatTable::parse(ANSWER).unwrap();
        let blue = stat.server("shop", "blue").unwrap();
        assert_eq!((blue.open, blue.queued, blue.in_flight()), (2, 1, 3));
        assert_eq!((blue.requests, blue.errors()), (900, 12));
        assert_eq!(blue.check, "L7STS 503");
        assert_eq!(stat.balance("shop"), Some("source"));
        assert!(stat.server("shop", "green").is_none() && stat.server("other", "blue").is_none());
        assert!(StatTable::parse("Permission denied\n").is_none());
    }

    #[test]
    fn what_came_to_frontends_is_told_from_what_came_to_a_backend() {
        let text = ANSWER.replace("shop,BACKEND,0,0,0", "web,FRONTEND,,1,70,,,,,,,,\nshop,BACKEND,0,0,30");
        assert_eq!(StatTable::parse(&text).unwrap().arrivals("shop"), Some((70, 30)));
        assert_eq!(StatTable::parse(&text).unwrap().arrivals("other"), None);
    }

    #[test]
    fn what_was_counted_since_is_the_difference() {
        let blue = StatTable::parse(ANSWER).unwrap().server("shop", "blue").unwrap();
        let earlier = ServerCounters { requests: 800, answers_5xx: 5, ..blue.clone() };
        let since = blue.since(&earlier);
        assert_eq!((since.requests, since.answers_5xx, since.errors()), (100, 0, 0));
    }

    #[test]
    fn the_process_is_told_by_pid_and_start() {
        let info = "Name: HAProxy\nPid: 29085\nUptime: 0d 0h00m01s\nStart_time_sec: 1795271810\n";
        assert_eq!(process(info), Some(HaproxyProcess { pid: 29085, started: 1795271810 }));
        assert_eq!(process("Pid: 7\n"), Some(HaproxyProcess { pid: 7, started: 0 }));
        assert_eq!(process("Permission denied\n"), None);
    }
}
