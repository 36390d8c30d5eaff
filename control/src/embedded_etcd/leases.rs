//! Leases: which keys end when. Pure; time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::error::Error;
use crate::clock::Time;

/// A shorter time to live is raised to this: etcd's own floor at its default election timeout.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Longest time to live taken, in seconds; etcd's own limit.
const MAX_TTL_SECONDS: i64 = 9_000_000_000;

/// A granted lease.
#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Time,
    keys: BTreeSet<Vec<u8>>,
}

/// What is known of a lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) ttl: Duration,
    pub(super) remaining: Duration,
    pub(super) keys: Vec<Vec<u8>>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<i64, Lease>,
}

impl Leases {
    /// A new lease of `seconds`; `id` 0 picks a free one at random. Returns its id and its time to live.
    pub(super) fn grant(&mut self, id: i64, seconds: i64, now: Time) -> Result<(i64, Duration), Error> {
        if seconds > MAX_TTL_SECONDS {
            return Err(Error::LeaseTtlTooLarge);
        }
        let mut id = id;
        while id == 0 || (id < 0 && self.by_id.contains_key(&id)) {
            id = rand::random_range(1..=i64::MAX);
        }
        if self.by_id.contains_key(&id) {
            return Err(Error::LeaseExists);
        }
        let ttl = Duration::from_secs(seconds.max(0).unsigned_abs()).max(MIN_TTL);
        self.by_id.insert(id, Lease { ttl, deadline: now + ttl, keys: BTreeSet::new() });
        Ok((id, ttl))
    }

    /// Starts the time to live anew; `None` if there is no such lease.
    pub(super) fn keep_alive(&mut self, id: i64, now: Time) -> Option<Duration> {
        // One whose time is over but which was not cleared away yet has ended all the same.
        let lease = self.by_id.get_mut(&id).filter(|lease| lease.deadline > now)?;
        lease.deadline = now + lease.ttl;
        Some(lease.ttl)
    }

    pub(super) fn status(&self, id: i64, now: Time) -> Option<Status> {
        let lease = self.by_id.get(&id).filter(|lease| lease.deadline > now)?;
        Some(Status {
            ttl: lease.ttl,
            remaining: lease.deadline.since(now),
            keys: lease.keys.iter().cloned().collect(),
        })
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.by_id.keys().copied()
    }

    pub(super) fn exists(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Ids of the leases whose time is over.
    pub(super) fn ended(&self, now: Time) -> Vec<i64> {
        self.by_id.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect()
    }

    /// When the next lease ends.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.by_id.values().map(|lease| lease.deadline).min()
    }

    /// Takes a lease away; returns the keys that were attached to it.
    pub(super) fn remove(&mut self, id: i64) -> Result<BTreeSet<Vec<u8>>, Error> {
        self.by_id.remove(&id).map(|lease| lease.keys).ok_or(Error::LeaseNotFound)
    }

    pub(super) fn attach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.insert(key.to_vec());
        }
    }

    pub(super) fn detach(&mut self, id: i64, key: &[u8]) {
        if let Some(lease) = self.by_id.get_mut(&id) {
            lease.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_moves_the_deadline_and_comes_too_late_after_it() {
        let at = |s| Time::default() + Duration::from_secs(s);
        let mut leases = Leases::default();
        let (id, ttl) = leases.grant(0, 10, at(0)).unwrap();
        assert_eq!((ttl, leases.next_deadline()), (Duration::from_secs(10), Some(at(10))));
        assert_eq!(leases.keep_alive(id, at(9)), Some(ttl));
        assert_eq!(leases.ended(at(18)), [0i64; 0]);
        assert_eq!(leases.ended(at(19)), [id]);
        assert_eq!(leases.keep_alive(id, at(19)), None);
        assert_eq!(leases.status(id, at(19)), None);
        assert_eq!(leases.grant(id, 1, at(19)), Err(Error::LeaseExists));
    }

    #[test]
    fn times_to_live_have_a_floor_and_a_limit() {
        let mut leases = Leases::default();
        assert_eq!(leases.grant(1, 0, Time::default()), Ok((1, MIN_TTL)));
        assert_eq!(leases.grant(2, -5, Time::default()), Ok((2, MIN_TTL)));
        assert_eq!(leases.grant(3, MAX_TTL_SECONDS + 1, Time::default()), Err(Error::LeaseTtlTooLarge));
    }
}
