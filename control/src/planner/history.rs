//! How long things have been as they are.

use std::collections::BTreeMap;

use roomring_proto::{Incarnation, Seat, SlotId, Term, Uid};

use crate::clock::Time;
use crate::view::ClusterView;

/// Since when, in one process's own unbroken view of etcd, each slot stood unchanged and each registration was absent.
/// Forgets everything when the view breaks: what happened meanwhile is not known.
#[derive(Debug, Clone, Default)]
pub struct History {
    whole_since: Option<Time>,
    uid: Option<Uid>,
    slots: Vec<Standing>,
    absent: BTreeMap<Incarnation, Time>,
}

#[derive(Debug, Clone)]
struct Standing {
    term: Term,
    in_sync: Vec<Seat>,
    since: Time,
}

impl History {
    /// Takes note of `view`, seen at `now`. To be called with every view, in order.
    pub fn observe(&mut self, view: &ClusterView, now: Time) {
        let uid = view.placement.as_ref().map(|p| p.uid);
        if self.whole_since != view.unbroken_since || self.uid != uid {
            *self = Self { whole_since: view.unbroken_since, uid, ..Self::default() };
        }
        let (Some(placement), Some(_)) = (&view.placement, self.whole_since) else { return };

        self.slots.truncate(placement.slots.len());
        for (number, record) in placement.slots.iter().enumerate() {
            let fresh = || Standing { term: record.term, in_sync: record.in_sync.clone(), since: now };
            match self.slots.get_mut(number) {
                Some(standing) if standing.term == record.term && standing.in_sync == record.in_sync => {}
                Some(standing) => *standing = fresh(),
                None => self.slots.push(fresh()),
            }
        }

        self.absent.retain(|i, _| placement.members.contains_key(i));
        for incarnation in placement.members.keys() {
            if view.nodes.values().any(|n| n.incarnation == *incarnation) {
                self.absent.remove(incarnation);
            } else {
                self.absent.entry(*incarnation).or_insert(now);
            }
        }
    }

    /// Since when the view has been unbroken; `None` if it is broken.
    pub fn whole_since(&self) -> Option<Time> {
        self.whole_since
    }

    /// Since when the slot's term and in-sync set have been as they are.
    pub fn unchanged_since(&self, slot: SlotId) -> Option<Time> {
        self.slots.get(slot.0 as usize).map(|s| s.since)
    }

    /// Since when no key of a process listed in the placement has been seen; `None` if there is one.
    pub fn absent_since(&self, incarnation: Incarnation) -> Option<Time> {
        self.absent.get(&incarnation).copied()
    }
}
