//! How the node is, as its admin port tells.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use roomring_control::daemon::admin::Site;
use roomring_control::metrics::Cluster;
use roomring_control::view::ClusterView;
use roomring_proto::{Incarnation, NodeId};

use crate::counters::Counters;
use crate::metrics::Holds;
use crate::shell::Shell;

/// A worker that has not come round for so long is not coming: the process is to be started again. Far beyond what it takes
/// others to evict a node that hangs.
const HUNG: Duration = Duration::from_secs(30);

/// What the admin port knows of the node, through all its lives.
#[derive(Debug)]
pub(crate) struct NodeSite {
    id: NodeId,
    pub(crate) cluster: Cluster,
    counters: Arc<Counters>,
    /// The present life.
    shell: RwLock<Option<Arc<Shell>>>,
    serving: AtomicBool,
    /// Once the node has taken its share it stays ready while it serves: what happens to others later is no reason to send
    /// nothing here.
    settled: AtomicBool,
}

impl NodeSite {
    pub(crate) fn new(id: NodeId, counters: Arc<Counters>) -> Self {
        Self {
            id,
            cluster: Cluster::default(),
            counters,
            shell: RwLock::default(),
            serving: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        }
    }

    /// A life begins, or the last one ended.
    pub(crate) fn live_as(&self, shell: Option<Arc<Shell>>) {
        self.serving.store(false, Ordering::Relaxed);
        self.settled.store(false, Ordering::Relaxed);
        *self.shell.write().unwrap_or_else(PoisonError::into_inner) = shell;
    }

    pub(crate) fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    pub(crate) fn shell(&self) -> Option<Arc<Shell>> {
        self.shell.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What all slots here hold.
    pub(crate) fn holds(&self) -> Holds {
        let mut all = Holds::default();
        if let Some(shell) = self.shell() {
            shell.reports.iter().for_each(|report| all.add(&report.holds()));
        }
        all
    }

    pub(crate) fn worker_age(&self) -> Duration {
        self.shell().map_or(Duration::ZERO, |shell| Duration::from_millis(shell.vitals.worker_age_ms()))
    }

    pub(crate) fn is_ready(&self) -> Result<(), String> {
        if !self.serving.load(Ordering::Relaxed) {
            return Err("not a serving member of the cluster".to_owned());
        }
        if self.settled.load(Ordering::Relaxed) {
            return Ok(());
        }
        let me = self.shell().map(|shell| shell.incarnation);
        has_its_share(&self.cluster.view(), &self.id, me)?;
        self.settled.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Site for NodeSite {
    fn ready(&self) -> Result<(), String> {
        self.is_ready()
    }

    fn live(&self) -> Result<(), String> {
        match self.worker_age() {
            age if age > HUNG => Err(format!("a worker has not come round for {age:?}")),
            _ => Ok(()),
        }
    }
}

/// Whether a node that came is done taking its share, and all slots have the copies that they should: only then may a rolling
/// update go on with the next node.
fn has_its_share(view: &ClusterView, id: &NodeId, me: Option<Incarnation>) -> Result<(), String> {
    let (Some(placement), Some(me)) = (&view.placement, me) else { return Err("no placement yet".to_owned()) };
    let active = placement.members.values().filter(|m| m.active).count();
    let wanted = active.min(placement.settings.replication as usize);
    let short = placement.slots.iter().filter(|s| s.in_sync.len() < wanted).count();
    if short > 0 {
        return Err(format!("{short} slots have fewer in-sync copies than {wanted}"));
    }
    let learning = placement.slots.iter().filter(|s| s.learners.iter().any(|seat| seat.incarnation == me)).count();
    if learning > 0 {
        return Err(format!("{learning} slots catch up here"));
    }
    let seated = placement.slots.iter().any(|s| s.in_sync.iter().any(|seat| seat.incarnation == me));
    if !seated && !view.intents.drained.contains(id) {
        return Err("no slot is here yet".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use roomring_control::placement::{Member, Placement, RingParams, Settings, SlotRecord};
    use roomring_control::view::Intents;
    use roomring_proto::{Generation, Seat, Term, Uid, Version};

    use super::*;

    fn view(slots: &[(&[u64], &[u64])]) -> ClusterView {
        let seat = |i: &u64| Seat { incarnation: Incarnation(*i), since: Version(1) };
        let record = |(in_sync, learners): &(&[u64], &[u64])| SlotRecord {
            term: Term(1),
            primary: seat(&in_sync[0]),
            in_sync: in_sync.iter().map(seat).collect(),
            learners: learners.iter().map(seat).collect(),
            generation: Generation(1),
        };
        let member = |i: u64| {
            let member = Member {
                node: NodeId::new(&format!("node-{i}")).unwrap(),
                home: String::new(),
                grpc_addr: String::new(),
                zone: String::new(),
                weight: 100,
                active: true,
                max_format: 1,
                watch_addr: String::new(),
            };
            (Incarnation(i), member)
        };
        let placement = Placement {
            uid: Uid(1),
            format: 1,
            version: Version(1),
            settings: Settings { slots: 2, replication: 2, ..Settings::default() },
            ring: RingParams { vnodes: 1, bound_percent: 125 },
            members: [1, 2, 3].into_iter().map(member).collect(),
            slots: slots.iter().map(record).collect(),
            recent: Default::default(),
            apart: Default::default(),
        };
        ClusterView { placement: Some(Arc::new(placement)), ..ClusterView::default() }
    }

    #[test]
    fn a_node_has_its_share_once_it_holds_slots_and_all_are_whole() {
        let id = NodeId::new("node-3").unwrap();
        let says = |view: &ClusterView| has_its_share(view, &id, Some(Incarnation(3))).err().unwrap_or_default();
        assert_eq!(says(&ClusterView::default()), "no placement yet");
        let empty = view(&[(&[1, 2], &[]), (&[2, 1], &[])]);
        assert_eq!(says(&empty), "no slot is here yet");
        assert_eq!(says(&view(&[(&[1, 2], &[3]), (&[2, 3], &[])])), "1 slots catch up here");
        assert_eq!(says(&view(&[(&[1], &[2]), (&[2, 3], &[])])), "1 slots have fewer in-sync copies than 2");
        assert_eq!(says(&view(&[(&[1, 2], &[]), (&[2, 3], &[])])), "");
        let intents = Intents { drained: [id.clone()].into(), ..Intents::default() };
        assert_eq!(says(&ClusterView { intents: Arc::new(intents), ..empty }), "", "it is to hold nothing");
    }
}
