//! What requests and sessions share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::session::Limits;

/// How far the router is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: what it waits for.
    Starting(&'static str),
    /// Serving.
    Ready,
    /// No longer.
    Stopping,
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(what) => write!(f, "starting: {what}"),
            Self::Ready => f.write_str("ready"),
            Self::Stopping => f.write_str("stopping"),
        }
    }
}

/// The edge: what requests and sessions share.
#[derive(Debug)]
pub struct App<B> {
    /// A client's share.
    pub limits: Limits,
    /// Largest message of a client, in bytes.
    pub max_message: usize,
    /// Time for a request's header.
    pub handshake_timeout: Duration,
    /// Serve the chat page.
    pub page: bool,
    /// Ends sessions and connections.
    pub stop: CancellationToken,
    /// Every session and connection.
    pub tasks: TaskTracker,
    backend: OnceLock<Arc<B>>,
    readiness: RwLock<Readiness>,
    connections: AtomicU64,
}

impl<B: Backend> App<B> {
    /// An edge that waits for its backend.
    pub fn new(limits: Limits, max_message: usize, handshake_timeout: Duration, page: bool) -> Self {
        Self {
            limits,
            max_message,
            handshake_timeout,
            page,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            backend: OnceLock::new(),
            readiness: RwLock::new(Readiness::Starting("waiting for etcd")),
            connections: AtomicU64::new(0),
        }
    }

    /// How far the router is.
    pub fn readiness(&self) -> Readiness {
        *self.readiness.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The router came further. Nothing follows [`Readiness::Stopping`].
    pub fn set_readiness(&self, readiness: Readiness) {
        let mut current = self.readiness.write().unwrap_or_else(PoisonError::into_inner);
        if *current != Readiness::Stopping {
            *current = readiness;
        }
    }

    /// The rooms are there: sessions may begin. Only the first call counts.
    pub fn set_backend(&self, backend: Arc<B>) {
        if self.backend.set(backend).is_err() {
            tracing::error!("the backend was set twice");
        }
    }

    /// The rooms; `None` before they are there.
    pub fn backend(&self) -> Option<&Arc<B>> {
        self.backend.get()
    }

    /// Open client connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a client connection while the result lives.
    pub(super) fn count_connection(self: &Arc<Self>) -> Connection<B> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection(self.clone())
    }
}

/// A counted client connection.
pub(super) struct Connection<B>(Arc<App<B>>);

impl<B> Drop for Connection<B> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
