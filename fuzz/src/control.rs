//! The control socket: a request is the same whatever pieces it comes in, and every request and reply that is
//! understood can be said again.

use bgd::api::{
    server,
    wire::{Exit, Refusal, Reply, Request},
};
use tokio::io::BufReader;

use super::line::{comes_back, in_pieces};

/// The first byte is the size of the pieces, the rest is what a client or a daemon sends.
pub fn control(data: &[u8]) {
    let Some((size, sent)) = in_pieces(data) else { return };
    let whole = heard(sent, 1 << 20);
    assert_eq!(whole, heard(sent, size), "cut into pieces of {size}");
    match whole {
        None => assert!(sent.is_empty()),
        Some(Err(refusal)) => assert!(refusal.exit == Exit::Usage && !refusal.message.is_empty()),
        Some(Ok(request)) => {
            let said = serde_json::to_vec(&request).expect("requests are plain data");
            assert_eq!(comes_back::<Request>(&said), Some(request));
        }
    }
    for line in sent.split(|c| *c == b'\n') {
        comes_back::<Reply>(line);
    }
}

fn heard(sent: &[u8], size: usize) -> Option<Result<Request, Refusal>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    let mut stream = BufReader::with_capacity(size, sent);
    runtime.block_on(server::request(&mut stream)).expect("bytes in memory can be read")
}
