//! What heartbeats say, and what is planned on it.

use std::collections::BTreeSet;
use std::time::Duration;

use roomring_proto::{Incarnation, SlotId};

use super::sim::{Sim, id};
use crate::placement::{Cause, Change, SlotRecord};
use crate::planner;

const SECOND: Duration = Duration::from_secs(1);

fn evicted(sim: &Sim, who: Incarnation) -> bool {
    !sim.placement().members.get(&who).is_some_and(|m| m.active)
}

/// Writes until nobody has anything to write now.
fn write_all(sim: &mut Sim) {
    while sim.step() {}
}

/// Evicts node `name` for silence and lets it speak again; returns how long it stays out then.
fn flap(sim: &mut Sim, name: &str) -> Duration {
    let who = sim.incarnation(name);
    sim.silence(who);
    let at = sim.now;
    assert!(sim.step());
    assert!(evicted(sim, who));
    write_all(sim);
    sim.speak(who);
    let me = sim.incarnation("n1");
    while evicted(sim, who) {
        if !sim.step() {
            let wake = sim.next_deadline(me).expect("time will tell");
            sim.pass(wake.since(sim.now));
        }
    }
    sim.now.since(at)
}

#[test]
fn the_dead_go_at_once_though_they_are_registered() {
    let mut sim = Sim::new(64, 2, &["n1", "n2", "n3"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    (sim.view.unbroken_since, sim.view.answers_since) = (Some(sim.now), Some(sim.now));
    sim.pass(Duration::ZERO);
    assert_eq!(sim.plan(n1), []);
    sim.silence(n2);
    assert!(sim.plan(n1).contains(&Change::Evict { incarnation: n2 }));
    write_all(&mut sim);
    assert!(evicted(&sim, n2));
    assert!(sim.placement().slots.iter().all(|s| s.primary.incarnation != n2), "every slot has another primary");
    let causes: Vec<Cause> = sim.placement().recent.evictions().map(|(_, e)| e.cause).collect();
    assert_eq!(causes, [Cause::Silent]);
    assert_eq!(sim.count(|c| matches!(c, Change::Recreate { .. })), 0);
}

#[test]
fn rooms_come_before_copies() {
    for strict in [false, true] {
        let mut sim = Sim::new(64, 2, &["n1", "n2", "n3"]);
        let mut settings = sim.placement().clone();
        settings.settings.min_in_sync = if strict { 2 } else { 1 };
        sim.view.placement = Some(settings.into());
        let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
        sim.silence(n2);
        let copies = |sim: &Sim| sim.count(|c| matches!(c, Change::AddLearner { .. }));
        assert!(sim.step());
        assert_eq!(copies(&sim) > 0, strict, "who takes no publishes without another copy does not wait");
        if !strict {
            assert!(!sim.step());
            while copies(&sim) == 0 {
                let wake = sim.next_deadline(n1).expect("time will tell");
                sim.pass(wake.since(sim.now));
                sim.step();
            }
        }
    }
}

#[test]
fn nobody_evicts_itself() {
    let mut sim = Sim::new(8, 2, &["n1", "n2"]);
    let n1 = sim.incarnation("n1");
    sim.silence(n1);
    assert_eq!(sim.plan(n1), []);
}

#[test]
fn for_suspects_nobody_waits() {
    let sim = Sim::new(8, 1, &["n1", "n2", "n3"]);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|n| sim.incarnation(n));
    let ranks = |absent: &[Incarnation]| {
        let absent: BTreeSet<Incarnation> = absent.iter().copied().collect();
        [n1, n2, n3].map(|me| planner::rank(&sim.view, &absent, me))
    };
    assert_eq!(ranks(&[]), [0, 1, 2]);
    assert_eq!(ranks(&[n1])[1..], [0, 1]);
    assert_eq!(ranks(&[n1, n2])[2], 0);
}

#[test]
fn a_registered_process_that_is_silent_stays_out() {
    let mut sim = Sim::new(64, 2, &["n1", "n2", "n3"]);
    let n2 = sim.incarnation("n2");
    sim.silence(n2);
    write_all(&mut sim);
    // As no member it is no suspect any more; it is merely not heard.
    sim.evidence = Default::default();
    sim.pass(SECOND * 100);
    write_all(&mut sim);
    assert!(evicted(&sim, n2), "stopped, and its lease lives on");
    sim.speak(n2);
    write_all(&mut sim);
    assert!(!evicted(&sim, n2));
}

#[test]
fn who_flaps_stays_out_longer_each_time_and_is_forgiven() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    let mut stays = Vec::new();
    for _ in 0..8 {
        stays.push(flap(&mut sim, "n2").as_secs());
        write_all(&mut sim);
    }
    assert_eq!(stays, [1, 2, 4, 8, 16, 32, 60, 60]);
    sim.pass(SECOND * 601);
    assert_eq!(flap(&mut sim, "n2").as_secs(), 1);
    assert_eq!(flap(&mut sim, "n3").as_secs(), 1, "each node for itself");
}

#[test]
fn a_new_process_of_a_flapping_node_waits_too() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    sim.silence(sim.incarnation("n2"));
    write_all(&mut sim);
    let new = sim.start("n2");
    let n1 = sim.incarnation("n1");
    let joins =
        |sim: &Sim| sim.plan(n1).iter().any(|c| matches!(c, Change::Join { incarnation, .. } if *incarnation == new));
    assert!(!joins(&sim));
    sim.pass(SECOND);
    assert!(joins(&sim), "it need not have been heard: it was never evicted itself");
}

#[test]
fn a_broken_view_does_not_forgive() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    sim.silence(sim.incarnation("n2"));
    write_all(&mut sim);
    let at = sim.history.rejoins_at(&id("n2"), sim.now);
    assert!(at.is_some());
    sim.view.unbroken_since = Some(sim.now);
    sim.pass(Duration::from_millis(1));
    assert_eq!(sim.history.rejoins_at(&id("n2"), sim.now), at);
    let mut fresh = planner::History::default();
    fresh.observe(&sim.view, sim.now);
    assert!(fresh.rejoins_at(&id("n2"), sim.now) > Some(sim.now), "to a process that has just started too");
}

#[test]
fn a_node_cut_off_from_etcd_hands_its_primaries_over_and_keeps_its_seats() {
    let mut sim = Sim::new(64, 2, &["n1", "n2", "n3"]);
    let (before, n2) = (sim.places(), sim.incarnation("n2"));
    assert!(sim.primaries_of("n2") > 10);
    sim.evidence.cut_off.insert(n2);
    write_all(&mut sim);
    assert_eq!(sim.primaries_of("n2"), 0);
    assert_eq!(sim.count(|c| !matches!(c, Change::Switch { .. })), 0, "{:?}", sim.log);
    let seats = sim.placement().slots.iter().filter(|s| s.seat_of(n2).is_some()).count();
    assert_eq!(seats, before.iter().filter(|p| p.contains(&"n2".to_owned())).count());
    sim.evidence.cut_off.clear();
    sim.settle();
    assert_eq!(sim.places(), before);
}

#[test]
fn who_has_no_contact_is_given_no_primaries_by_whom_can_not_tell_why() {
    let mut sim = Sim::new(64, 2, &["n1", "n2", "n3"]);
    let (before, n2) = (sim.places(), sim.incarnation("n2"));
    sim.evidence.contactless.insert(n2);
    sim.evidence.cut_off.insert(n2);
    write_all(&mut sim);
    sim.evidence.cut_off.clear();
    sim.settle();
    assert_eq!(sim.primaries_of("n2"), 0, "etcd may be away for all: nothing moves");
    sim.evidence.contactless.clear();
    sim.settle();
    assert_eq!(sim.places(), before);
}

/// One takes n2 for cut off, the other does not, for as long as it takes to find out and far longer.
#[test]
fn proposers_that_disagree_switch_a_slot_ever_less_often() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|n| sim.incarnation(n));
    let slot = sim.placement().slots.iter().position(|s| s.primary.incarnation == n2).unwrap();
    let (mut moments, mut term) = (Vec::new(), sim.placement().slots[slot].term);
    let end = sim.now + SECOND * 300;
    while sim.now < end {
        for (proposer, cut_off) in [(n1, Some(n2)), (n3, None)] {
            sim.evidence.cut_off = cut_off.into_iter().collect();
            let changes = sim.plan(proposer);
            if !changes.is_empty() {
                sim.write(proposer, changes);
            }
            if sim.placement().slots[slot].term != term {
                term = sim.placement().slots[slot].term;
                moments.push(sim.now);
            }
        }
        // The view of the one that can't tell breaks all the time.
        sim.view.unbroken_since = Some(sim.now);
        sim.pass(Duration::from_millis(50));
    }
    let pauses: Vec<Duration> = moments.windows(2).map(|m| m[1].since(m[0])).collect();
    assert!(moments.len() < 30, "{} changes in 300 s: {pauses:?}", moments.len());
    assert!(pauses[pauses.len() - 2..].iter().any(|p| *p >= SECOND * 30), "{pauses:?}");
}

#[test]
fn without_another_in_sync_seat_a_cut_off_node_serves_on() {
    let mut sim = Sim::new(16, 1, &["n1", "n2"]);
    sim.evidence.cut_off.insert(sim.incarnation("n2"));
    write_all(&mut sim);
    assert!(sim.log.is_empty(), "{:?}", sim.log);
}

#[test]
fn an_evicted_primary_that_is_not_the_last_copy_any_more_is_replaced() {
    let mut sim = Sim::new(16, 1, &["n1", "n2", "n3"]);
    let (n1, n3) = (sim.incarnation("n1"), sim.incarnation("n3"));
    // Wrongly evicted: it keeps its last copies, and others copy them; meanwhile nobody may take them over.
    sim.evidence.cut_off.extend([n1, sim.incarnation("n2")]);
    sim.silence(n3);
    sim.step();
    sim.pass(SECOND);
    write_all(&mut sim);
    let led = |sim: &Sim| sim.placement().slots.iter().filter(|s| s.primary.incarnation == n3).count();
    assert!(led(&sim) > 0 && sim.placement().slots.iter().any(|s| s.primary.incarnation == n3 && s.in_sync.len() == 2));
    sim.evidence.cut_off.clear();
    sim.lapse("n3");
    write_all(&mut sim);
    assert_eq!(led(&sim), 0);
    assert!(!sim.placement().members.contains_key(&n3), "nothing waits for it");
    assert_eq!(sim.count(|c| matches!(c, Change::Recreate { .. })), 0);
}

#[test]
fn a_suspect_is_made_primary_of_nothing() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    let n2 = sim.incarnation("n2");
    sim.evidence.cut_off.insert(n2);
    write_all(&mut sim);
    sim.evidence.cut_off.clear();
    sim.evidence.suspects.insert(n2);
    assert!(!sim.step(), "it stays as it is until it is known better");
    sim.evidence.suspects.clear();
    sim.settle();
    assert!(sim.primaries_of("n2") > 0);
}

/// A node died and may not be evicted yet; the other one with copies is drained just then. `hide` is how the death shows.
fn drained_beside_a_dead_one(hide: impl Fn(&mut Sim, Incarnation)) {
    let mut sim = Sim::new(16, 2, &["n1", "n2"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    hide(&mut sim, n2);
    sim.intend(|intents| _ = intents.drained.insert(id("n1")));
    let changes = sim.plan(n1);
    assert!(changes.is_empty(), "n1 has the only copies that live: {changes:?}");
}

#[test]
fn a_drain_does_not_remove_the_last_living_copy() {
    drained_beside_a_dead_one(|sim, who| _ = sim.evidence.suspects.insert(who));
    drained_beside_a_dead_one(|sim, who| {
        sim.evidence.answering.insert(who);
        sim.lapse("n2");
    });
}

/// The other one died a moment ago, and nobody knows it yet.
#[test]
fn the_last_copy_beside_another_goes_by_the_word_of_who_keeps_it() {
    let mut sim = Sim::new(16, 2, &["n1", "n2"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    sim.intend(|intents| _ = intents.drained.insert(id("n1")));
    for _ in 0..8 {
        let changes = sim.plan(n1);
        assert!(changes.iter().all(|c| matches!(c, Change::Switch { .. })), "{changes:?}");
        if changes.is_empty() {
            break;
        }
        sim.write(n1, changes);
    }
    assert!(sim.placement().slots.iter().all(|s| s.primary.incarnation == n2 && s.in_sync.len() == 2));
    assert!(sim.plan(n2).iter().any(|c| matches!(c, Change::RemoveSeat { .. })), "it lives: it says so itself");
    sim.evidence.suspects.insert(n2);
    sim.silence(n2);
    sim.step();
    assert!(sim.placement().slots.iter().all(|s| s.primary.incarnation == n1), "nothing is lost");
}

#[test]
fn a_drain_goes_on_when_the_other_one_is_heard_again() {
    let mut sim = Sim::new(16, 2, &["n1", "n2"]);
    let n2 = sim.incarnation("n2");
    sim.evidence.suspects.insert(n2);
    sim.intend(|intents| _ = intents.drained.insert(id("n1")));
    write_all(&mut sim);
    assert!(sim.log.is_empty(), "{:?}", sim.log);
    sim.evidence.suspects.clear();
    while sim.step() {
        sim.pass(SECOND);
    }
    assert!(sim.placement().slots.iter().all(|s| s.in_sync.len() == 1 && s.primary.incarnation == n2));
}

#[test]
fn an_evicted_copy_stays_while_its_primary_may_be_dead() {
    let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|n| sim.incarnation(n));
    // Evicted wrongly with the last copy, which n1 took over since.
    let mut placement = sim.placement().clone();
    placement.members.get_mut(&n3).expect("a member").active = false;
    sim.view.placement = Some(placement.into());
    sim.edit(|nodes| _ = nodes.remove(&id("n3")));
    let removed = |sim: &Sim| {
        let led = |slot: &SlotId| sim.placement().slot(*slot).is_some_and(|r| r.primary.incarnation == n1);
        let of_n3 = |c: &&Change| matches!(c, Change::RemoveSeat { slot, seat } if seat.incarnation == n3 && led(slot));
        sim.plan(n2).iter().filter(of_n3).count()
    };
    assert!(removed(&sim) > 0);
    sim.evidence.suspects.insert(n1);
    assert_eq!(removed(&sim), 0);
}

#[test]
fn of_several_the_one_that_may_be_alive_keeps_the_last_seats() {
    for silent in ["n2", "n3"] {
        let mut sim = Sim::new(16, 2, &["n1", "n2", "n3"]);
        let (alive, n1) = (sim.incarnation(silent), sim.incarnation("n1"));
        let gone = if silent == "n2" { "n3" } else { "n2" };
        let both = |r: &SlotRecord| r.seat_of(alive).is_some() && r.seat_of(n1).is_none();
        let common = sim.placement().slots.iter().filter(|r| both(r)).count();
        assert!(common > 0);
        sim.lapse(gone);
        sim.silence(alive);
        assert!(sim.step());
        let kept = sim.placement().slots.iter().filter(|r| r.in_sync.len() == 1 && both(r)).count();
        assert_eq!(kept, common, "{gone} has no registration any more, {silent} is only silent");
    }
}
