//! A node process: the worker's slots, the planner, and the shells around them retold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_control::detector::{self, Death, Evidence};
use roomring_control::placement::Retention;
use roomring_control::placement::{Cause, Change, Eviction, Placement, Recent, RingParams, Settings};
use roomring_control::planner::{self, History, ReadySeat, Situation};
use roomring_control::view::ClusterView;
use roomring_node::core::{Event, Moment, Part, Shard};
use roomring_node::slot::{LinkId, Output, Rules};
use roomring_proto::{Incarnation, NodeId, Seat, SlotId, Uid, Version, v1};

use super::ears::Ears;
use super::etcd::{Reply, Request, Snapshot};
use super::net::Message;
use super::{FENCE, Mutant, SLOTS, TTL};

/// Before an eviction; before another write; between the turns of two ranks; without contact; between attempts: as in the coordinator.
const EVICTION: Duration = Duration::from_millis(1);
const BATCH: Duration = Duration::from_millis(5);
const RANK: Duration = Duration::from_millis(50);
const WORD: Duration = Duration::from_millis(4);
const WORDS_APART: usize = 4;
const FORMATION: Duration = Duration::from_millis(500);
const CONTACT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(500);
/// After this a write's outcome is unknown.
const WRITE_WITHIN: Duration = Duration::from_secs(1);
/// Between linearizable reads.
const READ_EVERY: Duration = Duration::from_millis(300);
/// Without a read that found the view in sync for so long it may have gaps.
const LAPSE: Duration = Duration::from_millis(1500);
/// What a slot said of a process that does not answer holds for this long.
const UNANSWERED: Duration = Duration::from_secs(1);
/// A busy worker's turn: what comes within it is done together.
const TURN: Duration = Duration::from_millis(1);
/// Between heartbeats.
pub(super) const BEAT: Duration = Duration::from_millis(150);
/// A stream on which nothing came for so long is given up.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// What a node wants done.
#[derive(Debug)]
pub(super) enum Do {
    Send {
        conn: u64,
        message: Message,
    },
    Ask(Request),
    Dial(Incarnation),
    /// Ask everybody else how long ago they heard of this one.
    AskAround(Incarnation),
    Break(u64),
    /// Note that this happened.
    Say(String),
    Exit,
}

/// By what nodes take others for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judge {
    /// The detector of production.
    Detector,
    /// By silence, at once: without a second opinion or a limit on how many. It must be safe all the same.
    Haste,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: NodeId,
    pub(super) life: u64,
    pub(super) up: bool,
    pub(super) me: Option<Incarnation>,
    pub(super) shard: Option<Shard>,
    pub(super) draining: bool,
    started: Option<Time>,
    pub(super) paused_until: Time,
    /// The clock of the watch: what it delivers comes in order.
    pub(super) watch_at: Time,
    replication: u32,
    mutant: Option<Mutant>,
    judge: Judge,
    ears: Option<Ears>,
    view: ClusterView,
    history: History,
    applied: i64,
    synced: Option<Time>,
    answered: Option<Time>,
    pending: Option<(Time, i64)>,
    ready: BTreeMap<(SlotId, Incarnation), ReadySeat>,
    unanswered: BTreeMap<Incarnation, Time>,
    due: Option<Time>,
    deadline: Option<Time>,
    /// The worker's turn ends: what it took is done.
    turn_ends: Option<Time>,
    attempts: u64,
    writing: Option<(u64, Time)>,
    read_at: Time,
    beat_at: Time,
    /// Streams that this process opened; `None` while one is being opened.
    peers: BTreeMap<Incarnation, Option<u64>>,
    dial_at: BTreeMap<Incarnation, Time>,
    callers: BTreeMap<Incarnation, u64>,
    links: BTreeMap<LinkId, Incarnation>,
    heard: BTreeMap<u64, (Incarnation, Time)>,
}

impl Node {
    pub(super) fn new(name: &str, replication: u32, mutant: Option<Mutant>, judge: Judge) -> Self {
        Self {
            name: NodeId::new(name).expect("a name"),
            life: 0,
            up: false,
            me: None,
            shard: None,
            draining: false,
            started: None,
            paused_until: Time::default(),
            watch_at: Time::default(),
            replication,
            mutant,
            judge,
            ears: None,
            view: ClusterView::default(),
            history: History::default(),
            applied: 0,
            synced: None,
            answered: None,
            pending: None,
            ready: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            due: None,
            deadline: None,
            turn_ends: None,
            attempts: 0,
            writing: None,
            read_at: Time::default(),
            beat_at: Time::default(),
            peers: BTreeMap::new(),
            dial_at: BTreeMap::new(),
            callers: BTreeMap::new(),
            links: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// A fresh process under the same name, in the same directory.
    pub(super) fn start(&mut self, now: Time) -> Vec<Do> {
        let life = self.life + 1;
        *self = Self {
            life,
            up: true,
            paused_until: now,
            watch_at: now,
            ..Self::new(self.name.as_str(), self.replication, self.mutant, self.judge)
        };
        self.started = Some(now);
        self.read_at = now + READ_EVERY;
        vec![Do::Ask(Request::Register)]
    }

    pub(super) fn placement(&self) -> Option<&Arc<Placement>> {
        self.view.placement.as_ref()
    }

    /// Streams at this process, with the process at the other end where it is a node.
    pub(super) fn streams(&self) -> Vec<u64> {
        let links = self.links.keys().map(|l| l.0);
        self.peers.values().flatten().chain(self.callers.values()).copied().chain(links).collect()
    }

    /// When it wants to be woken.
    pub(super) fn next_deadline(&self) -> Time {
        let shard = self.shard.as_ref().and_then(Shard::next_deadline);
        let dials = self.dial_at.values().min().copied();
        let write = self.writing.map(|(_, until)| until);
        let look = self.ears.as_ref().map(|ears| ears.look_at);
        [shard, dials, write, look, self.due, self.deadline, self.turn_ends]
            .into_iter()
            .flatten()
            .chain([self.read_at, self.beat_at])
            .min()
            .unwrap_or(self.read_at)
    }

    /// Lets time pass.
    pub(super) fn wake(&mut self, now: Time, wall_ms: u64, todo: &mut Vec<Do>) {
        if self.read_at <= now {
            self.read_at = now + READ_EVERY;
            match self.me {
                Some(incarnation) => {
                    let draining = self.draining;
                    todo.push(Do::Ask(Request::KeepAlive { incarnation, draining }));
                    todo.push(Do::Ask(Request::Read { sent: now }));
                }
                None => todo.push(Do::Ask(Request::Register)),
            }
        }
        self.notice_silence(now);
        self.turn_ends = None;
        let Some(shard) = &mut self.shard else {
            self.beat_at = now + BEAT;
            return;
        };
        let mut out = Vec::new();
        shard.tick(Moment { now, wall_ms }, &mut out);
        self.perform(now, out, todo);
        let contact_age = self.view.contact.map(|at| now.since(at));
        self.listen(now, todo, |ears| ears.look(now, contact_age));
        if self.beat_at <= now {
            self.beat_at = now + BEAT;
            let beat = Message::Beat(self.view.placement.clone(), contact_age);
            todo.extend(self.streams().into_iter().map(|conn| Do::Send { conn, message: beat.clone() }));
            let silent = self.heard.iter().filter(|(_, (_, at))| now.since(*at) > SILENCE).map(|(c, _)| *c);
            todo.extend(silent.map(Do::Break));
        }
        self.dial(now, todo);
        if self.writing.is_some_and(|(_, until)| until <= now) {
            self.writing = None;
            self.schedule(now + RETRY);
        }
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            let wait = if self.ready.is_empty() { self.turn() } else { self.own_turn() };
            self.schedule(now + wait);
        }
        if self.due.is_some_and(|at| at <= now) && self.writing.is_none() {
            self.due = None;
            self.propose(now, wall_ms, todo);
        }
    }

    /// Lets the detector take something.
    fn listen(&mut self, now: Time, todo: &mut Vec<Do>, f: impl FnOnce(&mut Ears) -> bool) {
        let Some(ears) = &mut self.ears else { return };
        let changed = f(ears);
        todo.extend(std::mem::take(&mut ears.asks).into_iter().map(Do::AskAround));
        if changed && self.judge == Judge::Detector {
            self.schedule(now + self.turn());
            self.plan_deadline(now);
        }
    }

    /// Another process said how long ago it heard of `about`.
    pub(super) fn opinion(&mut self, now: Time, about: Incarnation, silent_for: Option<Duration>, todo: &mut Vec<Do>) {
        self.listen(now, todo, |ears| ears.feed(now, detector::Event::Opinion { about, silent_for }));
    }

    /// How long ago it heard of `who`, as it says when it is asked.
    pub(super) fn silent_for(&self, now: Time, who: Incarnation) -> Option<Duration> {
        self.ears.as_ref()?.silent_for(now, who)
    }

    fn dial(&mut self, now: Time, todo: &mut Vec<Do>) {
        let Some(placement) = &self.view.placement else { return };
        let registered = self.view.nodes.values().map(|n| n.incarnation);
        let others = placement.members.keys().copied().chain(registered).filter(|i| Some(*i) != self.me);
        let others: BTreeSet<Incarnation> = others.collect();
        self.dial_at.retain(|i, _| others.contains(i));
        for other in others {
            let wait = self.dial_at.get(&other).is_some_and(|at| *at > now);
            if !wait && !self.peers.contains_key(&other) {
                self.dial_at.remove(&other);
                self.peers.insert(other, None);
                todo.push(Do::Dial(other));
            }
        }
    }

    /// The dial failed; `refused`: by the host, where the process does not run any more.
    pub(super) fn not_connected(
        &mut self,
        now: Time,
        other: Incarnation,
        again: Time,
        refused: bool,
        todo: &mut Vec<Do>,
    ) {
        if refused {
            self.listen(now, todo, |ears| ears.feed(now, detector::Event::Refused(other)));
        }
        if self.peers.get(&other) == Some(&None) {
            self.peers.remove(&other);
            self.dial_at.insert(other, again);
        }
    }

    /// A stream that this process opened is up.
    pub(super) fn connected(&mut self, now: Time, wall_ms: u64, other: Incarnation, conn: u64, todo: &mut Vec<Do>) {
        self.peers.insert(other, Some(conn));
        self.heard.insert(conn, (other, now));
        self.feed(now, wall_ms, Event::PeerUp(other), todo);
    }

    /// Another node opened a stream.
    pub(super) fn called(&mut self, now: Time, other: Incarnation, conn: u64) {
        self.callers.insert(other, conn);
        self.heard.insert(conn, (other, now));
    }

    /// A router opened a link.
    pub(super) fn linked(&mut self, now: Time, wall_ms: u64, router: Incarnation, conn: u64, todo: &mut Vec<Do>) {
        self.links.insert(LinkId(conn), router);
        self.feed(now, wall_ms, Event::LinkUp { link: LinkId(conn), router }, todo);
    }

    /// A stream is down.
    pub(super) fn disconnected(&mut self, now: Time, wall_ms: u64, conn: u64, again: Time, todo: &mut Vec<Do>) {
        self.heard.remove(&conn);
        if self.links.remove(&LinkId(conn)).is_some() {
            return self.feed(now, wall_ms, Event::LinkDown(LinkId(conn)), todo);
        }
        self.callers.retain(|_, c| *c != conn);
        if let Some(peer) = self.peers.iter().find(|(_, c)| **c == Some(conn)).map(|(p, _)| *p) {
            self.peers.remove(&peer);
            self.dial_at.insert(peer, again);
            self.listen(now, todo, |ears| ears.feed(now, detector::Event::Broken(peer)));
            self.feed(now, wall_ms, Event::PeerDown(peer), todo);
        }
    }

    pub(super) fn message(&mut self, now: Time, wall_ms: u64, conn: u64, message: Message, todo: &mut Vec<Do>) {
        let heard = self.heard.get_mut(&conn);
        let from = heard.map(|(from, at)| {
            *at = now;
            *from
        });
        match message {
            Message::Peer(message) => self.feed(now, wall_ms, Event::Peer(message), todo),
            Message::ToNode(message) => {
                if let Some(slot) = slot_of(&message) {
                    self.feed(now, wall_ms, Event::Router { link: LinkId(conn), slot, message }, todo);
                }
            }
            Message::Beat(placement, contact_age) => {
                if let Some(from) = from {
                    self.listen(now, todo, |ears| ears.heard(now, from, contact_age));
                }
                if let Some(placement) = placement {
                    self.offer(now, wall_ms, placement, todo);
                }
            }
            Message::FromNode(_) => {}
        }
    }

    fn offer(&mut self, now: Time, wall_ms: u64, placement: Arc<Placement>, todo: &mut Vec<Do>) {
        let newer =
            self.view.placement.as_ref().is_some_and(|p| p.uid == placement.uid && p.version < placement.version);
        if newer {
            self.view.placement = Some(placement);
            self.on_view(now);
            self.names(now, todo);
            self.adopt(now, wall_ms, todo);
        }
    }

    fn feed(&mut self, now: Time, wall_ms: u64, event: Event, todo: &mut Vec<Do>) {
        let Some(shard) = &mut self.shard else { return };
        let mut out = Vec::new();
        shard.take(Moment { now, wall_ms }, event, &mut out);
        self.turn_ends.get_or_insert(now + TURN);
        self.perform(now, out, todo);
    }

    fn perform(&mut self, now: Time, out: Vec<Output>, todo: &mut Vec<Do>) {
        for output in out {
            match output {
                Output::Router { link, message } => {
                    if let Some(kind) = message.kind.filter(|_| self.links.contains_key(&link)) {
                        todo.push(Do::Send { conn: link.0, message: Message::FromNode(kind) });
                    }
                }
                Output::Peer { to, message } => {
                    let conn = if is_answer(&message) {
                        self.callers.get(&to).copied()
                    } else {
                        self.peers.get(&to).copied().flatten()
                    };
                    if let Some(conn) = conn {
                        if self.mutant == Some(Mutant::EarlyAck)
                            && let Some(ack) = early_ack(&message)
                        {
                            todo.push(Do::Send { conn: SELF, message: Message::Peer(ack) });
                        }
                        todo.push(Do::Send { conn, message: Message::Peer(message) });
                    }
                }
                Output::Unanswered { seat, .. } => {
                    if self.unanswered.insert(seat.incarnation, now).is_none() {
                        self.schedule(now + BATCH);
                    }
                }
                Output::Ready { slot, seat, term, base } => {
                    let latest =
                        self.ready.entry((slot, seat.incarnation)).or_insert(ReadySeat { slot, seat, term, base });
                    if base >= latest.base {
                        *latest = ReadySeat { slot, seat, term, base };
                    }
                    self.schedule(now + self.own_turn());
                }
            }
        }
    }

    pub(super) fn reply(&mut self, now: Time, wall_ms: u64, reply: Reply, todo: &mut Vec<Do>) {
        match reply {
            Reply::Registered(incarnation, snapshot) => {
                if self.me.is_some() {
                    return;
                }
                self.me = Some(incarnation);
                self.ears = Some(Ears::new(incarnation, now));
                let rules = match self.mutant {
                    Some(Mutant::Off(rule)) => Rules::without(rule),
                    _ => Rules::default(),
                };
                self.shard = Some(Shard::new(Part { index: 0, of: 1 }, incarnation).with_rules(rules));
                (self.synced, self.answered) = (Some(now), Some(now));
                (self.view.unbroken_since, self.view.answers_since) = (Some(now), Some(now));
                self.watched(now, wall_ms, &snapshot, todo);
            }
            Reply::Superseded => todo.push(Do::Exit),
            Reply::Read { sent, revision, placement_revision, own } => {
                if own.is_some() && own == self.me && self.pending.is_none() {
                    self.pending = Some((sent, placement_revision));
                }
                self.notice_silence(now);
                self.answered = Some(now);
                if self.view.answers_since.is_none() {
                    self.view.answers_since = Some(now);
                    self.on_view(now);
                }
                if self.applied >= revision {
                    self.synced = Some(now);
                    if self.view.unbroken_since.is_none() {
                        self.view.unbroken_since = Some(now);
                        self.on_view(now);
                    }
                }
                self.settle_contact(now, wall_ms, todo);
            }
            Reply::Proposed { attempt, won } => {
                if self.writing.is_some_and(|(known, _)| known == attempt) {
                    self.writing = None;
                    if !won {
                        self.schedule(now + RETRY);
                    }
                }
            }
        }
    }

    /// The watch delivers what etcd held after some change.
    pub(super) fn watched(&mut self, now: Time, wall_ms: u64, snapshot: &Snapshot, todo: &mut Vec<Do>) {
        if self.me.is_none() || snapshot.revision < self.applied {
            return;
        }
        self.applied = snapshot.revision;
        self.view.nodes = snapshot.nodes.clone();
        self.view.node_revisions = snapshot.node_revisions.clone();
        self.view.intents = snapshot.intents.clone();
        let written = self.view.placement_revision != snapshot.placement_revision;
        self.view.placement_revision = snapshot.placement_revision;
        let newer = |p: &Arc<Placement>| self.view.placement.as_ref().is_none_or(|known| known.version < p.version);
        if let Some(placement) = snapshot.placement.as_ref().filter(|p| newer(p)) {
            self.view.placement = Some(placement.clone());
        }
        if written {
            self.due = None;
        }
        self.on_view(now);
        self.names(now, todo);
        self.settle_contact(now, wall_ms, todo);
        self.adopt(now, wall_ms, todo);
    }

    /// Tells the detector whom the view names.
    fn names(&mut self, now: Time, todo: &mut Vec<Do>) {
        let Some(placement) = self.view.placement.clone() else { return };
        let nodes = self.view.nodes.clone();
        self.listen(now, todo, |ears| ears.members(now, &placement, nodes.values().map(|n| n.incarnation)));
    }

    fn settle_contact(&mut self, now: Time, wall_ms: u64, todo: &mut Vec<Do>) {
        if let Some((sent, revision)) = self.pending
            && revision <= self.view.placement_revision
        {
            self.pending = None;
            self.view.contact = self.view.contact.max(Some(sent));
            self.adopt(now, wall_ms, todo);
        }
    }

    fn adopt(&mut self, now: Time, wall_ms: u64, todo: &mut Vec<Do>) {
        let Some(placement) = self.view.placement.clone() else { return };
        let contact = if self.mutant == Some(Mutant::EternalContact) {
            Some(now + Duration::from_secs(3600))
        } else {
            self.view.contact
        };
        self.feed(now, wall_ms, Event::Adopt { placement, contact }, todo);
    }

    fn notice_silence(&mut self, now: Time) {
        let over = |at: Option<Time>| at.is_none_or(|at| now.since(at) > LAPSE);
        let broke = over(self.synced) && self.view.unbroken_since.take().is_some();
        let fell_silent = over(self.answered) && self.view.answers_since.take().is_some();
        if broke || fell_silent {
            self.on_view(now);
        }
    }

    fn on_view(&mut self, now: Time) {
        self.history.observe(&self.view, now);
        if let Some(placement) = &self.view.placement
            && self.mutant != Some(Mutant::StaleReady)
        {
            self.ready.retain(|_, seat| seat.base >= placement.version);
        }
        self.schedule(now + self.turn());
        self.plan_deadline(now);
    }

    fn suspects(&self) -> BTreeSet<Incarnation> {
        let held = self.ears.as_ref().filter(|_| self.judge == Judge::Detector).map(|ears| &ears.held);
        held.map(|held| held.suspects.clone()).unwrap_or_default()
    }

    fn own_turn(&self) -> Duration {
        let turn = self.me.map_or(0, |me| planner::turn(&self.view, &self.suspects(), me));
        BATCH + WORD * u32::try_from(turn % WORDS_APART).unwrap_or(0)
    }

    fn turn(&self) -> Duration {
        let held = self.ears.as_ref().filter(|_| self.judge == Judge::Detector).map(|ears| &ears.held);
        let suspects = self.suspects();
        let rank = self.me.map_or(0, |me| planner::rank(&self.view, &suspects, me));
        let first = match &self.view.placement {
            Some(_) if held.is_some_and(|held| !held.dead.is_empty()) => EVICTION,
            Some(_) => BATCH,
            None => FORMATION,
        };
        first + RANK * u32::try_from(rank).unwrap_or(u32::MAX)
    }

    fn schedule(&mut self, at: Time) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn plan_deadline(&mut self, now: Time) {
        let evidence = self.evidence(now);
        let none = &BTreeSet::new();
        let next = self.situation(now, &BTreeSet::new(), none, &evidence).and_then(|s| planner::next_deadline(&s));
        self.deadline = next.map(|at| at.max(now + BATCH));
    }

    fn evidence(&self, now: Time) -> Evidence {
        match (self.judge, &self.ears) {
            (Judge::Detector, Some(ears)) => ears.held.clone(),
            (Judge::Detector, None) => Evidence::default(),
            (Judge::Haste, _) => self.hasty_evidence(now),
        }
    }

    /// Who was heard of a moment ago, and who was not.
    fn hasty_evidence(&self, now: Time) -> Evidence {
        let recent = |limit: Duration| -> BTreeSet<Incarnation> {
            self.heard.values().filter(|(_, at)| now.since(*at) < limit).map(|(i, _)| *i).collect()
        };
        let (answering, living) = (recent(BEAT * 4), recent(SILENCE));
        let placement = self.view.placement.iter();
        let members = placement.flat_map(|p| p.members.iter()).filter(|(_, m)| m.active).map(|(i, _)| *i);
        let old_enough = self.started.is_some_and(|at| now.since(at) > SILENCE * 2);
        let silent = members.filter(|i| Some(*i) != self.me && old_enough && !living.contains(i));
        let dead = silent.map(|i| (i, Death { cause: Cause::Silent, heard: None })).collect();
        Evidence { answering, dead, ..Evidence::default() }
    }

    fn situation<'a>(
        &'a self,
        now: Time,
        ready: &'a BTreeSet<ReadySeat>,
        unanswered: &'a BTreeSet<Incarnation>,
        evidence: &'a Evidence,
    ) -> Option<Situation<'a>> {
        let (view, history, me, ttl) = (&self.view, &self.history, self.me?, TTL);
        Some(Situation { view, history, now, me, ttl, ready, unanswered, evidence })
    }

    fn propose(&mut self, now: Time, wall_ms: u64, todo: &mut Vec<Do>) {
        if self.view.contact.is_none_or(|at| now.since(at) > CONTACT) {
            return self.schedule(now + RETRY);
        }
        let base_revision = self.view.placement_revision;
        let Some(base) = self.view.placement.clone() else {
            let settings = Settings {
                slots: SLOTS,
                replication: self.replication,
                fence_after: FENCE,
                presence_grace: Duration::from_secs(2),
                // Little, so that snapshots and gaps happen.
                retention: Retention { bytes: 4_000, age: Duration::from_secs(60) },
                ..Settings::default()
            };
            if let Some(placement) = planner::form(&self.view, settings, RingParams::for_slots(SLOTS), Uid(1)) {
                self.write(now, base_revision, placement, BTreeMap::new(), todo);
            }
            return;
        };
        let ready = self.ready_for(&base);
        let evidence = self.evidence(now);
        self.unanswered.retain(|_, at| now.since(*at) < UNANSWERED);
        let unanswered = self.unanswered.keys().copied().collect();
        let Some(situation) = self.situation(now, &ready, &unanswered, &evidence) else { return };
        let changes = planner::plan(&situation);
        if changes.is_empty() {
            return self.plan_deadline(now);
        }
        let revision = |node: &NodeId| self.view.node_revisions.get(node).copied().unwrap_or(0);
        let counts_on = planner::relied_on(&base, &changes).into_iter().map(|n| (n.clone(), revision(&n))).collect();
        let mut next = base.with(&changes).expect("a plan fits the placement that it was made for");
        let eviction = |change: &Change| {
            let Change::Evict { incarnation } = *change else { return None };
            let node = base.members.get(&incarnation)?.node.clone();
            let cause = planner::cause_of_eviction(&situation, incarnation)?;
            Some(Eviction { node, incarnation, cause, silent_for: None })
        };
        let evictions: Vec<Eviction> = changes.iter().filter_map(eviction).collect();
        for eviction in &evictions {
            todo.push(Do::Say(format!("evicted: {}", eviction.cause)));
        }
        next.recent.push(Recent {
            version: next.version,
            time_ms: wall_ms,
            by: self.name.clone(),
            text: String::new(),
            evictions,
            nodes: Vec::new(),
            slots: Vec::new(),
            slots_changed: 0,
            copying: None,
        });
        self.write(now, base_revision, next, counts_on, todo);
    }

    fn ready_for(&self, base: &Placement) -> BTreeSet<ReadySeat> {
        match self.mutant {
            Some(Mutant::StaleReady) => self.ready.values().map(|r| ReadySeat { base: base.version, ..*r }).collect(),
            Some(Mutant::UnreadyInSync) => {
                let slots = (0..).map(SlotId).zip(&base.slots);
                let of = |(slot, r): (SlotId, &roomring_control::placement::SlotRecord)| {
                    let (term, base) = (r.term, base.version);
                    r.learners.iter().map(move |seat| ReadySeat { slot, seat: *seat, term, base }).collect::<Vec<_>>()
                };
                slots.flat_map(of).collect()
            }
            _ => self.ready.values().filter(|r| r.base == base.version).copied().collect(),
        }
    }

    fn write(
        &mut self,
        now: Time,
        base_revision: i64,
        placement: Placement,
        counts_on: BTreeMap<NodeId, i64>,
        todo: &mut Vec<Do>,
    ) {
        self.attempts += 1;
        let attempt = self.attempts;
        self.writing = Some((attempt, now + WRITE_WITHIN));
        todo.push(Do::Ask(Request::Propose { base_revision, placement: Arc::new(placement), counts_on, attempt }));
    }

    /// The seat of this process in a slot of `placement`.
    pub(super) fn seat_in(&self, placement: &Placement, slot: SlotId) -> Option<Seat> {
        placement.slot(slot)?.seat_of(self.me?)
    }

    /// The version of its view.
    pub(super) fn version(&self) -> Version {
        self.view.placement.as_ref().map_or(Version(0), |p| p.version)
    }
}

/// A stream to oneself, for messages forged by a mutant.
pub(super) const SELF: u64 = 0;

fn is_answer(message: &v1::Replication) -> bool {
    use v1::replication::Kind;
    matches!(message.kind, Some(Kind::ProbeReply(_) | Kind::AppendAck(_) | Kind::SnapshotAck(_) | Kind::Refused(_)))
}

/// The acknowledgement that an append will bring, before it is there.
fn early_ack(message: &v1::Replication) -> Option<v1::Replication> {
    use v1::replication::Kind;
    let Some(Kind::Append(append)) = &message.kind else { return None };
    let lsn = append.entries.last()?.lsn;
    let kind = Some(Kind::AppendAck(v1::AppendAck { lsn }));
    Some(v1::Replication { from: message.to, to: message.from, kind, ..message.clone() })
}

fn slot_of(message: &v1::router_message::Kind) -> Option<SlotId> {
    use v1::router_message::Kind;
    match message {
        Kind::Attach(m) => Some(SlotId(m.slot)),
        Kind::Detach(m) => Some(SlotId(m.slot)),
        Kind::Publish(m) => Some(SlotId(m.slot)),
        Kind::Presence(m) => Some(SlotId(m.slot)),
        Kind::History(m) => Some(SlotId(m.slot)),
        Kind::PresenceQuery(m) => Some(SlotId(m.slot)),
        Kind::Retract(m) => m.publish.as_ref().map(|p| SlotId(p.slot)),
        Kind::Hello(_) | Kind::Heartbeat(_) | Kind::Placement(_) => None,
    }
}
