//! The Lease service, and the task that ends leases.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures_util::{Stream, StreamExt, future};
use tonic::{Request, Response, Status, Streaming};

use super::shared::Shared;
use crate::clock::Time;

/// Serves leases.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

/// Ends leases as their time comes, until cancelled.
pub(super) async fn expire(shared: Arc<Shared>) {
    loop {
        let deadline = shared.read().leases.next_deadline();
        let wait = async {
            match deadline {
                Some(deadline) => tokio::time::sleep(deadline.since(Time::now())).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            () = shared.cancel.cancelled() => return,
            () = shared.leases_changed.notified() => {}
            () = wait => shared.write(|store| store.expire(Time::now())),
        }
    }
}

/// etcd counts in whole seconds; a lease that still lives never shows 0.
fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

#[tonic::async_trait]
impl PbLeaseService for Service {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let (wanted, revision) = (request.get_ref(), self.0.read().revision());
        let (id, ttl) = self.0.write(|store| store.leases.grant(wanted.id, wanted.ttl, Time::now()))?;
        self.0.leases_changed.notify_one();
        let header = Some(self.0.header(revision));
        Ok(Response::new(PbLeaseGrantResponse { header, id, ttl: seconds(ttl), error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let revision = self.0.write(|store| store.revoke(request.get_ref().id).map(|()| store.revision()))?;
        self.0.leases_changed.notify_one();
        Ok(Response::new(PbLeaseRevokeResponse { header: Some(self.0.header(revision)) }))
    }

    type LeaseKeepAliveStream = Pin<Box<dyn Stream<Item = Result<PbLeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let (shared, cancelled) = (Arc::clone(&self.0), self.0.cancel.clone().cancelled_owned());
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            let (ttl, revision) = shared.write(|store| (store.leases.keep_alive(id, Time::now()), store.revision()));
            shared.leases_changed.notify_one();
            // 0 tells that the lease is no more.
            let ttl = ttl.map_or(0, seconds);
            Ok(PbLeaseKeepAliveResponse { header: Some(shared.header(revision)), id, ttl })
        });
        Ok(Response::new(Box::pin(answers.take_until(cancelled))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let (store, PbLeaseTimeToLiveRequest { id, keys }) = (self.0.read(), *request.get_ref());
        let header = Some(self.0.header(store.revision()));
        Ok(Response::new(match store.leases.status(id, Time::now()) {
            Some(status) => PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl: seconds(status.remaining),
                granted_ttl: seconds(status.ttl),
                keys: if keys { status.keys } else { Vec::new() },
            },
            None => PbLeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
        }))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let store = self.0.read();
        let leases = store.leases.ids().map(|id| PbLeaseStatus { id }).collect();
        Ok(Response::new(PbLeaseLeasesResponse { header: Some(self.0.header(store.revision())), leases }))
    }
}
