//! The KV service.

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::error::Error;
use super::shared::Shared;

/// Serves keys.
#[derive(Debug)]
pub(super) struct Service(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbKvService for Service {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let store = self.0.read();
        let response = store.range(request.get_ref())?;
        Ok(Response::new(PbRangeResponse { header: Some(self.0.header(store.revision())), ..response }))
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Error::NotServed("RangeStream").into())
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.0.write(|store| {
            let response = store.put(request.get_ref())?;
            Ok(Response::new(PbPutResponse { header: Some(self.0.header(store.revision())), ..response }))
        })
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        self.0.write(|store| {
            let response = store.delete_range(request.get_ref())?;
            Ok(Response::new(PbDeleteResponse { header: Some(self.0.header(store.revision())), ..response }))
        })
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        self.0.write(|store| {
            let response = store.txn(request.get_ref())?;
            Ok(Response::new(PbTxnResponse { header: Some(self.0.header(store.revision())), ..response }))
        })
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        self.0.write(|store| {
            store.compact(request.get_ref().revision)?;
            Ok(Response::new(PbCompactionResponse { header: Some(self.0.header(store.revision())) }))
        })
    }
}
