//! Accepts connections and serves HTTP/1.1 on them until they upgrade.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{App, Tls, routes};
use crate::backend::Backend;
use crate::limits::{BadHeader, Place, read_header};

/// Connections that the kernel holds until they are accepted: a reconnect of all of a dead router's clients comes at once.
const BACKLOG: i32 = 4_096;

/// Bytes that a connection's socket takes before any of them was sent. What a client is slow to read then waits in its queue, where it
/// counts, and not in megabytes of the kernel's.
const UNSENT: u32 = 128 << 10;

/// Largest request header, in bytes: browsers' cookies fit.
const HEADER_BYTES: usize = 16 << 10;

/// Most header fields of a request.
const HEADER_FIELDS: usize = 64;

/// A connection that has not upgraded by then is closed: a peer that never reads its answers must not stay for ever.
const PLAIN_LIFE: Duration = Duration::from_secs(60);

/// Time for the answer under way when a connection has been there for long: more than a batch of the business server takes.
const LONG_ANSWER: Duration = Duration::from_secs(30);

/// Time for the answer under way when the router stops.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// Time for the request of a connection that is to be told that it is one too many.
const OVER: Duration = Duration::from_secs(1);

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
    // Accepted sockets have these from the one that they were accepted by. Small frames go out at once: we gather them ourselves.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the app closes; the listener is closed then. They are among the app's tasks.
pub async fn serve<B: Backend>(listener: TcpListener, app: Arc<App<B>>) {
    accept(listener, app, None).await;
}

/// As [`serve`], within TLS.
pub async fn serve_tls<B: Backend>(listener: TcpListener, app: Arc<App<B>>, tls: Arc<Tls>) {
    accept(listener, app, Some(tls)).await;
}

async fn accept<B: Backend>(listener: TcpListener, app: Arc<App<B>>, tls: Option<Arc<Tls>>) {
    let next = async || {
        // Those who must wait do so in the kernel's queue.
        app.guards.accepts.ready().await;
        listener.accept().await
    };
    loop {
        let accepted = tokio::select! {
            accepted = next() => accepted,
            () = app.closing.cancelled() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                app.tasks.spawn(connection(stream, peer.ip(), app.clone(), tls.clone()));
            }
            Err(e) => {
                tracing::warn!(error = %e, "accepting a connection failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where a connection comes from.
#[derive(Debug)]
pub(super) struct Source {
    /// A trusted proxy's, or the client's.
    pub(super) address: IpAddr,
    /// Its place among those from there; a trusted proxy has any number of them.
    pub(super) place: Option<Place>,
    /// There are too many from there.
    pub(super) over: bool,
    /// It is within TLS.
    pub(super) secure: bool,
    /// It has an answer that ends when a session does.
    streams: AtomicBool,
    /// Requests of it that are passed on.
    passing: AtomicUsize,
    /// How often something of these moved.
    moves: AtomicU64,
}

impl Source {
    fn new(address: IpAddr, place: Option<Place>, over: bool, secure: bool) -> Self {
        Self {
            address,
            place,
            over,
            secure,
            streams: AtomicBool::default(),
            passing: AtomicUsize::default(),
            moves: AtomicU64::default(),
        }
    }

    async fn of<B: Backend>(
        stream: &mut TcpStream,
        peer: IpAddr,
        secure: bool,
        app: &App<B>,
    ) -> Result<Self, BadHeader> {
        let guards = &app.guards;
        let mut address = peer.to_canonical();
        if guards.proxy_protocol && guards.proxies.trust(address) {
            let header = timeout(app.handshake_timeout, read_header(stream)).await;
            let header = header.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))?;
            address = header.unwrap_or(address).to_canonical();
        }
        if guards.proxies.trust(address) {
            return Ok(Self::new(address, None, false, secure));
        }
        // From now on, also while it says nothing.
        let place = guards.addresses.enter(address);
        let over = place.is_none();
        Ok(Self::new(address, place, over, secure))
    }

    /// The place of a client that comes in with these headers, unless it has one: of those behind a proxy it is known only then
    /// where they are. The error: there are too many from there.
    pub(super) fn take<B: Backend>(&self, app: &App<B>, headers: &HeaderMap) -> Result<Option<Place>, ()> {
        let client = app.guards.proxies.client(self.address, headers);
        let place = match &self.place {
            Some(_) => None,
            None => Some(app.guards.addresses.enter(client).ok_or(())?),
        };
        tracing::debug!(address = %client, "a client comes in");
        Ok(place)
    }

    /// It has an answer that ends when a session does.
    pub(super) fn stream(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    /// A request of it is passed on while the result lives.
    pub(super) fn pass(self: &Arc<Self>) -> Pass {
        self.passing.fetch_add(1, Ordering::Relaxed);
        Pass(self.clone())
    }
}

/// A request that is passed on to another server.
#[derive(Debug)]
pub(super) struct Pass(Arc<Source>);

impl Pass {
    /// Something of it, or of its answer, moved.
    pub(super) fn moved(&self) {
        self.0.moves.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection<B: Backend>(mut stream: TcpStream, peer: IpAddr, app: Arc<App<B>>, tls: Option<Arc<Tls>>) {
    let source = match Source::of(&mut stream, peer, tls.is_some(), &app).await {
        Ok(source) => Arc::new(source),
        Err(error) => return tracing::debug!(%peer, %error, "a proxy does not say whom it speaks for"),
    };
    let Some(tls) = tls else { return requests(stream, source, app).await };
    // Boxed: every connection's future would hold room for it.
    let handshake = Box::pin(timeout(app.handshake_timeout, tls.accept(stream)));
    match handshake.await {
        Ok(Ok(stream)) => Box::pin(requests(stream, source, app)).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake did not end in time"),
    }
}

/// Serves HTTP on a connection.
async fn requests<S, B>(stream: S, source: Arc<Source>, app: Arc<App<B>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Backend,
{
    let (over, watched) = (source.over, source.clone());
    let service = {
        let app = app.clone();
        service_fn(move |request| {
            let response = routes::answer(app.clone(), source.clone(), request);
            async { Ok::<_, std::convert::Infallible>(response.await) }
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(if over { app.handshake_timeout.min(OVER) } else { app.handshake_timeout })
        .max_buf_size(HEADER_BYTES)
        .max_headers(HEADER_FIELDS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let over = async {
        tokio::select! {
            () = sleep(PLAIN_LIFE) => LONG_ANSWER,
            () = app.closing.cancelled() => LAST_ANSWER,
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        within = over => {
            connection.as_mut().graceful_shutdown();
            if watched.streams.load(Ordering::Relaxed) {
                // It ends when its session does, and sessions are ended one by one.
                connection.await
            } else {
                finish(connection, &watched, within, &app).await
            }
        }
    };
    if let Err(e) = served {
        tracing::debug!(error = %e, "connection ended");
    }
}

/// Waits for the answer under way. One that is passed on takes as long as it moves; when the router stops, until sessions have
/// ended too.
async fn finish<C: Future<Output = hyper::Result<()>>, B: Backend>(
    mut connection: Pin<&mut C>,
    watched: &Source,
    within: Duration,
    app: &App<B>,
) -> hyper::Result<()> {
    loop {
        let moves = watched.moves.load(Ordering::Relaxed);
        let passing = watched.passing.load(Ordering::Relaxed) > 0;
        let Some(proxy) = app.proxy.as_ref().filter(|_| passing && !app.stop.is_cancelled()) else {
            return timeout(within, connection).await.unwrap_or(Ok(()));
        };
        tokio::select! {
            served = connection.as_mut() => return served,
            () = app.stop.cancelled() => {}
            () = sleep(proxy.idle_timeout()) => if watched.moves.load(Ordering::Relaxed) == moves {
                return Ok(());
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_have_the_options_of_their_listener() {
        let listener = bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT);
    }
}
