//! When a node that was told to stop may go.

use roomring_control::view::ClusterView;
use roomring_proto::Incarnation;

/// Why nothing has to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Free {
    /// The placement gives this process no seat.
    NoSeats,
    /// Nobody is there to take its seats.
    Alone,
}

/// Whether the process `me`, which is draining, may end.
pub(crate) fn free_to_go(view: &ClusterView, me: Incarnation) -> Option<Free> {
    let Some(placement) = &view.placement else { return Some(Free::NoSeats) };
    if !placement.slots.iter().any(|s| s.seat_of(me).is_some()) {
        return Some(Free::NoSeats);
    }
    let stays = |n: &roomring_control::view::NodeEntry| n.incarnation != me && !n.draining;
    let taker = view.nodes.iter().any(|(id, n)| stays(n) && !view.intents.drained.contains(id));
    (!taker).then_some(Free::Alone)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use roomring_control::placement::{Placement, RingParams, Settings, SlotRecord};
    use roomring_control::view::{Intents, NodeEntry};
    use roomring_proto::{Generation, NodeId, Seat, Term, Uid, Version};

    use super::*;

    const ME: Incarnation = Incarnation(5);

    fn view(primary: u64, others: &[(&str, u64, bool)]) -> ClusterView {
        let seat = Seat { incarnation: Incarnation(primary), since: Version(1) };
        let slot = SlotRecord {
            term: Term(1),
            primary: seat,
            in_sync: vec![seat],
            learners: vec![],
            generation: Generation(1),
        };
        let settings = Settings { slots: 1, replication: 1, ..Settings::default() };
        let placement = Placement {
            uid: Uid(1),
            format: 1,
            version: Version(1),
            settings,
            ring: RingParams { vnodes: 1, bound_percent: 125 },
            members: BTreeMap::new(),
            slots: vec![slot],
            recent: Default::default(),
            apart: Default::default(),
        };
        let entry = |incarnation: u64, draining| NodeEntry {
            incarnation: Incarnation(incarnation),
            home: String::new(),
            grpc_addr: String::new(),
            zone: String::new(),
            weight: 100,
            draining,
            release: String::new(),
            max_format: 1,
            watch_addr: String::new(),
        };
        let me = (NodeId::new("me").unwrap(), entry(ME.0, true));
        let others = others.iter().map(|(id, i, draining)| (NodeId::new(id).unwrap(), entry(*i, *draining)));
        ClusterView {
            nodes: Arc::new(others.chain([me]).collect()),
            placement: Some(Arc::new(placement)),
            ..ClusterView::default()
        }
    }

    #[test]
    fn seats_hold_a_node_only_while_somebody_can_take_them() {
        assert_eq!(free_to_go(&ClusterView::default(), ME), Some(Free::NoSeats));
        assert_eq!(free_to_go(&view(7, &[("b", 7, false)]), ME), Some(Free::NoSeats));
        assert_eq!(free_to_go(&view(5, &[("b", 7, false)]), ME), None);
        assert_eq!(free_to_go(&view(5, &[]), ME), Some(Free::Alone));
        assert_eq!(free_to_go(&view(5, &[("b", 7, true)]), ME), Some(Free::Alone));
        let mut drained = view(5, &[("b", 7, false)]);
        let intents = Intents { drained: BTreeSet::from([NodeId::new("b").unwrap()]), ..Intents::default() };
        drained.intents = Arc::new(intents);
        assert_eq!(free_to_go(&drained, ME), Some(Free::Alone));
    }
}
