//! The publishes of one slot that are not answered yet. Pure.
//!
//! Numbered 1, 2, 3 ... per slot and router process. A publish is sent again to the next primary, under its number and in the
//! generation it was first sent in, until it is answered or its time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomring_control::clock::Time;
use roomring_proto::close::ErrorCode;
use roomring_proto::{Epoch, Generation, RoomId, Seq, SlotId, v1};
use v1::refusal::Reason;

use super::api::{Client, Position, Published, ToClient, Told};
use super::queue::Pushed;
use super::rules::{Rule, Rules};
use crate::namespaces::Namespaces;

/// Most unanswered publishes of a slot. At a busy slot's 10,000 a second it is what comes in during a failover.
const COUNT: usize = 4_096;

/// Most bytes of payload in unanswered publishes of a slot.
const BYTES: usize = 8 << 20;

/// The unanswered publishes of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Publishes {
    slot: SlotId,
    namespaces: Arc<Namespaces>,
    deadline: Duration,
    last_number: u64,
    bytes: usize,
    waiting: BTreeMap<u64, Waiting>,
    /// Acknowledged ones that the business server is told of.
    told: Vec<Told>,
    rules: Rules,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    request: u32,
    room: RoomId,
    client: Arc<Client>,
    data: Bytes,
    id: String,
    due: Time,
    /// Generation it was first sent in.
    generation: Option<Generation>,
    /// How often it was sent to a primary that may have it in its log: 0 = it is in none.
    sent: u32,
}

/// What an answer means for the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The publish is answered, or nobody waited for it.
    Settled,
    /// The node cannot serve the slot: the publish goes to the next primary.
    Elsewhere,
}

impl Publishes {
    pub(super) fn new(slot: SlotId, deadline: Duration, namespaces: Arc<Namespaces>) -> Self {
        Self {
            slot,
            namespaces,
            deadline,
            last_number: 0,
            bytes: 0,
            waiting: BTreeMap::new(),
            told: Vec::new(),
            rules: Rules::default(),
        }
    }

    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a publish under the next number; refuses it right away when too much waits.
    pub(super) fn take(
        &mut self,
        now: Time,
        request: u32,
        room: RoomId,
        client: Arc<Client>,
        data: Bytes,
        id: String,
    ) -> Option<u64> {
        if self.waiting.len() >= COUNT || self.bytes + data.len() > BYTES {
            client.queue.push(ToClient::Published { request, result: Err(ErrorCode::TOO_MANY_REQUESTS) });
            return None;
        }
        self.last_number += 1;
        self.bytes += data.len();
        let due = now + self.deadline;
        let publish = Waiting { request, room, client, data, id, due, generation: None, sent: 0 };
        self.waiting.insert(self.last_number, publish);
        Some(self.last_number)
    }

    /// The message that sends `number` to the primary of `generation`; `None` if it is answered.
    pub(super) fn send(&mut self, number: u64, generation: Generation) -> Option<v1::Publish> {
        let settled_below = self.settled_below();
        let publish = self.waiting.get_mut(&number)?;
        let first_sent_in = publish.generation.map_or(0, |g| g.0);
        publish.generation.get_or_insert(generation);
        publish.sent += 1;
        Some(v1::Publish {
            slot: self.slot.0,
            room: publish.room.as_str().to_owned(),
            number,
            settled_below,
            generation: first_sent_in,
            data: publish.data.clone(),
            info: (!publish.client.id.is_empty()).then(|| info(&publish.client)),
            id: publish.id.clone(),
            keeps: self.namespaces.keeps(&publish.room).map(Box::new),
        })
    }

    /// Everything unanswered once more, in its order: the slot was attached again.
    pub(super) fn send_again(&mut self, generation: Generation) -> Vec<v1::Publish> {
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.send(number, generation)).collect()
    }

    /// A node's answer. Who is to be flushed for it is added to `owed`.
    pub(super) fn answered(&mut self, answer: v1::Published, owed: &mut Vec<Arc<Client>>) -> Verdict {
        let Some(publish) = self.waiting.get_mut(&answer.number) else { return Verdict::Settled };
        let Some(refusal) = answer.refused else {
            // Without its epoch an answer says that it was taken, not where: that is no acknowledgement.
            let result = answer.epoch.map(Epoch::from).ok_or(ErrorCode::OUTCOME_UNKNOWN).map(|epoch| Published {
                position: Position { epoch, seq: Seq(answer.seq) },
                duplicate: answer.duplicate,
            });
            self.settle(answer.number, result, owed);
            return Verdict::Settled;
        };
        // A refusal speaks of this sending only: one that was sent before may be in a log all the same.
        let never_taken = publish.sent == 1 || !self.rules.keep(Rule::UnknownOnceSent);
        let error = match refusal.reason() {
            Reason::NotPrimary => {
                if never_taken {
                    publish.sent = 0;
                    publish.generation = None;
                }
                return Verdict::Elsewhere;
            }
            Reason::Stale => return Verdict::Elsewhere,
            Reason::Limit if never_taken => ErrorCode::LIMIT_EXCEEDED,
            Reason::Busy if never_taken => ErrorCode::TOO_MANY_REQUESTS,
            Reason::BadRequest if never_taken => ErrorCode::BAD_REQUEST,
            Reason::Limit
            | Reason::Busy
            | Reason::BadRequest
            | Reason::OtherGeneration
            | Reason::UnknownEpoch
            | Reason::Unspecified => ErrorCode::OUTCOME_UNKNOWN,
        };
        self.settle(answer.number, Err(error), owed);
        Verdict::Settled
    }

    /// Fails what is out of time. `owed` as in [`Self::answered`].
    pub(super) fn expire(&mut self, now: Time, owed: &mut Vec<Arc<Client>>) {
        while let Some((&number, publish)) = self.waiting.first_key_value() {
            if publish.due > now {
                break;
            }
            let error = publish.failure();
            self.settle(number, Err(error), owed);
        }
    }

    /// Fails everything: the cluster's placement began anew, and what these were sent to is gone. `owed` as in
    /// [`Self::answered`].
    pub(super) fn fail_all(&mut self, owed: &mut Vec<Arc<Client>>) {
        while let Some((&number, publish)) = self.waiting.first_key_value() {
            let error = publish.failure();
            self.settle(number, Err(error), owed);
        }
    }

    /// Takes what the business server is to be told.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.waiting.first_key_value().map(|(_, publish)| publish.due)
    }

    /// Every number up to this one is answered, and never sent again.
    fn settled_below(&self) -> u64 {
        self.waiting.first_key_value().map_or(self.last_number, |(first, _)| first - 1)
    }

    fn settle(&mut self, number: u64, result: Result<Published, ErrorCode>, owed: &mut Vec<Arc<Client>>) {
        let Some(publish) = self.waiting.remove(&number) else { return };
        self.bytes -= publish.data.len();
        // Under an id that was seen before it is no news, and what the business server publishes it knows.
        if let Ok(Published { position, duplicate: false }) = result
            && !publish.client.id.is_empty()
            && self.namespaces.tells_of_publishes(&publish.room)
        {
            self.told.push(Told {
                slot: self.slot,
                room: publish.room,
                client: publish.client.clone(),
                data: publish.data,
                id: publish.id,
                position,
            });
        }
        if publish.client.queue.answer(publish.request, result) == Pushed::Owed {
            owed.push(publish.client);
        }
    }
}

impl Waiting {
    fn failure(&self) -> ErrorCode {
        if self.sent > 0 { ErrorCode::OUTCOME_UNKNOWN } else { ErrorCode::INTERNAL }
    }
}

/// How a client is shown to others.
pub(super) fn info(client: &Client) -> v1::ClientInfo {
    v1::ClientInfo {
        user: client.user.clone(),
        client: client.id.clone(),
        conn_info: client.conn_info.clone(),
        chan_info: Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answers, client};
    use super::*;

    const G1: Generation = Generation(1);

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    fn publishes() -> (Publishes, Arc<Client>) {
        (Publishes::new(SlotId(5), Duration::from_secs(4), Arc::default()), client("c"))
    }

    fn take(p: &mut Publishes, client: &Arc<Client>, request: u32) -> u64 {
        let room = RoomId::new("r").unwrap();
        p.take(at(0), request, room, client.clone(), Bytes::from_static(b"1"), String::new()).unwrap()
    }

    fn refused(number: u64, reason: Reason) -> v1::Published {
        let refused = Some(v1::Refusal { reason: reason.into(), text: String::new() });
        v1::Published { slot: 5, number, refused, ..Default::default() }
    }

    fn done(number: u64, seq: u64) -> v1::Published {
        let epoch = Some(v1::Epoch { uid: 1, generation: 1, created: 1 });
        v1::Published { slot: 5, number, epoch, seq, ..Default::default() }
    }

    fn errors(client: &Client) -> Vec<(u32, Option<u32>)> {
        answers(client)
            .into_iter()
            .map(|m| match m {
                ToClient::Published { request, result } => (request, result.err().map(|e| e.code)),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn numbers_rise_and_what_is_settled_is_told() {
        let (mut p, c) = publishes();
        for request in 1..=3 {
            take(&mut p, &c, request);
        }
        let sent: Vec<_> = (1..=3).map(|n| p.send(n, G1).unwrap()).collect();
        assert!(sent.iter().all(|s| s.settled_below == 0 && s.generation == 0));
        p.answered(done(2, 1), &mut Vec::new());
        assert_eq!(p.send_again(G1).iter().map(|s| (s.number, s.settled_below)).collect::<Vec<_>>(), [(1, 0), (3, 0)]);
        p.answered(done(1, 2), &mut Vec::new());
        assert_eq!(
            p.send_again(Generation(2)).iter().map(|s| (s.settled_below, s.generation)).collect::<Vec<_>>(),
            [(2, 1)]
        );
        p.answered(done(3, 3), &mut Vec::new());
        take(&mut p, &c, 4);
        assert_eq!(p.send(4, G1).unwrap().settled_below, 3);
        assert_eq!(errors(&c), [(2, None), (1, None), (3, None)]);
    }

    #[test]
    fn out_of_time_it_says_whether_it_may_have_been_taken() {
        let (mut p, c) = publishes();
        for request in 1..=3 {
            take(&mut p, &c, request);
        }
        p.send(1, G1);
        p.send(2, G1);
        assert_eq!(p.answered(refused(2, Reason::NotPrimary), &mut Vec::new()), Verdict::Elsewhere);
        let again = p.send(2, Generation(2)).unwrap();
        assert_eq!(again.generation, 0, "no generation has it");
        assert_eq!(p.answered(refused(2, Reason::NotPrimary), &mut Vec::new()), Verdict::Elsewhere);
        p.expire(at(3_999), &mut Vec::new());
        assert_eq!(errors(&c), []);
        p.expire(at(4_000), &mut Vec::new());
        assert_eq!(errors(&c), [(1, Some(1000)), (2, Some(100)), (3, Some(100))]);
        assert!(p.is_empty() && p.bytes == 0);
        // An answer that comes too late changes nothing, and nothing is sent again.
        assert_eq!(p.answered(done(1, 1), &mut Vec::new()), Verdict::Settled);
        assert_eq!(p.send(1, G1), None);
    }

    #[test]
    fn a_refusal_is_final_only_if_nobody_else_was_asked() {
        for (reason, code) in
            [(Reason::Limit, 106), (Reason::Busy, 111), (Reason::BadRequest, 107), (Reason::OtherGeneration, 1000)]
        {
            let (mut p, c) = publishes();
            let number = take(&mut p, &c, 1);
            p.send(number, G1);
            p.answered(refused(number, reason), &mut Vec::new());
            assert_eq!(errors(&c), [(1, Some(code))]);
            let number = take(&mut p, &c, 2);
            p.send(number, G1);
            p.send(number, G1);
            p.answered(refused(number, reason), &mut Vec::new());
            assert_eq!(errors(&c), [(2, Some(1000))]);
        }
        let (mut p, c) = publishes();
        let number = take(&mut p, &c, 1);
        p.send(number, G1);
        p.send(number, G1);
        p.answered(refused(number, Reason::NotPrimary), &mut Vec::new());
        p.fail_all(&mut Vec::new());
        assert_eq!(errors(&c), [(1, Some(1000))], "the first primary may have it");
    }

    #[test]
    fn too_many_are_refused_at_once() {
        let (mut p, c) = publishes();
        for request in 0..COUNT {
            take(&mut p, &c, u32::try_from(request).unwrap());
        }
        let room = RoomId::new("r").unwrap();
        assert_eq!(p.take(at(0), 9, room.clone(), c.clone(), Bytes::new(), String::new()), None);
        assert_eq!(errors(&c), [(9, Some(111))]);
        p.fail_all(&mut Vec::new());
        errors(&c);
        let big = Bytes::from(vec![b'1'; BYTES]);
        assert!(p.take(at(0), 1, room.clone(), c.clone(), big.clone(), String::new()).is_some());
        assert_eq!(p.take(at(0), 2, room, c.clone(), big, String::new()), None);
        assert_eq!(errors(&c), [(2, Some(111))]);
    }
}
