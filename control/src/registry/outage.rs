//! Says when etcd goes away and when it is back, at a bounded rate, for all of a registry's tasks together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Time;

use super::client::EtcdError;

/// Least time between two lines about the same outage.
const QUIET: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct Outage(Mutex<Option<Ongoing>>);

#[derive(Debug)]
struct Ongoing {
    since: Time,
    logged: Time,
}

impl Outage {
    /// A request failed; it will be repeated after `again`.
    pub(super) fn failed(&self, error: &EtcdError, again: Duration) {
        let now = Time::now();
        let mut ongoing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = ongoing.as_ref().is_none_or(|o| now.since(o.logged) >= QUIET);
        if due {
            let again = humantime::format_duration(Duration::from_millis(again.as_millis() as u64));
            tracing::warn!("etcd at {}: not reachable ({}), trying again in {again}", error.url, error.reason);
        }
        match ongoing.as_mut() {
            Some(o) if due => o.logged = now,
            Some(_) => {}
            None => *ongoing = Some(Ongoing { since: now, logged: now }),
        }
    }

    /// A linearizable read succeeded.
    pub(super) fn over(&self, url: &str) {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ongoing) = ended {
            let lasted = Duration::from_millis(Time::now().since(ongoing.since).as_millis() as u64);
            tracing::info!("etcd at {url}: reachable again after {}", humantime::format_duration(lasted));
        }
    }
}
