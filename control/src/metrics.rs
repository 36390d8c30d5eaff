//! What a process tells of its cluster, and of what it changed there.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::clock::Time;
use crate::daemon::metrics::{Counter, Sink};
use crate::health::{self, NodeState};
use crate::placement::{Cause, Placement};
use crate::view::ClusterView;

/// Writes of the placement by this process that were taken.
static WRITES: Counter = Counter::new();
/// Primaries that such a write moved to another process.
static SWITCHES: Counter = Counter::new();
/// Copies that it began.
static COPIES_BEGUN: Counter = Counter::new();
/// Copies that it took into sync.
static COPIES_DONE: Counter = Counter::new();
/// Slots that it made anew, empty.
static RECREATED: Counter = Counter::new();
/// Processes that it evicted, by cause.
static EVICTIONS: [Counter; CAUSES.len()] = [const { Counter::new() }; CAUSES.len()];

const CAUSES: [(Cause, &str); 6] = [
    (Cause::Refused, "refused"),
    (Cause::Silent, "silent"),
    (Cause::Hung, "hung"),
    (Cause::Lapsed, "lapsed"),
    (Cause::Replaced, "replaced"),
    (Cause::Left, "left"),
];

const NODE_STATES: [(NodeState, &str); 6] = [
    (NodeState::Member, "member"),
    (NodeState::Draining, "draining"),
    (NodeState::Joining, "joining"),
    (NodeState::Lost, "lost"),
    (NodeState::Left, "left"),
    (NodeState::Evicted, "evicted"),
];

/// A write of this process was taken: counts what it changed.
pub(crate) fn count_write(base: Option<&Placement>, next: &Placement) {
    WRITES.add(1);
    for eviction in next.recent.iter().filter(|r| r.version == next.version).flat_map(|r| &r.evictions) {
        if let Some(at) = CAUSES.iter().position(|(cause, _)| *cause == eviction.cause) {
            EVICTIONS[at].add(1);
        }
    }
    let Some(base) = base.filter(|base| base.uid == next.uid) else { return };
    for (before, after) in base.slots.iter().zip(&next.slots) {
        if after.generation != before.generation {
            RECREATED.add(1);
            continue;
        }
        SWITCHES.add(u64::from(after.primary != before.primary));
        let had = |seat| before.seats().any(|s| s == seat);
        COPIES_BEGUN.add(after.learners.iter().filter(|seat| !had(**seat)).count() as u64);
        COPIES_DONE.add(after.in_sync.iter().filter(|seat| before.learners.contains(seat)).count() as u64);
    }
}

/// The view of the cluster, once this process has one.
#[derive(Debug, Default)]
pub struct Cluster(OnceLock<watch::Receiver<ClusterView>>);

impl Cluster {
    /// From now on `view` is told of. Only the first call counts.
    pub fn follow(&self, view: watch::Receiver<ClusterView>) {
        // A second life of the same process has the same registry.
        let _ = self.0.set(view);
    }

    /// The view as it is now; empty if there is none yet.
    pub fn view(&self) -> ClusterView {
        self.0.get().map(|view| view.borrow().clone()).unwrap_or_default()
    }

    /// Tells how the cluster is as this process sees it, and what this process changed.
    ///
    /// # Errors
    /// As the sink's.
    pub fn tell(&self, sink: &mut Sink<'_>) -> fmt::Result {
        let view = self.view();
        let age = view.contact.map_or(f64::INFINITY, |at| Time::now().since(at).as_secs_f64());
        sink.seconds(
            "etcd_contact_age_seconds",
            "Time since this process last had linearizable contact with etcd; +Inf before the first.",
            age,
        )?;
        tell_placement(&view, view.placement.clone(), sink)?;

        sink.counter("placement_writes", "Writes of the placement by this process that were taken.", WRITES.get())?;
        let evictions: Vec<_> = CAUSES.iter().zip(&EVICTIONS).map(|((_, cause), n)| (*cause, n.get())).collect();
        sink.counters("evictions", "Nodes taken out of the placement by this process.", "cause", &evictions)?;
        sink.counter(
            "primary_switches",
            "Slots whose primary this process moved to another node, planned or after a death.",
            SWITCHES.get(),
        )?;
        sink.counter("copies_begun", "Copies of slots that this process had begun.", COPIES_BEGUN.get())?;
        sink.counter("copies_in_sync", "Copies of slots that this process took into sync.", COPIES_DONE.get())?;
        sink.counter(
            "slots_recreated",
            "Slots that this process made anew, empty, because every copy was lost: their rooms lost their history.",
            RECREATED.get(),
        )
    }
}

fn tell_placement(view: &ClusterView, placement: Option<Arc<Placement>>, sink: &mut Sink<'_>) -> fmt::Result {
    let placement = placement.as_deref();
    let nodes = health::nodes(&view.nodes, &view.intents, placement);
    let of = |state| nodes.iter().filter(|n| n.state == state).count() as u64;
    let states: Vec<_> = NODE_STATES.iter().map(|(state, name)| (*name, of(*state))).collect();
    sink.gauges("cluster_nodes", "Nodes by state, as this process sees them.", "state", &states)?;
    sink.gauge("cluster_routers", "Registered routers, as this process sees them.", view.routers.len() as u64)?;

    let counts = placement.map(|p| health::slot_counts(&view.nodes, p)).unwrap_or_default();
    let states = [
        ("ok", counts.ok),
        ("moving", counts.moving),
        ("under_replicated", counts.under_replicated),
        ("offline", counts.offline),
    ];
    sink.gauges(
        "cluster_slots",
        "Slots by state, as this process sees them.",
        "state",
        &states.map(|(state, n)| (state, n as u64)),
    )?;
    let slots = || placement.iter().flat_map(|p| &p.slots);
    let copies = |n: usize| slots().filter(|s| s.in_sync.len().min(4) == n).count() as u64;
    sink.gauges(
        "cluster_in_sync_copies",
        "Slots by their number of in-sync copies; 4 = more than three, while one moves.",
        "copies",
        &[("1", copies(1)), ("2", copies(2)), ("3", copies(3)), ("4", copies(4))],
    )?;
    let learners = slots().map(|s| s.learners.len() as u64).sum();
    sink.gauge("cluster_copies_under_way", "Copies of slots that catch up.", learners)?;
    let wishes = [
        ("pins", view.intents.pins.len()),
        ("overrides", view.intents.overrides.len()),
        ("drained", view.intents.drained.len()),
    ];
    sink.gauges(
        "cluster_intents",
        "What operators and the rebalancer want: pinned slots, moved slots, drained nodes.",
        "kind",
        &wishes.map(|(kind, n)| (kind, n as u64)),
    )?;
    let version = placement.map_or(0, |p| p.version.0);
    sink.gauge("placement_version", "Version of the placement that this process follows; 0 before any.", version)
}

#[cfg(test)]
mod tests {
    use roomring_proto::{Generation, Incarnation, NodeId, Seat, Version};

    use super::*;
    use crate::placement::{Eviction, Recent, fixtures};

    #[test]
    fn a_write_is_counted_by_what_it_changed() {
        let base = fixtures::placement(4, 2, &[1, 2, 3]);
        let mut next = base.clone();
        next.version = Version(2);
        let seat = |n| Seat { incarnation: Incarnation(n), since: Version(2) };
        next.slots[0].primary = next.slots[0].in_sync[1];
        next.slots[1].generation = Generation(2);
        next.slots[2].learners.push(seat(2));
        next.recent.push(Recent {
            version: Version(2),
            time_ms: 0,
            by: NodeId::new("node-1").unwrap(),
            text: String::new(),
            evictions: vec![Eviction {
                node: NodeId::new("node-3").unwrap(),
                incarnation: Incarnation(3),
                cause: Cause::Hung,
                silent_for: None,
            }],
            nodes: Vec::new(),
            slots: Vec::new(),
            slots_changed: 0,
            copying: None,
        });
        let mut after = next.clone();
        after.version = Version(3);
        let learner = after.slots[2].learners.remove(0);
        after.slots[2].in_sync.push(learner);

        let counts = || {
            let hung = CAUSES.iter().position(|(cause, _)| *cause == Cause::Hung).unwrap();
            [&SWITCHES, &RECREATED, &COPIES_BEGUN, &COPIES_DONE, &EVICTIONS[hung], &WRITES].map(Counter::get)
        };
        assert_eq!(counts(), [0; 6]);
        count_write(Some(&base), &next);
        assert_eq!(counts(), [1, 1, 1, 0, 1, 1]);
        count_write(Some(&next), &after);
        assert_eq!(counts(), [1, 1, 1, 1, 1, 2]);
        count_write(None, &after);
        assert_eq!(counts(), [1, 1, 1, 1, 1, 3], "a new history has nothing to compare with");
    }
}
