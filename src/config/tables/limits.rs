//! `[app.NAME.limits]`: resource limits for all processes of an instance or a build together.

use super::Table as _;
use crate::{
    config::{
        amount::{bytes, meant},
        judge::Judge,
        read::{Given, Written},
        span::Span,
    },
    rules::limits::Limits,
};

table! {
    /// `[app.NAME.limits]`.
    RawLimits { memory: String, cpu: String, tasks: i64 }
}

/// Bytes: no interpreter starts with less, and the shim counts too.
const LEAST_MEMORY: u64 = 16 << 20;

impl Judge<'_> {
    /// Judges the limits of the app at `app`.
    pub(super) fn limits(&mut self, given: Given<RawLimits>, app: &Span) -> Limits {
        let raw = RawLimits::or_empty(given, app.absent("limits"));
        Limits { memory: self.memory(&raw.memory), cpu: self.cpu(&raw.cpu), tasks: self.tasks(&raw.tasks) }
    }

    fn memory(&mut self, given: &Given<String>) -> Option<u64> {
        let Written { value, at } = given.value()?;
        let hint = "a whole number and K, M, G or T, such as \"512M\"; at least \"16M\"";
        match bytes(value) {
            Some(bytes) if bytes >= LEAST_MEMORY => return Some(bytes),
            Some(_) => self.notes.error(at, format!("is too little to run anything: {value:?}"), hint),
            None => {
                let hint =
                    meant(value, LEAST_MEMORY).map_or(hint.to_owned(), |meant| format!("write {meant:?}"));
                self.notes.error(at, format!("is not an amount of memory: {value:?}"), hint);
            }
        }
        None
    }

    fn cpu(&mut self, given: &Given<String>) -> Option<u32> {
        let Written { value, at } = given.value()?;
        let percent = value.strip_suffix('%').filter(|number| number.bytes().all(|c| c.is_ascii_digit()));
        let percent = percent.and_then(|number| number.parse().ok()).filter(|percent| *percent > 0);
        if percent.is_none() {
            let hint = "percent of one core, such as \"50%\", or \"150%\" for one and a half";
            // Container tools count in cores.
            let cores = value.parse::<f64>().ok().filter(|cores| *cores > 0.0 && *cores <= 256.0);
            let hint = match cores {
                Some(cores) => format!("{hint}: of {value} cores write \"{:.0}%\"", cores * 100.0),
                None => hint.to_owned(),
            };
            self.notes.error(at, format!("is not a share of the CPU: {value:?}"), hint);
        }
        percent
    }

    fn tasks(&mut self, given: &Given<i64>) -> Option<u32> {
        // Room for the shim, a shell, and the app's processes.
        let enough = |number: i64| u32::try_from(number).ok().filter(|tasks| *tasks >= 8);
        let hint = "processes and threads together; a server needs dozens, such as 512";
        self.number(given, enough, "must be 8 or more", hint)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("limits.memory = \"512\"", "4 app.shop.limits.memory", "is not an amount of memory"),
        ("limits.memory = \"1M\"", "4 app.shop.limits.memory", "is too little"),
        ("limits.cpu = \"2\"", "4 app.shop.limits.cpu", "is not a share of the CPU"),
        ("limits.tasks = 0", "4 app.shop.limits.tasks", "must be 8 or more"),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
