//! Which slots to move.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use roomring_proto::{Incarnation, NodeId, SlotId};

use super::{Balance, Policy};
use crate::intents::{Decision, Intents, Origin, Override};
use crate::load::NodeLoad;
use crate::placement::{Placement, SlotRecord};
use crate::planner;
use crate::ring::Ring;
use crate::view::ClusterView;

/// A slot that makes its new node hot as well is only moved if the hottest is so much cooler afterwards, in shares: one that is
/// as hot as a whole node would be thrown about otherwise.
const WORTH: f64 = 0.1;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Loads as they are.
    pub before: Balance,
    /// Loads as they would be.
    pub after: Balance,
    /// In this order.
    pub steps: Vec<Step>,
    /// Other slots that the ring moves because of them, as it holds to its bound on slots.
    pub followers: usize,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Which slot.
    pub slot: SlotId,
    /// Messages a second.
    pub load: f64,
    /// Where it is.
    pub from: NodeId,
    /// Where it will be.
    pub to: NodeId,
    /// How.
    pub act: Act,
    /// Why, for people.
    pub reason: String,
}

/// How a step is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// An override is made.
    Move,
    /// One is dropped.
    Drop,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// No placement.
    #[error("the cluster is not formed yet")]
    NotFormed,
    /// Loads are not where they will be.
    #[error("{0} slot(s) are on their way; wait until they are there")]
    Unsettled(usize),
    /// Some nodes did not tell.
    #[error("the load of {} is not known", .0.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", "))]
    Unheard(BTreeSet<NodeId>),
    /// Nothing to gain.
    #[error("the nodes have next to nothing to do")]
    Idle,
}

/// The steps that make the loads even, none if they are. `loads` are those of every node's process, lately; `now_ms` is Unix time.
///
/// # Errors
/// If this is no time for moves.
pub fn plan(
    view: &ClusterView,
    loads: &BTreeMap<Incarnation, NodeLoad>,
    policy: &Policy,
    now_ms: u64,
) -> Result<Plan, NotNow> {
    let placement = view.placement.as_deref().ok_or(NotNow::NotFormed)?;
    let weights = planner::takers(view, &view.intents);
    let costs = costs(placement, loads)?;
    let at = |slot: &SlotRecord| placement.members.get(&slot.primary.incarnation).map(|m| m.node.clone());
    let start = placement.slots.iter().map(at).collect::<Option<Vec<_>>>().ok_or(NotNow::NotFormed)?;
    let before = balance(&weights, &start, &costs);
    if before.total() < policy.least * before.0.len() as f64 {
        return Err(NotNow::Idle);
    }
    let is_old = |o: &Override| now_ms.saturating_sub(o.time_ms) >= policy.keep_ms;
    if before.highest() <= policy.over && !own_overrides(&view.intents).any(|(_, o)| is_old(o)) {
        // The usual case, without asking the ring.
        return Ok(Plan { after: before.clone(), before, steps: Vec::new(), followers: 0 });
    }
    let mut draft = Draft::new(view, placement, policy, weights, costs, start)?;
    draft.drop_the_void(now_ms);
    if before.highest() > policy.over {
        draft.relieve();
    } else {
        draft.give_back(now_ms);
    }
    let moved: BTreeSet<_> = draft.steps.iter().map(|s| s.slot).collect();
    let followers = (0..).map(SlotId).zip(draft.start.iter().zip(&draft.first));
    let followers = followers.filter(|(slot, (was, is))| was != is && !moved.contains(slot)).count();
    Ok(Plan { before, after: draft.balance, steps: draft.steps, followers })
}

impl Plan {
    /// Writes the steps into the intents they were planned on.
    pub fn apply(&self, intents: &mut Intents, by: &str, now_ms: u64) {
        let Some(first) = self.steps.first() else { return };
        for step in &self.steps {
            match step.act {
                Act::Move => {
                    let moved = Override {
                        node: step.to.clone(),
                        origin: Origin::Rebalancer,
                        time_ms: now_ms,
                        reason: step.reason.clone(),
                    };
                    intents.overrides.insert(step.slot, moved);
                }
                Act::Drop => {
                    intents.overrides.remove(&step.slot);
                }
            }
        }
        intents.decisions.push(Decision {
            time_ms: now_ms,
            by: by.to_owned(),
            text: self.to_string(),
            reason: first.reason.clone(),
            slots: self.steps.iter().map(|s| s.slot).collect(),
        });
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by_target = BTreeMap::<(bool, &NodeId), Vec<String>>::new();
        for step in &self.steps {
            by_target.entry((step.act == Act::Drop, &step.to)).or_default().push(step.slot.to_string());
        }
        let part = |((dropped, to), slots): (&(bool, &NodeId), &Vec<String>)| {
            format!("{} {} to {to}", if *dropped { "give back" } else { "move" }, slots.join(" "))
        };
        f.write_str(&by_target.iter().map(part).collect::<Vec<_>>().join(", "))
    }
}

/// The intents as the steps so far make them, and what comes of them.
struct Draft<'a> {
    policy: &'a Policy,
    intents: &'a Intents,
    placement: &'a Placement,
    ring: Ring,
    weights: BTreeMap<NodeId, u32>,
    overrides: BTreeMap<SlotId, NodeId>,
    /// By slot.
    costs: Vec<f64>,
    /// The node where the ring would have each slot without the rebalancer.
    bare: Vec<NodeId>,
    /// The node of each slot's primary, as it is.
    start: Vec<NodeId>,
    /// As the steps make it.
    first: Vec<NodeId>,
    balance: Balance,
    steps: Vec<Step>,
}

impl<'a> Draft<'a> {
    fn new(
        view: &'a ClusterView,
        placement: &'a Placement,
        policy: &'a Policy,
        weights: BTreeMap<NodeId, u32>,
        costs: Vec<f64>,
        start: Vec<NodeId>,
    ) -> Result<Self, NotNow> {
        let intents = &*view.intents;
        let ring = Ring::new(placement.ring, &planner::ring_nodes(view, intents));
        let overrides = intents.overridden();
        let first = first_places(&ring, placement, intents, &overrides).ok_or(NotNow::NotFormed)?;
        let away = start.iter().zip(&first).filter(|(is, wanted)| is != wanted).count();
        if away > 0 {
            return Err(NotNow::Unsettled(away));
        }
        let mut of_others = overrides.clone();
        own_overrides(intents).for_each(|(slot, _)| _ = of_others.remove(&slot));
        let bare = first_places(&ring, placement, intents, &of_others).ok_or(NotNow::NotFormed)?;
        let balance = balance(&weights, &first, &costs);
        Ok(Self {
            policy,
            intents,
            placement,
            ring,
            weights,
            overrides,
            costs,
            bare,
            start,
            first,
            balance,
            steps: Vec::new(),
        })
    }

    /// Takes `overrides` on trial: where slots would be then, and what nodes would carry.
    fn trial(&self, overrides: &BTreeMap<SlotId, NodeId>) -> Option<(Vec<NodeId>, Balance)> {
        let first = first_places(&self.ring, self.placement, self.intents, overrides)?;
        let balance = balance(&self.weights, &first, &self.costs);
        Some((first, balance))
    }

    /// Overrides of the rebalancer that change nothing: the slot is pinned, the ring wants it there by itself, or the node is gone
    /// for long.
    fn drop_the_void(&mut self, now_ms: u64) {
        for (slot, o) in own_overrides(self.intents) {
            if !self.is_old(o, now_ms) {
                continue;
            }
            let pinned = self.intents.pins.contains_key(&slot);
            let here = self.weights.contains_key(&o.node);
            let reason = match () {
                () if pinned => "it is pinned",
                () if !here => "its node takes no slots any more",
                () if here && self.bare.get(slot.0 as usize) == Some(&o.node) => "the ring wants it there by itself",
                () => continue,
            };
            let mut without = self.overrides.clone();
            without.remove(&slot);
            if self.has_room()
                && let Some((first, balance)) = self.trial(&without).filter(|(first, _)| *first == self.first)
            {
                self.step(slot, Act::Drop, reason.to_owned(), without, first, balance);
            }
        }
    }

    /// Drops overrides without which the loads are even, too, or at least not less so.
    fn give_back(&mut self, now_ms: u64) {
        let old = own_overrides(self.intents).filter(|(_, o)| self.is_old(o, now_ms)).map(|(slot, _)| slot);
        let mut old: Vec<SlotId> = old.filter(|slot| self.overrides.contains_key(slot)).collect();
        // What costs the least first: most of them can go.
        old.sort_by(|a, b| self.cost(*a).total_cmp(&self.cost(*b)));
        for slot in old {
            let most = self.policy.give_back.max(self.balance.highest().min(self.policy.target));
            // A guess before the ring is asked, which takes longer.
            if !self.has_room() || self.bare.get(slot.0 as usize).is_none_or(|home| self.with_moved(slot, home) > most)
            {
                continue;
            }
            let mut without = self.overrides.clone();
            without.remove(&slot);
            let Some((first, balance)) = self.trial(&without) else { return };
            if balance.highest() <= most {
                let reason = format!("without it no node carries more than {:.2} x its share", balance.highest());
                self.step(slot, Act::Drop, reason, without, first, balance);
            }
        }
    }

    /// What the hottest node would carry with `slot` on `to`, if nothing else moved.
    fn with_moved(&self, slot: SlotId, to: &NodeId) -> f64 {
        let (cost, from) = (self.cost(slot), &self.first[slot.0 as usize]);
        let mut balance = self.balance.clone();
        for (node, by) in [(from, -cost), (to, cost)] {
            if let Some(share) = balance.0.get_mut(node) {
                share.load += by;
            }
        }
        balance.highest()
    }

    /// Moves slots off the hottest node until none is hot: as few as that takes, so the hottest that fit elsewhere first.
    fn relieve(&mut self) {
        let most = (self.placement.slots.len() / self.policy.overrides.max(1)).max(1);
        while self.has_room() && self.overrides.len() < most && self.balance.highest() > self.policy.target {
            let Some((slot, to)) = self.best_move() else { return };
            let mut with = self.overrides.clone();
            with.insert(slot, to.clone());
            let Some((first, balance)) = self.trial(&with) else { return };
            // The ring may have to move others because of it. What does not help as a whole is not done.
            if balance.highest() >= self.balance.highest() {
                return;
            }
            let reason = self.reason(slot, &to);
            self.step(slot, Act::Move, reason, with, first, balance);
        }
    }

    /// The slot of the hottest node, and where to, that leave things best.
    fn best_move(&self) -> Option<(SlotId, NodeId)> {
        let (hot, highest) = self.balance.hottest()?;
        let (hot, of_hot) = (hot.clone(), self.balance.0.get(hot)?);
        let target = self.policy.target;
        let slots = (0..).map(SlotId).zip(&self.first).filter(|(_, node)| **node == hot).map(|(slot, _)| slot);
        let mut best: Option<(Score, SlotId, &NodeId)> = None;
        for slot in slots.filter(|s| self.may_move(*s)) {
            let cost = self.cost(slot);
            let rest = (of_hot.load - cost) / of_hot.fair;
            for (node, share) in self.balance.0.iter().filter(|(node, s)| **node != hot && s.fair > 0.0) {
                let there = (share.load + cost) / share.fair;
                if there > target.max(highest - WORTH) {
                    continue;
                }
                let copied = self.has_copy(slot, node);
                let score = (rest.max(there).max(target), !copied, there, -cost);
                let better = |(b, _, _): &(Score, _, _)| less(&score, b);
                if best.as_ref().is_none_or(better) {
                    best = Some((score, slot, node));
                }
            }
        }
        best.map(|(_, slot, node)| (slot, node.clone()))
    }

    fn may_move(&self, slot: SlotId) -> bool {
        let of_operator = self.intents.overrides.get(&slot).is_some_and(|o| o.origin == Origin::Operator);
        self.cost(slot) > 0.0 && !of_operator && !self.intents.pins.contains_key(&slot)
    }

    fn has_copy(&self, slot: SlotId, node: &NodeId) -> bool {
        let is_there = |i: Incarnation| self.placement.members.get(&i).is_some_and(|m| m.node == *node);
        self.placement.slot(slot).is_some_and(|s| s.in_sync.iter().any(|seat| is_there(seat.incarnation)))
    }

    fn reason(&self, slot: SlotId, to: &NodeId) -> String {
        let from = &self.first[slot.0 as usize];
        let ratio = |node: &NodeId| self.balance.0.get(node).map_or(1.0, super::Share::ratio);
        format!(
            "{from} carries {:.2} x its share, {to} {:.2} x; the slot does {:.0} messages/s",
            ratio(from),
            ratio(to),
            self.cost(slot)
        )
    }

    fn step(
        &mut self,
        slot: SlotId,
        act: Act,
        reason: String,
        overrides: BTreeMap<SlotId, NodeId>,
        first: Vec<NodeId>,
        balance: Balance,
    ) {
        let at = slot.0 as usize;
        let from = self.start.get(at).cloned();
        let to = first.get(at).cloned();
        if let (Some(from), Some(to)) = (from, to) {
            // A slot that is moved twice is moved once.
            self.steps.retain(|s| s.slot != slot);
            self.steps.push(Step { slot, load: self.cost(slot), from, to, act, reason });
        }
        (self.overrides, self.first, self.balance) = (overrides, first, balance);
    }

    fn cost(&self, slot: SlotId) -> f64 {
        self.costs.get(slot.0 as usize).copied().unwrap_or(0.0)
    }

    fn is_old(&self, o: &Override, now_ms: u64) -> bool {
        now_ms.saturating_sub(o.time_ms) >= self.policy.keep_ms
    }

    fn has_room(&self) -> bool {
        self.steps.len() < self.policy.moves
    }
}

/// The rebalancer's own.
fn own_overrides(intents: &Intents) -> impl Iterator<Item = (SlotId, &Override)> {
    intents.overrides.iter().filter(|(_, o)| o.origin == Origin::Rebalancer).map(|(slot, o)| (*slot, o))
}

/// The node where the ring wants each slot's primary; `None` if nobody takes slots.
fn first_places(
    ring: &Ring,
    placement: &Placement,
    intents: &Intents,
    overrides: &BTreeMap<SlotId, NodeId>,
) -> Option<Vec<NodeId>> {
    let wish = ring.wish(placement.settings.slots, &intents.pins, overrides, 1);
    wish.into_iter().map(|nodes| nodes.into_iter().next()).collect()
}

/// What each slot costs its primary, by number.
fn costs(placement: &Placement, loads: &BTreeMap<Incarnation, NodeLoad>) -> Result<Vec<f64>, NotNow> {
    let mut untold = BTreeMap::<Incarnation, usize>::new();
    let told = |slot: SlotId, primary| loads.get(&primary).and_then(|load| load.slots.get(&slot));
    let mut unheard = BTreeSet::new();
    for (slot, record) in (0..).map(SlotId).zip(&placement.slots) {
        let primary = record.primary.incarnation;
        if !loads.contains_key(&primary) {
            unheard.extend(placement.members.get(&primary).map(|m| m.node.clone()));
        }
        if told(slot, primary).is_none() {
            *untold.entry(primary).or_default() += 1;
        }
    }
    if !unheard.is_empty() {
        return Err(NotNow::Unheard(unheard));
    }
    let of_rest = |primary: &Incarnation| {
        let rest = loads.get(primary).map_or(0.0, |load| load.rest.cost());
        rest / untold.get(primary).copied().unwrap_or(1).max(1) as f64
    };
    let cost = |(slot, primary): (SlotId, Incarnation)| {
        told(slot, primary).map_or_else(|| of_rest(&primary), crate::load::Load::cost)
    };
    Ok((0..).map(SlotId).zip(placement.slots.iter().map(|s| s.primary.incarnation)).map(cost).collect())
}

fn balance(weights: &BTreeMap<NodeId, u32>, first: &[NodeId], costs: &[f64]) -> Balance {
    let mut loads = BTreeMap::<NodeId, f64>::new();
    for (node, cost) in first.iter().zip(costs) {
        match loads.get_mut(node) {
            Some(load) => *load += cost,
            None => _ = loads.insert(node.clone(), *cost),
        }
    }
    Balance::new(weights, &loads)
}

/// How good a move is, the lowest first: what is left to mend afterwards; no copy there yet; how hot it gets there; and the larger
/// slot first.
type Score = (f64, bool, f64, f64);

/// Lexicographic.
fn less(a: &Score, b: &Score) -> bool {
    let order = a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2)).then(a.3.total_cmp(&b.3));
    order == std::cmp::Ordering::Less
}
