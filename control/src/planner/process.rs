//! Who is alive, who is dead, and who belongs to the cluster.

use std::collections::{BTreeMap, BTreeSet};

use roomring_proto::{Incarnation, NodeId};

use super::{ByName, CONTACT_TTLS, History, Plan, ROUTERS_LET_GO, Situation, recreate_after};
use crate::clock::Time;
use crate::placement::{Cause, Change, Member, Placement};
use crate::ring::RingNode;
use crate::view::{ClusterView, Intents, NodeEntry};

/// The registered processes, by incarnation.
pub(super) struct Processes<'a> {
    registered: BTreeMap<Incarnation, (&'a NodeId, &'a NodeEntry)>,
    /// The latest process that holds each directory.
    homes: BTreeMap<&'a str, Incarnation>,
}

impl<'a> Processes<'a> {
    pub(super) fn new(view: &'a ClusterView) -> Self {
        let registered: BTreeMap<_, _> = view.nodes.iter().map(|(id, e)| (e.incarnation, (id, e))).collect();
        // Ascending, so that the last one wins.
        let homes = registered.iter().map(|(i, (_, e))| (e.home.as_str(), *i)).collect();
        Self { registered, homes }
    }

    pub(super) fn entry(&self, incarnation: Incarnation) -> Option<(&'a NodeId, &'a NodeEntry)> {
        self.registered.get(&incarnation).copied()
    }

    pub(super) fn is_registered(&self, incarnation: Incarnation) -> bool {
        self.registered.contains_key(&incarnation)
    }

    /// A later process holds the lock on its directory: it can't be running.
    pub(super) fn is_proved_dead(&self, incarnation: Incarnation, home: &str) -> bool {
        self.homes.get(home).is_some_and(|latest| *latest > incarnation)
    }

    /// A process that may be given something: registered and not proved dead.
    pub(super) fn is_live(&self, incarnation: Incarnation) -> bool {
        self.entry(incarnation).is_some_and(|(_, e)| !self.is_proved_dead(incarnation, &e.home))
    }

    /// From when on a listed process is out of the way as far as recreation goes: its key has been absent for so long that it
    /// can't serve any more, or it is proved dead and no router takes it for alive. `None` while neither will come by itself.
    pub(super) fn lost_at(&self, placement: &Placement, history: &History, incarnation: Incarnation) -> Option<Time> {
        let member = placement.members.get(&incarnation)?;
        let absent = history.absent_since(incarnation)?;
        let proved = self.is_proved_dead(incarnation, &member.home);
        Some(absent + if proved { ROUTERS_LET_GO } else { recreate_after(placement.settings.fence_after) })
    }

    /// Told to stop or to be drained: what it has is to go elsewhere.
    pub(super) fn is_leaving(&self, placement: &Placement, intents: &Intents, incarnation: Incarnation) -> bool {
        let drained = placement.members.get(&incarnation).is_some_and(|m| intents.drained.contains(&m.node));
        drained || self.entry(incarnation).is_some_and(|(_, e)| e.draining)
    }

    /// The members that slots may go to, each under its name as its latest process: those that leave are left out.
    pub(super) fn ring_members(&self, placement: &Placement, intents: &Intents) -> ByName {
        let members = placement.members.iter().filter(|(i, m)| m.active && !self.is_leaving(placement, intents, **i));
        let node = |m: &Member| RingNode {
            zone: m.zone.clone(),
            weight: intents.weights.get(&m.node).copied().unwrap_or(m.weight),
        };
        members.map(|(i, m)| (m.node.clone(), (*i, node(m)))).collect()
    }

    /// The registered processes that belong into a new placement.
    pub(super) fn founders(&self) -> impl Iterator<Item = (&'a NodeId, &'a NodeEntry)> + '_ {
        self.registered.iter().filter(|(i, (_, e))| !e.draining && self.is_live(**i)).map(|(_, entry)| *entry)
    }

    /// The registered processes that may be members of `placement`.
    pub(super) fn candidates(&self, placement: &Placement) -> Vec<(&'a NodeId, &'a NodeEntry)> {
        self.registered.iter().filter(|(i, _)| self.may_join(placement, **i)).map(|(_, entry)| *entry).collect()
    }

    /// Who was told to stop joins only to hand over seats that it still has; who can't read what members write must not be
    /// given anything.
    pub(super) fn may_join(&self, placement: &Placement, incarnation: Incarnation) -> bool {
        self.is_live(incarnation)
            && self.entry(incarnation).is_some_and(|(_, e)| {
                e.max_format >= placement.format && (!e.draining || placement.members.contains_key(&incarnation))
            })
    }
}

/// The place of `me` among those who may write the placement now, from 0: who waits `rank` times a moment before writing
/// seldom collides. For `absent` nobody waits.
pub fn rank(view: &ClusterView, absent: &BTreeSet<Incarnation>, me: Incarnation) -> usize {
    let nodes = view.nodes.values().map(|n| n.incarnation);
    let registered: BTreeSet<Incarnation> = nodes.filter(|i| *i == me || !absent.contains(i)).collect();
    let is_member =
        |i: &Incarnation| view.placement.as_ref().is_some_and(|p| p.members.get(i).is_some_and(|m| m.active));
    let writers = registered.iter().filter(|i| is_member(i)).count();
    if is_member(&me) {
        registered.range(..me).filter(|i| is_member(i)).count()
    } else {
        writers + registered.range(..me).filter(|i| !is_member(i)).count()
    }
}

/// The place of `me` among those who write what only they may propose, from 0: it goes round with every write, for each write
/// voids the words that the others based on the one before.
pub fn turn(view: &ClusterView, absent: &BTreeSet<Incarnation>, me: Incarnation) -> usize {
    let Some(placement) = &view.placement else { return 0 };
    let members = placement.members.iter().filter(|(i, m)| m.active && !absent.contains(i)).count().max(1);
    let round = usize::try_from(placement.version.0 % members as u64).unwrap_or(0);
    (rank(view, absent, me) + round) % members
}

/// Why `incarnation` is evicted in this situation; `None` if it is not.
pub fn cause_of_eviction(situation: &Situation<'_>, incarnation: Incarnation) -> Option<Cause> {
    Processes::new(situation.view).cause_of_eviction(situation, incarnation)
}

impl Processes<'_> {
    fn cause_of_eviction(&self, s: &Situation<'_>, incarnation: Incarnation) -> Option<Cause> {
        let placement = s.view.placement.as_deref()?;
        let member = placement.members.get(&incarnation).filter(|m| m.active)?;
        if incarnation == s.me {
            return None;
        }
        if self.is_proved_dead(incarnation, &member.home) {
            return Some(Cause::Replaced);
        }
        let answers = s.view.answers_since.is_some_and(|since| s.now.since(since) >= s.ttl * CONTACT_TTLS);
        // What is not there now may have been for a moment that the view has missed, but is not in a view that is whole.
        let contact = answers && s.history.whole_since().is_some();
        let gone = !self.is_registered(incarnation);
        let dead = s.evidence.dead.get(&incarnation).map(|death| death.cause);
        let lapsed = contact && gone && !s.evidence.answering.contains(&incarnation);
        if !lapsed && dead.is_none() {
            return None;
        }
        let left = gone && placement.slots.iter().all(|slot| slot.seat_of(incarnation).is_none());
        Some(if left { Cause::Left } else { dead.unwrap_or(Cause::Lapsed) })
    }
}

impl Plan<'_> {
    /// Evicts members that are proved dead, found dead by their heartbeats, or whose registration lapsed while this process
    /// was in contact.
    pub(super) fn evict_the_dead(&mut self) {
        let members = self.base.members.keys().copied();
        let found = members.filter_map(|i| Some((i, self.processes.cause_of_eviction(self.situation, i)?)));
        let mut dead: Vec<(Incarnation, Cause)> = found.collect();
        // Who goes last keeps the seats that they had in common: that should be who may be alive after all.
        dead.sort_by_key(|(i, cause)| match cause {
            Cause::Replaced | Cause::Refused => 0,
            _ if !self.processes.is_registered(*i) => 1,
            _ => 2,
        });
        for (incarnation, _) in dead {
            self.push(Change::Evict { incarnation });
            self.rooms_first |= self.situation.evidence.dead.contains_key(&incarnation);
        }
    }

    /// Registered processes become members; what members registered is taken over.
    pub(super) fn admit(&mut self) {
        for (id, entry) in self.processes.candidates(self.base) {
            let known = self.draft.placement().members.get(&entry.incarnation);
            match known.filter(|m| m.active) {
                Some(known) if *known == member(id, entry) => {}
                Some(_) => {
                    self.push(Change::Update { incarnation: entry.incarnation, member: member(id, entry) });
                }
                None if self.must_wait(id, entry.incarnation) => {}
                None => self.join((id, entry)),
            }
        }
    }

    /// A node evicted by evidence waits, longer each time; the process itself also until it is heard of again: it may be
    /// stopped or cut off, and registered all the same.
    fn must_wait(&self, id: &NodeId, incarnation: Incarnation) -> bool {
        let s = self.situation;
        let silent = s.history.was_evicted(incarnation) && !s.evidence.answering.contains(&incarnation);
        silent || s.history.rejoins_at(id, s.now).is_some_and(|at| s.now < at)
    }

    pub(super) fn join(&mut self, (id, entry): (&NodeId, &NodeEntry)) {
        self.push(Change::Join { incarnation: entry.incarnation, member: member(id, entry) });
    }
}

pub(super) fn member(id: &NodeId, entry: &NodeEntry) -> Member {
    Member {
        node: id.clone(),
        home: entry.home.clone(),
        grpc_addr: entry.grpc_addr.clone(),
        zone: entry.zone.clone(),
        weight: entry.weight,
        active: true,
        max_format: entry.max_format,
        watch_addr: entry.watch_addr.clone(),
    }
}
