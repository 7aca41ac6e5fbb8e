//! Upgraded connections (websockets and others): always on a connection of their own, copied both ways,
//! counted as in flight until closed, ended at once by a cut. Called by `proxy`.

use std::{io, sync::Arc, time::Duration};

use hyper::{Request, Response, StatusCode, body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{io::copy_bidirectional_with_sizes, time::timeout};

use super::{
    sockets::{Doing, SocketState},
    target::Lease,
    upload::Upload,
    upstream::{UpstreamFault, builder, connect},
};

/// Buffer size in bytes for each direction of an upgraded connection: small, since there may be thousands, mostly
/// silent.
const BUFFER: usize = 4096;

/// Why an upgrade did not get an answer.
pub(super) enum UpgradeFailure {
    /// The connect failed; the request was not sent, and is returned.
    Connect(io::Error, Box<Request<Upload>>),
    /// The backend failed to answer.
    Exchange(UpstreamFault),
}

/// Sends an upgrade request on a connection of its own and waits for the head of the answer. A task of its own drives
/// the connection, and ends with it.
pub(super) async fn ask(
    lease: &Lease,
    request: Request<Upload>,
    within: Duration,
) -> Result<Response<Incoming>, UpgradeFailure> {
    let broken = |error| UpgradeFailure::Exchange(UpstreamFault::Broken(error));
    let wire = match connect(lease).await {
        Ok(wire) => wire,
        Err(error) => return Err(UpgradeFailure::Connect(error, Box::new(request))),
    };
    // In this state each direction can be shut down by itself.
    wire.slot().set(Doing::Tunnel);
    let (mut sender, driver) = builder().handshake(TokioIo::new(wire)).await.map_err(broken)?;
    // An error of the driver reaches the answer or its body as well.
    let driving = tokio::spawn(async move { driver.with_upgrades().await.ok() });
    match timeout(within, sender.send_request(request)).await {
        Ok(answer) => answer.map_err(broken),
        Err(_elapsed) => {
            driving.abort();
            Err(UpgradeFailure::Exchange(UpstreamFault::Late))
        }
    }
}

/// After a 101: copies until both sides are done or the target is cut.
pub(super) fn join(lease: Lease, slot: Arc<SocketState>, client: OnUpgrade, answer: &mut Response<Incoming>) {
    debug_assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    let backend = hyper::upgrade::on(answer);
    slot.set(Doing::Tunnel);
    tokio::spawn(async move {
        // Registered before anything is awaited, so that a cut from now on is seen.
        let cut = lease.target().cut.notified();
        tokio::pin!(cut);
        cut.as_mut().enable();
        let copied = async {
            let (client, backend) = tokio::try_join!(client, backend).ok()?;
            let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
            copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await.ok()
        };
        // Cancel-safe: a cut drops both connections on purpose. A side that vanished is a usual end.
        tokio::select! {
            _ended = copied => {}
            () = cut => {}
        }
    });
}
