//! Answers from the disk: the files of a static site, and files of former releases. Called by `proxy`; everything that
//! may block runs on a thread for it.
//!
//! - `asked`: a stranger's path as names below a directory, or nothing
//! - `found`: the file for them, opened so that no link leads out of what is served
//! - `fitting`: conditional requests and ranges
//! - `content`: the bytes on their way to the client
//!
//! A request reads one directory from its first look to its last byte: a flip meanwhile changes nothing for it, and a
//! file that is removed meanwhile is sent whole.

pub mod asked;
mod content;
mod fitting;
mod found;

use std::{path::PathBuf, sync::Arc};

use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH,
        CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, VARY,
    },
    http::request::Parts,
};

pub(super) use self::content::Content;
use self::{
    asked::Asked,
    fitting::Fitting,
    found::{Found, Open, Place},
};
use crate::{os::blocking::blocking, rules::route::FilesServed};

/// The methods that a file can be asked with.
const METHODS: &str = "GET, HEAD";

/// A request as far as a file is concerned.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Request {
    pub(super) fn of(parts: &Parts) -> Self {
        Self { method: parts.method.clone(), uri: parts.uri.clone(), headers: parts.headers.clone() }
    }
}

/// A request that a file of a former release may answer.
pub(super) type Former = (Request, Place);

/// The request for a former release's file, should the live release answer 404; `None` where it can't be one.
pub(super) fn former(parts: &Parts, files: &FilesServed) -> Option<Former> {
    let former = files.former.as_ref()?;
    let asks =
        matches!(parts.method, Method::GET | Method::HEAD) && parts.uri.path().starts_with(&former.url);
    let asked = Asked::parse(parts.uri.path()).filter(|_| asks)?;
    Some((Request::of(parts), Place::former(former, &asked)?))
}

/// An answer without a body, or with one from the disk.
pub(super) type Answer = Response<Option<Content>>;

/// Answers with a file of a static site, of a former release, or with the site's page for what is missing.
pub(super) async fn site(request: Request, directory: PathBuf, files: Arc<FilesServed>) -> Answer {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
        return answer;
    }
    let Some(asked) = Asked::parse(request.uri.path()) else { return empty(StatusCode::NOT_FOUND) };
    blocking(move || match found::in_site(&asked, &request.headers, (&directory, &files)) {
        Found::Directory => redirect(&asked, request.uri.query()),
        Found::File(open) => file(&request, *open),
        Found::Missing(Some(page)) => {
            let mut answer = whole(&request, *page);
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        }
        Found::Missing(None) => empty(StatusCode::NOT_FOUND),
        Found::NoAsset => not_stored(empty(StatusCode::NOT_FOUND)),
    })
    .await
}

/// Answers with a file of a former release; `None` where there is none.
pub(super) async fn of_former((request, place): Former) -> Option<Answer> {
    blocking(move || place.open(&request.headers).map(|open| file(&request, open))).await
}

/// Forbids to keep an answer: a cache in front would repeat for hours that a file is missing.
pub(super) fn not_stored<B>(mut answer: Response<B>) -> Response<B> {
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(None);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}

/// Leads to the directory's own path, relative to which its pages name others.
fn redirect(asked: &Asked, query: Option<&str>) -> Answer {
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let mut answer = empty(StatusCode::MOVED_PERMANENTLY);
    match HeaderValue::try_from(format!("{}/{query}", asked.path())) {
        Ok(to) => answer.headers_mut().insert(LOCATION, to),
        Err(_) => return empty(StatusCode::NOT_FOUND),
    };
    answer
}

fn file(request: &Request, open: Open) -> Answer {
    match Fitting::of(&request.headers, &open, request.method == Method::GET) {
        Fitting::Whole => whole(request, open),
        Fitting::Known => {
            let mut answer = Response::new(None);
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            describe(answer.headers_mut(), &open);
            answer
        }
        Fitting::Part { first, length } => {
            let range = format!("bytes {first}-{}/{}", first + length - 1, open.size);
            let mut answer = with_body(request, open, (first, length));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            set(answer.headers_mut(), CONTENT_RANGE, &range);
            answer
        }
        Fitting::OutOfRange => {
            let mut answer = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            set(answer.headers_mut(), CONTENT_RANGE, &format!("bytes */{}", open.size));
            answer
        }
    }
}

fn whole(request: &Request, open: Open) -> Answer {
    let size = open.size;
    with_body(request, open, (0, size))
}

fn with_body(request: &Request, open: Open, (first, length): (u64, u64)) -> Answer {
    let mut answer = Response::new(None);
    let headers = answer.headers_mut();
    describe(headers, &open);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(headers, CONTENT_TYPE, &open.content_type);
    if let Some(coding) = open.coding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
    }
    if request.method == Method::GET && length > 0 {
        match Content::read(open.file, (first, length)) {
            Ok(content) => *answer.body_mut() = Some(content),
            Err(_) => return empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
    answer
}

/// The fields that a 304 has too.
fn describe(headers: &mut HeaderMap, open: &Open) {
    set(headers, ETAG, &open.tag);
    set(headers, LAST_MODIFIED, &httpdate::fmt_http_date(open.modified));
    if open.varies {
        headers.insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
    if open.content_type.starts_with("text/html") {
        // A page is asked for again after each flip; without this, browsers guess for how long they may keep it.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
