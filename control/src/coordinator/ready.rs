//! Learners that may go in sync, as their primaries said. Pure.

use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::{Incarnation, SlotId, Version};

use crate::placement::Placement;
use crate::planner::ReadySeat;

/// The latest word about each seat.
#[derive(Debug, Default)]
pub(super) struct ReadySeats(BTreeMap<(SlotId, Incarnation), ReadySeat>);

impl ReadySeats {
    pub(super) fn add(&mut self, seat: ReadySeat) {
        let latest = self.0.entry((seat.slot, seat.seat.incarnation)).or_insert(seat);
        if seat.base >= latest.base {
            *latest = seat;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was said of placements before this one counts no more: its primary says it again if it still holds.
    pub(super) fn outdated_by(&mut self, placement: Option<&Placement>) {
        if let Some(placement) = placement {
            self.0.retain(|_, seat| seat.base >= placement.version);
        }
    }

    /// Those that may go into a write based on `base`.
    pub(super) fn based_on(&self, base: Version) -> BTreeSet<ReadySeat> {
        self.0.values().filter(|seat| seat.base == base).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use roomring_proto::{Seat, Term};

    use super::*;

    #[test]
    fn only_the_latest_word_about_a_seat_counts_and_only_for_its_base() {
        let seat = |slot, who, since, base| ReadySeat {
            slot: SlotId(slot),
            seat: Seat { incarnation: Incarnation(who), since: Version(since) },
            term: Term(1),
            base: Version(base),
        };
        let mut seats = ReadySeats::default();
        for s in [seat(1, 5, 2, 3), seat(1, 6, 2, 3), seat(2, 5, 2, 4), seat(1, 5, 4, 4), seat(1, 5, 2, 3)] {
            seats.add(s);
        }
        assert_eq!(seats.based_on(Version(3)), BTreeSet::from([seat(1, 6, 2, 3)]));
        assert_eq!(seats.based_on(Version(4)), BTreeSet::from([seat(2, 5, 2, 4), seat(1, 5, 4, 4)]));
        assert!(seats.based_on(Version(5)).is_empty());
    }
}
