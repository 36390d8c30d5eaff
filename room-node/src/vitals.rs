//! How this process is doing, as told in every heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roomring_control::clock::Time;
use roomring_control::view::ClusterView;
use roomring_proto::{PlacementRef, v1};
use tokio::sync::watch;

/// When a worker last came round. Written by the worker, read by whoever sends a heartbeat.
#[derive(Debug, Default)]
pub(crate) struct LastTick(AtomicU64);

impl LastTick {
    pub(crate) fn set(&self, now: Time) {
        self.0.store(millis(now.0), Ordering::Relaxed);
    }

    fn age_ms(&self, now: Time) -> u64 {
        millis(now.0).saturating_sub(self.0.load(Ordering::Relaxed))
    }
}

/// What heartbeats say.
#[derive(Debug, Clone)]
pub(crate) struct Vitals {
    /// The registry holds the sending end.
    view: watch::Receiver<ClusterView>,
    ticks: Arc<[Arc<LastTick>]>,
}

impl Vitals {
    pub(crate) fn new(view: watch::Receiver<ClusterView>, ticks: Vec<Arc<LastTick>>) -> Self {
        Self { view, ticks: ticks.into() }
    }

    pub(crate) fn placement(&self) -> Option<PlacementRef> {
        self.view.borrow().placement.as_ref().map(|p| p.reference())
    }

    /// Age of the slowest worker's last tick, ms.
    pub(crate) fn worker_age_ms(&self) -> u64 {
        let now = Time::now();
        self.ticks.iter().map(|t| t.age_ms(now)).max().unwrap_or(0)
    }

    /// Age of the contact with etcd, ms; the greatest number if there was none.
    pub(crate) fn contact_age_ms(&self) -> u64 {
        self.view.borrow().contact.map_or(u64::MAX, |c| millis(Time::now().since(c)))
    }

    pub(crate) fn link_heartbeat(&self) -> v1::NodeMessage {
        let beat = v1::NodeHeartbeat {
            placement: self.placement().map(Into::into),
            worker_age_ms: self.worker_age_ms(),
            contact_age_ms: self.contact_age_ms(),
        };
        v1::NodeMessage { kind: Some(v1::node_message::Kind::Heartbeat(beat)) }
    }

    pub(crate) fn peer_heartbeat(&self) -> v1::PeerMessage {
        let beat = v1::PeerHeartbeat {
            placement: self.placement().map(Into::into),
            worker_age_ms: self.worker_age_ms(),
            contact_age_ms: self.contact_age_ms(),
        };
        v1::PeerMessage { kind: Some(v1::peer_message::Kind::Heartbeat(beat)) }
    }
}

fn millis(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_slowest_worker_and_the_contact_count() {
        let now = Time::now();
        let ticks: Vec<_> = (0..2).map(|_| Arc::new(LastTick::default())).collect();
        ticks[0].set(now);
        ticks[1].set(Time(now.0.saturating_sub(Duration::from_secs(3))));
        let (view, receiver) = watch::channel(ClusterView::default());
        let vitals = Vitals::new(receiver, ticks);
        assert!((3_000..4_000).contains(&vitals.worker_age_ms()), "{}", vitals.worker_age_ms());
        assert_eq!(vitals.contact_age_ms(), u64::MAX);
        view.send_modify(|v| v.contact = Some(now));
        assert!(vitals.contact_age_ms() < 1_000);
    }
}
