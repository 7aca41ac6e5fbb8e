//! Refusals, and the line that ends an answer.

use super::wire::{Answer, Exit, Refusal, Reply};

/// A refusal with an optional next command.
pub fn refusal(exit: Exit, message: String, hint: Option<&str>) -> Refusal {
    Refusal { exit, message, hint: hint.map(str::to_owned) }
}

/// The last line of an answer.
pub fn closing(answer: Result<Answer, Refusal>) -> Reply {
    match answer {
        Ok(answer) => Reply::Done(answer),
        Err(refusal) => Reply::Refused(refusal),
    }
}
