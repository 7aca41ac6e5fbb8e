//! What an app answers to a probe by FastCGI or in uWSGI's protocol: the same in any pieces, and never more of it kept
//! than is judged.

use std::fmt::Debug;

use bgd::probe::{
    fastcgi::Records,
    page::{Page, PageHead},
};

use super::line::in_pieces;

/// The first byte is the size of the pieces, the rest is what an app says before it closes.
pub fn probe_answer(data: &[u8]) {
    let Some((size, said)) = in_pieces(data) else { return };
    let whole = said.len().max(1);
    assert_eq!(fastcgi(said, whole), fastcgi(said, size), "FastCGI, cut into pieces of {size}");
    assert_eq!(uwsgi(said, whole), uwsgi(said, size), "uWSGI, cut into pieces of {size}");
}

fn fastcgi(said: &[u8], size: usize) -> impl Debug + PartialEq {
    let mut records = Records::default();
    let mut heard = said.chunks(size).map(|piece| records.take(piece));
    let ended = heard.find(|heard| *heard != Ok(false)).unwrap_or(Ok(false));
    let ended = ended.and_then(|enough| if enough { Ok(()) } else { records.finish() });
    assert!(records.errors().len() <= 1024);
    (ended, seen(records.page()), records.errors().to_vec())
}

fn uwsgi(said: &[u8], size: usize) -> impl Debug + PartialEq {
    let mut page = Page::default();
    let taken = said.chunks(size).try_for_each(|piece| page.take(piece));
    (taken.and_then(|()| page.finish()), seen(&page))
}

/// What is judged of a page.
fn seen(page: &Page) -> (Option<PageHead>, Vec<u8>) {
    let length = page.head().and_then(|head| head.length).unwrap_or(64 * 1024);
    assert!(page.body().len() as u64 <= length.min(64 * 1024));
    (page.head().cloned(), page.body().to_vec())
}
