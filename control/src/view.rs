//! What one process knows of its cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use roomring_proto::{Incarnation, NodeId};

use crate::clock::Time;
pub use crate::intents::Intents;
use crate::placement::Placement;

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// The process.
    pub incarnation: Incarnation,
    /// Random id of the directory that the process holds locked.
    pub home: String,
    /// host:port of its gRPC server.
    pub grpc_addr: String,
    /// Failure zone, may be empty.
    pub zone: String,
    /// Registered weight in percent.
    pub weight: u32,
    /// Told to stop: the ring leaves it out.
    pub draining: bool,
    /// Release of the binary.
    pub release: String,
    /// Highest placement format it understands.
    pub max_format: u32,
    /// host:port of its watch service; may be empty.
    pub watch_addr: String,
}

/// A registered router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterEntry {
    /// The process.
    pub incarnation: Incarnation,
    /// host:port of its gRPC server.
    pub grpc_addr: String,
    /// host:port of its client-facing HTTP server.
    pub http_addr: String,
    /// Release of the binary.
    pub release: String,
    /// host:port of its watch service; may be empty.
    pub watch_addr: String,
}

/// What one process knows of its cluster: the registry's keys as last seen, plus a newer placement if a peer sent one.
/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// Registered nodes.
    pub nodes: Arc<BTreeMap<NodeId, NodeEntry>>,
    /// Registered routers.
    pub routers: Arc<BTreeMap<NodeId, RouterEntry>>,
    /// What operators want.
    pub intents: Arc<Intents>,
    /// Where every slot is; `None` before a cluster is formed.
    pub placement: Option<Arc<Placement>>,
    /// mod_revision of the placement's key; 0 if absent. Base of the next compare-and-swap; only moved by what etcd said.
    pub placement_revision: i64,
    /// Since when the watch has been whole without a gap; `None` while it is not. The proposer's clock for `recreate`.
    pub unbroken_since: Option<Time>,
    /// Since when etcd has answered without a pause that a lease might not have outlived; `None` while it does not. Outlasts a
    /// watch that broke. The proposer's clock for registrations that lapsed.
    pub answers_since: Option<Time>,
    /// Contact with etcd: the send time of the last linearizable read that returned this process's own registration and a
    /// revision of the placement that `placement` here has reached. `None` before the first.
    pub contact: Option<Time>,
    /// mod_revision of every registered node's key. A proposal that counts on a node's key being as it is here (absent, or
    /// held by a successor) has etcd compare it in the same transaction.
    pub node_revisions: Arc<BTreeMap<NodeId, i64>>,
    /// A linearizable read showed an older placement than one known here, or none: etcd was wiped or restored from a
    /// backup. A successor under a new uid is due.
    pub etcd_regressed: bool,
}
