//! The admin port: health and metrics over HTTP, from a thread and runtime of their own, so that they answer when the rest of the
//! process is busy, or stuck.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::metrics::{self, Source, Told};

/// Connections at once: scrapers, probes and a few people who look on. More wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// A connection ends after this: a forgotten one must not take a place for ever. Clients open another.
const LIFE: Duration = Duration::from_secs(60);

/// Time for a request's header.
const HEADER: Duration = Duration::from_secs(5);

/// How long the process's own runtime may take to run a task before the process counts as stuck.
const STUCK: Duration = Duration::from_secs(2);

/// Pause after an accept failed, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the thread may take to end; it waits for nobody.
const END: Duration = Duration::from_millis(500);

/// A request on the admin port.
pub type AdminRequest = Request<Incoming>;

/// Its answer.
pub type AdminAnswer = Response<Full<Bytes>>;

/// An answer under way.
pub type Answering<'a> = Pin<Box<dyn Future<Output = AdminAnswer> + Send + 'a>>;

/// What the admin port asks of the process. Called from the port's own thread.
pub trait Site: Send + Sync + 'static {
    /// Whether others should send work here.
    ///
    /// # Errors
    /// Why not, for people.
    fn ready(&self) -> Result<(), String>;

    /// Whether the process works at all, whoever else does: one that does not is started again.
    ///
    /// # Errors
    /// Why not, for people.
    fn live(&self) -> Result<(), String>;

    /// Answers what is neither health nor metrics.
    fn answer<'a>(&'a self, request: AdminRequest) -> Answering<'a> {
        let _ = request;
        Box::pin(async { text(StatusCode::NOT_FOUND, "here are /metrics, /healthz and /readyz") })
    }
}

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves on `listener` from now on: `site`, and what `source` tells. To be called from the runtime whose getting on counts
    /// as the process's life.
    ///
    /// # Errors
    /// If the thread or its runtime can't be had, or the listener not be used.
    pub fn start(listener: TcpListener, site: Arc<dyn Site>, source: impl Source) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = CancellationToken::new();
        let port = Arc::new(Port { site, told: Told::new(source), process: Handle::current() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            runtime.block_on(stopped.run_until_cancelled(serve(listener, port)));
            runtime.shutdown_timeout(END);
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the admin port had panicked");
        }
    }
}

struct Port {
    site: Arc<dyn Site>,
    told: Told,
    /// The runtime that does the process's work.
    process: Handle,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").finish_non_exhaustive()
    }
}

async fn serve(listener: tokio::net::TcpListener, port: Arc<Port>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let port = Arc::clone(&port);
                tokio::spawn(async move {
                    let _place = place;
                    connection(stream, port).await;
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "accepting a connection on the admin port failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: tokio::net::TcpStream, port: Arc<Port>) {
    let service = service_fn(move |request| {
        let port = Arc::clone(&port);
        async move { Ok::<_, std::convert::Infallible>(port.answer(request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .serve_connection(TokioIo::new(stream), service);
    if let Ok(Err(e)) = timeout(LIFE, served).await {
        tracing::debug!(error = %e, "a connection to the admin port ended");
    }
}

impl Port {
    async fn answer(&self, request: AdminRequest) -> AdminAnswer {
        let looks = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" if looks => health(self.live().await, "live"),
            "/readyz" if looks => health(self.site.ready(), "ready"),
            "/metrics" if looks => match self.told.text() {
                Ok(text) => answer(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {e}")),
            },
            _ => self.site.answer(request).await,
        }
    }

    async fn live(&self) -> Result<(), String> {
        let turn = self.process.spawn(async {});
        if timeout(STUCK, turn).await.is_err() {
            return Err(format!("no task got its turn within {STUCK:?}"));
        }
        self.site.live()
    }
}

fn health(is: Result<(), String>, word: &'static str) -> AdminAnswer {
    match is {
        Ok(()) => text(StatusCode::OK, word),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not {word}: {why}")),
    }
}

/// A short text for people.
pub fn text(status: StatusCode, text: impl Into<String>) -> AdminAnswer {
    let mut text = text.into();
    text.push('\n');
    answer(status, "text/plain; charset=utf-8", text)
}

/// An answer with `body` of the content type `kind`.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> AdminAnswer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::metrics::Sink;
    use super::*;

    #[derive(Debug, Default)]
    struct Example {
        ready: AtomicBool,
    }

    impl Site for Example {
        fn ready(&self) -> Result<(), String> {
            self.ready.load(Ordering::Relaxed).then_some(()).ok_or_else(|| "waits".to_owned())
        }

        fn live(&self) -> Result<(), String> {
            Ok(())
        }
    }

    #[derive(Debug)]
    struct One;

    impl Source for One {
        fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
            sink.gauge("one", "One.", 1)
        }
    }

    fn get(addr: SocketAddr, path: &str) -> String {
        let mut socket = std::net::TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    }

    /// On a runtime with one thread, which is busy while the port is asked.
    #[tokio::test]
    async fn it_answers_while_the_process_is_stuck() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let site = Arc::new(Example::default());
        let admin = Admin::start(listener, Arc::<Example>::clone(&site), One).unwrap();
        let asked = |path: &'static str| tokio::task::spawn_blocking(move || get(addr, path));

        let live = asked("/healthz").await.unwrap();
        assert!(live.starts_with("HTTP/1.1 200 ") && live.ends_with("\r\n\r\nlive\n"), "{live}");
        let not_ready = asked("/readyz").await.unwrap();
        assert!(not_ready.starts_with("HTTP/1.1 503 ") && not_ready.contains("not ready: waits"), "{not_ready}");
        site.ready.store(true, Ordering::Relaxed);
        assert!(asked("/readyz").await.unwrap().starts_with("HTTP/1.1 200 "));
        assert!(asked("/nothing").await.unwrap().starts_with("HTTP/1.1 404 "));

        // From here on the runtime of the process does nothing: this test keeps its only thread.
        let metrics = get(addr, "/metrics");
        assert!(metrics.contains("\nroomring_one 1\n"), "{metrics}");
        let stuck = get(addr, "/healthz");
        assert!(stuck.starts_with("HTTP/1.1 503 ") && stuck.contains("no task got its turn"), "{stuck}");
        drop(admin);
        assert!(std::net::TcpStream::connect(addr).is_err(), "the port is closed");
    }
}
