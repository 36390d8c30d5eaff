//! One slot at one process: a replica of its log, and the primary's part when the placement says so.
//!
//! Pure: [`Slot::handle`] takes an input and the time and pushes outputs; `worker.rs` performs them. The protocol is
//! PacificA: the primary orders, every in-sync seat acknowledges, and the placement in etcd says who those are.
//!
//! - [`replica`]: what every seat does: follow the primary, hold the log, apply up to the commit point.
//! - [`leader`]: promotion, catch-up of the other seats, the commit point, proposals.
//! - [`serve`]: the primary's answers to routers.

mod catchup;
#[doc(hidden)]
pub mod inspect;
mod leader;
mod log;
mod replica;
mod rules;
mod serve;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::placement::{Retention, RoomLimits, SlotRecord};
use roomring_proto::v1::router_message::Kind as FromRouter;
use roomring_proto::{Incarnation, PlacementRef, Seat, SlotId, Term, Uid, Version, v1};

use self::leader::Leader;
use self::replica::Replica;
pub use self::rules::{Rule, Rules};
pub use self::serve::refuse;

/// One open link of a router; unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What a slot is made with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// The placement's history; another uid needs another `Slot`.
    pub uid: Uid,
    /// Which slot.
    pub slot: SlotId,
    /// Of how many: a room of another slot is refused.
    pub slots: u32,
    /// This process.
    pub me: Incarnation,
    /// Caps on rooms.
    pub limits: RoomLimits,
    /// How much of the applied log is kept.
    pub retention: Retention,
    /// How long members of a vanished router stay.
    pub presence_grace: Duration,
    /// All of them, but in checks.
    pub rules: Rules,
}

/// The world at the moment of an input.
#[derive(Debug, Clone, Copy)]
pub struct Env {
    /// Now, on a clock that counts suspended time.
    pub now: Time,
    /// Now, Unix time in ms, for people and for ages.
    pub wall_ms: u64,
    /// This process's last contact with etcd.
    pub contact: Option<Time>,
    /// How old contact may be for a primary to serve.
    pub fence_after: Duration,
    /// In-sync seats without which publishes are neither taken nor acknowledged.
    pub min_in_sync: u32,
}

impl Env {
    /// Whether a primary may acknowledge, deliver and answer.
    fn in_contact(&self) -> bool {
        self.contact.is_some_and(|c| self.now.since(c) < self.fence_after)
    }
}

/// What happens to a slot.
#[derive(Debug)]
pub enum Input {
    /// A placement was adopted: this slot's record in it.
    Placement {
        /// The placement's version.
        version: Version,
        /// The record.
        record: SlotRecord,
    },
    /// A placement was adopted that has the same record for this slot as the one before.
    Unchanged {
        /// The placement's version.
        version: Version,
    },
    /// The stream that this process opened to that one is up: what is sent on it arrives in order or the stream ends.
    PeerUp(Incarnation),
    /// It ended; what was under way may be lost.
    PeerDown(Incarnation),
    /// A message about this slot from another replica, on either stream.
    Peer(v1::Replication),
    /// A router's link is up.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The router process.
        router: Incarnation,
    },
    /// The router of a link that is up wants to be told who comes and goes.
    Listens(LinkId),
    /// It ended.
    LinkDown(LinkId),
    /// A router's message about this slot.
    Router {
        /// On this link.
        link: LinkId,
        /// The message.
        message: v1::router_message::Kind,
    },
    /// Time passed; see [`Slot::next_deadline`].
    Tick,
}

/// What a slot wants done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send to another replica: probes, appends and snapshots on the stream that this process opened, answers on theirs.
    Peer {
        /// The process.
        to: Incarnation,
        /// The message.
        message: v1::Replication,
    },
    /// Send to a router.
    Router {
        /// On this link.
        link: LinkId,
        /// The message.
        message: v1::NodeMessage,
    },
    /// Propose that this learner goes in sync. Only a write based on the very placement version `base` may contain it: the
    /// primary waits for the seat's acknowledgements until it has seen a later one.
    Ready {
        /// The slot.
        slot: SlotId,
        /// The learner.
        seat: Seat,
        /// The primary's term.
        term: Term,
        /// The placement version known to the primary.
        base: Version,
    },
    /// This seat has owed an answer for too long. Said again while it lasts.
    Unanswered {
        /// The slot.
        slot: SlotId,
        /// The seat.
        seat: Seat,
    },
}

/// What the parts of a slot know besides their own state.
struct Ctx<'a> {
    config: &'a Config,
    env: &'a Env,
    version: Version,
    record: &'a SlotRecord,
    links: &'a BTreeMap<LinkId, Incarnation>,
    listeners: &'a BTreeSet<LinkId>,
    up: &'a BTreeSet<Incarnation>,
}

impl Ctx<'_> {
    fn placement(&self) -> PlacementRef {
        PlacementRef { uid: self.config.uid, version: self.version }
    }
}

/// One slot at one process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slot {
    config: Config,
    view: Option<(Version, SlotRecord)>,
    /// Highest term seen in a view or a message.
    seen_term: Term,
    replica: Option<Replica>,
    /// Present while this seat is primary and knows of no higher term.
    leader: Option<Leader>,
    up: BTreeSet<Incarnation>,
    links: BTreeMap<LinkId, Incarnation>,
    /// Those of them that are told who comes and goes.
    listeners: BTreeSet<LinkId>,
}

impl Slot {
    /// A slot in which this process holds nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            view: None,
            seen_term: Term(0),
            replica: None,
            leader: None,
            up: BTreeSet::new(),
            links: BTreeMap::new(),
            listeners: BTreeSet::new(),
        }
    }

    /// Whether this process holds no seat here.
    pub fn is_empty(&self) -> bool {
        self.replica.is_none()
    }

    /// When [`Input::Tick`] is due; `None` while time alone changes nothing.
    pub fn next_deadline(&self) -> Option<Time> {
        self.leader.as_ref().and_then(Leader::next_deadline)
    }

    /// For people.
    pub fn status(&self) -> v1::SlotStatus {
        use v1::slot_status::Role;
        let mut status = v1::SlotStatus { slot: self.config.slot.0, term: self.seen_term.0, ..Default::default() };
        let Some(replica) = &self.replica else { return status };
        let learner = self.view.as_ref().is_some_and(|(_, r)| r.learners.contains(&replica.seat));
        let named_primary = self.view.as_ref().is_some_and(|(_, r)| r.primary == replica.seat);
        status.role = match &self.leader {
            Some(l) if l.is_promoted() => Role::Primary,
            Some(_) => Role::Promoting,
            None if learner => Role::Learner,
            None if named_primary => Role::Fenced,
            None => Role::Replica,
        }
        .into();
        status.generation = replica.generation.0;
        status.last = replica.log.last().0;
        status.commit = replica.commit.0;
        status.rooms = replica.rooms.len() as u64;
        status.members = replica.rooms.members() as u64;
        status.bytes = (replica.rooms.bytes() + replica.log.bytes()) as u64;
        status
    }

    /// Takes one input and does what became possible.
    pub fn handle(&mut self, env: &Env, input: Input, out: &mut Vec<Output>) {
        self.take(env, input, out);
        self.settle(env, out);
    }

    /// Takes one input. What it makes possible is done by [`Self::settle`], once for all inputs of a turn: then one append
    /// carries all their entries, and one acknowledgement commits them.
    pub fn take(&mut self, env: &Env, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Placement { version, record } => self.on_placement(env, version, record, out),
            Input::Unchanged { version } => {
                if let Some((seen, _)) = &mut self.view {
                    *seen = version.max(*seen);
                }
                if !self.awaits_version() {
                    return;
                }
                self.lead(env, out, |leader, replica, ctx, out| leader.on_view(replica, ctx, out));
            }
            Input::PeerUp(peer) => {
                self.up.insert(peer);
                self.lead(env, out, |leader, replica, ctx, out| leader.on_peer_up(peer, replica, ctx, out));
            }
            Input::PeerDown(peer) => {
                self.up.remove(&peer);
                if let Some(leader) = &mut self.leader {
                    leader.on_peer_down(peer);
                }
            }
            Input::Peer(message) => self.on_peer(env, message, out),
            Input::LinkUp { link, router } => {
                self.links.insert(link, router);
            }
            Input::Listens(link) => {
                self.listeners.insert(link);
            }
            Input::LinkDown(link) => {
                self.listeners.remove(&link);
                if let Some(router) = self.links.remove(&link)
                    && let Some(leader) = &mut self.leader
                {
                    leader.on_link_down(link, router, env.now + self.config.presence_grace);
                }
            }
            Input::Router { link, message } => {
                if matches!(message, FromRouter::History(_) | FromRouter::PresenceQuery(_)) {
                    // Who looks sees what the same turn brought before.
                    self.settle(env, out);
                }
                self.on_router(env, link, message, out);
            }
            Input::Tick => self.lead(env, out, |leader, replica, ctx, out| leader.on_tick(replica, ctx, out)),
        }
    }

    /// Whether something hangs on the placement's version alone: a later one says that a proposal has not landed.
    pub fn awaits_version(&self) -> bool {
        self.leader.as_ref().is_some_and(|l| !l.proposed.is_empty())
    }

    /// Does what the inputs since the last time made possible.
    pub fn settle(&mut self, env: &Env, out: &mut Vec<Output>) {
        self.lead(env, out, |leader, replica, ctx, out| leader.settle(replica, ctx, out));
    }

    /// Runs `f` if this seat is primary.
    fn lead<F>(&mut self, env: &Env, out: &mut Vec<Output>, f: F)
    where
        F: FnOnce(&mut Leader, &mut Replica, &Ctx<'_>, &mut Vec<Output>),
    {
        if let (Some(leader), Some(replica), Some((version, record))) =
            (&mut self.leader, &mut self.replica, &self.view)
        {
            let links = &self.links;
            let ctx = Ctx {
                config: &self.config,
                env,
                version: *version,
                record,
                links,
                listeners: &self.listeners,
                up: &self.up,
            };
            f(leader, replica, &ctx, out);
        }
    }

    fn on_placement(&mut self, env: &Env, version: Version, record: SlotRecord, out: &mut Vec<Output>) {
        if self.view.as_ref().is_some_and(|(v, _)| *v >= version) {
            return;
        }
        let mine = record.seat_of(self.config.me);
        if let Some(replica) = &self.replica
            && (Some(replica.seat) != mine || replica.generation != record.generation)
        {
            self.step_down(record.term, out);
            match (&mut self.replica, mine) {
                (Some(kept), Some(seat)) if !self.config.rules.keep(Rule::DropsDataWithSeat) => {
                    (kept.seat, kept.generation) = (seat, record.generation);
                }
                _ => self.replica = None,
            }
        }
        if self.replica.is_none()
            && let Some(seat) = mine
        {
            // A seat that is in sync from its first moment belongs to a new generation, which begins empty.
            let filled = record.in_sync.contains(&seat);
            self.replica = Some(Replica::new(&self.config, seat, record.generation, filled));
        }
        self.seen_term = self.seen_term.max(record.term);
        let leads = self.replica.as_ref().is_some_and(|r| r.filled && r.seat == record.primary)
            && record.term == self.seen_term;
        match &mut self.leader {
            Some(leader) if leads && !self.config.rules.keep(Rule::PromotesEveryTerm) => leader.carry_on(record.term),
            Some(leader) if !leads || leader.term() != record.term => self.step_down(self.seen_term, out),
            _ => {}
        }
        let begins = leads && self.leader.is_none();
        let term = record.term;
        self.view = Some((version, record));
        if begins && let Some(replica) = &mut self.replica {
            replica.synced_term = term;
            if !self.config.rules.keep(Rule::KeepsOwnTail) {
                replica.log.truncate_after(replica.commit);
            }
            let grace = env.now + self.config.presence_grace;
            self.leader = Some(Leader::new(term, replica, grace));
        }
        self.lead(env, out, |leader, replica, ctx, out| leader.on_view(replica, ctx, out));
    }

    /// Stops acknowledging and delivering, and tells the routers.
    fn step_down(&mut self, term: Term, out: &mut Vec<Output>) {
        let Some(leader) = self.leader.take() else { return };
        let placement = self.placement();
        for link in leader.links() {
            out.push(serve::not_primary(link, self.config.slot, term, placement));
        }
    }

    fn placement(&self) -> PlacementRef {
        let version = self.view.as_ref().map_or(Version(0), |(v, _)| *v);
        PlacementRef { uid: self.config.uid, version }
    }

    fn on_peer(&mut self, env: &Env, message: v1::Replication, out: &mut Vec<Output>) {
        use v1::refused::Reason;
        use v1::replication::Kind;
        let v1::Replication { generation, term, from: Some(from), to: Some(to), kind: Some(kind), .. } = message else {
            return;
        };
        let (from, to, term) = (Seat::from(from), Seat::from(to), Term(term));
        let rules = self.config.rules;
        let here = self
            .replica
            .as_ref()
            .is_some_and(|r| (r.seat == to && r.generation.0 == generation) || !rules.keep(Rule::SeatsNamed));
        if matches!(kind, Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_)) {
            if here {
                self.on_answer(env, from, term, kind, out);
            }
            return;
        }
        let answer = if !here {
            let reason = if to.since > self.placement().version { Reason::NotYet } else { Reason::NoSeat };
            refused(reason, self.seen_term)
        } else if term < self.seen_term && rules.keep(Rule::RefusesLowerTerm) {
            refused(Reason::HigherTerm, self.seen_term)
        } else {
            if term > self.seen_term {
                self.seen_term = term;
                if rules.keep(Rule::StopsAtHigherTerm) {
                    self.step_down(term, out);
                }
            }
            match &mut self.replica {
                // A leader here has this very term: there is no other primary of it, so this can't be for us.
                Some(replica) if self.leader.is_none() => {
                    let obeyed = if rules.keep(Rule::RefusesLowerTerm) { term } else { self.seen_term };
                    replica.follow(&self.config, obeyed, kind)
                }
                _ => return,
            }
        };
        out.push(Output::Peer {
            to: from.incarnation,
            message: v1::Replication {
                slot: self.config.slot.0,
                generation,
                term: term.0,
                from: Some(to.into()),
                to: Some(from.into()),
                placement: Some(self.placement().into()),
                kind: Some(answer),
            },
        });
    }

    /// What another seat answered to this one as the primary of `term`.
    fn on_answer(&mut self, env: &Env, from: Seat, term: Term, kind: v1::replication::Kind, out: &mut Vec<Output>) {
        if let v1::replication::Kind::Refused(r) = &kind
            && Term(r.term) > self.seen_term
        {
            self.seen_term = Term(r.term);
            if self.config.rules.keep(Rule::StopsAtHigherTerm) {
                self.step_down(self.seen_term, out);
            }
            return;
        }
        self.lead(env, out, |leader, replica, ctx, out| {
            if leader.term() == term || !ctx.config.rules.keep(Rule::CountsItsTermOnly) {
                leader.on_answer(from, kind, replica, ctx, out);
            }
        });
    }

    fn on_router(&mut self, env: &Env, link: LinkId, message: v1::router_message::Kind, out: &mut Vec<Output>) {
        if !self.links.contains_key(&link) {
            return;
        }
        if self.leader.is_none() || !env.in_contact() {
            if let Some(leader) = self.leader.as_mut().filter(|_| self.config.rules.keep(Rule::StaysShut)) {
                leader.shut(link);
            }
            refuse(link, self.config.slot, self.seen_term, self.placement(), &message, out);
            return;
        }
        self.lead(env, out, |leader, replica, ctx, out| leader.on_router(link, message, replica, ctx, out));
    }
}

fn refused(reason: v1::refused::Reason, term: Term) -> v1::replication::Kind {
    v1::replication::Kind::Refused(v1::Refused { reason: reason.into(), term: term.0 })
}
