//! One change of the intents as an operator makes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use roomring_proto::{NodeId, SlotId};

use super::{Decision, Intents, Origin, Override};
use crate::placement::{Placement, WEIGHT};
use crate::planner;
use crate::view::ClusterView;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Empty a node.
    Drain(NodeId),
    /// Let it have slots again.
    Undrain(NodeId),
    /// Give a node another weight than it registered with.
    Weight {
        /// Which.
        node: NodeId,
        /// In percent of a whole share; `None`: as it registered.
        percent: Option<u32>,
    },
    /// Keep a slot on a node, whatever else is wanted.
    Pin {
        /// Which.
        slot: SlotId,
        /// Where.
        node: NodeId,
    },
    /// End that.
    Unpin(SlotId),
    /// Move a slot to a node, until it is moved elsewhere.
    Move {
        /// Which.
        slot: SlotId,
        /// Where.
        node: NodeId,
    },
    /// Give a moved slot back to the ring.
    MoveBack(SlotId),
    /// Switch automatic rebalancing on or off.
    Rebalancing(bool),
}

/// Why a change hurts, so that somebody should confirm it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hazard {
    /// No node is left that takes slots.
    NobodyLeft(NodeId),
    /// Fewer nodes are left than copies are wanted.
    FewerCopies {
        /// Nodes left.
        nodes: usize,
        /// Copies wanted.
        copies: u32,
    },
    /// Everything but pinned slots leaves it.
    WeightZero(NodeId),
    /// The slot is pinned to another node, perhaps for another of its rooms.
    PinnedElsewhere {
        /// Which.
        slot: SlotId,
        /// Where to.
        node: NodeId,
    },
}

/// Why a change can't be made at all. The text says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such node.
    #[error("no node is called {node}; {}", there_are(known))]
    UnknownNode {
        /// As given.
        node: NodeId,
        /// Those that there are.
        known: BTreeSet<NodeId>,
    },
    /// There is no such slot.
    #[error("there is no slot {}; the cluster has slots 0 to {}", .slot.0, slots.saturating_sub(1))]
    UnknownSlot {
        /// As given.
        slot: SlotId,
        /// How many there are.
        slots: u32,
    },
    /// The node is being emptied.
    #[error("{0} is being drained, so nothing can be put there; undrain it first")]
    Drained(NodeId),
    /// The node takes no slots: it stops, was evicted, or has not joined.
    #[error("{0} takes no slots now: it is stopping, was evicted, or has not joined yet")]
    NoMember(NodeId),
    /// A pin wins over a move.
    #[error("slot {} is pinned to {node}, and a pin wins over a move; unpin it first", .slot.0)]
    Pinned {
        /// Which.
        slot: SlotId,
        /// Where to.
        node: NodeId,
    },
    /// No ring can count with it.
    #[error("a weight is 0 to {WEIGHT} percent, not {0}")]
    Weight(u32),
    /// There is no placement to change anything of.
    #[error("the cluster is not formed yet; start a node first")]
    NotFormed,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// It can't be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It hurts in ways that nobody accepted.
    #[error("{}", hazards.iter().map(Hazard::to_string).collect::<Vec<_>>().join("; "))]
    Hazardous {
        /// How.
        hazards: Vec<Hazard>,
    },
}

impl Edit {
    /// How this change would hurt, made on `intents` in a cluster as `view` shows it (whose own intents are not looked at).
    ///
    /// # Errors
    /// If it can't be made.
    pub fn judge(&self, intents: &Intents, view: &ClusterView) -> Result<Vec<Hazard>, Refusal> {
        let placement = view.placement.as_deref().ok_or(Refusal::NotFormed)?;
        let takers = planner::takers(view, intents);
        let mut hazards = Vec::new();
        match self {
            Self::Drain(node) => {
                let left = without(&takers, node);
                known(node, intents, view)?;
                if !intents.drained.contains(node) {
                    hazards.extend(too_few(&takers, &left, node, placement));
                }
            }
            Self::Undrain(node) => known(node, intents, view)?,
            Self::Weight { node, percent } => {
                known(node, intents, view)?;
                match percent {
                    Some(0) if takers.get(node) != Some(&0) => {
                        hazards.push(Hazard::WeightZero(node.clone()));
                        hazards.extend(too_few(&takers, &without(&takers, node), node, placement));
                    }
                    Some(percent) if *percent > WEIGHT => return Err(Refusal::Weight(*percent)),
                    Some(_) | None => {}
                }
            }
            Self::Pin { slot, node } => {
                exists(*slot, placement)?;
                takes(node, intents, view, &takers)?;
                if let Some(other) = intents.pins.get(slot).filter(|other| *other != node) {
                    hazards.push(Hazard::PinnedElsewhere { slot: *slot, node: other.clone() });
                }
            }
            Self::Move { slot, node } => {
                exists(*slot, placement)?;
                takes(node, intents, view, &takers)?;
                if let Some(pinned) = intents.pins.get(slot) {
                    return Err(Refusal::Pinned { slot: *slot, node: pinned.clone() });
                }
            }
            Self::Unpin(slot) | Self::MoveBack(slot) => exists(*slot, placement)?,
            Self::Rebalancing(_) => {}
        }
        Ok(hazards)
    }

    /// Makes the change on `intents`, and notes in them who made it and why. Says whether anything changed.
    ///
    /// # Errors
    /// If it can't be made, or hurts in a way that is not among the `accepted` ones: `intents` are as they were then.
    pub fn make(
        &self,
        intents: &mut Intents,
        view: &ClusterView,
        accepted: &[Hazard],
        author: &Author,
    ) -> Result<bool, NotMade> {
        let hazards: Vec<_> = self.judge(intents, view)?.into_iter().filter(|h| !accepted.contains(h)).collect();
        if !hazards.is_empty() {
            return Err(NotMade::Hazardous { hazards });
        }
        let changed = self.apply(intents, author);
        if changed {
            intents.decisions.push(Decision {
                time_ms: author.time_ms,
                by: author.name.clone(),
                text: self.to_string(),
                reason: author.reason.clone(),
                slots: self.slot().into_iter().collect(),
            });
        }
        Ok(changed)
    }

    fn apply(&self, intents: &mut Intents, author: &Author) -> bool {
        match self {
            Self::Drain(node) => intents.drained.insert(node.clone()),
            Self::Undrain(node) => intents.drained.remove(node),
            Self::Weight { node, percent: Some(percent) } => {
                intents.weights.insert(node.clone(), *percent) != Some(*percent)
            }
            Self::Weight { node, percent: None } => intents.weights.remove(node).is_some(),
            Self::Pin { slot, node } => intents.pins.insert(*slot, node.clone()).as_ref() != Some(node),
            Self::Unpin(slot) => intents.pins.remove(slot).is_some(),
            Self::Move { slot, node } => {
                let is_there = |o: &Override| o.node == *node && o.origin == Origin::Operator;
                if intents.overrides.get(slot).is_some_and(is_there) {
                    return false;
                }
                let moved = Override {
                    node: node.clone(),
                    origin: Origin::Operator,
                    time_ms: author.time_ms,
                    reason: author.reason.clone(),
                };
                intents.overrides.insert(*slot, moved);
                true
            }
            Self::MoveBack(slot) => intents.overrides.remove(slot).is_some(),
            Self::Rebalancing(on) => std::mem::replace(&mut intents.rebalancing_off, !on) == *on,
        }
    }

    /// The slot that it is about, if it is about one.
    pub fn slot(&self) -> Option<SlotId> {
        match self {
            Self::Pin { slot, .. } | Self::Unpin(slot) | Self::Move { slot, .. } | Self::MoveBack(slot) => Some(*slot),
            Self::Drain(_) | Self::Undrain(_) | Self::Weight { .. } | Self::Rebalancing(_) => None,
        }
    }
}

/// Who changes the intents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Author {
    /// Name, for people.
    pub name: String,
    /// Unix time, ms.
    pub time_ms: u64,
    /// Why; may be empty.
    pub reason: String,
}

type Takers = BTreeMap<NodeId, u32>;

fn without(takers: &Takers, node: &NodeId) -> Takers {
    takers.iter().filter(|(id, _)| *id != node).map(|(id, weight)| (id.clone(), *weight)).collect()
}

/// What is wrong with `left` instead of `before`.
fn too_few(before: &Takers, left: &Takers, node: &NodeId, placement: &Placement) -> Option<Hazard> {
    let copies = placement.settings.replication;
    if !before.contains_key(node) {
        None
    } else if left.values().all(|weight| *weight == 0) {
        Some(Hazard::NobodyLeft(node.clone()))
    } else if left.len() < copies as usize {
        Some(Hazard::FewerCopies { nodes: left.len(), copies })
    } else {
        None
    }
}

/// Nodes that registered, that the placement lists, or that the intents name.
fn known(node: &NodeId, intents: &Intents, view: &ClusterView) -> Result<(), Refusal> {
    let members = view.placement.iter().flat_map(|p| p.members.values()).map(|m| &m.node);
    let known: BTreeSet<&NodeId> = view.nodes.keys().chain(members).collect();
    if known.contains(node) || intents.drained.contains(node) || intents.weights.contains_key(node) {
        return Ok(());
    }
    Err(Refusal::UnknownNode { node: node.clone(), known: known.into_iter().cloned().collect() })
}

/// Whether slots can go to `node`.
fn takes(node: &NodeId, intents: &Intents, view: &ClusterView, takers: &Takers) -> Result<(), Refusal> {
    known(node, intents, view)?;
    match takers.contains_key(node) {
        true => Ok(()),
        false if intents.drained.contains(node) => Err(Refusal::Drained(node.clone())),
        false => Err(Refusal::NoMember(node.clone())),
    }
}

fn exists(slot: SlotId, placement: &Placement) -> Result<(), Refusal> {
    let slots = placement.settings.slots;
    if slot.0 < slots { Ok(()) } else { Err(Refusal::UnknownSlot { slot, slots }) }
}

fn there_are(known: &BTreeSet<NodeId>) -> String {
    match known.iter().map(NodeId::as_str).collect::<Vec<_>>() {
        none if none.is_empty() => "there are none yet".to_owned(),
        known => format!("there are {}", known.join(", ")),
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(node) => write!(f, "drain {node}"),
            Self::Undrain(node) => write!(f, "undrain {node}"),
            Self::Weight { node, percent: Some(percent) } => write!(f, "weight of {node} is {percent}"),
            Self::Weight { node, percent: None } => write!(f, "weight of {node} as it registered"),
            Self::Pin { slot, node } => write!(f, "pin {slot} to {node}"),
            Self::Unpin(slot) => write!(f, "unpin {slot}"),
            Self::Move { slot, node } => write!(f, "move {slot} to {node}"),
            Self::MoveBack(slot) => write!(f, "give {slot} back to the ring"),
            Self::Rebalancing(true) => write!(f, "switch rebalancing on"),
            Self::Rebalancing(false) => write!(f, "switch rebalancing off"),
        }
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NobodyLeft(node) => {
                write!(f, "{node} is the last node that takes slots: its slots have nowhere to go and stay on it")
            }
            Self::FewerCopies { nodes, copies } => {
                write!(f, "{nodes} node(s) would be left for {copies} copies of each slot")
            }
            Self::WeightZero(node) => write!(f, "with weight 0 every slot but pinned ones leaves {node}"),
            Self::PinnedElsewhere { slot, node } => {
                write!(f, "slot {} is pinned to {node} already, perhaps for another of its rooms", slot.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use roomring_proto::Incarnation;

    use super::*;
    use crate::placement::fixtures::{placement, process};

    fn id(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// A cluster of eight slots, two copies each, on members `node-1` to `node-N`; nothing is registered.
    fn cluster(members: &[u64]) -> ClusterView {
        ClusterView { placement: Some(Arc::new(placement(8, 2, members))), ..ClusterView::default() }
    }

    fn make(edit: &Edit, intents: &mut Intents, view: &ClusterView, accepted: &[Hazard]) -> Result<bool, NotMade> {
        let author = Author { name: "ann".into(), time_ms: 5, reason: "because".into() };
        edit.make(intents, view, accepted, &author)
    }

    #[test]
    fn every_edit_is_made_once_noted_and_taken_back() {
        let view = cluster(&[1, 2, 3]);
        let mut intents = Intents::default();
        let (one, slot) = (id("node-1"), SlotId(3));
        let pairs = [
            (Edit::Drain(one.clone()), Edit::Undrain(one.clone())),
            (Edit::Weight { node: one.clone(), percent: Some(50) }, Edit::Weight { node: one.clone(), percent: None }),
            (Edit::Pin { slot, node: one.clone() }, Edit::Unpin(slot)),
            (Edit::Move { slot, node: one.clone() }, Edit::MoveBack(slot)),
            (Edit::Rebalancing(false), Edit::Rebalancing(true)),
        ];
        for (edit, back) in pairs {
            assert!(!make(&back, &mut intents, &view, &[]).unwrap(), "{back}: there is nothing to take back");
            assert!(make(&edit, &mut intents, &view, &[]).unwrap(), "{edit}");
            assert!(!make(&edit, &mut intents, &view, &[]).unwrap(), "{edit} twice changes nothing");
            let noted = intents.decisions.iter().next_back().unwrap();
            assert_eq!(
                (noted.text.clone(), noted.by.as_str(), noted.reason.as_str()),
                (edit.to_string(), "ann", "because")
            );
            assert_eq!(noted.slots, edit.slot().into_iter().collect::<Vec<_>>());
            assert!(make(&back, &mut intents, &view, &[]).unwrap(), "{back}");
        }
        assert_eq!(intents.decisions.iter().count(), 10);
        assert_eq!(Intents { decisions: Default::default(), ..intents }, Intents::default());
    }

    #[test]
    fn what_hurts_must_be_accepted() {
        let view = cluster(&[1, 2, 3]);
        let mut intents = Intents::default();
        let drain = |n: u64| Edit::Drain(process(n).1.node);
        make(&drain(1), &mut intents, &view, &[]).unwrap();
        let fewer = Hazard::FewerCopies { nodes: 1, copies: 2 };
        assert_eq!(drain(2).judge(&intents, &view), Ok(vec![fewer.clone()]));
        let before = intents.clone();
        let refused = make(&drain(2), &mut intents, &view, &[]).unwrap_err();
        assert_eq!(refused, NotMade::Hazardous { hazards: vec![fewer.clone()] });
        assert_eq!(intents, before);
        make(&drain(2), &mut intents, &view, &[fewer]).unwrap();
        let last = vec![Hazard::NobodyLeft(id("node-3"))];
        assert_eq!(drain(3).judge(&intents, &view), Ok(last.clone()));
        assert_eq!(drain(2).judge(&intents, &view), Ok(vec![]), "it is drained already");
        let weight = Edit::Weight { node: id("node-3"), percent: Some(0) };
        let zero = Hazard::WeightZero(id("node-3"));
        assert_eq!(weight.judge(&intents, &view), Ok([vec![zero.clone()], last].concat()));
        assert_eq!(weight.judge(&Intents::default(), &view), Ok(vec![zero]));

        let slot = SlotId(7);
        make(&Edit::Pin { slot, node: id("node-3") }, &mut intents, &view, &[]).unwrap();
        make(&Edit::Undrain(id("node-2")), &mut intents, &view, &[]).unwrap();
        let elsewhere = Hazard::PinnedElsewhere { slot, node: id("node-3") };
        assert_eq!(Edit::Pin { slot, node: id("node-2") }.judge(&intents, &view), Ok(vec![elsewhere]));
    }

    #[test]
    fn what_can_not_be_is_refused_with_advice() {
        let mut stopped = placement(8, 2, &[1, 2, 3]);
        stopped.members.get_mut(&Incarnation(2)).unwrap().active = false;
        let view = ClusterView { placement: Some(Arc::new(stopped)), ..ClusterView::default() };
        let mut intents = Intents::default();
        intents.drained.insert(id("node-1"));
        intents.drained.insert(id("long-gone"));
        intents.pins.insert(SlotId(5), id("node-3"));
        let pin = |slot, node: &str| Edit::Pin { slot: SlotId(slot), node: id(node) };
        let moved = |slot, node: &str| Edit::Move { slot: SlotId(slot), node: id(node) };
        for (edit, says) in [
            (Edit::Drain(id("node-9")), "no node is called node-9; there are node-1, node-2, node-3"),
            (pin(8, "node-3"), "there is no slot 8; the cluster has slots 0 to 7"),
            (Edit::Unpin(SlotId(8)), "there is no slot 8"),
            (pin(1, "node-1"), "node-1 is being drained"),
            (moved(1, "node-2"), "node-2 takes no slots now"),
            (moved(5, "node-3"), "slot 5 is pinned to node-3"),
            (Edit::Weight { node: id("node-3"), percent: Some(10_001) }, "0 to 10000 percent, not 10001"),
        ] {
            let error = edit.judge(&intents, &view).unwrap_err().to_string();
            assert!(error.contains(says), "{edit}: {error}");
        }
        assert_eq!(Edit::Undrain(id("long-gone")).judge(&intents, &view), Ok(vec![]), "what is named can be cleared");
        let error = Edit::Drain(id("a")).judge(&intents, &ClusterView::default()).unwrap_err();
        assert_eq!(error, Refusal::NotFormed);
    }
}
