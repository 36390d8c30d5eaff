//! The slot's side towards its primary: what it attaches and announces, and what it makes of what the primary says.

use roomring_control::clock::Time;
use roomring_proto::{Epoch, Generation, RoomId, Term, v1};
use v1::node_message::Kind as FromNode;
use v1::router_message::Kind as ToNode;

use super::{Output, Slot};
use crate::hub::attach::Link;
use crate::hub::room::{self, Effects, Room, Standing};
use crate::hub::rules::Rule;
use crate::hub::{publishes, requests};

/// About so many bytes go into one attach; what does not fit is attached right after, in further ones.
const ATTACH_BYTES: usize = 4 << 20;

impl Slot {
    /// A node speaks.
    pub fn node(&mut self, now: Time, link: Link, message: FromNode, out: &mut Vec<Output>) {
        if !self.attachment.listens_to(link) && self.rules.keep(Rule::OnlyItsLink) {
            return;
        }
        match message {
            FromNode::Attached(answer) => self.attached(now, answer, out),
            FromNode::Deliver(deliver) => self.deliver(now, deliver, out),
            FromNode::Published(answer) => {
                if self.publishes.answered(answer, &mut self.owed) == publishes::Verdict::Elsewhere {
                    self.lost_attached(now);
                }
            }
            FromNode::NotPrimary(refusal) => {
                self.attachment.saw(Term(refusal.term));
                self.lost(now);
            }
            FromNode::History(reply) => {
                let verdict = self.requests.history_answered(reply);
                self.request_answered(now, verdict, out);
            }
            FromNode::Presence(reply) => {
                let verdict = self.requests.presence_answered(reply);
                self.request_answered(now, verdict, out);
            }
            // Matters of the link, not of a slot.
            FromNode::Hello(_) | FromNode::Heartbeat(_) | FromNode::Placement(_) | FromNode::Visit(_) => {}
        }
        self.run_deferred(now, out);
    }

    fn request_answered(&mut self, now: Time, verdict: requests::Verdict, out: &mut Vec<Output>) {
        match verdict {
            requests::Verdict::Settled => {}
            requests::Verdict::Elsewhere => self.lost_attached(now),
            requests::Verdict::Fetched { room, fetched } => {
                self.with_room(now, room.as_str(), out, |room, fx| room.fetched(now, fetched, fx));
            }
        }
    }

    fn lost(&mut self, now: Time) {
        self.attachment.lost(now);
        self.unattached(now);
    }

    /// Something sent under an attachment was refused. While attaching that was an earlier one: the attach is answered too.
    fn lost_attached(&mut self, now: Time) {
        if self.attachment.attached().is_some() {
            self.lost(now);
        }
    }

    fn attached(&mut self, now: Time, answer: v1::Attached, out: &mut Vec<Output>) {
        let whole = self.attachment.awaits() == Some(answer.attach_id);
        if !whole && self.attachment.attached().is_none() {
            return;
        }
        if answer.refused.is_some() {
            self.attachment.saw(Term(answer.term));
            return self.lost(now);
        }
        if whole && !self.attachment.confirmed(now, Term(answer.term), Generation(answer.generation)) {
            return self.unattached(now);
        }
        let Some(attached) = self.attachment.attached() else { return };
        if Term(answer.term) != attached.term {
            // The primary got another term in between: it is attached anew in that.
            self.attachment.saw(Term(answer.term));
            return self.lost(now);
        }
        for room in answer.rooms {
            let asked = self.rooms.get(room.room.as_str()).map(Room::standing);
            if !matches!(asked, Some(Standing::Asked { attach_id, .. }) if attach_id == answer.attach_id) {
                continue;
            }
            let id = room.room.clone();
            self.with_room(now, &id, out, |r, fx| match &room.refused {
                Some(refusal) => r.refused(now, refusal, fx),
                None => r.attached(now, room, fx),
            });
        }
        if whole {
            let again = self.publishes.send_again(attached.generation).into_iter();
            let again = again.chain(self.requests.send_again(self.attachment.term_seen()));
            out.extend(again.map(|message| Output { link: attached.link, message }));
        }
    }

    fn deliver(&mut self, now: Time, deliver: v1::Deliver, out: &mut Vec<Output>) {
        let Some(attached) = self.attachment.attached() else { return };
        let term = Term(deliver.term);
        let any = !self.rules.keep(Rule::OnlyItsTerm);
        if term > attached.term && !any {
            // Of an attachment that was never confirmed here.
            self.attachment.saw(term);
            return self.lost(now);
        }
        if term == attached.term || any {
            let epoch = deliver.epoch.map(Epoch::from);
            self.with_room(now, &deliver.room, out, |room, fx| room.deliver(now, epoch, &deliver.events, fx));
        }
    }

    /// After a batch of the above: attaches what is to be attached.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Some(link) = self.attachment.ready(now).filter(|_| self.is_needed()) {
            let due: Vec<RoomId> = self.rooms.keys().cloned().collect();
            let (attach, rest) = self.attach(now, due, true);
            self.wanted = rest.into_iter().collect();
            self.attachment.sent(now, link, attach.attach_id);
            out.push(Output { link, message: ToNode::Attach(attach) });
        }
        let Some(attached) = self.attachment.attached() else { return };
        let is_due = |room: &Room| matches!(room.standing(), Standing::Wanted { not_before } if not_before <= now);
        self.wanted.retain(|id| self.rooms.get(id).is_some_and(|r| matches!(r.standing(), Standing::Wanted { .. })));
        let mut due: Vec<RoomId> =
            self.wanted.iter().filter(|id| self.rooms.get(*id).is_some_and(is_due)).cloned().collect();
        while !due.is_empty() {
            for id in &due {
                self.wanted.remove(id);
            }
            let (attach, rest) = self.attach(now, due, false);
            out.push(Output { link: attached.link, message: ToNode::Attach(attach) });
            due = rest;
        }
    }

    /// The attach of `rooms`, and those that no longer fit in.
    fn attach(&mut self, now: Time, mut rooms: Vec<RoomId>, whole: bool) -> (v1::Attach, Vec<RoomId>) {
        self.last_attach += 1;
        let mut asked = Vec::new();
        let mut bytes = 0;
        let mut count = 0;
        for id in &rooms {
            if bytes >= ATTACH_BYTES {
                break;
            }
            count += 1;
            let Some(room) = self.rooms.get_mut(id) else { continue };
            let attach = room.ask(now, self.last_attach, self.namespaces.keeps(id));
            bytes += prost::Message::encoded_len(&attach);
            asked.push(attach);
        }
        let rest = rooms.split_off(count);
        self.sweep_by(now + room::ANSWER_WITHIN);
        let attach = v1::Attach {
            slot: self.id.0,
            attach_id: self.last_attach,
            term_seen: self.attachment.term_seen().0,
            placement: self.placement.map(Into::into),
            rooms: asked,
            whole,
        };
        (attach, rest)
    }

    pub(super) fn announce(&self, room: &RoomId, fx: &mut Effects, out: &mut Vec<Output>) {
        let Some(link) = self.attachment.link().filter(|_| !(fx.joined.is_empty() && fx.left.is_empty())) else {
            return;
        };
        let presence = v1::Presence {
            slot: self.id.0,
            room: room.as_str().to_owned(),
            joined: std::mem::take(&mut fx.joined),
            left: std::mem::take(&mut fx.left),
        };
        out.push(Output { link, message: ToNode::Presence(presence) });
    }
}
