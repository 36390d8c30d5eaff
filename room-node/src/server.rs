//! The node's gRPC server.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::v1::admin_server::AdminServer;
use roomring_proto::v1::link_server::LinkServer;
use roomring_proto::v1::peer_server::PeerServer;
use roomring_proto::{limits, v1};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::AdminService;
use crate::link::LinkService;
use crate::peer::PeerService;
use crate::shell::Shell;

/// Bytes that may be under way on one stream: a round trip within a data centre at several GB/s.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;

/// Bytes that may be under way on one connection: a stuck stream leaves room for health checks and status.
pub(crate) const CONNECTION_WINDOW: u32 = 4 << 20;

/// How often a quiet connection is probed, and how long the answer may take: a machine that vanished holds nothing for long.
const PROBE: Duration = Duration::from_secs(3);

/// A node that can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("listen {addr}: {source}")]
    Bind {
        /// As configured.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener can't be used.
    #[error("listener: {0}")]
    Listener(std::io::Error),
    /// The server ended by itself.
    #[error("gRPC server: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// Reflection can't read our own descriptors.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Listens at `addr`. The listener outlives the server, so that a new life of this process keeps its address.
pub(crate) async fn bind(addr: SocketAddr) -> Result<std::net::TcpListener, ServerError> {
    let bind = async { TcpListener::bind(addr).await?.into_std() };
    bind.await.map_err(|source| ServerError::Bind { addr, source })
}

/// Serves everything until `stop` resolves, then lets calls that are under way end.
pub(crate) async fn serve(
    shell: Arc<Shell>,
    listener: std::net::TcpListener,
    health: tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    started: Instant,
    stop: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let listener = TcpListener::from_std(listener).map_err(ServerError::Listener)?;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let link = LinkServer::new(LinkService(Arc::clone(&shell))).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    let peer = PeerServer::new(PeerService(Arc::clone(&shell))).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    shell
        .wire
        .server()?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(PROBE))
        .http2_keepalive_timeout(Some(PROBE))
        .add_service(health)
        .add_service(reflection)
        .add_service(link)
        .add_service(peer)
        .add_service(AdminServer::new(AdminService::new(shell, started)))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop)
        .await?;
    Ok(())
}

/// Tells health checks whether the node serves, as a whole (the empty name) and by service.
pub(crate) async fn set_serving(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", "roomring.v1.Link", "roomring.v1.Peer", "roomring.v1.Admin"] {
        health.set_service_status(service, status).await;
    }
}
