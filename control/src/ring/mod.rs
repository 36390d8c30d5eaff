//! Where slots should be: consistent hashing with bounded loads.
//!
//! Pure, and frozen: every process and release must compute the same, whatever its platform, so there is no floating point
//! here and `testdata/` holds golden files. How the points of the ring are laid out is told in `points.rs`.

mod points;

use std::collections::{BTreeMap, BTreeSet};

use hashring::HashRing;
use roomring_proto::{NodeId, SlotId, limits};

use crate::placement::RingParams;
use points::{Point, Position, Positions};

/// What the ring needs to know of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingNode {
    /// Failure zone, may be empty: all empty ones are one zone.
    pub zone: String,
    /// Share of slots in percent of a whole one; 0 gets only what is pinned to it.
    pub weight: u32,
}

/// The ring of some nodes.
#[derive(Debug, Clone)]
pub struct Ring {
    params: RingParams,
    nodes: Vec<(NodeId, RingNode)>,
    /// How many there are.
    zones: usize,
    points: HashRing<Point, Positions>,
}

impl RingParams {
    /// The parameters that a new cluster of `slots` slots gets: as many points as slots make the ring most even.
    pub fn for_slots(slots: u32) -> Self {
        Self { vnodes: slots.clamp(1, limits::SLOTS), bound_percent: 125 }
    }
}

impl Ring {
    /// The ring of `nodes`.
    pub fn new(params: RingParams, nodes: &BTreeMap<NodeId, RingNode>) -> Self {
        let nodes: Vec<(NodeId, RingNode)> = nodes.iter().map(|(id, node)| (id.clone(), node.clone())).collect();
        let weighted = nodes.iter().enumerate().filter(|(_, (_, node))| node.weight > 0);
        let points: Vec<Vec<Point>> =
            weighted.map(|(index, (id, node))| points::of(id, node.weight, index, params.vnodes)).collect();
        let mut clockwise = Vec::with_capacity(points.len() * params.vnodes as usize);
        for arc in 0..params.vnodes as usize {
            let start = clockwise.len();
            clockwise.extend(points.iter().map(|of_node| of_node[arc]));
            // The ring sorts, too: on what is in order already that takes no time.
            clockwise[start..].sort_unstable_by_key(|p| p.position);
        }
        let mut ring = HashRing::with_hasher(Positions);
        ring.batch_add(clockwise);
        let zones = nodes.iter().map(|(_, node)| node.zone.as_str()).collect::<BTreeSet<_>>().len();
        Self { params, nodes, zones, points: ring }
    }

    /// The nodes that each slot should be on, best first, at most `replication` of them and none twice. A pin wins over an
    /// override, that over the ring; names of nodes that are not here count for nothing. Empty lists if there are no nodes.
    ///
    /// No node gets first place in more than its bound of slots, unless more are pinned to it.
    pub fn wish(
        &self,
        slots: u32,
        pins: &BTreeMap<SlotId, NodeId>,
        overrides: &BTreeMap<SlotId, NodeId>,
        replication: u32,
    ) -> Vec<Vec<NodeId>> {
        let pinned: Vec<Option<usize>> = (0..slots).map(|slot| self.pinned(SlotId(slot), pins, overrides)).collect();
        let bounds = self.bounds(slots);
        let mut loads = vec![0; self.nodes.len()];
        for node in pinned.iter().flatten() {
            loads[*node] += 1;
        }
        let place = |(slot, pin): (u32, Option<usize>)| {
            let first = pin.or_else(|| {
                let node = self.clockwise(slot, slots).find(|n| loads[*n] < bounds[*n]);
                let node = node.or_else(|| self.clockwise(slot, slots).next())?;
                loads[node] += 1;
                Some(node)
            });
            first.map_or_else(Vec::new, |first| self.spread(first, slot, slots, replication))
        };
        (0..slots).zip(pinned).map(place).collect()
    }

    /// Most first places of each node: its weighted share, times the bound, rounded up.
    fn bounds(&self, slots: u32) -> Vec<u64> {
        let total: u64 = self.nodes.iter().map(|(_, n)| u64::from(n.weight)).sum();
        let whole = u64::from(slots) * u64::from(self.params.bound_percent);
        self.nodes.iter().map(|(_, n)| (whole * u64::from(n.weight)).div_ceil(100 * total.max(1))).collect()
    }

    fn pinned(
        &self,
        slot: SlotId,
        pins: &BTreeMap<SlotId, NodeId>,
        overrides: &BTreeMap<SlotId, NodeId>,
    ) -> Option<usize> {
        let index = |id: &NodeId| self.nodes.binary_search_by(|(known, _)| known.cmp(id)).ok();
        pins.get(&slot).and_then(index).or_else(|| overrides.get(&slot).and_then(index))
    }

    /// `first`, then nodes clockwise from the slot: each time one of a zone not taken yet if there is any.
    fn spread(&self, first: usize, slot: u32, slots: u32, replication: u32) -> Vec<NodeId> {
        let mut taken = vec![first];
        let mut zones = BTreeSet::from([self.zone(first)]);
        while taken.len() < replication as usize {
            let free = || self.distinct(slot, slots).filter(|n| !taken.contains(n));
            let elsewhere =
                if zones.len() < self.zones { free().find(|n| !zones.contains(self.zone(*n))) } else { None };
            let Some(next) = elsewhere.or_else(|| free().next()) else { break };
            zones.insert(self.zone(next));
            taken.push(next);
        }
        taken.into_iter().map(|n| self.nodes[n].0.clone()).collect()
    }

    fn zone(&self, node: usize) -> &str {
        &self.nodes[node].1.zone
    }

    /// The nodes met clockwise from the slot on one turn, as often as they are met.
    fn clockwise(&self, slot: u32, slots: u32) -> impl Iterator<Item = usize> + '_ {
        let mut from = points::start_of(slot, slots);
        let next = move || {
            let point = self.points.get(&Position(from))?;
            from = point.position.0.wrapping_add(1);
            Some(point.node())
        };
        std::iter::from_fn(next).take(self.points.len())
    }

    /// Each node met clockwise from the slot, once.
    fn distinct(&self, slot: u32, slots: u32) -> impl Iterator<Item = usize> + '_ {
        let mut met = vec![false; self.nodes.len()];
        let mut left = self.nodes.iter().filter(|(_, n)| n.weight > 0).count();
        let mut points = self.clockwise(slot, slots);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let next = points.find(|n| !met[*n])?;
            met[next] = true;
            left -= 1;
            Some(next)
        })
    }
}

#[cfg(test)]
mod tests;
