//! What is in etcd, which others can write to, and what comes in its place from peers.

use roomring_control::denials::Denial;
use roomring_control::placement::Placement;
use roomring_control::view::{Intents, NodeEntry, RouterEntry};

/// Values in etcd.
pub fn stored(data: &[u8]) {
    let _ = Placement::reference_in(data);
    if let Ok(placement) = Placement::decode(data) {
        // Whatever was read can be written, and is the same when it is read again.
        assert_eq!(Placement::decode(&placement.encode()).expect("our own"), placement);
    }
    if let Ok(intents) = Intents::decode(data) {
        assert_eq!(Intents::decode(&intents.encode()).expect("our own"), intents);
    }
    let _ = NodeEntry::decode(data, 1);
    let _ = RouterEntry::decode(data, 1);
    let _ = Denial::decode(data);
}
