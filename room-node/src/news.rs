//! Placements that travel on links: whoever is ahead sends its own, so news spreads without etcd too.

use std::time::Duration;

use roomring_proto::PlacementRef;
use tokio::time::Instant;

/// A placement that was sent and seems not to have been adopted is sent again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What one connection's other side knows, as far as it said.
#[derive(Debug, Default)]
pub(crate) struct News {
    sent: Option<(PlacementRef, Instant)>,
}

impl News {
    /// The other side said that it has adopted `theirs`. Whether to send it `ours` now.
    pub(crate) fn is_due(&mut self, ours: Option<PlacementRef>, theirs: Option<PlacementRef>, now: Instant) -> bool {
        let Some(ours) = ours else { return false };
        // Of another history neither is ahead: that is for etcd to settle.
        if theirs.is_some_and(|t| t.uid != ours.uid || t.version >= ours.version) {
            return false;
        }
        if self.sent.is_some_and(|(sent, at)| sent == ours && now.duration_since(at) < AGAIN) {
            return false;
        }
        self.sent = Some((ours, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use roomring_proto::{Uid, Version};

    use super::*;

    fn placement(uid: u64, version: u64) -> Option<PlacementRef> {
        Some(PlacementRef { uid: Uid(uid), version: Version(version) })
    }

    #[test]
    fn only_those_behind_are_told_and_not_too_often() {
        let now = Instant::now();
        let mut news = News::default();
        assert!(!news.is_due(None, placement(1, 5), now));
        assert!(!news.is_due(placement(1, 5), placement(1, 5), now));
        assert!(!news.is_due(placement(1, 5), placement(1, 6), now));
        assert!(!news.is_due(placement(1, 5), placement(2, 1), now));
        assert!(news.is_due(placement(1, 5), placement(1, 4), now));
        assert!(!news.is_due(placement(1, 5), placement(1, 4), now + Duration::from_millis(250)));
        assert!(news.is_due(placement(1, 6), placement(1, 4), now + Duration::from_millis(500)));
        assert!(news.is_due(placement(1, 6), placement(1, 5), now + Duration::from_millis(1500)));
        assert!(news.is_due(placement(1, 6), None, now + Duration::from_millis(2500)));
    }
}
