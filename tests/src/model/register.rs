//! etcd: one value under compare-and-swap, changed by the production transitions only.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use roomring_control::placement::{Change, FORMAT, Member, Placement, RingParams, Settings, SlotRecord};
use roomring_proto::{Incarnation, NodeId, Seat, SlotId, Uid, Version};

/// The slot: a cluster of one.
pub(super) const SLOT: SlotId = SlotId(0);

/// The placement's history.
pub(super) const UID: Uid = Uid(7);

/// The placement in etcd, and those before it that somebody may still have to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    latest: Arc<Placement>,
    records: BTreeMap<Version, SlotRecord>,
    /// Since when the term and the in-sync set are as they are.
    pub(super) unchanged_since: Version,
}

impl Hash for Register {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.records.hash(state);
        self.unchanged_since.hash(state);
        for (incarnation, member) in &self.latest.members {
            (incarnation, member.active).hash(state);
        }
    }
}

impl Register {
    /// A placement with the first `in_sync` of `processes` in sync, and the first one primary.
    pub(super) fn new(processes: u64, in_sync: u64) -> Self {
        let version = Version(1);
        let seats: Vec<Seat> = (1..=in_sync).map(|i| Seat { incarnation: Incarnation(i), since: version }).collect();
        let record = SlotRecord {
            term: roomring_proto::Term(1),
            primary: seats[0],
            in_sync: seats,
            learners: Vec::new(),
            generation: roomring_proto::Generation(1),
        };
        let latest = Placement {
            uid: UID,
            format: FORMAT,
            version,
            settings: Settings { slots: 1, ..Settings::default() },
            ring: RingParams { vnodes: 8, bound_percent: 125 },
            members: (1..=processes).map(|i| (Incarnation(i), member(i))).collect(),
            slots: vec![record.clone()],
            recent: Default::default(),
            apart: Default::default(),
        };
        Self { latest: Arc::new(latest), records: [(version, record)].into(), unchanged_since: version }
    }

    /// The newest placement.
    pub fn latest(&self) -> &Placement {
        &self.latest
    }

    /// The slot in it.
    pub fn record(&self) -> &SlotRecord {
        &self.latest.slots[0]
    }

    /// The slot in an older one that somebody may still see.
    pub fn record_at(&self, version: Version) -> Option<&SlotRecord> {
        self.records.get(&version)
    }

    /// Whether the process is a member.
    pub fn is_active(&self, process: Incarnation) -> bool {
        self.latest.members.get(&process).is_some_and(|m| m.active)
    }

    /// The next placement, if `changes` fit.
    pub(super) fn next(&self, changes: &[Change]) -> Option<Placement> {
        self.latest.with(changes).ok()
    }

    /// Writes.
    pub(super) fn write(&mut self, next: Placement) {
        let (old, new) = (self.record(), &next.slots[0]);
        if (old.term, &old.in_sync) != (new.term, &new.in_sync) {
            self.unchanged_since = next.version;
        }
        self.records.insert(next.version, new.clone());
        self.latest = Arc::new(next);
    }

    /// Forgets placements before `version`: nobody is behind it.
    pub(super) fn forget_before(&mut self, version: Version) {
        self.records = self.records.split_off(&version);
    }
}

/// What a process registers. The node is the incarnation's last digit.
pub(super) fn member(incarnation: u64) -> Member {
    let node = incarnation % 10;
    Member {
        node: NodeId::new(&format!("n{node}")).expect("a good name"),
        home: format!("h{node}"),
        grpc_addr: String::new(),
        watch_addr: String::new(),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
    }
}
