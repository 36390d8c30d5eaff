//! The links: one long-lived gRPC stream to every node process that the placement names, opened by this router.
//!
//! A link's task connects, greets, keeps the heartbeat, hands what the node says to the workers, and starts over when the
//! link ends. It decides nothing about slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use roomring_control::clock::Time;
use roomring_control::placement::Placement;
use roomring_control::registry::RegistrationState;
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::{Incarnation, LINK_VERSION, NodeId, PlacementRef, limits, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status, Streaming};
use v1::link_client::LinkClient;
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use super::attach::Link;
use super::outbox::{Outbox, Overflow};
use super::worker::{Event, slot_of};
use crate::webhook::Webhook;

/// How often each side says that it is there.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// Time to a TCP connection; within a data centre it takes milliseconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Time to the node's hello.
const HELLO_WITHIN: Duration = Duration::from_secs(2);

/// First wait before a lost link is opened again; doubles up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(20);

/// Longest such wait: a node that comes back is linked to within that time.
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Wait after a node refused us for what it is: only a change of configuration or an upgrade mends that.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// How long the end of a link may take when this router stops: the node has to read what was sent, nothing more.
const FINISH_WITHIN: Duration = Duration::from_millis(500);

/// HTTP/2 windows: what may be on its way without being taken. Covers a batch many times over.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// What is done with a placement that a node sent.
pub(super) type Offer = Arc<dyn Fn(Placement) + Send + Sync>;

/// What all links share.
pub(super) struct Upstreams {
    pub(super) cluster: NodeId,
    pub(super) router_id: NodeId,
    pub(super) wire: Wire,
    pub(super) registration: watch::Receiver<RegistrationState>,
    pub(super) view: watch::Receiver<ClusterView>,
    pub(super) offer: Offer,
    pub(super) webhook: Option<Arc<Webhook>>,
    pub(super) workers: Vec<mpsc::Sender<Event>>,
    /// Rises with every link that this process opens.
    pub(super) sessions: AtomicU64,
    /// Nodes with an open link.
    pub(super) open: watch::Sender<BTreeMap<Incarnation, NodeId>>,
}

/// A node process to be linked to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    incarnation: Incarnation,
    node: NodeId,
    addr: String,
}

/// Our end of one link.
struct Line {
    link: Link,
    outbox: Arc<Outbox>,
    /// The placement that the node was sent last, and when.
    told: Option<(PlacementRef, Instant)>,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("{0} did not answer within {1:?}")]
    Late(&'static str, Duration),
    /// Another try will not help.
    #[error("refused: {0}")]
    Refused(String),
    #[error("{0}")]
    Broken(String),
    #[error("nothing came for {:?}", limits::LINK_SILENCE)]
    Silent,
    #[error(transparent)]
    Overflow(#[from] Overflow),
    #[error("the node closed it")]
    Closed,
    #[error("stopped")]
    Stopped,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::FailedPrecondition | Code::Unimplemented | Code::InvalidArgument => {
                Self::Refused(status.message().to_owned())
            }
            code => Self::Broken(format!("{code:?}: {}", status.message())),
        }
    }
}

impl Upstreams {
    /// Keeps a link to every process that the placement names, until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut links: BTreeMap<Incarnation, (Target, CancellationToken)> = BTreeMap::new();
        let mut view = self.view.clone();
        let mut known: Option<PlacementRef> = None;
        loop {
            let placement = view.borrow_and_update().placement.clone();
            if let Some(placement) = placement.filter(|p| known != Some(p.reference())) {
                known = Some(placement.reference());
                let wanted = targets(&placement);
                links.retain(|incarnation, (target, token)| {
                    let stays = wanted.get(incarnation) == Some(target);
                    if !stays {
                        token.cancel();
                    }
                    stays
                });
                for (incarnation, target) in wanted {
                    links.entry(incarnation).or_insert_with(|| {
                        let token = stop.child_token();
                        tasks.spawn(self.clone().keep(target.clone(), token.clone()));
                        (target, token)
                    });
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = view.changed() => if changed.is_err() { break },
            }
        }
        for (_, token) in links.values() {
            token.cancel();
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Keeps one link until `stop` is cancelled.
    async fn keep(self: Arc<Self>, target: Target, stop: CancellationToken) {
        let mut back_off = BACK_OFF_MIN;
        let mut told = false;
        while !stop.is_cancelled() {
            let was_open = &mut false;
            let ended = self.link(&target, was_open, &stop).await;
            let (node, addr) = (&target.node, &target.addr);
            let wait = match &ended {
                Ended::Stopped => return,
                Ended::Refused(_) => {
                    tracing::error!(%node, addr, "link {ended}; trying again in {REFUSED_WAIT:?}");
                    REFUSED_WAIT
                }
                _ if *was_open => {
                    tracing::info!(%node, addr, "link lost: {ended}");
                    (back_off, told) = (BACK_OFF_MIN, false);
                    back_off
                }
                _ => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%node, addr, "no link: {ended}; trying on");
                    }
                    back_off
                }
            };
            stop.run_until_cancelled(sleep(wait)).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Opens one link and runs it to its end.
    async fn link(&self, target: &Target, was_open: &mut bool, stop: &CancellationToken) -> Ended {
        let session = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let link = Link { node: target.incarnation, session };
        let outbox = Arc::new(Outbox::default());
        let mut line = Line { link, outbox: outbox.clone(), told: None };
        let opened = stop.run_until_cancelled(self.open(target, &mut line)).await;
        let mut inbound = match opened {
            None => return Ended::Stopped,
            Some(Err(ended)) => return ended,
            Some(Ok(inbound)) => inbound,
        };
        *was_open = true;
        tracing::info!(node = %target.node, addr = target.addr, session, "link open");
        self.open.send_modify(|open| {
            open.insert(target.incarnation, target.node.clone());
        });
        self.tell_all(|| Event::LinkUp { link, outbox: outbox.clone() }).await;
        let ended = self.pump(&mut line, &mut inbound, stop).await;
        outbox.close();
        self.open.send_modify(|open| {
            open.remove(&target.incarnation);
        });
        self.tell_all(|| Event::LinkDown { link }).await;
        ended.err().unwrap_or(Ended::Closed)
    }

    async fn open(&self, target: &Target, line: &mut Line) -> Result<Streaming<v1::NodeBatch>, Ended> {
        let endpoint = self
            .wire
            .endpoint(&target.addr)
            .map_err(|e| Ended::Connect(format!("{} is no address: {e}", target.addr)))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let channel = timeout(CONNECT_WITHIN, endpoint.connect())
            .await
            .map_err(|_| Ended::Late("the address", CONNECT_WITHIN))?
            .map_err(|e| Ended::Connect(root_cause(&e)))?;
        let mut client = LinkClient::new(channel)
            .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
            .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
        let hello = v1::RouterHello {
            version: Some(LINK_VERSION),
            cluster: self.cluster.to_string(),
            router_id: self.router_id.to_string(),
            router: self.registration.borrow().incarnation.0,
            session: line.link.session,
            placement: self.reference().map(Into::into),
            visits: self.webhook.as_ref().is_some_and(|webhook| webhook.wants_visits()),
        };
        let hello = v1::RouterMessage { kind: Some(ToNode::Hello(hello)) };
        let hello = v1::RouterBatch { messages: vec![hello] };
        let outbound = futures_util::stream::once(async { hello }).chain(line.outbox.clone().batches());
        let greeting = async {
            let mut inbound = client.open(outbound).await?.into_inner();
            let first = inbound.message().await?.ok_or(Ended::Closed)?;
            Ok::<_, Ended>((inbound, first))
        };
        let (inbound, first) =
            timeout(HELLO_WITHIN, greeting).await.map_err(|_| Ended::Late("the node's hello", HELLO_WITHIN))??;
        let hello = check_hello(target, first)?;
        self.exchange(hello.placement, line)?;
        Ok(inbound)
    }

    async fn pump(
        &self,
        line: &mut Line,
        inbound: &mut Streaming<v1::NodeBatch>,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    line.outbox.finish();
                    // The node ends its side when it has read ours to the end.
                    let _ = timeout(FINISH_WITHIN, async { while let Ok(Some(_)) = inbound.message().await {} }).await;
                    return Err(Ended::Stopped);
                }
                batch = inbound.message() => {
                    let Some(batch) = batch? else { return Ok(()) };
                    heard = Instant::now();
                    self.on_batch(line, batch).await?;
                }
                _ = beat.tick() => {
                    if heard.elapsed() >= limits::LINK_SILENCE {
                        return Err(Ended::Silent);
                    }
                    let placement = self.reference().map(Into::into);
                    line.outbox.push([ToNode::Heartbeat(v1::RouterHeartbeat { placement })])?;
                }
            }
        }
    }

    async fn on_batch(&self, line: &mut Line, batch: v1::NodeBatch) -> Result<(), Ended> {
        let link = line.link;
        let mut shares: Vec<Vec<FromNode>> = self.workers.iter().map(|_| Vec::new()).collect();
        // A message without a kind is of a later release: additions are left alone.
        for message in batch.messages.into_iter().filter_map(|m| m.kind) {
            if let Some(slot) = slot_of(&message) {
                if let FromNode::NotPrimary(refusal) = &message {
                    self.exchange(refusal.placement, line)?;
                }
                shares[slot.0 as usize % self.workers.len()].push(message);
                continue;
            }
            match message {
                FromNode::Heartbeat(beat) => self.exchange(beat.placement, line)?,
                FromNode::Placement(bytes) => match Placement::decode(&bytes) {
                    Ok(placement) => (self.offer)(placement),
                    Err(error) => tracing::warn!(node = %link.node, "a placement from a node is not followed: {error}"),
                },
                FromNode::Visit(visit) => {
                    if let Some(webhook) = &self.webhook {
                        webhook.visit(&visit);
                    }
                }
                FromNode::Hello(_) => return Err(Ended::Broken("a second hello".to_owned())),
                FromNode::Attached(_)
                | FromNode::Deliver(_)
                | FromNode::Published(_)
                | FromNode::NotPrimary(_)
                | FromNode::History(_)
                | FromNode::Presence(_) => {}
            }
        }
        let at = Time::now();
        for (worker, messages) in self.workers.iter().zip(shares) {
            if !messages.is_empty() {
                // Waiting here keeps the node from sending more than the workers handle. A worker that is gone stops all.
                let _ = worker.send(Event::Node { link, messages, at }).await;
            }
        }
        Ok(())
    }

    /// The node has adopted `theirs`: if ours is newer it gets ours, once per heartbeat at most.
    fn exchange(&self, theirs: Option<v1::PlacementRef>, line: &mut Line) -> Result<(), Overflow> {
        let Some(ours) = self.view.borrow().placement.clone() else { return Ok(()) };
        let behind = theirs.map(PlacementRef::from).is_none_or(|t| t.uid == ours.uid && t.version < ours.version);
        let told = line.told.is_some_and(|(what, at)| what == ours.reference() && at.elapsed() < HEARTBEAT);
        if !behind || told {
            return Ok(());
        }
        line.told = Some((ours.reference(), Instant::now()));
        line.outbox.push([ToNode::Placement(ours.encode())])
    }

    fn reference(&self) -> Option<PlacementRef> {
        self.view.borrow().placement.as_ref().map(|p| p.reference())
    }

    async fn tell_all(&self, event: impl Fn() -> Event) {
        for worker in &self.workers {
            let _ = worker.send(event()).await;
        }
    }
}

/// Processes that may hold a primary, now or after the next change.
fn targets(placement: &Placement) -> BTreeMap<Incarnation, Target> {
    let primaries: BTreeSet<Incarnation> = placement.slots.iter().map(|slot| slot.primary.incarnation).collect();
    placement
        .members
        .iter()
        .filter(|(incarnation, member)| member.active || primaries.contains(incarnation))
        .map(|(&incarnation, member)| {
            (incarnation, Target { incarnation, node: member.node.clone(), addr: member.grpc_addr.clone() })
        })
        .collect()
}

fn check_hello(target: &Target, first: v1::NodeBatch) -> Result<v1::NodeHello, Ended> {
    let kind = first.messages.into_iter().next().and_then(|m| m.kind);
    let Some(FromNode::Hello(hello)) = kind else {
        return Err(Ended::Refused("the node's first message is no hello".to_owned()));
    };
    let theirs = hello.version.unwrap_or_default();
    if theirs.major != LINK_VERSION.major {
        return Err(Ended::Refused(format!(
            "the node speaks link version {}.{}, this router {}.{}",
            theirs.major, theirs.minor, LINK_VERSION.major, LINK_VERSION.minor
        )));
    }
    if hello.incarnation != target.incarnation.0 {
        // Its successor has a link of its own, or will have once the placement names it.
        return Err(Ended::Broken(format!("{} is process i{} now", target.addr, hello.incarnation)));
    }
    Ok(hello)
}

/// The innermost reason: tonic's own text is just "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
