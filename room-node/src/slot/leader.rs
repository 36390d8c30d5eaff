//! The primary's half towards the other seats: promotion, catch-up, the commit point, proposals.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::{Incarnation, Lsn, RoomId, Seat, Term, Version, v1};

use super::catchup::Progress;
use super::replica::Replica;
use super::serve::{Answers, Due, HeldAttach, not_primary, visited};
use super::tail::Tail;
use super::{Ctx, LinkId, Output, Rule};
use crate::entry::{Body, Entry};
use crate::room::Rooms;

/// A seat that is told nothing else is told the commit point after this long, so that it applies what it holds. As a rule the
/// next entry tells it: sooner, a quiet room's every message would cost two more messages and their answers.
const COMMIT_NOTICE: Duration = Duration::from_secs(1);

/// A proposal is repeated after this long: the one before may have met a full queue.
const READY_REPEAT: Duration = Duration::from_millis(500);

/// A seat that counts for commits and has acknowledged nothing of what it owes for this long is given up: longer than it takes
/// to evict a process that hangs (its worker's 2 s, and a second opinion), so that only those that others hear well get here;
/// and short enough that publishes that wait for it are answered within their deadline of 4 s.
const UNANSWERED: Duration = Duration::from_millis(2500);

/// The same of a seat that nobody waits for: a large part of a snapshot may take its time.
const LEARNER_UNANSWERED: Duration = Duration::from_secs(5);

/// How often answers that are owed are looked for, and missing ones named.
const WATCH: Duration = Duration::from_millis(250);

/// A look that comes this late was held up here: answers may lie unread, so nobody is blamed.
const LATENESS: Duration = Duration::from_millis(500);

/// Ages are looked at no more often than this: one entry then serves every room of the slot that came due.
const AGE_STEP: Duration = Duration::from_secs(1);

/// Links, in order. There is one of them as a rule, and as many rooms as there are: a set would be far larger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Links(Vec<LinkId>);

impl Links {
    pub(super) fn insert(&mut self, link: LinkId) {
        if let Err(place) = self.0.binary_search(&link) {
            self.0.reserve_exact(1);
            self.0.insert(place, link);
        }
    }

    pub(super) fn remove(&mut self, link: LinkId) {
        if let Ok(place) = self.0.binary_search(&link) {
            self.0.remove(place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, link: LinkId) -> bool {
        self.0.binary_search(&link).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.0.iter().copied()
    }
}

/// The state of a primary.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leader {
    term: Term,
    /// The tail found at the beginning of the term ends here; once it is committed the slot is served.
    pub(super) tail_end: Lsn,
    promoted: bool,
    // Boxed: a tree has room for eleven, and there are one or two.
    pub(super) progress: BTreeMap<Seat, Box<Progress>>,
    /// Learners proposed for in-sync, with the version known when they were. Their acknowledgements are waited for until a
    /// later version is seen, since the proposal may have landed.
    pub(super) proposed: BTreeMap<Seat, Version>,
    pub(super) ready_at: Option<Time>,
    pub(super) commit_notice_at: Option<Time>,
    /// When to look for answers that are owed; `None` while none are.
    pub(super) watch_at: Option<Time>,
    pub(super) age_at: Option<Time>,
    pub(super) tail: Tail,
    /// Whom to tell when an entry commits.
    pub(super) answers: Answers,
    /// Acknowledgements that wait until enough seats are in sync.
    pub(super) withheld: Vec<Due>,
    /// Links that are sent what happens in a room.
    pub(super) attached: BTreeMap<RoomId, Links>,
    /// Attaches that wait for the promotion, or for their rooms' creation to commit.
    pub(super) held: Vec<HeldAttach>,
    /// Router processes without a link, and when their members leave.
    pub(super) gone: BTreeMap<Incarnation, Time>,
    /// Links that attached the whole slot in this term and were refused nothing since: their publishes are taken.
    pub(super) open: BTreeSet<LinkId>,
    /// Links that this primary answered in any way.
    pub(super) known: BTreeSet<LinkId>,
    /// When contact will be too old to serve; `None` while it is, and its routers know.
    pub(super) fence_at: Option<Time>,
}

impl Leader {
    /// Begins a term. `grace_end`: when members of routers that have not attached by then leave.
    pub(super) fn new(term: Term, replica: &Replica, grace_end: Time) -> Self {
        Self {
            term,
            tail_end: replica.log.last(),
            promoted: false,
            progress: BTreeMap::new(),
            proposed: BTreeMap::new(),
            ready_at: None,
            commit_notice_at: None,
            watch_at: None,
            age_at: None,
            tail: Tail::default(),
            answers: Answers::default(),
            withheld: Vec::new(),
            attached: BTreeMap::new(),
            held: Vec::new(),
            gone: replica.rooms.routers().into_iter().map(|r| (r, grace_end)).collect(),
            open: BTreeSet::new(),
            known: BTreeSet::new(),
            fence_at: None,
        }
    }

    /// Goes on in another term: what [`Rule::PromotesEveryTerm`] forbids.
    pub(super) fn carry_on(&mut self, term: Term) {
        self.term = term;
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    pub(super) fn is_promoted(&self) -> bool {
        self.promoted
    }

    /// Links that must hear of the end of this term.
    pub(super) fn links(&self) -> BTreeSet<LinkId> {
        self.known.clone()
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        let progress = self.progress.values().filter_map(|p| p.deadline());
        let gone = self.gone.values().copied().filter(|_| self.promoted);
        let fence = self.fence_at.filter(|_| !self.known.is_empty());
        let looks = [self.ready_at, self.commit_notice_at, self.watch_at, self.age_at, fence];
        progress.chain(gone).chain(looks.into_iter().flatten()).min()
    }

    pub(super) fn on_view(&mut self, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let seats: BTreeSet<Seat> = ctx.record.seats().filter(|s| *s != replica.seat).collect();
        self.progress.retain(|seat, _| seats.contains(seat));
        self.proposed.retain(|seat, base| *base >= ctx.version && seats.contains(seat));
        for seat in seats {
            if !self.progress.contains_key(&seat) {
                let mut progress = Progress::unknown();
                if ctx.up.contains(&seat.incarnation) {
                    progress.on_up(seat, self.term, replica, ctx, out);
                }
                self.progress.insert(seat, Box::new(progress));
            }
        }
        // A proposal counts for one base only: those still due are made again on the new one.
        self.ready_at = None;
    }

    pub(super) fn on_peer_up(&mut self, peer: Incarnation, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        for (seat, progress) in self.progress.iter_mut().filter(|(s, _)| s.incarnation == peer) {
            progress.on_up(*seat, self.term, replica, ctx, out);
        }
    }

    pub(super) fn on_peer_down(&mut self, peer: Incarnation) {
        for (_, progress) in self.progress.iter_mut().filter(|(s, _)| s.incarnation == peer) {
            progress.on_down();
        }
    }

    /// Takes an answer that `from` gave in this term.
    pub(super) fn on_answer(
        &mut self,
        from: Seat,
        kind: v1::replication::Kind,
        replica: &Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        use v1::replication::Kind;
        let anyhow = |s: &Seat| s.incarnation == from.incarnation && !ctx.config.rules.keep(Rule::SeatsNamed);
        let known = self.progress.iter_mut().find(|(seat, _)| **seat == from || anyhow(seat));
        let Some((_, progress)) = known else { return };
        match kind {
            Kind::ProbeReply(r) => progress.on_probe_reply(&r, from, self.term, replica, ctx, out),
            Kind::AppendAck(a) => progress.on_append_ack(Lsn(a.lsn).min(replica.log.last())),
            Kind::SnapshotAck(a) => progress.on_snapshot_ack(&a, from, self.term, replica, ctx, out),
            Kind::Refused(r) => progress.on_refused(r.reason(), from, self.term, replica, ctx, out),
            Kind::Probe(_) | Kind::Append(_) | Kind::Snapshot(_) => {}
        }
    }

    pub(super) fn on_tick(&mut self, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let now = ctx.env.now;
        if !ctx.config.rules.keep(Rule::ProposalOutlastsTime) {
            self.proposed.clear();
        }
        for (seat, progress) in &mut self.progress {
            progress.on_tick(*seat, self.term, replica, ctx, out);
        }
        if self.commit_notice_at.is_some_and(|at| at <= now) {
            self.commit_notice_at = None;
            for (seat, progress) in &mut self.progress {
                progress.send_commit(*seat, self.term, replica, ctx, out);
            }
        }
        self.blame(ctx, out);
        if self.promoted && ctx.env.in_contact() {
            self.on_age(replica, ctx);
        }
    }

    /// Names seats that have owed an answer for too long.
    fn blame(&mut self, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let now = ctx.env.now;
        let Some(at) = self.watch_at.filter(|at| *at <= now) else { return };
        self.watch_at = None;
        let late = now.since(at) >= LATENESS;
        for (seat, progress) in &mut self.progress {
            let Some(since) = progress.silent() else { continue };
            let counts = ctx.record.in_sync.contains(seat) || self.proposed.contains_key(seat);
            if late {
                progress.silent_since(now);
            } else if now.since(since) >= if counts { UNANSWERED } else { LEARNER_UNANSWERED } {
                out.push(Output::Unanswered { slot: ctx.config.slot, seat: *seat });
            }
        }
    }

    /// Appends an entry of this term.
    pub(super) fn append(&mut self, body: Body, replica: &mut Replica, ctx: &Ctx<'_>) -> Lsn {
        let newest = replica.log.last_time_ms().unwrap_or(0).max(replica.rooms.last_time_ms());
        let entry = Entry {
            generation: replica.generation,
            term: self.term,
            lsn: replica.log.last().next(),
            time_ms: ctx.env.wall_ms.max(newest),
            body,
        };
        self.tail.push(&entry, replica);
        let lsn = entry.lsn;
        replica.log.push(entry);
        lsn
    }

    /// Tells the routers once that nothing is answered any more: the slot may soon be made anew elsewhere, and they would go on
    /// letting clients in at the places that they have. They attach again when it is served.
    fn tell_fenced(&mut self, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if ctx.env.in_contact() {
            self.fence_at = ctx.env.contact.map(|at| at + ctx.env.fence_after);
        } else if self.fence_at.take().is_some() {
            for link in self.known.clone() {
                if ctx.config.rules.keep(Rule::StaysShut) {
                    self.shut(link);
                }
                out.push(not_primary(link, ctx.config.slot, self.term, ctx.placement()));
            }
        }
    }

    /// After every input: what is new goes out, what is committed is shown, what became possible is done.
    pub(super) fn settle(&mut self, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        self.tell_fenced(ctx, out);
        loop {
            for (seat, progress) in &mut self.progress {
                progress.flush(*seat, self.term, replica, ctx, out);
            }
            let before = (replica.log.last(), replica.commit);
            self.commit(replica, ctx, out);
            // Serving what waited may have appended.
            if (replica.log.last(), replica.commit) == before {
                break;
            }
        }
        self.propose(replica, ctx, out);
        for progress in self.progress.values_mut() {
            progress.watch(replica.log.last(), ctx.env.now);
        }
        if self.watch_at.is_none() && self.progress.values().any(|p| p.silent().is_some()) {
            self.watch_at = Some(ctx.env.now + WATCH);
        }
        if self.commit_notice_at.is_none() && self.progress.values().any(|p| p.lacks_commit(replica.commit)) {
            self.commit_notice_at = Some(ctx.env.now + COMMIT_NOTICE);
        }
        self.plan_ageing(replica, ctx, AGE_STEP);
    }

    /// Everything up to here is held by every seat that counts.
    fn held_by_all(&self, replica: &Replica, ctx: &Ctx<'_>) -> Lsn {
        let rules = ctx.config.rules;
        let in_sync = ctx.record.in_sync.iter().filter(|s| **s != replica.seat && rules.keep(Rule::WaitsForInSync));
        in_sync
            .chain(self.proposed.keys().filter(|_| rules.keep(Rule::WaitsForProposed)))
            .map(|seat| self.progress.get(seat).and_then(|p| p.matched()).unwrap_or(Lsn(0)))
            .min()
            .map_or(replica.log.last(), |l| l.min(replica.log.last()))
    }

    fn commit(&mut self, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if !ctx.env.in_contact() {
            return;
        }
        let to = self.held_by_all(replica, ctx);
        if to > replica.commit {
            let mut shown = super::serve::Shown::default();
            let (tail, answers) = (&mut self.tail, &mut self.answers);
            // The tail of earlier terms was never in `tail`.
            let own_from = self.tail_end;
            let mut visits = Vec::new();
            let note = |rooms: &Rooms, entry: &Entry| {
                if !ctx.listeners.is_empty() {
                    visits.extend(rooms.visit(entry).map(|visit| (entry.lsn, entry.time_ms, visit)));
                }
            };
            replica.apply_to(to, note, |entry, applied| {
                if entry.lsn > own_from {
                    tail.pop(entry);
                }
                shown.add(entry, applied, answers);
            });
            out.extend(visits.into_iter().filter_map(|(lsn, time_ms, visit)| visited(lsn, time_ms, visit, ctx)));
            replica.log.trim(ctx.config.retention, replica.commit);
            for due in shown.send(&self.attached, self.term, ctx, out) {
                self.acknowledge(due, ctx, out);
            }
        }
        let ready = replica.commit >= self.tail_end || !ctx.config.rules.keep(Rule::CommitsTailFirst);
        if !self.promoted && ready {
            self.promoted = true;
            // The tail may have brought members of routers that are not there any more. Nobody is attached yet.
            let grace_end = ctx.env.now + ctx.config.presence_grace;
            for router in replica.rooms.routers() {
                self.gone.entry(router).or_insert(grace_end);
            }
        }
        if self.promoted {
            self.acknowledge_withheld(ctx, out);
            self.serve_held(replica, ctx, out);
        }
    }

    /// Proposes learners that hold everything up to the commit point.
    fn propose(&mut self, replica: &Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if !self.promoted && ctx.config.rules.keep(Rule::ProposesOncePromoted) {
            return;
        }
        let due = self.ready_at.is_none_or(|at| at <= ctx.env.now);
        for seat in &ctx.record.learners {
            let Some(progress) = self.progress.get(seat) else { continue };
            let proposed = self.proposed.contains_key(seat);
            let holds_all = progress.matched().is_some_and(|m| m >= replica.commit);
            let ready = progress.is_streaming() && (holds_all || !ctx.config.rules.keep(Rule::ProposesWhoHoldsAll));
            if (proposed && due) || (ready && !proposed) {
                self.proposed.insert(*seat, ctx.version);
                out.push(Output::Ready { slot: ctx.config.slot, seat: *seat, term: self.term, base: ctx.version });
            }
        }
        if due {
            self.ready_at = (!self.proposed.is_empty()).then(|| ctx.env.now + READY_REPEAT);
        } else if self.ready_at.is_none() && !self.proposed.is_empty() {
            self.ready_at = Some(ctx.env.now + READY_REPEAT);
        }
    }
}
