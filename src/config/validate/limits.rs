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
            None => {
                let hint = meant(value).map_or(hint.to_owned(), |meant| format!("write {meant:?}"));
                self.notes.error(at, format!("is no amount of memory: {value:?}"), hint);
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
            // As containers count: in cores.
            let cores = value.parse::<f64>().ok().filter(|cores| *cores > 0.0 && *cores <= 256.0);
            let hint = match cores {
                Some(cores) => format!("{hint}: of {value} cores write \"{:.0}%\"", cores * 100.0),
                None => hint.to_owned(),
            };
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

/// The amount as it is written here: `512m`, `512MB` and `512MiB` of other tools, and plain bytes.
fn meant(text: &str) -> Option<String> {
    let upper = text.trim().to_uppercase().replace(' ', "");
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    if bytes(bare).is_some() {
        return Some(bare.to_owned());
    }
    let number: u64 = bare.parse().ok()?;
    (number >= LEAST_MEMORY).then(|| format!("{}M", number >> 20))
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
    fn n8_an_amount_as_other_tools_write_it_is_given_as_it_should_be() {
        for (text, expected) in
            [("512m", "512M"), ("512MB", "512M"), ("1 GiB", "1G"), ("536870912", "512M"), ("2g", "2G")]
        {
            assert_eq!(meant(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!((meant("much"), meant("512")), (None, None));
    }

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
