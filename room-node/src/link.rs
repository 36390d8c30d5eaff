//! The links of routers: one stream a router process, opened by the router.

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::Stream;
use roomring_proto::v1::link_server::Link;
use roomring_proto::v1::router_message::Kind;
use roomring_proto::{Incarnation, LINK_VERSION, NodeId, PlacementRef, SlotId, v1};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use crate::greeting::{self, Claims, HELLO_DEADLINE, SILENCE};
use crate::news::News;
use crate::outbox::Outbox;
use crate::shell::{Shell, stopping};
use crate::slot::LinkId;
use crate::worker::Mail;

/// Serves `Link`.
#[derive(Debug, Clone)]
pub(crate) struct LinkService(pub(crate) Arc<Shell>);

#[tonic::async_trait]
impl Link for LinkService {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<v1::NodeBatch, Status>> + Send>>;

    async fn open(&self, request: Request<Streaming<v1::RouterBatch>>) -> Result<Response<Self::OpenStream>, Status> {
        let shell = Arc::clone(&self.0);
        if shell.stop.is_cancelled() {
            return Err(stopping());
        }
        let outbox = Outbox::new();
        let vitals = shell.vitals.clone();
        let stream = outbox.stream(|messages| v1::NodeBatch { messages }, move || vitals.link_heartbeat());
        // The answer's headers go out before the hello has come, so that a router may wait for either first.
        let connection = serve(Arc::clone(&shell), request.into_inner(), outbox);
        shell.tasks.spawn(connection.instrument(tracing::info_span!("link", link = tracing::field::Empty)));
        Ok(Response::new(Box::pin(stream)))
    }
}

async fn serve(shell: Arc<Shell>, mut inbound: Streaming<v1::RouterBatch>, outbox: Outbox<v1::NodeMessage>) {
    let end = match greet(&shell, &mut inbound).await {
        Ok((hello, id, router)) => attend(&shell, inbound, &outbox, hello, id, router).await,
        Err(status) => {
            tracing::info!(reason = status.message(), "link refused");
            Err(status)
        }
    };
    outbox.close(end.err());
}

/// The first message, checked.
async fn greet(
    shell: &Shell,
    inbound: &mut Streaming<v1::RouterBatch>,
) -> Result<(v1::RouterHello, NodeId, Incarnation), Status> {
    let first = tokio::select! {
        () = shell.stop.cancelled() => return Err(stopping()),
        first = timeout(HELLO_DEADLINE, inbound.message()) => first,
    };
    let batch = first
        .map_err(|_| Status::deadline_exceeded(format!("no hello came within {HELLO_DEADLINE:?}")))??
        .ok_or_else(|| Status::invalid_argument("the stream ended before a hello"))?;
    let [v1::RouterMessage { kind: Some(Kind::Hello(hello)) }] = <[_; 1]>::try_from(batch.messages)
        .map_err(|_| Status::invalid_argument("the first batch must hold a hello and nothing else"))?
    else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
    let claims =
        Claims { version: hello.version, cluster: &hello.cluster, id: &hello.router_id, incarnation: hello.router };
    let (id, router) = greeting::check(&claims, &shell.cluster)?;
    Ok((hello, id, router))
}

async fn attend(
    shell: &Shell,
    inbound: Streaming<v1::RouterBatch>,
    outbox: &Outbox<v1::NodeMessage>,
    hello: v1::RouterHello,
    id: NodeId,
    router: Incarnation,
) -> Result<(), Status> {
    let session = shell.links.admit(router, hello.session).await?;
    let link = shell.next_link();
    tracing::Span::current().record("link", link.0);
    tracing::info!(router = %id, incarnation = %router, session = hello.session, "link open");
    outbox.push([v1::NodeMessage {
        kind: Some(v1::node_message::Kind::Hello(v1::NodeHello {
            version: Some(LINK_VERSION),
            node_id: shell.node.to_string(),
            incarnation: shell.incarnation.0,
            session: hello.session,
            placement: shell.hello_placement(),
        })),
    }]);
    let listens = hello.visits;
    shell.workers.broadcast(|| Mail::LinkUp { link, router, listens, outbox: outbox.clone() }).await?;
    let mut reader = Reader { shell, outbox, link, news: News::default() };
    reader.on_placement_ref(hello.placement);
    let end = tokio::select! {
        () = session.replaced() => Err(Status::aborted("replaced by a newer link of this router")),
        end = reader.run(inbound) => end,
    };
    // Told before the session ends, so that a link that replaces this one comes after it.
    let told = shell.workers.broadcast(|| Mail::LinkDown(link)).await;
    drop(session);
    match &end {
        Ok(()) => tracing::info!(router = %id, "link closed by the router"),
        Err(status) => tracing::info!(router = %id, reason = status.message(), "link closed"),
    }
    told?;
    end
}

/// Reads one link.
struct Reader<'a> {
    shell: &'a Shell,
    outbox: &'a Outbox<v1::NodeMessage>,
    link: LinkId,
    news: News,
}

impl Reader<'_> {
    async fn run(&mut self, mut inbound: Streaming<v1::RouterBatch>) -> Result<(), Status> {
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
                    // After the batch: the time that workers let us wait is not the router's silence.
                    silence.as_mut().reset(Instant::now() + SILENCE);
                }
            }
        }
    }

    async fn on_batch(&mut self, batch: v1::RouterBatch) -> Result<(), Status> {
        let mut for_slots = Vec::with_capacity(batch.messages.len());
        for kind in batch.messages.into_iter().filter_map(|m| m.kind) {
            match kind {
                Kind::Hello(_) => return Err(Status::invalid_argument("a second hello")),
                Kind::Heartbeat(beat) => self.on_placement_ref(beat.placement),
                Kind::Placement(encoded) => self.shell.offer(&encoded)?,
                Kind::Attach(v1::Attach { slot, .. })
                | Kind::Detach(v1::Detach { slot, .. })
                | Kind::Publish(v1::Publish { slot, .. })
                | Kind::Presence(v1::Presence { slot, .. })
                | Kind::History(v1::HistoryRequest { slot, .. })
                | Kind::PresenceQuery(v1::PresenceRequest { slot, .. }) => for_slots.push((SlotId(slot), kind)),
                Kind::Retract(ref retract) => {
                    let slot = retract.publish.as_ref().map(|p| SlotId(p.slot));
                    let slot = slot.ok_or_else(|| Status::invalid_argument("a retraction without its publish"))?;
                    for_slots.push((slot, kind));
                }
            }
        }
        Ok(self.shell.workers.route(self.link, for_slots).await?)
    }

    fn on_placement_ref(&mut self, theirs: Option<v1::PlacementRef>) {
        let ours = self.shell.vitals.placement();
        if self.news.is_due(ours, theirs.map(PlacementRef::from), Instant::now())
            && let Some(encoded) = self.shell.encoded_placement()
        {
            self.outbox.push([v1::NodeMessage { kind: Some(v1::node_message::Kind::Placement(encoded)) }]);
        }
    }
}
