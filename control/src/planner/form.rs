//! The first placement of a cluster, and the first one after etcd lost it.

use std::collections::BTreeMap;

use roomring_proto::{Incarnation, Seat, Uid};

use super::process::{Processes, member};
use super::wish::Asked;
use crate::placement::{FIRST_VERSION, FORMAT, Member, Placement, Recents, RingParams, Settings, SlotRecord};
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

    let wish = Asked::new(&processes, &placement, &view.intents).answer();
    let record = |wanted: &Vec<Incarnation>| {
        let seats = wanted.iter().map(|i| Seat { incarnation: *i, since: FIRST_VERSION });
        SlotRecord::fresh(seats.collect())
    };
    placement.slots = wish.iter().map(record).collect::<Option<_>>()?;
    Some(placement)
}
