//! The first placement of a cluster, and the first one after etcd lost it.

use std::collections::BTreeMap;

use roomring_proto::{Seat, Uid};

use super::process::{Processes, member};
use crate::placement::{FIRST_VERSION, FORMAT, Member, Placement, Recents, RingParams, Settings, SlotRecord};
use crate::ring::Ring;
use crate::view::ClusterView;

/// A placement with every registered node as a member and every slot empty, where the ring wishes it. `None` while no node
/// that may hold slots is registered.
///
/// For a new cluster `settings` are the configured ones and `ring` is [`RingParams::for_slots`]. Where etcd was wiped or
/// restored from a backup both are those of the placement known before. Either way `uid` is a new random one: nothing that
/// was in the slots before is carried over.
pub fn form(view: &ClusterView, settings: Settings, ring: RingParams, uid: Uid) -> Option<Placement> {
    let processes = Processes::new(view);
    let members: BTreeMap<_, Member> = processes.founders().map(|(id, e)| (e.incarnation, member(id, e))).collect();
    let mut placement = Placement {
        uid,
        format: FORMAT,
        version: FIRST_VERSION,
        settings,
        ring,
        members,
        slots: Vec::new(),
        recent: Recents::default(),
        apart: Default::default(),
    };

    let by_name = processes.ring_members(&placement, &view.intents);
    let nodes = by_name.iter().map(|(name, (_, node))| (name.clone(), node.clone())).collect();
    let ring = Ring::new(ring, &nodes);
    let wish = super::wish(ring, &view.intents, placement.settings.slots, placement.settings.replication);
    let record = |names: &Vec<_>| {
        let seats =
            names.iter().filter_map(|n| by_name.get(n)).map(|(i, _)| Seat { incarnation: *i, since: FIRST_VERSION });
        SlotRecord::fresh(seats.collect())
    };
    placement.slots = wish.iter().map(record).collect::<Option<_>>()?;
    Some(placement)
}
