//! Where the ring wants each slot to be, as far as members and intents tell.

use std::collections::BTreeMap;

use roomring_proto::{Incarnation, NodeId, SlotId};

use super::process::Processes;
use crate::placement::{Placement, RingParams};
use crate::ring::{Ring, RingNode};
use crate::view::Intents;

/// The processes that each slot should be on, best first.
pub(super) type Wish = Vec<Vec<Incarnation>>;

/// A node of the ring and the process that runs under its name.
pub(super) type ByName = BTreeMap<NodeId, (Incarnation, RingNode)>;

/// All that the ring's wish depends on, but for who does not reach whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    by_name: ByName,
    ring: RingParams,
    slots: u32,
    replication: u32,
    pins: BTreeMap<SlotId, NodeId>,
    overrides: BTreeMap<SlotId, NodeId>,
}

impl Asked {
    pub(super) fn new(processes: &Processes<'_>, placement: &Placement, intents: &Intents) -> Self {
        Self {
            by_name: processes.ring_members(placement, intents),
            ring: placement.ring,
            slots: placement.settings.slots,
            replication: placement.settings.replication,
            pins: intents.pins.clone(),
            overrides: intents.overridden(),
        }
    }

    /// The wish, where every process reaches every other one.
    pub(super) fn answer(&self) -> Wish {
        self.first(self.replication)
    }

    /// The wish of `placement`, which this is about: instead of one that its primary does not reach the next one is wanted.
    pub(super) fn answer_apart(&self, placement: &Placement) -> Wish {
        let all = self.first(self.replication.saturating_add(u32::try_from(self.by_name.len()).unwrap_or(u32::MAX)));
        let reached = |(wanted, record): (Vec<Incarnation>, &crate::placement::SlotRecord)| {
            // By the primary's own word only: a replica that misses its primary may be the last copy alive.
            let reached = wanted.into_iter().filter(|i| !placement.apart.contains(&(record.primary.incarnation, *i)));
            reached.take(self.replication as usize).collect()
        };
        all.into_iter().zip(&placement.slots).map(reached).collect()
    }

    fn first(&self, count: u32) -> Wish {
        let nodes = self.by_name.iter().map(|(name, (_, node))| (name.clone(), node.clone())).collect();
        let names = Ring::new(self.ring, &nodes).wish(self.slots, &self.pins, &self.overrides, count);
        let of = |names: Vec<NodeId>| names.iter().filter_map(|n| self.by_name.get(n)).map(|(i, _)| *i).collect();
        names.into_iter().map(of).collect()
    }
}
