//! An answer in CGI form: headers, or a status line and headers, then a body. Fed by the probes for FastCGI and uWSGI
//! in pieces of any size; takes any bytes and keeps only what is judged.

use crate::probe::expected::BODY_LIMIT;

/// Bytes of the longest head; a health page sets a cookie or two.
pub const HEAD_LIMIT: usize = 16 * 1024;
/// Most headers in a head.
const HEADERS: usize = 128;

/// Why the bytes are not an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    /// Neither a status line nor a header.
    #[error("its head is not as in HTTP or CGI")]
    Head(#[source] httparse::Error),
    /// The head is a blank line.
    #[error("its head is empty")]
    Empty,
    /// The head is longer than [`HEAD_LIMIT`].
    #[error("its head is longer than {HEAD_LIMIT} bytes")]
    TooLong,
    /// The `Status` header is not a number.
    #[error("its status is not an HTTP status")]
    Status,
    /// The end came before the blank line.
    #[error("it ended before its head was whole")]
    CutInHead,
    /// The end came before `Content-Length` was reached.
    #[error("it ended after {got} of {length} bytes")]
    CutInBody {
        /// Bytes of the body that arrived.
        got: u64,
        /// Bytes announced by `Content-Length`.
        length: u64,
    },
}

/// The judged parts of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHead {
    /// The status of the status line or of the `Status` header; without either, 302 with a `Location` and 200 without.
    pub status: u16,
    /// The target of a redirect.
    pub location: Option<Vec<u8>>,
    /// Bytes of the body, as announced by `Content-Length`.
    pub length: Option<u64>,
}

/// An answer as far as it has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    begun: Vec<u8>,
    head: Option<PageHead>,
    body: Vec<u8>,
    got: u64,
}

impl Page {
    /// The head, once it is complete.
    pub fn head(&self) -> Option<&PageHead> {
        self.head.as_ref()
    }

    /// The body so far, at most 64 KiB of it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the bytes are not a head.
    pub fn take(&mut self, piece: &[u8]) -> Result<(), BadPage> {
        if self.head.is_some() {
            self.take_body(piece);
            return Ok(());
        }
        let room = HEAD_LIMIT - self.begun.len();
        let (now, later) = piece.split_at(piece.len().min(room));
        self.begun.extend_from_slice(now);
        match parse(&self.begun)? {
            Some((length, head)) => {
                let begun = self.begun.split_off(length);
                self.head = Some(head);
                self.take_body(&begun);
                self.take_body(later);
                Ok(())
            }
            None if self.begun.len() == HEAD_LIMIT => Err(BadPage::TooLong),
            None => Ok(()),
        }
    }

    /// Takes the next bytes of the body; those beyond the announced length are not a part of it.
    fn take_body(&mut self, piece: &[u8]) {
        let length = self.head.as_ref().and_then(|head| head.length).unwrap_or(u64::MAX);
        let own = usize::try_from(length - self.got).map_or(piece.len(), |left| left.min(piece.len()));
        let room = BODY_LIMIT - self.body.len();
        self.body.extend_from_slice(&piece[..own.min(room)]);
        self.got += own as u64;
    }

    /// Whether more bytes would change nothing: the answer is complete, or `BODY_LIMIT` is reached.
    pub fn is_enough(&self) -> bool {
        let whole = |head: &PageHead| head.length.is_some_and(|length| self.got >= length);
        self.body.len() == BODY_LIMIT || self.head.as_ref().is_some_and(whole)
    }

    /// Ends the answer, after the other side has closed.
    ///
    /// # Errors
    /// When the head or the announced length is incomplete.
    pub fn finish(&self) -> Result<(), BadPage> {
        let head = self.head.as_ref().ok_or(BadPage::CutInHead)?;
        match head.length {
            Some(length) if self.got < length && !self.is_enough() => {
                Err(BadPage::CutInBody { got: self.got, length })
            }
            _ => Ok(()),
        }
    }
}

/// The head at the beginning of `bytes`, and its length in bytes; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(usize, PageHead)>, BadPage> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    if bytes.starts_with(b"HTTP/") {
        let mut response = httparse::Response::new(&mut headers);
        return match response.parse(bytes).map_err(BadPage::Head)? {
            httparse::Status::Partial => Ok(None),
            httparse::Status::Complete(length) => Ok(Some((length, read(response.headers, response.code)?))),
        };
    }
    match httparse::parse_headers(bytes, &mut headers).map_err(BadPage::Head)? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete((_, [])) => Err(BadPage::Empty),
        httparse::Status::Complete((length, headers)) => Ok(Some((length, read(headers, None)?))),
    }
}

fn read(headers: &[httparse::Header<'_>], line: Option<u16>) -> Result<PageHead, BadPage> {
    let value = |name: &str| {
        let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    let location = value("location").map(<[u8]>::to_vec);
    let status = match (line, value("status")) {
        (Some(code), _) => code,
        (None, Some(text)) => status(text).ok_or(BadPage::Status)?,
        (None, None) if location.is_some() => 302,
        (None, None) => 200,
    };
    let length = value("content-length").and_then(|text| str::from_utf8(text).ok()?.trim().parse().ok());
    Ok(PageHead { status, location, length })
}

/// Reads the number of a status such as `404 Not Found`.
fn status(text: &[u8]) -> Option<u16> {
    let number = text.split(|c| *c == b' ').next()?;
    let number = str::from_utf8(number).ok()?.parse().ok()?;
    (100..600).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &[u8]) -> Result<Page, BadPage> {
        let mut page = Page::default();
        page.take(text)?;
        Ok(page)
    }

    fn status_of(text: &str) -> u16 {
        page(text.as_bytes()).unwrap().head().unwrap().status
    }

    #[test]
    fn a_status_is_in_the_line_or_in_its_header_or_200() {
        assert_eq!(status_of("HTTP/1.1 503 Busy\r\nStatus: 200\r\n\r\n"), 503);
        assert_eq!(status_of("HTTP/1.0 204\r\n\r\n"), 204);
        assert_eq!(status_of("Status: 404 Not Found\r\nContent-Type: text/html\r\n\r\n"), 404);
        assert_eq!(status_of("status: 500\n\nerror"), 500);
        assert_eq!(status_of("Content-Type: text/plain\r\n\r\nok"), 200);
        assert_eq!(status_of("Location: /login\r\n\r\n"), 302);
    }

    #[test]
    fn what_is_no_answer_is_said_so() {
        for (text, bad) in [
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "its head is not as in HTTP or CGI"),
            ("\r\n\r\nok", "its head is empty"),
            ("Status: fine\r\n\r\n", "its status is not an HTTP status"),
            ("Status: 1000\r\n\r\n", "its status is not an HTTP status"),
            ("HTTP/9.9 200 OK\r\n\r\n", "its head is not as in HTTP or CGI"),
        ] {
            assert_eq!(page(text.as_bytes()).unwrap_err().to_string(), bad, "{text:?}");
        }
        let endless = [b"a: b\r\n".to_vec(), vec![b'a'; HEAD_LIMIT]].concat();
        assert_eq!(page(&endless), Err(BadPage::TooLong));
    }

    #[test]
    fn an_answer_cut_short_is_none_and_a_long_one_is_kept_only_so_far() {
        assert_eq!(page(b"Content-Ty").unwrap().finish(), Err(BadPage::CutInHead));
        let short = page(b"Content-Length: 9\r\n\r\nall").unwrap();
        assert_eq!(short.finish(), Err(BadPage::CutInBody { got: 3, length: 9 }));
        assert!(!short.is_enough());
        let whole = page(b"Content-Length: 3\r\n\r\nall and more").unwrap();
        assert!(whole.is_enough() && whole.finish().is_ok());
        assert_eq!(whole.body(), b"all");
        let mut long = page(b"a: b\r\n\r\n").unwrap();
        for _ in 0..100 {
            long.take(&[b'x'; 1000]).unwrap();
        }
        assert!(long.is_enough() && long.finish().is_ok());
        assert_eq!(long.body().len(), BODY_LIMIT);
    }
}
