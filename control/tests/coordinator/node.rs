//! A node's control plane without its rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::coordinator::{Coordinator, CoordinatorConfig, CoordinatorHandle};
use roomring_control::home::Home;
use roomring_control::placement::Settings;
use roomring_control::planner::{ReadySeat, Word};
use roomring_control::registry::{EtcdAccess, EtcdConfig, NodeSpec, Registration, Registry};
use roomring_control::view::ClusterView;
use roomring_proto::{NodeId, SlotId};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const SLOTS: u32 = 64;

const DEADLINE: Duration = Duration::from_secs(40);
const TTL: Duration = Duration::from_secs(2);

pub(crate) fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

/// `step` within [`DEADLINE`].
pub(crate) async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, step).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// What the nodes of a test share.
pub(crate) struct World {
    url: String,
    homes: tempfile::TempDir,
    pub(crate) fence_after: Duration,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) registry: Registry,
    pub(crate) registration: Registration,
    home: Home,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn new(url: String) -> Self {
        Self { url, homes: tempfile::tempdir().unwrap(), fence_after: Duration::from_secs(2) }
    }

    pub(crate) async fn start(&self, name: &str) -> Node {
        let config = EtcdConfig {
            urls: vec![self.url.clone()],
            access: EtcdAccess::default(),
            cluster: id("test"),
            lease_ttl: TTL,
        };
        let registry = soon("connecting", Registry::connect(config, CancellationToken::new())).await.unwrap();
        let dir: PathBuf = self.homes.path().join(name);
        let home = Home::open(&dir).unwrap();
        let spec = NodeSpec {
            id: id(name),
            grpc_addr: format!("{name}:1"),
            zone: String::new(),
            weight: 100,
            watch_addr: String::new(),
        };
        let registration = soon("registering", registry.register_node(spec, &home)).await.unwrap();
        let settings = Settings { slots: SLOTS, replication: 1, fence_after: self.fence_after, ..Settings::default() };
        let config = CoordinatorConfig { settings, lease_ttl: TTL };
        let mut tasks = JoinSet::new();
        tasks.spawn(lives(registry.clone(), registration.state(), config));
        Node { registry, registration, home, tasks }
    }

    /// As if etcd had lost everything but its revision.
    pub(crate) async fn delete_all(&self, keys: &roomring_proto::keys::Keys) {
        let mut etcd = etcd_client::Client::connect([&self.url], None).await.unwrap();
        let options = etcd_client::DeleteOptions::new().with_prefix();
        let deleted = etcd.delete(keys.prefix(), Some(options)).await.unwrap();
        assert!(deleted.deleted() > 2, "there was something to lose");
    }
}

impl Node {
    /// SIGKILL: nothing is told to anyone. Returns how old its last contact with etcd was.
    pub(crate) fn crash(self) -> Duration {
        let contact = self.registry.view().borrow().contact.unwrap();
        drop(self);
        Time::now().since(contact)
    }

    /// A clean end.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.registration.revoke().await.unwrap();
        soon("stopping", self.registry.stop()).await;
        drop(self.home);
    }
}

/// One coordinator for each incarnation.
async fn lives(
    registry: Registry,
    mut state: tokio::sync::watch::Receiver<roomring_control::registry::RegistrationState>,
    config: CoordinatorConfig,
) {
    // No heartbeats here: leases alone say who lives.
    let evidence = tokio::sync::watch::Sender::default();
    loop {
        let me = state.borrow_and_update().incarnation;
        let (coordinator, handle) = Coordinator::new(registry.clone(), me, config.clone(), evidence.subscribe());
        tokio::select! {
            () = coordinator.run() => {}
            () = slots(registry.clone(), me, handle) => {}
            _ = state.wait_for(|s| s.incarnation != me) => {}
        }
    }
}

/// What the slots of a node would say: every learner of a primary here is ready at once.
async fn slots(registry: Registry, me: roomring_proto::Incarnation, handle: CoordinatorHandle) {
    let mut views = registry.view();
    let mut said = BTreeSet::new();
    loop {
        let view = views.borrow_and_update().clone();
        for seat in ready(&view, me) {
            if said.insert(seat) {
                handle.words().send(Word::Ready(seat)).await.unwrap();
            }
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

fn ready(view: &ClusterView, me: roomring_proto::Incarnation) -> Vec<ReadySeat> {
    let Some(placement) = &view.placement else { return Vec::new() };
    let mine: BTreeMap<u32, _> = (0..).zip(&placement.slots).filter(|(_, s)| s.primary.incarnation == me).collect();
    let seats = mine.into_iter().flat_map(|(slot, record)| {
        record.learners.iter().map(move |seat| ReadySeat {
            slot: SlotId(slot),
            seat: *seat,
            term: record.term,
            base: placement.version,
        })
    });
    seats.collect()
}
