//! What every connection of the node shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use roomring_control::placement::Placement;
use roomring_control::registry::Registry;
use roomring_control::wire::Wire;
use roomring_proto::{Incarnation, NodeId, v1};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::counters::Counters;
use crate::sessions::Sessions;
use crate::slot::LinkId;
use crate::vitals::Vitals;
use crate::worker::{Report, Workers};

/// One life of the node, from registration to the end of its incarnation.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) cluster: NodeId,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// host:port at which others reach this node.
    pub(crate) advertised: String,
    pub(crate) wire: Wire,
    pub(crate) registry: Registry,
    pub(crate) vitals: Vitals,
    pub(crate) workers: Workers,
    pub(crate) counters: Arc<Counters>,
    /// What the slots of each worker do.
    pub(crate) reports: Arc<[Report]>,
    /// Links of routers, by router process.
    pub(crate) links: Sessions,
    /// Streams opened by other nodes, by process.
    pub(crate) callers: Sessions,
    /// Every connection's task.
    pub(crate) tasks: TaskTracker,
    /// Ends them.
    pub(crate) stop: CancellationToken,
    pub(crate) next_number: AtomicU64,
}

impl Shell {
    pub(crate) fn next_link(&self) -> LinkId {
        LinkId(self.next_number())
    }

    /// Numbers connections in the order in which they came.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// The placement adopted here, encoded.
    pub(crate) fn encoded_placement(&self) -> Option<Bytes> {
        self.registry.view().borrow().placement.as_ref().map(|p| p.encode())
    }

    /// Takes a placement that the other side of a connection sent.
    pub(crate) fn offer(&self, encoded: &[u8]) -> Result<(), Status> {
        // While much moves most are sent just when etcd brings them, too.
        let (known, offered) = (self.vitals.placement(), Placement::reference_in(encoded));
        if let (Some(known), Some(offered)) = (known, offered)
            && known.uid == offered.uid
            && known.version >= offered.version
        {
            return Ok(());
        }
        let placement = Placement::decode(encoded).map_err(|e| Status::invalid_argument(format!("placement: {e}")))?;
        self.registry.offer_placement(placement);
        Ok(())
    }

    pub(crate) fn hello_placement(&self) -> Option<v1::PlacementRef> {
        self.vitals.placement().map(Into::into)
    }
}

/// How a connection ends when the node does.
pub(crate) fn stopping() -> Status {
    Status::unavailable("the node is stopping")
}
