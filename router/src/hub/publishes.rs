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
use v1::router_message::Kind;

use super::api::{Client, Position, Published, Retracts, ToClient, Told};
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

/// What a client wants published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    pub(super) request: u32,
    pub(super) room: RoomId,
    pub(super) client: Arc<Client>,
    pub(super) data: Bytes,
    pub(super) id: String,
    /// It takes back what was published.
    pub(super) retracts: Option<Retracts>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    wanted: Wanted,
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
    pub(super) fn take(&mut self, now: Time, wanted: Wanted) -> Option<u64> {
        if self.waiting.len() >= COUNT || self.bytes + wanted.data.len() > BYTES {
            let Wanted { request, client, retracts, .. } = wanted;
            let error = ErrorCode::TOO_MANY_REQUESTS;
            client.queue.push(match retracts {
                None => ToClient::Published { request, result: Err(error) },
                Some(_) => ToClient::Retracted { request, result: Err(error) },
            });
            return None;
        }
        self.last_number += 1;
        self.bytes += wanted.data.len();
        self.waiting.insert(self.last_number, Waiting { wanted, due: now + self.deadline, generation: None, sent: 0 });
        Some(self.last_number)
    }

    /// The message that sends `number` to the primary of `generation`; `None` if it is answered.
    pub(super) fn send(&mut self, number: u64, generation: Generation) -> Option<Kind> {
        let settled_below = self.settled_below();
        let waiting = self.waiting.get_mut(&number)?;
        let first_sent_in = waiting.generation.map_or(0, |g| g.0);
        waiting.generation.get_or_insert(generation);
        waiting.sent += 1;
        let wanted = &waiting.wanted;
        let publish = v1::Publish {
            slot: self.slot.0,
            room: wanted.room.as_str().to_owned(),
            number,
            settled_below,
            generation: first_sent_in,
            data: wanted.data.clone(),
            info: author(&wanted.client),
            id: wanted.id.clone(),
            keeps: self.namespaces.keeps(&wanted.room).map(Box::new),
        };
        let Some(retracts) = wanted.retracts else { return Some(Kind::Publish(publish)) };
        let (seq, epoch) = match retracts {
            Retracts::One { seq, epoch } => (seq.0, epoch.map(Into::into)),
            Retracts::All => (0, None),
        };
        Some(Kind::Retract(Box::new(v1::Retract { publish: Some(publish), seq, epoch })))
    }

    /// Everything unanswered once more, in its order: the slot was attached again.
    pub(super) fn send_again(&mut self, generation: Generation) -> Vec<Kind> {
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.send(number, generation)).collect()
    }

    /// When a publish that is not answered yet was taken.
    pub(super) fn taken_at(&self, number: u64) -> Option<Time> {
        Some(Time(self.waiting.get(&number)?.due.0.saturating_sub(self.deadline)))
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
            self.settle(answer.number, result.map(Some), owed);
            return Verdict::Settled;
        };
        // A refusal speaks of this sending only: one that was sent before may be in a log all the same.
        let never_taken = publish.sent == 1 || !self.rules.keep(Rule::UnknownOnceSent);
        let retracts = publish.wanted.retracts.is_some();
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
            Reason::UnknownEpoch if never_taken && retracts => ErrorCode::UNRECOVERABLE_POSITION,
            Reason::Nothing if never_taken && retracts => {
                self.settle(answer.number, Ok(None), owed);
                return Verdict::Settled;
            }
            Reason::Limit
            | Reason::Busy
            | Reason::BadRequest
            | Reason::OtherGeneration
            | Reason::UnknownEpoch
            | Reason::Nothing
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

    /// `Ok(None)`: there was nothing to take back.
    fn settle(&mut self, number: u64, result: Result<Option<Published>, ErrorCode>, owed: &mut Vec<Arc<Client>>) {
        let Some(Waiting { wanted: publish, .. }) = self.waiting.remove(&number) else { return };
        self.bytes -= publish.data.len();
        if publish.retracts.is_some() {
            let result = result.map(|place| place.map(|p| p.position));
            if publish.client.queue.push(ToClient::Retracted { request: publish.request, result }) == Pushed::Owed {
                owed.push(publish.client);
            }
            return;
        }
        let result = result.and_then(|place| place.ok_or(ErrorCode::OUTCOME_UNKNOWN));
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
/// Who publishes; nobody for a server.
fn author(client: &Client) -> Bytes {
    if client.id.is_empty() { Bytes::new() } else { info(client).packed() }
}

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
        p.take(at(0), wanted(client, request, Bytes::from_static(b"1"))).unwrap()
    }

    fn wanted(client: &Arc<Client>, request: u32, data: Bytes) -> Wanted {
        let (room, client) = (RoomId::new("r").unwrap(), client.clone());
        Wanted { request, room, client, data, id: String::new(), retracts: None }
    }

    fn publish(sent: Option<Kind>) -> v1::Publish {
        let Some(Kind::Publish(publish)) = sent else { panic!("{sent:?}") };
        publish
    }

    fn again(p: &mut Publishes, generation: Generation) -> Vec<v1::Publish> {
        p.send_again(generation).into_iter().map(|kind| publish(Some(kind))).collect()
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
        let sent: Vec<_> = (1..=3).map(|n| publish(p.send(n, G1))).collect();
        assert!(sent.iter().all(|s| s.settled_below == 0 && s.generation == 0));
        p.answered(done(2, 1), &mut Vec::new());
        assert_eq!(again(&mut p, G1).iter().map(|s| (s.number, s.settled_below)).collect::<Vec<_>>(), [(1, 0), (3, 0)]);
        p.answered(done(1, 2), &mut Vec::new());
        assert_eq!(
            again(&mut p, Generation(2)).iter().map(|s| (s.settled_below, s.generation)).collect::<Vec<_>>(),
            [(2, 1)]
        );
        p.answered(done(3, 3), &mut Vec::new());
        take(&mut p, &c, 4);
        assert_eq!(publish(p.send(4, G1)).settled_below, 3);
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
        let again = publish(p.send(2, Generation(2)));
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
        assert_eq!(p.take(at(0), wanted(&c, 9, Bytes::new())), None);
        assert_eq!(errors(&c), [(9, Some(111))]);
        p.fail_all(&mut Vec::new());
        errors(&c);
        let big = Bytes::from(vec![b'1'; BYTES]);
        assert!(p.take(at(0), wanted(&c, 1, big.clone())).is_some());
        assert_eq!(p.take(at(0), wanted(&c, 2, big.clone())), None);
        assert_eq!(errors(&c), [(2, Some(111))]);
        assert_eq!(p.take(at(0), Wanted { retracts: Some(Retracts::All), ..wanted(&c, 3, big) }), None);
        assert_eq!(retracted(&c), [(3, Err(111))]);
    }

    fn retracted(client: &Client) -> Vec<(u32, Result<Option<u64>, u32>)> {
        answers(client)
            .into_iter()
            .map(|m| match m {
                ToClient::Retracted { request, result } => {
                    (request, result.map(|place| place.map(|p| p.seq.0)).map_err(|e| e.code))
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_retraction_is_numbered_sent_again_and_answered_as_a_publish_is() {
        let (mut p, c) = publishes();
        let epoch = Epoch { uid: roomring_proto::Uid(1), generation: G1, created: roomring_proto::Lsn(1) };
        let ask = |p: &mut Publishes, request, retracts| {
            let retracts = Some(retracts);
            p.take(at(0), Wanted { retracts, ..wanted(&c, request, Bytes::from_static(b"{}")) }).unwrap()
        };
        let one = Retracts::One { seq: Seq(7), epoch: Some(epoch) };
        let number = ask(&mut p, 1, one);
        let sent = |kind| match kind {
            Some(Kind::Retract(r)) => (r.publish.unwrap().number, r.seq, r.epoch.map(Epoch::from)),
            other => panic!("{other:?}"),
        };
        assert_eq!(sent(p.send(number, G1)), (1, 7, Some(epoch)));
        assert_eq!(p.answered(refused(1, Reason::NotPrimary), &mut Vec::new()), Verdict::Elsewhere);
        assert_eq!(sent(p.send_again(G1).pop()), (1, 7, Some(epoch)));
        p.answered(done(1, 9), &mut Vec::new());
        let all = ask(&mut p, 2, Retracts::All);
        assert_eq!(sent(p.send(all, G1)), (2, 0, None));
        p.answered(refused(2, Reason::Nothing), &mut Vec::new());
        // One that was sent before may be in a log: whether there was something is not known.
        for (request, sent, reason) in
            [(3, 1, Reason::UnknownEpoch), (4, 2, Reason::UnknownEpoch), (5, 2, Reason::Nothing), (6, 1, Reason::Busy)]
        {
            let number = ask(&mut p, request, one);
            (0..sent).for_each(|_| _ = p.send(number, G1));
            p.answered(refused(number, reason), &mut Vec::new());
        }
        let unknown = Err(1000);
        let expected = [(1, Ok(Some(9))), (2, Ok(None)), (3, Err(112)), (4, unknown), (5, unknown), (6, Err(111))];
        assert_eq!(retracted(&c), expected);
        assert!(p.is_empty() && p.told().is_empty());
        // It means nothing in answer to a publish.
        let number = take(&mut p, &c, 7);
        p.send(number, G1);
        p.answered(refused(number, Reason::Nothing), &mut Vec::new());
        assert_eq!(errors(&c), [(7, Some(1000))]);
    }
}
