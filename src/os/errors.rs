//! The only place where an error chain becomes text: each cause after a colon, nothing said twice.

use std::error::Error;

/// `outermost: cause: its cause`.
pub fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut last = text.clone();
    let mut cause = err.source();
    while let Some(err) = cause {
        let next = err.to_string();
        // The other way round too: SQLite's "Error code 26: file is not a database".
        if !text.ends_with(&next) && !next.ends_with(&last) {
            text.push_str(": ");
            text.push_str(&next);
        }
        last = next;
        cause = err.source();
    }
    text
}
