//! Ring, placement and what is known of the processes -> the next changes of the placement.
//!
//! Pure. The [`crate::coordinator`] feeds a [`History`] with every view, asks [`plan`] what should go into the next write, and
//! asks again when the view changes or [`next_deadline`] comes. Everything is computed afresh from the view each time: a lost
//! write costs nothing but another round.

mod apart;
mod form;
mod history;
mod process;
mod slots;
mod wish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_proto::{Incarnation, NodeId, Seat, SlotId, Term, Version, limits};

use crate::clock::Time;
use crate::detector::Evidence;
use crate::placement::{Change, Draft, Placement};
use crate::ring::RingNode;
use crate::view::{ClusterView, Intents};

pub use form::form;
pub use history::History;
use process::Processes;
pub use process::{cause_of_eviction, rank, turn};
use wish::{Asked, ByName, Wish};

/// A primary's word that a learner holds everything up to the commit point, and will be waited for until its primary has
/// applied a placement later than `base`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadySeat {
    /// Where.
    pub slot: SlotId,
    /// The learner.
    pub seat: Seat,
    /// The primary's term.
    pub term: Term,
    /// The placement that the primary had applied when it said so: it counts only in the write that follows this one.
    pub base: Version,
}

/// What a slot of this process tells its coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A learner may go in sync.
    Ready(ReadySeat),
    /// This process owes a slot of this one an answer for too long. Said again while it lasts.
    Unanswered(Incarnation),
}

/// All that a plan depends on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// What this process knows of the cluster.
    pub view: &'a ClusterView,
    /// What it observed so far, `view` included.
    pub history: &'a History,
    /// Now.
    pub now: Time,
    /// This process.
    pub me: Incarnation,
    /// How long registrations live without being renewed.
    pub ttl: Duration,
    /// What primaries said.
    pub ready: &'a BTreeSet<ReadySeat>,
    /// Processes that do not acknowledge what slots of this process send them.
    pub unanswered: &'a BTreeSet<Incarnation>,
    /// What heartbeats say of the others.
    pub evidence: &'a Evidence,
}

/// For how long etcd must have answered for lapsed registrations to count, in multiples of their time to live: an etcd that was
/// away comes back with leases as old as it left. Not for how long the view was whole: on a busy machine watches break again and
/// again, and those who live renew their leases all the same.
const CONTACT_TTLS: u32 = 2;

/// Until no router relies on a primary that is gone: one that hears nothing gives up its link after [`limits::LINK_SILENCE`], and
/// one that was held up itself for less than a second may be that much later. Till then it lets clients in at the places that it
/// has.
const ROUTERS_LET_GO: Duration = Duration::from_millis(limits::LINK_SILENCE.as_millis() as u64 + 1_500);

/// How long a slot must have stood lost and unchanged before it is recreated: `fence_after`, in which its old primary may
/// still serve, and a margin: for clocks that run at different speeds, for the delay until a view shows what etcd holds, and
/// until no router relies on the old primary's word any more.
pub fn recreate_after(fence_after: Duration) -> Duration {
    fence_after + (fence_after / 10 + Duration::from_millis(100)).max(ROUTERS_LET_GO)
}

/// The changes that should go into the next write, in order: they fit the view's placement. Empty if there is no placement
/// (then see [`form()`]) or this process may not write it.
pub fn plan(situation: &Situation<'_>) -> Vec<Change> {
    let Some(base) = situation.view.placement.as_deref() else { return Vec::new() };
    let processes = Processes::new(situation.view);
    let Some(own) = processes.entry(situation.me) else { return Vec::new() };
    let rooms_first = slots::copies_wait_until(situation.history).is_some_and(|until| situation.now < until);
    let mut plan = Plan { situation, base, draft: base.draft(), changes: Vec::new(), processes, rooms_first };

    if !base.members.get(&situation.me).is_some_and(|m| m.active) {
        // Only members write, unless none is left; then a newcomer adds itself and nothing else.
        let anyone = base.members.iter().any(|(i, m)| m.active && plan.processes.is_registered(*i));
        if !anyone && plan.processes.may_join(base, situation.me) {
            plan.join(own);
        }
        return plan.changes;
    }
    plan.evict_the_dead();
    plan.admit();
    plan.part_and_mend();
    plan.place();
    plan.forget();
    plan.changes
}

/// When time alone will change the plan; `None` if only another view or ready seat can.
pub fn next_deadline(situation: &Situation<'_>) -> Option<Time> {
    let placement = situation.view.placement.as_deref()?;
    let history = situation.history;
    let processes = Processes::new(situation.view);
    let lapsed = placement.members.iter().any(|(i, m)| m.active && !processes.is_registered(*i));
    let evict = lapsed.then(|| situation.view.answers_since.map(|t| t + situation.ttl * CONTACT_TTLS)).flatten();

    let wait = recreate_after(placement.settings.fence_after);
    let recreate = (0..).zip(&placement.slots).filter_map(|(slot, record)| {
        let lost = record.in_sync.iter().map(|seat| processes.lost_at(placement, history, seat.incarnation));
        let settled = history.unchanged_since(SlotId(slot)).map(|since| since + wait);
        lost.chain([settled]).collect::<Option<Vec<Time>>>()?.into_iter().max()
    });
    let newcomers = processes.candidates(placement);
    let rejoin = newcomers.iter().filter_map(|(id, _)| history.rejoins_at(id, situation.now));
    let apart = placement.apart.iter().filter(|(by, _)| *by == situation.me);
    let mend = apart.filter_map(|(by, other)| history.mends_at(*by, *other));
    let slots = (0..).map(SlotId).take(placement.slots.len());
    let settle = slots.filter_map(|slot| history.settles_at(slot));
    recreate
        .chain(settle)
        .chain(evict)
        .chain(rejoin)
        .chain(mend)
        .chain(slots::copies_wait_until(history))
        .chain(slots::switched_for(history))
        .chain(slots::moves_wait_until(history))
        .filter(|t| *t > situation.now)
        .min()
}

/// Nodes whose keys must still be as the view shows them when `changes` are written: a process that comes back just then
/// would serve a slot that is recreated elsewhere. The write compares their revisions (absent ones: that they are absent).
pub fn relied_on(base: &Placement, changes: &[Change]) -> BTreeSet<NodeId> {
    let recreated = changes.iter().filter_map(|c| match c {
        Change::Recreate { slot, .. } => base.slot(*slot),
        _ => None,
    });
    let lost = recreated.flat_map(|record| &record.in_sync);
    lost.filter_map(|seat| base.members.get(&seat.incarnation)).map(|m| m.node.clone()).collect()
}

/// The processes that the ring wants each slot of the view's placement to be on, best first; empty without a placement.
pub fn wishes(view: &ClusterView) -> Vec<Vec<Incarnation>> {
    view.placement
        .as_deref()
        .map(|placement| wishes_of(&Processes::new(view), placement, &view.intents))
        .unwrap_or_default()
}

/// The nodes that slots may go to, with their weights in percent: active members that are neither drained nor stopping, under
/// the given intents instead of the view's own.
pub fn takers(view: &ClusterView, intents: &Intents) -> BTreeMap<NodeId, u32> {
    ring_nodes(view, intents).into_iter().map(|(name, node)| (name, node.weight)).collect()
}

/// As [`takers`], as the ring takes them.
pub(crate) fn ring_nodes(view: &ClusterView, intents: &Intents) -> BTreeMap<NodeId, RingNode> {
    let placement = view.placement.as_deref();
    let by_name = placement.map(|p| Processes::new(view).ring_members(p, intents)).unwrap_or_default();
    by_name.into_iter().map(|(name, (_, node))| (name, node)).collect()
}

fn wishes_of(processes: &Processes<'_>, placement: &Placement, intents: &Intents) -> Wish {
    let asked = Asked::new(processes, placement, intents);
    if placement.apart.is_empty() { asked.answer() } else { asked.answer_apart(placement) }
}

/// The changes found so far, and the placement as they make it.
struct Plan<'a> {
    situation: &'a Situation<'a>,
    base: &'a Placement,
    draft: Draft,
    changes: Vec<Change>,
    processes: Processes<'a>,
    /// A process was evicted just now: copies wait.
    rooms_first: bool,
}

impl Plan<'_> {
    /// Takes a change that fits. One that a guard refuses is left for the next write, whose plan is made anew.
    fn push(&mut self, change: Change) -> bool {
        let fits = self.draft.apply(&change).is_ok();
        if fits {
            self.changes.push(change);
        }
        fits
    }

    fn forget(&mut self) {
        let placement = self.draft.placement();
        let seated: BTreeSet<Incarnation> =
            placement.slots.iter().flat_map(|s| s.seats()).map(|s| s.incarnation).collect();
        let gone = placement.members.iter().filter(|(i, m)| !m.active && !seated.contains(i));
        for incarnation in gone.map(|(i, _)| *i).collect::<Vec<_>>() {
            self.push(Change::Forget { incarnation });
        }
    }

    fn wish(&self) -> Arc<Wish> {
        let placement = self.draft.placement();
        let asked = Asked::new(&self.processes, placement, &self.situation.view.intents);
        let known = self.situation.history.wish(&asked).filter(|_| placement.apart.is_empty());
        known.unwrap_or_else(|| Arc::new(wishes_of(&self.processes, placement, &self.situation.view.intents)))
    }
}

#[cfg(test)]
mod tests;
