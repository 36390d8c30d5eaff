//! What may be planned when, row by row.

use std::collections::BTreeSet;
use std::time::Duration;

use roomring_proto::{Incarnation, SlotId, Uid, limits};

use super::sim::{FENCE, Sim, TTL, id};
use crate::placement::fixtures::settings;
use crate::placement::{Change, RingParams};
use crate::planner::slots::{CALM_SWITCHES, CATCH_UPS, MOVE_EVERY, SWITCH_EVERY, SWITCHES};
use crate::planner::{self, recreate_after};
use crate::view::ClusterView;

#[test]
fn a_cluster_is_formed_of_the_nodes_that_are_there() {
    let form = |view: &ClusterView| planner::form(view, settings(64, 2), RingParams::for_slots(64), Uid(1));
    assert_eq!(form(&ClusterView::default()), None);
    let mut sim = Sim::new(64, 2, &["a", "b", "c"]);
    let formed = form(&sim.view).unwrap();
    formed.check().unwrap();
    assert!(formed.slots.iter().all(|s| s.in_sync.len() == 2));
    assert_eq!(sim.plan(sim.incarnation("a")), [], "it is formed as the ring wishes");
    sim.edit(|nodes| nodes.values_mut().for_each(|n| n.draining = true));
    assert_eq!(form(&sim.view), None);
}

#[test]
fn a_node_that_leaves_hands_over_at_once_but_not_all_in_one_write() {
    let mut sim = Sim::new(512, 2, &["a", "b", "c"]);
    let a = sim.incarnation("a");
    let c = sim.incarnation("c");
    let leads = |sim: &Sim| sim.placement().slots.iter().filter(|s| s.primary.incarnation == c).count();
    let led = leads(&sim);
    assert!(led > SWITCHES);
    sim.edit(|nodes| nodes.get_mut(&id("c")).unwrap().draining = true);
    let switches = |changes: &[Change]| changes.iter().filter(|c| matches!(c, Change::Switch { .. })).count();
    assert_eq!(switches(&sim.plan(a)), SWITCHES);
    let copies = |changes: &[Change]| changes.iter().any(|c| matches!(c, Change::AddLearner { .. }));
    let mut writes = 0;
    while leads(&sim) > 0 {
        let done = sim.log.len();
        assert!(sim.step());
        assert!(switches(&sim.log[done..]) <= SWITCHES);
        assert!(!copies(&sim.log[done..]) || leads(&sim) == 0, "copies wait until the rooms have moved");
        sim.pass(SWITCH_EVERY);
        writes += 1;
    }
    assert!(writes >= led.div_ceil(SWITCHES));
    sim.settle();
    assert!(copies(&sim.log));
}

#[test]
fn a_newcomers_rooms_move_once_all_copies_are_there() {
    let mut sim = Sim::new(256, 2, &["a", "b", "c"]);
    sim.start("d");
    sim.settle();
    let places = |is: fn(&Change) -> bool| (0..sim.log.len()).filter(|n| is(&sim.log[*n])).collect::<Vec<_>>();
    let copies = places(|c| matches!(c, Change::AddLearner { .. }));
    let switches = places(|c| matches!(c, Change::Switch { .. }));
    assert!(copies.len() > switches.len() && switches.len() > SWITCHES);
    assert!(copies.last() < switches.first(), "every node takes part in copies until the last one is there");
}

#[test]
fn a_newcomers_rooms_move_a_few_at_a_time() {
    let mut sim = Sim::new(256, 2, &["a", "b", "c"]);
    sim.start("d");
    let mut most = 0;
    loop {
        let done = sim.log.len();
        if !sim.step() {
            break;
        }
        most = most.max(sim.log[done..].iter().filter(|c| matches!(c, Change::Switch { .. })).count());
    }
    assert_eq!(most, CALM_SWITCHES);
}

#[test]
fn whose_turn_it_is_goes_round_with_every_write() {
    let mut sim = Sim::new(8, 1, &["a", "b", "c"]);
    let turns = |sim: &Sim| ["a", "b", "c"].map(|n| planner::turn(&sim.view, &BTreeSet::new(), sim.incarnation(n)));
    let mut first = Vec::new();
    for _ in 0..3 {
        let now = turns(&sim);
        assert_eq!(BTreeSet::from(now), BTreeSet::from([0, 1, 2]), "each has its own");
        first.push(now.iter().position(|turn| *turn == 0).unwrap());
        let mut next = sim.placement().clone();
        next.version = next.version.next();
        sim.view.placement = Some(next.into());
    }
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "everyone is the first once: {first:?}");
}

#[test]
fn slots_that_lack_a_copy_come_before_those_that_move() {
    let mut sim = Sim::new(256, 2, &["a", "b", "c"]);
    let (a, c) = (sim.incarnation("a"), sim.incarnation("c"));
    sim.lapse("c");
    while sim.placement().members.get(&c).is_some_and(|m| m.active) {
        if !sim.step() {
            sim.pass(Duration::from_millis(100));
        }
    }
    sim.start("d");
    let mut seen = 0;
    while sim.placement().slots.iter().any(|s| s.in_sync.len() < 2 && s.learners.is_empty()) {
        let added = |c: &Change| if let Change::AddLearner { slot, .. } = c { Some(*slot) } else { None };
        for slot in sim.plan(a).iter().filter_map(added) {
            let lacks = |s: &crate::placement::SlotRecord| s.in_sync.len() < 2;
            let before = sim.placement().slots.iter().filter(|s| lacks(s) && s.learners.is_empty()).count();
            assert!(sim.placement().slot(slot).is_some_and(lacks) || before <= 4 * CATCH_UPS, "{slot} only moves");
            seen += 1;
        }
        assert!(sim.step());
    }
    assert!(seen > CATCH_UPS);
    sim.settle();
}

#[test]
fn only_live_members_write() {
    let mut sim = Sim::new(8, 1, &["a", "b"]);
    let stranger = sim.start("c");
    assert_eq!(sim.plan(stranger), []);
    assert!(!sim.plan(sim.incarnation("a")).is_empty(), "a member takes it in");
    let b = sim.incarnation("b");
    sim.lapse("b");
    assert_eq!(sim.plan(b), [], "who lost its own registration does not write");
}

#[test]
fn with_no_member_left_a_newcomer_adds_itself_and_nothing_else() {
    let mut sim = Sim::new(8, 1, &["a", "b"]);
    let (a, b) = (sim.start("a"), sim.incarnation("b"));
    assert!(sim.plan(a).is_empty(), "b is a member still");
    assert!(!sim.plan(b).is_empty());
    let b = sim.start("b");
    for me in [a, b] {
        let changes = sim.plan(me);
        assert!(matches!(&changes[..], [Change::Join { incarnation, .. }] if *incarnation == me), "{changes:?}");
    }
}

#[test]
fn a_lapsed_registration_counts_once_etcd_has_answered_for_long_enough() {
    let mut sim = Sim::new(8, 1, &["a", "b"]);
    let (a, b) = (sim.incarnation("a"), sim.incarnation("b"));
    sim.view.answers_since = Some(sim.now);
    sim.lapse("b");
    let evicts = |sim: &Sim| sim.plan(a).contains(&Change::Evict { incarnation: b });
    sim.pass(TTL * 2 - Duration::from_millis(1));
    assert!(!evicts(&sim));
    assert_eq!(sim.next_deadline(a).map(|t| t.since(sim.now)), Some(Duration::from_millis(1)));
    sim.pass(Duration::from_millis(1));
    assert!(evicts(&sim));
    sim.view.unbroken_since = None;
    sim.pass(Duration::ZERO);
    assert!(!evicts(&sim), "it may be back");
    // However often the watch breaks.
    sim.view.unbroken_since = Some(sim.now);
    sim.pass(Duration::ZERO);
    assert!(evicts(&sim));
    sim.evidence.answering.insert(b);
    assert!(!evicts(&sim), "it still answers");
}

#[test]
fn a_successor_in_the_same_directory_proves_death_and_another_does_not() {
    for (home, proved) in [("home of b", true), ("another", false)] {
        let mut sim = Sim::new(8, 1, &["a", "b"]);
        let (a, b) = (sim.incarnation("a"), sim.incarnation("b"));
        (sim.view.unbroken_since, sim.view.answers_since) = (Some(sim.now), Some(sim.now));
        let successor = sim.start_in("b", home);
        sim.pass(Duration::from_secs(1));
        let changes = sim.plan(a);
        assert_eq!(changes.contains(&Change::Evict { incarnation: b }), proved, "{home}: {changes:?}");
        let joins = |c: &Change| matches!(c, Change::Join { incarnation, .. } if *incarnation == successor);
        assert!(changes.iter().any(joins), "{changes:?}");
    }
}

#[test]
fn a_slot_is_recreated_when_its_copies_are_out_of_the_way_for_long_enough() {
    let mut sim = Sim::new(8, 1, &["a", "b"]);
    let a = sim.incarnation("a");
    sim.lapse("b");
    let lapsed = sim.now;
    let recreates = |sim: &Sim| sim.plan(a).iter().any(|c| matches!(c, Change::Recreate { .. }));
    assert!(sim.plan(a).iter().any(|c| matches!(c, Change::Evict { .. })));
    assert!(!sim.plan(a).iter().any(|c| matches!(c, Change::AddLearner { .. })), "there is nobody to catch up from");
    let wait = recreate_after(FENCE);
    assert!(wait > FENCE);
    sim.pass(wait - Duration::from_millis(1));
    assert!(!recreates(&sim));
    assert_eq!(sim.next_deadline(a), Some(lapsed + wait));
    sim.pass(Duration::from_millis(1));
    assert!(recreates(&sim));
    let relied_on = planner::relied_on(sim.placement(), &sim.plan(a));
    assert_eq!(relied_on.into_iter().collect::<Vec<_>>(), [id("b")]);
    sim.view.unbroken_since = Some(sim.now);
    sim.pass(Duration::from_millis(1));
    assert!(!recreates(&sim), "the view broke: how long is not known any more");
}

#[test]
fn a_proof_of_death_recreates_once_routers_know_but_only_a_slot_that_stood() {
    let mut sim = Sim::new(8, 1, &["a", "b"]);
    let a = sim.incarnation("a");
    let of_b: Vec<SlotId> = {
        let b = sim.incarnation("b");
        (0..8).map(SlotId).filter(|s| sim.placement().slots[s.0 as usize].primary.incarnation == b).collect()
    };
    sim.start("b");
    let recreates = |sim: &Sim| sim.plan(a).iter().any(|c| matches!(c, Change::Recreate { .. }));
    assert!(!recreates(&sim), "a router may hold its link to the dead one for open still");
    let wake = sim.next_deadline(a).unwrap();
    assert!(wake.since(sim.now) < Duration::from_secs(5) && wake.since(sim.now) > limits::LINK_SILENCE);
    sim.pass(wake.since(sim.now) - Duration::from_millis(1));
    assert!(!recreates(&sim));
    sim.pass(Duration::from_millis(1));
    let recreated: Vec<SlotId> = sim
        .plan(a)
        .iter()
        .filter_map(|c| if let Change::Recreate { slot, .. } = c { Some(*slot) } else { None })
        .collect();
    assert_eq!(recreated, of_b);
    sim.view.unbroken_since = Some(sim.now);
    sim.pass(FENCE);
    let changes = sim.plan(a);
    assert!(!changes.iter().any(|c| matches!(c, Change::Recreate { .. })), "it stood for {FENCE:?} only: {changes:?}");
}

#[test]
fn ready_counts_only_for_its_base_and_term() {
    let mut sim = Sim::new(8, 1, &["a"]);
    let a = sim.incarnation("a");
    sim.start("b");
    let next = sim.placement().with(&sim.plan(a)).unwrap();
    sim.view.placement = Some(next.into());
    sim.pass(Duration::from_millis(1));
    let written = sim.now;
    let (slot, record) = sim.placement().slots.iter().enumerate().find(|(_, r)| !r.learners.is_empty()).unwrap();
    let slot = SlotId(slot.try_into().unwrap());
    let said = planner::ReadySeat { slot, seat: record.learners[0], term: record.term, base: sim.placement().version };
    fn takes_in(sim: &Sim, a: Incarnation, ready: planner::ReadySeat) -> usize {
        let (view, history, evidence) = (&sim.view, &sim.history, &sim.evidence);
        let ready = [ready].into();
        let unanswered = &BTreeSet::new();
        let s =
            planner::Situation { view, history, now: sim.now, me: a, ttl: TTL, ready: &ready, unanswered, evidence };
        planner::plan(&s).iter().filter(|c| matches!(c, Change::IntoSync { .. })).count()
    }
    assert_eq!(takes_in(&sim, a, said), 0, "the slot only moves: the next copies that are there go with it");
    assert_eq!(sim.next_deadline(a), Some(written + MOVE_EVERY));
    sim.pass(MOVE_EVERY);
    let takes = |ready| takes_in(&sim, a, ready);
    assert_eq!(takes(said), 1);
    assert_eq!(takes(planner::ReadySeat { base: roomring_proto::Version(1), ..said }), 0);
    assert_eq!(takes(planner::ReadySeat { term: said.term.next(), ..said }), 0);
}

#[test]
fn ranks_are_distinct_and_members_come_first() {
    let mut sim = Sim::new(8, 1, &["b", "a"]);
    let ranks: Vec<usize> =
        ["b", "a"].iter().map(|n| planner::rank(&sim.view, &BTreeSet::new(), sim.incarnation(n))).collect();
    assert_eq!(ranks, [0, 1]);
    let c = sim.start("c");
    assert_eq!(planner::rank(&sim.view, &BTreeSet::new(), c), 2);
    sim.lapse("b");
    assert_eq!(planner::rank(&sim.view, &BTreeSet::new(), sim.incarnation("a")), 0);
    assert_eq!(planner::rank(&sim.view, &BTreeSet::new(), Incarnation(1)), 1);
}
