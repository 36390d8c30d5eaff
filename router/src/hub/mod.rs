//! The hub: the rooms that this router's clients are in, attached to the nodes that own them.
//!
//! Sessions send [`Command`]s; answers and pushes come through the clients' queues. Inside, a few workers own the slots
//! between them, and one task per node keeps the link to it. All decisions are in the pure [`slot`] and what it is made of.

pub mod api;
mod attach;
mod debts;
mod encode;
mod entrance;
mod members;
mod outbox;
mod publishes;
pub mod queue;
mod requests;
mod room;
mod rules;
#[cfg(test)]
mod sim;
mod slot;
#[cfg(test)]
mod slot_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod upstream;
pub(crate) mod wire;
mod worker;

/// The pure core of a worker, for the simulation.
#[doc(hidden)]
pub mod core {
    pub use super::attach::{Link, Route};
    pub use super::rules::{Rule, Rules};
    pub use super::slot::{HELD_UP, Output, Slot};
}

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use roomring_control::placement::Placement;
use roomring_control::registry::{RegistrationState, Registry};
use roomring_control::view::ClusterView;
use roomring_control::wire::Wire;
use roomring_proto::{Incarnation, NodeId, RoomId, SlotId, Uid};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backend::{Backend, Sent, Whereabouts};
use crate::namespaces::Namespaces;
use crate::webhook::Webhook;
use api::{Client, Command};
use upstream::Upstreams;
use worker::{Colleagues, Event, MAILBOX, Totals, Worker};

/// How long a command waits for room in a worker's mailbox. By then the worker is far behind, and the client better off
/// with an error.
const SEND_WITHIN: Duration = Duration::from_secs(1);

/// The hub's settings.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// The cluster's name, as nodes check it.
    pub cluster: NodeId,
    /// This router's name.
    pub router_id: NodeId,
    /// How it speaks with nodes.
    pub wire: Wire,
    /// This process, as registered: another one when etcd lost its data.
    pub registration: watch::Receiver<RegistrationState>,
    /// A publish that is not answered by then fails. Under the 5 s that SDKs wait.
    pub publish_deadline: Duration,
    /// What holds in rooms.
    pub namespaces: Arc<Namespaces>,
    /// Who tells the business server, if it is told anything.
    pub webhook: Option<Arc<Webhook>>,
    /// What may wait for one client, in bytes.
    pub queue_bytes: usize,
    /// Tasks that share the slots; `None` = one per core.
    pub workers: Option<NonZeroUsize>,
}

/// What the hub has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubStatus {
    /// Rooms with members here, or attached a moment ago.
    pub rooms: u64,
    /// Memberships.
    pub members: u64,
    /// Publishes taken from clients.
    pub publishes_total: u64,
    /// Pushes put into clients' queues.
    pub deliveries_total: u64,
    /// Clients that did not read fast enough.
    pub slow_clients_total: u64,
    /// Nodes with an open link.
    pub links: BTreeSet<NodeId>,
}

/// A running hub. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hub {
    workers: Arc<[mpsc::Sender<Event>]>,
    view: watch::Receiver<ClusterView>,
    totals: Arc<Totals>,
    links: watch::Receiver<BTreeMap<Incarnation, NodeId>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Clients that end from now on go to other routers.
    handing_over: Arc<AtomicBool>,
}

impl Hub {
    /// Starts the hub's tasks. They end when `stop` is cancelled.
    pub fn start(config: HubConfig, registry: &Registry, stop: &CancellationToken) -> Self {
        let view = registry.view();
        let registry = registry.clone();
        let offer = move |placement| {
            registry.offer_placement(placement);
        };
        Self::start_with(config, view, offer, stop)
    }

    /// Like [`Self::start`], following any view; `offer` gets placements that nodes send.
    pub fn start_with(
        config: HubConfig,
        view: watch::Receiver<ClusterView>,
        offer: impl Fn(Placement) + Send + Sync + 'static,
        stop: &CancellationToken,
    ) -> Self {
        let stop = stop.child_token();
        let tasks = TaskTracker::new();
        let totals = Arc::new(Totals::default());
        let stop_links = CancellationToken::new();
        let working = TaskTracker::new();
        let count = config.workers.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let (workers, mailboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(MAILBOX)).unzip();
        let colleagues = Colleagues {
            own: 0,
            mailboxes: workers.clone().into(),
            owed: workers.iter().map(|_| AtomicUsize::new(0)).collect(),
        };
        for (own, mailbox) in mailboxes.into_iter().enumerate() {
            let worker = Worker::new(
                mailbox,
                Colleagues { own, ..colleagues.clone() },
                view.clone(),
                (config.publish_deadline, config.queue_bytes),
                (config.namespaces.clone(), config.webhook.clone()),
                totals.clone(),
            );
            let all = stop.clone();
            // A worker that panicked has lost its slots: the router must not go on without them.
            let guard = all.clone().drop_guard();
            working.spawn(async move {
                let _guard = guard;
                worker.run(all).await;
            });
        }
        let open = watch::Sender::default();
        let links = open.subscribe();
        let upstreams = Arc::new(Upstreams {
            cluster: config.cluster,
            router_id: config.router_id,
            wire: config.wire,
            registration: config.registration,
            view: view.clone(),
            offer: Arc::new(offer),
            webhook: config.webhook,
            workers: workers.clone(),
            sessions: AtomicU64::new(0),
            open,
        });
        tasks.spawn(upstreams.run(stop_links.clone()));
        // Links end last: what the workers said in their last turn, such as who left, still goes out.
        working.close();
        let told = stop.clone();
        tasks.spawn(async move {
            told.cancelled().await;
            working.wait().await;
            stop_links.cancel();
        });
        tasks.close();
        Self { workers: workers.into(), view, totals, links, tasks, stop, handing_over: Arc::default() }
    }

    /// The router goes: clients that end from now on come back through others, and are not announced as gone at once.
    pub fn hand_over(&self) {
        self.handing_over.store(true, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn status(&self) -> HubStatus {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HubStatus {
            rooms: get(&self.totals.rooms),
            members: get(&self.totals.members),
            publishes_total: get(&self.totals.publishes),
            deliveries_total: get(&self.totals.deliveries),
            slow_clients_total: get(&self.totals.slow_clients),
            links: self.links.borrow().values().cloned().collect(),
        }
    }

    /// Events that wait for the workers.
    pub fn waiting(&self) -> usize {
        self.workers.iter().map(|w| w.max_capacity() - w.capacity()).sum()
    }

    /// Returns when the hub has stopped: because it was told to, or because one of its tasks failed.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
        self.tasks.wait().await;
    }

    /// Ends the hub's tasks and waits until they have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Whose a room is.
    fn place(&self, room: &RoomId) -> Option<(&mpsc::Sender<Event>, Uid, SlotId)> {
        // Not a clone of it: every command of every client would count it up and down.
        let view = self.view.borrow();
        let placement = view.placement.as_ref()?;
        let slot = room.slot(placement.settings.slots);
        let worker = self.workers.get(slot.0 as usize % self.workers.len())?;
        Some((worker, placement.uid, slot))
    }
}

impl Backend for Hub {
    fn send(&self, command: Command) -> Sent {
        let Some((worker, uid, slot)) = self.place(command.room()) else { return Sent::Refused(command) };
        // What comes back is what was sent.
        let back = |event| match event {
            Event::Command { command, .. } => command,
            _ => unreachable!("only a command was sent"),
        };
        match worker.try_send(Event::Command { uid, slot, command }) {
            Ok(()) => Sent::Taken,
            Err(TrySendError::Closed(event)) => Sent::Refused(back(event)),
            Err(TrySendError::Full(event)) => {
                let worker = worker.clone();
                Sent::Waiting(Box::pin(async move {
                    worker.send_timeout(event, SEND_WITHIN).await.map_err(|e| back(e.into_inner()))
                }))
            }
        }
    }

    async fn leave(&self, client: Arc<Client>, rooms: Vec<RoomId>) {
        let handed_over = self.handing_over.load(Ordering::Relaxed);
        for room in rooms {
            let Some((worker, uid, slot)) = self.place(&room) else { continue };
            let client = client.clone();
            let event = if handed_over {
                Event::HandOver { uid, slot, room, client }
            } else {
                Event::Command { uid, slot, command: Command::Unsubscribe { request: None, room, client } }
            };
            // Without a deadline: a membership must not outlive its client. Workers always get on.
            let _ = worker.send(event).await;
        }
    }

    fn whereabouts(&self, room: &RoomId) -> Option<Whereabouts> {
        let placement = self.view.borrow().placement.clone()?;
        let slot = room.slot(placement.settings.slots);
        let (_, member) = placement.primary_of(slot)?;
        Some(Whereabouts { slot, node: member.node.clone() })
    }
}
