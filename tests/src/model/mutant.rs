//! The rules as switches. Each is turned off at the edge of a slot, by what it is told or by what becomes of its words.

use roomring_control::placement::{Placement, SlotRecord};
use roomring_proto::Version;

use super::SlotModel;
use super::action::Action;

/// A rule that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A primary acknowledges however old its contact is.
    ContactIgnored,
    /// The slot is recreated while processes of the in-sync set may still have contact.
    RecreateOnSuspicion,
    /// The slot is recreated although the in-sync set changed lately: one that left it may still have contact.
    RecreateUnsettled,
    /// A recreated slot keeps its generation.
    GenerationKept,
    /// A switch keeps the term.
    TermKept,
    /// A process that starts again keeps its incarnation.
    IncarnationKept,
    /// A process that is given a seat again gets its old one.
    SeatReused,
    /// The last copy is evicted, and a learner takes its place.
    LastCopyEvicted,
    /// A learner goes in sync whatever it holds.
    IntoSyncUnready,
    /// A proposal lands on a later placement than its base.
    BaseIgnored,
    /// A proposed seat's acknowledgement is not waited for.
    ProposedNotWaited,
    /// An in-sync seat is left out by the primary on its own.
    InSyncLeftOut,
    /// A new primary takes its tail for committed.
    PromotionAlone,
    /// A replica obeys a lower term.
    LowerTermTaken,
    /// An acknowledgement of an older term counts.
    OtherTermCounts,
    /// A replica answers for a seat that it does not hold, and the answer counts.
    OtherSeatCounts,
    /// A snapshot does not carry the numbers of publishes.
    SnapshotWithoutNumbers,
    /// A publish that is sent again has another number.
    NumbersNotKept,
    /// A publish that is sent again does not say for which generation it is.
    GenerationNotSent,
    /// The router does not say what it has seen when it attaches.
    PositionNotSent,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::ContactIgnored,
        Self::RecreateOnSuspicion,
        Self::RecreateUnsettled,
        Self::GenerationKept,
        Self::TermKept,
        Self::IncarnationKept,
        Self::SeatReused,
        Self::LastCopyEvicted,
        Self::IntoSyncUnready,
        Self::BaseIgnored,
        Self::ProposedNotWaited,
        Self::InSyncLeftOut,
        Self::PromotionAlone,
        Self::LowerTermTaken,
        Self::OtherTermCounts,
        Self::OtherSeatCounts,
        Self::SnapshotWithoutNumbers,
        Self::NumbersNotKept,
        Self::GenerationNotSent,
        Self::PositionNotSent,
    ];
}

/// Makes a write break the placement's rule that is off.
pub(super) fn spoil(model: &SlotModel, action: Action, before: &SlotRecord, next: &mut Placement) {
    let version = next.version;
    let record = &mut next.slots[0];
    match (model.mutant, action) {
        (Some(Mutant::TermKept), Action::Switch(_)) => record.term = before.term,
        (Some(Mutant::GenerationKept), Action::Recreate(_)) => record.generation = before.generation,
        (Some(Mutant::SeatReused), Action::Admit(_)) => {
            for seat in record.learners.iter_mut().filter(|s| s.since == version) {
                seat.since = Version(1);
            }
        }
        (Some(Mutant::LastCopyEvicted), Action::Evict(incarnation)) => {
            let last = record.in_sync.first().is_some_and(|s| s.incarnation == incarnation);
            if let (true, Some(learner)) = (last, record.learners.pop()) {
                (record.primary, record.in_sync) = (learner, vec![learner]);
                record.term = record.term.next();
            }
        }
        _ => {}
    }
}
