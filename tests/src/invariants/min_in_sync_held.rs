//! Publishes wait while too few seats are in sync.

use roomring_node::entry::Body;
use roomring_node::slot::Slot;
use roomring_proto::Lsn;

/// A primary took no publish after `last` if its placement has fewer than `min_in_sync` in-sync seats.
pub fn judge(slot: &Slot, last: Lsn, min_in_sync: u32) -> bool {
    let (Some(_), Some(held), Some((_, record))) = (slot.led(), slot.held(), slot.view()) else { return true };
    let is_publish = |lsn| held.entry(Lsn(lsn)).is_some_and(|e| matches!(e.body, Body::Publish { .. }));
    record.in_sync.len() >= min_in_sync as usize || !(last.0 + 1..=held.last().0).any(is_publish)
}
