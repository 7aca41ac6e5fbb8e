//! One client connection from accept to end. While it is idle it is parked: no HTTP state and no buffers, only the
//! socket, so that thousands of idle connections cost little. With few clients the sweep asks idle ones to park; with
//! many, each parks after its answer. The first byte ends the parking. Spawned by `worker`.

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::http1::{Builder, UpgradeableConnection},
    service::Service,
};
use hyper_util::rt::TokioIo;

use super::{
    reply::ReplyBody,
    sockets::{SocketState, Wire},
    upstream::BUFFER,
};

/// One client connection.
pub(super) struct Guest<S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible>> {
    state: GuestState<S>,
    slot: Arc<SocketState>,
}

enum GuestState<S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible>> {
    Parked(Wire, S),
    Serving(Box<UpgradeableConnection<TokioIo<Wire>, S>>),
    Gone,
}

impl<S> Guest<S>
where
    S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible>,
{
    /// A connection that begins parked.
    pub(super) fn new(wire: Wire, service: S) -> Self {
        let slot = Arc::clone(wire.slot());
        Self { state: GuestState::Parked(wire, service), slot }
    }
}

impl<S> Future for Guest<S>
where
    S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible> + Unpin,
    S::Future: Send,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.slot.remember(cx.waker());
        loop {
            let (next, polled) = match mem::replace(&mut self.state, GuestState::Gone) {
                GuestState::Parked(wire, service) => wait(wire, service, cx),
                GuestState::Serving(connection) => serve(connection, &self.slot, cx),
                GuestState::Gone => return Poll::Ready(()),
            };
            self.state = next;
            if polled.is_pending() {
                return Poll::Pending;
            }
        }
    }
}

fn wait<S>(wire: Wire, service: S, cx: &mut Context<'_>) -> (GuestState<S>, Poll<()>)
where
    S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible>,
{
    if wire.poll_readable(cx).is_pending() {
        return (GuestState::Parked(wire, service), Poll::Pending);
    }
    wire.slot().unpark();
    let mut builder = Builder::new();
    // The sweep closes idle and slow clients, so hyper needs no timeout.
    builder.header_read_timeout(None).max_buf_size(BUFFER).max_header_size(BUFFER);
    let connection = builder.serve_connection(TokioIo::new(wire), service).with_upgrades();
    (GuestState::Serving(Box::new(connection)), Poll::Ready(()))
}

fn serve<S>(
    mut connection: Box<UpgradeableConnection<TokioIo<Wire>, S>>,
    slot: &SocketState,
    cx: &mut Context<'_>,
) -> (GuestState<S>, Poll<()>)
where
    S: Service<Request<Incoming>, Response = Response<ReplyBody>, Error = Infallible> + Unpin,
{
    if Pin::new(&mut *connection).poll(cx).is_ready() {
        // An error means that the client went away or did not send HTTP: not worth a log line.
        return (GuestState::Gone, Poll::Ready(()));
    }
    if !slot.may_park() {
        return (GuestState::Serving(connection), Poll::Pending);
    }
    match connection.into_parts() {
        Some(parts) => (
            GuestState::Parked(parts.io.into_inner().unread(&parts.read_buf), parts.service),
            Poll::Ready(()),
        ),
        None => (GuestState::Gone, Poll::Ready(())),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, time::Duration};

    use hyper::service::service_fn;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::front::builtin::sockets::{Doing, KEEP_BUFFERS, OpenSockets};

    async fn until(mut holds: impl FnMut() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), waiting).await.unwrap();
    }

    async fn guest() -> (TcpStream, Arc<OpenSockets>, Arc<SocketState>) {
        guest_of(Arc::default()).await
    }

    async fn guest_of(sockets: Arc<OpenSockets>) -> (TcpStream, Arc<OpenSockets>, Arc<SocketState>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let wire = sockets.admit(listener.accept().await.unwrap().0);
        let slot = Arc::clone(wire.slot());
        let answering = Arc::clone(&slot);
        let service = service_fn(move |_request| {
            let slot = Arc::clone(&answering);
            slot.set(Doing::Answering);
            async move { Ok::<_, Infallible>(Response::new(ReplyBody::text("hi", slot))) }
        });
        tokio::spawn(Guest::new(wire, service));
        (client, sockets, slot)
    }

    async fn exchange(client: &mut TcpStream) {
        client.write_all(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nhi") {
            let mut buffer = [0; 512];
            let read = timeout(Duration::from_secs(20), client.read(&mut buffer)).await.unwrap().unwrap();
            assert!(read > 0);
            answer.extend_from_slice(&buffer[..read]);
        }
    }

    #[tokio::test]
    async fn an_idle_connection_is_parked_and_serves_on() {
        let (mut client, sockets, slot) = guest().await;
        for _ in 0..3 {
            exchange(&mut client).await;
            assert_eq!(sockets.park(2), 0, "not idle for long enough");
            sockets.tick();
            sockets.tick();
            assert_eq!(sockets.park(2), 1);
            until(|| slot.is_parked()).await;
            assert_eq!(sockets.park(2), 0, "parked already");
        }
    }

    #[tokio::test]
    async fn one_of_many_is_parked_after_its_answer() {
        let others = Arc::new(AtomicUsize::new(KEEP_BUFFERS));
        let (mut client, sockets, slot) = guest_of(Arc::new(OpenSockets::counted(others))).await;
        for _ in 0..3 {
            exchange(&mut client).await;
            until(|| slot.is_parked()).await;
            assert_eq!(sockets.park(0), 0, "parked already");
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_cut_off_and_an_idle_connection_is_not() {
        let (mut slow, sockets, slot) = guest().await;
        slow.write_all(b"GET / HTTP/1.1\r\nho").await.unwrap();
        until(|| slot.is(Doing::Hearing)).await;
        sockets.tick();
        sockets.close(Doing::Quiet, 0);
        sockets.close(Doing::Hearing, 2);
        assert_eq!(sockets.len(), 1);
        sockets.close(Doing::Hearing, 1);
        let mut rest = Vec::new();
        timeout(Duration::from_secs(20), slow.read_to_end(&mut rest)).await.unwrap().unwrap();
        until(|| sockets.len() == 0).await;
    }
}
