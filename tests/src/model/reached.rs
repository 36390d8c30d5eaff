//! What must happen somewhere, or the check looks at nothing: remarkable states, by name.

use super::SlotModel;
use super::world::World;

type Is = fn(&SlotModel, &World) -> bool;

/// A learner that holds a snapshot.
pub const SNAPSHOT: &str = "a snapshot is installed";
/// A new primary whose log has more than is known to be committed.
pub const TAIL: &str = "a promotion finds a tail";
/// A seat that was a learner counts.
pub const IN_SYNC: &str = "a learner goes in sync";
/// A recreated slot serves.
pub const RECREATED: &str = "a recreated slot serves";
/// A publish that was sent to one primary is acknowledged by a later one.
pub const RESENT: &str = "a publish is acknowledged by a new primary";
/// An old primary that does not know it yet, while the new one serves.
pub const DEPOSED: &str = "a deposed primary lives beside the new one";
/// A primary without contact.
pub const FENCED: &str = "a primary is fenced";
/// A publisher is told that nobody knows.
pub const UNKNOWN: &str = "an outcome is unknown";
/// A publisher is told to try again.
pub const REFUSED: &str = "a publish is refused";
/// A committed publish is not acknowledged, since too few seats have it.
pub const WITHHELD: &str = "an acknowledgement waits for another seat";
/// It is, once a seat that caught up has it.
pub const COPIED: &str = "an acknowledgement waited for another seat";

/// All of them.
pub const ALL: [(&str, Is); 11] = [
    (SNAPSHOT, |_, w| snapshot(w)),
    (TAIL, |_, w| tail(w)),
    (IN_SYNC, |_, w| w.register().record().in_sync.iter().any(|s| s.since.0 > 1) && generation(w) == 1),
    (RECREATED, |_, w| generation(w) > 1 && promoted(w) == Some(generation(w))),
    (RESENT, |_, w| resent(w)),
    (DEPOSED, |_, w| promoted(w).is_some() && w.processes().values().filter(|p| p.slot().led().is_some()).count() > 1),
    (FENCED, |_, w| w.processes().values().any(|p| p.slot().led().is_some() && !p.has_contact())),
    (UNKNOWN, |_, w| w.router().outcomes().values().any(|o| *o == super::Outcome::Unknown)),
    (REFUSED, |_, w| w.router().outcomes().values().any(|o| *o == super::Outcome::Refused)),
    (WITHHELD, |_, w| w.processes().values().any(|p| p.slot().led().is_some_and(|l| l.withholds()))),
    (COPIED, |_, w| copied(w)),
];

fn generation(world: &World) -> u64 {
    world.register().record().generation.0
}

/// The generation that the primary of the newest term serves.
fn promoted(world: &World) -> Option<u64> {
    let term = world.register().record().term;
    let slots = world.processes().values().map(super::Process::slot);
    slots
        .filter(|s| s.led().is_some_and(|l| l.term() == term && l.is_promoted()))
        .find_map(|s| Some(s.held()?.generation().0))
}

fn snapshot(world: &World) -> bool {
    let held = world.processes().values().filter_map(|p| p.slot().held());
    held.into_iter().any(|h| h.is_filled() && h.seat().since.0 > 1 && h.base().0 > 0)
}

fn tail(world: &World) -> bool {
    world.processes().values().any(|p| {
        let slot = p.slot();
        let unpromoted = slot.led().is_some_and(|l| !l.is_promoted() && l.term().0 > 1);
        unpromoted && slot.held().is_some_and(|h| h.last() > h.commit())
    })
}

fn copied(world: &World) -> bool {
    let since = world.ghost().publishes().map(|(_, lsn, _)| lsn).next();
    let acknowledged = world.router().outcomes().values().any(|o| matches!(o, super::Outcome::Acknowledged(..)));
    // It came in a snapshot, so it was committed before the seat was made.
    let snapshot = |h: roomring_node::slot::inspect::Held<'_>| h.is_filled() && h.seat().since.0 > 1;
    let held = world.in_sync().filter_map(|(_, p)| p.slot().held());
    acknowledged && held.into_iter().any(|h| snapshot(h) && since.is_some_and(|lsn| h.base() >= lsn))
}

fn resent(world: &World) -> bool {
    let router = world.router();
    let later = router.attached().is_some_and(|(term, _)| term.0 > 1);
    let acknowledged = |o: &super::Outcome| matches!(o, super::Outcome::Acknowledged(..));
    later && router.has_resent() && router.outcomes().values().any(acknowledged)
}
