//! The shim's socket and pipes: a request is the same whatever pieces it comes in; orders, answers and the fault of
//! a forked child come back as they were sent.

use bgd::shim::{
    Record,
    wire::{Inbox, MAX_REQUEST, ShimReply, ShimRequest, StartFault, StartOrder, Started},
};

use super::line::{comes_back, comes_back_alike, in_pieces};

/// The first byte is the size of the pieces, the rest is what a daemon or a shim sends.
pub fn shim(data: &[u8]) {
    let Some((size, sent)) = in_pieces(data) else { return };
    let whole = heard(sent, sent.len().max(1));
    assert_eq!(whole, heard(sent, size), "cut into pieces of {size}");
    let line = sent.split(|c| *c == b'\n').next().unwrap_or_default();
    match whole {
        None => assert!(line.len() == sent.len() && sent.len() <= MAX_REQUEST),
        Some(Err(_)) => assert!(line.len() > MAX_REQUEST || ShimRequest::parse(line).is_err()),
        Some(Ok(request)) => assert_eq!(comes_back::<ShimRequest>(line), Some(request)),
    }
    comes_back::<ShimReply>(line);
    comes_back::<Record>(line);
    comes_back_alike::<StartOrder>(line);
    comes_back_alike::<Started>(line);
    if let Some(fault) = StartFault::from_bytes(sent) {
        assert_eq!(fault.to_bytes(), sent);
    }
}

fn heard(sent: &[u8], size: usize) -> Option<Result<ShimRequest, String>> {
    let mut inbox = Inbox::default();
    let said = sent.chunks(size).find_map(|piece| inbox.take(piece));
    said.map(|said| said.map_err(|bad| bad.to_string()))
}
