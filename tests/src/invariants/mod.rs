//! What must hold of a slot in every state of the [`crate::model`], a file each. Those that are about something said or
//! written are judged as it happens, the others hold of states.

pub mod acked_implies_committed;
pub mod acked_survives;
pub mod committed_never_truncated;
pub mod delivered_implies_committed;
pub mod epoch_seq_unique;
pub mod eventually_serves;
pub mod ids_equal_log;
pub mod in_sync_holds_committed;
pub mod in_sync_non_empty;
pub mod leads_highest_seen;
pub mod min_in_sync_held;
pub mod no_ack_after_recreate;
pub mod one_primary_per_term;
pub mod progress_matches_seat;
pub mod publish_at_most_once;
pub mod publisher_order;
pub mod router_never_goes_back;
pub mod same_term_same_log;
pub mod seat_never_reused;
pub mod silent_until_promoted;
pub mod wait_set_covers_in_sync;

use roomring_control::placement::Placement;
use stateright::Property;

use crate::model::{Said, SlotModel, World};

const ONE_PRIMARY_PER_TERM: &str = "OnePrimaryPerTerm";
const SEAT_NEVER_REUSED: &str = "SeatNeverReused";

/// Judged at every message, and when a primary proposes.
pub const SILENT_UNTIL_PROMOTED: &str = "SilentUntilPromoted";

/// Judged at every input too.
pub const COMMITTED_NEVER_TRUNCATED: &str = "CommittedNeverTruncated";

/// Judged at every input.
pub const MIN_IN_SYNC_HELD: &str = "MinInSyncHeld";

const ROUTER_NEVER_GOES_BACK: &str = "RouterNeverGoesBack";
const ACKED_IMPLIES_COMMITTED: &str = "AckedImpliesCommitted";
const DELIVERED_IMPLIES_COMMITTED: &str = "DeliveredImpliesCommitted";
const NO_ACK_AFTER_RECREATE: &str = "NoAckAfterRecreate";

type Holds = fn(&SlotModel, &World) -> bool;
type Judge = fn(&World, &Said<'_>) -> bool;

/// What holds of states.
const OF_STATES: [(&str, Holds); 17] = [
    (ONE_PRIMARY_PER_TERM, |_, w| one_primary_per_term::holds(w) && w.broken() != Some(ONE_PRIMARY_PER_TERM)),
    (SILENT_UNTIL_PROMOTED, |m, w| silent_until_promoted::holds(m, w) && w.broken() != Some(SILENT_UNTIL_PROMOTED)),
    ("SameTermSameLog", |_, w| same_term_same_log::holds(w)),
    ("InSyncHoldsCommitted", |_, w| in_sync_holds_committed::holds(w)),
    ("WaitSetCoversInSync", |_, w| wait_set_covers_in_sync::holds(w)),
    ("ProgressMatchesSeat", |_, w| progress_matches_seat::holds(w)),
    ("IdsEqualLog", |_, w| ids_equal_log::holds(w)),
    (COMMITTED_NEVER_TRUNCATED, |_, w| {
        committed_never_truncated::holds(w) && w.broken() != Some(COMMITTED_NEVER_TRUNCATED)
    }),
    (DELIVERED_IMPLIES_COMMITTED, |_, w| {
        delivered_implies_committed::holds(w) && w.broken() != Some(DELIVERED_IMPLIES_COMMITTED)
    }),
    ("EpochSeqUnique", |_, w| epoch_seq_unique::holds(w)),
    ("PublishAtMostOnce", |_, w| publish_at_most_once::holds(w)),
    ("InSyncNonEmpty", |_, w| in_sync_non_empty::holds(w)),
    ("PublisherOrder", |_, w| publisher_order::holds(w)),
    ("LeadsHighestSeen", |_, w| leads_highest_seen::holds(w)),
    (ROUTER_NEVER_GOES_BACK, |_, w| router_never_goes_back::holds(w) && w.broken() != Some(ROUTER_NEVER_GOES_BACK)),
    ("AckedSurvives", |_, w| acked_survives::holds(w)),
    ("EventuallyServes", eventually_serves::holds),
];

/// What holds of everything said to a router.
const OF_WORDS: [(&str, Judge); 5] = [
    (ACKED_IMPLIES_COMMITTED, acked_implies_committed::judge),
    (DELIVERED_IMPLIES_COMMITTED, delivered_implies_committed::judge),
    (NO_ACK_AFTER_RECREATE, no_ack_after_recreate::judge),
    (ROUTER_NEVER_GOES_BACK, router_never_goes_back::judge),
    (SILENT_UNTIL_PROMOTED, silent_until_promoted::judge),
];

/// The rule that something said breaks.
pub fn judge(world: &World, said: &Said<'_>) -> Option<&'static str> {
    OF_WORDS.iter().find(|(_, judge)| !judge(world, said)).map(|(name, _)| *name)
}

/// The rule that a state breaks.
pub fn broken(model: &SlotModel, world: &World) -> Option<&'static str> {
    world.broken().or_else(|| OF_STATES.iter().find(|(_, holds)| !holds(model, world)).map(|(name, _)| *name))
}

/// The rule that a write breaks.
pub fn judge_write(before: &Placement, after: &Placement) -> Option<&'static str> {
    if !seat_never_reused::judge(before, after) {
        return Some(SEAT_NEVER_REUSED);
    }
    (!one_primary_per_term::judge(before, after)).then_some(ONE_PRIMARY_PER_TERM)
}

/// For the model checker.
pub fn properties() -> Vec<Property<SlotModel>> {
    let words = [
        Property::<SlotModel>::always(ACKED_IMPLIES_COMMITTED, |_, w| w.broken() != Some(ACKED_IMPLIES_COMMITTED)),
        Property::<SlotModel>::always(NO_ACK_AFTER_RECREATE, |_, w| w.broken() != Some(NO_ACK_AFTER_RECREATE)),
        Property::<SlotModel>::always(MIN_IN_SYNC_HELD, |_, w| w.broken() != Some(MIN_IN_SYNC_HELD)),
        Property::<SlotModel>::always(SEAT_NEVER_REUSED, |_, w| w.broken() != Some(SEAT_NEVER_REUSED)),
    ];
    let states = OF_STATES.iter().map(|(name, holds)| Property::<SlotModel>::always(name, *holds));
    words.into_iter().chain(states).collect()
}
