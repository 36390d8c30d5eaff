use std::time::Duration;

use roomring_proto::SlotId;

use super::sim::{FENCE, Sim};
use crate::clock::Time;
use crate::planner::History;

#[test]
fn a_broken_view_forgets() {
    let mut sim = Sim::new(4, 1, &["a", "b"]);
    let a = sim.incarnation("a");
    sim.lapse("a");
    let lapsed = sim.now;
    sim.pass(Duration::from_secs(5));
    assert_eq!(sim.history.absent_since(a), Some(lapsed));
    assert!(sim.history.unchanged_since(SlotId(0)).unwrap() < lapsed);

    sim.view.unbroken_since = None;
    sim.pass(Duration::from_secs(1));
    assert_eq!((sim.history.absent_since(a), sim.history.unchanged_since(SlotId(0))), (None, None));

    sim.view.unbroken_since = Some(sim.now);
    sim.pass(Duration::from_secs(1));
    assert_eq!(sim.history.absent_since(a), Some(sim.now));
}

#[test]
fn a_key_seen_in_between_starts_the_absence_anew() {
    let mut sim = Sim::new(4, 1, &["a", "b"]);
    let entry = sim.view.nodes.iter().next().map(|(id, e)| (id.clone(), e.clone())).unwrap();
    let a = entry.1.incarnation;
    sim.lapse("a");
    sim.pass(FENCE);
    sim.edit(|nodes| nodes.extend([entry]));
    assert_eq!(sim.history.absent_since(a), None);
    sim.lapse("a");
    assert_eq!(sim.history.absent_since(a), Some(sim.now));
}

#[test]
fn a_slot_stands_since_its_term_or_in_sync_set_changed() {
    let mut history = History::default();
    let sim = Sim::new(1, 1, &["a", "b"]);
    history.observe(&sim.view, Time(Duration::from_secs(5)));
    let mut view = sim.view.clone();
    let mut next = (**view.placement.as_ref().unwrap()).clone();
    next.version = next.version.next();
    view.placement = Some(next.clone().into());
    history.observe(&view, Time(Duration::from_secs(6)));
    assert_eq!(history.unchanged_since(SlotId(0)), Some(Time(Duration::from_secs(5))), "another version, same record");
    next.slots[0].term = next.slots[0].term.next();
    view.placement = Some(next.into());
    history.observe(&view, Time(Duration::from_secs(7)));
    assert_eq!(history.unchanged_since(SlotId(0)), Some(Time(Duration::from_secs(7))));
}
