//! `[app.NAME.limits]`: what the processes of an instance or a build may use together; `checkout_limit`: what a commit
//! may bring.

use super::Judge;
use crate::config::{
    defaults,
    problem::Place,
    raw::{RawCheckoutLimit, RawLimits},
    read::{Given, Written},
    settings::{CheckoutLimit, Limits},
};

/// Units of memory with their size in bytes.
const UNITS: [(char, u64); 4] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];

/// Less than this no interpreter starts in, and the shim lives in the same space.
const LEAST_MEMORY: u64 = 16 << 20;

impl Judge<'_> {
    /// Judges the limits of the app at `app`.
    pub(super) fn limits(&mut self, given: Given<RawLimits>, app: &Place) -> Limits {
        let raw = RawLimits::or_empty(given, app.absent("limits"));
        Limits { memory: self.memory(&raw.memory), cpu: self.cpu(&raw.cpu), tasks: self.tasks(&raw.tasks) }
    }

    /// Judges what a commit of the app at `app` may bring.
    pub(super) fn checkout_limit(&mut self, given: Given<RawCheckoutLimit>, app: &Place) -> CheckoutLimit {
        let raw = RawCheckoutLimit::or_empty(given, app.absent("checkout_limit"));
        CheckoutLimit { files: self.files(&raw.files), bytes: self.size(&raw.size) }
    }

    fn files(&mut self, given: &Given<i64>) -> u64 {
        let Some(Written { value, at }) = given.value() else { return defaults::CHECKOUT_LIMIT.files };
        u64::try_from(*value).ok().filter(|files| *files > 0).unwrap_or_else(|| {
            let hint = "files, directories and symlinks of one commit, such as 1_000_000";
            self.notes.error(at, format!("must be 1 or more: {value}"), hint);
            defaults::CHECKOUT_LIMIT.files
        })
    }

    fn size(&mut self, given: &Given<String>) -> u64 {
        let Some(Written { value, at }) = given.value() else { return defaults::CHECKOUT_LIMIT.bytes };
        bytes(value).filter(|bytes| *bytes > 0).unwrap_or_else(|| {
            let hint = "a whole number and K, M, G or T, such as \"20G\"";
            self.notes.error(at, format!("not an amount of bytes: {value:?}"), hint);
            defaults::CHECKOUT_LIMIT.bytes
        })
    }

    fn memory(&mut self, given: &Given<String>) -> Option<u64> {
        let Written { value, at } = given.value()?;
        let hint = "a whole number and K, M, G or T, such as \"512M\"; at least \"16M\"";
        match bytes(value) {
            Some(bytes) if bytes >= LEAST_MEMORY => return Some(bytes),
            Some(_) => self.notes.error(at, format!("is too little to run anything: {value:?}"), hint),
            None => self.notes.error(at, format!("is no amount of memory: {value:?}"), hint),
        }
        None
    }

    fn cpu(&mut self, given: &Given<String>) -> Option<u32> {
        let Written { value, at } = given.value()?;
        let percent = value.strip_suffix('%').filter(|number| number.bytes().all(|c| c.is_ascii_digit()));
        let percent = percent.and_then(|number| number.parse().ok()).filter(|percent| *percent > 0);
        if percent.is_none() {
            let hint = "percent of one core, such as \"50%\", or \"150%\" for one and a half";
            self.notes.error(at, format!("is no share of the CPU: {value:?}"), hint);
        }
        percent
    }

    fn tasks(&mut self, given: &Given<i64>) -> Option<u32> {
        let Written { value, at } = given.value()?;
        // The shim itself, a shell, and what it runs.
        let tasks = u32::try_from(*value).ok().filter(|tasks| *tasks >= 8);
        if tasks.is_none() {
            let hint = "processes and threads together; a server needs dozens, such as 512";
            self.notes.error(at, format!("must be 8 or more: {value}"), hint);
        }
        tasks
    }
}

fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let (_, size) = UNITS.iter().find(|(letter, _)| *letter == unit)?;
    let number = text.strip_suffix(unit)?;
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_a_number_and_a_unit() {
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("2G"), Some(2 << 30));
        for bad in [
            "",
            "M",
            "512",
            "1.5G",
            "-1M",
            "+1M",
            "512MB",
            "512 M",
            "99999999999999999999T",
            "9999999999999T",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
