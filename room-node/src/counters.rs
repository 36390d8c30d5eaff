//! What the node has done since it started.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the process started. Shared by the workers, read by [`crate::admin`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    publishes: AtomicU64,
    deliveries: AtomicU64,
}

impl Counters {
    /// Publishes that were acknowledged to a router.
    pub(crate) fn publishes(&self) -> u64 {
        self.publishes.load(Ordering::Relaxed)
    }

    /// Events sent to routers, once for each router.
    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    pub(crate) fn add_publishes(&self, n: u64) {
        self.publishes.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn add_deliveries(&self, n: u64) {
        self.deliveries.fetch_add(n, Ordering::Relaxed);
    }
}
