//! The router's gRPC server: status, health and reflection.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use roomring_control::daemon::resident_bytes;
use roomring_control::registry::RegistrationState;
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::v1::admin_server::{Admin, AdminServer};
use roomring_proto::v1::edge_server::EdgeServer;
use roomring_proto::{NodeId, v1};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::cluster::EdgeService;
use crate::http::App;
use crate::hub::Hub;
use crate::metrics::{ACKNOWLEDGED, DELIVERIES};

/// The gRPC server failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// It ended by itself.
    #[error("gRPC server: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// Reflection can't read our own descriptors.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What gRPC health checks are told.
#[derive(Debug, Clone)]
pub(crate) struct Health(HealthReporter);

impl Health {
    /// The router serves.
    pub(crate) async fn serve(&self) {
        self.set(ServingStatus::Serving).await;
    }

    /// The router serves no longer.
    pub(crate) async fn stop(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        // The empty name is the process as a whole.
        for service in ["", "roomring.v1.Admin", "roomring.v1.Edge"] {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// The server, to be run until `stop`; it is not serving yet as far as health checks are concerned.
pub(crate) fn server(
    listener: TcpListener,
    admin: AdminService,
    edge: EdgeService,
    wire: Wire,
    stop: CancellationToken,
) -> (Health, impl Future<Output = Result<(), ServerError>>) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let reporter = Health(reporter);
    let starting = reporter.clone();
    let served = async move {
        starting.stop().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        wire.server()?
            .add_service(health)
            .add_service(reflection)
            .add_service(AdminServer::new(admin))
            .add_service(EdgeServer::new(edge))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled_owned())
            .await?;
        Ok(())
    };
    (reporter, served)
}

/// What `roomctl` asks of a router.
#[derive(Debug, Clone)]
pub(crate) struct AdminService {
    id: NodeId,
    app: Arc<App<Hub>>,
    born: Instant,
    /// Filled once the router has come so far.
    running: Arc<OnceLock<Running>>,
}

#[derive(Debug)]
struct Running {
    view: watch::Receiver<ClusterView>,
    registration: watch::Receiver<RegistrationState>,
    hub: Hub,
}

impl AdminService {
    pub(crate) fn new(id: NodeId, app: Arc<App<Hub>>) -> Self {
        Self { id, app, born: Instant::now(), running: Arc::default() }
    }

    /// From now on there is more to tell.
    pub(crate) fn started(
        &self,
        view: watch::Receiver<ClusterView>,
        registration: watch::Receiver<RegistrationState>,
        hub: Hub,
    ) {
        if self.running.set(Running { view, registration, hub }).is_err() {
            tracing::error!("the router was started twice");
        }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn node_status(&self, _: Request<v1::NodeStatusRequest>) -> Result<Response<v1::NodeStatusReply>, Status> {
        Err(Status::unimplemented("this is a router"))
    }

    async fn rooms(&self, _: Request<v1::RoomsRequest>) -> Result<Response<v1::RoomsReply>, Status> {
        Err(Status::unimplemented("this is a router"))
    }

    async fn router_status(
        &self,
        _: Request<v1::RouterStatusRequest>,
    ) -> Result<Response<v1::RouterStatusReply>, Status> {
        let mut reply = v1::RouterStatusReply {
            router_id: self.id.to_string(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            connections: self.app.connections(),
            rss_bytes: resident_bytes().unwrap_or(0),
            publish_buckets: ACKNOWLEDGED.buckets().into_iter().map(|(_, n)| n).collect(),
            delivery_buckets: DELIVERIES.buckets().into_iter().map(|(_, n)| n).collect(),
            ..v1::RouterStatusReply::default()
        };
        if let Some(running) = self.running.get() {
            let status = running.hub.status();
            reply.incarnation = running.registration.borrow().incarnation.0;
            reply.placement = running.view.borrow().placement.as_ref().map(|p| p.reference().into());
            reply.rooms = status.rooms;
            reply.publishes_total = status.publishes_total;
            reply.deliveries_total = status.deliveries_total;
            reply.slow_clients_total = status.slow_clients_total;
            reply.links = status.links.iter().map(ToString::to_string).collect();
        }
        Ok(Response::new(reply))
    }
}
