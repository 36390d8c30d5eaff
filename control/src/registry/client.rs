//! etcd's client with what ours needs around it: a deadline on every request, and one server at a time.

use std::error::Error as _;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use roomring_proto::limits::GRPC_MESSAGE_BYTES;
use tokio::sync::Mutex;
use tonic::transport::Endpoint;

use super::access::EtcdAccess;

/// How long one request may take. A healthy etcd answers in milliseconds; a new leader is elected within about a second.
pub(super) const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// Silence on a connection that is asked after, and how long the answer may take: a cut cable is noticed within this.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A request to etcd that brought no answer, or an error.
#[derive(Debug, Clone, thiserror::Error)]
#[error("etcd at {url}: {reason}")]
pub struct EtcdError {
    /// The server asked.
    pub url: String,
    /// What it said, or what stood in the way.
    pub reason: String,
    /// It answered that the lease is gone.
    pub(super) lease_gone: bool,
}

impl EtcdError {
    pub(super) fn new(url: &str, reason: impl Into<String>) -> Self {
        Self { url: url.to_owned(), reason: reason.into(), lease_gone: false }
    }
}

/// The servers of one etcd. Requests go to one of them until it fails, then to the next.
#[derive(Debug)]
pub(super) struct Etcd {
    servers: Vec<Server>,
    access: EtcdAccess,
    current: AtomicUsize,
}

struct Server {
    url: String,
    /// `None` until it is asked, and again after it failed: then files and password may have changed.
    client: Mutex<Option<Client>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

impl Etcd {
    /// Checks the URLs; connects on first use.
    pub(super) fn new(urls: &[String], access: EtcdAccess) -> Result<Self, EtcdError> {
        if urls.is_empty() {
            return Err(EtcdError::new("(none)", "no URL given"));
        }
        let server = |url: &String| match Endpoint::from_shared(url.clone()) {
            Ok(_) => Ok(Server { url: url.clone(), client: Mutex::default() }),
            Err(e) => Err(EtcdError::new(url, e.to_string())),
        };
        Ok(Self { servers: urls.iter().map(server).collect::<Result<_, _>>()?, access, current: AtomicUsize::new(0) })
    }

    /// The server that the next request goes to.
    pub(super) fn url(&self) -> &str {
        &self.server().1.url
    }

    /// One request, given up after [`REQUEST_DEADLINE`]. An error says nothing about whether it took effect.
    pub(super) async fn call<T, F, Fut>(&self, request: F) -> Result<T, EtcdError>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let (index, server) = self.server();
        let asked = async { request(self.client(server).await?).await.map_err(|e| failure(&server.url, &e)) };
        let error = match tokio::time::timeout(REQUEST_DEADLINE, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = format!("no answer within {}", humantime::format_duration(REQUEST_DEADLINE));
                EtcdError::new(&server.url, reason)
            }
        };
        if !error.lease_gone {
            // Who holds the lock is making a new one.
            if let Ok(mut client) = server.client.try_lock() {
                *client = None;
            }
            self.leave(index);
        }
        Err(error)
    }

    /// The server's client. Where there is a user this logs in.
    async fn client(&self, server: &Server) -> Result<Client, EtcdError> {
        let mut client = server.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = connect(&server.url, &self.access).await?;
        Ok(client.insert(connected).clone())
    }

    /// Goes on to the next server, unless another request did so already.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.servers.len();
        // Losing this race is fine: somebody else moved on.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Goes on to the next server: the current one's watch has gone quiet.
    pub(super) fn next(&self) {
        self.leave(self.current.load(Ordering::Relaxed));
    }

    fn server(&self) -> (usize, &Server) {
        let index = self.current.load(Ordering::Relaxed);
        (index, &self.servers[index])
    }
}

async fn connect(url: &str, access: &EtcdAccess) -> Result<Client, EtcdError> {
    let options = ConnectOptions::new()
        .with_connect_timeout(REQUEST_DEADLINE)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
        .with_keep_alive_while_idle(true)
        // A member cut off from the others ends its watches instead of going quiet.
        .with_require_leader(true);
    let options = access.apply(options).map_err(|e| EtcdError::new(url, e.to_string()))?;
    Client::connect([url], Some(options)).await.map_err(|e| failure(url, &e))
}

/// The key-value client, which takes a placement of any size that etcd stores.
pub(super) fn kv(client: &Client) -> etcd_client::KvClient {
    client.kv_client().max_decoding_message_size(GRPC_MESSAGE_BYTES)
}

fn failure(url: &str, error: &Error) -> EtcdError {
    let lease_gone = match error {
        Error::GRpcStatus(status) => {
            status.code() == tonic::Code::NotFound && status.message().contains("lease not found")
        }
        _ => false,
    };
    EtcdError { url: url.to_owned(), reason: reason(error), lease_gone }
}

/// The innermost cause says what a person needs ("Connection refused"); the outer ones only wrap it.
pub(super) fn reason(error: &Error) -> String {
    let outer = match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    };
    let mut source = match error {
        Error::GRpcStatus(status) => status.source(),
        Error::TransportError(e) => e.source(),
        _ => None,
    };
    let mut innermost = None;
    while let Some(e) = source {
        innermost = Some(e.to_string());
        source = e.source();
    }
    match innermost {
        Some(inner) if !outer.contains(&inner) => format!("{outer}: {inner}"),
        _ => outer,
    }
}
