//! Reads one stream between nodes; the same on both ends.

use std::pin::pin;

use roomring_proto::v1::peer_message::Kind;
use roomring_proto::{Incarnation, NodeId, PlacementRef, v1};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::greeting::{self, Claims, HELLO_DEADLINE, SILENCE};
use crate::news::News;
use crate::outbox::Outbox;
use crate::shell::{Shell, stopping};

/// The other end, as its hello said.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) placement: Option<v1::PlacementRef>,
}

/// Waits for the first message and checks it.
pub(super) async fn greet(shell: &Shell, inbound: &mut Streaming<v1::PeerBatch>) -> Result<Caller, Status> {
    let first = tokio::select! {
        () = shell.stop.cancelled() => return Err(stopping()),
        first = timeout(HELLO_DEADLINE, inbound.message()) => first,
    };
    let batch = first
        .map_err(|_| Status::deadline_exceeded(format!("no hello came within {HELLO_DEADLINE:?}")))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before a hello"))?;
    let [v1::PeerMessage { kind: Some(Kind::Hello(hello)) }] = <[_; 1]>::try_from(batch.messages)
        .map_err(|_| Status::invalid_argument("the first batch must hold a hello and nothing else"))?
    else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
    let claims =
        Claims { version: hello.version, cluster: &hello.cluster, id: &hello.node_id, incarnation: hello.incarnation };
    let (node, incarnation) = greeting::check(&claims, &shell.cluster)?;
    if incarnation == shell.incarnation {
        return Err(Status::failed_precondition(format!("incarnation {incarnation} is this process itself")));
    }
    Ok(Caller { node, incarnation, placement: hello.placement })
}

/// One stream's reader.
pub(super) struct Inbox<'a> {
    shell: &'a Shell,
    outbox: &'a Outbox<v1::PeerMessage>,
    /// The other process.
    peer: Incarnation,
    news: News,
}

impl<'a> Inbox<'a> {
    /// A reader that starts with the placement that the hello of `peer` named.
    pub(super) fn new(shell: &'a Shell, outbox: &'a Outbox<v1::PeerMessage>, caller: &Caller) -> Self {
        let mut inbox = Self { shell, outbox, peer: caller.incarnation, news: News::default() };
        inbox.on_placement_ref(caller.placement);
        inbox
    }

    /// Reads until the stream ends, falls silent, or can't be written any more.
    pub(super) async fn run(&mut self, inbound: &mut Streaming<v1::PeerBatch>) -> Result<(), Status> {
        let mut silence = pin!(sleep(SILENCE));
        loop {
            tokio::select! {
                () = self.shell.stop.cancelled() => return Err(stopping()),
                () = self.outbox.closed() => return Err(Status::aborted("nothing more can be sent")),
                () = &mut silence => {
                    return Err(Status::deadline_exceeded(format!("nothing came for {SILENCE:?}")));
                }
                batch = inbound.message() => {
                    let Some(batch) = batch? else { return Ok(()) };
                    self.on_batch(batch).await?;
                    // After the batch: the time that workers let us wait is not the other's silence.
                    silence.as_mut().reset(Instant::now() + SILENCE);
                }
            }
        }
    }

    async fn on_batch(&mut self, batch: v1::PeerBatch) -> Result<(), Status> {
        let mut for_slots = Vec::with_capacity(batch.messages.len());
        for kind in batch.messages.into_iter().filter_map(|m| m.kind) {
            match kind {
                Kind::Hello(_) => return Err(Status::invalid_argument("a second hello")),
                Kind::Heartbeat(beat) => self.on_placement_ref(beat.placement),
                Kind::Placement(encoded) => self.shell.offer(&encoded)?,
                Kind::Replication(message) => {
                    self.check(&message)?;
                    for_slots.push(message);
                }
            }
        }
        Ok(self.shell.workers.replicate(for_slots).await?)
    }

    /// Seats are trusted further on, so the processes that they name must be the two at the ends of this stream.
    fn check(&self, message: &v1::Replication) -> Result<(), Status> {
        let ends = (message.from.map(|s| s.incarnation), message.to.map(|s| s.incarnation));
        if ends != (Some(self.peer.0), Some(self.shell.incarnation.0)) {
            let slot = message.slot;
            return Err(Status::invalid_argument(format!(
                "slot {slot}: `from` and `to` are not the ends of this stream"
            )));
        }
        Ok(())
    }

    fn on_placement_ref(&mut self, theirs: Option<v1::PlacementRef>) {
        let ours = self.shell.vitals.placement();
        if self.news.is_due(ours, theirs.map(PlacementRef::from), Instant::now())
            && let Some(encoded) = self.shell.encoded_placement()
        {
            self.outbox.push([v1::PeerMessage { kind: Some(Kind::Placement(encoded)) }]);
        }
    }
}
