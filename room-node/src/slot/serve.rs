//! The primary's answers to routers: attach and replay, publishes, presence, history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::{Epoch, Incarnation, Lsn, PlacementRef, RoomId, Seq, SlotId, Term, limits, v1};
use v1::node_message::Kind as ToRouter;
use v1::refusal::Reason;
use v1::router_message::Kind as FromRouter;

use super::leader::{Leader, Links};
use super::replica::Replica;
use super::{Ctx, LinkId, Output, Rule, Rules, log};
use crate::entry::{Body, Client, Entry, Publish, Retracts, own_both};
use crate::room::{Applied, Number, Room, Visit};

/// Bytes of uncommitted entries past which publishes are refused: a seat that does not acknowledge must not fill the memory.
const UNCOMMITTED_BYTES: usize = 8 << 20;

/// Attaches held for one slot; a router that sends more is told to ask again.
const HELD_ATTACHES: usize = 256;

/// Most publications in one answer to a history request: with payloads at their limit it fits a gRPC message.
const HISTORY_BYTES: usize = 8 << 20;

/// Whom to tell of a committed publish.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    link: LinkId,
    number: u64,
    duplicate: bool,
}

/// Whom to tell when an entry commits, in the order of entries. As a rule there is one for each of the last few.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Answers(VecDeque<(Lsn, Answer)>);

impl Answers {
    /// Tells `answer`, once, when `lsn` commits.
    fn at(&mut self, lsn: Lsn, answer: Answer) {
        let place = self.0.partition_point(|(l, _)| *l <= lsn);
        let mut same = self.0.range(..place).rev().take_while(|(l, _)| *l == lsn);
        if same.all(|(_, a)| a.number != answer.number || a.link != answer.link) {
            self.0.insert(place, (lsn, answer));
        }
    }

    /// Takes the next one of those for `lsn`, the first entry of which any are left.
    fn take(&mut self, lsn: Lsn) -> Option<Answer> {
        self.0.front().filter(|(l, _)| *l <= lsn)?;
        self.0.pop_front().map(|(_, answer)| answer)
    }

    fn forget(&mut self, link: LinkId) {
        self.0.retain(|(_, answer)| answer.link != link);
    }
}

/// Whom to tell of a committed publish, and its place.
pub(super) type Due = (Answer, Epoch, Seq);

/// What a publish is to take back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retraction {
    retracts: Retracts,
    /// `None` = not compared.
    epoch: Option<Epoch>,
}

/// An attach that is answered once `until` is committed and the slot is served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HeldAttach {
    link: LinkId,
    attach: v1::Attach,
    /// `None` until the slot is served and the rooms' creation was logged.
    until: Option<Lsn>,
    refused: BTreeMap<String, v1::Refusal>,
}

/// What a stretch of commits makes members and publishers see, in order.
#[derive(Default)]
pub(super) struct Shown {
    runs: Vec<(RoomId, Epoch, Vec<v1::Event>)>,
    answers: Vec<Due>,
}

impl Shown {
    pub(super) fn add(&mut self, entry: &Entry, applied: Option<Applied>, answers: &mut Answers) {
        while let Some(answer) = answers.take(entry.lsn) {
            if let (Body::Publish { publish, .. }, Some(applied)) = (&entry.body, &applied) {
                self.answers.push((answer, applied.epoch, publish.seq));
            }
        }
        let Some(applied) = applied else { return };
        match self.runs.last_mut() {
            Some((room, epoch, events)) if *room == applied.room && *epoch == applied.epoch => {
                events.push(applied.event);
            }
            _ => self.runs.push((applied.room, applied.epoch, vec![applied.event])),
        }
    }

    /// Delivers; the acknowledgements that are due come back.
    pub(super) fn send(
        self,
        attached: &BTreeMap<RoomId, Links>,
        term: Term,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) -> Vec<Due> {
        let slot = ctx.config.slot.0;
        for (room, epoch, events) in self.runs {
            let Some(links) = attached.get(&room) else { continue };
            let mut deliver =
                v1::Deliver { slot, term: term.0, room: room.as_str().to_owned(), epoch: Some(epoch.into()), events };
            // As a rule there is one link: nothing is copied for it.
            let mut links = links.iter().peekable();
            while let Some(link) = links.next() {
                let next = links.peek().map(|_| deliver.clone());
                out.push(to_router(link, ToRouter::Deliver(std::mem::take(&mut deliver))));
                deliver = next.unwrap_or_default();
            }
        }
        self.answers
    }
}

impl Leader {
    /// A link was refused a publish: it attaches again before another is taken, or what it sent after the refused one would
    /// overtake it.
    pub(super) fn shut(&mut self, link: LinkId) {
        self.open.remove(&link);
    }

    pub(super) fn on_link_down(&mut self, link: LinkId, router: Incarnation, grace_end: Time) {
        self.known.remove(&link);
        self.open.remove(&link);
        self.held.retain(|h| h.link != link);
        self.attached.retain(|_, links| {
            links.remove(link);
            !links.is_empty()
        });
        self.answers.forget(link);
        self.withheld.retain(|(a, ..)| a.link != link);
        self.gone.insert(router, grace_end);
    }

    pub(super) fn on_router(
        &mut self,
        link: LinkId,
        message: FromRouter,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        self.known.insert(link);
        match message {
            FromRouter::Attach(attach) => self.on_attach(link, attach, ctx, out),
            message
                if (!self.is_promoted() && ctx.config.rules.keep(Rule::SilentUntilPromoted))
                    || (matches!(message, FromRouter::Publish(_) | FromRouter::Retract(_))
                        && !self.open.contains(&link)) =>
            {
                refuse(link, ctx.config.slot, self.term(), ctx.placement(), &message, out);
            }
            FromRouter::Detach(detach) => self.on_detach(link, &detach, replica, ctx),
            FromRouter::Publish(publish) => self.on_publish(link, publish, None, replica, ctx, out),
            FromRouter::Retract(retract) => {
                let v1::Retract { publish, seq, epoch } = *retract;
                let of = Retraction { retracts: Retracts::read(seq), epoch: epoch.map(Epoch::from) };
                self.on_publish(link, publish.unwrap_or_default(), Some(of), replica, ctx, out);
            }
            FromRouter::Presence(presence) => self.on_presence(link, presence, replica, ctx),
            FromRouter::History(request) => {
                out.push(to_router(link, ToRouter::History(self.history(&request, replica))));
            }
            FromRouter::PresenceQuery(request) => {
                out.push(to_router(link, ToRouter::Presence(self.presence(&request, replica))));
            }
            FromRouter::Hello(_) | FromRouter::Heartbeat(_) | FromRouter::Placement(_) => {}
        }
    }

    fn on_attach(&mut self, link: LinkId, attach: v1::Attach, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if attach.term_seen > self.term().0 && ctx.config.rules.keep(Rule::RefusesAsStale) {
            out.push(attach_refused(link, &attach, self.term(), Reason::Stale, "a later term was seen"));
            return;
        }
        if self.held.len() >= HELD_ATTACHES {
            out.push(attach_refused(link, &attach, self.term(), Reason::Busy, "too many attaches wait"));
            return;
        }
        self.held.push(HeldAttach { link, attach, until: None, refused: BTreeMap::new() });
    }

    /// Answers the attaches whose time has come. Those of one link are answered in their order.
    pub(super) fn serve_held(&mut self, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if self.held.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held);
        let mut blocked = BTreeSet::new();
        held.retain_mut(|h| {
            let until = match h.until {
                Some(until) => until,
                None => {
                    let until = self.create_rooms(h, replica, ctx);
                    h.until = Some(until);
                    until
                }
            };
            if until > replica.commit || blocked.contains(&h.link) {
                blocked.insert(h.link);
                return true;
            }
            self.attach(h, replica, ctx, out);
            false
        });
        held.append(&mut self.held);
        self.held = held;
    }

    /// Logs the creation of rooms that are missing. Returns the entry to wait for.
    fn create_rooms(&mut self, held: &mut HeldAttach, replica: &mut Replica, ctx: &Ctx<'_>) -> Lsn {
        let mut until = replica.commit;
        for room in &held.attach.rooms {
            let ensured = named(&room.room, replica).and_then(|name| self.ensure_room(name, room.keeps, replica, ctx));
            match ensured {
                Ok(lsn) => until = until.max(lsn),
                Err(refusal) => {
                    held.refused.insert(room.room.clone(), refusal);
                }
            }
        }
        until
    }

    /// Makes the room if it is missing. Returns the entry whose commit shows it; that of the tail if it is touched there.
    fn ensure_room(
        &mut self,
        room: RoomId,
        keeps: Option<v1::RoomKeeps>,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
    ) -> Result<Lsn, v1::Refusal> {
        if self.tail.room(&room, replica, |l| epoch(ctx, replica, l)).is_some() {
            return Ok(if self.tail.touches(&room) { replica.log.last() } else { replica.commit });
        }
        if room.slot(ctx.config.slots) != ctx.config.slot {
            return Err(refusal(Reason::BadRequest, "the room is not in this slot"));
        }
        replica.rooms.admits_rooms(self.tail.created() + 1).map_err(|e| refusal(Reason::Limit, &e.to_string()))?;
        Ok(self.append(Body::Create { room, keeps: keeps.into() }, replica, ctx))
    }

    fn attach(&mut self, held: &HeldAttach, replica: &mut Replica, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let Some(router) = ctx.links.get(&held.link).copied() else { return };
        let mut rooms = Vec::with_capacity(held.attach.rooms.len());
        let mut replays = self.replays(&held.attach, replica);
        for wanted in &held.attach.rooms {
            let answer = match (held.refused.get(&wanted.room), replica.rooms.get(&wanted.room)) {
                (Some(refused), _) => {
                    v1::RoomAttached { room: wanted.room.clone(), refused: Some(refused.clone()), ..Default::default() }
                }
                (None, None) => v1::RoomAttached {
                    room: wanted.room.clone(),
                    refused: Some(refusal(Reason::Busy, "the room was removed meanwhile")),
                    ..Default::default()
                },
                (None, Some(room)) => {
                    let Some(answer) = position(wanted, &room, replica.log.base(), &mut replays, ctx.config.rules)
                    else {
                        let text = format!("room {} is further at the router", wanted.room);
                        out.push(attach_refused(held.link, &held.attach, self.term(), Reason::Stale, &text));
                        return;
                    };
                    answer
                }
            };
            rooms.push(answer);
        }
        let attached: Vec<(RoomId, Vec<v1::ClientInfo>)> = rooms
            .iter()
            .zip(&held.attach.rooms)
            .filter(|(a, _)| a.refused.is_none())
            .filter_map(|(a, w)| Some((replica.rooms.name(&a.room)?.clone(), w.members.clone())))
            .collect();
        out.push(to_router(
            held.link,
            ToRouter::Attached(v1::Attached {
                slot: ctx.config.slot.0,
                attach_id: held.attach.attach_id,
                term: self.term().0,
                generation: replica.generation.0,
                rooms,
                refused: None,
            }),
        ));
        if held.attach.whole {
            self.open.insert(held.link);
            let listed: BTreeSet<&RoomId> = attached.iter().map(|(room, _)| room).collect();
            self.attached.retain(|room, links| {
                if !listed.contains(room) {
                    links.remove(held.link);
                }
                !links.is_empty()
            });
            self.gone.remove(&router);
            let mut members = replica.rooms.members_of_router(router);
            members.extend(self.tail.joined_through(router));
            for (room, client) in members {
                if !listed.contains(&room) {
                    self.leave(&room, client, replica, ctx);
                }
            }
        }
        for (room, members) in attached {
            self.attached.entry(room.clone()).or_default().insert(held.link);
            self.reconcile(&room, router, members, replica, ctx);
        }
    }

    /// Events after each wanted position that the log still has, in one pass.
    fn replays(&self, attach: &v1::Attach, replica: &Replica) -> BTreeMap<String, Vec<v1::Event>> {
        let from: BTreeMap<&str, Lsn> = attach
            .rooms
            .iter()
            .filter(|r| r.epoch.is_some() && Lsn(r.lsn) >= replica.log.base())
            .filter(|r| replica.rooms.get(&r.room).is_some_and(|room| room.lsn() > Lsn(r.lsn)))
            .map(|r| (r.room.as_str(), Lsn(r.lsn)))
            .collect();
        let mut replays: BTreeMap<String, Vec<v1::Event>> = BTreeMap::new();
        let Some(first) = from.values().min() else { return replays };
        for (entry, shown) in replica.log.after(*first) {
            if entry.lsn > replica.commit {
                break;
            }
            let Some(room) = entry.room() else { continue };
            if from.get(room.as_str()).is_none_or(|after| entry.lsn <= *after) {
                continue;
            }
            let missed = replays.entry(room.as_str().to_owned()).or_default();
            match (shown, &entry.body) {
                (log::Shown::Publication, Body::Publish { publish, .. }) => {
                    let publication = publication(entry, publish);
                    retract(missed, &publication);
                    missed.push(v1::Event { kind: Some(v1::event::Kind::Publication(publication)) });
                }
                (log::Shown::Presence(event), _) => missed.push((**event).clone()),
                _ => {}
            }
        }
        replays
    }

    /// Makes the members that came through `router` those of the list.
    fn reconcile(
        &mut self,
        room: &RoomId,
        router: Incarnation,
        members: Vec<v1::ClientInfo>,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
    ) {
        let listed: BTreeSet<&str> = members.iter().map(|m| m.client.as_str()).collect();
        let mut left = self.tail.members_of(room, router, replica);
        left.retain(|c| !listed.contains(c.as_str()));
        for client in left {
            self.leave(room, client, replica, ctx);
        }
        for member in members {
            self.join(room, member, router, replica, ctx);
        }
    }

    fn join(
        &mut self,
        room: &RoomId,
        member: v1::ClientInfo,
        router: Incarnation,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
    ) {
        if self.tail.member(room, &member.client, replica) == Some(router) {
            return;
        }
        if member.client.is_empty() || replica.rooms.admits_members(room.as_str(), 1).is_err() {
            return;
        }
        let info = Client::from(member);
        self.append(Body::Join { room: room.clone(), info, router }, replica, ctx);
    }

    fn leave(&mut self, room: &RoomId, client: String, replica: &mut Replica, ctx: &Ctx<'_>) {
        if self.tail.member(room, &client, replica).is_some() {
            self.append(Body::Leave { room: room.clone(), client }, replica, ctx);
        }
    }

    fn on_presence(&mut self, link: LinkId, presence: v1::Presence, replica: &mut Replica, ctx: &Ctx<'_>) {
        // A room whose attach is still held gets its members from it.
        for held in self.held.iter_mut().filter(|h| h.link == link) {
            if let Some(wanted) = held.attach.rooms.iter_mut().find(|r| r.room == presence.room) {
                wanted.members.retain(|m| !presence.left.contains(&m.client));
                wanted.members.extend(presence.joined.iter().cloned());
                return;
            }
        }
        let Some(router) = ctx.links.get(&link).copied() else { return };
        let Some((room, links)) = self.attached.get_key_value(presence.room.as_str()) else { return };
        if !links.contains(link) {
            return;
        }
        let room = room.clone();
        for client in presence.left {
            if self.tail.member(&room, &client, replica) == Some(router) {
                self.leave(&room, client, replica, ctx);
            }
        }
        for member in presence.joined {
            self.join(&room, member, router, replica, ctx);
        }
    }

    fn on_detach(&mut self, link: LinkId, detach: &v1::Detach, replica: &mut Replica, ctx: &Ctx<'_>) {
        let gone: BTreeSet<&str> = detach.rooms.iter().map(String::as_str).collect();
        for held in self.held.iter_mut().filter(|h| h.link == link) {
            held.attach.rooms.retain(|r| !gone.contains(r.room.as_str()));
        }
        let Some(router) = ctx.links.get(&link).copied() else { return };
        for name in &detach.rooms {
            let Ok(room) = RoomId::new(name) else { continue };
            if let Some(links) = self.attached.get_mut(&room) {
                links.remove(link);
                if links.is_empty() {
                    self.attached.remove(&room);
                }
            }
            self.reconcile(&room, router, Vec::new(), replica, ctx);
        }
    }

    fn on_publish(
        &mut self,
        link: LinkId,
        publish: v1::Publish,
        of: Option<Retraction>,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) {
        let number = publish.number;
        match self.take_publish(link, publish, of, replica, ctx, out) {
            Ok(None) => {}
            Ok(Some((epoch, seq, duplicate))) => {
                self.acknowledge((Answer { link, number, duplicate }, epoch, seq), ctx, out);
            }
            Err(refused) => out.push(publish_refused(link, ctx.config.slot, number, self.term(), refused)),
        }
    }

    /// Acknowledges a committed publish, or keeps that until enough seats are in sync: the set may have shrunk since it was
    /// taken.
    pub(super) fn acknowledge(&mut self, (answer, epoch, seq): Due, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if enough_in_sync(ctx) || !ctx.config.rules.keep(Rule::AcksWithMinInSync) {
            out.push(published(&answer, ctx.config.slot.0, self.term(), epoch, seq));
        } else if !self.withheld.iter().any(|(a, ..)| (a.link, a.number) == (answer.link, answer.number)) {
            self.withheld.push((answer, epoch, seq));
        }
    }

    /// Acknowledges what had to wait, if it need not any more: a seat that is in sync holds everything up to the commit point.
    pub(super) fn acknowledge_withheld(&mut self, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        if !self.withheld.is_empty() && ctx.env.in_contact() && enough_in_sync(ctx) {
            for due in std::mem::take(&mut self.withheld) {
                self.acknowledge(due, ctx, out);
            }
        }
    }

    /// `Ok(None)`: answered when its entry commits.
    fn take_publish(
        &mut self,
        link: LinkId,
        publish: v1::Publish,
        of: Option<Retraction>,
        replica: &mut Replica,
        ctx: &Ctx<'_>,
        out: &mut Vec<Output>,
    ) -> Result<Option<(Epoch, Seq, bool)>, v1::Refusal> {
        let Some(router) = ctx.links.get(&link).copied() else { return Ok(None) };
        let rules = ctx.config.rules;
        let other = publish.generation != 0 && publish.generation != replica.generation.0;
        if other && rules.keep(Rule::ChecksGeneration) {
            return Err(refusal(Reason::OtherGeneration, "the slot was recreated since"));
        }
        let known = rules.keep(Rule::KnowsNumbers);
        match replica.rooms.number(router, publish.number) {
            Number::Done { epoch, seq, duplicate } if known => return Ok(Some((epoch, seq, duplicate))),
            Number::Settled if known => return Err(refusal(Reason::BadRequest, "the number was settled before")),
            Number::Done { .. } | Number::Settled | Number::Unknown => {}
        }
        if let Some(lsn) = self.tail.number(router, publish.number).filter(|_| known) {
            self.answer_at(lsn, Answer { link, number: publish.number, duplicate: false });
            return Ok(None);
        }
        if publish.data.len() > limits::PAYLOAD_BYTES {
            let text = format!("payload has {} bytes, the limit is {}", publish.data.len(), limits::PAYLOAD_BYTES);
            return Err(refusal(Reason::BadRequest, &text));
        }
        if publish.id.len() > limits::PUBLISH_ID_BYTES {
            let text = format!("publish id has {} bytes, the limit is {}", publish.id.len(), limits::PUBLISH_ID_BYTES);
            return Err(refusal(Reason::BadRequest, &text));
        }
        if self.tail.bytes() > UNCOMMITTED_BYTES {
            return Err(refusal(Reason::Busy, "too much waits for the replicas"));
        }
        if !enough_in_sync(ctx) && rules.keep(Rule::MinInSync) {
            return Err(refusal(Reason::Busy, "fewer replicas are in sync than min_in_sync asks for"));
        }
        let room = named(&publish.room, replica)?;
        if !publish.id.is_empty() {
            if let Some(seq) = replica.rooms.seen_id(room.as_str(), &publish.id)
                && let Some(known) = replica.rooms.get(room.as_str())
            {
                return Ok(Some((known.epoch(), seq, true)));
            }
            if let Some(lsn) = self.tail.id(&room, &publish.id) {
                self.answer_at(lsn, Answer { link, number: publish.number, duplicate: true });
                return Ok(None);
            }
            replica
                .rooms
                .admits_ids(room.as_str(), self.tail.ids() + 1)
                .map_err(|e| refusal(Reason::Limit, &e.to_string()))?;
        }
        match of {
            None => {
                self.ensure_room(room.clone(), publish.keeps.map(|keeps| *keeps), replica, ctx)?;
            }
            Some(of) => self.admits(of, &room, replica, ctx)?,
        }
        let Some((epoch, mut seq)) = self.tail.room(&room, replica, |l| epoch(ctx, replica, l)) else {
            return Err(refusal(Reason::Busy, "the room is being removed"));
        };
        if let Some(committed) = replica.rooms.get(room.as_str()).filter(|_| !rules.keep(Rule::CountsTailInSeq)) {
            seq = committed.seq();
        }
        let seq = seq.next();
        if !rules.keep(Rule::RemembersFromLog) {
            replica.rooms.remember_early(router, publish.number, epoch, seq);
        }
        if !rules.keep(Rule::AcksOnceCommitted) {
            out.push(published(
                &Answer { link, number: publish.number, duplicate: false },
                ctx.config.slot.0,
                self.term(),
                epoch,
                seq,
            ));
        }
        let (data, info) = own_both(&publish.data, &publish.info);
        let body = Body::Publish {
            room,
            publish: Publish {
                seq,
                data,
                info,
                id: publish.id,
                router,
                number: publish.number,
                settled_below: publish.settled_below,
                retracts: of.map(|of| of.retracts),
            },
        };
        let lsn = self.append(body, replica, ctx);
        self.answer_at(lsn, Answer { link, number: publish.number, duplicate: false });
        if let Some(entry) = replica.log.get(lsn).filter(|_| !rules.keep(Rule::DeliversOnceCommitted)) {
            self.show_early(entry, epoch, ctx, out);
        }
        Ok(None)
    }

    /// Whether there is something that a retraction is about. What is under way counts as if it had come. One that passes here
    /// and finds nothing when it is applied, since another came before it, only tells the members again.
    fn admits(&self, of: Retraction, room: &RoomId, replica: &Replica, ctx: &Ctx<'_>) -> Result<(), v1::Refusal> {
        let nothing = |text| Err(refusal(Reason::Nothing, text));
        let Some((epoch, top)) = self.tail.room(room, replica, |l| epoch(ctx, replica, l)) else {
            return nothing("there is no such room");
        };
        if of.epoch.is_some_and(|e| e != epoch) {
            return Err(refusal(Reason::UnknownEpoch, "the room has another history"));
        }
        let Retracts::One(seq) = of.retracts else { return Ok(()) };
        let kept = replica.rooms.get(room.as_str()).filter(|r| r.epoch() == epoch);
        if seq > top || kept.is_some_and(|r| r.is_marked(seq)) {
            return nothing("it was never given, or is deleted");
        }
        Ok(())
    }

    /// Delivers what is not committed yet: what [`Rule::DeliversOnceCommitted`] forbids.
    fn show_early(&self, entry: &Entry, epoch: Epoch, ctx: &Ctx<'_>, out: &mut Vec<Output>) {
        let Body::Publish { room, publish } = &entry.body else { return };
        let event = v1::Event { kind: Some(v1::event::Kind::Publication(publication(entry, publish))) };
        let shown = Shown { runs: vec![(room.clone(), epoch, vec![event])], answers: Vec::new() };
        shown.send(&self.attached, self.term(), ctx, out);
    }

    fn answer_at(&mut self, lsn: Lsn, answer: Answer) {
        self.answers.at(lsn, answer);
    }

    fn history(&self, request: &v1::HistoryRequest, replica: &Replica) -> v1::HistoryReply {
        let mut reply = v1::HistoryReply {
            request: request.request,
            slot: request.slot,
            term: self.term().0,
            ..Default::default()
        };
        if request.term_seen > self.term().0 {
            reply.refused = Some(refusal(Reason::Stale, "a later term was seen"));
            return reply;
        }
        let Some(room) = replica.rooms.get(&request.room) else { return reply };
        reply.epoch = Some(room.epoch().into());
        reply.seq = room.seq().0;
        reply.first_seq = room.first_seq().unwrap_or_default().0;
        if request.has_since && request.since_epoch.is_some_and(|e| Epoch::from(e) != room.epoch()) {
            reply.refused = Some(refusal(Reason::UnknownEpoch, "the history since then is another"));
            return reply;
        }
        let since = request.has_since.then_some(Seq(request.since_seq));
        let limit = usize::try_from(request.limit).ok();
        if limit == Some(0) {
            return reply;
        }
        let mut bytes = 0;
        reply.publications = room.history(since, limit, request.reverse);
        let fits = reply.publications.iter().take_while(|p| {
            bytes += p.data.len() + 1024;
            bytes <= HISTORY_BYTES
        });
        let fits = fits.count();
        reply.publications.truncate(fits);
        reply
    }

    fn presence(&self, request: &v1::PresenceRequest, replica: &Replica) -> v1::PresenceReply {
        let mut reply = v1::PresenceReply {
            request: request.request,
            slot: request.slot,
            term: self.term().0,
            ..Default::default()
        };
        if request.term_seen > self.term().0 {
            reply.refused = Some(refusal(Reason::Stale, "a later term was seen"));
            return reply;
        }
        let Some(room) = replica.rooms.get(&request.room) else { return reply };
        reply.num_clients = u32::try_from(room.num_clients()).unwrap_or(u32::MAX);
        reply.num_users = u32::try_from(room.num_users()).unwrap_or(u32::MAX);
        if !request.stats_only {
            reply.clients = room.presence().map(|(_, info)| info.into()).collect();
        }
        reply
    }

    /// What only time brings: routers that did not come back, ages, rooms that ended.
    pub(super) fn on_age(&mut self, replica: &mut Replica, ctx: &Ctx<'_>) {
        let now = ctx.env.now;
        let due: Vec<Incarnation> = self.gone.iter().filter(|(_, at)| **at <= now).map(|(r, _)| *r).collect();
        for router in due {
            self.gone.remove(&router);
            let mut members = replica.rooms.members_of_router(router);
            // A join that is not committed yet is one all the same.
            members.extend(self.tail.joined_through(router));
            for (room, client) in members {
                let here = self
                    .attached
                    .get(&room)
                    .is_some_and(|links| links.iter().any(|l| ctx.links.get(&l) == Some(&router)));
                if !here {
                    self.leave(&room, client, replica, ctx);
                }
            }
        }
        if self.age_at.is_none_or(|at| at > now) {
            return;
        }
        if replica.rooms.expiry_due().is_some_and(|due| due <= ctx.env.wall_ms) {
            self.append(Body::Expire, replica, ctx);
        }
        let waited: BTreeSet<&str> =
            self.held.iter().flat_map(|h| &h.attach.rooms).map(|wanted| wanted.room.as_str()).collect();
        let kept = |room: &RoomId| {
            self.attached.contains_key(room) || self.tail.touches(room) || waited.contains(room.as_str())
        };
        let ended: Vec<RoomId> = replica.rooms.removable().filter(|room| !kept(room)).cloned().collect();
        for room in ended {
            self.append(Body::Remove { room }, replica, ctx);
        }
    }

    /// Sets the time at which ages are looked at next.
    pub(super) fn plan_ageing(&mut self, replica: &Replica, ctx: &Ctx<'_>, step: Duration) {
        if !self.is_promoted() {
            self.age_at = None;
            return;
        }
        let now = ctx.env.now;
        if !ctx.env.in_contact() {
            // Nothing is decided now: look again later.
            for at in self.gone.values_mut() {
                *at = (*at).max(now + step);
            }
        }
        let due = replica.rooms.expiry_due();
        // Whether one of them has ended is looked at then: this is done after every input, and there may be many.
        let ended = replica.rooms.removable().next().map(|_| step);
        if (due.is_some() || ended.is_some()) && self.age_at.is_some_and(|at| at > now && at <= now + step) {
            // Nothing is looked at sooner.
            return;
        }
        let due = due.map(|due| Duration::from_millis(due.saturating_sub(ctx.env.wall_ms)));
        let next = [due, ended].into_iter().flatten().min().map(|d| now + d.max(step));
        self.age_at = match (self.age_at.filter(|at| *at > now), next) {
            (Some(at), Some(next)) => Some(at.min(next)),
            (_, next) => next,
        };
    }
}

/// A room's name: as it is held here, if the room exists.
fn named(name: &str, replica: &Replica) -> Result<RoomId, v1::Refusal> {
    let held = replica.rooms.name(name).cloned();
    held.map_or_else(|| RoomId::new(name).map_err(|e| refusal(Reason::BadRequest, &e.to_string())), Ok)
}

/// Where a router's room continues; `None` if the router is further than this primary.
fn position(
    wanted: &v1::RoomAttach,
    room: &Room,
    log_base: Lsn,
    replays: &mut BTreeMap<String, Vec<v1::Event>>,
    rules: Rules,
) -> Option<v1::RoomAttached> {
    let mut answer = v1::RoomAttached {
        room: wanted.room.clone(),
        epoch: Some(room.epoch().into()),
        seq: room.seq().0,
        lsn: room.lsn().0,
        ..Default::default()
    };
    let Some(epoch) = wanted.epoch.map(Epoch::from) else { return Some(answer) };
    if epoch != room.epoch() {
        answer.gap = rules.keep(Rule::TellsGap);
        return (epoch.uid != room.epoch().uid || epoch < room.epoch()).then_some(answer);
    }
    if Seq(wanted.seq) > room.seq() || Lsn(wanted.lsn) > room.lsn() {
        return (!rules.keep(Rule::RefusesAsStale)).then_some(answer);
    }
    let replay = if Lsn(wanted.lsn) == room.lsn() || Lsn(wanted.lsn) >= log_base {
        Some(replays.remove(&wanted.room).unwrap_or_default())
    } else {
        replay_from_history(wanted, room)
    };
    match replay {
        Some(replay) => {
            answer.seq = wanted.seq;
            answer.lsn = wanted.lsn;
            answer.replay = replay;
        }
        None => answer.gap = rules.keep(Rule::TellsGap),
    }
    Some(answer)
}

/// What a router missed that the log does not reach back to: if no member came or went since, the history may have it all. A
/// room that is quiet for longer than the log is kept depends on it when its primary dies with a publication on the way.
fn replay_from_history(wanted: &v1::RoomAttach, room: &Room) -> Option<Vec<v1::Event>> {
    let reaches = Seq(wanted.seq) == room.seq() || room.first_seq().is_some_and(|first| first.0 <= wanted.seq + 1);
    if room.presence_lsn() > Lsn(wanted.lsn) || !reaches {
        return None;
    }
    let missed = room.history(Some(Seq(wanted.seq)), None, false);
    Some(missed.into_iter().map(|p| v1::Event { kind: Some(v1::event::Kind::Publication(p)) }).collect())
}

fn enough_in_sync(ctx: &Ctx<'_>) -> bool {
    ctx.record.in_sync.len() >= ctx.env.min_in_sync as usize
}

fn epoch(ctx: &Ctx<'_>, replica: &Replica, created: Lsn) -> Epoch {
    Epoch { uid: ctx.config.uid, generation: replica.generation, created }
}

fn publication(entry: &Entry, publish: &Publish) -> v1::Publication {
    v1::Publication {
        seq: publish.seq.0,
        lsn: entry.lsn.0,
        time_ms: entry.time_ms,
        data: publish.data.clone(),
        info: publish.info.clone(),
        id: publish.id.clone(),
        mark: publish.mark(),
    }
}

/// Takes out of `missed` what a later publication takes back: it is handed to nobody any more.
fn retract(missed: &mut [v1::Event], by: &v1::Publication) {
    if by.mark.is_none() {
        return;
    }
    for event in missed {
        if let Some(v1::event::Kind::Publication(p)) = &mut event.kind
            && by.retracts(p)
        {
            p.blank(&by.data);
        }
    }
}

fn to_router(link: LinkId, kind: ToRouter) -> Output {
    Output::Router { link, message: v1::NodeMessage { kind: Some(kind) } }
}

fn refusal(reason: Reason, text: &str) -> v1::Refusal {
    v1::Refusal { reason: reason.into(), text: text.to_owned() }
}

fn published(answer: &Answer, slot: u32, term: Term, epoch: Epoch, seq: Seq) -> Output {
    to_router(
        answer.link,
        ToRouter::Published(v1::Published {
            slot,
            number: answer.number,
            term: term.0,
            epoch: Some(epoch.into()),
            seq: seq.0,
            duplicate: answer.duplicate,
            refused: None,
        }),
    )
}

fn publish_refused(link: LinkId, slot: SlotId, number: u64, term: Term, refused: v1::Refusal) -> Output {
    to_router(
        link,
        ToRouter::Published(v1::Published {
            slot: slot.0,
            number,
            term: term.0,
            refused: Some(refused),
            ..Default::default()
        }),
    )
}

fn attach_refused(link: LinkId, attach: &v1::Attach, term: Term, reason: Reason, text: &str) -> Output {
    to_router(
        link,
        ToRouter::Attached(v1::Attached {
            slot: attach.slot,
            attach_id: attach.attach_id,
            term: term.0,
            refused: Some(refusal(reason, text)),
            ..Default::default()
        }),
    )
}

/// Tells one of those who want to know that somebody came or went: the client's own router, or if that is gone another.
pub(super) fn visited(lsn: Lsn, time_ms: u64, visit: Visit, ctx: &Ctx<'_>) -> Option<Output> {
    let own = ctx.listeners.iter().find(|link| ctx.links.get(link) == Some(&visit.router));
    let link = *own.or_else(|| ctx.listeners.first())?;
    Some(to_router(
        link,
        ToRouter::Visit(v1::Visit {
            slot: ctx.config.slot.0,
            room: visit.room.as_str().to_owned(),
            epoch: Some(visit.epoch.into()),
            lsn: lsn.0,
            time_ms,
            info: Some((&visit.info).into()),
            left: visit.left,
            clients: visit.clients as u64,
        }),
    ))
}

/// Tells a router that this process is not the slot's primary, or not any more. Says nothing about publishes sent before.
pub(super) fn not_primary(link: LinkId, slot: SlotId, term: Term, placement: PlacementRef) -> Output {
    to_router(
        link,
        ToRouter::NotPrimary(v1::NotPrimary { slot: slot.0, term: term.0, placement: Some(placement.into()) }),
    )
}

/// Refuses a router's message to a slot that is not served here now. A publish is answered by its number: it was not taken.
pub fn refuse(
    link: LinkId,
    slot: SlotId,
    term: Term,
    placement: PlacementRef,
    message: &FromRouter,
    out: &mut Vec<Output>,
) {
    const TEXT: &str = "not the slot's primary";
    let mut refuse_publish = |publish: &v1::Publish| {
        out.push(publish_refused(link, slot, publish.number, term, refusal(Reason::NotPrimary, TEXT)));
        out.push(not_primary(link, slot, term, placement));
    };
    match message {
        FromRouter::Publish(publish) => refuse_publish(publish),
        FromRouter::Retract(retract) => retract.publish.iter().for_each(refuse_publish),
        FromRouter::Attach(_) | FromRouter::History(_) | FromRouter::PresenceQuery(_) => {
            out.push(not_primary(link, slot, term, placement));
        }
        // The next attach repairs these.
        FromRouter::Detach(_) | FromRouter::Presence(_) => {}
        FromRouter::Hello(_) | FromRouter::Heartbeat(_) | FromRouter::Placement(_) => {}
    }
}
