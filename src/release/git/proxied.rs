//! libgit2's smart protocol over plain http through a proxy: libgit2 itself would connect to the server, not to the
//! proxy. Used by `transfer` inside the worker. For https libgit2 uses the proxy's CONNECT.

use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use git2::{
    Error, ErrorClass, ErrorCode, Remote,
    transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport},
};
use reqwest::{Client, Method, Response};
use tokio::runtime::{Builder, Runtime};

/// The scheme under which libgit2 knows these remotes.
const SCHEME: &str = "bgd-proxied";

/// The remote and the proxy of one connection.
#[derive(Clone)]
pub struct ProxiedRemote {
    /// The URL of the proxy.
    pub proxy: String,
    /// The remote, without user info.
    pub url: String,
    /// User name and password.
    pub login: Option<(String, String)>,
    /// Limit of connecting and of one read.
    pub limit: Duration,
}

/// Passes a [`ProxiedRemote`] to the transport, which libgit2 constructs itself.
#[derive(Clone, Default)]
pub struct Proxied {
    next: Arc<Mutex<Option<ProxiedRemote>>>,
}

impl Proxied {
    /// Registers the transport with libgit2. Call it once in a process, before the first connection.
    pub fn register(&self) -> Result<(), Error> {
        let proxied = self.clone();
        // SAFETY: the worker has one thread that uses libgit2's transports, and this is before their first use.
        unsafe {
            git2::transport::register(SCHEME, move |remote: &Remote<'_>| {
                let way = proxied.next.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let way = way.ok_or_else(|| Error::from_str("no way through a proxy"))?;
                Transport::smart(remote, true, ProxiedLink::new(way)?)
            })
        }
    }

    /// Sets the way of the next connection, and returns the URL for libgit2.
    pub fn arm(&self, way: ProxiedRemote) -> String {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
        format!("{SCHEME}://remote")
    }
}

struct ProxiedLink {
    way: Arc<ProxiedRemote>,
    client: Client,
    runtime: Arc<Runtime>,
}

impl ProxiedLink {
    fn new(way: ProxiedRemote) -> Result<Self, Error> {
        let failed = |err: &dyn std::fmt::Display| {
            Error::new(ErrorCode::GenericError, ErrorClass::Net, err.to_string())
        };
        let proxy = reqwest::Proxy::http(&way.proxy).map_err(|err| failed(&err))?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|err| failed(&err))?;
        let inside = runtime.enter();
        let client = Client::builder().proxy(proxy).connect_timeout(way.limit).read_timeout(way.limit);
        let client = client.user_agent(concat!("git/bgd-", env!("CARGO_PKG_VERSION"))).build();
        drop(inside);
        Ok(Self {
            way: Arc::new(way),
            client: client.map_err(|err| failed(&err))?,
            runtime: Arc::new(runtime),
        })
    }
}

impl SmartSubtransport for ProxiedLink {
    fn action(&self, _: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, Error> {
        let (method, path) = match service {
            Service::UploadPackLs => (Method::GET, "/info/refs?service=git-upload-pack"),
            Service::UploadPack => (Method::POST, "/git-upload-pack"),
            Service::ReceivePackLs | Service::ReceivePack => {
                return Err(Error::from_str("nothing is ever pushed"));
            }
        };
        let url = format!("{}{path}", self.way.url.trim_end_matches('/'));
        let mut request = self.client.request(method.clone(), url);
        if let Some((user, password)) = &self.way.login {
            request = request.basic_auth(user, Some(password));
        }
        let mut exchange = Exchange {
            runtime: Arc::clone(&self.runtime),
            request: Some(request),
            body: Vec::new(),
            answer: None,
            left: Vec::new(),
        };
        if method == Method::GET {
            exchange.send()?;
        }
        Ok(Box::new(exchange))
    }

    fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// One request and its answer.
struct Exchange {
    runtime: Arc<Runtime>,
    request: Option<reqwest::RequestBuilder>,
    body: Vec<u8>,
    answer: Option<Response>,
    left: Vec<u8>,
}

impl Exchange {
    /// Sends the request with the body written so far, once. Errors have libgit2's wording, which `transfer` looks for.
    fn send(&mut self) -> Result<(), Error> {
        let Some(mut request) = self.request.take() else { return Ok(()) };
        let runtime = Arc::clone(&self.runtime);
        // reqwest creates timers together with the future, which needs the runtime before the first poll.
        let _inside = runtime.enter();
        let net = |text: String| Error::new(ErrorCode::GenericError, ErrorClass::Net, text);
        let service = if self.body.is_empty() { "advertisement" } else { "result" };
        if !self.body.is_empty() {
            request = request.header("Content-Type", "application/x-git-upload-pack-request");
            request = request.body(std::mem::take(&mut self.body));
        }
        let answer = self
            .runtime
            .block_on(request.send())
            .map_err(|err| net(crate::os::errors::chain(&err.without_url())))?;
        let status = answer.status();
        let http = |code, text: String| Err(Error::new(code, ErrorClass::Http, text));
        if status == 407 {
            return http(ErrorCode::GenericError, "the proxy wants credentials: status code: 407".to_owned());
        }
        if !status.is_success() {
            let code = if status == 401 { ErrorCode::Auth } else { ErrorCode::GenericError };
            return http(code, format!("unexpected http status code: {}", status.as_u16()));
        }
        let kind =
            answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind != format!("application/x-git-upload-pack-{service}") {
            return http(ErrorCode::GenericError, format!("invalid content-type: '{kind}'"));
        }
        self.answer = Some(answer);
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.send().map_err(io::Error::other)?;
        let runtime = Arc::clone(&self.runtime);
        let _inside = runtime.enter();
        while self.left.is_empty() {
            let Some(answer) = &mut self.answer else { return Ok(0) };
            match runtime.block_on(answer.chunk()).map_err(io::Error::other)? {
                Some(chunk) => self.left = chunk.to_vec(),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.left.len());
        into[..count].copy_from_slice(&self.left[..count]);
        self.left.drain(..count);
        Ok(count)
    }
}

impl Write for Exchange {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.body.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
