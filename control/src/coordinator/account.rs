//! What a write of the placement changed, in one line for the log. Pure.

use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::Incarnation;

use crate::placement::{Change, Placement};

/// Counts by kind; processes that come or go, and slots that are lost, by name.
pub(super) fn of_changes(base: &Placement, changes: &[Change]) -> String {
    let mut parts = Vec::new();
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut lost_with = BTreeSet::new();
    let mut recreated = 0;
    for change in changes {
        match change {
            Change::Join { incarnation, member } => parts.push(format!("join {} ({incarnation})", member.node)),
            Change::Update { member, .. } => parts.push(format!("update {}", member.node)),
            Change::Evict { incarnation } => parts.push(format!("evict {}", name(base, *incarnation))),
            Change::Forget { incarnation } => parts.push(format!("forget {}", name(base, *incarnation))),
            Change::Recreate { slot, .. } => {
                recreated += 1;
                lost_with.extend(base.slot(*slot).into_iter().flat_map(|s| &s.in_sync).map(|s| s.incarnation));
            }
            Change::AddLearner { .. } => *counts.entry("add learner").or_default() += 1,
            Change::IntoSync { .. } => *counts.entry("into sync").or_default() += 1,
            Change::Switch { .. } => *counts.entry("switch primary").or_default() += 1,
            Change::RemoveSeat { .. } => *counts.entry("remove seat").or_default() += 1,
        }
    }
    if recreated > 0 {
        let names: Vec<_> = lost_with.into_iter().map(|i| name(base, i)).collect();
        parts.push(format!("recreate {recreated} slots lost with {}", names.join(", ")));
    }
    parts.extend(counts.into_iter().map(|(kind, n)| format!("{kind} x{n}")));
    parts.join(", ")
}

/// For the first placement of a history.
pub(super) fn of_formation(placement: &Placement, regressed: bool) -> String {
    let nodes: Vec<_> = placement.members.values().map(|m| m.node.as_str()).collect();
    let slots = placement.slots.len();
    match regressed {
        false => format!("form the cluster: {slots} slots on {}", nodes.join(", ")),
        true => format!(
            "etcd lost data: begin a new history (uid {}), {slots} empty slots on {}",
            placement.uid,
            nodes.join(", ")
        ),
    }
}

fn name(base: &Placement, incarnation: Incarnation) -> String {
    let node = base.members.get(&incarnation).map_or("?", |m| m.node.as_str());
    format!("{node} ({incarnation})")
}
