//! What requests and sessions share.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Proxy;
use super::emulation::Emulated;
use crate::api::ApiKeys;
use crate::backend::Backend;
use crate::cluster::Cluster;
use crate::limits::Guards;
use crate::session::{Limits, Policy};

/// Between two clients that are sent away: a hundred a second are no burden to anybody.
const LONGEST_GAP: Duration = Duration::from_millis(10);

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

/// How an edge is to be.
#[derive(Debug, Clone)]
pub struct AppConfig {
    /// A client's share.
    pub limits: Limits,
    /// The rules that every session goes by.
    pub policy: Arc<Policy>,
    /// Largest message of a client, in bytes.
    pub max_message: usize,
    /// Time for a request's header.
    pub handshake_timeout: Duration,
    /// Serve the chat page.
    pub page: bool,
    /// Who may use the business server's API; `None` = it is off.
    pub api: Option<ApiKeys>,
    /// The way to the business server, for what the router does not answer itself; `None` = there is none.
    pub proxy: Option<Arc<Proxy>>,
    /// What a connection passes first.
    pub guards: Arc<Guards>,
}

/// The edge: what requests and sessions share.
#[derive(Debug)]
pub struct App<B> {
    config: AppConfig,
    /// No connection and no session begins any more.
    pub closing: CancellationToken,
    /// Ends sessions and connections.
    pub stop: CancellationToken,
    /// Every session and connection.
    pub tasks: TaskTracker,
    /// Sessions over HTTP.
    pub(crate) emulated: Arc<Emulated>,
    backend: OnceLock<Arc<B>>,
    cluster: OnceLock<Cluster>,
    readiness: RwLock<Readiness>,
    sessions: Mutex<Sessions>,
}

/// Open client connections, by number, and what ends each.
#[derive(Debug, Default)]
struct Sessions {
    last: u64,
    open: BTreeMap<u64, CancellationToken>,
}

impl<B> Deref for App<B> {
    type Target = AppConfig;

    fn deref(&self) -> &AppConfig {
        &self.config
    }
}

impl<B: Backend> App<B> {
    /// An edge that waits for its backend.
    pub fn new(config: AppConfig) -> Self {
        let stop = CancellationToken::new();
        Self {
            config,
            closing: stop.child_token(),
            stop,
            tasks: TaskTracker::new(),
            emulated: Arc::default(),
            backend: OnceLock::new(),
            cluster: OnceLock::new(),
            readiness: RwLock::new(Readiness::Starting("waiting for etcd")),
            sessions: Mutex::default(),
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

    /// The other processes can be asked. Only the first call counts.
    pub(crate) fn set_cluster(&self, cluster: Cluster) {
        if self.cluster.set(cluster).is_err() {
            tracing::error!("the cluster was set twice");
        }
    }

    /// The other processes; `None` before they are known.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.cluster.get()
    }

    /// Open client connections.
    pub fn connections(&self) -> u64 {
        self.sessions().open.len() as u64
    }

    /// Client connections opened so far.
    pub fn opened(&self) -> u64 {
        self.sessions().last
    }

    /// Sends the clients away one after the other, within `spread` or sooner if they are few: they must not all come to the
    /// other routers in one moment. Returns once each was told; what begins meanwhile is told too.
    pub async fn send_away(&self, spread: Duration) {
        let count = u32::try_from(self.connections()).unwrap_or(u32::MAX);
        let gap = (spread / count.max(1)).min(LONGEST_GAP);
        let (mut told, mut waited) = (0, Duration::ZERO);
        loop {
            let next = self.sessions().open.range(told + 1..).next().map(|(number, stop)| (*number, stop.clone()));
            let Some((number, stop)) = next else { return };
            told = number;
            stop.cancel();
            waited += gap;
            // Timers are no finer than that.
            if waited >= Duration::from_millis(1) {
                tokio::time::sleep(std::mem::take(&mut waited)).await;
            }
        }
    }

    /// Counts a client connection while the result lives. It ends when [`App::stop`] says so, or [`App::send_away`].
    pub(super) fn count_connection(self: &Arc<Self>) -> Connection<B> {
        // A token of its own: sessions would wait for each other at a shared one.
        let stop = self.stop.child_token();
        let mut sessions = self.sessions();
        sessions.last += 1;
        let number = sessions.last;
        sessions.open.insert(number, stop.clone());
        drop(sessions);
        Connection { app: self.clone(), number, stop }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        // Whole between any two statements above.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A counted client connection.
pub(super) struct Connection<B: Backend> {
    app: Arc<App<B>>,
    number: u64,
    /// Ends it.
    pub(super) stop: CancellationToken,
}

impl<B: Backend> Drop for Connection<B> {
    fn drop(&mut self) {
        self.app.sessions().open.remove(&self.number);
    }
}
