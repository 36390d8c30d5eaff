//! What the checks share: waiting with a deadline, registries, placements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use roomring_control::home::Home;
use roomring_control::placement::{FORMAT, Member, Placement, RingParams, Settings, SlotRecord};
use roomring_control::registry::{EtcdAccess, EtcdConfig, NodeSpec, Registration, Registry};
use roomring_control::view::ClusterView;
use roomring_proto::keys::Keys;
use roomring_proto::{Generation, Incarnation, NodeId, Seat, Term, Uid, Version};
use tokio_util::sync::CancellationToken;

/// No single step of a check takes longer, unless it failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The shortest lease that etcd grants with its default election time-out.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// `step` within [`DEADLINE`].
pub(crate) async fn soon<T>(what: &str, step: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, step).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

pub(crate) async fn client(url: &str) -> Client {
    let options = etcd_client::ConnectOptions::new().with_timeout(Duration::from_secs(5));
    soon("connecting", Client::connect([url], Some(options))).await.unwrap()
}

pub(crate) fn id(text: &str) -> NodeId {
    NodeId::new(text).unwrap()
}

/// A cluster in an etcd, and one process's registry of it.
pub(crate) struct Cluster {
    pub(crate) keys: Keys,
    name: NodeId,
    url: String,
    pub(crate) etcd: Client,
    homes: tempfile::TempDir,
}

impl Cluster {
    /// A cluster that nothing else uses.
    pub(crate) async fn new(url: &str, name: &str) -> Self {
        let name = id(name);
        let etcd = client(url).await;
        Self { keys: Keys::new(&name), name, url: url.to_owned(), etcd, homes: tempfile::tempdir().unwrap() }
    }

    pub(crate) async fn registry(&self) -> Registry {
        self.registry_by(&self.url).await
    }

    /// By another way than the test's own.
    pub(crate) async fn registry_by(&self, url: &str) -> Registry {
        let config = EtcdConfig {
            urls: vec![url.to_owned()],
            access: EtcdAccess::default(),
            cluster: self.name.clone(),
            lease_ttl: TTL,
        };
        soon("connecting", Registry::connect(config, CancellationToken::new())).await.unwrap()
    }

    pub(crate) fn home(&self, name: &str) -> Home {
        Home::open(&self.homes.path().join(name)).unwrap()
    }

    pub(crate) async fn register(&self, registry: &Registry, node: &str) -> Registration {
        soon("registering", registry.register_node(spec(node), &self.home(node))).await.unwrap()
    }

    /// A key's value and revision.
    pub(crate) async fn get(&self, key: String) -> Option<(Vec<u8>, i64)> {
        let got = self.etcd.kv_client().get(key, None).await.unwrap();
        got.kvs().first().map(|kv| (kv.value().to_vec(), kv.mod_revision()))
    }

    pub(crate) async fn put(&self, key: String, value: Vec<u8>) {
        self.etcd.kv_client().put(key, value, None).await.unwrap();
    }

    pub(crate) async fn delete(&self, key: String) {
        self.etcd.kv_client().delete(key, None).await.unwrap();
    }

    /// The lease that a node's key hangs on.
    pub(crate) async fn lease_of(&self, node: &str) -> i64 {
        let got = self.etcd.kv_client().get(self.keys.node(&id(node)), Some(GetOptions::new())).await.unwrap();
        got.kvs().first().map_or(0, etcd_client::KeyValue::lease)
    }
}

pub(crate) fn spec(node: &str) -> NodeSpec {
    NodeSpec {
        id: id(node),
        grpc_addr: format!("{node}.example:7400"),
        zone: String::new(),
        weight: 100,
        watch_addr: String::new(),
    }
}

/// Waits until the view satisfies `condition`, and returns it.
pub(crate) async fn seen(registry: &Registry, what: &str, condition: impl Fn(&ClusterView) -> bool) -> ClusterView {
    let mut view = registry.view();
    soon(what, view.wait_for(condition)).await.unwrap().clone()
}

/// A placement of four slots, all on one process.
pub(crate) fn placement(uid: u64, version: u64, node: &str, incarnation: Incarnation) -> Arc<Placement> {
    let seat = Seat { incarnation, since: Version(1) };
    let slot = SlotRecord {
        term: Term(1),
        primary: seat,
        in_sync: vec![seat],
        learners: Vec::new(),
        generation: Generation(1),
    };
    let member = Member {
        node: id(node),
        home: "00".into(),
        grpc_addr: format!("{node}.example:7400"),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: String::new(),
    };
    Arc::new(Placement {
        uid: Uid(uid),
        format: FORMAT,
        version: Version(version),
        settings: Settings { slots: 4, replication: 1, fence_after: Duration::from_secs(2), ..Settings::default() },
        ring: RingParams { vnodes: 100, bound_percent: 125 },
        members: BTreeMap::from([(incarnation, member)]),
        slots: vec![slot; 4],
        recent: Default::default(),
        apart: Default::default(),
    })
}
