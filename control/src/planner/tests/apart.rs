//! Members that do not get through to each other while others hear both.

use std::collections::BTreeSet;
use std::time::Duration;

use super::sim::Sim;
use crate::placement::Change;

const SECOND: Duration = Duration::from_secs(1);

/// A cluster in which everybody is heard by everybody.
fn cluster(names: &[&str]) -> Sim {
    let mut sim = Sim::new(64, 2, names);
    for name in names {
        sim.speak(sim.incarnation(name));
    }
    sim
}

fn write_all(sim: &mut Sim) {
    while sim.step() {}
}

/// Slots with a primary at one and a seat at the other.
fn shared(sim: &Sim, a: &str, b: &str) -> usize {
    let (a, b) = (sim.incarnation(a), sim.incarnation(b));
    let ends = |p, s| (p, s) == (a, b) || (p, s) == (b, a);
    sim.placement().slots.iter().filter(|r| r.seats().any(|s| ends(r.primary.incarnation, s.incarnation))).count()
}

#[test]
fn a_third_takes_the_copies_of_two_that_do_not_reach_each_other_and_gives_them_back() {
    let mut sim = cluster(&["n1", "n2", "n3"]);
    let (before, n1, n2) = (sim.places(), sim.incarnation("n1"), sim.incarnation("n2"));
    assert!(shared(&sim, "n1", "n2") > 10);
    sim.deaf.insert((n1, n2));
    write_all(&mut sim);
    assert_eq!(shared(&sim, "n1", "n2"), 0, "nobody waits for the other any more");
    let primaries = |places: &[Vec<String>]| places.iter().map(|p| p[0].clone()).collect::<Vec<_>>();
    assert_eq!(primaries(&sim.places()), primaries(&before), "no room had to move");
    assert_eq!(sim.placement().slots.iter().map(|r| r.in_sync.len()).min(), Some(2));
    sim.pass(SECOND * 60);
    assert!(!sim.step(), "that lasts while they are apart");

    sim.deaf.clear();
    write_all(&mut sim);
    assert_eq!(sim.places(), before);
    assert_eq!(sim.count(|c| matches!(c, Change::Evict { .. } | Change::Recreate { .. })), 0);
}

#[test]
fn a_pair_that_is_lost_again_and_again_stays_apart_longer_each_time() {
    let mut sim = cluster(&["n1", "n2", "n3"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    let mut stays = Vec::new();
    for _ in 0..8 {
        sim.deaf.insert((n1, n2));
        assert!(sim.step());
        let at = sim.now;
        sim.deaf.clear();
        while !sim.placement().apart.is_empty() {
            if !sim.step() {
                let wake = [n1, n2].into_iter().filter_map(|me| sim.next_deadline(me)).min().expect("time will tell");
                sim.pass(wake.since(sim.now));
            }
        }
        stays.push(sim.now.since(at).as_secs());
        write_all(&mut sim);
    }
    assert_eq!(stays, [5, 10, 20, 30, 30, 30, 30, 30]);
}

#[test]
fn everybody_keeps_somebody_to_copy_to() {
    let mut sim = cluster(&["n1", "n2", "n3"]);
    let all = ["n1", "n2", "n3"].map(|n| sim.incarnation(n));
    for a in all {
        sim.deaf.extend(all.into_iter().filter(|b| a < *b).map(|b| (a, b)));
    }
    write_all(&mut sim);
    let pairs: BTreeSet<_> = sim.placement().apart.iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
    assert_eq!(pairs.len(), 1, "one pair, and each of it is not apart from the third");
}

#[test]
fn two_that_are_all_serve_alone() {
    let mut sim = cluster(&["n1", "n2"]);
    sim.deaf.insert((sim.incarnation("n1"), sim.incarnation("n2")));
    write_all(&mut sim);
    assert!(sim.placement().slots.iter().all(|r| r.in_sync == [r.primary] && r.learners.is_empty()));
    sim.deaf.clear();
    sim.pass(SECOND * 5);
    write_all(&mut sim);
    assert!(sim.placement().slots.iter().all(|r| r.in_sync.len() == 2));
}

#[test]
fn a_replica_that_misses_its_primary_keeps_its_copy() {
    let mut sim = cluster(&["n1", "n2"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    // Dead, and its lease lives: only n1 writes.
    sim.deaf.insert((n1, n2));
    for _ in 0..5 {
        let next = sim.placement().with(&sim.plan(n1)).unwrap();
        sim.view.placement = Some(next.into());
        sim.pass(SECOND);
    }
    let slots = &sim.placement().slots;
    assert!(slots.iter().filter(|r| r.primary.incarnation == n1).all(|r| r.in_sync == [r.primary]));
    let of_the_dead: Vec<_> = slots.iter().filter(|r| r.primary.incarnation == n2).collect();
    assert!(!of_the_dead.is_empty() && of_the_dead.iter().all(|r| r.in_sync.len() == 2), "it may be the last copy");
}

#[test]
fn the_strict_wait_for_the_third() {
    let mut sim = cluster(&["n1", "n2", "n3"]);
    let mut strict = sim.placement().clone();
    strict.settings.min_in_sync = 2;
    sim.view.placement = Some(strict.into());
    sim.fewest = usize::MAX;
    sim.deaf.insert((sim.incarnation("n1"), sim.incarnation("n2")));
    write_all(&mut sim);
    assert_eq!((shared(&sim, "n1", "n2"), sim.fewest), (0, 2));
}

#[test]
fn who_is_evicted_is_apart_from_nobody() {
    let mut sim = cluster(&["n1", "n2", "n3"]);
    let (n1, n2) = (sim.incarnation("n1"), sim.incarnation("n2"));
    sim.deaf.insert((n1, n2));
    assert!(sim.step());
    assert_eq!(sim.placement().apart.len(), 1);
    sim.silence(n2);
    assert!(sim.step());
    assert!(sim.placement().apart.is_empty());
}
