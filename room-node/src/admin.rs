//! What `roomctl` asks of a node.

use std::sync::Arc;
use std::time::Duration;

use roomring_control::daemon::resident_bytes;
use roomring_proto::v1;
use roomring_proto::v1::admin_server::Admin;
use roomring_proto::v1::slot_status::Role;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status};

use crate::metrics::COMMITS;
use crate::shell::Shell;
use crate::worker::load_of;

/// How long the workers may take to say what they hold.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);

/// Most rooms in an answer: with names at their limit it fits a gRPC message.
const ROOMS: usize = 50_000;

/// Serves `Admin`.
#[derive(Debug, Clone)]
pub(crate) struct AdminService {
    shell: Arc<Shell>,
    started: Instant,
}

impl AdminService {
    /// `started`: when the process did.
    pub(crate) fn new(shell: Arc<Shell>, started: Instant) -> Self {
        Self { shell, started }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn node_status(
        &self,
        request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusReply>, Status> {
        let shell = &self.shell;
        let slots = timeout(STATUS_DEADLINE, shell.workers.status()).await.map_err(|_| {
            Status::deadline_exceeded(format!("the workers did not answer within {STATUS_DEADLINE:?}"))
        })??;
        let count = |roles: &[Role]| {
            u32::try_from(slots.iter().filter(|s| roles.contains(&s.role())).count()).unwrap_or(u32::MAX)
        };
        Ok(Response::new(v1::NodeStatusReply {
            node_id: shell.node.to_string(),
            incarnation: shell.incarnation.0,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            placement: shell.hello_placement(),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            contact_age_ms: shell.vitals.contact_age_ms(),
            rooms: slots.iter().filter(|s| s.role() == Role::Primary).map(|s| s.rooms).sum(),
            members: slots.iter().filter(|s| s.role() == Role::Primary).map(|s| s.members).sum(),
            publishes_total: shell.counters.publishes(),
            deliveries_total: shell.counters.deliveries(),
            routers: u32::try_from(shell.links.len()).unwrap_or(u32::MAX),
            primaries: count(&[Role::Primary, Role::Promoting]),
            replicas: count(&[Role::Replica]),
            learners: count(&[Role::Learner]),
            rss_bytes: resident_bytes().unwrap_or(0),
            load: Some(load_of(&shell.reports).wire()),
            commit_buckets: COMMITS.buckets().into_iter().map(|(_, n)| n).collect(),
            slots: if request.into_inner().slots { slots } else { Vec::new() },
        }))
    }

    async fn rooms(&self, request: Request<v1::RoomsRequest>) -> Result<Response<v1::RoomsReply>, Status> {
        let rooms = timeout(STATUS_DEADLINE, self.shell.workers.rooms())
            .await
            .map_err(|_| Status::deadline_exceeded(format!("the workers did not answer within {STATUS_DEADLINE:?}")))?;
        let (mut rooms, only) = (rooms?, request.into_inner().room);
        if !only.is_empty() {
            rooms.retain(|r| r.room == only);
        }
        let left_out = rooms.len().saturating_sub(ROOMS) as u64;
        rooms.truncate(ROOMS);
        Ok(Response::new(v1::RoomsReply { rooms, left_out }))
    }

    async fn router_status(
        &self,
        _: Request<v1::RouterStatusRequest>,
    ) -> Result<Response<v1::RouterStatusReply>, Status> {
        Err(Status::unimplemented("this is a node"))
    }
}
