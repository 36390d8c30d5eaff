//! Members that are alive and yet do not get through to each other.

use std::collections::BTreeSet;

use roomring_proto::Incarnation;

use super::Plan;
use crate::placement::{Change, Placement};

impl Plan<'_> {
    /// Whoever does not acknowledge what this process sends gets no seat in its slots until it is heard again. No more than
    /// half of the members are kept apart from any one: when everybody is slow somebody must go on holding the copies.
    pub(super) fn part_and_mend(&mut self) {
        let s = self.situation;
        for other in s.unanswered.iter().copied().filter(|i| *i != s.me) {
            let placement = self.draft.placement();
            if placement.apart.contains(&(s.me, other)) {
                continue;
            }
            let most = placement.members.values().filter(|m| m.active).count() / 2;
            let known = placement.apart.contains(&(other, s.me));
            if known || [s.me, other].into_iter().all(|i| partners(placement, i) < most) {
                self.push(Change::Part { by: s.me, other });
            }
        }
        let mended = |other: &Incarnation| {
            let in_time = s.history.mends_at(s.me, *other).is_some_and(|at| at <= s.now);
            in_time && s.evidence.answering.contains(other) && !s.unanswered.contains(other)
        };
        let found = self.draft.placement().apart.iter().filter(|(by, _)| *by == s.me).map(|(_, other)| *other);
        for other in found.filter(mended).collect::<Vec<_>>() {
            self.push(Change::Mend { by: s.me, other });
        }
    }
}

/// From how many members this one is apart.
fn partners(placement: &Placement, of: Incarnation) -> usize {
    let pairs = placement.apart.iter().filter(|(a, b)| *a == of || *b == of);
    pairs.map(|(a, b)| if *a == of { *b } else { *a }).collect::<BTreeSet<_>>().len()
}
