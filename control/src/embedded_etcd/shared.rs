//! What the services share: the store behind a lock, and the news of its revision.

use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::proto::PbResponseHeader;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::store::Store;

/// The store and its announcements.
#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    /// The revision after each write: wakes the watchers.
    revision: watch::Sender<i64>,
    /// A lease was granted, renewed or revoked: wakes the expiry task.
    pub(super) leases_changed: Notify,
    pub(super) cancel: CancellationToken,
    cluster_id: u64,
    member_id: u64,
}

impl Shared {
    pub(super) fn new(cancel: CancellationToken) -> Self {
        let store = Store::new();
        Self {
            revision: watch::Sender::new(store.revision()),
            store: Mutex::new(store),
            leases_changed: Notify::new(),
            cancel,
            cluster_id: rand::random_range(1..=u64::MAX),
            member_id: rand::random_range(1..=u64::MAX),
        }
    }

    /// For reading; held briefly and never across an await.
    pub(super) fn read(&self) -> MutexGuard<'_, Store> {
        // A panic in the middle of a write is a bug of ours; going on with what is there beats hanging every process.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For writing: whoever waits for revisions is told after.
    pub(super) fn write<R>(&self, change: impl FnOnce(&mut Store) -> R) -> R {
        let mut store = self.read();
        let result = change(&mut store);
        let now = store.revision();
        self.revision.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        result
    }

    pub(super) fn revisions(&self) -> watch::Receiver<i64> {
        self.revision.subscribe()
    }

    /// The header of an answer given at `revision`.
    pub(super) fn header(&self, revision: i64) -> PbResponseHeader {
        PbResponseHeader { cluster_id: self.cluster_id, member_id: self.member_id, revision, raft_term: 1 }
    }
}
