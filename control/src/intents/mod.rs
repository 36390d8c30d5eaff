//! What operators and the rebalancer want of a cluster: the value kept in etcd under `intents`.
//!
//! Pure. [`Edit`] is a change as operators make it, checked against the cluster; the planner reads the result. It is written by
//! compare-and-swap: see [`crate::registry::IntentsStore`].

mod codec;
mod decisions;
mod edit;

use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::{NodeId, SlotId};

pub use decisions::{Decision, Decisions};
pub use edit::{Author, Edit, Hazard, NotMade, Refusal};

/// Longest reason, in bytes: a sentence.
pub const REASON_BYTES: usize = 200;

/// What operators and the rebalancer want.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Intents {
    /// Nodes to be emptied.
    pub drained: BTreeSet<NodeId>,
    /// Weights in percent that win over the registered ones.
    pub weights: BTreeMap<NodeId, u32>,
    /// Slots pinned to a node.
    pub pins: BTreeMap<SlotId, NodeId>,
    /// Slots moved by operators or by the rebalancer; pins win.
    pub overrides: BTreeMap<SlotId, Override>,
    /// Automatic rebalancing is switched off. What it moved before stays where it is.
    pub rebalancing_off: bool,
    /// What was decided lately, for people.
    pub decisions: Decisions,
}

/// Where a slot was moved to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The node. While the ring does not have it the override counts for nothing.
    pub node: NodeId,
    /// Who moved it.
    pub origin: Origin,
    /// Unix time at the writer, ms.
    pub time_ms: u64,
    /// Why, for people.
    pub reason: String,
}

/// Who moved a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It stays until an operator takes it back, or the rebalancer moves the slot on.
    Operator,
    /// The rebalancer drops it once it helps no more.
    Rebalancer,
}

impl Intents {
    /// The node of each override, as the ring takes them.
    pub fn overridden(&self) -> BTreeMap<SlotId, NodeId> {
        self.overrides.iter().map(|(slot, o)| (*slot, o.node.clone())).collect()
    }
}

/// Cuts `text` to at most `most` bytes, between characters.
fn cut(text: &mut String, most: usize) {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}
