//! The FastCGI probe: encodes one request as records and decodes the records of the answer. The decoder takes any
//! bytes in pieces of any size, keeps only what is judged, and is public only for the fuzzer.

use std::{os::unix::ffi::OsStrExt as _, path::Path, time::Duration};

use crate::{
    config::settings::FastCgiProbe,
    probe::{
        Outcome, Target,
        cgi::{self, EncodedRequest, PageDecoder, Variable},
        page::{BadPage, Page},
        reason::chain,
    },
};

/// The only protocol version.
const VERSION: u8 = 1;
/// The id of the request, the only one on its connection.
const ID: u16 = 1;
/// Record types.
const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
/// Bytes of a record's header, and of an END record's content.
const HEADER: usize = 8;
/// Most bytes of content in one record.
const CONTENT: usize = 65_535;
/// Most bytes read of an answer, records of other kinds included.
const HEARD: usize = 256 * 1024;
/// Most bytes kept of the app's error stream.
const ERRORS: usize = 1024;

/// Probes once.
pub(super) async fn ask(probe: &FastCgiProbe, target: &Target, limit: Duration) -> Outcome {
    let mut variables = cgi::variables(&probe.page, &target.address);
    variables.extend(script(probe, &target.release_dir));
    let request = request(&variables);
    EncodedRequest { probe: &probe.page, address: &target.address, limit, request }
        .ask(Records::default())
        .await
}

/// The variables that name the answering file. Without a script the requested path takes its place, for a server that
/// answers by itself.
fn script(probe: &FastCgiProbe, release_dir: &Path) -> Vec<Variable> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let path = cgi::decoded_path(&probe.page);
    let (root, name, file) = match &probe.script {
        Some(script) => {
            let file = release_dir.join(script);
            let root = file.parent().unwrap_or(release_dir).to_owned();
            let name = file.file_name().unwrap_or_default().as_bytes();
            (bytes(&root), [b"/", name].concat(), bytes(&file))
        }
        None => (bytes(release_dir), path.clone(), [bytes(release_dir), path.clone()].concat()),
    };
    let info = probe.script.as_ref().map(|_| ("PATH_INFO", path_info(&path, &name)));
    let fixed = [
        ("GATEWAY_INTERFACE", b"CGI/1.1".to_vec()),
        ("DOCUMENT_ROOT", root),
        ("DOCUMENT_URI", name.clone()),
        ("SCRIPT_NAME", name),
        ("SCRIPT_FILENAME", file),
        // php-cgi demands this variable, so that nobody runs it by its URL.
        ("REDIRECT_STATUS", b"200".to_vec()),
    ];
    fixed.into_iter().chain(info).collect()
}

/// The part of the path behind the script: `/up` for `/index.php/up`, and for `/up` too, since some frameworks route
/// by `PATH_INFO` and not by the URI. Empty where the path is the script itself.
fn path_info(path: &[u8], script: &[u8]) -> Vec<u8> {
    match path.strip_prefix(script) {
        Some(rest) if rest.is_empty() || rest.starts_with(b"/") => rest.to_owned(),
        _ => path.to_owned(),
    }
}

fn request(variables: &[Variable]) -> Vec<u8> {
    let mut params = Vec::new();
    for (name, value) in variables {
        params.extend(length(name.len()));
        params.extend(length(value.len()));
        params.extend_from_slice(name.as_bytes());
        params.extend_from_slice(value);
    }
    // Role "responder"; flags 0: close the connection after the answer.
    let mut bytes = record(BEGIN, &[0, 1, 0, 0, 0, 0, 0, 0]);
    for part in params.chunks(CONTENT) {
        bytes.extend(record(PARAMS, part));
    }
    bytes.extend(record(PARAMS, &[]));
    bytes.extend(record(STDIN, &[]));
    bytes
}

/// The length of a name or value: one byte, or four with the highest bit set.
fn length(length: usize) -> Vec<u8> {
    match u8::try_from(length) {
        Ok(short) if short < 128 => vec![short],
        _ => (u32::try_from(length).unwrap_or(u32::MAX) | 1 << 31).to_be_bytes().to_vec(),
    }
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let ([id_high, id_low], length) = (ID.to_be_bytes(), content.len());
    let header = [VERSION, kind, id_high, id_low, (length >> 8) as u8, length as u8, 0, 0];
    [&header, content].concat()
}

/// Why an answer is not valid FastCGI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecords {
    /// Another version, another request id, or a record type that does not belong in an answer.
    #[error("it does not speak FastCGI")]
    NotFastCgi,
    /// An END record that is too short.
    #[error("its last record is too short")]
    ShortEnd,
    /// The server refuses the request.
    #[error("the request is refused: {0}")]
    Refused(&'static str),
    /// More than `HEARD` bytes.
    #[error("its answer is longer than {HEARD} bytes")]
    TooMuch,
    /// The connection ended before the last record.
    #[error("it ended before its last record")]
    Cut,
    /// The page is malformed.
    #[error(transparent)]
    Page(#[from] BadPage),
}

/// Decoder of an answer's records, in its present state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    header: Vec<u8>,
    /// Bytes still to come of the present record's content and padding.
    content: usize,
    padding: usize,
    end: Vec<u8>,
    errors: Vec<u8>,
    page: Page,
    heard: usize,
    ended: bool,
}

impl Records {
    /// Takes the next bytes; true when the answer is complete.
    ///
    /// # Errors
    /// When the bytes are not a FastCGI answer.
    pub fn take(&mut self, piece: &[u8]) -> Result<bool, BadRecords> {
        let (mut left, over) = piece.split_at(piece.len().min(HEARD - self.heard));
        self.heard += left.len();
        while !left.is_empty() && !self.is_enough() {
            let taken = self.step(left)?;
            left = &left[taken..];
        }
        match self.is_enough() {
            false if !over.is_empty() => Err(BadRecords::TooMuch),
            enough => Ok(enough),
        }
    }

    fn is_enough(&self) -> bool {
        self.ended || self.page.is_enough()
    }

    /// Ends the answer, after the server has closed the connection.
    ///
    /// # Errors
    /// When the connection ended too early.
    pub fn finish(&self) -> Result<(), BadRecords> {
        if self.is_enough() { Ok(self.page.finish()?) } else { Err(BadRecords::Cut) }
    }

    /// The page as far as it has arrived.
    pub fn page(&self) -> &Page {
        &self.page
    }

    /// The beginning of the error stream.
    pub fn errors(&self) -> &[u8] {
        &self.errors
    }

    /// Takes a part of the bytes and returns its length, at least 1.
    fn step(&mut self, left: &[u8]) -> Result<usize, BadRecords> {
        if self.header.len() < HEADER {
            self.header.push(left[0]);
            self.begin()?;
            return Ok(1);
        }
        if self.content > 0 {
            let now = &left[..left.len().min(self.content)];
            self.content -= now.len();
            self.hear(now)?;
            return Ok(now.len());
        }
        let skipped = left.len().min(self.padding);
        self.padding -= skipped;
        self.next_record();
        Ok(skipped)
    }

    /// Checks a record's header once it is complete, its version at once: most other protocols differ there.
    fn begin(&mut self) -> Result<(), BadRecords> {
        if self.header[0] != VERSION {
            return Err(BadRecords::NotFastCgi);
        }
        let &[_, kind, id_high, id_low, high, low, padding, _] = &self.header[..] else { return Ok(()) };
        if u16::from_be_bytes([id_high, id_low]) != ID || ![END, STDOUT, STDERR].contains(&kind) {
            return Err(BadRecords::NotFastCgi);
        }
        self.content = u16::from_be_bytes([high, low]).into();
        self.padding = padding.into();
        if kind == END && self.content < HEADER {
            return Err(BadRecords::ShortEnd);
        }
        self.next_record();
        Ok(())
    }

    fn next_record(&mut self) {
        if self.content == 0 && self.padding == 0 {
            self.header.clear();
        }
    }

    fn hear(&mut self, content: &[u8]) -> Result<(), BadRecords> {
        match self.header[1] {
            STDOUT => self.page.take(content)?,
            STDERR => {
                let room = ERRORS - self.errors.len();
                self.errors.extend_from_slice(&content[..content.len().min(room)]);
            }
            _ => {
                let room = HEADER - self.end.len();
                self.end.extend_from_slice(&content[..content.len().min(room)]);
                if self.end.len() == HEADER {
                    self.last_record()?;
                }
            }
        }
        self.next_record();
        Ok(())
    }

    fn last_record(&mut self) -> Result<(), BadRecords> {
        match self.end[4] {
            0 => {
                self.ended = true;
                Ok(self.page.finish()?)
            }
            1 => Err(BadRecords::Refused("one request at a time")),
            2 => Err(BadRecords::Refused("overloaded")),
            3 => Err(BadRecords::Refused("no responder")),
            _ => Err(BadRecords::Refused("for an unknown reason")),
        }
    }
}

impl PageDecoder for Records {
    fn take(&mut self, piece: &[u8]) -> Result<bool, String> {
        Self::take(self, piece).map_err(|bad| chain(&bad))
    }

    fn finish(&mut self) -> Result<(), String> {
        Self::finish(self).map_err(|bad| chain(&bad))
    }

    fn page(&self) -> &Page {
        &self.page
    }

    fn errors(&self) -> &[u8] {
        &self.errors
    }
}
