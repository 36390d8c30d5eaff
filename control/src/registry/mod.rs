//! The registry: what a cluster keeps in etcd, followed, and this process's own entry in it.
//!
//! [`Registry::connect`] starts two tasks. One loads everything under the cluster's prefix, watches it from there, and
//! publishes a [`ClusterView`]. The other asks etcd regularly, by a linearizable read, whether the view is still right:
//! that is this process's *contact* with etcd, and how a watch that has gone quiet is found out. A third keeps the lease
//! of a [`Registration`]. What the view means for slots is no concern of this module.
//!
//! Of etcd's API it uses: Range (prefix, keys only, linearizable), Txn (compare create_revision and mod_revision; put,
//! range), Watch (prefix, start revision, compaction), LeaseGrant, LeaseKeepAlive, LeaseRevoke and LeaseTimeToLive.

mod access;
mod backoff;
mod check;
mod claim;
mod client;
mod denials;
mod follow;
mod intents;
mod keeper;
mod outage;
mod registration;
mod state;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roomring_proto::NodeId;
use roomring_proto::keys::Keys;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::clock::Time;
use crate::placement::Placement;
use crate::view::ClusterView;

pub use access::EtcdAccess;
pub use client::EtcdError;
pub use denials::Change;
pub use intents::{IntentsError, IntentsStore};
pub use registration::{NodeSpec, RegisterError, Registration, RegistrationState, RouterSpec, Superseded};
pub use write::{Proposal, Proposed};

/// Where etcd is, and which cluster in it.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, one per member; one is used until it fails.
    pub urls: Vec<String>,
    /// How they let us in.
    pub access: EtcdAccess,
    /// The cluster's name.
    pub cluster: NodeId,
    /// Time after which the registration of a process that died goes away; etcd counts in whole seconds.
    pub lease_ttl: Duration,
}

/// Why there is no registry.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A URL can't be used.
    #[error(transparent)]
    Url(#[from] EtcdError),
    /// Told to stop while waiting for etcd.
    #[error("stopped while waiting for etcd")]
    Stopped,
}

/// A cluster's keys in etcd, followed. Cheap to clone; the tasks end when the last clone is gone or the token is cancelled.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: Arc<DropGuard>,
}

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    etcd: client::Etcd,
    keys: Keys,
    lease_ttl: Duration,
    state: Mutex<state::State>,
    view: watch::Sender<ClusterView>,
    /// The check found the view wrong: load everything again.
    reload: Notify,
    /// The check found the own key gone, or on another lease.
    own_key_lost: Notify,
    /// The own key was written: only a check that finds it is contact.
    check_soon: Notify,
    outage: outage::Outage,
}

impl Registry {
    /// Connects and returns once everything was loaded, however long etcd takes to appear; meanwhile logs which URL is
    /// tried and why it fails. `stop` ends the registry's tasks: cancel it last, after [`Registration::revoke`].
    ///
    /// # Errors
    /// If a URL is malformed, or `stop` was cancelled before etcd appeared.
    pub async fn connect(config: EtcdConfig, stop: CancellationToken) -> Result<Self, ConnectError> {
        let etcd = client::Etcd::new(&config.urls, config.access)?;
        let keys = Keys::new(&config.cluster);
        let state = state::State::new(keys.clone(), lapse(config.lease_ttl));
        let shared = Arc::new(Shared {
            etcd,
            keys,
            lease_ttl: config.lease_ttl,
            state: Mutex::new(state),
            view: watch::Sender::default(),
            reload: Notify::new(),
            own_key_lost: Notify::new(),
            check_soon: Notify::new(),
            outage: outage::Outage::default(),
        });
        // Ours only: dropping the registry must not cancel what the caller's token is for.
        let stop = stop.child_token();
        let tasks = TaskTracker::new();
        stop.run_until_cancelled(follow::load(&shared)).await.ok_or(ConnectError::Stopped)?;
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow::run(shared.clone())));
        tasks.spawn(stop.clone().run_until_cancelled_owned(check::run(shared.clone())));
        let guard = Arc::new(stop.clone().drop_guard());
        Ok(Self { shared, tasks, stop, _stop_on_drop: guard })
    }

    /// What is known of the cluster, now and whenever it changes (contact with etcd alone changes it several times a second).
    pub fn view(&self) -> watch::Receiver<ClusterView> {
        self.shared.view.subscribe()
    }

    /// The URL of the etcd server in use.
    pub fn etcd_url(&self) -> &str {
        self.shared.etcd.url()
    }

    /// Takes over a newer version of the known placement that came from a peer or a router. Says whether it was newer.
    pub fn offer_placement(&self, placement: Placement) -> bool {
        self.shared.update(|state| state.offer(placement))
    }

    /// Ends the tasks and waits until they have ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Shared {
    /// Changes the state and publishes the view that comes of it.
    fn update<T>(&self, change: impl FnOnce(&mut state::State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        // Under the lock, so that views are published in the order in which they came about.
        self.view.send_replace(state.view().clone());
        result
    }

    /// Notices that the view was not confirmed for too long.
    fn tick(&self) {
        let mut state = self.lock();
        if state.tick(now()) {
            self.view.send_replace(state.view().clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, state::State> {
        // A panic elsewhere leaves a state that the next check compares with etcd anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_bad(values: Vec<state::BadValue>) {
    for bad in values {
        tracing::warn!(key = bad.key, reason = bad.reason, "skipping a value in etcd that can't be read");
    }
}

/// Without a check for this long the view counts as broken: less than a lease lives, so that no key can have come and gone
/// by expiry unseen.
fn lapse(lease_ttl: Duration) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(1500);
    (lease_ttl * 3 / 4).max(SHORTEST)
}

/// How often contact is renewed: ten times within the time that a primary may serve without.
fn check_interval(view: &ClusterView) -> Duration {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_millis(500);
    let fence_after = view.placement.as_ref().map_or(LONGEST, |p| p.settings.fence_after);
    (fence_after / 10).clamp(SHORTEST, LONGEST)
}

/// Now, on the clock of contact.
fn now() -> Time {
    Time::now()
}
