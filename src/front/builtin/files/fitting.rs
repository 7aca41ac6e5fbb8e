//! What of a file a request wants: all of it, a part, or nothing because the client has it already (RFC 9110). Pure.
//!
//! A time counts only if it is exactly the file's, as nginx does it: after a flip back the file is older than the one
//! that the client has, and it is another one all the same.

use std::time::SystemTime;

use http_range_header::parse_range_header;
use hyper::{
    HeaderMap,
    header::{HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE},
};

use super::found::Open;

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fitting {
    Whole,
    /// The client has it.
    Known,
    /// So many bytes from this one on.
    Part {
        first: u64,
        length: u64,
    },
    /// The client wants what lies behind the end.
    OutOfRange,
}

impl Fitting {
    /// `ranges`: whether the method allows a part.
    pub(super) fn of(headers: &HeaderMap, open: &Open, ranges: bool) -> Self {
        let (tag, modified) = (open.tag.as_str(), open.modified);
        let known = match text(headers, &IF_NONE_MATCH) {
            Some(_) => headers
                .get_all(IF_NONE_MATCH)
                .iter()
                .filter_map(|line| line.to_str().ok())
                .flat_map(|line| line.split(','))
                .map(str::trim)
                .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag),
            None => text(headers, &IF_MODIFIED_SINCE).is_some_and(|since| is_at(since, modified)),
        };
        if known {
            return Self::Known;
        }
        let same = text(headers, &IF_RANGE).is_none_or(|is| is == tag || is_at(is, modified));
        match text(headers, &RANGE).filter(|_| ranges && same) {
            Some(range) => Self::part(range, open.size),
            None => Self::Whole,
        }
    }

    /// Several parts at once, and what is not understood, are answered with the whole file.
    fn part(range: &str, size: u64) -> Self {
        let Ok(parsed) = parse_range_header(range) else { return Self::Whole };
        if parsed.len() > 1 {
            return Self::Whole;
        }
        let Ok(ranges) = parsed.validate(size) else { return Self::OutOfRange };
        let Some(range) = ranges.first() else { return Self::OutOfRange };
        let (first, last) = (*range.start(), *range.end());
        match last.checked_sub(first) {
            Some(more) if last < size => Self::Part { first, length: more + 1 },
            _ => Self::OutOfRange,
        }
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn is_at(date: &str, modified: SystemTime) -> bool {
    httpdate::parse_http_date(date).is_ok_and(|date| date == modified)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const AT: &str = "Tue, 01 Dec 2026 12:00:00 GMT";

    fn open() -> Open {
        Open {
            file: tempfile::tempfile().unwrap(),
            size: 10,
            modified: httpdate::parse_http_date(AT).unwrap(),
            tag: "\"a-1\"".to_owned(),
            content_type: String::new(),
            coding: None,
            varies: false,
        }
    }

    fn fits(fields: &[(HeaderName, &str)]) -> Fitting {
        let headers = fields.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        Fitting::of(&headers.collect(), &open(), true)
    }

    #[test]
    fn a_client_that_has_the_very_file_is_told_so() {
        assert_eq!(fits(&[]), Fitting::Whole);
        for tag in ["\"a-1\"", "W/\"a-1\"", "\"x\", \"a-1\"", "*"] {
            assert_eq!(fits(&[(IF_NONE_MATCH, tag)]), Fitting::Known, "{tag}");
        }
        assert_eq!(
            fits(&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, AT)]),
            Fitting::Whole,
            "the tag counts"
        );
        assert_eq!(fits(&[(IF_MODIFIED_SINCE, AT)]), Fitting::Known);
        let later = httpdate::fmt_http_date(open().modified + Duration::from_secs(3600));
        assert_eq!(fits(&[(IF_MODIFIED_SINCE, &later)]), Fitting::Whole, "as after a flip back");
        assert_eq!(fits(&[(IF_MODIFIED_SINCE, "yesterday")]), Fitting::Whole);
    }

    #[test]
    fn a_part_is_sent_of_the_file_that_the_client_knows() {
        let part = |first, length| Fitting::Part { first, length };
        for (range, sent) in [
            ("bytes=0-3", part(0, 4)),
            ("bytes=7-", part(7, 3)),
            ("bytes=-2", part(8, 2)),
            ("bytes=5-100", part(5, 5)),
            ("bytes=10-", Fitting::OutOfRange),
            ("bytes=0-1,3-4", Fitting::Whole),
            ("lines=1-2", Fitting::Whole),
            ("bytes=x", Fitting::Whole),
        ] {
            assert_eq!(fits(&[(RANGE, range)]), sent, "{range}");
        }
        let of = |is: &str| fits(&[(RANGE, "bytes=0-3"), (IF_RANGE, is)]);
        assert_eq!((of("\"a-1\""), of(AT)), (part(0, 4), part(0, 4)));
        assert_eq!((of("\"b-1\""), of("W/\"a-1\"")), (Fitting::Whole, Fitting::Whole));
    }
}
