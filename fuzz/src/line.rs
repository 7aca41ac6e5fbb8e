//! What all protocols of JSON lines have in common: what was understood is understood again once written.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

/// Reads `line` as a `T`, and checks that it comes back equal and on one line; `None` when it is no `T`.
pub fn comes_back<T>(line: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let heard = comes_back_alike::<T>(line)?;
    let again: T = serde_json::from_slice(&written(&heard)).expect("it was written just now");
    assert_eq!(heard, again);
    Some(heard)
}

/// As [`comes_back`], for what has secrets in it and so can be neither compared nor shown.
pub fn comes_back_alike<T: Serialize + DeserializeOwned>(line: &[u8]) -> Option<T> {
    let heard: T = serde_json::from_slice(line).ok()?;
    let said = written(&heard);
    assert!(!said.contains(&b'\n'), "a line has one line: {}", said.escape_ascii());
    let again: T = serde_json::from_slice(&said).expect("what is written can be read");
    assert_eq!(said.escape_ascii().to_string(), written(&again).escape_ascii().to_string());
    Some(heard)
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("what was read can be written")
}

/// The first byte as the size of pieces, and what is left; `None` without any.
pub fn in_pieces(data: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((1 + usize::from(first % 64), rest))
}
