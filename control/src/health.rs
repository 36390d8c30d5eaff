//! What is well and what is not, from the keys alone. Pure.

use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::{Incarnation, NodeId};
use serde::Serialize;

use crate::placement::{Placement, SlotRecord};
use crate::view::{Intents, NodeEntry};

/// Registered nodes, as a [view](crate::view::ClusterView) has them.
pub type Registered = BTreeMap<NodeId, NodeEntry>;

/// How a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    /// As many replicas as wanted, nothing to do.
    Ok,
    /// A replica catches up, or one too many is about to go.
    Moving,
    /// Fewer in-sync replicas than wanted: one more death may lose messages.
    UnderReplicated,
    /// Its primary's process has no key in etcd: nobody serves it.
    Offline,
}

/// How many slots are how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SlotCounts {
    /// As they should be.
    pub ok: usize,
    /// With a replica that comes or goes.
    pub moving: usize,
    /// With fewer in-sync replicas than wanted.
    pub under_replicated: usize,
    /// Served by nobody.
    pub offline: usize,
}

/// What a process named by the placement, or registered, is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// A registered member.
    Member,
    /// Registered, being emptied.
    Draining,
    /// Registered, no member yet.
    Joining,
    /// A member without a key in etcd, though slots count on it.
    Lost,
    /// A member without a key in etcd or a seat in any slot: it went in order and is about to be forgotten.
    Left,
    /// Evicted; seats of it may remain.
    Evicted,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// The process.
    pub incarnation: Incarnation,
    /// host:port of its gRPC server.
    pub addr: String,
    /// Failure zone, may be empty.
    pub zone: String,
    /// In percent, as the ring counts it.
    pub weight: u32,
    /// What it is to the cluster.
    pub state: NodeState,
    /// Slots it is primary of.
    pub primaries: usize,
    /// Slots its weight entitles it to.
    pub wanted: usize,
}

/// How a slot of `placement` is.
pub fn slot_state(registered: &Registered, placement: &Placement, slot: &SlotRecord) -> SlotState {
    let wanted = placement.settings.replication as usize;
    if !is_registered(registered, slot.primary.incarnation) {
        SlotState::Offline
    } else if slot.in_sync.len() < wanted {
        SlotState::UnderReplicated
    } else if !slot.learners.is_empty() || slot.in_sync.len() > wanted {
        SlotState::Moving
    } else {
        SlotState::Ok
    }
}

/// How many slots of `placement` are how.
pub fn slot_counts(registered: &Registered, placement: &Placement) -> SlotCounts {
    let mut counts = SlotCounts::default();
    for slot in &placement.slots {
        *match slot_state(registered, placement, slot) {
            SlotState::Ok => &mut counts.ok,
            SlotState::Moving => &mut counts.moving,
            SlotState::UnderReplicated => &mut counts.under_replicated,
            SlotState::Offline => &mut counts.offline,
        } += 1;
    }
    counts
}

/// Every process that is registered or named by the placement, by id, the younger first.
pub fn nodes(registered: &Registered, intents: &Intents, placement: Option<&Placement>) -> Vec<Node> {
    let mut primaries: BTreeMap<Incarnation, usize> = BTreeMap::new();
    for slot in placement.iter().flat_map(|p| &p.slots) {
        *primaries.entry(slot.primary.incarnation).or_default() += 1;
    }
    let seated: BTreeSet<Incarnation> =
        placement.iter().flat_map(|p| &p.slots).flat_map(SlotRecord::seats).map(|seat| seat.incarnation).collect();
    let mut nodes = Vec::new();
    for (id, entry) in registered {
        let member = placement.and_then(|p| p.members.get(&entry.incarnation)).is_some_and(|m| m.active);
        nodes.push(Node {
            id: id.clone(),
            incarnation: entry.incarnation,
            addr: entry.grpc_addr.clone(),
            zone: entry.zone.clone(),
            weight: intents.weights.get(id).copied().unwrap_or(entry.weight),
            state: match member {
                _ if entry.draining || intents.drained.contains(id) => NodeState::Draining,
                true => NodeState::Member,
                false => NodeState::Joining,
            },
            primaries: primaries.get(&entry.incarnation).copied().unwrap_or(0),
            wanted: 0,
        });
    }
    for (incarnation, member) in placement.iter().flat_map(|p| &p.members) {
        if !is_registered(registered, *incarnation) {
            nodes.push(Node {
                id: member.node.clone(),
                incarnation: *incarnation,
                addr: member.grpc_addr.clone(),
                zone: member.zone.clone(),
                weight: member.weight,
                state: match member.active {
                    false => NodeState::Evicted,
                    true if seated.contains(incarnation) => NodeState::Lost,
                    true => NodeState::Left,
                },
                primaries: primaries.get(incarnation).copied().unwrap_or(0),
                wanted: 0,
            });
        }
    }
    let weights: u64 = nodes.iter().filter(|n| n.state == NodeState::Member).map(|n| u64::from(n.weight)).sum();
    let slots = placement.map_or(0, |p| p.slots.len() as u64);
    for node in nodes.iter_mut().filter(|n| n.state == NodeState::Member && weights > 0) {
        node.wanted = usize::try_from((slots * u64::from(node.weight) + weights / 2) / weights).unwrap_or(usize::MAX);
    }
    nodes.sort_by(|a, b| a.id.cmp(&b.id).then(b.incarnation.cmp(&a.incarnation)));
    nodes
}

fn is_registered(registered: &Registered, incarnation: Incarnation) -> bool {
    registered.values().any(|node| node.incarnation == incarnation)
}
