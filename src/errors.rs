//! The one place where a chain of errors becomes text: each cause after a colon, nothing said twice.

use std::error::Error;

/// `outermost: cause: its cause`.
pub fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let next = err.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = err.source();
    }
    text
}
