//! Publishes wait while too few seats are in sync.

use roomring_node::entry::Body;
use roomring_node::slot::{Output, Slot};
use roomring_proto::{Lsn, v1};
use v1::node_message::Kind;

/// A primary whose placement has fewer than `min_in_sync` in-sync seats took no publish after `last`, and acknowledges none.
pub fn judge(slot: &Slot, last: Lsn, said: &[Output], min_in_sync: u32) -> bool {
    let (Some(_), Some(held), Some((_, record))) = (slot.led(), slot.held(), slot.view()) else { return true };
    let is_publish = |lsn| held.entry(Lsn(lsn)).is_some_and(|e| matches!(e.body, Body::Publish { .. }));
    let acknowledges = |output: &Output| match output {
        Output::Router { message, .. } => matches!(&message.kind, Some(Kind::Published(p)) if p.refused.is_none()),
        Output::Peer { .. } | Output::Ready { .. } | Output::Unanswered { .. } => false,
    };
    record.in_sync.len() >= min_in_sync as usize
        || !((last.0 + 1..=held.last().0).any(is_publish) || said.iter().any(acknowledges))
}
