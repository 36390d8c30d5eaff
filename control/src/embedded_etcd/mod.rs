//! The part of the etcd v3 API that Roomring uses, served from memory: what `roomctl dev` runs on.
//!
//! Components have one code path, etcd-client; one conformance suite runs against this and against real etcd. Served are
//! Range, Put, DeleteRange, Txn (not nested), Compact, Watch, the lease calls and Maintenance.Status; everything else
//! answers `UNIMPLEMENTED`. Nothing is kept on disk: when it stops, the cluster's keys are gone.
//!
//! The `store` is pure (revisions, transactions, leases; time is an argument); the other modules are tonic shells around it.

mod error;
mod kv;
mod lease;
mod leases;
mod maintenance;
mod range;
mod shared;
mod store;
mod txn;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use etcd_client::proto::{PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use shared::Shared;

/// Largest request taken, in bytes: etcd's own default limit, so that what works here works there.
const REQUEST_BYTES: usize = 1_572_864;

/// A running in-memory etcd. Ends with its cancellation token; dropping it leaves it running until then.
#[derive(Debug)]
pub struct EmbeddedEtcd {
    addr: SocketAddr,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    expiry: JoinHandle<()>,
}

impl EmbeddedEtcd {
    /// Serves on `listen` (port 0 picks one) until `cancel`.
    ///
    /// # Errors
    /// If the address cannot be bound; the text names it.
    pub async fn start(listen: SocketAddr, cancel: CancellationToken) -> io::Result<Self> {
        let name = |e: io::Error| io::Error::new(e.kind(), format!("cannot listen on {listen}: {e}"));
        let listener = TcpListener::bind(listen).await.map_err(name)?;
        let addr = listener.local_addr().map_err(name)?;
        let shared = Arc::new(Shared::new(cancel.clone()));
        let expiry = tokio::spawn(lease::expire(Arc::clone(&shared)));
        let server = Server::builder()
            .tcp_nodelay(true)
            .add_service(PbKvServer::new(kv::Service(Arc::clone(&shared))).max_decoding_message_size(REQUEST_BYTES))
            .add_service(PbWatchServer::new(watch::Service(Arc::clone(&shared))))
            .add_service(PbLeaseServer::new(lease::Service(Arc::clone(&shared))))
            .add_service(PbMaintenanceServer::new(maintenance::Service(shared)))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), cancel.cancelled_owned());
        Ok(Self { addr, server: tokio::spawn(server), expiry })
    }

    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What to give to `--etcd`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Waits until its tasks have ended, after the token was cancelled.
    pub async fn stopped(self) {
        for end in [self.server.await.map(|served| served.err()), self.expiry.await.map(|()| None)] {
            match end {
                Ok(None) => {}
                Ok(Some(e)) => tracing::error!("embedded etcd: {e}"),
                Err(e) => tracing::error!("embedded etcd: {e}"),
            }
        }
    }
}
