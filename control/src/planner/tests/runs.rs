//! Whole runs: whatever happens, plans come to rest, and then every slot is where the ring wishes it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use roomring_proto::SlotId;

use super::super::slots::{CALM_SWITCHES, MOVES};
use super::sim::{FENCE, Sim, id};
use crate::placement::{Change, RingParams};
use crate::ring::{Ring, RingNode};

/// Where the ring wishes every slot, primary first, others in any order.
fn wish(sim: &Sim, nodes: &[(&str, u32)]) -> Vec<Vec<String>> {
    let nodes = nodes.iter().map(|(n, weight)| (id(n), RingNode { zone: String::new(), weight: *weight })).collect();
    let settings = &sim.placement().settings;
    let ring = Ring::new(RingParams::for_slots(settings.slots), &nodes);
    let wish = ring.wish(settings.slots, &sim.view.intents.pins, &BTreeMap::new(), settings.replication);
    let names = |w: Vec<_>| {
        let mut names: Vec<String> = w.iter().map(ToString::to_string).collect();
        names[1..].sort();
        names
    };
    wish.into_iter().map(names).collect()
}

fn differing(a: &[Vec<String>], b: &[Vec<String>]) -> usize {
    a.iter().zip(b).filter(|(x, y)| x[0] != y[0]).count()
}

fn learners(sim: &Sim) -> usize {
    sim.count(|c| matches!(c, Change::AddLearner { .. }))
}

fn recreated(sim: &Sim) -> usize {
    sim.count(|c| matches!(c, Change::Recreate { .. }))
}

const THREE: [(&str, u32); 3] = [("n1", 100), ("n2", 100), ("n3", 100)];
const FOUR: [(&str, u32); 4] = [("n1", 100), ("n2", 100), ("n3", 100), ("n4", 100)];

#[test]
fn a_join_moves_the_newcomers_share() {
    for replication in [1, 2] {
        let mut sim = Sim::new(1024, replication, &["n1", "n2", "n3"]);
        let before = sim.places();
        assert_eq!(before, wish(&sim, &THREE));
        sim.start("n4");
        let writes = sim.settle();
        let after = sim.places();
        assert_eq!(after, wish(&sim, &FOUR));
        let moved = differing(&before, &after);
        assert!((180..=332).contains(&moved), "{moved} moved for a share of 256");
        if replication == 1 {
            assert_eq!(learners(&sim), moved, "each moved slot was copied once");
            assert_eq!(sim.count(|c| matches!(c, Change::Switch { .. })), moved);
        }
        assert_eq!(recreated(&sim), 0);
        // The newcomer's share takes its turns: each write ends some copies, switches what they were made for, begins the next.
        let most = (learners(&sim).div_ceil(MOVES) + moved.div_ceil(CALM_SWITCHES)) * 2 + 8;
        assert!(writes <= most, "{writes} writes, {most} at most");
    }
}

#[test]
fn a_drain_and_its_end_move_only_that_nodes_slots() {
    for replication in [1, 2, 3] {
        let mut sim = Sim::new(256, replication, &["n1", "n2", "n3", "n4"]);
        let before = sim.places();
        sim.intend(|i| _ = i.drained.insert(id("n4")));
        sim.settle();
        assert_eq!(sim.places(), wish(&sim, &THREE));
        assert!(sim.placement().slots.iter().flat_map(|s| s.seats()).all(|s| s.incarnation != sim.incarnation("n4")));
        sim.intend(|i| i.drained.clear());
        sim.settle();
        assert_eq!(sim.places(), before);
        assert_eq!(recreated(&sim), 0);
        assert_eq!(sim.fewest, replication as usize, "no slot had fewer copies on the way");
    }
}

#[test]
fn a_node_that_stops_is_emptied_then_forgotten() {
    let mut sim = Sim::new(256, 1, &["n1", "n2", "n3", "n4"]);
    let n4 = sim.incarnation("n4");
    sim.edit(|nodes| nodes.get_mut(&id("n4")).unwrap().draining = true);
    sim.settle();
    assert_eq!(sim.places(), wish(&sim, &THREE));
    assert!(sim.placement().members[&n4].active);
    sim.lapse("n4");
    sim.settle();
    assert!(!sim.placement().members.contains_key(&n4));
    assert_eq!(recreated(&sim), 0);
}

#[test]
fn a_crash_without_replicas_loses_that_nodes_slots_and_no_others() {
    let mut sim = Sim::new(256, 1, &["n1", "n2", "n3"]);
    let lost = sim.primaries_of("n2");
    sim.lapse("n2");
    let died = sim.now;
    sim.settle();
    assert!(sim.now.since(died) >= FENCE);
    assert_eq!(recreated(&sim), lost);
    assert_eq!(sim.places(), wish(&sim, &[("n1", 100), ("n3", 100)]));
    assert_eq!(sim.placement().members.len(), 2);
    // It comes back: its share moves there as for any newcomer.
    sim.start("n2");
    sim.settle();
    assert_eq!(sim.places(), wish(&sim, &THREE));
    assert_eq!(recreated(&sim), lost);
}

#[test]
fn a_crash_with_replicas_loses_nothing() {
    let mut sim = Sim::new(256, 2, &["n1", "n2", "n3"]);
    sim.lapse("n2");
    sim.settle();
    assert_eq!(recreated(&sim), 0);
    assert_eq!(sim.places(), wish(&sim, &[("n1", 100), ("n3", 100)]));
}

#[test]
fn a_restart_in_the_same_directory_recreates_in_place() {
    let mut sim = Sim::new(256, 1, &["n1", "n2", "n3"]);
    let (lost, before) = (sim.primaries_of("n2"), sim.places());
    sim.start("n2");
    let died = sim.now;
    sim.settle();
    assert!(sim.now.since(died) < FENCE, "its death is proved");
    assert_eq!((recreated(&sim), sim.places()), (lost, before));
    assert_eq!(learners(&sim), 0);
}

#[test]
fn everyone_restarts() {
    let mut sim = Sim::new(256, 2, &["n1", "n2", "n3"]);
    let before = sim.places();
    for name in ["n1", "n2", "n3"] {
        sim.start(name);
    }
    sim.settle();
    assert_eq!((recreated(&sim), sim.places()), (256, before));
    assert_eq!(sim.placement().members.len(), 3);
}

#[test]
fn everyone_restarts_in_new_directories() {
    let mut sim = Sim::new(64, 1, &["n1", "n2"]);
    sim.start_in("n1", "new 1");
    sim.start_in("n2", "new 2");
    sim.settle();
    assert_eq!(recreated(&sim), 64);
    assert_eq!(sim.placement().members.len(), 2);
    assert_eq!(sim.places(), wish(&sim, &[("n1", 100), ("n2", 100)]));
}

#[test]
fn a_false_eviction_is_taken_back() {
    let mut sim = Sim::new(64, 1, &["n1", "n2"]);
    let (before, n2) = (sim.places(), sim.view.nodes[&id("n2")].clone());
    sim.lapse("n2");
    let n1 = sim.incarnation("n1");
    let evicted = sim.placement().with(&sim.plan(n1)).unwrap();
    assert!(!evicted.members[&n2.incarnation].active);
    sim.view.placement = Some(evicted.into());
    sim.edit(|nodes| _ = nodes.insert(id("n2"), n2));
    sim.settle();
    assert_eq!((sim.places(), recreated(&sim), learners(&sim)), (before, 0, 0), "with all that it held");
}

#[test]
fn a_pin_moves_one_slot_and_its_end_moves_it_back() {
    let mut sim = Sim::new(64, 1, &["n1", "n2", "n3"]);
    let before = sim.places();
    let to = if before[5][0] == "n3" { "n1" } else { "n3" };
    sim.intend(|i| _ = i.pins.insert(SlotId(5), id(to)));
    sim.settle();
    assert_eq!(sim.places()[5], [to]);
    // A pin counts in its node's bound, which may turn away another slot.
    assert!(differing(&before, &sim.places()) <= 3);
    sim.intend(|i| i.pins.clear());
    sim.settle();
    assert_eq!(sim.places(), before);
}

#[test]
fn weights_of_operators_win() {
    let mut sim = Sim::new(1024, 1, &["n1", "n2", "n3"]);
    sim.intend(|i| _ = i.weights.insert(id("n1"), 50));
    sim.settle();
    assert_eq!(sim.places(), wish(&sim, &[("n1", 50), ("n2", 100), ("n3", 100)]));
    sim.intend(|i| _ = i.weights.insert(id("n1"), 0));
    sim.settle();
    assert_eq!(sim.primaries_of("n1"), 0);
}

#[test]
fn draining_everyone_moves_nothing() {
    let mut sim = Sim::new(64, 1, &["n1", "n2"]);
    let before = sim.places();
    sim.intend(|i| i.drained.extend([id("n1"), id("n2")]));
    assert_eq!(sim.settle(), 0);
    assert_eq!(sim.places(), before);
}

#[test]
fn a_change_of_mind_in_mid_move_comes_to_rest() {
    let mut sim = Sim::new(256, 2, &["n1", "n2", "n3"]);
    sim.start("n4");
    let n1 = sim.incarnation("n1");
    for _ in 0..2 {
        let next = sim.placement().with(&sim.plan(n1)).unwrap();
        sim.view.placement = Some(next.into());
        sim.pass(Duration::from_millis(1));
    }
    sim.intend(|i| i.drained.extend([id("n4"), id("n2")]));
    sim.settle();
    assert_eq!(sim.places(), wish(&sim, &[("n1", 100), ("n3", 100)]));
    assert_eq!(recreated(&sim), 0);
}

/// Something that happens to the node number `usize`.
#[derive(Debug, Clone, Copy)]
enum Event {
    Start(usize, bool),
    Lapse(usize),
    Return(usize),
    Drain(usize, bool),
    Silence(usize),
    Speak(usize),
    CutOff(usize),
    Stop(usize),
    /// Two do not get through to each other.
    Deaf(usize, usize),
    /// All do again.
    Hear,
    Weight(usize, u32),
    Pin(u32, usize),
    Pass(u64),
    Break,
    /// Writes made before the next event.
    Writes(usize),
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..5usize;
    prop_oneof![
        3 => (node.clone(), prop::bool::weighted(0.8)).prop_map(|(n, same)| Event::Start(n, same)),
        3 => node.clone().prop_map(Event::Lapse),
        2 => node.clone().prop_map(Event::Return),
        2 => (node.clone(), any::<bool>()).prop_map(|(n, on)| Event::Drain(n, on)),
        3 => node.clone().prop_map(Event::Silence),
        2 => node.clone().prop_map(Event::Speak),
        1 => node.clone().prop_map(Event::CutOff),
        1 => node.clone().prop_map(Event::Stop),
        3 => (node.clone(), node.clone()).prop_map(|(a, b)| Event::Deaf(a, b)),
        1 => Just(Event::Hear),
        1 => (node.clone(), 0..300u32).prop_map(|(n, w)| Event::Weight(n, w)),
        1 => (0..16u32, node).prop_map(|(s, n)| Event::Pin(s, n)),
        2 => (1..120u64).prop_map(Event::Pass),
        1 => Just(Event::Break),
        6 => (1..6usize).prop_map(Event::Writes),
    ]
}

fn happen(sim: &mut Sim, event: Event, lapsed: &mut BTreeMap<String, crate::view::NodeEntry>) {
    let name = |n: usize| format!("n{n}");
    match event {
        Event::Start(n, same) => {
            lapsed.remove(&name(n));
            if same {
                sim.start(&name(n))
            } else {
                sim.start_in(&name(n), &format!("{:?}", sim.now))
            };
        }
        Event::Lapse(n) if sim.view.nodes.len() > 1 => {
            let entry = sim.view.nodes.get(&id(&name(n))).cloned();
            lapsed.extend(entry.map(|e| (name(n), e)));
            sim.lapse(&name(n));
        }
        Event::Return(n) => {
            if let Some(entry) = lapsed.remove(&name(n)) {
                sim.edit(|nodes| _ = nodes.insert(id(&name(n)), entry));
            }
        }
        Event::Silence(n) => sim.of(&name(n)).into_iter().for_each(|i| sim.silence(i)),
        Event::Speak(n) => sim.of(&name(n)).into_iter().for_each(|i| sim.speak(i)),
        Event::CutOff(n) => sim.evidence.cut_off = sim.of(&name(n)).into_iter().collect(),
        Event::Drain(n, true) => sim.intend(|i| _ = i.drained.insert(id(&name(n)))),
        Event::Drain(n, false) => sim.intend(|i| _ = i.drained.remove(&id(&name(n)))),
        Event::Stop(n) => sim.edit(|nodes| _ = nodes.get_mut(&id(&name(n))).map(|e| e.draining = true)),
        Event::Weight(n, weight) => sim.intend(|i| _ = i.weights.insert(id(&name(n)), weight)),
        Event::Pin(slot, n) => sim.intend(|i| _ = i.pins.insert(SlotId(slot), id(&name(n)))),
        Event::Pass(secs) => sim.pass(Duration::from_secs(secs)),
        Event::Break => {
            sim.view.unbroken_since = Some(sim.now);
            // At times it is etcd that was away.
            if sim.now.0.as_secs().is_multiple_of(2) {
                sim.view.answers_since = Some(sim.now);
            }
            sim.pass(Duration::from_secs(1));
        }
        Event::Writes(count) => (0..count).for_each(|_| _ = sim.step()),
        Event::Deaf(a, b) => {
            let pair = (sim.of(&name(a)), sim.of(&name(b)));
            sim.deaf.extend(pair.0.zip(pair.1).filter(|(a, b)| a != b));
        }
        Event::Hear => sim.deaf.clear(),
        Event::Lapse(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_happens_it_comes_to_rest_as_the_ring_wishes(
        replication in 1..=3u32,
        events in prop::collection::vec(event(), 1..40),
    ) {
        let mut sim = Sim::new(16, replication, &["n0", "n1", "n2"]);
        let mut lapsed = BTreeMap::new();
        for event in events {
            happen(&mut sim, event, &mut lapsed);
        }
        // The trouble ends: who is registered is heard.
        sim.evidence = Default::default();
        sim.deaf.clear();
        sim.view.nodes.values().map(|n| n.incarnation).collect::<Vec<_>>().into_iter().for_each(|i| sim.speak(i));
        sim.settle();
        let weight = |n: &crate::placement::Member| sim.view.intents.weights.get(&n.node).copied().unwrap_or(n.weight);
        let stays = |n: &&crate::placement::Member| {
            !sim.view.intents.drained.contains(&n.node) && sim.view.nodes.get(&n.node).is_some_and(|e| !e.draining)
        };
        let members = &sim.placement().members;
        let ring: Vec<(&str, u32)> =
            members.values().filter(|m| m.active && stays(m)).map(|m| (m.node.as_str(), weight(m))).collect();
        // Without a node to go to, everything stays where it is.
        if ring.iter().any(|(_, weight)| *weight > 0) {
            prop_assert_eq!(sim.places(), wish(&sim, &ring));
            let registered = |i| sim.view.nodes.values().any(|n| n.incarnation == i);
            prop_assert!(sim.placement().apart.is_empty());
            prop_assert!(members.keys().all(|i| registered(*i)), "the dead are forgotten");
        }
    }
}
