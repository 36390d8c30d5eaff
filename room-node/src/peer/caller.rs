//! The streams that other nodes open to this one.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use roomring_proto::v1;
use roomring_proto::v1::peer_server::Peer;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::inbox::{Caller, Inbox, greet};
use super::{batch, hello};
use crate::outbox::Outbox;
use crate::shell::{Shell, stopping};
use crate::worker::Mail;

/// Serves `Peer`.
#[derive(Debug, Clone)]
pub(crate) struct PeerService(pub(crate) Arc<Shell>);

#[tonic::async_trait]
impl Peer for PeerService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<v1::PeerBatch, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<v1::PeerBatch>>) -> Result<Response<Self::OpenStream>, Status> {
        let shell = Arc::clone(&self.0);
        if shell.stop.is_cancelled() {
            return Err(stopping());
        }
        let outbox = Outbox::new();
        let vitals = shell.vitals.clone();
        let stream = outbox.stream(batch, move || vitals.peer_heartbeat());
        let connection = serve(Arc::clone(&shell), request.into_inner(), outbox);
        shell.tasks.spawn(connection.instrument(tracing::info_span!("caller")));
        Ok(Response::new(Box::pin(stream)))
    }
}

async fn serve(shell: Arc<Shell>, mut inbound: Streaming<v1::PeerBatch>, outbox: Outbox<v1::PeerMessage>) {
    let end = match greet(&shell, &mut inbound).await {
        Ok(caller) => attend(&shell, &mut inbound, &outbox, &caller).await,
        Err(status) => {
            tracing::info!(reason = status.message(), "stream of a node refused");
            Err(status)
        }
    };
    outbox.close(end.err());
}

async fn attend(
    shell: &Shell,
    inbound: &mut Streaming<v1::PeerBatch>,
    outbox: &Outbox<v1::PeerMessage>,
    caller: &Caller,
) -> Result<(), Status> {
    let peer = caller.incarnation;
    // A node opens a second stream only when it has given up the first.
    let session = shell.callers.admit(peer, shell.next_number()).await?;
    tracing::info!(node = %caller.node, incarnation = %peer, "stream of a node open");
    outbox.push([hello(shell)]);
    shell.workers.broadcast(|| Mail::CallerUp { peer, outbox: outbox.clone() }).await?;
    let mut inbox = Inbox::new(shell, outbox, caller);
    let end = tokio::select! {
        () = session.replaced() => Err(Status::aborted("replaced by a newer stream of this node")),
        end = inbox.run(inbound) => end,
    };
    // Told before the session ends, so that a stream that replaces this one comes after it.
    let told = shell.workers.broadcast(|| Mail::CallerDown(peer)).await;
    drop(session);
    let reason = end.as_ref().err().map_or("ended by the node", Status::message);
    tracing::info!(node = %caller.node, incarnation = %peer, reason, "stream of a node closed");
    told?;
    end
}
