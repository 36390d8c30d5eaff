//! Every change of the placement, as guarded transitions.

use std::collections::BTreeSet;
use std::fmt;

use roomring_proto::{Generation, Incarnation, NodeId, Seat, SlotId, Term};

use super::{Member, Placement, SlotRecord};

/// One change of the placement. Several go into one write, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A registered process becomes a member, for the first time or again; seats it kept stay its own.
    Join {
        /// The process.
        incarnation: Incarnation,
        /// What it registered. `active` is taken as true.
        member: Member,
    },
    /// What a member registered has changed.
    Update {
        /// The process.
        incarnation: Incarnation,
        /// What it registered. `active` is taken as true.
        member: Member,
    },
    /// A new seat that catches up from the primary.
    AddLearner {
        /// Where.
        slot: SlotId,
        /// Whose.
        incarnation: Incarnation,
    },
    /// A learner counts for every commit from now on. Proposed by the primary of `term` for a seat that holds
    /// everything up to the commit point.
    IntoSync {
        /// Where.
        slot: SlotId,
        /// The learner.
        seat: Seat,
        /// The slot's term when the primary said so.
        term: Term,
    },
    /// Another in-sync seat becomes primary; the term rises.
    Switch {
        /// Where.
        slot: SlotId,
        /// The new primary.
        to: Seat,
    },
    /// A seat other than the primary's goes.
    RemoveSeat {
        /// Where.
        slot: SlotId,
        /// The seat.
        seat: Seat,
    },
    /// A process found dead stops being a member. Its seats go wherever another in-sync seat remains; where it was primary
    /// the next in-sync one is, and the term rises.
    Evict {
        /// The process.
        incarnation: Incarnation,
    },
    /// A slot whose every in-sync seat is lost starts empty: generation and term rise. Its conditions are about time and
    /// evidence: the planner's business.
    Recreate {
        /// Where.
        slot: SlotId,
        /// The slot's term when its loss was established.
        term: Term,
        /// The process that gets the one seat.
        on: Incarnation,
    },
    /// A primary found that another member does not acknowledge what it sends: it gets no seat where the first is primary,
    /// until [`Change::Mend`].
    Part {
        /// Who found it.
        by: Incarnation,
        /// Who does not acknowledge.
        other: Incarnation,
    },
    /// They hear each other again.
    Mend {
        /// Who found it.
        by: Incarnation,
        /// Who did not acknowledge.
        other: Incarnation,
    },
    /// An evicted process without a seat is no longer listed.
    Forget {
        /// The process.
        incarnation: Incarnation,
    },
}

/// A change that does not fit the placement it was applied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{change}: {problem}")]
pub struct Rejected {
    change: String,
    problem: &'static str,
}

/// A placement being written: takes changes one after the other, and becomes the next version.
#[derive(Debug, Clone)]
pub struct Draft {
    next: Placement,
    changed: bool,
    evicted: BTreeSet<Incarnation>,
}

impl Placement {
    /// Starts the next version.
    pub fn draft(&self) -> Draft {
        let mut next = self.clone();
        next.version = self.version.next();
        Draft { next, changed: false, evicted: BTreeSet::new() }
    }

    /// The next version, with all of `changes`.
    ///
    /// # Errors
    /// The first change that does not fit.
    pub fn with(&self, changes: &[Change]) -> Result<Self, Rejected> {
        let mut draft = self.draft();
        for change in changes {
            draft.apply(change)?;
        }
        Ok(draft.finish())
    }
}

impl Draft {
    /// The placement as it would be written now.
    pub fn placement(&self) -> &Placement {
        &self.next
    }

    /// Whether anything was applied.
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// The next version.
    pub fn finish(self) -> Placement {
        self.next
    }

    /// Applies one change.
    ///
    /// # Errors
    /// If it does not fit what the draft holds. The draft is as before then.
    pub fn apply(&mut self, change: &Change) -> Result<(), Rejected> {
        let result = match change {
            Change::Join { incarnation, member } => self.join(*incarnation, member),
            Change::Update { incarnation, member } => self.update(*incarnation, member),
            Change::AddLearner { slot, incarnation } => self.add_learner(*slot, *incarnation),
            Change::IntoSync { slot, seat, term } => self.take_in(*slot, *seat, *term),
            Change::Switch { slot, to } => self.switch(*slot, *to),
            Change::RemoveSeat { slot, seat } => self.remove_seat(*slot, *seat),
            Change::Evict { incarnation } => self.evict(*incarnation),
            Change::Recreate { slot, term, on } => self.recreate(*slot, *term, *on),
            Change::Part { by, other } => self.part(*by, *other),
            Change::Mend { by, other } => self.mend(*by, *other),
            Change::Forget { incarnation } => self.forget(*incarnation),
        };
        result.map_err(|problem| Rejected { change: change.to_string(), problem })?;
        self.changed = true;
        Ok(())
    }

    fn join(&mut self, incarnation: Incarnation, member: &Member) -> Result<(), &'static str> {
        require(incarnation.0 != 0, "incarnation 0")?;
        require(!self.is_active(incarnation), "is a member")?;
        // A seat given up and taken again within one version would be the same seat twice.
        require(!self.evicted.contains(&incarnation), "evicted in this write")?;
        require(self.latest_of(&member.node).is_none_or(|i| i < incarnation), "a later process has its name")?;
        if let Some(known) = self.next.members.get(&incarnation) {
            require(known.node == member.node, "is known under another name")?;
        }
        self.next.members.insert(incarnation, Member { active: true, ..member.clone() });
        Ok(())
    }

    fn update(&mut self, incarnation: Incarnation, member: &Member) -> Result<(), &'static str> {
        require(self.is_active(incarnation), "not a member")?;
        let known = self.next.members.get_mut(&incarnation).ok_or("not a member")?;
        require(known.node == member.node, "is known under another name")?;
        *known = Member { active: true, ..member.clone() };
        Ok(())
    }

    fn add_learner(&mut self, slot: SlotId, incarnation: Incarnation) -> Result<(), &'static str> {
        require(self.is_active(incarnation), "not a member")?;
        let since = self.next.version;
        let record = self.record(slot)?;
        require(record.seat_of(incarnation).is_none(), "has a seat there")?;
        record.learners.push(Seat { incarnation, since });
        Ok(())
    }

    fn take_in(&mut self, slot: SlotId, seat: Seat, term: Term) -> Result<(), &'static str> {
        require(self.is_active(seat.incarnation), "not a member")?;
        let record = self.record(slot)?;
        require(record.term == term, "said in another term")?;
        let at = record.learners.iter().position(|s| *s == seat).ok_or("no such learner")?;
        record.learners.remove(at);
        record.in_sync.push(seat);
        Ok(())
    }

    fn switch(&mut self, slot: SlotId, to: Seat) -> Result<(), &'static str> {
        require(self.is_active(to.incarnation), "not a member")?;
        let record = self.record(slot)?;
        require(record.in_sync.contains(&to), "not in sync")?;
        require(record.primary != to, "is primary")?;
        record.primary = to;
        record.term = record.term.next();
        Ok(())
    }

    fn remove_seat(&mut self, slot: SlotId, seat: Seat) -> Result<(), &'static str> {
        let version = self.next.version;
        let record = self.record(slot)?;
        require(record.primary != seat, "is primary")?;
        require(record.seats().any(|s| s == seat), "no such seat")?;
        require(seat.since != version, "added in this write")?;
        record.drop_seat(seat);
        Ok(())
    }

    fn evict(&mut self, incarnation: Incarnation) -> Result<(), &'static str> {
        require(self.is_active(incarnation), "not a member")?;
        let member = self.next.members.get_mut(&incarnation).ok_or("not a member")?;
        member.active = false;
        self.next.apart.retain(|(a, b)| *a != incarnation && *b != incarnation);
        self.evicted.insert(incarnation);
        let members = &self.next.members;
        for record in &mut self.next.slots {
            let Some(seat) = record.seat_of(incarnation) else { continue };
            if record.in_sync == [seat] {
                continue; // The last copy: it stays, and the slot is offline.
            }
            record.drop_seat(seat);
            if record.primary == seat {
                let active = |s: &&Seat| members.get(&s.incarnation).is_some_and(|m| m.active);
                record.primary = *record.in_sync.iter().find(active).unwrap_or(&record.in_sync[0]);
                record.term = record.term.next();
            }
        }
        Ok(())
    }

    fn recreate(&mut self, slot: SlotId, term: Term, on: Incarnation) -> Result<(), &'static str> {
        require(self.is_active(on), "not a member")?;
        let since = self.next.version;
        let record = self.record(slot)?;
        require(record.term == term, "established in another term")?;
        require(record.seats().all(|s| s.since != since), "a seat was added in this write")?;
        let seat = Seat { incarnation: on, since };
        *record = SlotRecord {
            term: record.term.next(),
            primary: seat,
            in_sync: vec![seat],
            learners: Vec::new(),
            generation: record.generation.next(),
        };
        Ok(())
    }

    fn part(&mut self, by: Incarnation, other: Incarnation) -> Result<(), &'static str> {
        require(by != other, "is one process")?;
        require(self.is_active(by) && self.is_active(other), "not two members")?;
        require(self.next.apart.insert((by, other)), "is known")
    }

    fn mend(&mut self, by: Incarnation, other: Incarnation) -> Result<(), &'static str> {
        require(self.next.apart.remove(&(by, other)), "is not so")
    }

    fn forget(&mut self, incarnation: Incarnation) -> Result<(), &'static str> {
        require(self.next.members.contains_key(&incarnation), "not listed")?;
        require(!self.is_active(incarnation), "is a member")?;
        require(self.next.slots.iter().all(|s| s.seat_of(incarnation).is_none()), "has a seat")?;
        self.next.members.remove(&incarnation);
        Ok(())
    }

    fn is_active(&self, incarnation: Incarnation) -> bool {
        self.next.members.get(&incarnation).is_some_and(|m| m.active)
    }

    /// The latest active process under `node`.
    fn latest_of(&self, node: &NodeId) -> Option<Incarnation> {
        self.next.members.iter().rev().find(|(_, m)| m.active && m.node == *node).map(|(i, _)| *i)
    }

    fn record(&mut self, slot: SlotId) -> Result<&mut SlotRecord, &'static str> {
        self.next.slots.get_mut(slot.0 as usize).ok_or("no such slot")
    }
}

impl SlotRecord {
    /// A slot that starts empty with these seats, the first as primary; `None` without any.
    pub(crate) fn fresh(seats: Vec<Seat>) -> Option<Self> {
        let primary = *seats.first()?;
        Some(Self { term: Term(1), primary, in_sync: seats, learners: Vec::new(), generation: Generation(1) })
    }

    fn drop_seat(&mut self, seat: Seat) {
        self.in_sync.retain(|s| *s != seat);
        self.learners.retain(|s| *s != seat);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { incarnation, member } => write!(f, "join {} {incarnation}", member.node),
            Self::Update { incarnation, member } => write!(f, "update {} {incarnation}", member.node),
            Self::AddLearner { slot, incarnation } => write!(f, "add learner {incarnation} to {slot}"),
            Self::IntoSync { slot, seat, term } => write!(f, "into sync {} in {slot} {term}", seat.incarnation),
            Self::Switch { slot, to } => write!(f, "switch {slot} to {}", to.incarnation),
            Self::RemoveSeat { slot, seat } => write!(f, "remove {} from {slot}", seat.incarnation),
            Self::Evict { incarnation } => write!(f, "evict {incarnation}"),
            Self::Recreate { slot, on, .. } => write!(f, "recreate {slot} on {on}"),
            Self::Part { by, other } => write!(f, "part {by} and {other}"),
            Self::Mend { by, other } => write!(f, "mend {by} and {other}"),
            Self::Forget { incarnation } => write!(f, "forget {incarnation}"),
        }
    }
}

fn require(holds: bool, problem: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(problem) }
}
