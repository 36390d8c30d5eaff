//! How long things have been as they are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, Seat, SlotId, Term, Uid, Version};

use super::wish::{Asked, Wish};
use crate::clock::Time;
use crate::placement::Placement;
use crate::view::ClusterView;

/// A node evicted by evidence stays out for so long the first time, and twice as long each time it happens again.
const REJOIN_LEAST: Duration = Duration::from_secs(1);

/// Longest time that it stays out.
const REJOIN_MOST: Duration = Duration::from_secs(60);

/// Members that did not get through to each other stay apart for so long the first time, and twice as long each time it happens
/// again: copying the slots back and forth costs more than they are worth as copies meanwhile.
const MEND_LEAST: Duration = Duration::from_secs(5);

/// Longest time that they stay apart once they hear each other: then the copies of one pair cost little.
const MEND_MOST: Duration = Duration::from_secs(30);

/// Evictions longer ago than this are forgiven.
const FORGIVEN: Duration = Duration::from_secs(600);

/// A slot that got another primary goes to the ring's first choice no sooner than this after it, and twice as long each time it
/// happens again: proposers that disagree on who may serve would switch it back and forth as fast as etcd writes.
const SETTLE_LEAST: Duration = Duration::from_millis(250);

/// Longest such wait: who is cut off from etcd, and who is not, is known ten times sooner.
const SETTLE_MOST: Duration = Duration::from_secs(30);

/// A slot that kept its primary for so long begins anew with the shortest wait.
const SETTLED: Duration = Duration::from_secs(60);

/// Since when, in one process's own unbroken view of etcd, each slot stood unchanged and each registration was absent; and
/// who was evicted lately. When the view breaks it forgets how long things were as they are: what happened meanwhile is not known.
#[derive(Debug, Clone, Default)]
pub struct History {
    whole_since: Option<Time>,
    uid: Option<Uid>,
    slots: Vec<Standing>,
    absent: BTreeMap<Incarnation, Time>,
    /// When some slot was last seen to have another primary.
    switched: Option<Time>,
    /// The placement last seen, and when it was first seen.
    written: Option<(Version, Time)>,
    /// What the ring wants of this placement's members: it is asked in every plan, and seldom wants anything else.
    wish: Option<(Asked, Arc<Wish>)>,
    /// Evictions by evidence that the placement records, with the time.
    evicted: BTreeMap<(Version, Incarnation), (NodeId, Time)>,
    /// Pairs that are or were apart.
    apart: BTreeMap<(Incarnation, Incarnation), Parting>,
    /// How often each slot got another primary lately.
    turns: Vec<Turns>,
}

/// Changes of a slot's primary.
#[derive(Debug, Clone, Copy)]
struct Turns {
    term: Term,
    /// The last one; `None` if none was seen.
    last: Option<Time>,
    /// How many, lately.
    times: u32,
}

/// How a pair came apart.
#[derive(Debug, Clone, Copy)]
struct Parting {
    /// The last time.
    since: Time,
    /// How often, lately.
    times: u32,
    /// They still are.
    lasts: bool,
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
            let before = std::mem::take(self);
            *self = Self { whole_since: view.unbroken_since, uid, ..Self::default() };
            if before.uid == uid {
                (self.evicted, self.apart, self.turns) = (before.evicted, before.apart, before.turns);
            }
        }
        if let Some(placement) = &view.placement {
            self.observe_evictions(placement, now);
            self.observe_apart(placement, now);
            self.observe_turns(placement, now);
        }
        let (Some(placement), Some(_)) = (&view.placement, self.whole_since) else { return };
        if self.written.is_none_or(|(version, _)| version != placement.version) {
            self.written = Some((placement.version, now));
        }
        self.keep_wish(view, placement);

        self.slots.truncate(placement.slots.len());
        for (number, record) in placement.slots.iter().enumerate() {
            let fresh = || Standing { term: record.term, in_sync: record.in_sync.clone(), since: now };
            match self.slots.get_mut(number) {
                Some(standing) if standing.term == record.term && standing.in_sync == record.in_sync => {}
                Some(standing) => {
                    if standing.term != record.term {
                        self.switched = Some(now);
                    }
                    *standing = fresh();
                }
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

    fn keep_wish(&mut self, view: &ClusterView, placement: &Placement) {
        let asked = Asked::new(&super::Processes::new(view), placement, &view.intents);
        if self.wish.as_ref().is_none_or(|(before, _)| *before != asked) {
            let wish = Arc::new(asked.answer());
            self.wish = Some((asked, wish));
        }
    }

    /// What the ring answers to `asked`, if it was asked that last.
    pub(super) fn wish(&self, asked: &Asked) -> Option<Arc<Wish>> {
        self.wish.as_ref().filter(|(last, _)| last == asked).map(|(_, wish)| wish.clone())
    }

    /// When the placement was last seen to be another one.
    pub fn written_at(&self) -> Option<Time> {
        self.written.map(|(_, at)| at)
    }

    /// Times are this process's own. How old a record is that was there before it looked, is taken from the writers' clocks
    /// against the latest write: it was made no later than now.
    fn observe_evictions(&mut self, placement: &Placement, now: Time) {
        let latest_ms = placement.recent.iter().next_back().map_or(0, |r| r.time_ms);
        let before = std::mem::take(&mut self.evicted);
        for (recent, eviction) in placement.recent.evictions().filter(|(_, e)| e.cause.is_by_evidence()) {
            let key = (recent.version, eviction.incarnation);
            let noted = before.get(&key).cloned().unwrap_or_else(|| {
                let age = Duration::from_millis(latest_ms.saturating_sub(recent.time_ms));
                (eviction.node.clone(), Time(now.0.saturating_sub(age)))
            });
            self.evicted.insert(key, noted);
        }
    }

    fn observe_turns(&mut self, placement: &Placement, now: Time) {
        self.turns.truncate(placement.slots.len());
        for (number, record) in placement.slots.iter().enumerate() {
            let Some(turns) = self.turns.get_mut(number) else {
                self.turns.push(Turns { term: record.term, last: None, times: 0 });
                continue;
            };
            if turns.term != record.term {
                let lately = turns.last.is_some_and(|last| now.since(last) < SETTLED);
                let times = if lately { turns.times + 1 } else { 1 };
                *turns = Turns { term: record.term, last: Some(now), times };
            }
        }
    }

    fn observe_apart(&mut self, placement: &Placement, now: Time) {
        self.apart.retain(|pair, p| placement.apart.contains(pair) || now.since(p.since) < FORGIVEN);
        for (pair, parting) in &mut self.apart {
            parting.lasts &= placement.apart.contains(pair);
        }
        for pair in &placement.apart {
            let parting = self.apart.entry(*pair).or_insert(Parting { since: now, times: 0, lasts: false });
            if !parting.lasts {
                *parting = Parting { since: now, times: parting.times + 1, lasts: true };
            }
        }
    }

    /// When a pair that is apart may be taken for mended; `None` if it is not apart.
    pub fn mends_at(&self, by: Incarnation, other: Incarnation) -> Option<Time> {
        let parting = self.apart.get(&(by, other)).filter(|p| p.lasts)?;
        let wait = MEND_LEAST.saturating_mul(2u32.saturating_pow(parting.times - 1));
        Some(parting.since + wait.min(MEND_MOST))
    }

    /// When a node that was evicted by evidence may become a member again; `None` if it was not, lately.
    pub fn rejoins_at(&self, node: &NodeId, now: Time) -> Option<Time> {
        let lately = |at: &Time| now.since(*at) < FORGIVEN;
        let times = self.evicted.values().filter(|(name, at)| name == node && lately(at)).map(|(_, at)| *at);
        let (count, last) = times.fold((0u32, None), |(n, last), at| (n + 1, last.max(Some(at))));
        let wait = REJOIN_LEAST.saturating_mul(2u32.saturating_pow(count.saturating_sub(1)));
        last.map(|at| at + wait.min(REJOIN_MOST))
    }

    /// When a process was evicted by evidence last, as far as the placement still records.
    pub fn last_eviction(&self) -> Option<Time> {
        self.evicted.values().map(|(_, at)| *at).max()
    }

    /// Whether this very process was evicted by evidence, as far as the placement still records.
    pub fn was_evicted(&self, incarnation: Incarnation) -> bool {
        self.evicted.keys().any(|(_, i)| *i == incarnation)
    }

    /// Since when the view has been unbroken; `None` if it is broken.
    pub fn whole_since(&self) -> Option<Time> {
        self.whole_since
    }

    /// Since when the slot's term and in-sync set have been as they are.
    pub fn unchanged_since(&self, slot: SlotId) -> Option<Time> {
        self.slots.get(slot.0 as usize).map(|s| s.since)
    }

    /// When some slot was last seen to have got another primary.
    pub fn switched_at(&self) -> Option<Time> {
        self.switched
    }

    /// When a slot may go to the ring's first choice, as far as its last changes of primary go; `None` if there were none.
    pub fn settles_at(&self, slot: SlotId) -> Option<Time> {
        let turns = self.turns.get(slot.0 as usize)?;
        let wait = SETTLE_LEAST.saturating_mul(2u32.saturating_pow(turns.times.saturating_sub(1)));
        turns.last.map(|last| last + wait.min(SETTLE_MOST))
    }

    /// Since when no key of a process listed in the placement has been seen; `None` if there is one.
    pub fn absent_since(&self, incarnation: Incarnation) -> Option<Time> {
        self.absent.get(&incarnation).copied()
    }
}
