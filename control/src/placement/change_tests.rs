//! Every row of changes, and what any sequence of them keeps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roomring_proto::{Generation, Incarnation, Seat, SlotId, Term, Version};

use super::fixtures::{placement, process};
use super::{Change, Placement};

const SLOT: SlotId = SlotId(0);

fn inc(n: u64) -> Incarnation {
    Incarnation(n)
}

fn seat(n: u64, since: u64) -> Seat {
    Seat { incarnation: inc(n), since: Version(since) }
}

fn join(n: u64) -> Change {
    let (incarnation, member) = process(n);
    Change::Join { incarnation, member }
}

fn refused(p: &Placement, changes: &[Change]) -> String {
    p.with(changes).expect_err("is refused").to_string()
}

#[test]
fn a_member_joins_and_one_write_is_one_version() {
    let p = placement(2, 1, &[10]);
    let next = p.with(&[join(11), join(12)]).unwrap();
    assert_eq!(next.version, Version(2));
    assert!(next.members[&inc(12)].active);
    assert_eq!(next.slots, p.slots);
    assert_eq!(refused(&p, &[join(10)]), "join node-10 i10: is a member");
}

#[test]
fn an_older_process_of_a_name_does_not_come_back() {
    let p = placement(2, 1, &[10]);
    let (_, later) = process(10);
    let p = p.with(&[Change::Join { incarnation: inc(30), member: later.clone() }]).unwrap();
    let change = Change::Join { incarnation: inc(20), member: later };
    assert!(refused(&p, &[change]).contains("a later process has its name"));
}

#[test]
fn a_move_is_learner_in_sync_switch_remove() {
    let p = placement(1, 1, &[10, 11]);
    let p = p.with(&[Change::AddLearner { slot: SLOT, incarnation: inc(11) }]).unwrap();
    assert_eq!(p.slots[0].learners, [seat(11, 2)], "the seat carries the version that added it");
    let into = |term| Change::IntoSync { slot: SLOT, seat: seat(11, 2), term };
    assert!(refused(&p, &[into(Term(2))]).contains("another term"));
    let switch = Change::Switch { slot: SLOT, to: seat(11, 2) };
    assert!(refused(&p, std::slice::from_ref(&switch)).contains("not in sync"));
    let remove = Change::RemoveSeat { slot: SLOT, seat: seat(10, 1) };
    assert!(refused(&p, &[into(Term(1)), remove.clone()]).contains("is primary"));
    let p = p.with(&[into(Term(1)), switch, remove]).unwrap();
    let record = &p.slots[0];
    assert_eq!((record.term, record.generation, record.primary), (Term(2), Generation(1), seat(11, 2)));
    assert_eq!(record.in_sync, [seat(11, 2)]);
}

#[test]
fn eviction_hands_over_and_leaves_the_last_copy() {
    // Slot 0: 10 then 11, slot 1: 11 then 10.
    let mut p = placement(2, 2, &[10, 11]);
    p = p.with(&[Change::Evict { incarnation: inc(10) }]).unwrap();
    assert_eq!((p.slots[0].term, p.slots[0].primary.incarnation), (Term(2), inc(11)));
    assert_eq!((p.slots[1].term, p.slots[1].in_sync.len()), (Term(1), 1), "a replica's end is no change of primary");
    assert!(!p.members[&inc(10)].active);

    let gone = p.with(&[Change::Forget { incarnation: inc(10) }]).unwrap();
    assert!(!gone.members.contains_key(&inc(10)));

    let offline = p.with(&[Change::Evict { incarnation: inc(11) }]).unwrap();
    assert_eq!(offline.slots[0], p.slots[0], "the last copy stays");
    assert!(refused(&offline, &[Change::Forget { incarnation: inc(11) }]).contains("has a seat"));
    let back = offline.with(&[join(11)]).unwrap();
    assert_eq!(back.slots, p.slots, "a member again, with the seats it kept");
}

#[test]
fn both_copies_evicted_in_one_write_leave_one() {
    let p = placement(1, 2, &[10, 11]);
    let p = p.with(&[Change::Evict { incarnation: inc(10) }, Change::Evict { incarnation: inc(11) }]).unwrap();
    assert_eq!(p.slots[0].in_sync, [seat(11, 1)]);
    p.check().unwrap();
}

#[test]
fn recreation_starts_empty_elsewhere() {
    let p = placement(1, 1, &[10, 11]).with(&[Change::Evict { incarnation: inc(10) }]).unwrap();
    let recreate = |term, on| Change::Recreate { slot: SLOT, term, on };
    assert!(refused(&p, &[recreate(Term(2), inc(11))]).contains("another term"));
    assert!(refused(&p, &[recreate(Term(1), inc(10))]).contains("not a member"));
    let p = p.with(&[recreate(Term(1), inc(11))]).unwrap();
    let record = &p.slots[0];
    assert_eq!((record.term, record.generation), (Term(2), Generation(2)));
    assert_eq!((record.primary, record.in_sync.as_slice()), (seat(11, 3), &[seat(11, 3)][..]));
}

#[test]
fn one_write_never_gives_the_same_seat_twice() {
    let p = placement(1, 1, &[10, 11]);
    let add = Change::AddLearner { slot: SLOT, incarnation: inc(11) };
    let remove = Change::RemoveSeat { slot: SLOT, seat: seat(11, 2) };
    assert!(refused(&p, &[add.clone(), remove]).contains("added in this write"));
    assert!(
        refused(&p, &[add.clone(), Change::Evict { incarnation: inc(11) }, join(11)]).contains("evicted in this write")
    );
    let recreate = Change::Recreate { slot: SLOT, term: Term(1), on: inc(11) };
    assert!(refused(&p, &[add, recreate]).contains("added in this write"));
}

/// A change of any kind, sensible or not, for a placement of 3 slots and processes 10 to 15.
fn any_change() -> impl Strategy<Value = Roll> {
    (0..9usize, 10..16u64, 0..4u32, 0..4usize).prop_map(|(kind, who, slot, seat)| Roll { kind, who, slot, seat })
}

#[derive(Debug, Clone, Copy)]
struct Roll {
    kind: usize,
    who: u64,
    slot: u32,
    seat: usize,
}

impl Roll {
    /// Names real seats and terms of `p` where it can: random ones would all be refused.
    fn change(self, p: &Placement) -> Change {
        let slot = SlotId(self.slot);
        let record = p.slot(slot);
        let seat = record.and_then(|r| r.seats().nth(self.seat)).unwrap_or(seat(99, 1));
        let term = record.map_or(Term(1), |r| r.term);
        match self.kind {
            0 => join(self.who),
            1 => Change::Update { incarnation: inc(self.who), member: process(self.who).1 },
            2 => Change::AddLearner { slot, incarnation: inc(self.who) },
            3 => Change::IntoSync { slot, seat, term },
            4 => Change::Switch { slot, to: seat },
            5 => Change::RemoveSeat { slot, seat },
            6 => Change::Evict { incarnation: inc(self.who) },
            7 => Change::Recreate { slot, term, on: inc(self.who) },
            _ => Change::Forget { incarnation: inc(self.who) },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_sequence_keeps_the_invariants(writes in prop::collection::vec(prop::collection::vec(any_change(), 1..6), 1..30)) {
        let mut p = placement(3, 2, &[10, 11, 12]);
        let mut primaries: BTreeMap<(usize, Term), Seat> = BTreeMap::new();
        let mut gone: BTreeSet<(usize, Seat)> = BTreeSet::new();
        for write in writes {
            let mut draft = p.draft();
            for roll in write {
                let before = draft.placement().clone();
                match draft.apply(&roll.change(&before)) {
                    Ok(()) => {}
                    Err(_) => prop_assert_eq!(draft.placement(), &before, "a refused change changes nothing"),
                }
                for (slot, (old, new)) in before.slots.iter().zip(&draft.placement().slots).enumerate() {
                    prop_assert!(new.term >= old.term && new.generation >= old.generation);
                    prop_assert!((new.primary == old.primary) == (new.term == old.term), "one primary per term");
                    prop_assert!(new.generation == old.generation || new.term > old.term);
                    gone.extend(old.seats().filter(|s| !new.seats().any(|n| n == *s)).map(|s| (slot, s)));
                    for seat in new.seats() {
                        prop_assert!(!gone.contains(&(slot, seat)), "{seat:?} is used again in slot {slot}");
                    }
                    prop_assert_eq!(*primaries.entry((slot, new.term)).or_insert(new.primary), new.primary);
                }
            }
            let next = draft.finish();
            prop_assert_eq!(next.version, p.version.next());
            next.check().map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(&Placement::decode(&next.encode()).unwrap(), &next);
            p = next;
        }
    }
}
