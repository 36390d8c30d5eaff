//! Accepts connections and serves HTTP/1.1 on them until they upgrade.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{App, routes};
use crate::backend::Backend;

/// Connections that the kernel holds until they are accepted: a reconnect of all of a dead router's clients comes at once.
const BACKLOG: i32 = 4_096;

/// Largest request header, in bytes: browsers' cookies fit.
const HEADER_BYTES: usize = 16 << 10;

/// Most header fields of a request.
const HEADER_FIELDS: usize = 64;

/// A connection that has not upgraded by then is closed: a peer that never reads its answers must not stay for ever.
const PLAIN_LIFE: Duration = Duration::from_secs(60);

/// Time for the answer under way when a connection is closed.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// Pause after an accept failed, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Listens on `address` (host:port).
///
/// # Errors
/// If the address can't be resolved or bound.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted router must not wait for the connections of the one before it to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the app closes; the listener is closed then. They are among the app's tasks.
pub async fn serve<B: Backend>(listener: TcpListener, app: Arc<App<B>>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                app.tasks.spawn(connection(stream, app.clone()));
            }
            Err(e) => {
                tracing::warn!(error = %e, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<B: Backend>(stream: TcpStream, app: Arc<App<B>>) {
    // Small frames go out at once: we gather them ourselves.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "connection lost at once");
        return;
    }
    let service = {
        let app = app.clone();
        service_fn(move |request| {
            let response = routes::answer(&app, request);
            async { Ok::<_, std::convert::Infallible>(response) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.handshake_timeout)
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_FIELDS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = sleep(PLAIN_LIFE) => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
        () = app.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(LAST_ANSWER, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = served {
        tracing::debug!(error = %e, "connection ended");
    }
}
