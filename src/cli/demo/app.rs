//! The sample app of `bgd demo`, as the hidden role `bgd demo-app`: a web server that serves what the files of
//! its release say. It behaves as a good app does: listens on `PORT` or `SOCKET`, answers `/up`,
//! finishes at TERM.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::{cli::terminal, rules::address::Address};

/// The header that names the version which answered; the demo's client counts by it.
pub const VERSION_HEADER: &str = "x-version";
/// How long `/slow` takes: long enough to be in flight during a flip.
pub const SLOW: Duration = Duration::from_millis(700);
/// After TERM, requests in flight get this long.
const FINISH: Duration = Duration::from_secs(4);

/// What the files of a release say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoPage {
    version: String,
    text: String,
    healthy: bool,
}

impl DemoPage {
    /// Reads `app.conf` (`key = value` lines) of the release.
    pub fn read(release: &Path) -> std::io::Result<Self> {
        let text = std::fs::read_to_string(release.join("app.conf"))?;
        let value = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once('='));
            lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned()).next()
        };
        Ok(Self {
            version: value("version").unwrap_or_default(),
            text: value("page").unwrap_or_default(),
            healthy: value("database").as_deref() == Some("reachable"),
        })
    }
}

/// Serves until TERM.
pub async fn serve(page: DemoPage, address: &Address) -> std::io::Result<()> {
    let listener = match address {
        Address::Port(port) => {
            Listener::Port(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).await?)
        }
        Address::Socket(path) => Listener::Socket(UnixListener::bind(path)?),
    };
    say(&format!("version {} listens on {}", page.version, address.named()));
    let mut term = signal(SignalKind::terminate())?;
    let (page, mut connections) = (Arc::new(page), JoinSet::new());
    let (leaving, left) = watch::channel(false);
    loop {
        tokio::select! {
            // Accepting is cancel-safe: a connection is either handed over or still in the queue.
            accepted = listener.accept() => {
                connections.spawn(connection(accepted?, Arc::clone(&page), left.clone()));
            }
            _ = term.recv() => break,
            // Keeps the set from growing; nothing is lost when another arm wins.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    leaving.send_replace(true);
    let finished = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FINISH, finished).await;
    say(&format!("version {} has finished", page.version));
    Ok(())
}

enum Listener {
    Port(TcpListener),
    Socket(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn DemoStream>> {
        Ok(match self {
            Self::Port(listener) => Box::new(listener.accept().await?.0),
            Self::Socket(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

trait DemoStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DemoStream for T {}

/// Writes a line of the app's log; its reader may be gone.
fn say(text: &str) {
    drop(terminal::data(text));
}

async fn connection(stream: Box<dyn DemoStream>, page: Arc<DemoPage>, mut left: watch::Receiver<bool>) {
    let service = service_fn(|request| answer(request, Arc::clone(&page)));
    let mut served = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that breaks off is its own affair.
        _ = served.as_mut() => return,
        _ = left.wait_for(|left| *left) => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

async fn answer(
    request: Request<Incoming>,
    page: Arc<DemoPage>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/up" if page.healthy => (StatusCode::OK, "ok".to_owned()),
        "/up" => (StatusCode::INTERNAL_SERVER_ERROR, "no connection to the database".to_owned()),
        path => {
            if path == "/slow" {
                sleep(SLOW).await;
            }
            (StatusCode::OK, page.text.clone())
        }
    };
    let mut response = Response::new(Full::from(text + "\n"));
    *response.status_mut() = status;
    if let Ok(version) = page.version.parse() {
        response.headers_mut().insert(VERSION_HEADER, version);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_says_what_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let text = "# shop\nversion = 3\npage = Total: 12.00\ndatabase = reachable\n";
        std::fs::write(dir.path().join("app.conf"), text).unwrap();
        let page = DemoPage::read(dir.path()).unwrap();
        assert_eq!(page, DemoPage { version: "3".into(), text: "Total: 12.00".into(), healthy: true });
    }
}
