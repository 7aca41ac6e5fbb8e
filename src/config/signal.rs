//! Signals by name or number, for `stop.signal` and for messages.

use nix::sys::signal::Signal;

use super::nearest::nearest;

/// Signals that stop, continue or inform a process, and so do not ask it to end.
const NOT_AN_END: [Signal; 8] = [
    Signal::SIGSTOP,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGIO,
];

/// The names that hints propose.
const USUAL: [&str; 8] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL"];

/// Why a text or number is not a signal to stop an app with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSignal {
    /// No signal has this name.
    #[error("is not a signal: {0:?}")]
    Unknown(String),
    /// No signal has this number.
    #[error("is not a signal number: {0}")]
    BadNumber(i64),
    /// The signal does not ask a process to end.
    #[error("does not ask a process to end: {0}")]
    NotAnEnd(&'static str),
}

impl BadSignal {
    /// Advice for the operator.
    pub fn hint(&self) -> String {
        if let Self::Unknown(name) = self
            && let Some(near) = nearest(
                bare(&name.to_ascii_uppercase()),
                &USUAL.map(str::to_lowercase).each_ref().map(String::as_str),
            )
        {
            return format!("did you mean {:?}?", near.to_uppercase());
        }
        format!("one of {}, or a number", USUAL.join(", "))
    }
}

/// The number of any signal by its name, also of one that does not ask a process to end.
pub fn any_by_name(name: &str) -> Result<i32, BadSignal> {
    match by_name(name) {
        Err(BadSignal::NotAnEnd(name)) => {
            name.parse().map(|signal: Signal| signal as i32).map_err(|_| unknown(name))
        }
        found => found,
    }
}

/// Any signal with this number.
pub fn any_by_number(number: i64) -> Result<i32, BadSignal> {
    match by_number(number) {
        Err(BadSignal::NotAnEnd(name)) => any_by_name(name),
        found => found,
    }
}

/// The number of a signal named `TERM`, `SIGTERM`, `term` or `15`.
pub fn by_name(name: &str) -> Result<i32, BadSignal> {
    if let Ok(number) = name.parse() {
        return by_number(number);
    }
    let upper = name.to_ascii_uppercase();
    let signal: Signal = format!("SIG{}", bare(&upper)).parse().map_err(|_| unknown(name))?;
    ending(signal)
}

/// The signal with this number, real-time ones included.
pub fn by_number(number: i64) -> Result<i32, BadSignal> {
    let bad = BadSignal::BadNumber(number);
    let number = i32::try_from(number).map_err(|_| bad.clone())?;
    match Signal::try_from(number) {
        Ok(signal) => ending(signal),
        Err(_) if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) => Ok(number),
        Err(_) => Err(bad),
    }
}

/// The name of a signal number without `SIG`, such as `TERM`; the number itself for a real-time one.
pub fn name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| bare(signal.as_str()).to_owned())
}

fn ending(signal: Signal) -> Result<i32, BadSignal> {
    if NOT_AN_END.contains(&signal) { Err(BadSignal::NotAnEnd(signal.as_str())) } else { Ok(signal as i32) }
}

fn unknown(name: &str) -> BadSignal {
    BadSignal::Unknown(name.chars().take(40).collect())
}

fn bare(name: &str) -> &str {
    name.strip_prefix("SIG").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood_and_others_refused() {
        for (text, number) in
            [("TERM", 15), ("SIGTERM", 15), ("term", 15), ("15", 15), ("WINCH", 28), ("9", 9)]
        {
            assert_eq!(by_name(text), Ok(number), "{text}");
        }
        assert_eq!(by_number(35), Ok(35));
        for number in [0, -1, 65, 1 << 40] {
            assert_eq!(by_number(number), Err(BadSignal::BadNumber(number)));
        }
        assert_eq!(by_name("STOP"), Err(BadSignal::NotAnEnd("SIGSTOP")));
        assert_eq!(by_name("TREM").unwrap_err().hint(), "did you mean \"TERM\"?");
        assert!(by_name("").unwrap_err().hint().starts_with("one of TERM"));
        assert_eq!((name(15), name(35)), ("TERM".to_owned(), "35".to_owned()));
    }
}
