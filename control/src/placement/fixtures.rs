//! Placements to test with.

use std::collections::BTreeMap;

use roomring_proto::{Incarnation, NodeId, Seat, Uid};

use super::{FIRST_VERSION, FORMAT, Member, Placement, RingParams, Settings, SlotRecord};

/// A process under the name `node-{n}`, in its own directory.
pub(crate) fn process(n: u64) -> (Incarnation, Member) {
    let member = Member {
        node: NodeId::new(&format!("node-{n}")).unwrap(),
        home: format!("home-{n}"),
        grpc_addr: format!("10.0.0.{n}:7400"),
        zone: String::new(),
        weight: 100,
        active: true,
        max_format: FORMAT,
        watch_addr: format!("10.0.0.{n}:7401"),
    };
    (Incarnation(n), member)
}

pub(crate) fn settings(slots: u32, replication: u32) -> Settings {
    Settings { slots, replication, ..Settings::default() }
}

/// A fresh placement whose slots go to the processes in turn.
pub(crate) fn placement(slots: u32, replication: u32, processes: &[u64]) -> Placement {
    let members: BTreeMap<_, _> = processes.iter().map(|n| process(*n)).collect();
    let ids: Vec<Incarnation> = members.keys().copied().collect();
    let record = |slot: usize| {
        let seats =
            (0..replication as usize).map(|k| Seat { incarnation: ids[(slot + k) % ids.len()], since: FIRST_VERSION });
        SlotRecord::fresh(seats.collect()).unwrap()
    };
    Placement {
        uid: Uid(7),
        format: FORMAT,
        version: FIRST_VERSION,
        settings: settings(slots, replication),
        ring: RingParams { vnodes: slots, bound_percent: 125 },
        members,
        slots: (0..slots as usize).map(record).collect(),
        recent: Default::default(),
        apart: Default::default(),
    }
}
