//! The Maintenance service: only the status.

use std::sync::Arc;

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService,
    PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbSnapshotResponse, PbStatusRequest,
    PbStatusResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::error::Error;
use super::shared::Shared;

/// Serves the status.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbMaintenanceService for Service {
    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let header = self.0.header(self.0.read().revision());
        Ok(Response::new(PbStatusResponse {
            leader: header.member_id,
            raft_term: header.raft_term,
            version: "3.5.0-embedded".to_owned(),
            header: Some(header),
            ..PbStatusResponse::default()
        }))
    }

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        Err(Error::NotServed("Alarm").into())
    }

    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> Result<Response<PbDefragmentResponse>, Status> {
        Err(Error::NotServed("Defragment").into())
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(Error::NotServed("Hash").into())
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        Err(Error::NotServed("HashKV").into())
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Error::NotServed("Snapshot").into())
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Error::NotServed("MoveLeader").into())
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Error::NotServed("Downgrade").into())
    }
}
