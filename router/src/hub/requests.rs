//! Questions about rooms of one slot that are not answered yet: history, presence, and what recovering members missed. Pure.
//!
//! They change nothing, so they are asked again of the next primary, until their time is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomring_control::clock::Time;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, RoomId, Seq, SlotId, Term, v1};
use v1::refusal::Reason;
use v1::router_message::Kind;

use super::api::{Client, ClientPosition, History, Position, Presence, ToClient};
use super::entrance::Fetched;

/// Most unanswered questions of a slot's clients: each may bring a page of history.
const COUNT: usize = 4_096;

/// Time to an answer, or to the error instead of one: under the 5 s that SDKs wait.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// The unanswered questions of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Requests {
    slot: SlotId,
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    due: Time,
    asker: Asker,
    room: RoomId,
    question: Question,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Asker {
    Client {
        request: u32,
        client: Arc<Client>,
    },
    /// The room, for members that recover.
    Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Question {
    History { limit: i32, reverse: bool, since: Option<(Seq, Option<Epoch>)> },
    Presence { stats_only: bool },
}

/// What came of an answer, as far as the slot must act on it.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The asker has its answer, or nobody waited.
    Settled,
    /// The node cannot serve the slot: it is asked of the next primary.
    Elsewhere,
    /// What a room wanted for its recovering members; `None` if its epoch is not the primary's.
    Fetched { room: RoomId, fetched: Option<Fetched> },
}

impl Requests {
    pub(super) fn new(slot: SlotId) -> Self {
        Self { slot, last: 0, waiting: BTreeMap::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A client's question about history. Answers it at once if it breaks a rule.
    pub(super) fn history(
        &mut self,
        now: Time,
        request: u32,
        client: Arc<Client>,
        room: RoomId,
        (limit, reverse, since): (i32, bool, Option<ClientPosition>),
    ) -> Option<u64> {
        let refuse = |error| {
            client.queue.push(ToClient::History { request, result: Err(error) });
            None
        };
        let since = match since {
            Some(s) if reverse && s.seq == Seq(0) => return refuse(ErrorCode::BAD_REQUEST),
            Some(s) if s.epoch.is_empty() => Some((s.seq, None)),
            Some(s) => match s.epoch.parse() {
                Ok(epoch) => Some((s.seq, Some(epoch))),
                Err(_) => return refuse(ErrorCode::UNRECOVERABLE_POSITION),
            },
            None => None,
        };
        if self.waiting.len() >= COUNT {
            return refuse(ErrorCode::TOO_MANY_REQUESTS);
        }
        // Any negative number is "all".
        let question = Question::History { limit: limit.max(-1), reverse, since };
        Some(self.ask(now, Asker::Client { request, client }, room, question))
    }

    /// A client's question about presence.
    pub(super) fn presence(
        &mut self,
        now: Time,
        request: u32,
        client: Arc<Client>,
        room: RoomId,
        stats_only: bool,
    ) -> Option<u64> {
        if self.waiting.len() >= COUNT {
            client.queue.push(ToClient::Presence { request, result: Err(ErrorCode::TOO_MANY_REQUESTS) });
            return None;
        }
        Some(self.ask(now, Asker::Client { request, client }, room, Question::Presence { stats_only }))
    }

    /// A room's question for what its recovering members missed.
    pub(super) fn fetch(&mut self, now: Time, room: RoomId, since: Seq, epoch: Epoch) -> u64 {
        let question = Question::History { limit: -1, reverse: false, since: Some((since, Some(epoch))) };
        self.ask(now, Asker::Room, room, question)
    }

    /// The room no longer wants what it asked for.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    fn ask(&mut self, now: Time, asker: Asker, room: RoomId, question: Question) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, Waiting { due: now + ANSWER_WITHIN, asker, room, question });
        self.last
    }

    /// The message that asks `id`; `None` if it is answered.
    pub(super) fn send(&self, id: u64, term_seen: Term) -> Option<Kind> {
        let waiting = self.waiting.get(&id)?;
        let (slot, room, term_seen) = (self.slot.0, waiting.room.as_str().to_owned(), term_seen.0);
        Some(match waiting.question {
            Question::History { limit, reverse, since } => Kind::History(v1::HistoryRequest {
                request: id,
                slot,
                room,
                limit,
                reverse,
                has_since: since.is_some(),
                since_seq: since.map_or(0, |(seq, _)| seq.0),
                since_epoch: since.and_then(|(_, epoch)| epoch).map(Into::into),
                term_seen,
            }),
            Question::Presence { stats_only } => {
                Kind::PresenceQuery(v1::PresenceRequest { request: id, slot, room, stats_only, term_seen })
            }
        })
    }

    /// Everything unanswered once more: the slot was attached again.
    pub(super) fn send_again(&self, term_seen: Term) -> Vec<Kind> {
        self.waiting.keys().filter_map(|&id| self.send(id, term_seen)).collect()
    }

    /// A node's answer to a question about history.
    pub(super) fn history_answered(&mut self, reply: v1::HistoryReply) -> Verdict {
        if reply.refused.as_ref().is_some_and(ask_elsewhere) && self.waiting.contains_key(&reply.request) {
            return Verdict::Elsewhere;
        }
        let Some(Waiting { asker, room, .. }) = self.waiting.remove(&reply.request) else { return Verdict::Settled };
        let top = match (&reply.refused, reply.epoch) {
            (Some(refusal), _) => Err(error_for(refusal)),
            (None, None) => Err(ErrorCode::INTERNAL),
            (None, Some(epoch)) => Ok(Position { epoch: epoch.into(), seq: Seq(reply.seq) }),
        };
        match asker {
            Asker::Client { request, client } => {
                let result = top.map(|top| History { top, publications: reply.publications });
                client.queue.push(ToClient::History { request, result });
                Verdict::Settled
            }
            Asker::Room => {
                let fetched = top.ok().map(|top| Fetched { top, publications: reply.publications });
                Verdict::Fetched { room, fetched }
            }
        }
    }

    /// A node's answer to a question about presence.
    pub(super) fn presence_answered(&mut self, reply: v1::PresenceReply) -> Verdict {
        if reply.refused.as_ref().is_some_and(ask_elsewhere) && self.waiting.contains_key(&reply.request) {
            return Verdict::Elsewhere;
        }
        let Some(Waiting { asker: Asker::Client { request, client }, .. }) = self.waiting.remove(&reply.request) else {
            return Verdict::Settled;
        };
        let result = reply.refused.as_ref().map_or_else(
            || {
                Ok(Presence {
                    clients: reply.clients.into_iter().map(|info| (info.client.clone(), info)).collect(),
                    num_clients: reply.num_clients,
                    num_users: reply.num_users,
                })
            },
            |refusal| Err(error_for(refusal)),
        );
        client.queue.push(ToClient::Presence { request, result });
        Verdict::Settled
    }

    /// Answers what is out of time with an error; gives the rooms whose own question is.
    pub(super) fn expire(&mut self, now: Time) -> BTreeSet<RoomId> {
        let mut rooms = BTreeSet::new();
        // Ids rise with time, so the first is the oldest.
        while let Some(oldest) = self.waiting.first_entry().filter(|e| e.get().due <= now) {
            let waiting = oldest.remove();
            if let Some(room) = waiting.fail() {
                rooms.insert(room);
            }
        }
        rooms
    }

    /// Answers everything with an error: the cluster's placement began anew.
    pub(super) fn fail_all(&mut self) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            waiting.fail();
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.due)
    }
}

impl Waiting {
    /// Tells the client that there is no answer; a room is handed back to be told.
    fn fail(self) -> Option<RoomId> {
        let Asker::Client { request, client } = self.asker else { return Some(self.room) };
        client.queue.push(match self.question {
            Question::History { .. } => ToClient::History { request, result: Err(ErrorCode::INTERNAL) },
            Question::Presence { .. } => ToClient::Presence { request, result: Err(ErrorCode::INTERNAL) },
        });
        None
    }
}

fn ask_elsewhere(refusal: &v1::Refusal) -> bool {
    matches!(refusal.reason(), Reason::NotPrimary | Reason::Stale)
}

fn error_for(refusal: &v1::Refusal) -> ErrorCode {
    match refusal.reason() {
        Reason::Limit => ErrorCode::LIMIT_EXCEEDED,
        Reason::Busy => ErrorCode::TOO_MANY_REQUESTS,
        Reason::BadRequest => ErrorCode::BAD_REQUEST,
        Reason::UnknownEpoch => ErrorCode::UNRECOVERABLE_POSITION,
        Reason::NotPrimary | Reason::Stale | Reason::OtherGeneration | Reason::Nothing | Reason::Unspecified => {
            ErrorCode::INTERNAL
        }
    }
}
