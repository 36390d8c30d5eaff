//! The rules as switches: those inside a slot of a node or of the router are turned off there, the others here, where the placement is written, time
//! passes, processes start, and the router speaks.

use roomring_control::placement::{Placement, SlotRecord};
use roomring_node::slot::Rule;
use roomring_proto::Version;
use roomring_router::hub::core::Rule as RouterRule;

use super::SlotModel;
use super::action::Action;

/// A rule that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// One of the slot's own.
    Slot(Rule),
    /// One of the router's.
    Router(RouterRule),
    /// A primary acknowledges however old its contact is.
    ContactIgnored,
    /// The slot is recreated while processes of the in-sync set may still have contact.
    RecreateOnSuspicion,
    /// The slot is recreated although the in-sync set changed lately: one that left it may still have contact.
    RecreateUnsettled,
    /// A recreated slot keeps its generation.
    GenerationKept,
    /// A recreated slot keeps its term.
    RecreateKeepsTerm,
    /// A switch keeps the term.
    TermKept,
    /// An eviction of the primary keeps the term.
    EvictKeepsTerm,
    /// A process that starts again keeps its incarnation.
    IncarnationKept,
    /// A process that is given a seat again gets its old one.
    SeatReused,
    /// The last copy is evicted, and a learner takes its place.
    LastCopyEvicted,
    /// A learner goes in sync that no primary proposed.
    IntoSyncUnasked,
    /// A proposal lands on a later placement than its base.
    BaseIgnored,
    /// A publish that is sent again has another number.
    NumbersNotKept,
    /// A publish that is sent again does not say for which generation it is.
    GenerationNotSent,
    /// The router does not say what it has seen when it attaches.
    PositionNotSent,
}

impl Mutant {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        const AROUND: [Mutant; 15] = [
            Mutant::ContactIgnored,
            Mutant::RecreateOnSuspicion,
            Mutant::RecreateUnsettled,
            Mutant::GenerationKept,
            Mutant::RecreateKeepsTerm,
            Mutant::TermKept,
            Mutant::EvictKeepsTerm,
            Mutant::IncarnationKept,
            Mutant::SeatReused,
            Mutant::LastCopyEvicted,
            Mutant::IntoSyncUnasked,
            Mutant::BaseIgnored,
            Mutant::NumbersNotKept,
            Mutant::GenerationNotSent,
            Mutant::PositionNotSent,
        ];
        let slot = Rule::ALL.into_iter().map(Self::Slot);
        slot.chain(RouterRule::ALL.into_iter().map(Self::Router)).chain(AROUND)
    }
}

/// Makes a write break the placement's rule that is off.
pub(super) fn spoil(model: &SlotModel, action: Action, before: &SlotRecord, next: &mut Placement) {
    let version = next.version;
    let record = &mut next.slots[0];
    match (model.mutant, action) {
        (Some(Mutant::TermKept), Action::Switch(_))
        | (Some(Mutant::EvictKeepsTerm), Action::Evict(_))
        | (Some(Mutant::RecreateKeepsTerm), Action::Recreate(_)) => record.term = before.term,
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
