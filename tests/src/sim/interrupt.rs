//! One interruption at an exact phase of a planned move, instead of faults by chance.

use std::fmt;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::{Placement, SlotRecord};
use roomring_proto::{Seat, SlotId, v1};

use super::etcd::Request;
use super::net::Message;
use super::world::{Event, Who, World};

/// Before this the cluster forms itself; what moves later is meant.
const FROM: Duration = Duration::from_secs(1004);

/// How long a victim is away: shorter than its lease lives, as a restart is, so that its successor finds the move as it was.
const AWAY: Duration = Duration::from_millis(400);

/// How far a move of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The learner is in the placement.
    LearnerAdded,
    /// A part of its snapshot is under way.
    Snapshot,
    /// A write that takes it into the in-sync set is under way.
    Proposed,
    /// It is primary in the placement.
    Switched,
    /// An old seat is gone from the placement.
    Removed,
}

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The process that was primary when the move began.
    OldPrimary,
    /// The process that the slot moves to.
    NewNode,
    /// The other process that is in sync.
    OtherReplica,
    /// The process that wrote, or is about to write, the placement.
    Proposer,
    /// A router with members there.
    Router,
    /// etcd, which restarts on its data.
    Etcd,
}

/// What happens when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interrupt {
    /// At the first move that comes so far.
    pub phase: Phase,
    /// Who is struck.
    pub victim: Victim,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::LearnerAdded, Self::Snapshot, Self::Proposed, Self::Switched, Self::Removed];
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::OldPrimary, Self::NewNode, Self::OtherReplica, Self::Proposer, Self::Router, Self::Etcd];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LearnerAdded => "learner added",
            Self::Snapshot => "snapshot under way",
            Self::Proposed => "in-sync proposed",
            Self::Switched => "switched",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OldPrimary => "old primary",
            Self::NewNode => "new node",
            Self::OtherReplica => "other replica",
            Self::Proposer => "proposer",
            Self::Router => "router",
            Self::Etcd => "etcd",
        })
    }
}

/// The first move that began.
#[derive(Debug, Clone)]
pub(super) struct Move {
    slot: SlotId,
    /// As it was before.
    before: SlotRecord,
    new: Seat,
}

/// What has come of an interruption so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    moving: Option<Move>,
    struck: bool,
}

impl Move {
    /// The first slot that has a learner in `now` and had none in `before`.
    fn begun(before: &Placement, now: &Placement) -> Option<Self> {
        let slots = (0..).map(SlotId).zip(before.slots.iter().zip(&now.slots));
        slots.into_iter().find_map(|(slot, (before, now))| {
            let new = now.learners.iter().find(|s| before.seat_of(s.incarnation).is_none())?;
            Some(Self { slot, before: before.clone(), new: *new })
        })
    }

    /// The phase that this step of the slot's record shows.
    fn shows(&self, before: &SlotRecord, now: &SlotRecord) -> Option<Phase> {
        let gone = |s: &Seat| !now.seats().any(|n| n == *s);
        if before.seats().any(|s| gone(&s)) {
            return Some(Phase::Removed);
        }
        (now.primary != before.primary).then_some(Phase::Switched)
    }
}

impl World {
    /// Looks at an event that is about to happen: strikes if it is the phase that is waited for.
    pub(super) fn before(&mut self, event: &Event) {
        let Some(interrupt) = self.interrupt.filter(|_| !self.progress.struck) else { return };
        let Some(moving) = self.progress.moving.clone() else { return };
        let (phase, proposer) = match event {
            Event::Deliver { message: Message::Peer(message), .. } => {
                let snapshot = matches!(message.kind, Some(v1::replication::Kind::Snapshot(_)));
                if !snapshot || message.slot != moving.slot.0 {
                    return;
                }
                (Phase::Snapshot, None)
            }
            Event::AtEtcd { node, request: Request::Propose { placement, .. }, .. } => {
                let takes_in = placement.slot(moving.slot).is_some_and(|r| r.in_sync.contains(&moving.new));
                if !takes_in {
                    return;
                }
                (Phase::Proposed, Some(*node))
            }
            _ => return,
        };
        if phase == interrupt.phase {
            self.strike(interrupt, &moving, proposer);
        }
    }

    /// Looks at what a write of `node` made of the placement.
    pub(super) fn after_write(&mut self, before: &Placement, node: usize) {
        let Some(interrupt) = self.interrupt.filter(|_| !self.progress.struck && self.now > Time(FROM)) else { return };
        let Some(now) = self.etcd.now.placement.clone() else { return };
        let moving = match &self.progress.moving {
            Some(moving) => moving.clone(),
            None => {
                let Some(begun) = Move::begun(before, &now) else { return };
                self.progress.moving = Some(begun.clone());
                if interrupt.phase == Phase::LearnerAdded {
                    self.strike(interrupt, &begun, Some(node));
                }
                return;
            }
        };
        let (Some(before), Some(now)) = (before.slot(moving.slot), now.slot(moving.slot)) else { return };
        // A write may switch and remove at once: then it is both.
        let switched = now.primary != before.primary && interrupt.phase == Phase::Switched;
        if switched || moving.shows(before, now) == Some(interrupt.phase) {
            self.strike(interrupt, &moving, Some(node));
        }
    }

    fn strike(&mut self, Interrupt { phase, victim }: Interrupt, moving: &Move, proposer: Option<usize>) {
        let of = |world: &Self, seat: Seat| world.nodes.iter().position(|n| n.me == Some(seat.incarnation));
        let other = moving.before.in_sync.iter().copied().find(|s| *s != moving.before.primary);
        let node = match victim {
            Victim::OldPrimary => of(self, moving.before.primary),
            Victim::NewNode => of(self, moving.new),
            Victim::OtherReplica => other.and_then(|seat| of(self, seat)),
            Victim::Proposer => proposer.or(self.last_writer),
            Victim::Router | Victim::Etcd => None,
        };
        self.progress.struck = true;
        self.say(&format!("struck: {phase}, {victim}"), || format!("{moving:?}"));
        let who = match victim {
            Victim::Etcd => {
                self.etcd.away = true;
                return self.after(AWAY, Event::EtcdBack);
            }
            Victim::Router => Who::Router(0),
            _ => match node {
                Some(node) => Who::Node(node),
                None => return self.progress.struck = false,
            },
        };
        self.crash(who);
        self.after(AWAY, Event::Restart(who));
    }
}
