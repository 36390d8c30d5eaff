//! What is well and what is not, of a [`Snapshot`].

use roomring_control::health;
pub(crate) use roomring_control::health::{Node, NodeState, SlotCounts, SlotState};
use roomring_control::placement::{Placement, SlotRecord};

use crate::snapshot::Snapshot;

pub(crate) fn slot_state(snapshot: &Snapshot, placement: &Placement, slot: &SlotRecord) -> SlotState {
    health::slot_state(&snapshot.nodes, placement, slot)
}

pub(crate) fn slot_counts(snapshot: &Snapshot, placement: &Placement) -> SlotCounts {
    health::slot_counts(&snapshot.nodes, placement)
}

pub(crate) fn nodes(snapshot: &Snapshot) -> Vec<Node> {
    health::nodes(&snapshot.nodes, &snapshot.intents, snapshot.placement.as_ref())
}
